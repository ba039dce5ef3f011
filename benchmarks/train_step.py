# SPDX-License-Identifier: Apache-2.0
"""Images/s of the stage runner, of a bare jitted step, and of PyTorch.

    python benchmarks/train_step.py [--model=resnet20] [--batch_size=128] \
        [--steps=10] [--rounds=5]

The three take turns, a round each, in one process; the first round, which
compiles, is left out. Prints one JSON line: the median images/s of each and
the ratios of the runner to the others. Images are random: speed does not
depend on them. PyTorch takes part where it is installed.
"""

import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from srdl_jax import build, config, data, models, stage, steps, train_state
from srdl_jax.runs import stop_request
from srdl_jax.runs.checkpoint import Checkpoints
from srdl_jax.runs.log import RunLog
from srdl_jax.targets import Source

MODEL = flags.DEFINE_string('model', 'resnet20', 'A key of models.MODELS.')
BATCH = flags.DEFINE_integer('batch_size', 128, 'Images in a step.')
STEPS = flags.DEFINE_integer('steps', 10, 'Steps in a round.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds that are counted.')

CLASSES = 100
Round = Callable[[], float]


def random_dataset(source: data.Location) -> data.Dataset:
  """Returns as many random 32 x 32 images as a round takes."""
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


def bare_round() -> Round:
  """Returns a function that times STEPS bare jitted steps, in images/s."""
  model = models.create(MODEL.value, CLASSES)
  state = train_state.fresh(
    model,
    train_state.sgd(momentum=0.9, weight_decay=2e-4),
    jax.random.key(0),
    (32, 32, 3),
  )
  step = jax.jit(
    functools.partial(
      steps.train_step, schedule=lambda _: 0.1, source=Source(3.0)
    ),
    donate_argnums=0,
  )
  batch = {
    'image': jax.random.normal(jax.random.key(1), (BATCH.value, 32, 32, 3)),
    'label': jnp.arange(BATCH.value) % CLASSES,
    'index': jnp.arange(BATCH.value),
    'soft_logits': None,
  }

  def run() -> float:
    nonlocal state
    begun = time.monotonic()
    for _ in range(STEPS.value):
      state, metrics = step(state, batch)
    metrics['loss'].block_until_ready()
    return STEPS.value * BATCH.value / (time.monotonic() - begun)

  return run


def torch_round() -> Round | None:
  """Returns the same for a plain PyTorch loop, None without PyTorch."""
  try:
    import torch
    import torch_models
  except ImportError:
    return None
  device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
  model = torch_models.create(MODEL.value, CLASSES).to(device)
  sgd = torch.optim.SGD(
    model.parameters(), 0.1, 0.9, weight_decay=2e-4, nesterov=True
  )
  images = torch.randn(BATCH.value, 3, 32, 32, device=device)
  labels = torch.arange(BATCH.value, device=device) % CLASSES

  def run() -> float:
    begun = time.monotonic()
    for _ in range(STEPS.value):
      sgd.zero_grad()
      torch.nn.functional.cross_entropy(model(images), labels).backward()
      sgd.step()
    if device == 'cuda':
      torch.cuda.synchronize()
    return STEPS.value * BATCH.value / (time.monotonic() - begun)

  return run


class TurnTaking(RunLog):
  """A log that lets the others have a round after each epoch."""

  def __init__(self, directory: str, others: dict[str, Round]):
    super().__init__(directory, total_epochs=ROUNDS.value + 1)
    self.others = others
    self.speeds = {name: [] for name in ('runner', *others)}

  def progress(
    self, *, epoch: float, images_per_second: float, **where
  ) -> None:
    if epoch != int(epoch):
      return
    self.speeds['runner'].append(images_per_second)
    for name, run in self.others.items():
      self.speeds[name].append(run())


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  data.DATASETS['random'] = data.Entry(random_dataset)
  settings = config.defaults()
  settings.data.name = 'random'
  settings.model.name = MODEL.value
  settings.batch_size = BATCH.value
  settings.epochs = ROUNDS.value + 1
  settings.method = 'vanilla'
  settings.devices = 1
  settings.eval.batch_size = BATCH.value
  experiment = build.build(settings)
  others = {'bare_step': bare_round(), 'pytorch': torch_round()}
  others = {name: run for name, run in others.items() if run}
  with (
    tempfile.TemporaryDirectory() as directory,
    TurnTaking(directory, others) as log,
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
  medians = {
    name: statistics.median(speeds[1:]) for name, speeds in log.speeds.items()
  }
  print(
    json.dumps(
      {
        'images_per_second': medians,
        'runner_over': {
          name: medians['runner'] / medians[name] for name in others
        },
        'model': MODEL.value,
        'batch_size': BATCH.value,
        'rounds': ROUNDS.value,
        **experiment.environment,
      }
    )
  )


if __name__ == '__main__':
  app.run(main)
