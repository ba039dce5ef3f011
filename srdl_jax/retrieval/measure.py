# SPDX-License-Identifier: Apache-2.0
"""What is measured where test identities are new: each query ranks a gallery.

The classifier knows none of them. A network's pooled features stand for its
images, and Euclidean distance tells who is alike.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from srdl_jax import data
from srdl_jax.errors import NonFiniteLossError
from srdl_jax.network import Member
from srdl_jax.retrieval.features import normalise, pool_queries, unusable
from srdl_jax.retrieval.metrics import evaluate_features, nearest
from srdl_jax.retrieval.re_ranking import ReRanking
from srdl_jax.retrieval.task import Task
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
  """The features of a test's images: [Q, D], [G, D] and [n, D]."""

  test: data.Retrieval
  settings: Settings
  query: np.ndarray
  gallery: np.ndarray
  multi_query: np.ndarray | None = None


def refuse_impossible(test: data.Retrieval) -> None:
  """Raises DataError where no query can be answered, and says why."""
  asked = [slice(None)]
  if test.multi_query is not None:
    asked.append(test.pictured_queries)
  for queries in asked:
    Task(
      test.query.identities[queries],
      test.gallery.identities,
      test.query.cameras[queries],
      test.gallery.cameras,
    ).refuse_impossible()


def extract(members: Sequence[Member], settings: Settings) -> Extracted:
  """Computes the features of all images of a test, each once, in order.

  Args:
    members: whose examples are one test. Features of several networks stand
      side by side, each of length 1.

  Raises:
    NonFiniteLossError: a feature isn't finite.
  """
  test = members[0].examples
  found = {
    part.name: _features(members, part.name, settings) for part in test.parts
  }
  return Extracted(test, settings, **found)


def _features(members, part: str, settings) -> np.ndarray:
  """Returns the features [N, D] of the N images of a part of a test."""
  found = []
  for member in members:
    sightings = getattr(member.examples, part)
    blocks = member.network.features(
      member.variables,
      sightings.images,
      np.arange(len(sightings.identities)),
      member.batch_size,
      mirrored=settings.mirror,
    )
    features_NxD = np.concatenate([features_BxD for _, features_BxD in blocks])
    wrong_N = unusable(features_NxD)
    if wrong_N.any():
      raise NonFiniteLossError(
        f'The features of {part} image {wrong_N.argmax()} are not finite or '
        'too large: lower optimiser.learning_rate, in another workdir, or look '
        'at the data.'
      )
    found.append(features_NxD)
  if len(found) > 1 or settings.normalise:
    found = [normalise(features_NxD, part) for features_NxD in found]
  return np.concatenate(found, axis=1)


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
  numbers = single.numbers() | {'examples': single.valid_queries}
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
