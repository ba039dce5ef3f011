# SPDX-License-Identifier: Apache-2.0
"""Who is looked for among whom: what a query matches, what is removed."""

import numpy as np

from srdl_jax.errors import ConfigError, DataError
from srdl_jax.retrieval.features import people

JUNK = -1


class Task:
  """The identities and cameras of queries [Q] and gallery [G].

  Attributes:
    kept: items of the gallery that are no junk, in its order, [G'].
  """

  def __init__(
    self,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray | None,
    gallery_cameras: np.ndarray | None,
  ):
    """Takes integers, [Q] and [G]; no cameras: nothing is removed for them.

    Raises:
      ConfigError: only one side has cameras.
      DataError: they are no integers, their numbers differ, or nothing but
        junk is in the gallery.
    """
    query = people(query_ids, query_cameras, 'query_')
    gallery = people(gallery_ids, gallery_cameras, 'gallery_')
    self.query_ids, self.gallery_ids = query[:, 0], gallery[:, 0]
    self.kept = np.flatnonzero(self.gallery_ids != JUNK)
    if not len(self.kept):
      raise DataError(
        'Nothing is left of the gallery: all of its '
        f'{len(self.gallery_ids)} items are junk (identity {JUNK}).'
      )
    if query.shape[1] != gallery.shape[1]:
      raise ConfigError('Give the cameras of both sides, or of none.')
    # One column, or none without cameras.
    self._query_cameras = query[:, 1:]
    self._kept_cameras = gallery[self.kept, 1:]
    kept_ids = self.gallery_ids[self.kept]
    self._items = np.argsort(kept_ids)
    self._starts, self._ends = (
      np.searchsorted(kept_ids[self._items], self.query_ids, side)
      for side in ('left', 'right')
    )

  @property
  def junk(self) -> int:
    """How many items of the gallery are left out."""
    return len(self.gallery_ids) - len(self.kept)

  def own(self, query: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the query's matches, and what is removed for it.

    Both are positions in `kept`.
    """
    items = self._items[self._starts[query] : self._ends[query]]
    cameras = self._kept_cameras[items]
    same = (cameras == self._query_cameras[query]).any(axis=1)
    return items[~same], items[same]

  def refuse_impossible(self) -> None:
    """Raises DataError where no query has a match, and says why."""
    queries = len(self.query_ids)
    if any(len(self.own(query)[0]) for query in range(queries)):
      return
    known = int((self._ends > self._starts).sum())
    if known:
      raise DataError(
        f'No query is valid because of the cameras: {known} of {queries} '
        'queries have their identity in the gallery, all under their own '
        'camera only.'
      )
    raise DataError(
      'No query is valid because of the identities: that of none of the '
      f'{queries} queries is in the gallery.'
    )
