# SPDX-License-Identifier: Apache-2.0
"""Image files below a folder: listed, looked at, told apart, read by row."""

import concurrent.futures
import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence

from srdl_jax import cpu
from srdl_jax.data import image_files
from srdl_jax.errors import DataError

SUFFIXES = (
  '.bmp',
  '.gif',
  '.jfif',
  '.jpe',
  '.jpeg',
  '.jpg',
  '.pbm',
  '.pgm',
  '.png',
  '.pnm',
  '.ppm',
  '.tif',
  '.tiff',
  '.webp',
)
# What systems, their file managers and tools put anywhere, in lower case.
# fmt: off
_IGNORED = frozenset({
  '#recycle', '$recycle.bin', '.appledouble', '.cache',
  '.documentrevisions-v100', '.dropbox.cache', '.fseventsd', '.git', '.hg',
  '.idea', '.ipynb_checkpoints', '.snapshot', '.snapshots', '.spotlight-v100',
  '.stfolder', '.svn', '.temporaryitems', '.thumbnails', '.vscode', '@eadir',
  '@tmp', '__macosx', 'desktop.ini', 'ehthumbs.db', 'icon\r', 'lost+found',
  'picasa.ini', 'system volume information', 'thumbs.db',
})
# fmt: on
_IGNORED_BEGINNINGS = ('._', '.fuse_hidden', '.nfs', '.trash')
FOLDER, FILE = 'a folder', 'a file'
# Of the test's, the first that is there is read: earlier versions knew two.
TRAIN_FOLDERS = ('train',)
TEST_FOLDERS = ('val', 'test', 'valid', 'validation', 'dev')
_SHOWN = 10
_THREADS = 16
_FILES_A_TASK = 256
# Bytes at each end of a file that its digest covers.
_END = 1 << 15
_log = logging.getLogger(__name__)
# A file's path below the folder, with '/', and why it can't be used.
Fault = tuple[str, str]
# Class to the paths of its images below the folder, in order.
Paths = dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Files:
  """Image files by row, as `images.EncodedImages`, at paths below a folder."""

  folder: str
  paths: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, row: int) -> bytes:
    with open(os.path.join(self.folder, self.paths[row]), 'rb') as file:
      return file.read()

  def name(self, row: int) -> str:
    return printable(os.path.join(self.folder, self.paths[row]))


def printable(path: str) -> str:
  """Returns a path as text: a file's name may be any bytes."""
  return os.fsencode(path).decode('utf-8', 'backslashreplace')


def is_image(name: str) -> bool:
  """Returns whether a file is called an image."""
  return name.lower().endswith(SUFFIXES)


def base(path: str) -> str:
  """Returns a file's name without its folders, as text."""
  return printable(path.rpartition('/')[2])


def listed(names: Sequence[str], most: int) -> str:
  """Returns the first of some names, and how many more there are."""
  shown = ', '.join(printable(name) for name in names[:most])
  shown = shown.replace('\n', r'\n')
  more = len(names) - most
  return f'{shown} and {more} more' if more > 0 else shown


def entries(directory: pathlib.Path) -> dict[str, str]:
  """Returns what is in a folder, in the order of names.

  Without what systems put there, and without hidden files.

  Returns:
    By name 'a folder', 'a file', or what is wrong with it.

  Raises:
    DataError: it can't be read.
  """
  try:
    with os.scandir(directory) as found:
      kinds = {one.name: _kind(one) for one in found if not _ignored(one.name)}
  except OSError as error:
    raise DataError(f'cannot read {directory}: {error.strerror}') from error
  return {
    name: kind
    for name, kind in sorted(kinds.items())
    if kind != FILE or not name.startswith('.')
  }


def folders(directory: pathlib.Path) -> list[str]:
  """Returns the names of the folders in a folder; see `entries`."""
  return [n for n, kind in entries(directory).items() if kind == FOLDER]


def named(found: Iterable[str], names: Sequence[str]) -> list[str]:
  """Returns those of some names, in their order; letter case doesn't count."""
  known = [name for name in found if name.lower() in names]
  return sorted(known, key=lambda n: (names.index(n.lower()), n != n.lower()))


def test_folder(
  root: pathlib.Path, names: Sequence[str] = TEST_FOLDERS
) -> pathlib.Path | None:
  """Returns where in a folder the test's class folders are, if they are."""
  found = entries(root) if os.path.isdir(root) else {}
  for name in named(found, names)[:1]:
    if found[name] == FOLDER and folders(root / name):
      return root / name
  return None


def images(
  root: pathlib.Path, directories: Sequence[pathlib.Path]
) -> tuple[list[Paths], list[Fault]]:
  """Lists the images in the class folders of some folders.

  Args:
    root: the folder that paths are told from.
    directories: where class folders are, `root` or below.

  Returns:
    For each directory the images of each class, both in the order of their
    names; and the files that can't be used.

  Raises:
    DataError: a folder can't be read, or there is something beside the class
      folders that may have been one.
  """
  parts, faults, strays = [], [], []
  for directory in directories:
    below = directory.relative_to(root)
    part = {}
    for name, kind in entries(directory).items():
      path = (below / name).as_posix()
      if kind == FOLDER and not name.startswith('.'):
        part[name], wrong = _of_class(root, path)
        faults += wrong
      elif kind == FILE and is_image(name):
        faults.append((path, 'in no class folder'))
      else:
        strays.append((path, 'a hidden folder' if kind == FOLDER else kind))
    parts.append(part)
  if strays:
    named = [f'{path} ({reason})' for path, reason in strays]
    raise DataError(
      f'in {root}, beside the class folders: {listed(named, _SHOWN)}; make a '
      'class a folder of images that is not hidden, and move the rest away'
    )
  return parts, faults


def _of_class(root: pathlib.Path, path: str) -> tuple[list[str], list[Fault]]:
  """Returns a class's images, and what else is in its folder."""
  found, faults = [], []
  for name, kind in entries(root / path).items():
    file = f'{path}/{name}'
    if kind == FOLDER:
      faults.append((file, 'a folder in a class folder'))
    elif not is_image(name):
      faults.append((file, 'not named like an image'))
    elif kind != FILE:
      faults.append((file, kind))
    else:
      found.append(file)
  return found, faults


def report(
  root: pathlib.Path, faults: Sequence[Fault], skip: bool | None
) -> None:
  """Refuses a folder for files that can't be used, or logs them.

  Args:
    root: the folder.
    faults: these files, and why.
    skip: whether they are skipped; None where that can't be asked for.
  """
  named = [f'{path} ({reason})' for path, reason in sorted(faults)]
  told = (
    f'in {root}, {len(faults):,} file(s) cannot be used: '
    f'{listed(named, _SHOWN)}'
  )
  if skip:
    _log.warning('%s; they are skipped', told)
    return
  choice = ', or have them skipped by data.skip_unreadable=True'
  raise DataError(
    f'{told}; mend or remove them{"" if skip is None else choice}'
  )


def look_at(
  root: pathlib.Path, paths: Sequence[str], *, whole: bool = False
) -> tuple[dict[str, str], list[Fault]]:
  """Looks at some places of files, and decodes them if these look wrong.

  Args:
    root: the folder that paths are told from.
    paths: of the files.
    whole: decode all. That takes as long as half an epoch's views do.

  Returns:
    A digest of each that can be read: of its size and both its ends; and the
    files that can't be.
  """
  digests, faults = {}, []

  def look(first: int) -> None:
    for path in paths[first : first + _FILES_A_TASK]:
      try:
        digests[path] = _digest(root / path, whole)
      except image_files.DecodeError as error:
        faults.append((path, str(error)))
      except OSError as error:
        faults.append((path, error.strerror or str(error)))

  threads = min(_THREADS, cpu.cores())
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    # A task for each file would take a gigabyte for a million of them.
    for _ in pool.map(look, range(0, len(paths), _FILES_A_TASK)):
      pass
  return digests, faults


def _kind(entry: os.DirEntry) -> str:
  try:
    if entry.is_dir():
      return FOLDER
    if entry.is_file():
      return FILE
    link = entry.is_symlink()
    return f'a broken link to {os.readlink(entry)}' if link else 'no file'
  except OSError as error:
    return error.strerror or str(error)


def _ignored(name: str) -> bool:
  lower = name.lower()
  return lower in _IGNORED or lower.startswith(_IGNORED_BEGINNINGS)


def _digest(path: pathlib.Path, whole: bool) -> str:
  """Returns an image's digest, after `image_files.check`."""
  with path.open('rb') as file:
    image_files.check(file, whole=whole)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    digest = hashlib.sha256(f'{size}\n'.encode() + file.read(_END))
    # What both ends share is read once.
    file.seek(max(size - _END, _END))
    digest.update(file.read(_END))
  return digest.hexdigest()
