# SPDX-License-Identifier: Apache-2.0
"""Persons in folders that are named as Market-1501's, of any data set.

bounding_box_train, query and bounding_box_test, and gt_bbox for queries of
several images. File names tell identities and cameras, see `persons`.
"""

import logging
import os
import pathlib
from collections.abc import Sequence

from srdl_jax import data, storage
from srdl_jax.data import folder_files, persons
from srdl_jax.data.persons import Part
from srdl_jax.data.persons import checks as person_checks
from srdl_jax.data.persons.checks import FOLDERS
from srdl_jax.errors import ConfigError, DataError

NAME = 'reid_folder'
_NEEDED = ('train', 'query', 'gallery')
_SHOWN = 5
_log = logging.getLogger(__name__)


def load(source: data.Location) -> data.Dataset:
  """Loads the persons of a folder; only training images are decoded yet.

  Args:
    source: `path` is the folder; `image_size` the height of the images, 0 for
      256; `skip_unreadable` leaves out files that can't be read;
      `allow_differences` takes folders that look swapped.

  Returns:
    The data set, see `persons.dataset`; rows are in the order of the names.

  Raises:
    ConfigError: `path` is empty, or `image_size` odd.
    DataError: see `read` and `checks.check`.
  """
  if not source.path:
    raise ConfigError(
      'data.path is empty: name the folder that holds '
      f'{", ".join(FOLDERS[split] for split in _NEEDED)}'
    )
  root = storage.expanded(source.path, 'data.path').absolute()
  parts = read(root, source.skip_unreadable)
  person_checks.check(root, parts, allow_differences=source.allow_differences)
  return persons.dataset(NAME, parts, source.image_size)


def read(root: pathlib.Path, skip_unreadable: bool = False) -> dict[str, Part]:
  """Finds the images, and looks whether they can be read.

  Files that are named otherwise are skipped; their number is logged. Of
  gt_bbox only what shows a query's identity to the query's camera is kept.

  Args:
    skip_unreadable: leave out images that can't be read, and log them.

  Returns:
    The parts; 'multi_query' only if there is a folder gt_bbox.

  Raises:
    DataError: a folder is missing, has no images, or some can't be read.
  """
  missing = [FOLDERS[s] for s in _NEEDED if not (root / FOLDERS[s]).is_dir()]
  if missing:
    raise DataError(
      f'{root} has no folder {", ".join(missing)}: it needs '
      f'{", ".join(FOLDERS[s] for s in _NEEDED)}'
    )
  paths, skipped = {}, []
  for split, folder in FOLDERS.items():
    if (root / folder).is_dir():
      paths[split], others = _listed(root, folder)
      skipped += others
  if skipped:
    _log.warning(
      'in %s, %d file(s) of other names than 0002_c1s1_000451_03.jpg are '
      'skipped: %s',
      root,
      len(skipped),
      folder_files.listed(skipped, _SHOWN),
    )
  if 'multi_query' in paths:
    paths['multi_query'] = _asked_for(paths['multi_query'], paths['query'])
  digests, faults = folder_files.look_at(root, sum(paths.values(), []))
  if faults:
    _report(root, faults, skip_unreadable)
  parts = {}
  for split, found in paths.items():
    found = [path for path in found if path in digests]
    if not found:
      raise DataError(_nothing(root, split))
    parts[split] = Part(
      names=[_base(path) for path in found],
      digests=[digests[path] for path in found],
      records=folder_files.Files(str(root), tuple(found)),
    )
  return parts


def _listed(root: pathlib.Path, folder: str) -> tuple[list[str], list[str]]:
  """Returns the paths of a folder's images, and of other files, sorted."""
  try:
    names = sorted(os.listdir(root / folder))
  except OSError as error:
    raise DataError(f'cannot read {root / folder}: {error.strerror}') from error
  found, others = [], []
  for name in names:
    kind = found if persons.parse(name) else others
    kind.append(f'{folder}/{name}')
  return found, others


def _base(path: str) -> str:
  return path.rpartition('/')[2]


def _asked_for(boxes: Sequence[str], queries: Sequence[str]) -> list[str]:
  """Returns the boxes of identities and cameras that queries are of."""
  asked = {persons.parse(_base(path)) for path in queries}
  kept = [path for path in boxes if persons.parse(_base(path)) in asked]
  boxed = {persons.parse(_base(path)) for path in kept}
  if kept and asked - boxed:
    _log.warning(
      '%d of %d pairs of identity and camera in query have no image in gt_bbox',
      len(asked - boxed),
      len(asked),
    )
  return kept


def _report(
  root: pathlib.Path, faults: Sequence[folder_files.Fault], skip: bool
) -> None:
  """Refuses the folder for images that can't be read, or logs them."""
  named = [f'{path} ({reason})' for path, reason in sorted(faults)]
  shown = folder_files.listed(named, _SHOWN)
  told = f'in {root}, {len(faults)} image(s) cannot be read: {shown}'
  if not skip:
    raise DataError(
      f'{told}; restore them, or have them skipped by data.skip_unreadable=True'
    )
  _log.warning('%s; they are skipped', told)


def _nothing(root: pathlib.Path, split: str) -> str:
  if split == 'multi_query':
    return (
      f'{root / FOLDERS[split]} has no image with the identity and camera of '
      'a query; take the right folder, or remove it to do without'
    )
  return (
    f'{root / FOLDERS[split]} has no images that are named like '
    '0002_c1s1_000451_03.jpg and can be read'
  )
