# SPDX-License-Identifier: Apache-2.0
"""Features rank a gallery: CMC and mAP, exact; knows no experiment."""

from srdl_jax.retrieval.distances import METRICS
from srdl_jax.retrieval.features import pool_queries
from srdl_jax.retrieval.metrics import (
  RANKS,
  Nearest,
  Scores,
  evaluate_features,
  evaluate_ranking,
  nearest,
)
from srdl_jax.retrieval.re_ranking import ReRanking

__all__ = [
  'METRICS',
  'RANKS',
  'Nearest',
  'ReRanking',
  'Scores',
  'arrays',
  'evaluate_features',
  'evaluate_ranking',
  'features',
  'measure',
  'montage',
  'nearest',
  'pool_queries',
]
