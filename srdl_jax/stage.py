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

from srdl_jax import parallel, profiling
from srdl_jax.build import Experiment
from srdl_jax.checkpoint import Checkpoints, Moment
from srdl_jax.data import sampling
from srdl_jax.errors import Interrupted, NonFiniteLossError
from srdl_jax.evaluate import evaluate, variables
from srdl_jax.log import RunLog
from srdl_jax.randomness import Purpose, key_for
from srdl_jax.stop_request import StopRequest
from srdl_jax.train_state import TrainState

SECONDS_BETWEEN_SHOWS = 1.0


def train(
  experiment: Experiment,
  number: int,
  *,
  previous: Moment | None,
  soft_logits: np.ndarray | None,
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
    soft_logits: softened targets [N, K] by row of the full training split
      (NaN where absent), or None for labels alone.
    checkpoints: of the stage; the latest intact one is gone on from.
    log: of the run.
    stop: whether to save and end early.
    profile_to: directory for a trace of a few steps, or None.

  Raises:
    NonFiniteLossError: a loss isn't finite; the last checkpoint is good.
    Interrupted: `stop` asked for it; all is saved.
  """
  moment = checkpoints.load_latest(on_damaged=lambda e: log.event(f'{e}'))
  if moment is not None and moment.step == experiment.first_step(number + 1):
    return moment
  state = experiment.initial_state(
    number, variables(previous) if previous else None
  )
  if moment is not None:
    state = flax.serialization.from_state_dict(state, moment.state)
    log.event(f'Stage {number} goes on from step {moment.step}.')
  loop = _Loop(
    experiment=experiment,
    number=number,
    step=int(state.step),
    state=parallel.replicate(state, experiment.devices),
    resident=parallel.replicate(
      {
        'image': experiment.dataset.train.images,
        'label': experiment.dataset.train.labels,
        'soft_logits': soft_logits,
      },
      experiment.devices,
    ),
    progress=moment.progress if moment else new_progress(),
    checkpoints=checkpoints,
    log=log,
    stop=stop,
    profile_to=profile_to,
  )
  log.rewind(number, loop.step)
  return loop.run()


def new_progress() -> dict[str, Any]:
  """Returns what a checkpoint remembers beside the state.

  Sums over the steps of the epoch so far, the train means of the last epoch,
  the last evaluation, the best one, seconds, and how long a step took last.
  """
  return {
    'sums': {},
    'sum_steps': 0,
    'train': {},
    'evaluation': {},
    'best': {},
    'seconds': {'train': 0.0, 'evaluate': 0.0},
    'step_seconds': 0.0,
  }


@dataclasses.dataclass
class _Loop:
  """The running stage; `step` counts what has been dispatched."""

  experiment: Experiment
  number: int
  step: int
  state: TrainState
  resident: dict[str, jax.Array | None]
  progress: dict[str, Any]
  checkpoints: Checkpoints
  log: RunLog
  stop: StopRequest
  profile_to: pathlib.Path | None
  # Of this process: when it began, last showed where it is, and with which
  # step; and when, and with which step, the clock of training was started.
  begun: float = 0.0
  shown: float = 0.0
  first_step: int = 0
  clock: tuple[float, int] | None = None

  def run(self) -> Moment:
    experiment = self.experiment
    done = self.step - experiment.first_step(self.number)
    first, offset = divmod(done, experiment.steps_per_epoch)
    self.begun = self.shown = time.monotonic()
    self.first_step = self.step
    with profiling.a_few_steps(self.profile_to) as tick:
      for epoch in range(first, experiment.stages[self.number - 1].epochs):
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
    order = sampling.epoch_order(
      config.seed, self.number, epoch, self.experiment.train_rows
    )
    rows = order[: steps * config.batch_size].reshape(steps, -1)
    key = parallel.replicate(
      key_for(config.seed, Purpose.AUGMENT, self.number, epoch),
      self.experiment.devices,
    )
    size = parallel.steps_per_dispatch(
      config.steps_per_dispatch, self.experiment.devices
    )
    pending = None
    self._start_clock()
    while offset < steps:
      # The grid of dispatches is a function of the epoch, not of the resume.
      end = min(steps, (offset // size + 1) * size)
      self.state, metrics = self.experiment.train_chunk(
        self.state, self.resident, rows[offset:end], key
      )
      tick()
      # The device works on this chunk while the one before is read.
      self._read(epoch, pending)
      pending = (self.step, metrics)
      self.step += end - offset
      if end < steps and (self.stop or self._due_within_epoch(offset, end)):
        self._read(epoch, pending)
        pending = None
        self._stop_clock()
        self._save(score=None)
        self._end_if_asked()
        self._start_clock()
      offset = end
      if end < steps and time.monotonic() - self.shown > SECONDS_BETWEEN_SHOWS:
        self._show()
    self._read(epoch, pending)
    self._stop_clock()

  def _start_clock(self) -> None:
    self.clock = (time.monotonic(), self.step)

  def _stop_clock(self) -> None:
    """Counts the time of the steps since the clock was started."""
    begun, step = self.clock
    seconds = time.monotonic() - begun
    self.progress['seconds']['train'] += seconds
    self.progress['step_seconds'] = seconds / (self.step - step)
    self.clock = None

  def _images_per_second(self) -> float:
    if self.clock is None:
      seconds = self.progress['step_seconds']
    else:
      begun, step = self.clock
      seconds = (time.monotonic() - begun) / (self.step - step)
    return self.experiment.config.batch_size / seconds

  def _due_within_epoch(self, begin: int, end: int) -> bool:
    every = self.experiment.config.checkpoint.every_steps
    return every > 0 and begin // every < end // every

  def _read(self, epoch: int, pending) -> None:
    """Waits for a chunk's metrics, checks and records them."""
    if pending is None:
      return
    before, metrics = pending
    metrics = parallel.to_host(metrics)
    bad = np.flatnonzero(~np.isfinite(metrics['loss']))
    if len(bad):
      self.checkpoints.wait()
      raise NonFiniteLossError(
        f'The loss became {metrics["loss"][bad[0]]} in stage {self.number}, '
        f'epoch {epoch + 1}, step {before + bad[0] + 1}. The last good '
        'checkpoint is kept. Lower optimiser.learning_rate, or check the '
        'data.'
      )
    self.log.train_steps(
      stage=self.number,
      epoch=epoch + 1,
      first_step=before + 1,
      metrics=metrics,
    )
    sums = self.progress['sums']
    for name, values in metrics.items():
      # One by one: the sum must not depend on the size of a chunk.
      for value in values:
        sums[name] = sums.get(name, 0.0) + float(value)
    self.progress['sum_steps'] += len(metrics['loss'])

  def _finish_epoch(self, epoch: int) -> Moment | None:
    """Records the epoch's means, evaluates and saves where it is due."""
    config = self.experiment.config
    last = epoch + 1 == self.experiment.stages[self.number - 1].epochs
    place = {'stage': self.number, 'epoch': epoch + 1, 'step': self.step}
    means = {
      name: total / self.progress['sum_steps']
      for name, total in self.progress['sums'].items()
      if name != 'learning_rate'
    }
    self.progress |= {'sums': {}, 'sum_steps': 0, 'train': means}
    self.log.evaluation(**place, split='train_epoch', metrics=means)
    score = None
    if last or (epoch + 1) % config.eval.every_epochs == 0:
      score = self._evaluate(place)
    if (
      score is not None
      or self.stop
      or (epoch + 1) % config.checkpoint.every_epochs == 0
    ):
      moment = self._save(score)
      if not (last and self.number == len(self.experiment.stages)):
        self._end_if_asked()
      return moment
    return None

  def _evaluate(self, place: dict[str, int]) -> float:
    begun = time.monotonic()
    split = self.experiment.selection_split
    metrics = evaluate(self.experiment, [self.state.variables], split)
    self.progress['seconds']['evaluate'] += time.monotonic() - begun
    self.log.evaluation(**place, split=split, metrics=metrics)
    record = {'split': split, **place, **metrics}
    self.progress['evaluation'] = record
    if metrics['accuracy'] > self.progress['best'].get('accuracy', -1.0):
      self.progress['best'] = record
    return metrics['accuracy']

  def _save(self, score: float | None) -> Moment:
    state = flax.serialization.to_state_dict(parallel.to_host(self.state))
    progress = copy.deepcopy(self.progress)
    moment = Moment(step=self.step, state=state, progress=progress)
    self.checkpoints.save(moment, score=score)
    return moment

  def _end_if_asked(self) -> None:
    if self.stop:
      self.checkpoints.wait()
      raise Interrupted(
        f'{self.stop.signal_name} in stage {self.number}, step {self.step}: '
        'everything is saved; run the same command again to go on.'
      )

  def _show(self) -> None:
    """Tells how far the run is, its speed, and what is left."""
    experiment = self.experiment
    total = experiment.first_step(len(experiment.stages) + 1)
    now = self.shown = time.monotonic()
    step_seconds = (now - self.begun) / (self.step - self.first_step)
    shown = {}
    if self.progress['sum_steps']:
      total_loss = self.progress['sums']['loss']
      shown['loss'] = total_loss / self.progress['sum_steps']
    elif self.progress['train']:
      shown['loss'] = self.progress['train']['loss']
    evaluation = self.progress['evaluation']
    if evaluation:
      shown[f'{evaluation["split"]}_accuracy'] = evaluation['accuracy']
    self.log.progress(
      stage=self.number,
      stages=len(experiment.stages),
      epoch=self.step / experiment.steps_per_epoch,
      epochs=total // experiment.steps_per_epoch,
      images_per_second=self._images_per_second(),
      seconds_left=(total - self.step) * step_seconds,
      **shown,
    )
