# SPDX-License-Identifier: Apache-2.0
"""What a TPU's compiler makes of a run's programs, without the TPU.

    pip install libtpu  # Of the version that jax[tpu] names.
    python benchmarks/compiled.py --topology=v5e:2x2 \
        --config=configs/cifar100.py:model=resnet32 [--config.devices=1]

--topology names chips (v4:2x2x1, v4:2x2x4, v5e:2x2, ...), of which
config.devices, if it is set, takes the first ones. The programs are those of
`parallel.map_train`, for the last stage and as many steps as a dispatch has,
and of `Network.predict`, of given images or (`evaluate`) of resident ones, as
many as are trained on. Only the data set's shape is used: none is read. What
is printed are the compiler's figures, not measurements: of one chip, FLOPs and
so on of one step. Each is a JSON line, or with --table a table's row:

- `memory`: bytes that the program takes: what it is given and returns, what is
  in between, and itself; `temporary` is what is in between;
- `donated`: bytes of results that take the place of the state given, and
  `state`, the bytes of a state;
- `flops`, `bytes_accessed` and `cycles`, the compiler's estimates; the last
  leaves out what a dispatch does once;
- `collectives`: how many of each kind a step has;
- `loops`: how many there are, the one over the steps among them;
- `image_copies`: how often all of the resident images are made anew.
"""

import collections
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import re
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np
from absl import app, flags, logging
from jax.experimental import topologies

from srdl_jax import build, command, data, feed, parallel
from srdl_jax.experiment import BoundStage, Experiment, Purpose
from srdl_jax.machine import tpu
from srdl_jax.runs import environment

TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', 'Chips, as KIND:SHAPE.')
PROGRAMS = flags.DEFINE_list(
  'programs', ['train'], 'Of train, predict, evaluate.'
)
TABLE = flags.DEFINE_bool('table', False, "Print a table's rows, not JSON.")
DUMP = flags.DEFINE_string('dump', None, "A folder for the programs' texts.")

# What libtpu asks Google's machines for, and a second process could not have.
SURROUNDINGS = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v4-8',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
# Of a v4, whose chips have two cores that count as one.
V4 = {'chip_config_name': 'megacore', 'num_slices': 1}
KINDS = 'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all'
# They name a part of memory, and fill none.
_VIEWS = 'parameter', 'get-tuple-element', 'bitcast', 'tuple', 'while'


def described(topology: str) -> list[jax.Device]:
  """Returns the chips of a topology; nothing can run on them."""
  os.environ.update(SURROUNDINGS)
  options = {}
  if topology.startswith('v4:'):
    options = {**V4, 'chips_per_host_bounds': (2, 2, 1)}
  return topologies.get_topology_desc(topology, 'tpu', **options).devices


@dataclasses.dataclass(frozen=True)
class Streamed:
  """As `data.images.StreamedImages` looks before one is decoded."""

  shape: tuple[int, int, int, int]
  least_area: float = 1.0
  resize: int = 0

  def __len__(self) -> int:
    return self.shape[0]


def empty(source: data.Location, name: str) -> data.Dataset:
  """Returns a data set of its shape, and of no memory."""
  del source
  shape = data.shape(name)
  count, classes = shape.train_examples, shape.num_classes
  channels = (0.5,) * shape.image_shape[-1]

  def zeros(count: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (count, *shape.image_shape))

  def split(name: str, images: Any) -> data.Split:
    labels = np.arange(len(images), dtype=np.int32) % classes
    return data.Split(name, images, labels, '')

  images = zeros(count)
  if name == 'imagenet':
    images = Streamed(images.shape)
  test = split('test', zeros(classes))
  if name == 'market1501':
    seen = [
      data.Sightings(part, zeros(1), np.ones(1, int), np.full(1, n), ('',), '')
      for n, part in enumerate(('query', 'gallery'))
    ]
    test = data.Retrieval(*seen)
  train = split('train', images)
  return data.Dataset(name, '0', classes, channels, channels, train, test)


@contextlib.contextmanager
def compiling_for(devices: list[jax.Device]) -> Iterator[None]:
  """The chips are JAX's; what is mapped over them is lowered instead of run."""

  def lowering(*args: Any, **options: Any) -> Callable[..., jax.stages.Lowered]:
    return pmap(*args, **options).lower

  def shapes(tree: Any, devices: list[jax.Device]) -> Any:
    del devices
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree
    )

  pmap = jax.pmap
  with (
    mock.patch.object(jax, 'devices', lambda: devices),
    mock.patch.object(jax, 'pmap', lowering),
    mock.patch.object(parallel, 'replicate', shapes),
  ):
    yield


def built(config: Any) -> Experiment:
  """Returns the experiment of a configuration, on an empty data set."""
  name = config.data.name
  entry = data.Entry(lambda source: empty(source, name), data.shape(name))
  with mock.patch.dict(data.DATASETS, {name: entry}):
    return build.build(config)


def knowledge_of(experiment: Experiment, stage: BoundStage) -> Any:
  """Returns what a stage's teacher would have taught, by its shapes."""
  if stage.plan.teacher is None:
    return None
  count = len(experiment.labels), stage.network.num_classes
  streamed = experiment.dataset.train.is_streamed
  kept = np.float16 if streamed else np.float32
  bank = types.SimpleNamespace(
    temperature=experiment.config.distillation.temperature,
    log_probs_NxK=np.broadcast_to(kept(0), count),
  )
  variables = experiment.stages[stage.plan.teacher - 1].network.like
  teacher = types.SimpleNamespace(variables=variables)
  return types.SimpleNamespace(bank=bank, teacher=teacher)


def undecoded(
  views: Any, size: int, **options: Any
) -> Iterator[dict[str, Any]]:
  """Yields what `pipeline.batches` does, of no memory."""
  del options
  image = np.broadcast_to(np.uint8(0), (size, *views.images.shape[1:]))
  while True:
    yield {'image': image, 'view': np.zeros(size, np.int32)}


def lowered(experiment: Experiment, program: str) -> jax.stages.Lowered:
  """Returns a run's program, not compiled yet; within `compiling_for`."""
  stage = experiment.stages[-1]
  if program in ('predict', 'evaluate'):
    devices = experiment.devices
    # Padded, as by `parallel.predict`.
    size = -(-experiment.config.eval.batch_size // len(devices)) * len(devices)
    step = parallel.map_predict(stage.network.predict_step, devices)
    if program == 'evaluate':
      images = tpu.laid_out(experiment.dataset.train.images)
      rows = parallel.own(np.zeros(size, np.int32), devices)
      return step(stage.network.like, images, rows)
    images = np.zeros((size, *stage.network.image_shape), np.uint8)
    return step(stage.network.like, parallel.own(images, devices))
  knowledge = knowledge_of(experiment, stage)
  state = jax.eval_shape(lambda: stage.initial_state(None))
  key = jax.eval_shape(lambda: stage.key(Purpose.AUGMENT, 0))
  with (
    mock.patch.object(feed.pipeline, 'batches', undecoded),
    feed.open_feed(experiment, stage, knowledge, 0) as given,
  ):
    examples = given.examples(0, 0, experiment.steps_per_dispatch)
    return stage.train_chunk(state, given.resident, examples, key)


def figures(
  compiled: jax.stages.Compiled, examples: int, state: Any
) -> dict[str, Any]:
  """Returns what is told of a program; see the top of the file.

  Args:
    examples: of the training set.
    state: shapes of what is donated.
  """
  text, memory = compiled.as_text(), compiled.memory_analysis()
  costs = compiled.cost_analysis()
  made = re.findall(r'= (\w+\[[\d,]*\])\S* ([\w-]+)\(', text)
  images = re.compile(rf'u8\[{examples}(,\d+)+\]')
  kinds = collections.Counter(
    kind.removesuffix('-start')
    for kind in re.findall(r' ([a-z-]+)\(', text)
    if kind.removesuffix('-start') in KINDS
  )
  leaves = jax.tree.leaves(state)
  return {
    'memory': memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes,
    'temporary': memory.temp_size_in_bytes,
    'donated': memory.alias_size_in_bytes,
    'state': sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
    'donated_arrays': len(re.findall(r'(?:may|must)-alias', text)),
    'state_arrays': len(leaves),
    'flops': costs['flops'],
    'bytes_accessed': costs['bytes accessed'],
    'cycles': cycles(text),
    'collectives': dict(kinds),
    'loops': len(re.findall(r' while\(', text)),
    'image_copies': sum(
      kind not in _VIEWS and bool(images.fullmatch(shape))
      for shape, kind in made
    ),
  }


def cycles(text: str) -> int:
  """Returns the compiler's estimate for a step: without what a dispatch does
  beside its loop over the steps."""
  body, _, _ = text.partition('\nENTRY ')
  counted = body if ' while(' in text else text
  return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', counted)))


def row(found: dict[str, Any]) -> str:
  """Returns a table's row."""
  reduced = found['collectives'].get('all-reduce', 0)
  cells = (
    found['model'],
    found['batch_size'],
    f'{found["topology"]}, {found["devices"]}',
    f'{found["memory"] / 2**20:,.0f}',
    f'{found["temporary"] / 2**20:,.0f}',
    f'{found["flops"] / 1e9:,.1f}',
    f'{found["bytes_accessed"] / 1e9:,.2f}',
    f'{found["cycles"] / 1e6:,.2f}',
    f'{reduced} for {found["norms"]} norms',
    f'{found["seconds"]:,.0f}',
  )
  return '| ' + ' | '.join(map(str, cells)) + ' |'


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.ERROR)
  # The chips are described: what is computed on the way is computed here.
  jax.config.update('jax_platforms', 'cpu')
  config = command.given_config()
  devices = described(TOPOLOGY.value)
  with compiling_for(devices):
    experiment = built(config)
    network = experiment.stages[-1].network
    state = jax.eval_shape(lambda: experiment.stages[-1].initial_state(None))
    for program in PROGRAMS.value:
      begun = time.monotonic()
      compiled = lowered(experiment, program).compile()
      if DUMP.value:
        place = os.path.join(DUMP.value, f'{network.name}_{program}.txt')
        with open(place, 'w') as file:
          file.write(compiled.as_text())
      told = {
        'program': program,
        'topology': TOPOLOGY.value,
        'devices': len(experiment.devices),
        'model': network.name,
        'batch_size': config.batch_size,
        'norms': sum(
          getattr(path[-1], 'key', None) == 'scale'
          for path, _ in jax.tree.leaves_with_path(network.like['params'])
        ),
        'steps': experiment.steps_per_dispatch,
        **figures(compiled, len(experiment.labels), state),
        'seconds': time.monotonic() - begun,
        'versions': {
          name: importlib.metadata.version(name) for name in ('jax', 'libtpu')
        },
        'commit': environment.environment(experiment.devices)['commit'],
      }
      print(row(told) if TABLE.value else json.dumps(told), flush=True)


if __name__ == '__main__':
  command.define_config()
  app.run(main)
