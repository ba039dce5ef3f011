# SPDX-License-Identifier: Apache-2.0
"""flatness.json: the loss around networks, as the report draws it."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from srdl_jax import workdir
from srdl_jax.errors import WorkdirError

NAME = 'flatness.json'
KINDS = ('literal', 'filter_normalised')
SPLITS = ('train', 'test')


@dataclasses.dataclass(frozen=True)
class Network:
  """A network and the loss around it.

  Attributes:
    workdir: of its run.
    name: of the network and its method; that of other seeds is the same, and
      so may be that of other runs.
    seed: of its run.
    what: the run was, but for its seed, as far as the file says: fields of its
      configuration by dotted names, 'weights', 'teacher', 'checkpoint'.
    norm: of its parameters.
    parameters: how many.
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
    path: of the file.
    distances: from the networks, ascending, by kind of the directions: along
      unit vectors for the literal ones, in filters' norms for the others.
    directions: how many random ones.
    examples: images that the loss is a mean of, by split.
    networks: in the file's order.
    commit: of the program, '' where it isn't known.
    device: that it was computed on.
  """

  path: str
  distances: dict[str, np.ndarray]
  directions: int
  examples: dict[str, int]
  networks: list[Network]
  commit: str
  device: str


def read_flatness(path: pathlib.Path) -> Flatness:
  """Reads a file.

  Raises:
    WorkdirError: it is damaged, or another program's.
  """
  found = workdir.read_json(path)
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
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise WorkdirError(
      f'{path} is not what python -m srdl_jax.flatness writes.'
    ) from error


def _network(found: dict[str, Any]) -> Network:
  # Older files hold no configuration.
  what = dict(found.get('config') or {})
  what.pop('seed', None)
  for name in ('weights', 'teacher', 'checkpoint', 'parameters'):
    what[name] = found.get(name)
  return Network(
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
