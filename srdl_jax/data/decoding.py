# SPDX-License-Identifier: Apache-2.0
"""Image files to RGB pixels: decoded, cropped and resized, on the host.

A crop is chosen on the size that the file's header tells, and then no more is
decoded than it needs: a JPEG can be read at a half, a quarter or an eighth of
its size, and no further down than the crop reaches. `image_files` says what
becomes of the many kinds of pixels.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile

from srdl_jax.data import image_files
from srdl_jax.data.image_files import DecodeError as DecodeError

ASPECTS = (3 / 4, 4 / 3)
_TRIES = 10
# Evaluation reads a JPEG smaller only while it stays so much larger than the
# resized image: that changes views by less than a level on average.
_EVALUATION_GAP = 2
# Opening a JPEG anew takes as long as decoding about ten rows of it.
_ROWS_WORTH_LEAVING_OUT = 32
# Markers of a JPEG's segments that may come before its frame, which tells the
# size, and of the frames whose rows are coded from top to bottom with Huffman's
# code, be they baseline or progressive.
_SEGMENTS = frozenset(
  bytes((0xFF, kind)) for kind in (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))
)
_FRAMES = frozenset((b'\xff\xc0', b'\xff\xc1', b'\xff\xc2'))
_END = b'\xff\xd9'
# How to mirror and turn, by the EXIF tag's value.
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# (left, top, right, bottom), in pixels from the upper left corner.
Box = tuple[float, float, float, float]


def decode(content: bytes, *, orient: bool = False) -> Image.Image:
  """Decodes an image file of any of the known formats.

  Args:
    content: the file: JPEG, PNG, BMP, GIF, WebP, TIFF or PPM, whatever its
      name says.
    orient: turn the image as its EXIF says. TIFF files are always turned.

  Returns:
    An image of mode RGB.

  Raises:
    DecodeError: it is no image, damaged, cut short, or too large.
  """
  image = image_files.open_image(content)
  turn = image_files.orientation(image) if orient else 1
  return _upright(image_files.pixels(image), turn)


def evaluation_view(
  content: bytes, *, resize: int, size: int, orient: bool = False
) -> np.ndarray:
  """Returns the centre of the resized image, as torchvision rounds it.

  Args:
    content, orient: see `decode`.
    resize: length that the shorter side gets, in pixels, bilinear and
      antialiased.
    size: of the square that is cut out of the middle; at most `resize`.

  Returns:
    uint8 [size, size, 3].

  Raises:
    DecodeError: see `decode`.
  """
  choose = functools.partial(centre_box, resize=resize, size=size)
  return _view(content, choose, size, _EVALUATION_GAP, orient)


def training_view(
  content: bytes,
  rng: np.random.Generator,
  *,
  size: int,
  least_area: float = 0.08,
  orient: bool = False,
) -> np.ndarray:
  """Returns a random part of the image, resized (Inception's crop).

  Which part depends on the generator and the image's size alone, not on how
  the file is decoded. It isn't mirrored.

  Args:
    content, orient: see `decode`.
    size: of the result, in pixels.
    least_area: smallest share of the image's area, in (0, 1].

  Returns:
    uint8 [size, size, 3].

  Raises:
    DecodeError: see `decode`.
  """
  choose = functools.partial(random_box, rng=rng, least_area=least_area)
  return _view(content, choose, size, 1, orient)


def centre_box(width: int, height: int, resize: int, size: int) -> Box:
  """The part of a width x height image that an evaluation sees."""
  shorter = min(width, height)
  # Resize truncates the longer side.
  wide, high = resize * width // shorter, resize * height // shorter
  # Halves are rounded to even numbers, as torchvision does.
  left, top = round((wide - size) / 2), round((high - size) / 2)
  across, down = width / wide, height / high
  return (
    left * across,
    top * down,
    (left + size) * across,
    (top + size) * down,
  )


def random_box(
  width: int, height: int, rng: np.random.Generator, least_area: float
) -> Box:
  """A part of random area and aspect; after ten misses one in the middle."""
  low, high = ASPECTS
  for _ in range(_TRIES):
    area = width * height * rng.uniform(least_area, 1.0)
    aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
    wide = round(math.sqrt(area * aspect))
    tall = round(math.sqrt(area / aspect))
    if 0 < wide <= width and 0 < tall <= height:
      top = int(rng.integers(height - tall + 1))
      left = int(rng.integers(width - wide + 1))
      return left, top, left + wide, top + tall
  wide = min(width, round(height * high))
  tall = min(height, round(width / low))
  left, top = (width - wide) // 2, (height - tall) // 2
  return left, top, left + wide, top + tall


def _view(
  content: bytes,
  choose: Callable[[int, int], Box],
  size: int,
  gap: float,
  orient: bool,
) -> np.ndarray:
  """Cuts a box out and resizes it to a square [size, size, 3], in one go.

  Args:
    choose: from the upright image's width and height to the box.
    gap: how much larger the box must stay if less is decoded.
  """
  image = image_files.open_image(content)
  turn = image_files.orientation(image) if orient else 1
  # From 5 on, the image lies on its side.
  upright = image.size[::-1] if turn > 4 else image.size
  box = _as_stored(choose(*upright), turn, *image.size)
  image = _upper_part(image, content, _lowest_row(box, size))
  shorter = min(box[2] - box[0], box[3] - box[1])
  factor = image_files.reduce(image, shorter / (gap * size))
  image = image_files.pixels(image)
  # A float may have come out a hair beyond the edge.
  limits = (*image.size, *image.size)
  box = tuple(
    min(max(at / factor, 0), limit)
    for at, limit in zip(box, limits, strict=True)
  )
  image = image.resize((size, size), Image.Resampling.BILINEAR, box)
  # np.asarray(image) gives the same, and takes half as long again.
  content = _upright(image, turn).tobytes()
  return np.frombuffer(content, np.uint8).reshape(size, size, 3)


def _lowest_row(box: Box, size: int) -> int:
  """Returns how many rows of a file it takes to resize a box of it.

  As long as one pixel of the result is high, or one of the file if that is
  more, counts once for the filter, which reaches beyond the box; once for
  rounding to the pixels of a file that is decoded smaller, of which none is
  larger than this; and twice for colours, smoothed with the rows below.
  """
  return math.ceil(box[3] + 4 * max(1.0, (box[3] - box[1]) / size))


def _upper_part(
  image: ImageFile.ImageFile, content: bytes, rows: int
) -> ImageFile.ImageFile:
  """Returns a JPEG of the upper rows, where others can be left out.

  A lower height in its header has the decoder skip what comes after. That is
  for files with an end alone: one that is cut short is to be found damaged
  wherever the crop is.

  Args:
    image: from `image_files.open_image`; JPEGs aren't decoded yet.
    rows: how many are needed. They come out the same, but for the last one,
      whose colours would be smoothed with the row below.
  """
  few = rows + _ROWS_WORTH_LEAVING_OUT > image.height
  if image.format != 'JPEG' or few or not content.endswith(_END):
    return image
  at = 2
  while content[at : at + 2] in _SEGMENTS:
    # A segment's length counts its own two bytes, but not the marker.
    at += 2 + int.from_bytes(content[at + 2 : at + 4])
  if content[at : at + 2] not in _FRAMES:
    return image
  # Marker, length and precision come before the height.
  parts = (content[: at + 5], rows.to_bytes(2), content[at + 7 :])
  return image_files.open_image(b''.join(parts), whole=False)


def _as_stored(box: Box, turn: int, width: int, height: int) -> Box:
  """A box of the upright image, in the width x height pixels of the file."""
  left, top, right, bottom = box
  if turn > 4:
    left, top, right, bottom = top, left, bottom, right
  if turn in (2, 3, 7, 8):
    left, right = width - right, width - left
  if turn in (3, 4, 6, 7):
    top, bottom = height - bottom, height - top
  return left, top, right, bottom


def _upright(image: Image.Image, turn: int) -> Image.Image:
  # After a resize there is less to convert and to turn.
  image = image if image.mode == 'RGB' else image.convert('RGB')
  return image.transpose(_TURNS[turn]) if turn > 1 else image
