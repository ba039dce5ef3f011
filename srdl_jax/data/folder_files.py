# SPDX-License-Identifier: Apache-2.0
"""Image files below a folder: listed, looked at, told apart, read by row."""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence

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
_IGNORED = frozenset({'desktop.ini', 'thumbs.db'})
_THREADS = 16
_FILES_A_TASK = 256
# Bytes at each end of a file that its digest covers.
_END = 1 << 15
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


def listed(names: Sequence[str], most: int) -> str:
  """Returns the first of some names, and how many more there are."""
  shown = ', '.join(printable(name) for name in names[:most])
  more = len(names) - most
  return f'{shown} and {more} more' if more > 0 else shown


def folders(directory: pathlib.Path) -> list[str]:
  """Returns the names of the folders in a folder that aren't hidden.

  Raises:
    DataError: it can't be read.
  """
  return [entry.name for entry in _entries(directory) if entry.is_dir()]


def images(
  root: pathlib.Path, directory: pathlib.Path
) -> tuple[Paths, list[Fault]]:
  """Lists the images in a folder's class folders.

  Hidden files and those that systems put everywhere are passed over, and so
  is what lies beside the class folders and isn't an image.

  Args:
    root: the folder that paths are told from.
    directory: where the class folders are, `root` or below.

  Returns:
    The images of each class, both in the order of their names, and the files
    that can't be used.

  Raises:
    DataError: a folder can't be read.
  """
  below = directory.relative_to(root)
  part, faults = {}, []
  for entry in _entries(directory):
    if entry.is_dir():
      part[entry.name] = []
    elif _is_image(entry.name):
      faults.append(((below / entry.name).as_posix(), 'in no class folder'))
  for name in part:
    for entry in _entries(directory / name):
      path = (below / name / entry.name).as_posix()
      if entry.is_dir():
        faults.append((path, 'a folder in a class folder'))
      elif not _is_image(entry.name):
        faults.append((path, 'not named like an image'))
      elif not entry.is_file():
        faults.append((path, 'a broken link, or no file'))
      else:
        part[name].append(path)
  return part, faults


def look_at(
  root: pathlib.Path, paths: Sequence[str]
) -> tuple[dict[str, str], list[Fault]]:
  """Looks at both ends of files, and reads them whole if these look wrong.

  Returns:
    A digest of each that can be read: of its size and both its ends; and the
    files that can't be.
  """
  digests, faults = {}, []

  def look(first: int) -> None:
    for path in paths[first : first + _FILES_A_TASK]:
      try:
        digests[path] = _digest(root / path)
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


def _entries(directory: pathlib.Path) -> list[os.DirEntry]:
  """Returns what is in a folder and not hidden, in the order of names."""
  try:
    with os.scandir(directory) as entries:
      shown = [
        entry
        for entry in entries
        if not entry.name.startswith('.') and entry.name.lower() not in _IGNORED
      ]
  except OSError as error:
    raise DataError(f'cannot read {directory}: {error.strerror}') from error
  return sorted(shown, key=lambda entry: entry.name)


def _is_image(name: str) -> bool:
  return name.lower().endswith(SUFFIXES)


def _digest(path: pathlib.Path) -> str:
  """Returns an image's digest, after `image_files.check`."""
  with path.open('rb') as file:
    image_files.check(file)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    digest = hashlib.sha256(f'{size}\n'.encode() + file.read(_END))
    # What both ends share is read once.
    file.seek(max(size - _END, _END))
    digest.update(file.read(_END))
  return digest.hexdigest()
