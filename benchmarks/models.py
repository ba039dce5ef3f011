# SPDX-License-Identifier: Apache-2.0
"""Images/s of every network, forward and train step, and of PyTorch's.

    python benchmarks/models.py [--models=resnet32,wrn28_10] [--batch_size=32] \
        [--rounds=3] [--dtype=float32] [--remat]

Each library is in a process of its own, and they take turns, a step each
round; steps that compile are left out and medians are printed: one JSON line a
network. Ours is the bare step on one device, in a process that is set up as a
command is (`srdl_jax.cpu`). `compile_seconds` and `peak_bytes` (host and
device, after the train steps) are JAX's. Images are random, of 32 x 32 pixels
and 100 classes, or of 224 x 224 and 1,000 for the networks for large images.

PyTorch's images and weights are channels_last; on a GPU both compute in
--dtype, PyTorch with autocast and torch.compile. It takes part where it is
installed, torchvision's networks where torchvision is, too.
"""

import contextlib
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import turns
from absl import app, flags

from srdl_jax import cpu, models, steps, train_state
from srdl_jax.models import densenet, resnet
from srdl_jax.runs import environment
from srdl_jax.runs.environment import peak_memory
from srdl_jax.targets import Source

MODELS = flags.DEFINE_list('models', [], 'Keys of models.MODELS; none: all.')
BATCH = flags.DEFINE_integer('batch_size', 32, 'Images in a step.')
ROUNDS = flags.DEFINE_integer('rounds', 3, 'Rounds that are counted.')
DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.'
)
ROLE = flags.DEFINE_enum('as', '', ['', 'jax', 'pytorch'], 'Of a process.')
REMAT = flags.DEFINE_boolean('remat', False, 'Recompute activations (JAX).')

LARGE = {*resnet.MODELS, *densenet.MODELS} - {
  name for name in densenet.MODELS if name.startswith('densenet_bc')
}
Step = Callable[[], None]


def jax_steps(name: str, size: int, classes: int) -> dict[str, Step]:
  """Returns functions that run one forward pass or train step to its end."""
  remat = {'remat': True} if REMAT.value else {}
  model = models.create(name, classes, dtype=jnp.dtype(DTYPE.value), **remat)
  state = train_state.fresh(
    model,
    train_state.sgd(momentum=0.9, weight_decay=2e-4),
    jax.random.key(0),
    (size, size, 3),
  )
  batch = {
    'image': jax.random.normal(jax.random.key(1), (BATCH.value, size, size, 3)),
    'label': jnp.arange(BATCH.value) % classes,
    'index': jnp.arange(BATCH.value),
    'soft_logits': None,
  }
  evaluate = jax.jit(functools.partial(model.apply, train=False))
  step = jax.jit(
    functools.partial(
      steps.train_step, schedule=lambda _: 0.01, source=Source(3.0)
    ),
    donate_argnums=0,
  )

  def forward() -> None:
    evaluate(state.variables, batch['image']).block_until_ready()

  def train() -> None:
    nonlocal state
    state, metrics = step(state, batch)
    metrics['loss'].block_until_ready()

  return {'forward': forward, 'train': train}


def torch_steps(name: str, size: int, classes: int) -> dict[str, Step]:
  """Returns the same for PyTorch; nothing where it isn't installed."""
  try:
    import torch
    import torch_models

    model = torch_models.create(name, classes)
  except ImportError:
    return {}
  gpu = torch.cuda.is_available()
  device = 'cuda' if gpu else 'cpu'
  images = torch.randn(BATCH.value, 3, size, size, device=device)
  images = images.to(memory_format=torch.channels_last)
  labels = torch.arange(BATCH.value, device=device) % classes
  model = model.to(device, memory_format=torch.channels_last)
  call = torch.compile(model) if gpu else model
  sgd = torch.optim.SGD(
    model.parameters(), 0.01, 0.9, weight_decay=2e-4, nesterov=True
  )

  def numbers():
    if DTYPE.value == 'float32':
      return contextlib.nullcontext()
    return torch.autocast(device, torch.bfloat16)

  def finish() -> None:
    if gpu:
      torch.cuda.synchronize()

  def forward() -> None:
    model.eval()
    with torch.no_grad(), numbers():
      call(images)
    finish()

  def train() -> None:
    model.train()
    sgd.zero_grad()
    with numbers():
      loss = torch.nn.functional.cross_entropy(call(images), labels)
    loss.backward()
    sgd.step()
    finish()

  return {'forward': forward, 'train': train}


def seconds(step: Step) -> float:
  begun = time.monotonic()
  step()
  return time.monotonic() - begun


def contend(name: str) -> None:
  """Serves as one of the libraries: its steps take turns with the other's."""
  size, classes = (224, 1000) if name in LARGE else (32, 100)
  make = torch_steps
  if ROLE.value == 'jax':
    cpu.prepare()
    make = jax_steps
  runs = {
    what: functools.partial(seconds, step)
    for what, step in make(name, size, classes).items()
  }
  compiling = {what: run() for what, run in runs.items()}
  for run in runs.values():
    run()
  if ROLE.value == 'jax':
    found = {
      'model': name,
      'image_size': size,
      'batch_size': BATCH.value,
      'dtype': DTYPE.value,
      'remat': REMAT.value,
      'compile_seconds': compiling,
      'peak_bytes': peak_memory(jax.devices()),
      **environment.environment(jax.devices()[:1]),
    }
    runs['about'] = lambda: json.dumps(found)
  if runs:
    turns.serve(runs)


def measure(name: str) -> dict:
  """Returns what is measured of a network.

  Raises:
    ChildProcessError: our process has ended.
  """
  libraries = {}
  for role in ('jax', 'pytorch'):
    contestant = turns.Contestant(
      [*sys.argv, f'--models={name}', f'--as={role}']
    )
    if contestant.ready() or role == 'jax':
      libraries[role] = contestant
  found = json.loads(libraries['jax'].ask('about'))
  for what in ('forward', 'train'):
    times = {role: [] for role in libraries}
    for _ in range(ROUNDS.value):
      for role, contestant in libraries.items():
        times[role].append(float(contestant.ask(what)))
    speeds = {
      role: BATCH.value / statistics.median(values)
      for role, values in times.items()
    }
    if 'pytorch' in libraries:
      speeds['ratio'] = speeds['jax'] / speeds['pytorch']
    found[f'{what}_images_per_second'] = speeds
  for contestant in libraries.values():
    contestant.end()
  return found


def main(argv: Sequence[str]) -> None:
  del argv
  names = MODELS.value or list(models.MODELS)
  unknown = sorted(set(names) - set(models.MODELS))
  if unknown:
    sys.exit(f'error: unknown model(s) {", ".join(unknown)}')
  if ROLE.value:
    contend(names[0])
    return
  failed = []
  for name in names:
    try:
      print(json.dumps(measure(name)), flush=True)
    except ChildProcessError:
      failed.append(name)
  if failed:
    sys.exit(f'error: {", ".join(failed)} failed')


if __name__ == '__main__':
  app.run(main)
