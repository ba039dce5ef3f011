# SPDX-License-Identifier: Apache-2.0
"""Persons, or vehicles, in folders of the usual layouts, of any data set.

See `layouts`. Market-1501's gt_bbox holds images for queries of several.
"""

import logging
import pathlib
from collections.abc import Mapping, Sequence

from srdl_jax import data, storage
from srdl_jax.data import folder_files, persons
from srdl_jax.data.persons import Part, layouts
from srdl_jax.data.persons import checks as person_checks
from srdl_jax.data.persons.layouts import Folder
from srdl_jax.errors import ConfigError, DataError

NAME = 'reid_folder'
_SHOWN = 5
_log = logging.getLogger(__name__)


def load(source: data.Location) -> data.Dataset:
  """Loads the persons of a folder; only training images are decoded yet.

  Args:
    source: `path` is the folder; `image_size` the height of the images, 0 for
      256; `skip_unreadable` leaves out files that can't be read or whose names
      don't tell whom they show; `allow_differences` takes folders that look
      swapped, and leaves such names out, too.

  Returns:
    The data set, see `persons.dataset`; rows are in the order of the names.

  Raises:
    ConfigError: `path` is empty, or `image_size` odd.
    DataError: see `read` and `checks.check`.
  """
  if not source.path:
    raise ConfigError(
      'data.path is empty: name the folder that holds bounding_box_train, '
      'query, bounding_box_test'
    )
  root = storage.expanded(source.path, 'data.path').absolute()
  parts = read(root, source)
  person_checks.check(root, parts, allow_differences=source.allow_differences)
  return persons.dataset(NAME, parts, source.image_size)


def read(root: pathlib.Path, source: data.Location) -> dict[str, Part]:
  """Finds the images, and looks whether they can be read.

  What isn't called an image is skipped; its number is logged. Of gt_bbox only
  what shows a query's identity to the query's camera is kept.

  Args:
    source: `skip_unreadable` decodes all images, leaves out those that can't be
      read, and logs them; it or `allow_differences` those of other names.

  Returns:
    The parts; 'multi_query' only if there is a folder gt_bbox.

  Raises:
    DataError: a folder is missing, has no images, some are named otherwise, or
      some can't be read.
  """
  found = layouts.find(root)
  _tell_others(root, found)
  strange = [path for part in found.values() for path in part.strange]
  if strange:
    leave_out = source.skip_unreadable or source.allow_differences
    _refuse_strange(root, strange, leave_out)
  paths = {split: list(part.told) for split, part in found.items()}
  if 'multi_query' in paths:
    paths['multi_query'] = _asked_for(found['multi_query'], found['query'])
  digests, faults = folder_files.look_at(
    root, sum(paths.values(), []), whole=source.skip_unreadable
  )
  if faults:
    folder_files.report(root, faults, source.skip_unreadable)
  parts = {}
  for split, its in paths.items():
    its = [path for path in its if path in digests]
    if not its:
      raise DataError(_nothing(root / found[split].folder, split))
    parts[split] = Part(
      folder=found[split].folder,
      names=[folder_files.base(path) for path in its],
      told=[found[split].told[path] for path in its],
      digests=[digests[path] for path in its],
      records=folder_files.Files(str(root), tuple(its)),
    )
  return parts


def _tell_others(root: pathlib.Path, found: Mapping[str, Folder]) -> None:
  if others := [path for part in found.values() for path in part.others]:
    _log.warning(
      'in %s, %d file(s) that are not called images, or are in no list, are '
      'skipped: %s',
      root,
      len(others),
      folder_files.listed(others, _SHOWN),
    )


def _refuse_strange(
  root: pathlib.Path, strange: Sequence[str], leave_out: bool
) -> None:
  told = (
    f'in {root}, the names of {len(strange)} image(s) do not tell whom they '
    f'show, as 0002_c1s1_000451_03.jpg does: '
    f'{folder_files.listed(strange, _SHOWN)}'
  )
  if not leave_out:
    raise DataError(
      f'{told}; rename or remove them, or have them left out by '
      'data.skip_unreadable=True'
    )
  _log.warning('%s; they are left out', told)


def _asked_for(boxes: Folder, queries: Folder) -> list[str]:
  """Returns the boxes of identities and cameras that queries are of."""
  asked = set(queries.told.values())
  kept = [path for path, its in boxes.told.items() if its in asked]
  boxed = {boxes.told[path] for path in kept}
  if kept and asked - boxed:
    _log.warning(
      '%d of %d pairs of identity and camera in query have no image in gt_bbox',
      len(asked - boxed),
      len(asked),
    )
  return kept


def _nothing(folder: pathlib.Path, split: str) -> str:
  if split == 'multi_query':
    return (
      f'{folder} has no image with the identity and camera of a query; take '
      'the right folder, or remove it to do without'
    )
  return (
    f'{folder} has no images that are named like 0002_c1s1_000451_03.jpg and '
    'can be read'
  )
