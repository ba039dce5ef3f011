# SPDX-License-Identifier: Apache-2.0
"""Arrays in files that may be damaged, or of anyone's making."""

import lzma
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection

import numpy as np

# What NumPy, the standard library's readers and most others raise of bytes that
# aren't what they should be; each list of one's own forgot some. A zip alone
# knows six: of encryption it raises RuntimeError, of an unknown compression
# NotImplementedError; and a header may ask for more memory than there is.
DAMAGE = (
  ArithmeticError,
  AttributeError,
  EOFError,
  LookupError,
  MemoryError,
  OSError,
  RuntimeError,
  SyntaxError,
  TypeError,
  ValueError,
  lzma.LZMAError,
  struct.error,
  tokenize.TokenError,
  zipfile.BadZipFile,
  zlib.error,
)


def read(path: pathlib.Path, names: Collection[str]) -> dict[str, np.ndarray]:
  """Returns those of some arrays that are in a .npz file.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or holds something else; in one line.
  """
  try:
    with zipfile.ZipFile(path):  # NumPy would take other files, too.
      pass
    # It leaves a file open that it opened itself and can't read.
    with path.open('rb') as file, np.load(file) as stored:
      return {name: _plain(name, stored[name]) for name in {*stored} & {*names}}
  except FileNotFoundError:
    raise
  except DAMAGE as error:
    raise ValueError(reason_of(error)) from error


def read_one(path: pathlib.Path) -> np.ndarray:
  """Returns the array of a .npy file.

  Raises:
    ValueError: see `read`.
  """
  try:
    with path.open('rb') as file:
      return _plain(path.name, np.load(file))
  except DAMAGE as error:
    raise ValueError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
  """Returns what a reader says, in a line of some length."""
  return ' '.join(str(error).split())[:300] or type(error).__name__


def _plain(name: str, value: object) -> np.ndarray:
  # NumPy hands out the bytes of what is no array, and archives in archives.
  if not isinstance(value, np.ndarray):
    raise ValueError(f'{name} is no array')
  return value
