# SPDX-License-Identifier: Apache-2.0
"""Distances between the features of queries and of a gallery, in blocks.

They are computed on the device, in tiles of one shape: in the last bit a
matrix product depends on its shape. A last tile is padded, and its padding cut
away. So a distance doesn't depend on which other queries are asked with it.
"""

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from srdl_jax import cpu
from srdl_jax.errors import ConfigError, DataError, unknown
from srdl_jax.retrieval.features import as_features, normalise, squared_lengths

METRICS = ('euclidean', 'cosine')  # By which features are compared.
# Rows and columns of a tile.
QUERIES, ITEMS = 192, 2048
# Arrays [b, ...] side by side: their rows, joined, are the distances from b
# queries to the gallery.
Block = list[np.ndarray]
T = TypeVar('T')


def prepare(
  query: np.ndarray, gallery: np.ndarray, metric: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns float32 features whose squared distances are the metric's.

  Args:
    query, gallery: [Q, D] and [G, D].
    metric: 'euclidean', or 'cosine': of normalised features, 2 (1 - cos).

  Raises:
    ConfigError: the metric is unknown.
    DataError: features are no finite [n, D] of one D, or zero (cosine).
  """
  if metric not in METRICS:
    raise ConfigError(unknown('metric', metric, METRICS))
  query, gallery = as_features(query, 'query'), as_features(gallery, 'gallery')
  if query.shape[1] != gallery.shape[1]:
    raise DataError(
      f'query features have {query.shape[1]} dimensions, gallery features '
      f'{gallery.shape[1]}.'
    )
  if metric == 'cosine':
    return normalise(query, 'query'), normalise(gallery, 'gallery')
  return query, gallery


def blocks(query: np.ndarray, gallery: np.ndarray) -> Iterator[Block]:
  """Yields the squared distances from each query to each item, float32.

  |q|^2 + |g|^2 - 2 q.g, or 0 where rounding makes that negative. Products have
  full float32 precision on every device. While a block is used, the next one is
  computed; no more than two are in memory.

  Args:
    query, gallery: float32 features, [Q, D] and [G, D] (see `prepare`).

  Yields:
    Those of the next queries, at most QUERIES.
  """
  tiles = [
    _padded(gallery[start : start + ITEMS], ITEMS)
    for start in range(0, len(gallery), ITEMS)
  ]
  pending = None
  for start in range(0, len(query), QUERIES):
    rows, squares = _padded(query[start : start + QUERIES], QUERIES)
    # Doubling is exact.
    doubled = 2 * rows
    computed = [_tile(doubled, squares, *tile) for tile in tiles]
    if pending is not None:
      yield _cut(*pending)
    pending = computed, len(query) - start, len(gallery)
  if pending is not None:
    yield _cut(*pending)


def _padded(rows: np.ndarray, count: int) -> tuple[jax.Array, jax.Array]:
  """Returns `count` rows and their squared lengths, on the device."""
  if len(rows) < count:
    rows = np.pad(rows, ((0, count - len(rows)), (0, 0)))
  return jnp.asarray(rows), jnp.asarray(squared_lengths(rows), jnp.float32)


@jax.jit
def _tile(
  doubled: jax.Array,
  query_squares: jax.Array,
  items: jax.Array,
  item_squares: jax.Array,
) -> jax.Array:
  products = jax.lax.dot_general(
    doubled,
    items,
    (((1,), (1,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,
  )
  sums = query_squares[:, None] + item_squares[None, :]
  return jnp.maximum(sums - products, 0)


def _cut(computed: list[jax.Array], queries: int, items: int) -> Block:
  """Returns tiles without their padding; so many are left of each side."""
  return [
    np.asarray(tile)[:queries, : items - n * ITEMS]
    for n, tile in enumerate(computed)
  ]


def map_rows(
  blocks: Iterable[Block], function: Callable[[int, np.ndarray], T]
) -> Iterator[T]:
  """Yields a function's values of each query's distances, in their order.

  It runs in threads: NumPy's long operations let others run.

  Args:
    function: of the query's number and its distances [G], which it may change.
  """
  first, cores = 0, cpu.cores()

  def of_row(row: int) -> T:
    return function(first + row, np.concatenate([part[row] for part in block]))

  with concurrent.futures.ThreadPoolExecutor(cores) as threads:
    for block in blocks:
      yield from threads.map(of_row, range(len(block[0])))
      first += len(block[0])
      # Let go before the next one is asked for, which is in memory already.
      block = []


def nearest(distances: np.ndarray, count: int) -> np.ndarray:
  """Returns the nearest items, in their order.

  Equal distances stand in the order of the items. The rest isn't sorted.

  Args:
    distances: without NaN, [G].
    count: at least 1; all are returned where they are fewer.
  """
  count = min(count, len(distances))
  last = np.partition(distances, count - 1)[count - 1]
  closer = np.flatnonzero(distances < last)
  equal = np.flatnonzero(distances == last)[: count - len(closer)]
  closer = closer[np.argsort(distances[closer], kind='stable')]
  return np.concatenate([closer, equal])
