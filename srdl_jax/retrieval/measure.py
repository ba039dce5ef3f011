# SPDX-License-Identifier: Apache-2.0
"""What is measured where test identities are new: each query ranks a gallery.

The classifier knows none of them. A network's pooled features stand for its
images, and Euclidean distance tells who is alike.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from srdl_jax import data
from srdl_jax.retrieval.features import pool_queries
from srdl_jax.retrieval.metrics import evaluate_features, nearest
from srdl_jax.retrieval.re_ranking import ReRanking
from srdl_jax.runs import processes


@dataclasses.dataclass(frozen=True)
class Settings:
  """How images are ranked; see the fields `retrieval` of a configuration."""

  normalise: bool
  mirror: bool
  pooling: str
  re_rank: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Extracted:
  """The features of a test.

  Attributes:
    test: whose images.
    settings: how to rank.
    query: [Q, D].
    gallery: [G, D].
    multi_query: [n, D], or None.
  """

  test: data.Retrieval
  settings: Settings
  query: np.ndarray
  gallery: np.ndarray
  multi_query: np.ndarray | None


def metrics(found: Extracted) -> dict[str, float | int]:
  """Returns the metrics of single queries and, where there are, of several.

  Returns:
    See `metrics.Scores.numbers`; those of queries of several images begin
    with 'multi_query_', and queries without such images are among the skipped.
    'examples' is the number of valid queries.

  Raises:
    DataError: see `evaluate_features` and `pool_queries`.
  """
  sides = _sides(found)
  single = evaluate_features(found.query, found.gallery, **sides)
  numbers = single.numbers()
  numbers['examples'] = single.valid_queries
  if found.multi_query is not None:
    numbers |= _of_several_images(found, sides)
  return numbers


def _of_several_images(found: Extracted, sides) -> dict[str, float | int]:
  """Returns the metrics of queries that are pooled from several images."""
  images = found.test.multi_query
  pictured_Q = found.test.pictured_queries
  who = {
    name: sides[name][pictured_Q] for name in ('query_ids', 'query_cameras')
  }
  pooled, _, _ = pool_queries(
    found.multi_query,
    images.identities,
    images.cameras,
    found.settings.pooling,
    **who,
  )
  numbers = evaluate_features(
    pooled, found.gallery, metric='cosine', **(sides | who)
  ).numbers()
  numbers['skipped_queries'] += int((~pictured_Q).sum())
  return {
    f'multi_query_{name}': value
    for name, value in numbers.items()
    if name not in ('gallery_items', 'junk_removed')
  }


def first_ones(numbers: dict[str, float | int]) -> dict[str, float | int]:
  """Returns the first process's metrics, where several have computed them.

  Distances that each computes may differ in their last bits, and what is done
  next depends on them.
  """
  values = np.array([float(value) for value in numbers.values()])
  values = np.frombuffer(processes.first_ones(values.tobytes()))
  return {
    name: type(own)(value)
    for (name, own), value in zip(numbers.items(), values, strict=True)
  }


def draw(found: Extracted, path: pathlib.Path, queries: int) -> None:
  """Draws what is nearest to a few queries, spread over all.

  Args:
    found: of the test.
    path: of the PNG file.
    queries: how many, at most.

  Raises:
    WorkdirError: the file can't be written.
  """
  rows = np.unique(
    np.linspace(0, len(found.query) - 1, queries).round().astype(int)
  )
  sides = _sides(found)
  if found.settings.re_rank:
    # Neighbours are among all queries' images.
    rankings = nearest(found.query, found.gallery, **sides)
    rankings = [rankings[row] for row in rows]
  else:
    sides |= {n: sides[n][rows] for n in ('query_ids', 'query_cameras')}
    rankings = nearest(found.query[rows], found.gallery, **sides)
  # It takes matplotlib, and a second.
  from srdl_jax.retrieval import montage

  montage.montage(
    path,
    lambda row: found.test.query.images[np.array([row])][0],
    lambda row: found.test.gallery.images[np.array([row])][0],
    dict(zip(rows.tolist(), rankings, strict=True)),
  )


def _sides(found: Extracted) -> dict[str, Any]:
  """Returns who is looked for among whom, and how."""
  query, gallery = found.test.query, found.test.gallery
  return {
    'query_ids': query.identities,
    'query_cameras': query.cameras,
    'gallery_ids': gallery.identities,
    'gallery_cameras': gallery.cameras,
    're_rank': ReRanking() if found.settings.re_rank else None,
  }
