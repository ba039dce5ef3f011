# SPDX-License-Identifier: Apache-2.0
"""Opens image files of the usual formats, whole or damaged, without warnings.

What becomes of pixels that are not RGB: greyscale is repeated; palettes are
looked up; transparency is dropped, as Pillow's convert('RGB') does, so that
the colours stored below it show; CMYK is taken for Adobe's, as in ImageNet; of
16 bits the upper 8 are kept. Of an animation the first frame is read.
"""

import contextlib
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import (
  BmpImagePlugin,
  GifImagePlugin,
  Image,
  ImageFile,
  JpegImagePlugin,
  PngImagePlugin,
  PpmImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

# What Pillow takes for an attack. A JPEG is decoded smaller; what has to be
# whole in memory, at four bytes a pixel or more, may have 8192 x 8192.
MAX_PIXELS = 178_956_970
MAX_WHOLE_PIXELS = 1 << 26
# As much as a header usually takes.
_HEAD = 1 << 16
_TAIL = 16
# A file is looked at in so many places, whether zeros stand there.
_PLACES = 16
_HOLE = bytes(64)
# Zeros in a large JPEG's pixels that are looked into: what disks lose at least.
_SECTOR = 512
# What libjpeg wants to see behind the last pixel.
_AHEAD = bytes(16)
_RESTART = re.compile(rb'\xff[\xd0-\xd7]')
_JPEG = b'\xff\xd8\xff'
_JPEG_END = b'\xff\xd9'
_PNG = b'\x89PNG\r\n\x1a\n'
_TIFF = (b'II*\0', b'MM\0*')
# How files of a format end that are complete.
_ENDS = (
  (_JPEG, _JPEG_END),
  (_PNG, b'IEND\xaeB`\x82'),
  (b'GIF8', b';'),
  # Its header isn't accepted unless all of it is there.
  (b'RIFF', b''),
)
_ORIENTATION_TAG = 0x0112
# Pillow warns of odd metadata in TIFF files and animated PNGs. Filters belong
# to the process, so only one thread at a time may change them.
_FILTERS = threading.Lock()


class DecodeError(ValueError):
  """An image that can't be read: its text says why, but not which."""


class _Jpeg(JpegImagePlugin.JpegImageFile):
  """A JPEG whose resolution in dots per inch nobody asks for.

  Pillow would parse all of the EXIF for it: slow, and warns when damaged.
  """

  def getexif(self) -> Image.Exif:
    return Image.Exif()


# The plugins are called themselves: Image.open warns of large images, and
# reads the index of those that come from stereo cameras.
_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
  (_JPEG, _Jpeg),
  (_PNG, PngImagePlugin.PngImageFile),
  (b'BM', BmpImagePlugin.BmpImageFile),
  (b'GIF8', GifImagePlugin.GifImageFile),
  (b'RIFF', WebPImagePlugin.WebPImageFile),
  *((magic, TiffImagePlugin.TiffImageFile) for magic in _TIFF),
  *((b'P%d' % kind, PpmImagePlugin.PpmImageFile) for kind in range(1, 7)),
)


def open_image(content: bytes, *, whole: bool = True) -> ImageFile.ImageFile:
  """Opens an image; all but JPEGs are decoded, too.

  Their size isn't certain before, and an orientation may follow the pixels.

  Args:
    content: the file.
    whole: whether it shall have all the pixels that its header tells.

  Raises:
    DecodeError: it is no image, damaged, cut short, or too large.
  """
  with _one_error(), _quiet(content):
    file = io.BytesIO(content)
    image = _header(content, file)
    if whole and isinstance(image, _Jpeg):
      _check_scan(image, content, file.tell())
    # One piece, instead of many that are joined again.
    image.decodermaxblock = max(len(content), 1)
    if not isinstance(image, _Jpeg):
      image.load()
  return image


def reduce(image: ImageFile.ImageFile, most: float) -> int:
  """Has a JPEG that isn't decoded yet decoded smaller.

  Args:
    image: from `open_image`; its size becomes the smaller one, rounded up.
    most: how much smaller it may become.

  Returns:
    How much smaller it will be, 1, 2, 4 or 8; 1 for other formats.
  """
  factor = next((f for f in (8, 4, 2) if f <= most), 1)
  if factor == 1 or not isinstance(image, _Jpeg):
    return 1
  image.draft(None, (image.width // factor, image.height // factor))
  return factor


def pixels(image: ImageFile.ImageFile) -> Image.Image:
  """Decodes an image: to mode L where all colours are grey, else to RGB.

  Raises:
    DecodeError: see `open_image`.
  """
  with _one_error():
    image.load()
    if image.mode in ('L', 'RGB'):
      return image
    if image.mode.startswith('I'):
      # convert would clip all above 255.
      upper = np.asarray(image) >> 8
      return Image.fromarray(upper.astype(np.uint8))
    # Else Pillow warns that it is lost.
    image.info.pop('transparency', None)
    return image.convert('RGB')


def orientation(image: ImageFile.ImageFile) -> int:
  """Returns what EXIF says of an image, 1 (upright) to 8; without EXIF 1.

  Pillow turns TIFF files itself, and they carry no block of EXIF.
  """
  block = image.info.get('exif', b'').removeprefix(b'Exif\0\0')
  order = '<' if block.startswith(b'II') else '>'
  try:
    (start,) = struct.unpack_from(f'{order}L', block, 4)
    (count,) = struct.unpack_from(f'{order}H', block, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
      tag, _, _, value = struct.unpack_from(f'{order}HHLH', block, entry)
      if tag == _ORIENTATION_TAG:
        return value if 1 <= value <= 8 else 1
  except struct.error:
    # It ends too soon. The pixels don't depend on it.
    pass
  return 1


def check(file: IO[bytes], *, whole: bool = False) -> None:
  """Looks whether a file can be read, at its two ends and some places between.

  Args:
    file: it is decoded if these aren't as they should be.
    whole: decode it anyway.

  Raises:
    DecodeError: its header is wrong, or it can't be decoded.
    OSError: the file can't be read.
  """
  file.seek(0)
  head = file.read(_HEAD)
  with _one_error(), _quiet(head):
    image = _header(head, file)
  start = file.tell()
  size = file.seek(0, io.SEEK_END)
  if (
    whole
    or not _ends_well(head, file, size)
    or (isinstance(image, _Jpeg) and size - start < _least(image) + 2)
    or _has_hole(file, size)
  ):
    file.seek(0)
    image = open_image(file.read())
    reduce(image, min(image.size))
    pixels(image)


def _ends_well(head: bytes, file: IO[bytes], size: int) -> bool:
  file.seek(max(size - _TAIL, 0))
  tail = file.read()
  return any(
    head.startswith(magic) and tail.endswith(end) for magic, end in _ENDS
  )


def _has_hole(file: IO[bytes], size: int) -> bool:
  for place in range(1, _PLACES):
    file.seek(size * place // _PLACES)
    if file.read(len(_HOLE)) == _HOLE:
      return True
  return False


def _least(image: ImageFile.ImageFile) -> int:
  """Returns how many bytes a JPEG's pixels take at least.

  Huffman's code has a bit or more for each 8 x 8 of them.
  """
  return max(image.width * image.height // 512, 1)


def _check_scan(image: _Jpeg, content: bytes, start: int) -> None:
  """Finds holes in a JPEG, which libjpeg fills with grey and says nothing.

  Args:
    image: opened.
    content: of the file.
    start: where its pixels begin.
  """
  end = content.find(_JPEG_END, start)
  # What comes behind its end is none of it.
  content = content[:end] if end >= 0 else content
  if len(content) < start + _least(image):
    raise DecodeError('it ends before its pixels')
  count = image.layers
  one_scan = 'progressive' not in image.info and content.startswith(
    b'\xff\xda\0%c%c' % (6 + 2 * count, count), start - 8 - 2 * count
  )
  # What is flat may be zeros, too. Where colours come one after the other, it
  # is two short codes for 8 x 8 pixels: never a byte for 32.
  zeros = 32 + (image.width + 16) * (image.height + 16) // 32
  hole = bytes(min(zeros, _SECTOR) if one_scan else zeros)
  if content.find(hole, start) >= 0 and not (
    one_scan and _fits(content, start)
  ):
    raise DecodeError(
      'a part of its pixels is zeros, as where a copy has holes'
    )


def _fits(content: bytes, start: int) -> bool:
  """Returns whether a JPEG's only scan is neither too short nor too long.

  Zeros in the place of other bytes are codes of fewer pixels, or of more.

  Args:
    content: of the file, to the marker of its end.
    start: where its pixels begin.
  """
  restarts = _RESTART.findall(content, start)
  if any(one[1] != 0xD0 + n % 8 for n, one in enumerate(restarts)):
    return False
  # Some programs put zeros before the end.
  bare = content[:start] + content[start:].rstrip(b'\0\xff')
  if _is_complete(bare + _AHEAD):
    content = bare
  elif not _is_complete(content + _AHEAD):
    return False
  less = max(len(content) - len(_AHEAD), start)
  return not _is_complete(content[:less])


def _is_complete(content: bytes) -> bool:
  """Returns whether a JPEG has all of its pixels, were it to end here."""
  image = _Jpeg(io.BytesIO(content))
  reduce(image, min(image.size))
  try:
    image.load()
  except OSError:
    return False
  return True


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
  """Makes one error of what Pillow raises at wrong bytes, which is anything."""
  try:
    yield
  except (DecodeError, MemoryError):
    # Too little memory isn't the file's damage.
    raise
  except Exception as error:
    raise DecodeError(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _quiet(content: bytes) -> Iterator[None]:
  """Keeps warnings back, for files of the kinds that have them."""
  animated = content.startswith(_PNG) and b'acTL' in content
  if not animated and content[:4] not in _TIFF:
    yield
    return
  with _FILTERS, warnings.catch_warnings():
    warnings.simplefilter('ignore')
    yield


def _header(head: bytes, file: IO[bytes]) -> ImageFile.ImageFile:
  """Opens an image by its first bytes; its pixels aren't read."""
  reader = next((r for magic, r in _READERS if head.startswith(magic)), None)
  if reader is None:
    told = 'not an image of a known format' if head else 'the file is empty'
    raise DecodeError(told)
  file.seek(0)
  image = reader(file)
  if isinstance(image, _Jpeg) and not image.tile:
    raise DecodeError('it has no pixels')
  # A progressive one is decoded smaller, too, but from all its coefficients.
  small = isinstance(image, _Jpeg) and 'progressive' not in image.info
  most = MAX_PIXELS if small else MAX_WHOLE_PIXELS
  if image.width * image.height > most:
    raise DecodeError(
      f'{image.width} x {image.height} pixels are more than the {most:,} that '
      'are accepted; shrink it'
    )
  # In these formats Pillow opens 16 bits so, too.
  wide = image.mode == 'I' and image.format not in ('PNG', 'PPM')
  if wide or image.mode == 'F':
    raise DecodeError('pixels of 32 bits have no known range; convert them')
  return image
