# SPDX-License-Identifier: Apache-2.0
"""One stage of a run, from its initial (or restored) state to its final."""

import dataclasses
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np

from srdl_jax import parallel
from srdl_jax.errors import CheckpointError, NonFiniteLossError
from srdl_jax.evaluate import evaluate
from srdl_jax.experiment import BoundStage, Experiment, Purpose
from srdl_jax.feed import Feed, open_feed
from srdl_jax.knowledge import Knowledge
from srdl_jax.runs import environment, processes
from srdl_jax.runs.checkpoint import Checkpoints, Moment, digest
from srdl_jax.runs.log import RunLog
from srdl_jax.runs.progress import Stopwatch
from srdl_jax.runs.record import Record
from srdl_jax.runs.stop_request import StopRequest
from srdl_jax.train_state import TrainState

SECONDS_BETWEEN_SHOWS = 1.0


def train(
  experiment: Experiment,
  stage: BoundStage,
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
    knowledge: of the stage's teacher, or None for labels alone.
    checkpoints: of the stage; the latest intact one is gone on from, one of
      another run or teacher is refused.
    profile_to: directory for a trace of a few steps, or None.

  Raises:
    CheckpointError: the checkpoints there are all damaged, another run's, or
      not the same for all processes.
    NonFiniteLossError: a loss or a parameter isn't; a checkpoint is good.
    Interrupted: `stop` asked for it; all is saved.
  """
  lineage = stage.lineage(knowledge.teacher.checkpoint if knowledge else None)
  moment = checkpoints.load_latest(on_damaged=lambda e: log.event(f'{e}'))
  _refuse_foreign(moment, lineage)
  if moment is not None and moment.step == stage.end_step:
    log.event(f'Stage {stage.number} is finished.')
    # Of an earlier stage the lines may have been set aside, and said, since.
    is_last = stage.end_step == experiment.total_steps
    vouched = moment.record.log if is_last else None
    log.rewind(stage.number, moment.step, vouched)
    return moment
  state, record = stage.initial_state(previous), Record(lineage)
  if moment is not None:
    state = state.restored(moment.state)
    record = moment.record
    log.event(f'Stage {stage.number} goes on from step {moment.step}.')
  step = int(state.step)
  if changed := record.note_session(experiment.environment, step):
    log.event(changed)
  loop = _Loop(
    experiment=experiment,
    stage=stage,
    step=step,
    state=parallel.replicate(state, experiment.devices),
    feed=open_feed(experiment, stage, knowledge, step - stage.first_step),
    record=record,
    checkpoints=checkpoints,
    log=log,
    stop=stop,
    watch=Stopwatch(*record.epoch),
  )
  before = moment or previous
  log.rewind(stage.number, step, before and before.record.log)
  log.event(f'Stage {stage.number}: compiling; the first step takes a while.')
  with loop.feed, environment.a_few_steps(profile_to) as tick:
    return loop.run(tick)


def _refuse_foreign(moment: Moment | None, lineage) -> None:
  """Checks that all processes go on from one moment, and that it is ours."""
  if not processes.all_have(moment and digest(moment.state) or ''):
    raise CheckpointError(
      f'Stage {lineage["stage"]}: the processes read different checkpoints; '
      'look at the file system, and run the same command again.'
    )
  if moment is not None:
    moment.record.refuse_foreign(moment.step, lineage)


@dataclasses.dataclass
class _Loop:
  """The running stage; `step` counts what has been dispatched."""

  experiment: Experiment
  stage: BoundStage
  step: int
  state: TrainState
  feed: Feed
  record: Record
  checkpoints: Checkpoints
  log: RunLog
  stop: StopRequest
  watch: Stopwatch

  def run(self, tick: Callable[[], None]) -> Moment:
    """Trains what is left; `tick` is called after each dispatch."""
    done = self.step - self.stage.first_step
    first, offset = divmod(done, self.stage.drawn.steps)
    for epoch in range(first, self.stage.plan.epochs):
      self._epoch(epoch, offset, tick)
      offset = 0
      moment = self._finish_epoch(epoch)
      self._show()
    self.checkpoints.wait()
    return moment

  def _epoch(self, epoch: int, offset: int, tick) -> None:
    """Trains the epoch's steps from `offset` on."""
    steps = self.stage.drawn.steps
    key = parallel.replicate(
      self.stage.key(Purpose.AUGMENT, epoch), self.experiment.devices
    )
    size = self.experiment.steps_per_dispatch
    pending = None
    if offset == 0:
      self.watch.new_epoch()
    self.watch.start()
    while offset < steps:
      # The grid of dispatches is a function of the epoch, not of the resume.
      end = min(steps, (offset // size + 1) * size)
      self.state, metrics = self.stage.train_chunk(
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
        self.watch.start()
      elif end < steps and self.watch.steps:
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
    self.record.seconds['train'] += self.watch.stop()
    self.record.epoch = [self.watch.seconds, self.watch.steps]

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
      stage=self.stage.number,
      epoch=epoch + 1,
      first_step=before + 1,
      metrics=metrics,
    )
    self.record.add_steps(metrics)
    self.watch.count(len(metrics['loss']))

  def _diverged(self, what: str, step: int) -> None:
    self.checkpoints.wait()
    epoch = (step - 1) // self.stage.drawn.steps + 1
    raise NonFiniteLossError(
      f'Training diverged: {what} in stage {self.stage.number}, epoch {epoch} '
      f'of the run, step {step}. The last good checkpoint is kept. Lower '
      'optimiser.learning_rate, in another workdir, or look at the data.'
    )

  def _finish_epoch(self, epoch: int) -> Moment | None:
    """Records the epoch's means, evaluates and saves where it is due."""
    config = self.experiment.config
    last = epoch + 1 == self.stage.plan.epochs
    place = {'stage': self.stage.number, 'epoch': epoch + 1, 'step': self.step}
    means = self.record.close_epoch(config.batch_size)
    self.log.evaluation(**place, split='train_epoch', metrics=means)
    best, score = self.record.best, None
    if last or (epoch + 1) % config.eval.every_epochs == 0:
      score = self._evaluate(place)
    due = (epoch + 1) % config.checkpoint.every_epochs == 0
    if not (last or due or self.stop or self.record.best is not best):
      return None
    moment = self._save(score)
    if not (last and self.stage.number == len(self.experiment.stages)):
      self._end_if_asked()
    return moment

  def _evaluate(self, place: dict[str, int]) -> float:
    begun = time.monotonic()
    split = self.experiment.selection_split
    result = self.stage.source.result(self.state.memory, self.state.variables)
    variables = {self.stage.number: result}
    metrics = evaluate([(self.experiment, variables)], split)
    self.record.seconds['evaluate'] += time.monotonic() - begun
    if not np.isfinite(list(metrics.values())).all():
      self._diverged(f'predictions of the {split} split', self.step)
    self.log.evaluation(**place, split=split, metrics=metrics)
    record = {'split': split, **place, **metrics}
    self.record.evaluation = record
    score = self.experiment.score
    if metrics[score] > self.record.best.get(score, -1.0):
      self.record.best = record
    return metrics[score]

  def _save(self, score: float | None) -> Moment:
    state = parallel.to_host(self.state)
    # A gradient can overflow where the loss did not.
    # Of what a source remembers, NaN is what it doesn't know yet.
    known = state.replace(memory={})
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(known)):
      self._diverged('a parameter is not finite', self.step)
    self.log.settle()
    self.record.log = self.log.state
    moment = Moment(
      step=self.step,
      state=state.saved(),
      progress=dataclasses.asdict(self.record),
    )
    self.checkpoints.save(moment, score=score)
    return moment

  def _end_if_asked(self) -> None:
    if self.stop:
      self.checkpoints.wait()
      self.stop.end_if_asked(f'in stage {self.stage.number}, step {self.step}')

  def _show(self, at_most_every: float = 0.0) -> None:
    """Tells how far the run is, its speed, and what is left."""
    if not self.watch.due(at_most_every):
      return
    experiment, record = self.experiment, self.record
    speed = self.watch.steps_per_second() * experiment.config.batch_size
    self.log.progress(
      stage=self.stage.number,
      stages=len(experiment.stages),
      epoch=self.step / experiment.steps_per_epoch,
      epochs=experiment.total_steps // experiment.steps_per_epoch,
      images_per_second=speed,
      seconds_left=self.watch.seconds_left(experiment.total_steps - self.step),
      **record.shown(experiment.score),
    )
