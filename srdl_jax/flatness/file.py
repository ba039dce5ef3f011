# SPDX-License-Identifier: Apache-2.0
"""flatness.json: the loss around networks, by runs and seeds."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srdl_jax import storage
from srdl_jax.errors import WorkdirError

NAME = 'flatness.json'  # Of the file.
KINDS = ('literal', 'filter_normalised')  # Of directions.
SPLITS = ('train', 'test')  # On which the loss is measured.


@dataclasses.dataclass(frozen=True)
class MeasuredNetwork:
  """A network and the loss around it.

  Attributes:
    name: of the network and its method; that of other seeds is the same, and
      so may be that of other runs.
    what: the run was, but for its seed, as far as the file says: fields of its
      configuration by dotted names, 'weights', 'teacher', 'checkpoint'.
    losses: by (kind, split), mean cross-entropies in nats [directions,
      distances]; NaN where one wasn't finite.
  """

  workdir: str
  name: str
  seed: int
  norm: float
  parameters: int
  losses: dict[tuple[str, str], np.ndarray]
  what: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Flatness:
  """What a file holds.

  Attributes:
    distances: from the networks, ascending, by kind of the directions: along
      unit vectors for the literal ones, in filters' norms for the others.
    directions: how many random ones.
    examples: images that the loss is a mean of, by split.
    networks: in the file's order.
    commit: of the program, '' where it isn't known.
  """

  path: str
  distances: dict[str, np.ndarray]
  directions: int
  examples: dict[str, int]
  networks: list[MeasuredNetwork]
  commit: str
  device: str


def read(path: pathlib.Path) -> Flatness:
  """Reads a file.

  Raises:
    WorkdirError: it is damaged, or another program's.
  """
  found = storage.read_json(path)
  try:
    names = dict(zip(KINDS, ('distances', 'alphas'), strict=True))
    distances = {kind: np.array(found[n], float) for kind, n in names.items()}
    directions = int(found['directions'])
    networks = [_network(one) for one in found['runs']]
    for network in networks:
      for (kind, _), curves in network.losses.items():
        if curves.shape != (directions, len(distances[kind])):
          raise ValueError(f'shape {curves.shape}')
    return Flatness(
      path=str(path),
      distances=distances,
      directions=directions,
      examples={split: int(found['examples'][split]) for split in SPLITS},
      networks=networks,
      commit=str(found.get('commit') or ''),
      device=str((found.get('device') or {}).get('kind', '')),
    )
  except (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
  ) as error:
    raise WorkdirError(
      f'{path} is not what python -m srdl_jax.flatness writes.'
    ) from error


def _network(found: dict[str, Any]) -> MeasuredNetwork:
  # Older files hold no configuration.
  what = dict(found.get('config') or {})
  what.pop('seed', None)
  for name in ('weights', 'teacher', 'checkpoint', 'parameters'):
    what[name] = found.get(name)
  return MeasuredNetwork(
    workdir=str(found['workdir']),
    name=str(found['name']),
    seed=int(found['seed']),
    norm=float(found['norm']),
    parameters=int(found['parameters']),
    # None, a loss that wasn't finite, becomes NaN.
    losses={
      (kind, split): np.array(found['curves'][kind][split], float)
      for kind in KINDS
      for split in SPLITS
    },
    what=what,
  )


def groups(found: Flatness) -> dict[str, list[MeasuredNetwork]]:
  """Returns networks by the label of their group, in the file's order.

  A group is one configuration and its seeds. Where a file doesn't say which
  configuration, networks of one name are a group as long as no seed comes
  twice: else each is alone. Groups of one name are told apart by what differs,
  the epochs as M.
  """
  together: dict[str, list[MeasuredNetwork]] = {}
  # By the name alone, two budgets of a method were averaged as if seeds.
  for network in found.networks:
    key = repr((network.name, sorted(network.what.items())))
    together.setdefault(key, []).append(network)
  apart: list[list[MeasuredNetwork]] = []
  for group in together.values():
    # A seed that comes twice is no seed more, and may be another run's.
    is_one = len({network.seed for network in group}) == len(group)
    apart += [group] if is_one else [[network] for network in group]
  labels = [_label(group, apart) for group in apart]
  return dict(zip(_distinct(labels, apart), apart, strict=True))


def _label(
  group: list[MeasuredNetwork], groups: Sequence[list[MeasuredNetwork]]
) -> str:
  """Returns the name, and what groups of the same name differ in."""
  first = group[0]
  rivals = [other[0] for other in groups if other[0].name == first.name]
  told = [
    _told(name, first.what.get(name))
    for name in dict.fromkeys(name for rival in rivals for name in rival.what)
    if len({repr(rival.what.get(name)) for rival in rivals}) > 1
  ]
  return ', '.join([first.name, *told])


def _told(name: str, value: Any) -> str:
  if name == 'epochs' and value is not None:
    return f'M = {value}'
  # Digests are told apart by their beginning.
  short = value[:8] if value and name in ('weights', 'teacher') else value
  return f'{name}={short}'


def _distinct(
  labels: Sequence[str], groups: Sequence[list[MeasuredNetwork]]
) -> list[str]:
  """Adds directories, and seeds, to labels that several groups have."""
  for tell in (
    lambda network, n: network.workdir,
    lambda network, n: f'seed {network.seed}',
    lambda network, n: f'network {n}',
  ):
    labels = [
      f'{label}, {tell(group[0], n)}' if labels.count(label) > 1 else label
      for n, (label, group) in enumerate(zip(labels, groups, strict=True), 1)
    ]
  return list(labels)
