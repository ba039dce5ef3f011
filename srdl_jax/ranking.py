# SPDX-License-Identifier: Apache-2.0
"""What is measured where test identities are new: each query ranks a gallery.

The classifier knows none of them. A network's pooled features stand for its
images, and Euclidean distance tells who is alike.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srdl_jax import data, parallel, processes, retrieval
from srdl_jax.errors import ConfigError, NonFiniteLossError
from srdl_jax.experiment import Experiment
from srdl_jax.predict import predict
from srdl_jax.re_ranking import ReRanking
from srdl_jax.retrieval_features import (
  LONGEST,
  normalise,
  pool_queries,
  squared_lengths,
)

Runs = Sequence[tuple[Experiment, Mapping[int, Any]]]


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


def measure(runs: Runs) -> dict[str, float | int]:
  """Returns the metrics of some networks: see `extract` and `metrics`.

  Several processes have the first one's: distances that each computes may
  differ in their last bits, and what is done next depends on them.
  """
  numbers = metrics(extract(runs))
  values = np.array([float(value) for value in numbers.values()])
  values = np.frombuffer(processes.first_ones(values.tobytes()))
  return {
    name: type(own)(value)
    for (name, own), value in zip(numbers.items(), values, strict=True)
  }


def extract(runs: Runs, changes: Mapping[str, Any] | None = None) -> Extracted:
  """Computes the features of all images of a test, each once, in order.

  Args:
    runs: of each an experiment, whose settings of the first count, and
      variables by the number of the stage. Features of several networks stand
      side by side, each of length 1.
    changes: to those settings, by name.

  Raises:
    ConfigError: the runs rank other images.
    NonFiniteLossError: a feature isn't finite.
  """
  test = _same_test(runs)
  settings = dataclasses.replace(settings_of(runs[0][0]), **(changes or {}))
  found = {
    part.name: features(runs, part.name, settings) for part in test.parts
  }
  return Extracted(test, settings, **{'multi_query': None, **found})


def metrics(found: Extracted) -> dict[str, float | int]:
  """Returns the metrics of single queries and, where there are, of several.

  Returns:
    See `retrieval.Retrieval.numbers`; those of queries of several images begin
    with 'multi_query_', and queries without such images are among the skipped.
    'examples' is the number of valid queries.

  Raises:
    DataError: see `retrieval.evaluate_features` and
      `retrieval_features.pool_queries`.
  """
  sides = _sides(found)
  single = retrieval.evaluate_features(found.query, found.gallery, **sides)
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
  numbers = retrieval.evaluate_features(
    pooled, found.gallery, metric='cosine', **(sides | who)
  ).numbers()
  numbers['skipped_queries'] += int((~pictured_Q).sum())
  return {
    f'multi_query_{name}': value
    for name, value in numbers.items()
    if name not in ('gallery_items', 'junk_removed')
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
    rankings = retrieval.nearest(found.query, found.gallery, **sides)
    rankings = [rankings[row] for row in rows]
  else:
    sides |= {n: sides[n][rows] for n in ('query_ids', 'query_cameras')}
    rankings = retrieval.nearest(found.query[rows], found.gallery, **sides)
  # It takes matplotlib, and a second.
  from srdl_jax import montage

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


def settings_of(experiment: Experiment) -> Settings:
  """Returns how a run ranks."""
  config = experiment.config
  return Settings(
    normalise=config.retrieval.normalise,
    mirror=config.retrieval.mirror,
    pooling=config.retrieval.pooling,
    re_rank=config.retrieval.re_rank,
  )


def features(runs: Runs, part: str, settings: Settings) -> np.ndarray:
  """Returns the features [N, D] of a part of a test.

  Args:
    runs: see `extract`.
    part: 'query', 'gallery' or 'multi_query', which has N images.
    settings: how to rank.

  Raises:
    NonFiniteLossError: a feature isn't finite.
  """
  found = [
    # Each at its own run's size of images.
    _of_network(
      experiment,
      number,
      variables,
      getattr(experiment.dataset.test, part),
      settings.mirror,
    )
    for experiment, members in runs
    for number, variables in members.items()
  ]
  if len(found) > 1 or settings.normalise:
    found = [normalise(features_NxD, part) for features_NxD in found]
  return np.concatenate(found, axis=1)


def _of_network(experiment, number, variables, part, mirrored) -> np.ndarray:
  devices = experiment.devices
  blocks = predict(
    experiment.network(number).feature_batch(mirrored),
    parallel.replicate(variables, devices),
    lambda rows_B: part.images[parallel.own(rows_B, devices)],
    np.arange(len(part.identities)),
    parallel.whole_batch(experiment.config.eval.batch_size, devices),
  )
  features_NxD = np.concatenate([features for _, features in blocks])
  with np.errstate(over='ignore', invalid='ignore'):
    wrong_N = ~(squared_lengths(features_NxD) < LONGEST)
  if wrong_N.any():
    raise NonFiniteLossError(
      f'The features of {part.name} image {wrong_N.argmax()} are not finite '
      'or too large: lower optimiser.learning_rate, in another workdir, or '
      'look at the data.'
    )
  return features_NxD


def _same_test(runs: Runs) -> data.Retrieval:
  first, _ = runs[0]
  for other, _ in runs[1:]:
    if other.dataset.test.fingerprint != first.dataset.test.fingerprint:
      raise ConfigError(
        f'The runs rank other images: {first.description}; {other.description}.'
      )
  return first.dataset.test
