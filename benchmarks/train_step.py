# SPDX-License-Identifier: Apache-2.0
"""Images/s of the product, of its bare train step, and of PyTorch.

    python benchmarks/train_step.py [--model=resnet20] [--batch_size=128] \
        [--steps=10] [--rounds=5] [--precision=tf32] [--graphs]

The product is the stage runner as `srdl_jax.main` sets it up: data, feed,
augmentation, log. The bare step is its train step over the same devices, of
one batch that stays there. PyTorch's is a plain loop of one batch,
channels_last, without augmentation; it takes part where it is installed, and
beside an accelerator only with CUDA, by torch.compile. In --precision bfloat16
its autocast computes what ours does by model.dtype. Each is in a process of its
own, and they take turns of --steps steps; the first, which compile, are left
out. Prints one JSON line: medians of images/s, and the product's over the
others'. Images are random: speed does not depend on them.
"""

import functools
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import random_images
import turns
from absl import app, flags, logging

from srdl_jax import cpu, parallel, steps
from srdl_jax.experiment import Experiment
from srdl_jax.runs import environment
from srdl_jax.runs.log import RunLog
from srdl_jax.targets import Source

MODEL = flags.DEFINE_string('model', 'resnet20', 'A key of models.MODELS.')
BATCH = flags.DEFINE_integer('batch_size', 128, 'Images in a step.')
STEPS = flags.DEFINE_integer('steps', 10, 'Steps in a turn.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Turns that are counted.')
# What float32 is to JAX; bfloat16 is the network's.
PRECISIONS = {
  '': None,
  'float32': 'highest',
  'tf32': 'tensorfloat32',
  'bfloat16': None,
}
PRECISION = flags.DEFINE_enum(
  'precision', '', list(PRECISIONS), "Of all; '': each library's own."
)
GRAPHS = flags.DEFINE_boolean(
  'graphs', False, "PyTorch's on a GPU through CUDA graphs."
)
ROLE = flags.DEFINE_string('as', '', 'Of a process: a key of ROLES.')


def prepared() -> Experiment:
  """Returns the experiment, in a process that is set up as the command's."""
  cpu.prepare()
  environment.use_compilation_cache()
  if matmuls := PRECISIONS[PRECISION.value]:
    jax.config.update('jax_default_matmul_precision', matmuls)
  in_bfloat16 = PRECISION.value == 'bfloat16'
  epochs = ROUNDS.value + 1
  return random_images.experiment(
    STEPS.value * BATCH.value,
    BATCH.value,
    model={
      'name': MODEL.value,
      'dtype': 'bfloat16' if in_bfloat16 else 'float32',
    },
    batch_size=BATCH.value,
    epochs=epochs,
    eval={'batch_size': BATCH.value},
    # None is written in another's turn.
    checkpoint={'every_epochs': epochs},
  )


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
  random_images.train(prepared(), TurnTaking)


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
  """Serves as a plain PyTorch loop; on a GPU, compiled."""
  try:
    import torch
    import torch_models
  except ImportError:
    return
  on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu' or cpu.is_alone()
  gpu = torch.cuda.is_available() and not on_cpu
  if not (gpu or on_cpu):
    return  # It would be a CPU's speed next to an accelerator's.
  device = 'cuda' if gpu else 'cpu'
  if PRECISION.value in ('float32', 'tf32'):
    in_tf32 = PRECISION.value == 'tf32'
    torch.set_float32_matmul_precision('high' if in_tf32 else 'highest')
    torch.backends.cudnn.allow_tf32 = in_tf32
  # JAX tries out what is fastest, too.
  torch.backends.cudnn.benchmark = True
  model = torch_models.create(MODEL.value, random_images.CLASSES).to(
    device, memory_format=torch.channels_last
  )
  mode = 'reduce-overhead' if GRAPHS.value else None
  call = torch.compile(model, mode=mode) if gpu else model
  sgd = torch.optim.SGD(
    model.parameters(), 0.1, 0.9, weight_decay=2e-4, nesterov=True
  )
  images = torch.randn(BATCH.value, 3, 32, 32, device=device)
  images = images.to(memory_format=torch.channels_last)
  labels = torch.arange(BATCH.value, device=device) % random_images.CLASSES
  in_bfloat16 = PRECISION.value == 'bfloat16'

  def run() -> None:
    for _ in range(STEPS.value):
      sgd.zero_grad()
      with torch.autocast(device, torch.bfloat16, enabled=in_bfloat16):
        loss = torch.nn.functional.cross_entropy(call(images), labels)
      loss.backward()
      sgd.step()
    if gpu:
      torch.cuda.synchronize()

  run()
  turns.serve({'turn': functools.partial(images_per_second, run)})


def images_per_second(run: Callable[[], object]) -> float:
  begun = time.monotonic()
  run()
  return STEPS.value * BATCH.value / (time.monotonic() - begun)


def torch_version(took_part: bool) -> dict[str, str]:
  return {'torch': importlib.metadata.version('torch')} if took_part else {}


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
        'steps': STEPS.value,
        'precision': PRECISION.value,
        **torch_version('pytorch' in found),
        **prepared().environment,
      }
    )
  )


if __name__ == '__main__':
  app.run(main)
