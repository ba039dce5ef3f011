# SPDX-License-Identifier: Apache-2.0
"""Images/s of the product, of its bare train step, and of PyTorch.

    python benchmarks/train_step.py [--model=resnet20] [--batch_size=128] \
        [--steps=10] [--rounds=5]

The product is the stage runner as `srdl_jax.main` sets it up: data, feed,
augmentation, log. The bare step is its train step over the same devices, of
one batch that stays there. PyTorch's is a plain loop of one batch,
channels_last, without augmentation; it takes part where it is installed. Each
is in a process of its own, and they take turns of --steps steps; the first,
which compile, are left out. Prints one JSON line: medians of images/s, and the
product's over the others'. Images are random: speed does not depend on them.
"""

import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import turns
from absl import app, flags, logging

from srdl_jax import build, config, cpu, data, parallel, stage, steps
from srdl_jax.experiment import Experiment
from srdl_jax.runs import stop_request
from srdl_jax.runs.checkpoint import Checkpoints
from srdl_jax.runs.log import RunLog
from srdl_jax.targets import Source

MODEL = flags.DEFINE_string('model', 'resnet20', 'A key of models.MODELS.')
BATCH = flags.DEFINE_integer('batch_size', 128, 'Images in a step.')
STEPS = flags.DEFINE_integer('steps', 10, 'Steps in a turn.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Turns that are counted.')
ROLE = flags.DEFINE_string('as', '', 'Of a process: a key of ROLES.')

CLASSES = 100


def random_dataset(source: data.Location) -> data.Dataset:
  """Returns as many random 32 x 32 images as a turn takes."""
  del source
  generator = np.random.default_rng(0)

  def split(name: str, count: int) -> data.Split:
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = generator.integers(0, CLASSES, count, np.int32)
    return data.Split(name, images, labels, 'random')

  half = (0.5, 0.5, 0.5)
  return data.Dataset(
    'random',
    '0',
    CLASSES,
    half,
    half,
    split('train', STEPS.value * BATCH.value),
    split('test', BATCH.value),
  )


def prepared() -> Experiment:
  """Returns the experiment, in a process that is set up as the command's."""
  cpu.prepare()
  data.DATASETS['random'] = data.Entry(random_dataset)
  settings = config.defaults()
  settings.data.name = 'random'
  settings.model.name = MODEL.value
  settings.batch_size = BATCH.value
  settings.epochs = ROUNDS.value + 1
  settings.method = 'vanilla'
  settings.eval.batch_size = BATCH.value
  # None is written in another's turn.
  settings.checkpoint.every_epochs = settings.epochs
  return build.build(settings)


class TurnTaking(RunLog):
  """A log that waits, after each epoch, for its turn."""

  def __init__(self, directory: str):
    super().__init__(directory, total_epochs=ROUNDS.value + 1)
    self.turns = turns.Turns()
    self.is_compiled = False

  def progress(
    self, *, epoch: float, images_per_second: float, **where
  ) -> None:
    if epoch == int(epoch):
      told = images_per_second if self.is_compiled else turns.READY
      self.turns.answer(told)
      self.is_compiled = True
      next(self.turns, None)


def product() -> None:
  """Serves as the stage runner: a turn is an epoch."""
  experiment = prepared()
  with (
    tempfile.TemporaryDirectory() as directory,
    TurnTaking(directory) as log,
    Checkpoints(directory + '/checkpoints') as checkpoints,
  ):
    stage.train(
      experiment,
      experiment.stages[0],
      previous=None,
      knowledge=None,
      checkpoints=checkpoints,
      log=log,
      stop=stop_request.StopRequest(),
    )


def bare_step() -> None:
  """Serves as the train step alone, one batch in memory."""
  experiment = prepared()
  devices, bound = experiment.devices, experiment.stages[0]
  state = parallel.replicate(bound.initial_state(None), devices)
  step = parallel.map_train(
    lambda state, resident, batch, key: steps.train_step(
      state,
      {**resident, **batch},
      schedule=lambda _: 0.1,
      source=Source(3.0),
      axis_name=parallel.AXIS,
    ),
    devices,
  )
  images = np.asarray(experiment.dataset.train.images[: BATCH.value])
  batch = {
    'image': jnp.asarray(images[None] / 255.0 - 0.5, jnp.float32),
    'label': jnp.asarray(experiment.dataset.train.labels[None, : BATCH.value]),
  }

  def run() -> jax.Array:
    nonlocal state
    for _ in range(STEPS.value):
      state, metrics = step(state, {}, batch, jax.random.key(0))
    return metrics['loss'].block_until_ready()

  run()
  turns.serve({'turn': functools.partial(images_per_second, run)})


def pytorch() -> None:
  """Serves as a plain PyTorch loop."""
  try:
    import torch
    import torch_models
  except ImportError:
    return
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = torch_models.create(MODEL.value, CLASSES).to(
    device, memory_format=torch.channels_last
  )
  sgd = torch.optim.SGD(
    model.parameters(), 0.1, 0.9, weight_decay=2e-4, nesterov=True
  )
  images = torch.randn(BATCH.value, 3, 32, 32, device=device)
  images = images.to(memory_format=torch.channels_last)
  labels = torch.arange(BATCH.value, device=device) % CLASSES

  def run() -> None:
    for _ in range(STEPS.value):
      sgd.zero_grad()
      torch.nn.functional.cross_entropy(model(images), labels).backward()
      sgd.step()
    if device == 'cuda':
      torch.cuda.synchronize()

  run()
  turns.serve({'turn': functools.partial(images_per_second, run)})


def images_per_second(run: Callable[[], object]) -> float:
  begun = time.monotonic()
  run()
  return STEPS.value * BATCH.value / (time.monotonic() - begun)


ROLES = {role.__name__: role for role in (product, bare_step, pytorch)}


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  if ROLE.value:
    ROLES[ROLE.value]()
    return
  found = {}
  for role in ROLES:
    contestant = turns.Contestant([*sys.argv, f'--as={role}'])
    if contestant.ready():
      found[role] = contestant
    elif role != 'pytorch':
      sys.exit(f'error: {role} failed')
  speeds = {role: [] for role in found}
  for _ in range(ROUNDS.value):
    for role, contestant in found.items():
      speeds[role].append(float(contestant.ask('turn')))
  for contestant in found.values():
    contestant.end()
  medians = {role: statistics.median(s) for role, s in speeds.items()}
  first, *others = medians
  print(
    json.dumps(
      {
        'images_per_second': medians,
        'product_over': {o: medians[first] / medians[o] for o in others},
        'model': MODEL.value,
        'batch_size': BATCH.value,
        'rounds': ROUNDS.value,
        **prepared().environment,
      }
    )
  )


if __name__ == '__main__':
  app.run(main)
