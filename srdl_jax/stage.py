# SPDX-License-Identifier: Apache-2.0
"""One stage of a run, from its initial (or restored) state to its final."""

import copy
import dataclasses
import pathlib
import time
from typing import Any

import flax
import jax
import numpy as np

from srdl_jax import parallel
from srdl_jax.errors import CheckpointError, NonFiniteLossError
from srdl_jax.evaluate import evaluate
from srdl_jax.experiment import Experiment, Purpose, key_for
from srdl_jax.feed import Feed, open_feed
from srdl_jax.knowledge import Knowledge
from srdl_jax.runs import environment, processes
from srdl_jax.runs import record as stage_record
from srdl_jax.runs.checkpoint import Checkpoints, Moment, digest
from srdl_jax.runs.log import RunLog
from srdl_jax.runs.progress import Pace
from srdl_jax.runs.stop_request import StopRequest
from srdl_jax.train_state import TrainState

SECONDS_BETWEEN_SHOWS = 1.0


def train(
  experiment: Experiment,
  number: int,
  *,
  previous: Moment | None,
  knowledge: Knowledge | None,
  checkpoints: Checkpoints,
  log: RunLog,
  stop: StopRequest,
  profile_to: pathlib.Path | None = None,
) -> Moment:
  """Trains a stage, or what is left of it, and returns its end.

  Args:
    experiment: of the run.
    number: of the stage, from 1.
    previous: the end of the stage before, if any.
    knowledge: of the stage's teacher, or None for labels alone.
    checkpoints: of the stage; the latest intact one is gone on from, one of
      another run or teacher is refused.
    log: of the run.
    stop: whether to save and end early.
    profile_to: directory for a trace of a few steps, or None.

  Raises:
    CheckpointError: the checkpoints there are all damaged, another run's, or
      not the same for all processes.
    NonFiniteLossError: a loss or a parameter isn't; a checkpoint is good.
    Interrupted: `stop` asked for it; all is saved.
  """
  lineage = experiment.lineage(
    number, knowledge.checkpoint if knowledge else None
  )
  moment = checkpoints.load_latest(on_damaged=lambda e: log.event(f'{e}'))
  if not processes.all_have(moment and digest(moment.state) or ''):
    raise CheckpointError(
      f'Stage {number}: the processes read different checkpoints; look at the '
      'file system, and run the same command again.'
    )
  if moment is not None:
    stage_record.refuse_foreign(moment, lineage, number)
    if moment.step == experiment.first_step(number + 1):
      log.event(f'Stage {number} is finished.')
      return moment
  state = experiment.initial_state(number, previous)
  progress = stage_record.new(lineage)
  if moment is not None:
    state = flax.serialization.from_state_dict(state, moment.state)
    progress = moment.progress
    log.event(f'Stage {number} goes on from step {moment.step}.')
  if changed := stage_record.note_session(
    progress, experiment.environment, int(state.step)
  ):
    log.event(changed)
  first = experiment.first_step(number)
  loop = _Loop(
    experiment=experiment,
    number=number,
    step=int(state.step),
    state=parallel.replicate(state, experiment.devices),
    feed=open_feed(experiment, number, knowledge, int(state.step) - first),
    progress=progress,
    checkpoints=checkpoints,
    log=log,
    stop=stop,
    profile_to=profile_to,
    pace=Pace(*progress['epoch']),
  )
  log.rewind(number, loop.step)
  log.event(f'Stage {number}: compiling; the first step takes a while.')
  with loop.feed:
    return loop.run()


@dataclasses.dataclass
class _Loop:
  """The running stage; `step` counts what has been dispatched."""

  experiment: Experiment
  number: int
  step: int
  state: TrainState
  feed: Feed
  progress: dict[str, Any]
  checkpoints: Checkpoints
  log: RunLog
  stop: StopRequest
  profile_to: pathlib.Path | None
  pace: Pace

  @property
  def epochs(self) -> int:
    """Epochs of the stage."""
    return self.experiment.stages[self.number - 1].epochs

  def run(self) -> Moment:
    done = self.step - self.experiment.first_step(self.number)
    first, offset = divmod(done, self.experiment.steps_per_epoch)
    profile_to = self.profile_to if processes.is_first() else None
    with environment.a_few_steps(profile_to) as tick:
      for epoch in range(first, self.epochs):
        self._epoch(epoch, offset, tick)
        offset = 0
        moment = self._finish_epoch(epoch)
        self._show()
    self.checkpoints.wait()
    return moment

  def _epoch(self, epoch: int, offset: int, tick) -> None:
    """Trains the epoch's steps from `offset` on."""
    config = self.experiment.config
    steps = self.experiment.steps_per_epoch
    key = parallel.replicate(
      key_for(config.seed, Purpose.AUGMENT, self.number, epoch),
      self.experiment.devices,
    )
    size = self.experiment.steps_per_dispatch
    pending = None
    if offset == 0:
      self.pace.new_epoch()
    self.pace.start()
    while offset < steps:
      # The grid of dispatches is a function of the epoch, not of the resume.
      end = min(steps, (offset // size + 1) * size)
      self.state, metrics = self.experiment.train_chunk(self.number)(
        self.state,
        self.feed.resident,
        self.feed.examples(epoch, offset, end),
        key,
      )
      tick()
      # The device works on this chunk while the one before is read.
      self._read(epoch, pending)
      pending = (self.step, metrics, self._ask())
      self.step += end - offset
      if end < steps and (self.stop or self._due_within_epoch(offset, end)):
        self._read(epoch, pending)
        pending = None
        self._pause()
        self._save(score=None)
        self._end_if_asked()
        self.pace.start()
      elif end < steps and self.pace.steps:
        self._show(at_most_every=SECONDS_BETWEEN_SHOWS)
      offset = end
    self._read(epoch, pending)
    self._pause()

  def _ask(self) -> jax.Array | None:
    # The answer is read with the metrics, so that all act on the same step.
    if not processes.several():
      return None
    return parallel.any_process(self.stop.heard, self.experiment.devices)

  def _due_within_epoch(self, begin: int, end: int) -> bool:
    every = self.experiment.config.checkpoint.every_steps
    return every > 0 and begin // every < end // every

  def _pause(self) -> None:
    self.progress['seconds']['train'] += self.pace.stop()
    self.progress['epoch'] = [self.pace.seconds, self.pace.steps]

  def _read(self, epoch: int, pending) -> None:
    """Waits for a chunk's metrics, checks and records them."""
    if pending is None:
      return
    before, metrics, asked = pending
    metrics = parallel.to_host(metrics)
    if asked is not None:
      self.stop.agreed |= bool(np.asarray(asked))
    bad = np.flatnonzero(~np.isfinite(metrics['loss']))
    if len(bad):
      self._diverged(
        f'the loss became {metrics["loss"][bad[0]]}', before + bad[0] + 1
      )
    self.log.train_steps(
      stage=self.number,
      epoch=epoch + 1,
      first_step=before + 1,
      metrics=metrics,
    )
    stage_record.add_steps(self.progress, metrics)
    self.pace.count(len(metrics['loss']))

  def _diverged(self, what: str, step: int) -> None:
    self.checkpoints.wait()
    epoch = (step - 1) // self.experiment.steps_per_epoch + 1
    raise NonFiniteLossError(
      f'Training diverged: {what} in stage {self.number}, epoch {epoch} of the '
      f'run, step {step}. The last good checkpoint is kept. Lower '
      'optimiser.learning_rate, in another workdir, or look at the data.'
    )

  def _finish_epoch(self, epoch: int) -> Moment | None:
    """Records the epoch's means, evaluates and saves where it is due."""
    config = self.experiment.config
    last = epoch + 1 == self.epochs
    place = {'stage': self.number, 'epoch': epoch + 1, 'step': self.step}
    means = stage_record.close_epoch(self.progress, config.batch_size)
    self.log.evaluation(**place, split='train_epoch', metrics=means)
    best, score = self.progress['best'], None
    if last or (epoch + 1) % config.eval.every_epochs == 0:
      score = self._evaluate(place)
    due = (epoch + 1) % config.checkpoint.every_epochs == 0
    if not (last or due or self.stop or self.progress['best'] is not best):
      return None
    moment = self._save(score)
    if not (last and self.number == len(self.experiment.stages)):
      self._end_if_asked()
    return moment

  def _evaluate(self, place: dict[str, int]) -> float:
    begun = time.monotonic()
    split = self.experiment.selection_split
    metrics = evaluate(
      self.experiment, {self.number: self.state.variables}, split
    )
    self.progress['seconds']['evaluate'] += time.monotonic() - begun
    if not np.isfinite(list(metrics.values())).all():
      self._diverged(f'predictions of the {split} split', self.step)
    self.log.evaluation(**place, split=split, metrics=metrics)
    record = {'split': split, **place, **metrics}
    self.progress['evaluation'] = record
    score = self.experiment.score
    if metrics[score] > self.progress['best'].get(score, -1.0):
      self.progress['best'] = record
    return metrics[score]

  def _save(self, score: float | None) -> Moment:
    state = parallel.to_host(self.state)
    # A gradient can overflow where the loss did not.
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(state)):
      self._diverged('a parameter is not finite', self.step)
    moment = Moment(
      step=self.step,
      state=flax.serialization.to_state_dict(state),
      progress=copy.deepcopy(self.progress),
    )
    self.log.settle()
    self.checkpoints.save(moment, score=score)
    return moment

  def _end_if_asked(self) -> None:
    if self.stop:
      self.checkpoints.wait()
      self.stop.end_if_asked(f'in stage {self.number}, step {self.step}')

  def _show(self, at_most_every: float = 0.0) -> None:
    """Tells how far the run is, its speed, and what is left."""
    if not self.pace.due(at_most_every):
      return
    experiment, progress = self.experiment, self.progress
    total = experiment.first_step(len(experiment.stages) + 1)
    speed = self.pace.steps_per_second() * experiment.config.batch_size
    shown = {}
    if progress['sum_steps']:
      shown['loss'] = progress['sums']['loss'] / progress['sum_steps']
    elif progress['train']:
      shown['loss'] = progress['train']['loss']
    if evaluation := progress['evaluation']:
      score = experiment.score
      shown[f'{evaluation["split"]}_{score}'] = evaluation[score]
    self.log.progress(
      stage=self.number,
      stages=len(experiment.stages),
      epoch=self.step / experiment.steps_per_epoch,
      epochs=total // experiment.steps_per_epoch,
      images_per_second=speed,
      seconds_left=self.pace.seconds_left(total - self.step),
      **shown,
    )
