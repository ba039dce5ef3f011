# SPDX-License-Identifier: Apache-2.0
"""k-reciprocal re-ranking (Zhong, Zheng, Cao, Li; CVPR 2017).

Two images that are among each other's nearest are likely of one person. Every
image, query or gallery, is described by its neighbours in that sense, and
images are compared by what their descriptions share. Labels aren't used.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.sparse

from srdl_jax.errors import ConfigError
from srdl_jax.retrieval import distances
from srdl_jax.retrieval.distances import Block, map_rows

# Images that are tested for reciprocity at once.
_ROWS = 256


@dataclasses.dataclass(frozen=True)
class ReRanking:
  """How to re-rank.

  Attributes:
    k1: neighbours that an image's description starts from, at least 1.
    k2: nearest images, itself among them, over which descriptions are averaged,
      in [1, k1 + 1]; 1: they aren't.
    original_weight: lambda, the share of the original distance, in [0, 1].
  """

  k1: int = 20
  k2: int = 6
  original_weight: float = 0.3

  def __post_init__(self):
    if self.k1 < 1 or not 1 <= self.k2 <= self.k1 + 1:
      raise ConfigError(
        f'Re-ranking needs k1 >= 1 and k2 in [1, k1 + 1], not {self.k1} and '
        f'{self.k2}.'
      )
    if not 0 <= self.original_weight <= 1:
      raise ConfigError(
        f'The weight of the original distance is {self.original_weight}: it '
        'must be in [0, 1].'
      )


def blocks(
  query: np.ndarray, gallery: np.ndarray, how: ReRanking = ReRanking()
) -> Iterator[Block]:
  """Yields re-ranked distances from each query to each item.

  (1 - lambda) Jaccard + lambda d, where d is the squared distance over the
  largest one from the same query. Memory grows with Q + G, times the
  neighbours of an image, and never with Q x G.

  Args:
    query, gallery: float32 features, [Q, D] and [G, D] (see
      `distances.prepare`).

  Yields:
    Those of the next queries, float64.
  """
  features = np.concatenate([query, gallery])
  first, largest = _neighbours(features, min(how.k1 + 1, len(features)))
  described = _descriptions(features, first, largest)
  if how.k2 > 1:
    described = _averaged(described, first[:, : how.k2])
  own, others = described[: len(query)], described[len(query) :].tocsc()
  start = 0
  for block in distances.blocks(query, gallery):
    stop = start + len(block[0])
    near = np.concatenate(block, axis=1) / largest[start:stop, None]
    yield [
      (1 - how.original_weight) * _jaccard(own[start:stop], others)
      + how.original_weight * near
    ]
    start = stop


def _neighbours(
  features: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the first neighbours [N, count], and the largest distance [N].

  An image is its own first neighbour. A largest distance of 0 is given as 1.
  """

  def of_row(image: int, row: np.ndarray) -> tuple[np.ndarray, float]:
    # Rounding can leave .003 here, and of equal images another may come first.
    row[image] = -1
    return distances.nearest(row, count), row.max()

  rows = map_rows(distances.blocks(features, features), of_row)
  first, largest = zip(*rows, strict=True)
  largest = np.array(largest, np.float64)
  return np.array(first, np.int32), np.where(largest > 0, largest, 1)


def _reciprocal(first: np.ndarray) -> np.ndarray:
  """Returns which neighbours [N, k] have the image among theirs, too."""
  images = np.arange(len(first))[:, None, None]
  parts = [slice(n, n + _ROWS) for n in range(0, len(first), _ROWS)]
  return np.concatenate(
    [(first[first[part]] == images[part]).any(axis=2) for part in parts]
  )


def _descriptions(
  features: np.ndarray, first: np.ndarray, largest: np.ndarray
) -> scipy.sparse.csr_array:
  """Returns each image's weights of its extended reciprocal neighbours.

  exp(-d), normalised to the sum 1; [N, N], sparse.
  """
  # Half of k1, and the image itself.
  half = first[:, : round((first.shape[1] - 1) / 2) + 1]
  mutual, half_mutual = _reciprocal(first), _reciprocal(half)
  inside = np.zeros(len(first), bool)
  columns, weights = [], []
  for image, neighbours in enumerate(first):
    own = neighbours[mutual[image]]
    inside[own] = True
    theirs, valid = half[own], half_mutual[own]
    # Of a neighbour's own set more than two thirds are in the image's.
    shared = (inside[theirs] & valid).sum(axis=1)
    joins = 3 * shared > 2 * valid.sum(axis=1)
    inside[own] = False
    extended = np.union1d(own, theirs[joins][valid[joins]])
    differences = features[extended] - features[image]
    squares = np.einsum('nd,nd->n', differences, differences, dtype=np.float64)
    weight = np.exp(-squares / largest[image])
    columns.append(extended)
    weights.append(weight / weight.sum())
  return _sparse(columns, weights)


def _sparse(
  columns: list[np.ndarray], values: list[np.ndarray]
) -> scipy.sparse.csr_array:
  ends = np.cumsum([0, *map(len, columns)])
  return scipy.sparse.csr_array(
    (np.concatenate(values), np.concatenate(columns), ends),
    shape=(len(columns), len(columns)),
  )


def _averaged(
  described: scipy.sparse.csr_array, nearest: np.ndarray
) -> scipy.sparse.csr_array:
  """Returns the mean description of each image's nearest ones [N, k2]."""
  share = np.full(nearest.shape, 1 / nearest.shape[1])
  return _sparse(list(nearest), list(share)) @ described


def _jaccard(
  own: scipy.sparse.csr_array, others: scipy.sparse.csc_array
) -> np.ndarray:
  """Returns 1 - sum of minima / sum of maxima, of each pair, [b, G].

  Every description sums to 1, so that both sums add up to 2.
  """
  shared = np.stack(
    [_shared(own[[row]], others) for row in range(own.shape[0])]
  )
  return 1 - shared / (2 - shared)


def _shared(
  own: scipy.sparse.csr_array, others: scipy.sparse.csc_array
) -> np.ndarray:
  """Returns the sums of minima of one description [1, N] with others, [G]."""
  starts, ends = others.indptr[own.indices], others.indptr[own.indices + 1]
  places = np.concatenate([*map(np.arange, starts, ends), starts[:0]])
  values = np.repeat(own.data, ends - starts)
  return np.bincount(
    others.indices[places],
    np.minimum(others.data[places], values),
    minlength=others.shape[0],
  )
