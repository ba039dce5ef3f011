# SPDX-License-Identifier: Apache-2.0
"""The files of CIFAR-10 and CIFAR-100: packed or not, binary or pickled."""

import codecs
import dataclasses
import hashlib
import operator
import pathlib
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from srdl_jax.data import pickles
from srdl_jax.errors import DataError
from srdl_jax.storage import arrays

PIXELS = 3 * 32 * 32
_ENDING = '.bin'


@dataclasses.dataclass(frozen=True)
class Names:
  """What the files are called.

  Attributes:
    records: per split, files of records: labels, then an image. Pickled ones
      are called so, too, but for the ending.
    classes: per label, in the order of a record, a file of names.
    pickled: the pickle with all names, and what they are called in it.
  """

  records: Mapping[str, tuple[str, ...]]
  classes: Mapping[str, str]
  pickled: tuple[str, ...]

  def in_form(self, *, pickled: bool) -> tuple[str, ...]:
    """Returns the names of all files in one of the two forms."""
    records = [file for files in self.records.values() for file in files]
    if pickled:
      return *map(_unended, records), self.pickled[0]
    return *records, *self.classes.values()


@dataclasses.dataclass(frozen=True)
class Contents:
  """What is in the files.

  Attributes:
    names: of classes, per label, in the order of a record.
    records: per split, by file, uint8 [n, L + 3072].
    md5: of pickles, by file.
  """

  names: list[list[str]]
  records: dict[str, dict[str, np.ndarray]]
  md5: dict[str, str]


def read(path: pathlib.Path, names: Names) -> Contents:
  """Reads all of a folder or a tar, whichever form it has.

  Raises:
    DataError: a file is missing or damaged, or holds something else.
  """
  binary, pickled = (names.in_form(pickled=form) for form in (False, True))
  content = _content(path, {*binary, *pickled})
  # As many as there are tell the form: others may have been lost.
  is_pickled = sum(n in content for n in pickled) > sum(
    n in content for n in binary
  )
  if not content:
    raise wrong(path, f'it has neither {binary[0]} nor {pickled[0]}')
  for name in pickled if is_pickled else binary:
    if name not in content:
      raise wrong(path, f'it has no {name}')
  try:
    return (_pickled if is_pickled else _binary)(content, names)
  except ValueError as error:
    raise wrong(path, str(error)) from error


def wrong(path: pathlib.Path, reason: str) -> DataError:
  return DataError(
    f'{path} is not as the official data set: {reason}; replace it, or move it '
    'away to have another used'
  )


def _unended(name: str) -> str:
  return name.removesuffix(_ENDING)


def _content(path: pathlib.Path, wanted: Iterable[str]) -> dict[str, bytes]:
  """Returns what there is of the files, by name."""
  try:
    if path.is_dir():
      there = [name for name in wanted if (path / name).is_file()]
      return {name: (path / name).read_bytes() for name in there}
    # Opening would tell of every compression what is wrong.
    if not tarfile.is_tarfile(path):
      raise tarfile.ReadError('it is no tar')
    found = {}
    with tarfile.open(path) as tar:
      for member in tar:
        name = pathlib.PurePosixPath(member.name).name
        if member.isfile() and name in wanted:
          found[name] = tar.extractfile(member).read()
      # A checksum is behind what a tar's reader needs.
      while tar.fileobj.read(1 << 20):
        pass
    return found
  except (*arrays.DAMAGE, tarfile.TarError) as error:
    told = arrays.reason_of(error)
    raise DataError(f'cannot read {path}: {told}; replace it') from error


def _binary(content: Mapping[str, bytes], names: Names) -> Contents:
  classes = [
    content[f].removeprefix(codecs.BOM_UTF8).decode('latin1').split()
    for f in names.classes.values()
  ]
  width = len(classes) + PIXELS

  def rows(file: str) -> np.ndarray:
    if len(content[file]) % width:
      raise ValueError(
        f'{file} has {len(content[file]):,} bytes, which are no records of '
        f'{width:,}'
      )
    return np.frombuffer(content[file], np.uint8).reshape(-1, width)

  records = {
    split: {file: rows(file) for file in files}
    for split, files in names.records.items()
  }
  return Contents(classes, records, {})


def _pickled(content: Mapping[str, bytes], names: Names) -> Contents:
  meta, *keys = names.pickled
  classes = [
    [_class(meta, name) for name in its]
    for its in _values(content, meta, keys, Sequence)
  ]
  labels = [key.replace('_names', 's') for key in keys]

  def rows(file: str) -> np.ndarray:
    (pixels,) = _values(content, file, ['data'], np.ndarray)
    try:
      numbers = [
        [operator.index(number) for number in its]
        for its in _values(content, file, labels, Sequence)
      ]
    except TypeError:
      raise ValueError(f'{file} has labels that are no integers') from None
    fits = pixels.ndim == 2 and pixels.shape[1] == PIXELS
    if pixels.dtype != np.uint8 or not fits:
      raise ValueError(f'{file}: images are {pixels.dtype} {pixels.shape}')
    for its in numbers:
      if len(its) != len(pixels):
        raise ValueError(f'{file} has not one label for each image')
      if not 0 <= min(its, default=0) <= max(its, default=0) < 256:
        raise ValueError(f'{file} has labels from {min(its)} to {max(its)}')
    return np.column_stack((*numbers, pixels)).astype(np.uint8)

  records = {
    split: {file: rows(file) for file in map(_unended, files)}
    for split, files in names.records.items()
  }
  md5 = {
    name: hashlib.md5(content[name], usedforsecurity=False).hexdigest()
    for name in names.in_form(pickled=True)
  }
  return Contents(classes, records, md5)


def _values(
  content: Mapping[str, bytes], file: str, keys: Iterable[str], kind: type
) -> list[Any]:
  """Returns values of a pickled dict, which are of a kind."""
  try:
    found = pickles.read(content[file])
  except ValueError as error:
    raise ValueError(f'cannot read {file}: {error}') from error
  found = found.items() if isinstance(found, dict) else ()
  found = {_text(key): value for key, value in found}
  for key in keys:
    if not isinstance(found.get(key), kind):
      raise ValueError(f'{file} holds no {key!r} that is a {kind.__name__}')
  return [found[key] for key in keys]


def _class(file: str, value: Any) -> str:
  """Returns a class's name: a line, as files of names hold them."""
  is_text = isinstance(value, str | bytes)
  line, *more = _text(value).split('\n') if is_text else ['']
  if more or not line.strip():
    raise ValueError(f'{file} has a class whose name is no line of text')
  return line


def _text(value: Any) -> str:
  return value.decode('latin1') if isinstance(value, bytes) else str(value)
