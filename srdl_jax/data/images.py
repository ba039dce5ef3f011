# SPDX-License-Identifier: Apache-2.0
"""Images that look like an array, and are decoded when they are asked for.

StreamedImages stay encoded on disk, and are cut to one size; PersonImages are
whole, and scaled to one size.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from srdl_jax.data import decoding
from srdl_jax.errors import DataError

_THREADS = 16
# What reading a record raises: files, ArrayRecord, sockets.
_UNREADABLE = (OSError, RuntimeError, ValueError, IndexError)


class Records(Protocol):
  """Encoded images by row; it can be pickled, for worker processes."""

  def __len__(self) -> int:
    """Number of records, N."""

  def __getitem__(self, row: int) -> bytes:
    """The encoded image of a row in 0 .. N - 1."""

  def name(self, row: int) -> str:
    """What a user finds the row's image by."""


@dataclasses.dataclass(frozen=True)
class StreamedImages:
  """Looks like an array of evaluation views, uint8 [N, size, size, 3].

  Attributes:
    records: the encoded images.
    size: side of a view, in pixels.
    resize: length of the shorter side before the centre is cut out for an
      evaluation, in pixels.
    least_area: smallest share of the area in a training view.
    orient: whether images are turned as their EXIF says.
  """

  records: Records
  size: int
  resize: int
  least_area: float = 0.08
  orient: bool = False

  @property
  def shape(self) -> tuple[int, int, int, int]:
    return len(self.records), self.size, self.size, 3

  @property
  def ndim(self) -> int:
    return 4

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(np.uint8)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
    """Returns evaluation views, decoded by several threads.

    Args:
      rows: integers [B], or a slice of B rows; negative ones count from the
        end.

    Returns:
      uint8 [B, size, size, 3].

    Raises:
      DataError: an image is damaged; its name and row are told.
      IndexError: a row is out of range.
    """
    numbers = _numbers(rows, len(self))
    views = np.empty((len(numbers), *self.shape[1:]), np.uint8)

    def fill(place: int) -> None:
      views[place] = self._evaluation_view(int(numbers[place]))

    for _ in _threads(os.getpid()).map(fill, range(len(numbers))):
      pass
    return views

  def training_view(self, row: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random part of one image.

    Args:
      row: in 0 .. N - 1.
      rng: of the part; nothing else is random.

    Returns:
      uint8 [size, size, 3], see `decoding.training_view`.

    Raises:
      DataError: the image is damaged; its name and row are told.
    """
    content = self._read(row)
    try:
      return decoding.training_view(
        content,
        rng,
        size=self.size,
        least_area=self.least_area,
        orient=self.orient,
      )
    except decoding.DecodeError as error:
      raise self._damaged(row, error) from error

  def _evaluation_view(self, row: int) -> np.ndarray:
    content = self._read(row)
    try:
      return decoding.evaluation_view(
        content, resize=self.resize, size=self.size, orient=self.orient
      )
    except decoding.DecodeError as error:
      raise self._damaged(row, error) from error

  def _read(self, row: int) -> bytes:
    try:
      return self.records[row]
    except _UNREADABLE as error:
      raise self._damaged(row, error) from error

  def _damaged(self, row: int, error: Exception) -> DataError:
    reason = getattr(error, 'strerror', None) or error
    return DataError(
      f'cannot read image {row}, {self.records.name(row)}: {reason}; restore '
      'it and run again, or leave it out in a new run'
    )


def _numbers(rows: np.ndarray | slice, count: int) -> np.ndarray:
  """Returns row numbers, int [B], in 0 .. count - 1."""
  if isinstance(rows, slice):
    return np.arange(*rows.indices(count))
  numbers = np.asarray(rows)
  if numbers.size == 0:
    return numbers.reshape(0).astype(np.int64)
  if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
    raise IndexError(
      'images are asked for by integers [B] or by a slice, not by '
      f'{numbers.dtype} {list(numbers.shape)}'
    )
  numbers = numbers.astype(np.int64)
  low, high = numbers.min(), numbers.max()
  if not -count <= low <= high < count:
    raise IndexError(f'rows {low} to {high}, of {count} images')
  return np.where(numbers < 0, numbers + count, numbers)


@functools.lru_cache(maxsize=1)
def _threads(process: int) -> concurrent.futures.ThreadPoolExecutor:
  """The pool of a process: a fork has none of its parent's threads."""
  del process
  return concurrent.futures.ThreadPoolExecutor(
    min(_THREADS, len(os.sched_getaffinity(0))), 'decode'
  )


@dataclasses.dataclass(frozen=True)
class PersonImages:
  """Looks like an array of images, uint8 [N, height, width, 3].

  Those of Market-1501's query and gallery would fill 2.3 GB of memory.

  Attributes:
    records: the encoded images.
    height: of each image, in pixels.
    width: of each image, in pixels.
  """

  records: Records
  height: int
  width: int

  @property
  def shape(self) -> tuple[int, int, int, int]:
    return len(self.records), self.height, self.width, 3

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(np.uint8)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(
    self, rows: int | slice | np.ndarray | Sequence[int]
  ) -> np.ndarray:
    """Returns images, stretched to the size (bilinear), by several threads.

    Args:
      rows: as of an array's first axis; their shape is [...].

    Returns:
      uint8 [..., height, width, 3].

    Raises:
      DataError: an image is missing or damaged; it is named.
      IndexError: there is no such row.
    """
    numbers = np.arange(len(self))[rows]
    found = np.empty((numbers.size, *self.shape[1:]), np.uint8)

    def fill(place: int) -> None:
      found[place] = self._image(int(numbers.flat[place]))

    threads = min(_THREADS, len(os.sched_getaffinity(0)))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
      for _ in pool.map(fill, range(numbers.size)):
        pass
    return found.reshape(*numbers.shape, *self.shape[1:])

  def _image(self, row: int) -> Image.Image:
    try:
      image = decoding.decode(self.records[row])
    except (OSError, ValueError) as error:
      reason = getattr(error, 'strerror', None) or error
      raise DataError(
        f'cannot read {self.records.name(row)}: {reason}; restore it and run '
        'again'
      ) from error
    size = self.width, self.height
    return image.resize(size, Image.Resampling.BILINEAR)
