# SPDX-License-Identifier: Apache-2.0
"""Train steps and epochs on this device: their bits, and what they cost.

    python benchmarks/epochs.py --as=correctness [--many=N]
    python benchmarks/epochs.py --as=epoch [--steps_per_dispatch=N]
    python benchmarks/epochs.py --as=together

Each prints one JSON line. `correctness` trains two steps, in float32 with
matrix products of the highest precision, and says how far the change of all
parameters, and of batch norm's statistics, is from what the CPU makes of them,
as a share of its length; TOLERANCES are allowed. N steps, in JAX's own
precision and in calls of the device as a run's, are trained by two processes,
and the bits of their states compared; where they differ on a GPU, by two more
with XLA_FLAGS=--xla_gpu_deterministic_ops=true.

`epoch` times the train steps of an epoch, and an epoch of the stage runner,
with evaluation, checkpoint and log; with --steps_per_dispatch the steps alone,
in calls of so many. `together` trains in one, two and three processes at once,
each an epoch's steps: images/s of all. Images are random: speed does not depend
on them.
"""

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import flax
import jax
import numpy as np
import random_images
import turns
from absl import app, flags, logging

from srdl_jax import cpu, parallel
from srdl_jax.experiment import Experiment, Purpose
from srdl_jax.feed import open_feed
from srdl_jax.runs import environment
from srdl_jax.runs.checkpoint import digest
from srdl_jax.runs.log import RunLog
from srdl_jax.train_state import TrainState

MODEL = flags.DEFINE_string('model', 'resnet32', 'A key of models.MODELS.')
BATCH = flags.DEFINE_integer('batch_size', 128, 'Images in a step.')
IMAGES = flags.DEFINE_integer('images', 50_000, 'Images of an epoch.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Epochs that are counted.')
DISPATCH = flags.DEFINE_integer(
  'steps_per_dispatch', 0, "Steps in a call of the device; 0: a run's own."
)
MANY = flags.DEFINE_integer('many', 0, 'Steps of a run, up to an epoch.')
INTO = flags.DEFINE_string('into', None, 'Where arrays go, .npz.')
ROLE = flags.DEFINE_string('as', 'epoch', 'A key of ROLES.')

# A fresh ResNet-32's gradients are ill-conditioned. Summed in another order, by
# four CPU devices for one, they come to 7.5e-3 and 1.2e-6; in bfloat16, to 0.35
# and 1.6e-3.
TOLERANCES = {'params': 2e-2, 'batch_stats': 2e-5}
# The second step's would depend on the first one's error more than on its own.
RATE = 1e-3
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'
MOST_AT_ONCE = 3
Found = dict[str, Any]


def trained_on(**fields: Any) -> Experiment:
  """Returns vanilla training on --images random images; sets the process up as
  the command's."""
  cpu.prepare()
  environment.use_compilation_cache()
  return random_images.experiment(
    IMAGES.value,
    IMAGES.value // 5,
    model={'name': MODEL.value},
    batch_size=BATCH.value,
    eval={'batch_size': min(500, IMAGES.value // 5)},
    steps_per_dispatch=DISPATCH.value,
    **fields,
  )


@contextlib.contextmanager
def steps_of(
  experiment: Experiment, at_a_time: int
) -> Iterator[Callable[[int], tuple[TrainState, float]]]:
  """Yields a function that goes on training by so many of an epoch's steps.

  It returns the state, and the last loss, once that is there.

  Args:
    at_a_time: steps in a call of the device.
  """
  bound, devices = experiment.stages[0], experiment.devices
  state = parallel.replicate(bound.initial_state(None), devices)
  key = parallel.replicate(bound.key(Purpose.AUGMENT, 0), devices)
  with open_feed(experiment, bound, None, 0) as feed:

    def run(count: int) -> tuple[TrainState, float]:
      nonlocal state
      for begin in range(0, count, at_a_time):
        examples = feed.examples(0, begin, min(begin + at_a_time, count))
        state, metrics = bound.train_chunk(state, feed.resident, examples, key)
      return state, float(np.asarray(metrics['loss'])[-1])

    yield run


def steps() -> Found:
  """Two steps in full float32 into --into; the digest of many as runs train."""
  experiment = trained_on(devices=1, optimiser={'learning_rate': RATE})
  before = experiment.stages[0].initial_state(None)
  with (
    jax.default_matmul_precision('highest'),
    steps_of(experiment, 1) as run,
  ):
    state, loss = run(2)
  arrays = {
    when: {kind: getattr(parallel.to_host(its), kind) for kind in TOLERANCES}
    for when, its in (('before', before), ('after', state))
  }
  np.savez(INTO.value, **flax.traverse_util.flatten_dict(arrays, sep='/'))
  found = {'loss': loss}
  if MANY.value:
    many = min(MANY.value, experiment.steps_per_epoch)
    with steps_of(experiment, experiment.steps_per_dispatch) as run:
      state, _ = run(many)
    found |= {'many': many, 'digest': digest(parallel.to_host(state).saved())}
  return found | environment.environment(experiment.devices)


def correctness() -> Found:
  """Compares `steps` with the CPU's, and its bits with another process's."""
  with tempfile.TemporaryDirectory() as folder:
    ours, cpus = f'{folder}/ours.npz', f'{folder}/cpu.npz'
    on_cpu = asked(
      '--as=steps', f'--into={cpus}', '--many=0', JAX_PLATFORMS='cpu'
    )
    found = asked('--as=steps', f'--into={ours}')
    found['differences'] = differences(cpus, ours)

    def again(**variables: str) -> str:
      return asked('--as=steps', f'--into={ours}', **variables)['digest']

    same, flag, tried = again() == found['digest'], '', ''
    if not same and found['device']['platform'] == 'gpu':
      given = f'{os.environ.get("XLA_FLAGS", "")} {DETERMINISTIC}'.strip()
      tried = DETERMINISTIC
      flag = tried if again(XLA_FLAGS=given) == again(XLA_FLAGS=given) else ''
  del found['digest']
  return found | {
    'losses': [found.pop('loss'), on_cpu['loss']],
    'tolerances': TOLERANCES,
    'agrees': all(
      value is not None and value <= TOLERANCES[kind]
      for kind, value in found['differences'].items()
    ),
    'same_bits': same,
    'same_bits_with': flag,
    'tried': tried,
  }


def asked(*arguments: str, **variables: str) -> Found:
  """Returns what this program prints in another process."""
  program = [sys.executable, *sys.argv, *arguments]
  done = subprocess.run(
    program, stdout=subprocess.PIPE, env=os.environ | variables, check=True
  )
  return json.loads(done.stdout.splitlines()[-1])


def differences(expected: str, found: str) -> dict[str, float | None]:
  """Returns how far `steps` came from another's, as shares of its way.

  Args:
    expected, found: what the two saved.

  Returns:
    By keys of TOLERANCES: the length of the difference of all tensors over that
    of the expected change; None where it is no number.
  """
  with np.load(expected) as theirs, np.load(found) as ours:

    def length(name: str, others, when: str) -> float:
      """Of what is between `theirs` after the steps and others."""
      names = [n for n in theirs if n.startswith(f'after/{name}/')]
      parts = [
        theirs[n].astype(np.float64) - others[n.replace('after', when, 1)]
        for n in names
      ]
      return float(np.sqrt(sum(np.sum(part**2) for part in parts)))

    shares = {
      name: length(name, ours, 'after') / length(name, theirs, 'before')
      for name in TOLERANCES
    }
  return {n: s if np.isfinite(s) else None for n, s in shares.items()}


class Timed(RunLog):
  """A log that notes when epochs end."""

  def __init__(self, directory: str, epochs: int):
    super().__init__(directory, total_epochs=epochs)
    self.ends: list[float] = []

  def progress(self, *, epoch: float, **where: Any) -> None:
    super().progress(epoch=epoch, **where)
    if epoch == int(epoch):
      self.ends.append(time.monotonic())


def epoch() -> Found:
  """Seconds of an epoch: of its steps alone, and with all that a run does."""
  # Compilation is in the first, of what comes after an epoch in the second.
  epochs = ROUNDS.value + 2
  experiment = trained_on(epochs=epochs)
  size, count = experiment.steps_per_dispatch, experiment.steps_per_epoch
  images = count * BATCH.value
  found = {'steps_per_dispatch': size, 'steps': count, 'rounds': ROUNDS.value}
  with steps_of(experiment, size) as run:
    run(count)
    alone = statistics.median(seconds(run, count) for _ in range(ROUNDS.value))
  found |= {'steps_seconds': alone, 'steps_images_per_second': images / alone}
  if not DISPATCH.value:
    log = random_images.train(
      experiment, functools.partial(Timed, epochs=epochs)
    )
    whole = statistics.median(np.diff(log.ends)[1:].tolist())
    found |= {
      'epoch_seconds': whole,
      'epoch_images_per_second': images / whole,
      'share_without_steps': 1 - alone / whole,
    }
  return found | environment.environment(experiment.devices)


def seconds(run: Callable[[int], Any], count: int) -> float:
  begun = time.monotonic()
  run(count)
  return time.monotonic() - begun


def pace() -> None:
  """Serves as one of those that train at once: images/s of an epoch's steps."""
  experiment = trained_on()
  count = experiment.steps_per_epoch
  about = json.dumps(environment.environment(experiment.devices))
  with steps_of(experiment, experiment.steps_per_dispatch) as run:
    run(count)
    turns.serve(
      {
        'turn': lambda: count * BATCH.value / seconds(run, count),
        'about': lambda: about,
      }
    )


def together() -> Found:
  """Images/s, all together, of one process and of several at once."""
  speeds, contestants = {}, []
  for count in range(1, MOST_AT_ONCE + 1):
    contestants.append(turns.Contestant([*sys.argv, '--as=pace']))
    if not contestants[-1].ready():
      sys.exit(f'error: process {count} did not start')
    with futures.ThreadPoolExecutor(count) as pool:
      rounds = [
        sum(pool.map(lambda c: float(c.ask('turn')), contestants))
        for _ in range(ROUNDS.value)
      ]
    speeds[str(count)] = statistics.median(rounds)
  about = json.loads(contestants[0].ask('about'))
  for contestant in contestants:
    contestant.end()
  best = int(max(speeds, key=speeds.get))
  return {'images_per_second': speeds, 'best': best, **about}


ROLES = {
  role.__name__: role for role in (correctness, steps, epoch, together, pace)
}


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  if found := ROLES[ROLE.value]():
    print(json.dumps(found))


if __name__ == '__main__':
  app.run(main)
