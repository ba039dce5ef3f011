# SPDX-License-Identifier: Apache-2.0
"""Features of networks rank a gallery, where a test's classes are new."""

from collections.abc import Mapping, Sequence
from typing import Any

from srdl_jax.errors import ConfigError
from srdl_jax.experiment import Experiment
from srdl_jax.retrieval import measure

# Of each run its experiment, and parameters and statistics by the number of the
# stage.
Runs = Sequence[tuple[Experiment, Mapping[int, Any]]]


def rank(runs: Runs) -> dict[str, float | int]:
  """Returns the metrics of some networks; see `extract_features` and
  `measure.metrics`."""
  return measure.first_ones(measure.metrics(extract_features(runs)))


def extract_features(
  runs: Runs, changes: Mapping[str, Any] | None = None
) -> measure.Extracted:
  """Computes the features of all images of a test: see `measure.extract`.

  Args:
    runs: how the first one ranks counts for all.
    changes: to how it ranks, by field.

  Raises:
    ConfigError: the runs rank other images.
    NonFiniteLossError: a feature isn't finite.
  """
  first, _ = runs[0]
  for other, _ in runs[1:]:
    if other.dataset.test.fingerprint != first.dataset.test.fingerprint:
      raise ConfigError(
        f'The runs rank other images: {first.description}; {other.description}.'
      )
  config = first.config
  settings = {
    'normalise': config.retrieval.normalise,
    'mirror': config.retrieval.mirror,
    'pooling': config.retrieval.pooling,
    're_rank': config.retrieval.re_rank,
    **(changes or {}),
  }
  members = [m for e, its in runs for m in e.members(its, e.dataset.test)]
  return measure.extract(members, measure.Settings(**settings))
