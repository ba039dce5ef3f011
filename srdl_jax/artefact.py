# SPDX-License-Identifier: Apache-2.0
"""What it takes to use trained networks without their data: model.json."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from srdl_jax import augment, data, models, parallel, storage
from srdl_jax.errors import ConfigError, DataError, WorkdirError
from srdl_jax.methods import Stage
from srdl_jax.network import CLASSIFICATION, RETRIEVAL, Network
from srdl_jax.runs import formats, processes

FILE = 'model.json'
_AXES = 3
# What model.json holds, by name: of lists, each of the values.
_LISTS = {
  'image_shape': int,
  'mean': float,
  'std': float,
  'classes': str,
  'words': str,
  'networks': dict,
}
_KINDS = {'task': str, 'resize': int, 'data': dict, **_LISTS}
_TOLD = {'name': str, 'fingerprint': str, 'train_examples': int}


@dataclasses.dataclass(frozen=True)
class Artefact:
  """What a run's networks see and say.

  Attributes:
    task: network.CLASSIFICATION or network.RETRIEVAL.
    image_shape: (H, W, C) of an image.
    resize: length that the shorter side of an image of another size gets before
      its centre is cut out, in pixels; 0 where it is stretched.
    mean, std: per channel, of pixels scaled to [0, 1].
    classes: their names, by label.
    words: what the names mean, where they are codes, else nothing.
    networks: of each stage its model and the options that aren't its family's
      usual.
    data: name, version and fingerprint of the training split, and how many of
      its examples train.
  """

  task: str
  image_shape: tuple[int, int, int]
  resize: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  classes: tuple[str, ...]
  words: tuple[str, ...]
  networks: tuple[dict[str, Any], ...]
  data: dict[str, Any]

  @property
  def titles(self) -> tuple[str, ...]:
    """The classes' names with what they mean."""
    if not self.words:
      return self.classes
    pairs = zip(self.classes, self.words, strict=True)
    return tuple(
      f'{name} ({words})' if words else name for name, words in pairs
    )


def describe(
  config: ConfigDict,
  plan: Sequence[Stage],
  dataset: data.Dataset,
  train_examples: int,
) -> Artefact:
  """Returns what the networks of a run will see and say.

  Args:
    dataset: with the number of classes in use.
    train_examples: how many train.

  Raises:
    DataError: not every class has a name, though some have.
  """
  images, count = dataset.train.images, dataset.num_classes
  height, width, channels = images.shape[1:]
  square = height if height == width else 0
  names = dataset.classes or tuple(str(n) for n in range(count))
  if len(names) < count or len(dataset.words) not in (0, len(names)):
    raise DataError(
      f'{dataset.name} has {count} classes, but {len(names)} names of them, '
      f'and {len(dataset.words)} meanings.'
    )
  return Artefact(
    task=RETRIEVAL
    if isinstance(dataset.test, data.Retrieval)
    else CLASSIFICATION,
    image_shape=(height, width, channels),
    resize=images.resize if dataset.train.is_streamed else square,
    mean=tuple(map(float, dataset.mean)),
    std=tuple(map(float, dataset.std)),
    classes=names[:count],
    words=dataset.words[:count],
    networks=tuple(
      {
        'model': stage.model,
        'options': _options(config, stage.model),
        'dtype': config.model.dtype,
      }
      for stage in plan
    ),
    data={
      'name': dataset.name,
      'version': dataset.version,
      'fingerprint': dataset.train.fingerprint,
      'train_examples': train_examples,
    },
  )


def write(workdir: storage.Path, artefact: Artefact) -> None:
  """Writes model.json, all of it or nothing; once for all processes."""
  if processes.is_first():
    record = formats.sealed(dataclasses.asdict(artefact))
    storage.write_json(workdir / FILE, record)


def read(workdir: storage.Path) -> Artefact | None:
  """Returns what model.json says; None where there is none, as in runs of
  earlier versions.

  Raises:
    WorkdirError: it is damaged, of a later version, or no such record.
  """
  path = workdir / FILE
  if not storage.exists(path):
    return None
  record = storage.read_json(path)
  if not isinstance(record, dict):
    raise WorkdirError(f'{path} is not the record of a network.')
  formats.check_seal(path, record)
  try:
    found = {f.name: record[f.name] for f in dataclasses.fields(Artefact)}
  except KeyError as error:
    raise WorkdirError(f'{path} does not say {error}.') from error
  if wrong := _wrong(found):
    raise WorkdirError(
      f'{path} is not the record of a network: its {wrong} can not be '
      f'{found[wrong]!r:.99}.'
    )
  lists = {n: tuple(v) for n, v in found.items() if isinstance(v, list)}
  return Artefact(**{**found, **lists})


def _wrong(found: Mapping[str, Any]) -> str | None:
  """Returns the name of what no record can hold, None where all is well."""
  for name, kind in _KINDS.items():
    several = name in _LISTS
    values = found[name] if several else [found[name]]
    if not isinstance(values, list) or not all(
      isinstance(value, kind) for value in values
    ):
      return name
  told, shape = found['data'], found['image_shape']
  right = {
    'task': found['task'] in (CLASSIFICATION, RETRIEVAL),
    'image_shape': len(shape) == _AXES and min(shape) > 0,
    'mean': len(found['mean']) == len(found['std']) > 0,
    'classes': len(found['classes']) > 0,
    'words': len(found['words']) in (0, len(found['classes'])),
    'data': all(isinstance(told.get(n), kind) for n, kind in _TOLD.items()),
  }
  return next((name for name, is_right in right.items() if not is_right), None)


def create_model(config: ConfigDict, name: str, num_classes: int) -> nn.Module:
  """Returns a network of a run, with the configured options.

  Args:
    name: of the network: the configured one, or a teacher's.
    num_classes: K.

  Raises:
    ConfigError: the name or an option is unknown.
  """
  options = _options(config, name)
  if config.model.remat:
    options['remat'] = True
  return models.create(
    name,
    num_classes,
    **options,
    dtype=jnp.dtype(config.model.dtype),
    axis_name=parallel.AXIS,
  )


def _options(config: ConfigDict, name: str) -> dict[str, Any]:
  # Options of a family are meant for the configured network; a teacher of
  # another one is its family's usual.
  options = {}
  if name == config.model.name and config.model.shortcut:
    options['shortcut'] = config.model.shortcut
  if name == config.model.name and config.model.stem:
    options['small_stem'] = config.model.stem == 'small'
  return options


def create_network(
  config: ConfigDict,
  name: str,
  artefact: Artefact,
  devices: list[jax.Device],
) -> Network:
  """Returns a network of a run.

  Args:
    name: of the network: the configured one, or a teacher's.
    artefact: of the run: what its networks see and say.

  Raises:
    ConfigError: the name or an option is unknown, or the images too small.
  """
  # uint8 less a mean in bfloat16 would lose what it tells.
  dtype = jnp.promote_types(config.model.dtype, jnp.float32)
  network = Network(
    name,
    create_model(config, name, len(artefact.classes)),
    artefact.image_shape,
    len(artefact.classes),
    augment.Normalise(artefact.mean, artefact.std, dtype),
    artefact.task,
    devices,
  )
  # Before anything is trained: images that are too small, and more.
  layers, share = network.like['params'], config.optimiser.backbone_share
  if share != 1.0 and not layers.keys() & set(models.CLASSIFIERS):
    raise ConfigError(
      f'optimiser.backbone_share = {share}, but the last layer of {name} is '
      f'none of {", ".join(models.CLASSIFIERS)}: all would have that share.'
    )
  return network
