# SPDX-License-Identifier: Apache-2.0
"""Where a re-identification data set has its images, and whom they show.

Folders are named as Market-1501's, or as VeRi-776's; their files' names tell
identities and cameras. MSMT17 has lists, and folders of identities.
"""

import dataclasses
import os
import pathlib
import re

from srdl_jax.data import folder_files, persons
from srdl_jax.errors import DataError

MARKET = {
  'train': 'bounding_box_train',
  'query': 'query',
  'gallery': 'bounding_box_test',
  'multi_query': 'gt_bbox',
}
_VERI = {
  'train': 'image_train',
  'query': 'image_query',
  'gallery': 'image_test',
}
_NEEDED = ('train', 'query', 'gallery')
# Of MSMT17's two editions, to train and to test on.
_MSMT17 = (('mask_train_v2', 'mask_test_v2'), ('train', 'test'))
_LISTS = {
  'train': ('list_train.txt', 'list_val.txt'),
  'query': ('list_query.txt',),
  'gallery': ('list_gallery.txt',),
}
_LINE = re.compile(
  r'(?P<name>(?P<folder>[0-9]{1,6})/(?P=folder)_[^_/\s]+_'
  r'(?P<camera>[0-9]{1,3})_[^/\s]+)\s+(?P<identity>[0-9]{1,6})'
)
# Its identities for training and for testing are numbered from 0 each; here 0
# is a distractor's, and no two persons share a number.
_FIRST = {'train': 10_001, 'query': 1, 'gallery': 1}
# Of CUHK03-NP and VeRi-776: earlier versions didn't know them.
_LATER = re.compile(r'_c[0-9]{3}_|\.png$')


@dataclasses.dataclass(frozen=True)
class Folder:
  """The images of a part.

  Attributes:
    folder: what it is called.
    told: identity and camera by path below the root, in the order of names.
    strange: paths of images that don't tell whom they show.
    others: paths of what is no image, or in no list.
  """

  folder: str
  told: dict[str, tuple[int, int]]
  strange: list[str]
  others: list[str]


def find(root: pathlib.Path) -> dict[str, Folder]:
  """Returns the parts in a folder, none of whose images is looked at.

  Raises:
    DataError: it has none of the layouts, or a list is wrong.
  """
  # Where others were renamed to them, both may be there.
  market = _has(root, MARKET)
  if not market and (edition := _edition(root)):
    return _from_lists(root, *edition)
  folders = _VERI if not market and _has(root, _VERI) else MARKET
  missing = [
    folders[s] for s in _NEEDED if not os.path.isdir(root / folders[s])
  ]
  if missing:
    raise DataError(
      f'{root} has no folder {", ".join(missing)}: it needs '
      f'{", ".join(MARKET[split] for split in _NEEDED)}; '
      f"{', '.join(_VERI.values())}; or MSMT17's {' and '.join(_MSMT17[0])} "
      f'with its lists{_below(root)}'
    )
  return {
    split: _from_names(root, folder)
    for split, folder in folders.items()
    if os.path.isdir(root / folder)
  }


def _has(root: pathlib.Path, folders: dict[str, str]) -> bool:
  return all(os.path.isdir(root / folders[split]) for split in _NEEDED)


def _edition(root: pathlib.Path) -> tuple[str, str] | None:
  """Returns MSMT17's folders, where they are."""
  return next(
    (
      pair
      for pair in _MSMT17
      if all(os.path.isdir(root / name) for name in pair)
      and any(os.path.isfile(root / name) for name in _LISTS['train'])
    ),
    None,
  )


def _below(root: pathlib.Path) -> str:
  """Says which folders in it have one of the layouts."""
  inner = folder_files.folders(root) if os.path.isdir(root) else []
  found = [
    name
    for name in inner
    if _has(root / name, MARKET) or _has(root / name, _VERI)
    or _edition(root / name)
  ]  # fmt: skip
  return f'. Name one of those in it: {", ".join(found)}' if found else ''


def _from_names(root: pathlib.Path, folder: str) -> Folder:
  told, strange, others = {}, [], []
  for name, kind in folder_files.entries(root / folder).items():
    path = f'{folder}/{name}'
    if its := persons.parse(name):
      told[path] = its
    elif folder_files.is_image(name) and kind != folder_files.FOLDER:
      strange.append(path)
    else:
      others.append(path)
  earlier = {path: its for path, its in told.items() if not _LATER.search(path)}
  # Else fingerprints would be others than with earlier versions.
  if earlier and folder in MARKET.values():
    strange += sorted(told.keys() - earlier)
    told = earlier
  return Folder(folder, told, strange, others)


def _from_lists(root: pathlib.Path, train: str, test: str) -> dict[str, Folder]:
  parts = {}
  for split, names in _LISTS.items():
    folder = train if split == 'train' else test
    told = {}
    for name in names:
      for path, identity, camera in _lines(root / name):
        if f'{folder}/{path}' in told:
          raise DataError(f'{root / name} has {path} a second time; restore it')
        told[f'{folder}/{path}'] = (identity + _FIRST[split], camera)
    by_name = sorted(told, key=lambda path: (folder_files.base(path), path))
    parts[split] = Folder(folder, {p: told[p] for p in by_name}, [], [])
  listed = {path for part in parts.values() for path in part.told}
  for split in ('train', 'gallery'):
    folder = parts[split].folder
    there = (path.relative_to(root) for path in root.glob(f'{folder}/*/*'))
    parts[split].others.extend(sorted({p.as_posix() for p in there} - listed))
  return parts


def _lines(path: pathlib.Path) -> list[tuple[str, int, int]]:
  """Reads a list of MSMT17: paths, identities and, in the names, cameras."""
  try:
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f'cannot read {path}: {error}; restore it') from error
  found = []
  for line in filter(None, map(str.strip, lines)):
    its = _LINE.fullmatch(line)
    if not its:
      raise DataError(
        f'{path}: {line!r} is not like '
        '"0000/0000_000_01_0303morning_0008_0.jpg 0"; restore it'
      )
    if int(its['folder']) != int(its['identity']):
      raise DataError(
        f'{path}: {line!r} has another number than its folder; restore it'
      )
    found.append((its['name'], int(its['identity']), int(its['camera'])))
  return found
