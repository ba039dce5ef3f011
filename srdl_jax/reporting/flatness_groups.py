# SPDX-License-Identifier: Apache-2.0
"""Which networks of a flatness.json differ in nothing but the seed."""

from collections.abc import Iterator, Sequence
from typing import Any

from srdl_jax.reporting.flatness_file import Flatness, Network


def groups(found: Flatness) -> dict[str, list[Network]]:
  """Returns networks by the label of their group, in the file's order.

  A group is one configuration and its seeds. Where a file doesn't say which
  configuration, networks of one name are a group as long as no seed comes
  twice: else each is alone. Groups of one name are told apart by what differs,
  the epochs as M.
  """
  together: dict[str, list[Network]] = {}
  for network in found.networks:
    key = repr((network.name, sorted(network.what.items())))
    together.setdefault(key, []).append(network)
  apart = [part for group in together.values() for part in _parts(group)]
  labels = [_label(group, apart) for group in apart]
  return dict(zip(_distinct(labels, apart), apart, strict=True))


def _parts(group: list[Network]) -> Iterator[list[Network]]:
  if len({network.seed for network in group}) == len(group):
    yield group
  else:
    # A seed that comes twice is no seed more, and may be another run's.
    yield from ([network] for network in group)


def _label(group: list[Network], groups: Sequence[list[Network]]) -> str:
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
  labels: Sequence[str], groups: Sequence[list[Network]]
) -> list[str]:
  """Adds directories, and seeds, to labels that several groups have."""
  for tell in (_directory, _seed, _number):
    labels = [
      tell(label, group[0], n) if labels.count(label) > 1 else label
      for n, (label, group) in enumerate(zip(labels, groups, strict=True), 1)
    ]
  return list(labels)


def _directory(label: str, network: Network, number: int) -> str:
  return f'{label}, {network.workdir}'


def _seed(label: str, network: Network, number: int) -> str:
  return f'{label}, seed {network.seed}'


def _number(label: str, network: Network, number: int) -> str:
  return f'{label}, network {number}'
