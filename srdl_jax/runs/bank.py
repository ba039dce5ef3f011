# SPDX-License-Identifier: Apache-2.0
"""An array on disk or in a bucket: it reads back as written, or not at all.

A folder, of an absolute path, with a zarr array `log_probs` and, written last,
a JSON marker `COMPLETE` with the digests of the array's values and metadata.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from srdl_jax import errors, storage
from srdl_jax.runs import processes
from srdl_jax.storage import bucket

_ARRAY = 'log_probs'
_MARKER = 'COMPLETE'
_FORMAT = 1
# Rows of a chunk on disk, and of a part of the digest: processes that share
# the writing by ranges of whole chunks need not see each other's rows.
_CHUNK_ROWS = 1024


def is_complete(folder: str | os.PathLike[str]) -> bool:
  """Whether an array was written to its end here: whole, not yet sound.

  Raises:
    WorkdirError: that can't be known.
  """
  path = storage.path_of(folder) / _MARKER
  with storage.failures(path, 'read'):
    return path.is_file()


def write(
  folder: storage.Path, values_NxK: np.ndarray, attributes: Mapping[str, Any]
) -> None:
  """Puts an array in the place of whatever array was there.

  On disk that is done in one step. In a bucket, where nothing can be renamed,
  what was there goes first, and the marker comes last.

  Args:
    folder: its parents are created.
    values_NxK: float32 or float16, the same in all processes.
    attributes: names and JSON values to keep with it.

  Raises:
    SoftTargetsError: the folder cannot be written; on disk, what was there
      stays.
  """
  first = processes.is_first()
  with _failures(folder, 'written'), _room(folder, first) as place:
    _write_array(place / _ARRAY, values_NxK, attributes)
    if first:
      marker = _marker(place / _ARRAY, values_NxK)
      storage.write_json(place / _MARKER, marker)
  processes.wait('bank in place')


def refuse_other_files(folder: storage.Path) -> None:
  """Lets `write` replace an array, but not files of someone's own.

  Raises:
    SoftTargetsError: the path is a file, or a folder with other things in it.
  """
  with _failures(folder, 'written'):
    names = {file.name for file in folder.iterdir()} if folder.exists() else ()
  others = sorted(set(names) - {_ARRAY, _MARKER})
  if others:
    raise error(folder, f'{others[0]!r} in it is not ours: move it away')


def read_attributes(folder: storage.Path) -> dict[str, Any]:
  """What is kept with the array; the array itself isn't verified.

  Raises:
    SoftTargetsError: the array is missing or unfinished; Damaged if its marker
      or metadata are.
  """
  if not is_complete(folder):
    state = 'unfinished (no marker)' if folder.is_dir() else 'missing'
    raise error(folder, f'{state}: extract the soft targets first')
  text, marker = _read_heads(folder)
  written = marker.get('format')
  if isinstance(written, int) and written > _FORMAT:
    raise error(
      folder,
      f'format {written}, of a later version; this one reads format {_FORMAT}: '
      'take that version of the program',
    )
  if written != _FORMAT:
    raise _damage(folder, f'its marker is not of format {_FORMAT}')
  if marker.get('metadata') != hashlib.sha256(text).hexdigest():
    raise _damage(folder, 'its metadata are not those that were written')
  with _failures(folder, 'read'):
    return dict(json.loads(text)['attributes'])


def read_values(
  folder: storage.Path, shape: tuple[int, int] | None = None
) -> np.ndarray:
  """Reads an array, of this shape if one is given, and verifies every bit.

  It is read-only.

  Raises:
    SoftTargetsError: the array is of another shape; Damaged if it is that.
  """
  with _failures(folder, 'read'):
    array = ts.open(_spec(folder / _ARRAY), open=True, read=True).result()
    if shape is not None and array.shape != shape:
      raise error(folder, f'shape {array.shape}, where {shape} belongs')
    values_NxK = array.read().result()
  _, marker = _read_heads(folder)
  if marker != _marker(folder / _ARRAY, values_NxK):
    raise _damage(folder, 'its values are not those that were written')
  values_NxK.setflags(write=False)
  return values_NxK


class Damaged(errors.SoftTargetsError):
  """A bank that cannot be read back as it was written."""


def error(folder: storage.Path, text: str) -> errors.SoftTargetsError:
  """An error about a bank: what is wrong, and the remedy."""
  return errors.SoftTargetsError(f'soft targets {folder}: {text}')


def _spec(path: storage.Path) -> dict[str, Any]:
  return {
    'driver': 'zarr3',
    'kvstore': bucket.kvstore(path),
    # A lost chunk must not read as absent examples, so those are stored.
    'fill_missing_data_reads': False,
    'store_data_equal_to_fill_value': True,
  }


def _write_array(path, values_NxK, attributes) -> None:
  """Creates the zarr array; its write ends when the files are on the disk.

  Each process writes its own range, in whole chunks.
  """
  chunk = [min(_CHUNK_ROWS, values_NxK.shape[0]), values_NxK.shape[1]]
  grid = {'name': 'regular', 'configuration': {'chunk_shape': chunk}}
  little = {'name': 'bytes', 'configuration': {'endian': 'little'}}
  metadata = {
    'shape': values_NxK.shape,
    'data_type': values_NxK.dtype.name,
    'fill_value': 'NaN',
    'chunk_grid': grid,
    # Without crc32c TensorStore reads a flipped bit without a word.
    'codecs': [little, {'name': 'crc32c'}],
    'attributes': attributes,
  }
  spec = _spec(path) | {'metadata': metadata}
  # Creating what another process has created fails.
  if processes.is_first():
    ts.open(spec, create=True).result()
  processes.wait('bank created')
  array = ts.open(spec, open=True).result()
  own = processes.own_range(len(values_NxK), _CHUNK_ROWS)
  array[own].write(values_NxK[own]).result()
  processes.wait('bank written')


@contextlib.contextmanager
def _room(folder: storage.Path, first: bool) -> Iterator[storage.Path]:
  """Yields the empty folder to write into, which gets its name at the end."""
  if storage.is_bucket(folder):
    if first:
      # Without its marker, what is left of an earlier one is no bank.
      (folder / _MARKER).unlink(missing_ok=True)
      folder.rmtree(missing_ok=True)
    yield folder
    return
  # All processes know it.
  partial = folder.with_name(f'{folder.name}.partial')
  if first:
    with storage.new_folder(folder, partial, replace=True):
      yield partial
  else:
    yield partial


def _marker(array: storage.Path, values_NxK: np.ndarray) -> dict[str, Any]:
  content = hashlib.sha256()
  for start in range(0, len(values_NxK), _CHUNK_ROWS):
    part = np.ascontiguousarray(values_NxK[start : start + _CHUNK_ROWS])
    content.update(hashlib.sha256(part).digest())
  metadata = hashlib.sha256((array / 'zarr.json').read_bytes())
  return {
    'format': _FORMAT,
    'metadata': metadata.hexdigest(),
    'content': content.hexdigest(),
  }


def _read_heads(folder: storage.Path) -> tuple[bytes, dict[str, Any]]:
  """The array's metadata as text, and the marker that vouches for them."""
  try:
    marker = dict(storage.read_json(folder / _MARKER))
    return (folder / _ARRAY / 'zarr.json').read_bytes(), marker
  except (
    errors.WorkdirError,
    ValueError,
    TypeError,
    *bucket.errors_of(folder),
  ) as cause:
    raise _damage(folder, str(cause)) from cause


@contextlib.contextmanager
def _failures(path: storage.Path, verb: str) -> Iterator[None]:
  """Turns errors of the storage and of TensorStore into a readable line."""
  try:
    yield
  except errors.SrdlError:
    raise
  except (
    *bucket.errors_of(path),
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
  ) as cause:
    # TensorStore has no class of its own: its statuses come as these.
    reason = ' '.join(str(cause).split())[:300]
    if verb == 'read':
      raise _damage(path, reason) from cause
    raise error(path, f'cannot be {verb}: {reason}') from cause


def _damage(folder: storage.Path, reason: str) -> Damaged:
  return Damaged(f'soft targets {folder}: damaged, {reason}: it is made anew')
