# SPDX-License-Identifier: Apache-2.0
"""CMC and mAP of person re-identification: exact, each by its name.

A query looks for images of its identity under other cameras. Of the gallery

- junk (identity -1) is removed;
- what shows the query's identity under the query's camera is removed, for that
  query;
- all else stays, distractors (identity 0) too.

The rest is ranked by distance, and equal distances by their order in the
gallery. A query without a match is skipped and counted.

A match's rank is a count of what stands before it. Distances are only compared,
in the type they have, so that -0.0 equals 0.0 and neighbours in the last bit
differ. Nothing depends on how queries are divided into blocks.
"""

import dataclasses
import functools
import numbers
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from srdl_jax.errors import ConfigError, DataError
from srdl_jax.retrieval import distances, re_ranking
from srdl_jax.retrieval.distances import Block, map_rows
from srdl_jax.retrieval.features import refuse_other_lengths
from srdl_jax.retrieval.re_ranking import ReRanking
from srdl_jax.retrieval.task import Task

RANKS = (1, 5, 10, 20)  # Of the CMC, unless others are asked for.


@dataclasses.dataclass(frozen=True)
class Scores:
  """How well queries find their identity.

  Attributes:
    cmc: by rank r, the share of valid queries with a match among their first r
      items, in [0, 1].
    map: mean of `average_precision` over valid queries.
    map_trapezoid: mean of `average_precision_trapezoid`.
    average_precision: mean precision at the matches, as the usual toolkits
      have it, [Q]; NaN for a skipped query.
    average_precision_trapezoid: area under the precision-recall curve by the
      trapezoidal rule, as Market-1501's own tool has it, [Q]; NaN for a skipped
      query.
    first_match_rank: of the nearest match, from 1, [Q]; 0 for a skipped query.
    valid_queries: how many have a match.
    gallery_items: how many items of the gallery are no junk.
  """

  cmc: dict[int, float]
  map: float
  map_trapezoid: float
  average_precision: np.ndarray
  average_precision_trapezoid: np.ndarray
  first_match_rank: np.ndarray
  valid_queries: int
  skipped_queries: int
  gallery_items: int
  junk_removed: int

  def numbers(self) -> dict[str, float | int]:
    """Returns, for JSON, all but what is of single queries."""
    return {
      **{f'rank_{rank}_accuracy': share for rank, share in self.cmc.items()},
      **{n: v for n, v in vars(self).items() if isinstance(v, int | float)},
    }


@dataclasses.dataclass(frozen=True)
class Nearest:
  """The first items of a query's ranking.

  Attributes:
    items: rows of the gallery, the nearest first, [n].
    right: whether each shows the query's identity, [n].
  """

  items: np.ndarray
  right: np.ndarray


def evaluate_ranking(
  dist: np.ndarray,
  query_ids: np.ndarray,
  gallery_ids: np.ndarray,
  query_cameras: np.ndarray | None = None,
  gallery_cameras: np.ndarray | None = None,
  ranks: Sequence[int] = RANKS,
) -> Scores:
  """Returns the metrics of given distances.

  Args:
    dist: of each query to each item, [Q, G]; real, infinities are allowed.
    query_ids, gallery_ids: integers, [Q] and [G].
    query_cameras, gallery_cameras: integers, [Q] and [G]; None, both: no item
      is removed for them.
    ranks: of the CMC, from 1.

  Raises:
    ConfigError: ranks aren't positive integers; only one side has cameras.
    DataError: shapes don't fit; a distance is NaN; no query has a match, or
      nothing is left of the gallery.
  """
  task = Task(query_ids, gallery_ids, query_cameras, gallery_cameras)
  dist = np.asarray(dist)
  shape = (len(task.query_ids), len(task.gallery_ids))
  if dist.shape != shape:
    raise DataError(
      f'Distances are {list(dist.shape)}; the identities are of '
      f'[queries, gallery] = {list(shape)}.'
    )
  if dist.dtype.kind not in 'fiu':
    raise DataError(f'Distances are {dist.dtype}, not real numbers.')
  return _evaluate(task, _row_blocks(dist, task), ranks)


def evaluate_features(
  query: np.ndarray,
  gallery: np.ndarray,
  query_ids: np.ndarray,
  gallery_ids: np.ndarray,
  query_cameras: np.ndarray | None = None,
  gallery_cameras: np.ndarray | None = None,
  *,
  metric: str = 'euclidean',
  ranks: Sequence[int] = RANKS,
  re_rank: ReRanking | None = None,
) -> Scores:
  """Returns the metrics of features; see `distances.blocks`.

  Args:
    query, gallery: features, [Q, D] and [G, D].
    query_ids, gallery_ids, query_cameras, gallery_cameras, ranks: see
      `evaluate_ranking`.
    metric: 'euclidean' or 'cosine'.

  Raises:
    ConfigError: see `evaluate_ranking`; the metric is unknown.
    DataError: see `evaluate_ranking`; features aren't finite, or zero (cosine).
  """
  task = Task(query_ids, gallery_ids, query_cameras, gallery_cameras)
  blocks = _feature_blocks(task, query, gallery, metric, re_rank)
  return _evaluate(task, blocks, ranks)


def nearest(
  query: np.ndarray,
  gallery: np.ndarray,
  query_ids: np.ndarray,
  gallery_ids: np.ndarray,
  query_cameras: np.ndarray | None = None,
  gallery_cameras: np.ndarray | None = None,
  *,
  count: int = 10,
  metric: str = 'euclidean',
  re_rank: ReRanking | None = None,
) -> list[Nearest]:
  """Returns the first items of each query's ranking, to look at.

  Args:
    query, gallery, query_ids, gallery_ids: see `evaluate_features`. A few
      queries have the same items alone as among all, unless they are re-ranked.
    query_cameras, gallery_cameras, metric, re_rank: see `evaluate_features`.
    count: of items, at least 1; fewer where fewer are left.

  Raises:
    ConfigError, DataError: see `evaluate_features`; but no query needs a match.
  """
  if count < 1:
    raise ConfigError(f'At least one item can be shown, not {count}.')
  task = Task(query_ids, gallery_ids, query_cameras, gallery_cameras)
  blocks = _feature_blocks(task, query, gallery, metric, re_rank)
  return list(map_rows(blocks, functools.partial(_nearest, task, count)))


def _row_blocks(dist: np.ndarray, task: Task) -> Iterator[Block]:
  size = distances.QUERIES
  for start in range(0, len(dist), size):
    rows = dist[start : start + size]
    rows = rows[:, task.kept] if task.junk else rows
    for row, item in np.argwhere(np.isnan(rows)):
      raise DataError(
        f'The distance of query {start + row} to item {task.kept[item]} is NaN.'
      )
    yield [rows]


def _feature_blocks(
  task: Task,
  query: np.ndarray,
  gallery: np.ndarray,
  metric: str,
  re_rank: ReRanking | None,
) -> Iterator[Block]:
  refuse_other_lengths(query=query, query_ids=task.query_ids)
  refuse_other_lengths(gallery=gallery, gallery_ids=task.gallery_ids)
  query, gallery = distances.prepare(query, gallery, metric)
  if task.junk:
    gallery = gallery[task.kept]
  if re_rank is not None:
    return re_ranking.blocks(query, gallery, re_rank)
  return distances.blocks(query, gallery)


def _evaluate(
  task: Task, blocks: Iterable[Block], ranks: Sequence[int]
) -> Scores:
  _refuse_bad_ranks(ranks)
  task.refuse_impossible()
  rows = map_rows(blocks, functools.partial(_of_query, task))
  average, trapezoid, first = map(np.array, zip(*rows, strict=True))
  valid = first > 0
  return Scores(
    cmc={int(rank): float(np.mean(first[valid] <= rank)) for rank in ranks},
    map=float(np.mean(average[valid])),
    map_trapezoid=float(np.mean(trapezoid[valid])),
    average_precision=average,
    average_precision_trapezoid=trapezoid,
    first_match_rank=first,
    valid_queries=int(valid.sum()),
    skipped_queries=int((~valid).sum()),
    gallery_items=len(task.kept),
    junk_removed=task.junk,
  )


def _refuse_bad_ranks(ranks: Sequence[int]) -> None:
  if not isinstance(ranks, Iterable) or not len(ranks):
    raise ConfigError(f'ranks are a list such as (1, 5), not {ranks!r}.')
  for rank in ranks:
    whole = isinstance(rank, numbers.Integral) and not isinstance(rank, bool)
    if not whole or rank < 1:
      raise ConfigError(f'Ranks are integers from 1 on: {rank!r} is none.')


def _of_query(
  task: Task, query: int, row: np.ndarray
) -> tuple[float, float, int]:
  """Returns both average precisions, and the rank of the first match."""
  matches, removed = task.own(query)
  if not len(matches):
    return np.nan, np.nan, 0
  before = np.sort(items_before(row, matches, removed))
  found = np.arange(1, len(before) + 1)
  precision = found / (before + 1)
  # Just before a match; before the first item precision is 1 by convention.
  ahead = np.where(before == 0, 1, (found - 1) / np.maximum(before, 1))
  trapezoid = (ahead + precision) / 2
  return precision.mean(), trapezoid.mean(), int(before[0]) + 1


def items_before(
  row: np.ndarray, matches: np.ndarray, removed: np.ndarray
) -> np.ndarray:
  """Returns how many items stand before each match in the ranking.

  Args:
    row: distances, without NaN, [G].
    matches: items, [m].
    removed: items that don't count, none of them a match, [r].

  Returns:
    Integers, [m].
  """
  ordered, own = np.sort(row), row[matches]
  before = np.searchsorted(ordered, own)
  equal = np.searchsorted(ordered, own, 'right') - before
  # Of equal distances, those that stand earlier in the gallery come before.
  for n in np.flatnonzero(equal > 1):
    before[n] += np.count_nonzero(row[: matches[n]] == own[n])
  others = row[removed]
  earlier = removed < matches[:, None]
  closer = (others < own[:, None]) | ((others == own[:, None]) & earlier)
  return before - closer.sum(axis=1)


def _nearest(task: Task, count: int, query: int, row: np.ndarray) -> Nearest:
  matches, removed = task.own(query)
  left = np.delete(np.arange(len(row)), removed)
  if len(left):
    left = left[distances.nearest(row[left], count)]
  return Nearest(task.kept[left], np.isin(left, matches))
