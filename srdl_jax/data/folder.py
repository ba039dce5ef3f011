# SPDX-License-Identifier: Apache-2.0
"""The user's own images, in folders named after their classes.

Either `train/<class>/` and `val/<class>/` (or `test`, `valid`, `validation` or
`dev`; the first of these that is there), or `<class>/` alone. What lies beside
the class folders, and isn't what systems put anywhere, is refused: it may have
been a class. Without a split for testing, an image is held out for the
test where a hash of its class and file name is in the lowest fifth, and at
least one of each class is: images that are added later move no others, but
where a class has so few that this one had to be chosen.

Images are read when they are needed, see `streamed`. Loading looks at the
beginning and the end of each file, and at some places in between, whether zeros
stand there; with `skip_unreadable` it decodes each file. Damage that is found
in training alone ends the run: rows stay what they are, and it goes on when the
file is restored.
"""

import collections
import hashlib
import itertools
import logging
import os
import pathlib
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from srdl_jax import data, storage
from srdl_jax.data import folder_files
from srdl_jax.data.folder_files import Paths
from srdl_jax.data.images import IMAGENET_MEAN, IMAGENET_STD, StreamedImages
from srdl_jax.errors import ConfigError, DataError

VERSION = '1.0.0'
SIZE = 224
_HELD_OUT = 1 / 5
# Another one would move images between training and testing.
_SEED = 'srdl_jax folder 1'
_SHOWN = 10
_OTHER_NAME = re.compile(
  '(train|test|val|valid|validation|eval|evaluation|dev)(ing|s)?'
  '[ ._-]?(data|images|set|split)?',
  re.IGNORECASE,
)
# They take no room.
_INVISIBLE = dict.fromkeys(map(ord, '\u00ad\u200b\u2060\ufeff'))
_log = logging.getLogger(__name__)


def load(source: data.Location) -> data.Dataset:
  """Finds the images of a folder, and looks whether they can be read.

  Args:
    source: `path` is the folder; `image_size` the side of the images that a
      network gets, 0 for 224; `skip_unreadable` decodes all files, and leaves
      out those that can't be used instead of refusing the folder.

  Returns:
    The data set, its images `StreamedImages`; rows are ordered by class and
    file name, labels number the sorted class names.

  Raises:
    ConfigError: `path` is empty.
    DataError: there is no such folder, its layout is none of the two, the
      splits' classes differ, a class is empty, or files can't be used.
  """
  root = _root(source.path)
  directories = _directories(root)
  parts, digests = _readable(root, directories, source.skip_unreadable)
  for name, directory in directories.items():
    _check_not_empty(directory, parts[name])
  if len(parts) == 1:
    parts = _divided(root, parts['train'])
  _tell(directories, parts)
  size = source.image_size or SIZE
  train, test = (
    _split(root, name, parts[name], digests, size) for name in parts
  )
  return data.Dataset(
    name='folder',
    version=VERSION,
    num_classes=len(parts['train']),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    train=train,
    test=test,
    classes=tuple(map(folder_files.printable, parts['train'])),
  )


def _root(path: str) -> pathlib.Path:
  if not path:
    raise ConfigError(
      'data.path is empty: name the folder of images, as in '
      '--config=configs/folder.py:path=DIR'
    )
  if '://' in path:
    raise DataError(
      f'data.path {path} is not a local folder; copy the images to a local '
      'disk and give its path'
    )
  root = storage.expanded(path, 'data.path')
  try:
    is_folder = stat.S_ISDIR(os.stat(root).st_mode)
  except (OSError, ValueError) as error:
    missing = isinstance(error, FileNotFoundError) and not root.is_symlink()
    reason = getattr(error, 'strerror', None) or error
    raise DataError(
      f'there is no folder {root}{"" if missing else f" ({reason})"}; '
      'data.path names it'
    ) from error
  if not is_folder:
    raise DataError(f'{root} is not a folder; data.path must name one')
  return root.absolute()


def _directories(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Where each split's class folders are; a single split is to be divided."""
  found = folder_files.entries(root)
  there = {
    'train': folder_files.named(found, folder_files.TRAIN_FOLDERS),
    'test': folder_files.named(found, folder_files.TEST_FOLDERS),
  }
  usable = [
    name
    for name in itertools.chain(*there.values())
    if found[name] == folder_files.FOLDER and folder_files.folders(root / name)
  ]
  if not all(there.values()):
    _refuse_other_names(root, found)
  # A class, too, may be called train.
  if not usable:
    return {'train': root}
  chosen = {split: names[0] for split, names in there.items() if names}
  for name in chosen.values():
    if name not in usable:
      empty = found[name] == folder_files.FOLDER
      raise DataError(
        f'{root / name} has no class folders: it is '
        f'{"a folder without any" if empty else found[name]}; mend it, or '
        'remove it if it is not to be read'
      )
  if len(chosen) == 1:
    missing = 'train' if 'test' in chosen else 'val or test'
    raise DataError(
      f'{root} has class folders in {usable[0]} but not in {missing}; add '
      f'them, or give path={root / usable[0]} to have a fifth of its images '
      'held out'
    )
  directories = {split: root / name for split, name in chosen.items()}
  if os.path.samefile(*directories.values()):
    raise DataError(
      f'{directories["test"]} is the folder {directories["train"]} itself: '
      'testing on what was trained on says nothing; make it another one'
    )
  unread = [
    name
    for name, kind in found.items()
    if kind != folder_files.FILE and name not in chosen.values()
  ]
  if unread:
    _log.warning('in %s, not read: %s', root, _listed(unread))
  return directories


def _refuse_other_names(root: pathlib.Path, found: Mapping[str, str]) -> None:
  """Refuses splits that are called otherwise, or lie in a folder below."""
  known = folder_files.TRAIN_FOLDERS + folder_files.TEST_FOLDERS
  for name, kind in found.items():
    inner = root / name
    if kind != folder_files.FOLDER or name.lower() in known:
      continue
    if _OTHER_NAME.fullmatch(name) and folder_files.folders(inner):
      raise DataError(
        f'{inner} holds folders, and is called neither train nor val (or '
        'test): rename it if it is one of these splits'
      )
    for train in (inner / 'train', inner / 'Train'):
      if os.path.isdir(train) and folder_files.folders(train):
        raise DataError(
          f'{root} holds {name}, which has {train.name}: give path={inner}'
        )


def _tell(
  directories: Mapping[str, pathlib.Path], parts: Mapping[str, Paths]
) -> None:
  train, test = (
    sum(map(len, parts[split].values())) for split in ('train', 'test')
  )
  where = f'in {directories["test"]}' if 'test' in directories else 'held out'
  _log.info(
    'for training %d images of %d classes in %s, for testing %d %s',
    train,
    len(parts['train']),
    directories['train'],
    test,
    where,
  )


def _readable(
  root: pathlib.Path, directories: Mapping[str, pathlib.Path], skip: bool
) -> tuple[dict[str, Paths], dict[str, str]]:
  """Returns each split's images that can be read, and all their digests."""
  listings, faults = folder_files.images(root, list(directories.values()))
  parts = dict(zip(directories, listings, strict=True))
  _check_classes(root, parts)
  listed = [p for part in parts.values() for c in part for p in part[c]]
  if skip:
    _log.info('decoding %d images to see which can be read', len(listed))
  digests, unreadable = folder_files.look_at(root, listed, whole=skip)
  faults += unreadable
  if faults:
    folder_files.report(root, faults, skip)
  readable = {
    name: {c: [p for p in part[c] if p in digests] for c in part}
    for name, part in parts.items()
  }
  return readable, digests


def _check_classes(root: pathlib.Path, parts: Mapping[str, Paths]) -> None:
  train = parts['train']
  test = parts.get('test', train)
  _check_alike(root, [*train, *(name for name in test if name not in train)])
  alone = {
    'for training': [c for c in train if c not in test],
    'for testing': [c for c in test if c not in train],
  }
  told = [f'{_listed(c)} {where} only' for where, c in alone.items() if c]
  if told:
    raise DataError(
      f'the class folders in {root} differ between the splits: '
      f'{"; ".join(told)}; both need the same'
    )
  if len(train) < 2:
    raise DataError(
      f'{root} has images of {len(train)} class(es), and it takes two or '
      'more: put images into train/<class>/ and val/<class>/, or into <class>/'
    )


def _check_alike(root: pathlib.Path, names: Sequence[str]) -> None:
  """Refuses names that look the same, and says which differ by case alone."""
  seen: dict[str, str] = {}
  for name in names:
    shown = folder_files.printable(name).translate(_INVISIBLE)
    # With it, ligatures and wide letters are those that they look like.
    normal = ' '.join(unicodedata.normalize('NFKC', shown).split())
    other = seen.setdefault(normal, name)
    if other != name:
      raise DataError(
        f'in {root}, the class folders {ascii(other)} and {ascii(name)} look '
        'the same; make them one'
      )
  cased = collections.defaultdict(list)
  for normal, name in seen.items():
    cased[normal.lower()].append(name)
  alike = [', '.join(same) for same in cased.values() if len(same) > 1]
  if alike:
    _log.warning(
      'in %s, classes differ by letter case alone: %s', root, _listed(alike)
    )


def _check_not_empty(directory: pathlib.Path, part: Paths) -> None:
  empty = [name for name, paths in part.items() if not paths]
  if empty:
    raise DataError(
      f'no usable images of {_listed(empty)} in {directory}; add some, or '
      'remove the class from all splits'
    )


def _listed(names: Sequence[str]) -> str:
  return folder_files.listed(names, _SHOWN)


def _divided(root: pathlib.Path, part: Paths) -> dict[str, Paths]:
  """Holds about a fifth of each class out, by the hashes of its names."""
  single = [name for name, paths in part.items() if len(paths) < 2]
  if single:
    raise DataError(
      f'one image only of {_listed(single)} in {root}: none could be held '
      'out for testing; add some'
    )
  test = {name: _held_out(paths) for name, paths in part.items()}
  train = {
    name: sorted(set(paths) - set(test[name])) for name, paths in part.items()
  }
  return {'train': train, 'test': test}


def _held_out(paths: Sequence[str]) -> list[str]:
  """Returns which of two or more images are for testing, but never all."""
  by_hash = sorted(paths, key=_share)
  lowest, highest = by_hash[0], by_hash[-1]
  return [
    path
    for path in paths
    if path == lowest or (_share(path) < _HELD_OUT and path != highest)
  ]


def _share(path: str) -> float:
  """Hashes a path to [0, 1), evenly."""
  digest = hashlib.sha256(f'{_SEED}\n'.encode() + os.fsencode(path)).digest()
  return int.from_bytes(digest[:4], 'big') / 2**32


def _split(
  root: pathlib.Path,
  name: str,
  part: Paths,
  digests: Mapping[str, str],
  size: int,
) -> data.Split:
  paths = tuple(itertools.chain.from_iterable(part.values()))
  counts = [len(members) for members in part.values()]
  labels = np.repeat(np.arange(len(part), dtype=np.int32), counts)
  ids = [f'{folder_files.printable(path)}\t{digests[path]}' for path in paths]
  identity = data.fingerprint(f'folder/{VERSION}', name, ids, labels)
  images = StreamedImages(
    folder_files.Files(str(root), paths),
    size=size,
    # 256 for 224, as is usual.
    resize=round(size * 256 / 224),
    orient=True,
  )
  return data.Split(name, images, labels, identity)
