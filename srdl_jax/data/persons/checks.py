# SPDX-License-Identifier: Apache-2.0
"""Whether the parts of a re-identification data set are what they should be."""

import logging
from collections.abc import Mapping

import numpy as np

from srdl_jax.data.persons import DISTRACTOR, JUNK, Part
from srdl_jax.errors import DataError

_log = logging.getLogger(__name__)


def check(
  where: object,
  parts: Mapping[str, Part],
  *,
  counts: Mapping[str, int] | None = None,
  allow_differences: bool = False,
) -> None:
  """Checks the parts, by their names and digests.

  Args:
    parts: 'train', 'query', 'gallery' and, perhaps, 'multi_query'.
    counts: what `counts_of` must be; None takes any.
    allow_differences: go on with other counts, and with folders that look
      swapped; they are logged.

  Raises:
    DataError: there are such differences, junk is where it can't be, or no
      query has a match that another camera took.
  """
  _check_junk(where, parts)
  found = counts_of(parts)
  differences = _mixed(parts) + [
    f'{found[what]:,} {what} instead of {count:,}'
    for what, count in (counts or {}).items()
    if found[what] != count
  ]
  if differences and allow_differences:
    _log.warning('%s: %s; going on', where, '; '.join(differences))
  elif differences:
    raise DataError(
      f'{where}: {"; ".join(differences)}. Put a complete copy in its place '
      '(what was prepared from another is removed first), or go on with this '
      'one by data.allow_differences=True (data.prepare: --allow_differences)'
    )
  _check_matches(where, parts['query'], parts['gallery'])


def counts_of(parts: Mapping[str, Part]) -> dict[str, int]:
  """Returns how much there is of what Market-1501's authors count."""
  train, query, gallery = (
    parts[split].identities for split in ('train', 'query', 'gallery')
  )
  return {
    'training images': len(train),
    'training identities': len(set(train.tolist())),
    'queries': len(query),
    'query identities': len(set(query.tolist())),
    'good gallery images': int((gallery > DISTRACTOR).sum()),
    'distractors': int((gallery == DISTRACTOR).sum()),
    'junk images': int((gallery == JUNK).sum()),
  }


def _check_junk(where: object, parts: Mapping[str, Part]) -> None:
  for split in ('train', 'query'):
    if count := int((parts[split].identities == JUNK).sum()):
      raise DataError(
        f'{where}: {parts[split].folder} has {count} junk images (-1), which '
        f'only {parts["gallery"].folder} may have: the folders are swapped'
      )


def _mixed(parts: Mapping[str, Part]) -> list[str]:
  """Says what looks as if folders were swapped, or copied onto another."""
  train, query, gallery = (parts[s] for s in ('train', 'query', 'gallery'))
  found = []
  for part in (query, gallery):
    both = np.intersect1d(train.identities, part.identities)
    both = both[both > DISTRACTOR]
    if len(both):
      found.append(
        f'{train.folder} and {part.folder} share {len(both)} '
        f'identities, {both[0]:04} the first, and should share none: one is '
        "in the other's place"
      )
  if set(gallery.digests) <= set(query.digests):
    found.append(
      f'{gallery.folder} has no image that is not in {query.folder}: '
      "the queries are in the gallery's place"
    )
  elif len(query) > len(gallery):
    found.append(
      f'{query.folder} has more images ({len(query):,}) than '
      f'{gallery.folder} ({len(gallery):,}): they look swapped'
    )
  return found


def _check_matches(where: object, query: Part, gallery: Part) -> None:
  """Sees that some query has a match: what is ranked, else, is nothing."""
  cameras: dict[int, set[int]] = {}
  for identity, camera in gallery.pairs:
    cameras.setdefault(identity, set()).add(camera)
  asked = query.pairs
  if any(cameras.get(i, set()) - {camera} for i, camera in asked):
    return
  if any(i in cameras for i, _ in asked):
    raise DataError(
      f'{where}: whoever is in {query.folder} was seen by the same camera '
      f'alone in {gallery.folder}, and such images are not ranked: no '
      'query is valid. See the cameras (_c1) in the file names'
    )
  raise DataError(
    f'{where}: no identity of {query.folder} is in {gallery.folder}: '
    'no query is valid. See that both are of the same data set'
  )
