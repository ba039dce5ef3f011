# SPDX-License-Identifier: Apache-2.0
"""Images of persons: they stay on disk, and are decoded when asked for."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from srdl_jax.data import decoding, streamed
from srdl_jax.errors import DataError

_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Images:
  """Looks like an array of images, uint8 [N, height, width, 3].

  Those of Market-1501's query and gallery would fill 2.3 GB of memory.

  Attributes:
    records: the encoded images.
    height: of each image, in pixels.
    width: of each image, in pixels.
  """

  records: streamed.Records
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
