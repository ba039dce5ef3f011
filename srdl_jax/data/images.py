# SPDX-License-Identifier: Apache-2.0
"""Images that look like an array, and are decoded when they are asked for.

StreamedImages are cut to one size; PersonImages are whole, and scaled to one
size.
"""

import abc
import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from srdl_jax import cpu
from srdl_jax.data import decoding
from srdl_jax.errors import DataError

# Per channel, of ImageNet's training pixels scaled to [0, 1]: everyone uses
# these, and imported networks expect them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_THREADS = 16
# What reading a record raises: files, ArrayRecord, sockets, the decoder. Not
# Exception: a bug is not to be told as a damaged image.
_UNREADABLE = (OSError, RuntimeError, ValueError, IndexError)


class EncodedImages(Protocol):
  """Encoded images by row; it can be pickled, for worker processes."""

  def __len__(self) -> int:
    """Number of images, N."""

  def __getitem__(self, row: int) -> bytes:
    """The encoded image of a row in 0 .. N - 1."""

  def name(self, row: int) -> str:
    """What a user finds the row's image by."""


@dataclasses.dataclass(frozen=True)
class DecodedImages(abc.ABC):
  """Looks like an array of images, uint8 [N, H, W, 3]."""

  records: EncodedImages
  _damaged: ClassVar[str]

  @property
  @abc.abstractmethod
  def shape(self) -> tuple[int, int, int, int]:
    """(N, H, W, 3)."""

  @property
  def ndim(self) -> int:
    return 4

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(np.uint8)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(
    self, rows: int | slice | np.ndarray | Sequence[int]
  ) -> np.ndarray:
    """Returns images, decoded by several threads.

    Args:
      rows: as of an array's first axis; their shape is [...].

    Returns:
      uint8 [..., H, W, 3].

    Raises:
      DataError: an image is missing or damaged; it is named.
      IndexError: there is no such row.
    """
    # NumPy counts from the end, takes masks and refuses what isn't there.
    numbers = np.arange(len(self))[rows]
    found = np.empty((numbers.size, *self.shape[1:]), np.uint8)

    def fill(place: int) -> None:
      row = int(numbers.flat[place])
      found[place] = self._decoded(row, self._image)

    # An error is raised only to who takes its result.
    for _ in _threads(os.getpid()).map(fill, range(numbers.size)):
      pass
    return found.reshape(*numbers.shape, *self.shape[1:])

  @abc.abstractmethod
  def _image(self, content: bytes) -> np.ndarray | Image.Image:
    """Decodes an image to [H, W, 3]."""

  def _decoded(self, row: int, decode: Callable[[bytes], Any]) -> Any:
    """Returns what `decode` makes of the content of a row."""
    try:
      content = self.records[row]
    except _UNREADABLE as error:
      raise self._error(row, error) from error
    try:
      return decode(content)
    except decoding.DecodeError as error:
      raise self._error(row, error) from error

  def _error(self, row: int, error: Exception) -> DataError:
    reason = getattr(error, 'strerror', None) or error
    name = self.records.name(row)
    return DataError(self._damaged.format(row=row, name=name, reason=reason))


@functools.lru_cache(maxsize=1)
def _threads(_process: int) -> concurrent.futures.ThreadPoolExecutor:
  """The pool of a process: a fork has none of its parent's threads."""
  return concurrent.futures.ThreadPoolExecutor(
    min(_THREADS, cpu.cores()), 'decode'
  )


@dataclasses.dataclass(frozen=True)
class StreamedImages(DecodedImages):
  """Looks like an array of evaluation views, uint8 [N, size, size, 3].

  Attributes:
    size: side of a view, in pixels.
    resize: length of the shorter side before the centre is cut out for an
      evaluation, in pixels.
    least_area: smallest share of the area in a training view.
    orient: whether images are turned as their EXIF says.
  """

  size: int
  resize: int
  least_area: float = 0.08
  orient: bool = False
  _damaged = (
    'cannot read image {row}, {name}: {reason}; restore it and run again, or '
    'leave it out in a new run'
  )

  @property
  def shape(self) -> tuple[int, int, int, int]:
    return len(self.records), self.size, self.size, 3

  def training_view(self, row: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random part of one image: see `decoding.training_view`.

    Raises:
      DataError: the image is damaged; its name and row are told.
    """
    view = functools.partial(
      decoding.training_view,
      rng=rng,
      size=self.size,
      least_area=self.least_area,
      orient=self.orient,
    )
    return self._decoded(row, view)

  def _image(self, content: bytes) -> np.ndarray:
    return decoding.evaluation_view(
      content, resize=self.resize, size=self.size, orient=self.orient
    )


@dataclasses.dataclass(frozen=True)
class NewImages(DecodedImages):
  """Looks like an array of images of any size and kind, as a network sees them:
  uint8 [N, H, W, C], C being 3, or 1 for grey ones.

  Attributes:
    image_shape: (H, W, C).
    resize: see `StreamedImages`; 0 stretches them.
    faults: where it is given, rows that can't be read, and why, are put here,
      and black images stand for them.
  """

  image_shape: tuple[int, int, int]
  resize: int
  faults: dict[int, str] | None = None
  _damaged = 'cannot read {name}: {reason}'

  @property
  def shape(self) -> tuple[int, int, int, int]:
    return len(self.records), *self.image_shape

  def _image(self, content: bytes) -> np.ndarray:
    height, width, channels = self.image_shape
    if self.resize:
      pixels = decoding.evaluation_view(
        content, resize=self.resize, size=height, orient=True
      )
    else:
      image = decoding.decode(content, orient=True)
      pixels = image.resize((width, height), Image.Resampling.BILINEAR)
    if channels == 1:
      pixels = Image.fromarray(np.asarray(pixels)).convert('L')
    return np.asarray(pixels).reshape(self.image_shape)

  def _decoded(self, row: int, decode: Callable[[bytes], Any]) -> Any:
    try:
      return super()._decoded(row, decode)
    except DataError as error:
      if self.faults is None:
        raise
      self.faults[row] = str(error)
      return np.zeros(self.image_shape, np.uint8)


@dataclasses.dataclass(frozen=True)
class PersonImages(DecodedImages):
  """Looks like an array of images, uint8 [N, height, width, 3].

  Each is stretched to that size, in pixels (bilinear). Those of Market-1501's
  query and gallery would fill 2.3 GB of memory.
  """

  height: int
  width: int
  _damaged = 'cannot read {name}: {reason}; restore it and run again'

  @property
  def shape(self) -> tuple[int, int, int, int]:
    return len(self.records), self.height, self.width, 3

  def _image(self, content: bytes) -> Image.Image:
    size = self.width, self.height
    image = decoding.decode(content)
    return image.resize(size, Image.Resampling.BILINEAR)
