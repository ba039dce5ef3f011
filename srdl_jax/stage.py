# SPDX-License-Identifier: Apache-2.0
"""One stage of a run, from its initial (or restored) state to its final."""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from srdl_jax import board, parallel
from srdl_jax.errors import CheckpointError, NonFiniteLossError
from srdl_jax.evaluate import beside, evaluate
from srdl_jax.experiment import BoundStage, Experiment, Purpose
from srdl_jax.feed import Feed, open_feed
from srdl_jax.knowledge import Knowledge
from srdl_jax.runs import environment, processes
from srdl_jax.runs.checkpoint import Checkpoints, Moment, digest
from srdl_jax.runs.log import RunLog
from srdl_jax.runs.progress import Stopwatch
from srdl_jax.runs.record import Record
from srdl_jax.runs.saver import Saver
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
    evaluator=beside.create(experiment),
    record=record,
    saver=Saver(
      checkpoints,
      log,
      score=experiment.score,
      every_seconds=experiment.config.checkpoint.every_seconds,
    ),
    log=log,
    stop=stop,
    watch=Stopwatch(*record.epoch),
  )
  before = moment or previous
  log.rewind(stage.number, step, before and before.record.log)
  board.begin(log, experiment, stage, knowledge)
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
class _EpochEnd:
  """The end of an epoch that is dispatched, but not read.

  Attributes:
    state: a copy where another epoch is dispatched meanwhile.
    chunk: its last one, see `_Loop._read`.
    evaluation: what goes on on the devices, if anything does.
  """

  epoch: int
  step: int
  state: TrainState
  chunk: Any
  evaluation: beside.Begun | None = None


@dataclasses.dataclass
class _Loop:
  """The running stage; with an `evaluator`, an epoch's end is read while the
  next one is trained, and what is done, and in which order, is the same.

  Attributes:
    step: of what has been dispatched.
    end: of an epoch, still to be read.
    is_due: whether all processes know that a moment is, by the clock.
  """

  experiment: Experiment
  stage: BoundStage
  step: int
  state: TrainState
  feed: Feed
  evaluator: beside.Beside | None
  record: Record
  saver: Saver
  log: RunLog
  stop: StopRequest
  watch: Stopwatch
  end: _EpochEnd | None = None
  is_due: bool = False

  def run(self, tick: Callable[[], None]) -> Moment:
    """Trains what is left; `tick` is called after each dispatch."""
    done = self.step - self.stage.first_step
    first, offset = divmod(done, self.stage.drawn.steps)
    if offset == 0:
      self.watch.new_epoch()
    if self.evaluator is not None:
      # Compiles it, which is no time of training.
      self.evaluator.begin(self._variables(self.state)).wait()
    epochs = self.stage.plan.epochs
    for epoch in range(first, epochs):
      self._epoch(epoch, offset, tick)
      offset = 0
      if self.evaluator is None or epoch + 1 == epochs:
        moment = self._finish_epoch()
    self.saver.finish()
    return moment

  def _epoch(self, epoch: int, offset: int, tick) -> None:
    """Trains an epoch from `offset` on; reads the end of the one before, and
    all of this one but its end."""
    steps = self.stage.drawn.steps
    key = parallel.replicate(
      self.stage.key(Purpose.AUGMENT, epoch), self.experiment.devices
    )
    size = self.experiment.steps_per_dispatch
    pending = None
    if self.end is None:
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
      self.saver.go_on()
      if self.end is not None:
        self._finish_epoch()
      pending = (self.step, metrics, self._ask())
      self.step += end - offset
      if end < steps and (
        self.stop
        or (self.is_due and self.evaluator is None)
        or self._due_within_epoch(offset, end)
      ):
        self._read(epoch, pending)
        pending = None
        self._pause()
        self._save(self.state, self.step)
        self._end_if_asked(self.step)
        self.watch.start()
      elif end < steps and self.watch.steps:
        self._show(self.step, at_most_every=SECONDS_BETWEEN_SHOWS)
      offset = end
    self.end = self._look(epoch, pending)
    self.saver.go_on()

  def _look(self, epoch: int, pending) -> _EpochEnd:
    """Returns the epoch's end; begins to evaluate it where nobody waits."""
    if self.evaluator is None:
      return _EpochEnd(epoch, self.step, self.state, pending)
    end = _EpochEnd(epoch, self.step, beside.copied(self.state), pending)
    if self._is_evaluated(epoch):
      end.evaluation = self.evaluator.begin(self._variables(end.state))
    return end

  def _is_evaluated(self, epoch: int) -> bool:
    every = self.experiment.config.eval.every_epochs
    return epoch + 1 == self.stage.plan.epochs or (epoch + 1) % every == 0

  def _variables(self, state: TrainState) -> dict[int, Any]:
    result = self.stage.source.result(state.memory, state.variables)
    return {self.stage.number: result}

  def _ask(self) -> jax.Array | None:
    # The answer is read with the metrics, so that all act on the same step.
    if not processes.several():
      return None
    flags = self.stop.heard, processes.is_first() and self.saver.is_time()
    return processes.ask(flags, self.experiment.devices)

  def _due_within_epoch(self, begin: int, end: int) -> bool:
    every = self.experiment.config.checkpoint.every_steps
    return every > 0 and begin // every < end // every

  def _pause(self) -> None:
    self.record.seconds['train'] += self.watch.stop()
    self.record.epoch = [self.watch.seconds, self.watch.steps]

  def _read(self, epoch: int, chunk) -> None:
    """Waits for a chunk's metrics, checks and records them."""
    if chunk is None:
      return
    before, metrics, asked = chunk
    metrics = parallel.to_host(metrics)
    if asked is None:
      self.is_due = self.saver.is_time()
    else:
      stops, self.is_due = map(bool, np.asarray(asked))
      self.stop.agreed |= stops
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
    self.saver.finish()
    epoch = (step - 1) // self.stage.drawn.steps + 1
    raise NonFiniteLossError(
      f'Training diverged: {what} in stage {self.stage.number}, epoch {epoch} '
      f'of the run, step {step}. The last good checkpoint is kept. Lower '
      'optimiser.learning_rate, in another workdir, or look at the data.'
    )

  def _finish_epoch(self) -> Moment | None:
    """Reads the epoch's end, evaluates and saves it where that is due."""
    end, self.end = self.end, None
    self._read(end.epoch, end.chunk)
    self._pause()
    if self.evaluator is not None:
      # What follows goes on while the devices train.
      if end.evaluation is not None:
        self.record.seconds['evaluate'] += end.evaluation.wait()
      self.watch.start()
    config, epoch = self.experiment.config, end.epoch + 1
    place = {'stage': self.stage.number, 'epoch': epoch, 'step': end.step}
    means = self.record.close_epoch(config.batch_size)
    self.log.evaluation(**place, split='train_epoch', metrics=means)
    before, last = self.record.best, epoch == self.stage.plan.epochs
    if self._is_evaluated(end.epoch):
      self._evaluate(place, end)
    self._show(end.step)
    is_best = self.record.best is not before
    moment, every = None, config.checkpoint.every_epochs
    if last or self.stop or self.is_due or (every and epoch % every == 0):
      moment = self._save(end.state, end.step, is_best)
      if not (last and self.stage.number == len(self.experiment.stages)):
        self._end_if_asked(end.step)
    elif is_best:
      self.saver.keep(self._moment(end.state, end.step))
    self.watch.new_epoch()
    return moment

  def _evaluate(self, place: dict[str, int], end: _EpochEnd) -> None:
    split = self.experiment.selection_split
    if end.evaluation is not None:
      metrics = end.evaluation.metrics()
    else:
      since = time.monotonic()
      metrics = evaluate([(self.experiment, self._variables(end.state))], split)
      self.record.seconds['evaluate'] += time.monotonic() - since
    if not np.isfinite(list(metrics.values())).all():
      self._diverged(f'predictions of the {split} split', end.step)
    self.log.evaluation(**place, split=split, metrics=metrics)
    self.record.evaluation = record = {'split': split, **place, **metrics}
    score = self.experiment.score
    if metrics[score] > self.record.best.get(score, -1.0):
      self.record.best = record

  def _moment(self, state: TrainState, step: int) -> Moment:
    state = parallel.to_host(state)
    # A gradient can overflow where the loss did not.
    # Of what a source remembers, NaN is what it doesn't know yet.
    known = state.replace(memory={})
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(known)):
      self._diverged('a parameter is not finite', step)
    self.record.log = self.log.state
    return Moment(
      step=step,
      state=state.saved(),
      progress=dataclasses.asdict(self.record),
    )

  def _save(self, state: TrainState, step: int, is_best=False) -> Moment:
    moment = self._moment(state, step)
    self.saver.save(moment, is_best=is_best)
    if self.evaluator is None:
      self.saver.go_on()
    self.is_due = False
    return moment

  def _end_if_asked(self, step: int) -> None:
    if self.stop:
      self.saver.finish()
      self.stop.end_if_asked(f'in stage {self.stage.number}, step {step}')

  def _show(self, step: int, at_most_every: float = 0.0) -> None:
    """Tells how far the run is, its speed, and what is left."""
    if not self.watch.due(at_most_every):
      return
    experiment, record = self.experiment, self.record
    speed = self.watch.steps_per_second() * experiment.config.batch_size
    self.log.progress(
      stage=self.stage.number,
      stages=len(experiment.stages),
      epoch=step / experiment.steps_per_epoch,
      epochs=experiment.total_steps // experiment.steps_per_epoch,
      images_per_second=speed,
      seconds_left=self.watch.seconds_left(experiment.total_steps - step),
      **record.shown(experiment.score),
    )
