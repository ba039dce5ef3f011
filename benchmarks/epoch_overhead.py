# SPDX-License-Identifier: Apache-2.0
"""What an epoch costs beside its steps: the host's time, and an idle device.

    python benchmarks/epoch_overhead.py [--model=resnet32] [--epochs=12] \
        [--step_ms=1] [--steps_per_dispatch=78]

The stage runner trains on as many random images as CIFAR-100 has, and
evaluates, logs and saves as it always does; but its device is made: it does
one program after another, `--step_ms` for a step and `--call_ms` for a call of
predict, and returns what it was given. So nothing but the runner's own work is
timed, on any machine. Prints one JSON line: the median milliseconds of an
epoch whose programs take no time, all of which a device would wait for, and
how many of them the runner's thread was on a processor, which other work on
the machine doesn't change; and, of programs that take theirs, the share of
the time that the device waited.
"""

import functools
import json
import time

import jax
import numpy as np
import random_images
from absl import app, flags, logging

from srdl_jax import cpu
from srdl_jax.evaluate import beside
from srdl_jax.experiment import Experiment
from srdl_jax.runs.log import RunLog

MODEL = flags.DEFINE_string('model', 'resnet32', 'A key of models.MODELS.')
EPOCHS = flags.DEFINE_integer('epochs', 12, 'Of the stage.', lower_bound=4)
STEP_MS = flags.DEFINE_float('step_ms', 1.0, 'Of a made device, for a step.')
CALL_MS = flags.DEFINE_float('call_ms', 1.0, 'Of it, for a call of predict.')
CHUNK = flags.DEFINE_integer('steps_per_dispatch', 78, 'See the field.')
# Of CIFAR-100.
TRAIN, TEST = 50_000, 10_000


class Device:
  """A device that does one program after another, in a given time.

  Attributes:
    idle: seconds that it has waited for a program.
  """

  def __init__(self) -> None:
    self.idle = 0.0
    self._free = time.monotonic()

  def run(self, seconds: float) -> float:
    """Returns the time at which a program will be done that is given now."""
    now = time.monotonic()
    self.idle += max(0.0, now - self._free)
    self._free = max(now, self._free) + seconds
    return self._free


class Later:
  """An array that is read once the device has made it."""

  def __init__(self, value: np.ndarray, ready: float):
    self._value, self._ready = value, ready

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    del dtype, copy
    self.block_until_ready()
    return self._value

  def __getitem__(self, index: slice) -> 'Later':
    return Later(self._value[index], self._ready)

  def block_until_ready(self) -> None:
    """As that of a JAX array."""
    # A sleep of no time gives the processor to others.
    if (left := self._ready - time.monotonic()) > 0:
      time.sleep(left)


def prepared(
  device: Device, step_seconds: float, call_seconds: float
) -> Experiment:
  """Returns an experiment whose programs run on the made device."""
  experiment = random_images.experiment(
    TRAIN,
    TEST,
    model={'name': MODEL.value},
    batch_size=128,
    epochs=EPOCHS.value,
    devices=1,
    steps_per_dispatch=CHUNK.value,
  )
  generator = np.random.default_rng(1)
  said = generator.normal(size=(TEST, random_images.CLASSES)).astype(np.float32)

  def train_chunk(state, resident, examples, key):
    ready = device.run(step_seconds * len(examples))
    values = np.linspace(2.0, 1.0, len(examples), dtype=np.float32)
    names = ('loss', 'cross_entropy', 'accuracy', 'learning_rate')
    return state, {name: Later(values, ready) for name in names}

  def predict(variables, images, rows=None):
    asked = len(images if rows is None else rows)
    return Later(said[:asked], device.run(call_seconds))

  (bound,) = experiment.stages
  object.__setattr__(bound, 'train_chunk', train_chunk)
  # As the cached property that it stands for.
  bound.network.__dict__['_compiled'] = lambda step, **options: predict
  return experiment


class EpochTimes(RunLog):
  """A log that notes when epochs are over, and how long the device waited."""

  def __init__(self, directory: str, device: Device):
    super().__init__(directory, total_epochs=EPOCHS.value)
    self.device = device
    self.ends: list[tuple[float, float, float]] = []

  def progress(self, *, epoch: float, **where) -> None:
    super().progress(epoch=epoch, **where)
    if epoch == int(epoch):
      now = time.monotonic(), time.thread_time(), self.device.idle
      self.ends.append(now)


def timed(
  step_seconds: float, call_seconds: float
) -> tuple[float, float, float]:
  """Returns the median seconds of an epoch, the runner's thread's processor
  seconds of them, and the device's idle share."""
  device = Device()
  experiment = prepared(device, step_seconds, call_seconds)
  log = random_images.train(
    experiment, functools.partial(EpochTimes, device=device)
  )
  # The first epochs compile; the last waits for a checkpoint.
  ends = np.asarray(log.ends[1:-1])
  wall, processor, _ = np.median(np.diff(ends, axis=0), axis=0)
  whole, _, idle = ends[-1] - ends[0]
  return wall, processor, idle / whole


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError('No arguments but flags.')
  logging.set_verbosity(logging.ERROR)
  cpu.prepare()
  # As on an accelerator: the made device takes nothing of the host's time.
  beside.HOST = ''
  wall, processor, _ = timed(0.0, 0.0)
  *_, idle = timed(STEP_MS.value / 1000, CALL_MS.value / 1000)
  told = {
    'model': MODEL.value,
    'jax': jax.__version__,
    'milliseconds_an_epoch': round(1000 * wall, 1),
    'of_its_thread': round(1000 * processor, 1),
    'step_ms': STEP_MS.value,
    'idle_share': round(idle, 3),
  }
  print(json.dumps(told))


if __name__ == '__main__':
  app.run(main)
