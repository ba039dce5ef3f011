# SPDX-License-Identifier: Apache-2.0
"""Who is looked for among whom: what a query matches, what is removed."""

import numpy as np

from srdl_jax.errors import ConfigError, DataError
from srdl_jax.retrieval.features import integers, refuse_other_lengths

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
    self.query_ids = integers(query_ids, 'query_ids')
    self.gallery_ids = integers(gallery_ids, 'gallery_ids')
    self.kept = np.flatnonzero(self.gallery_ids != JUNK)
    if not len(self.kept):
      raise DataError(
        'Nothing is left of the gallery: all of its '
        f'{len(self.gallery_ids)} items are junk (identity {JUNK}).'
      )
    if (query_cameras is None) != (gallery_cameras is None):
      raise ConfigError('Give the cameras of both sides, or of none.')
    self._query_cameras = self._kept_cameras = None
    if query_cameras is not None:
      self._query_cameras = integers(query_cameras, 'query_cameras')
      cameras = integers(gallery_cameras, 'gallery_cameras')
      refuse_other_lengths(
        query_ids=self.query_ids, query_cameras=self._query_cameras
      )
      refuse_other_lengths(
        gallery_ids=self.gallery_ids, gallery_cameras=cameras
      )
      self._kept_cameras = cameras[self.kept]
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
    if self._kept_cameras is None:
      return items, items[:0]
    same = self._kept_cameras[items] == self._query_cameras[query]
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
