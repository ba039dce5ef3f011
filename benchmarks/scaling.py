# SPDX-License-Identifier: Apache-2.0
"""What several devices and processes change: nothing, and what that takes.

    python benchmarks/scaling.py [--model=resnet8] [--batch_size=64] \
        [--steps=6] [--rounds=5] [--shapes=1x1,1x2,1x4,2x1,2x2]

Trains the same steps on the same global batches in float64, with as many
processes and CPU devices of each as --shapes says (PROCESSES x DEVICES), in
processes of their own through launch/local.py. The step is a stage's own:
resident examples, the augmentation, and averages over the devices. Images are
random, of 32 x 32 pixels.

The devices are XLA's fake ones and share this machine's cores: how much faster
many devices are isn't to be seen here. It shows

- `difference`: of the parameters and statistics from those of the first shape
  after --steps steps, as the largest share of any tensor's largest value;
  above 1e-9 the exit code is 1;
- `step_seconds`: `averaged` as a stage runs it, and `alone` where no device
  hears of another: a smaller batch norm, and each its own parameters;
- `synchronising_seconds`: the difference of the two, round by round;
- `call_seconds`, each by itself: `pmean` over the parameters' gradients alone,
  `ask`, the question of a stage's every step whether to stop,
  `any_says`, the same between stages, and `wait`, where all processes wait for
  each other.

All take turns, a round each, after one that compiles. Prints one JSON line of
medians; seconds are those of the first process.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import random_images
from absl import app, flags, logging

from srdl_jax import feed, parallel, steps
from srdl_jax.experiment import Experiment, Purpose, key_for
from srdl_jax.runs import environment, processes
from srdl_jax.targets import Source
from srdl_jax.train_state import TrainState

MODEL = flags.DEFINE_string('model', 'resnet8', 'A key of models.MODELS.')
BATCH = flags.DEFINE_integer('batch_size', 64, 'Images in a global batch.')
STEPS = flags.DEFINE_integer('steps', 6, 'Steps in a round.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds that are counted.')
SHAPES = flags.DEFINE_list(
  'shapes',
  ['1x1', '1x2', '1x4', '2x1', '2x2'],
  'PROCESSES x DEVICES of each; the others are compared with the first.',
)
OUT = flags.DEFINE_string('out', None, 'Set in the processes it starts.')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'See launch/local.py.')
COUNT = flags.DEFINE_integer('process_count', None, 'See launch/local.py.')
INDEX = flags.DEFINE_integer('process_index', None, 'See launch/local.py.')

ROOT = pathlib.Path(__file__).parent.parent
MOST_DIFFERENCE = 1e-9
CALLS = 20  # In a row, of what takes less than a step.


def build_experiment() -> Experiment:
  """Returns the experiment, on all devices of all processes."""
  return random_images.experiment(
    STEPS.value * BATCH.value,
    BATCH.value,
    model={'name': MODEL.value, 'dtype': 'float64'},
    batch_size=BATCH.value,
    epochs=ROUNDS.value + 1,
  )


def alone_chunk(
  experiment: Experiment, state: TrainState
) -> tuple[Callable[..., Any], TrainState]:
  """Returns the train step in which devices don't hear of each other.

  Args:
    experiment: of the averaged step.
    state: to begin with.

  Returns:
    The step, compiled as the stage's is, and the state that it takes.
  """
  network = experiment.stages[0].network
  model = network.model.clone(axis_name=None)
  step = functools.partial(
    steps.augmented_step,
    augment=experiment.flip_and_crop,
    normalise=network.normalise,
    step=functools.partial(
      steps.train_step, schedule=experiment.schedule, source=Source(3.0)
    ),
  )
  chunk = parallel.map_train(step, experiment.devices)
  return chunk, state.replace(apply_fn=model.apply)


@dataclasses.dataclass
class Training:
  """Steps in a row, as a stage drives them."""

  experiment: Experiment
  chunk: Callable[..., Any]
  state: TrainState
  rows: feed.ResidentFeed
  epoch: int = 0

  def run(self) -> float:
    """Trains an epoch and returns the seconds that a step took."""
    key = parallel.replicate(
      key_for(0, Purpose.AUGMENT, 1, self.epoch), self.experiment.devices
    )
    pending = None
    begun = time.monotonic()
    for step in range(STEPS.value):
      examples = self.rows.examples(self.epoch, step, step + 1)
      self.state, metrics = self.chunk(
        self.state, self.rows.resident, examples, key
      )
      # The device works on this step while the one before is read.
      parallel.to_host(pending)
      pending = metrics
    parallel.to_host(pending)
    self.epoch += 1
    return (time.monotonic() - begun) / STEPS.value


def calls(
  experiment: Experiment, state: TrainState
) -> dict[str, Callable[[], float]]:
  """Returns functions that time one exchange each, in seconds a call."""
  devices = experiment.devices
  mean = jax.pmap(
    lambda tree, _: jax.lax.pmean(tree, parallel.AXIS),
    parallel.AXIS,
    in_axes=(None, 0),
    out_axes=None,
    devices=devices,
  )
  params = parallel.replicate(state.params, devices)
  places = np.arange(jax.local_device_count())
  exchanges = {
    'pmean': lambda: jax.block_until_ready(mean(params, places)),
    'ask': lambda: np.asarray(processes.ask([False, False], devices)),
    'any_says': lambda: processes.any_says(False),
    'wait': lambda: processes.wait('benchmark'),
  }

  def timed(exchange: Callable[[], Any]) -> float:
    begun = time.monotonic()
    for _ in range(CALLS):
      exchange()
    return (time.monotonic() - begun) / CALLS

  return {
    name: functools.partial(timed, exchange)
    for name, exchange in exchanges.items()
  }


def measure() -> tuple[dict[str, Any], list[np.ndarray]]:
  """Returns what one shape takes, and its variables after a round."""
  experiment = build_experiment()
  rows = feed.ResidentFeed(experiment, experiment.stages[0], None)
  # The steps take over the arrays that they are given.
  first = parallel.to_host(experiment.stages[0].initial_state(None))
  chunk, state = alone_chunk(experiment, first)
  averaged, alone = (
    Training(experiment, c, parallel.replicate(s, experiment.devices), rows)
    for c, s in ((experiment.stages[0].train_chunk, first), (chunk, state))
  )
  rounds = {'averaged': averaged.run, 'alone': alone.run}
  rounds |= calls(experiment, first)
  for name, run in rounds.items():
    run()
    if name == 'averaged':
      variables = jax.tree.leaves(parallel.to_host(averaged.state.variables))
  seconds = {name: [] for name in rounds}
  for _ in range(ROUNDS.value):
    for name, run in rounds.items():
      seconds[name].append(run())
  pairs = zip(seconds['averaged'], seconds['alone'], strict=True)
  medians = {name: statistics.median(found) for name, found in seconds.items()}
  found = {
    'processes': jax.process_count(),
    'devices': jax.local_device_count(),
    'step_seconds': {name: medians.pop(name) for name in ('averaged', 'alone')},
    'synchronising_seconds': statistics.median(a - b for a, b in pairs),
    'call_seconds': medians,
  }
  return {**found, **environment.environment(experiment.devices)}, variables


def take_part(out: pathlib.Path) -> None:
  """Is one of a shape's processes; the first one writes to `out`."""
  processes.initialise(
    automatic=False,
    coordinator=COORDINATOR.value,
    count=COUNT.value,
    index=INDEX.value,
    heartbeat_seconds=100,
  )
  with processes.failing_at_once(), jax.enable_x64():
    found, variables = measure()
    if processes.is_first():
      np.savez(out / 'variables.npz', *variables)
      (out / 'found.json').write_text(json.dumps(found))


def start(shape: str, out: pathlib.Path) -> tuple[dict, list[np.ndarray]]:
  """Runs the processes of a shape and returns what the first one found."""
  count, devices = shape.split('x')
  out.mkdir()
  options = [f'--{f.name}={f.value}' for f in (MODEL, BATCH, STEPS, ROUNDS)]
  launcher = [ROOT / 'launch/local.py', f'--processes={count}']
  command = [f'--devices={devices}', '--', sys.executable, __file__]
  done = subprocess.run(
    [sys.executable, *launcher, *command, f'--out={out}', *options],
    stdout=sys.stderr,
  )
  if done.returncode:
    sys.exit(f'error: {shape} failed')
  with np.load(out / 'variables.npz') as variables:
    arrays = [variables[name] for name in variables.files]
  return json.loads((out / 'found.json').read_text()), arrays


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
  """Returns the largest difference, in shares of a tensor's largest value."""
  shares = [
    np.abs(a - b).max() / (np.abs(b).max() or 1.0)
    for a, b in zip(found, expected, strict=True)
  ]
  return float(np.max(shares))


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  if OUT.value:
    take_part(pathlib.Path(OUT.value))
    return
  results, reference = [], []
  with tempfile.TemporaryDirectory() as directory:
    for shape in SHAPES.value:
      found, variables = start(shape, pathlib.Path(directory) / shape)
      reference = reference or variables
      around = {name: found.pop(name) for name in ('versions', 'commit')}
      results.append({**found, 'difference': difference(variables, reference)})
  used = {f.name: f.value for f in (MODEL, BATCH, STEPS, ROUNDS)}
  print(json.dumps({'shapes': results, **used, **around}))
  # What isn't a number is no agreement either.
  if not np.max([r['difference'] for r in results]) < MOST_DIFFERENCE:
    sys.exit(f'error: a difference is above {MOST_DIFFERENCE}')


if __name__ == '__main__':
  app.run(main)
