# SPDX-License-Identifier: Apache-2.0
"""Decoding: kinds of files, crops against their arithmetic, damage."""

import functools
import io
import math
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, JpegImagePlugin
from sklearn import datasets

from srdl_jax.data import decoding, image_files
from srdl_jax.data.decoding import DecodeError

TURNED = {o: t for o, t in zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True)}
# The transposition that makes the file of an upright image, by orientation:
# its inverse. Only the two quarter turns are not their own.
STORED = TURNED | {6: TURNED[8], 8: TURNED[6]}


@functools.cache
def photograph(name='china.jpg', size=None):
  image = Image.fromarray(datasets.load_sample_image(name))
  return image.resize(size, Image.Resampling.LANCZOS) if size else image


def encoded(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def with_orientation(number):
  exif = Image.Exif()
  exif[0x010E] = 'a description that lies elsewhere in the block'
  exif[0x0112] = number
  return exif


def difference(a, b):
  return np.abs(np.asarray(a, int) - np.asarray(b, int))


def rng(seed=0):
  return np.random.default_rng(seed)


# Kinds of files.

LOSSLESS = {
  'PNG': {},
  'BMP': {},
  'PPM': {},
  'TIFF': {},
  'TIFF, LZW': {'compression': 'tiff_lzw'},
  'WEBP': {'lossless': True},
}


@pytest.mark.parametrize('kind', LOSSLESS)
def test_files_without_loss_give_their_pixels(kind):
  image = photograph(size=(60, 40))
  content = encoded(image, kind.partition(',')[0], **LOSSLESS[kind])
  decoded = decoding.decode(content)
  assert decoded.mode == 'RGB'
  np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize('options', [{}, {'progressive': True}])
def test_a_jpeg_is_what_pillow_reads(options):
  content = encoded(photograph(), 'JPEG', **options)
  with Image.open(io.BytesIO(content)) as image:
    np.testing.assert_array_equal(decoding.decode(content), image)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF', 'PPM'])
def test_grey_becomes_three_equal_channels(kind):
  grey = photograph(size=(60, 40)).convert('L')
  decoded = np.asarray(decoding.decode(encoded(grey, kind)))
  assert decoded.shape == (40, 60, 3)
  np.testing.assert_array_equal(decoded, decoded[..., :1].repeat(3, 2))
  assert difference(decoded[..., 0], grey).mean() <= (kind == 'JPEG') * 5


def test_one_bit_becomes_black_and_white():
  bits = photograph(size=(60, 40)).convert('1')
  decoded = np.asarray(decoding.decode(encoded(bits, 'PNG')))
  np.testing.assert_array_equal(decoded[..., 0], np.asarray(bits) * 255)


@pytest.mark.parametrize(
  ('kind', 'told'),
  [
    ('PNG', {}),
    ('PNG', {'transparency': 3}),
    ('PNG', {'transparency': bytes([0, 128, 255])}),
    ('GIF', {}),
    ('GIF', {'transparency': 3}),
  ],
)
def test_a_palette_is_looked_up_whatever_is_transparent(kind, told):
  palette = photograph(size=(60, 40)).quantize(20)
  decoded = decoding.decode(encoded(palette, kind, **told))
  np.testing.assert_array_equal(decoded, palette.convert('RGB'))


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'WEBP'])
def test_colours_below_transparency_show(kind):
  image = photograph(size=(60, 40))
  alpha = Image.linear_gradient('L').resize((60, 40))
  exact = {'lossless': True, 'exact': True} if kind == 'WEBP' else {}
  layered = Image.merge('RGBA', (*image.split(), alpha))
  np.testing.assert_array_equal(
    decoding.decode(encoded(layered, kind, **exact)), image
  )


def test_grey_below_transparency_shows():
  grey = photograph(size=(60, 40)).convert('L')
  layered = Image.merge(
    'LA', (grey, Image.linear_gradient('L').resize((60, 40)))
  )
  np.testing.assert_array_equal(
    decoding.decode(encoded(layered, 'PNG')), grey.convert('RGB')
  )


def test_inks_become_colours():
  # Pillow writes them as Adobe's programs do: inverted.
  image = photograph(size=(60, 40))
  content = encoded(image.convert('CMYK'), 'JPEG', quality=100, subsampling=0)
  assert b'Adobe' in content
  assert difference(decoding.decode(content), image).mean() < 1.5


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'PPM'])
def test_of_sixteen_bits_the_upper_eight_stay(kind):
  values = np.array([[0, 255, 256, 257, 511, 40_000, 65_535]], np.uint16)
  if kind == 'PPM':
    content = b'P5 7 1 65535\n' + values.astype('>u2').tobytes()
  else:
    content = encoded(Image.fromarray(values), kind)
  decoded = decoding.decode(content)
  np.testing.assert_array_equal(np.asarray(decoded)[..., 1], values >> 8)


def test_sixteen_bits_of_the_other_byte_order():
  values = np.array([[0, 256, 65_535]], np.uint16)
  image = Image.frombytes('I;16B', (3, 1), values.astype('>u2').tobytes())
  decoded = decoding.decode(encoded(image, 'TIFF'))
  np.testing.assert_array_equal(np.asarray(decoded)[0, :, 0], [0, 1, 255])


@pytest.mark.parametrize('dtype', [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(dtype):
  image = Image.fromarray(np.ones((4, 4), dtype))
  content = encoded(image, 'TIFF')
  with pytest.raises(DecodeError, match='32 bits'):
    decoding.decode(content)
  with pytest.raises(DecodeError, match='32 bits'):
    image_files.check(io.BytesIO(content))


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_of_an_animation_the_first_frame_is_read(kind):
  first = photograph(size=(60, 40)).quantize(30)
  rest = photograph('flower.jpg', (60, 40)).quantize(30)
  options = {'lossless': True} if kind == 'WEBP' else {}
  content = encoded(first, kind, save_all=True, append_images=[rest], **options)
  np.testing.assert_array_equal(decoding.decode(content), first.convert('RGB'))


# Smaller decoding.


def reduced(content, at_least):
  """Decodes a file as small as (width, height), if it can be, or larger."""
  image = image_files.open_image(content)
  wide, high = at_least
  image_files.reduce(image, min(image.width / wide, image.height / high))
  return image_files.pixels(image).convert('RGB')


@pytest.mark.parametrize(
  ('at_least', 'size'),
  [
    # China is 640 x 427; a reduced side is rounded up.
    ((640, 427), (640, 427)),
    ((321, 1), (640, 427)),
    ((320, 213), (320, 214)),
    ((320, 214), (640, 427)),
    ((161, 100), (320, 214)),
    ((160, 106), (160, 107)),
    ((80, 53), (80, 54)),
    ((1, 1), (80, 54)),
    ((2000, 2000), (640, 427)),
  ],
)
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_a_jpeg_is_decoded_as_small_as_wished_but_no_smaller(
  mode, at_least, size
):
  content = encoded(photograph().convert(mode), 'JPEG')
  decoded = reduced(content, at_least)
  assert (decoded.size, decoded.mode) == (size, 'RGB')
  # The last pixels of a reduced side may stand for fewer.
  factor = 640 / size[0]
  box = (0, 0, 640 / factor, 427 / factor)
  small = decoded.resize((40, 27), Image.Resampling.BILINEAR, box)
  whole = decoding.decode(content).resize((40, 27), Image.Resampling.BILINEAR)
  assert difference(small, whole).mean() < 1.5


def test_other_formats_are_never_reduced():
  content = encoded(photograph(), 'PNG')
  assert reduced(content, (10, 10)).size == (640, 427)


# The evaluation's view.


@pytest.mark.parametrize('size', [(640, 427), (301, 500), (300, 300), (97, 64)])
@pytest.mark.parametrize(('resize', 'side'), [(256, 224), (64, 64), (73, 64)])
def test_the_evaluation_sees_what_torchvision_crops(size, resize, side):
  image = photograph(size=size)
  width, height = size
  # Resize truncates the longer side, CenterCrop rounds half of the rest.
  if width <= height:
    wide, high = resize, int(resize * height / width)
  else:
    wide, high = int(resize * width / height), resize
  left, top = round((wide - side) / 2), round((high - side) / 2)
  expected = image.resize((wide, high), Image.Resampling.BILINEAR)
  expected = expected.crop((left, top, left + side, top + side))
  view = decoding.evaluation_view(
    encoded(image, 'PNG'), resize=resize, size=side
  )
  assert (view.shape, view.dtype) == ((side, side, 3), np.uint8)
  assert difference(view, expected).max() <= 1


def test_the_evaluation_of_a_large_jpeg_is_hardly_changed_by_reduction():
  large = photograph(size=(1280, 854))
  content = encoded(large, 'JPEG', quality=95)
  pixels = encoded(decoding.decode(content), 'PNG')
  for side in (40, 100):
    reduced = decoding.evaluation_view(content, resize=side, size=side)
    whole = decoding.evaluation_view(pixels, resize=side, size=side)
    assert 0 < difference(reduced, whole).mean() < 0.8
    assert difference(reduced, whole).max() < 10
  # It is read whole where it isn't four times as large.
  exact = decoding.evaluation_view(content, resize=330, size=330)
  whole = decoding.evaluation_view(pixels, resize=330, size=330)
  np.testing.assert_array_equal(exact, whole)


# The training's view.


def expected_box(width, height, draw, least_area):
  """torchvision's RandomResizedCrop.get_params, from its description."""
  for _ in range(10):
    area = draw.uniform(least_area, 1) * width * height
    aspect = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
    wide = int(round(math.sqrt(area * aspect)))
    high = int(round(math.sqrt(area / aspect)))
    if 0 < wide <= width and 0 < high <= height:
      top = int(draw.integers(0, height - high + 1))
      left = int(draw.integers(0, width - wide + 1))
      return left, top, left + wide, top + high
  if width / height < 3 / 4:
    wide, high = width, int(round(width / (3 / 4)))
  elif width / height > 4 / 3:
    wide, high = int(round(height * (4 / 3))), height
  else:
    wide, high = width, height
  left, top = (width - wide) // 2, (height - high) // 2
  return left, top, left + wide, top + high


@pytest.mark.parametrize('size', [(640, 427), (300, 480), (900, 90), (70, 900)])
@pytest.mark.parametrize('least_area', [0.08, 0.9, 1.0])
def test_the_training_sees_the_crop_of_the_draws(size, least_area):
  image = photograph(size=size)
  content = encoded(image, 'PNG')
  for seed in range(3):
    box = expected_box(*size, rng(seed), least_area)
    cut = image.crop(box).resize((48, 48), Image.Resampling.BILINEAR)
    view = decoding.training_view(
      content, rng(seed), size=48, least_area=least_area
    )
    assert (view.shape, view.dtype) == ((48, 48, 3), np.uint8)
    # At the border the filter sees the pixels beyond the crop.
    inner = np.s_[1:-1, 1:-1]
    if min(box[2] - box[0], box[3] - box[1]) >= 48:
      assert difference(view[inner], np.asarray(cut)[inner]).max() <= 1


def test_a_box_is_the_middle_where_no_draw_fits():
  # A line's crops of an aspect up to 4/3 are all too high.
  assert decoding.random_box(900, 30, rng(), 0.5) == (430, 0, 470, 30)
  assert decoding.random_box(30, 900, rng(), 0.5) == (0, 430, 30, 470)
  assert decoding.random_box(1, 1000, rng(), 0.5) == (0, 499, 1, 500)
  assert decoding.random_box(1000, 1, rng(), 0.5) == (499, 0, 500, 1)


def test_boxes_cover_the_areas_and_aspects_evenly():
  draw = rng()
  # A square of this size rejects few draws of small areas.
  boxes = np.array(
    [decoding.random_box(1000, 1000, draw, 0.1) for _ in range(4000)]
  )
  wide, high = (boxes[:, 2:] - boxes[:, :2]).T
  assert boxes.min() >= 0 and boxes.max() <= 1000
  aspects = np.log(wide / high) / np.log(4 / 3)
  area = wide * high / 1e6
  assert area.min() > 0.0995 and area.max() <= 1
  small = area < 0.5
  # Below half of the area nothing is rejected: uniform in (0.1, 0.5), its
  # mean with a standard error of 0.115 / sqrt(1800).
  assert abs(area[small].mean() - 0.3) < 0.01
  assert abs(aspects[small].mean()) < 0.05
  assert abs(aspects[small].std() - 1 / math.sqrt(3)) < 0.03
  # Left edges are uniform over what is free.
  free = boxes[small, 0] / (1000 - wide[small])
  assert abs(free.mean() - 0.5) < 0.03


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_the_crop_is_the_same_however_the_file_is_decoded(mode):
  content = encoded(photograph().convert(mode), 'JPEG', quality=95)
  whole = encoded(decoding.decode(content), 'PNG')
  for seed in range(5):
    first, second = rng(seed), rng(seed)
    reduced = decoding.training_view(content, first, size=24)
    exact = decoding.training_view(whole, second, size=24)
    assert difference(reduced, exact).mean() < 2.5
    other = decoding.training_view(whole, second, size=24)
    assert difference(exact, other).mean() > 10
    decoding.training_view(content, first, size=24)
    assert first.random() == second.random()


@pytest.mark.parametrize('side', [40, 180])
@pytest.mark.parametrize(
  ('mode', 'options'),
  [
    ('RGB', {}),
    ('RGB', {'subsampling': 0}),
    ('RGB', {'subsampling': 1, 'optimize': True}),
    ('RGB', {'restart_marker_rows': 1}),
    ('RGB', {'progressive': True}),
    ('RGB', {'comment': b'\xff\xc0 is no frame here'}),
    ('L', {}),
    ('L', {'progressive': True}),
    ('CMYK', {}),
  ],
)
def test_no_more_is_decoded_than_the_crop_needs(
  mode, options, side, monkeypatch
):
  sizes = []
  pixels = image_files.pixels

  def watched(image):
    sizes.append(image.size)
    return pixels(image)

  content = encoded(photograph().convert(mode), 'JPEG', **options)
  for seed in range(6):
    with monkeypatch.context() as patch:
      patch.setattr(image_files, 'pixels', watched)
      view = decoding.training_view(content, rng(seed), size=side)
    left, top, right, bottom = expected_box(640, 427, rng(seed), 0.08)
    shorter = min(right - left, bottom - top)
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or shorter / f >= side)
    wide, high = sizes.pop()
    assert wide == math.ceil(640 / factor)
    # Below the crop what the filter reaches, and too little to be left out.
    reach = 4 * max(1, (bottom - top) / side)
    most = min(427, bottom + reach + 32)
    assert math.ceil(bottom / factor) <= high <= math.ceil(most / factor)
    small = reduced(content, (640 // factor, 427 // factor))
    box = [at / factor for at in (left, top, right, bottom)]
    expected = small.resize((side, side), Image.Resampling.BILINEAR, box)
    np.testing.assert_array_equal(view, expected)


@pytest.mark.parametrize('number', range(1, 9))
def test_what_is_left_out_lies_below_in_the_file(number):
  content = encoded(photograph(), 'JPEG', exif=with_orientation(number))
  pixels = decoding.decode(content)
  whole = encoded(pixels, 'PNG', exif=with_orientation(number))
  for seed in range(4):
    a, b = (
      decoding.training_view(c, rng(seed), size=200, orient=True)
      for c in (content, whole)
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('options', [{}, {'progressive': True}])
@pytest.mark.parametrize('kept', [0.5, 0.999])
def test_an_end_that_is_missing_below_the_crop_is_noticed(options, kept):
  content = encoded(photograph(), 'JPEG', **options)
  cut = content[: int(kept * len(content))]
  for seed in range(8):
    with pytest.raises(DecodeError, match='truncated'):
      decoding.training_view(cut, rng(seed), size=100)


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_tiny_images_and_lines_are_enlarged(kind, size):
  content = encoded(photograph(size=size), kind)
  assert decoding.training_view(content, rng(), size=8).shape == (8, 8, 3)
  view = decoding.evaluation_view(content, resize=9, size=8)
  assert view.shape == (8, 8, 3)


# Orientation.


@pytest.mark.parametrize('number', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_an_image_is_turned_as_its_exif_says(kind, number):
  upright = photograph(size=(90, 60))
  stored = upright.transpose(STORED[number]) if number > 1 else upright
  lossless = {'lossless': True} if kind == 'WEBP' else {}
  content = encoded(stored, kind, exif=with_orientation(number), **lossless)
  with Image.open(io.BytesIO(content)) as image:
    expected = ImageOps.exif_transpose(image).convert('RGB')
  turned = decoding.decode(content, orient=True)
  np.testing.assert_array_equal(turned, expected)
  assert difference(turned, upright).mean() <= (8 if kind == 'JPEG' else 0)
  assert decoding.decode(content).size == stored.size


@pytest.mark.parametrize('number', range(1, 9))
def test_views_are_those_of_the_upright_image(number):
  upright = photograph(size=(90, 60))
  stored = upright.transpose(STORED[number]) if number > 1 else upright
  content = encoded(stored, 'PNG', exif=with_orientation(number))
  plain = encoded(upright, 'PNG')
  for seed in range(3):
    a = decoding.training_view(content, rng(seed), size=20, orient=True)
    b = decoding.training_view(plain, rng(seed), size=20)
    assert difference(a, b).max() <= 1
  a = decoding.evaluation_view(content, resize=23, size=20, orient=True)
  b = decoding.evaluation_view(plain, resize=23, size=20)
  assert difference(a, b).max() <= 1


@pytest.mark.parametrize('number', range(1, 9))
def test_a_view_of_all_there_is_stays_within_the_edges(number):
  # 30 x (31 / 30) is a little more than 31.
  assert decoding.centre_box(31, 31, 30, 30)[2] > 31
  content = encoded(
    photograph(size=(31, 31)), 'PNG', exif=with_orientation(number)
  )
  view = decoding.evaluation_view(content, resize=30, size=30, orient=True)
  assert view.shape == (30, 30, 3)


def test_a_tiff_is_turned_once():
  upright = photograph(size=(90, 60))
  stored = upright.transpose(STORED[6])
  content = encoded(stored, 'TIFF', exif=with_orientation(6))
  np.testing.assert_array_equal(decoding.decode(content, orient=True), upright)
  view = decoding.evaluation_view(content, resize=23, size=20, orient=True)
  plain = decoding.evaluation_view(encoded(upright, 'PNG'), resize=23, size=20)
  np.testing.assert_array_equal(view, plain)


@pytest.mark.parametrize('order', ['<', '>'])
def test_both_byte_orders_of_exif_are_read(order):
  mark = {'<': b'II', '>': b'MM'}[order]
  block = mark + struct.pack(f'{order}HLH', 42, 8, 1)
  block += struct.pack(f'{order}HHLHHL', 0x0112, 3, 1, 6, 0, 0)
  content = encoded(photograph(size=(90, 60)), 'JPEG', exif=b'Exif\0\0' + block)
  assert decoding.decode(content, orient=True).size == (60, 90)


@pytest.mark.parametrize(
  'block',
  [
    b'',
    b'Exif\0\0',
    b'Exif\0\0II*\0',
    b'Exif\0\0II*\0\xff\xff\xff\xff',
    b'Exif\0\0II*\0\x08\0\0\0\xff\xff\x0f\x01\x02\0\xff\xff\xff\xff\0\0\0\0',
    b'Exif\0\0nonsense that is no block at all',
    b'Exif\0\0' + with_orientation(9).tobytes()[6:],
    b'Exif\0\0' + with_orientation(0).tobytes()[6:],
  ],
)
def test_damaged_exif_leaves_the_image_as_stored(block):
  image = photograph(size=(90, 60))
  plain, odd = (encoded(image, 'JPEG', exif=exif) for exif in (b'', block))
  np.testing.assert_array_equal(
    decoding.decode(odd, orient=True), decoding.decode(plain)
  )


# Damage.


def _chunk(kind, content):
  check = zlib.crc32(kind + content)
  return (
    struct.pack('>L', len(content)) + kind + content + struct.pack('>L', check)
  )


def _png(width, height, *chunks):
  header = struct.pack('>LLBBBBB', width, height, 8, 2, 0, 0, 0)
  parts = [_chunk(b'IHDR', header), *chunks, _chunk(b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def _jpeg_of_size(width, height):
  """A JPEG whose header tells of another size than its pixels have."""
  content = bytearray(encoded(photograph(size=(64, 64)), 'JPEG'))
  start = content.index(b'\xff\xc0')
  content[start + 5 : start + 9] = struct.pack('>HH', height, width)
  return bytes(content)


ALL_KINDS = {
  'JPEG': {},
  'JPEG, progressive': {'progressive': True},
  'PNG': {},
  'BMP': {},
  'GIF': {},
  'WEBP': {},
  'TIFF': {},
  'TIFF, LZW': {'compression': 'tiff_lzw'},
  'PPM': {},
}


@pytest.mark.parametrize('kind', ALL_KINDS)
@pytest.mark.parametrize('kept', [0.02, 0.3, 0.6, 0.95])
def test_a_file_cut_short_is_an_error(kind, kept):
  image = photograph(size=(90, 60))
  content = encoded(image, kind.partition(',')[0], **ALL_KINDS[kind])
  content = content[: int(kept * len(content))]
  for function in (
    decoding.decode,
    lambda c: decoding.training_view(c, rng(), size=20),
    lambda c: decoding.evaluation_view(c, resize=23, size=20),
    lambda c: image_files.check(io.BytesIO(c)),
  ):
    with pytest.raises(DecodeError):
      function(content)


@pytest.mark.parametrize('kind', ALL_KINDS)
def test_wrong_bytes_give_pixels_or_this_error_alone(kind):
  content = encoded(
    photograph(size=(90, 60)), kind.partition(',')[0], **ALL_KINDS[kind]
  )
  draw = rng()
  for _ in range(150):
    damaged = bytearray(content)
    # Headers are where most can go wrong.
    places = draw.integers(min(len(content), draw.choice([200, 10**9])), size=3)
    for place in places:
      damaged[place] = draw.integers(256)
    try:
      view = decoding.training_view(bytes(damaged), rng(), size=20, orient=True)
    except DecodeError as error:
      assert str(error)
    else:
      assert view.shape == (20, 20, 3)


@pytest.mark.parametrize(
  'content',
  [b'', b'\xff', b'text', b'<svg></svg>', b'%PDF-1.4', b'P7\n', b'\0' * 1000],
)
def test_what_is_no_image_is_told_so(content):
  with pytest.raises(DecodeError, match='known format|empty'):
    decoding.decode(content)
  with pytest.raises(DecodeError, match='known format|empty'):
    image_files.check(io.BytesIO(content))


@pytest.mark.parametrize(
  'content',
  [
    _png(20_000, 20_000, _chunk(b'IDAT', zlib.compress(bytes(10**6)))),
    _jpeg_of_size(60_000, 60_000),
    b'P6 30000 30000 255\n',
  ],
)
def test_images_that_would_fill_the_memory_are_refused(content):
  with pytest.raises(DecodeError, match='0 x .*0 pixels are more than'):
    decoding.decode(content)
  with pytest.raises(DecodeError, match='pixels are more than'):
    image_files.check(io.BytesIO(content))


def test_large_images_are_accepted_without_a_warning():
  # Pillow warns from 89 million pixels on; an eighth of each side is read.
  content = encoded(Image.new('L', (10_000, 10_000)), 'JPEG')
  with (
    pytest.warns(Image.DecompressionBombWarning),
    Image.open(io.BytesIO(content)),
  ):
    pass
  image_files.check(io.BytesIO(content))
  small = reduced(content, (1, 1))
  assert small.size == (1250, 1250)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_fewer_pixels_are_accepted_where_all_are_decoded(kind):
  options = {'progressive': True} if kind == 'JPEG' else {}
  image = Image.new('L', (13_000, 6_000))
  content = encoded(image, kind, **options)
  for look in (decoding.decode, lambda c: image_files.check(io.BytesIO(c))):
    with pytest.raises(DecodeError, match='13000 x 6000 .*67,108,864.*shrink'):
      look(content)


def _scan(content):
  """Where a JPEG's pixels begin."""
  start = content.index(b'\xff\xda') + 2
  return start + int.from_bytes(content[start : start + 2])


JPEGS = {
  'usual': {},
  'optimised': {'optimize': True},
  'progressive': {'progressive': True},
  'restarting': {'restart_marker_rows': 1},
}


@pytest.mark.parametrize('kind', JPEGS)
def test_holes_in_a_jpeg_are_damage(kind):
  content = encoded(photograph(), 'JPEG', **JPEGS[kind])
  start, end = _scan(content), len(content) - 2
  third = (end - start) // 3
  holes = {
    'no pixels': content[:start] + content[end:],
    'no scan': content[: content.index(b'\xff\xda')] + content[end:],
    'all': content[:start] + bytes(end - start) + content[end:],
    'the first': content[:start] + bytes(third) + content[start + third :],
    'the last': content[: end - third] + bytes(third) + content[end:],
  }
  if kind != 'progressive':
    size = 4096 if kind == 'restarting' else 512
    holes['a sector'] = content[:third] + bytes(size) + content[third + size :]
  for name, damaged in holes.items():
    with pytest.raises(DecodeError, match='its pixels|no pixels'):
      decoding.training_view(damaged, rng(), size=20)
    with pytest.raises(DecodeError, match='its pixels|no pixels'):
      image_files.check(io.BytesIO(damaged), whole=name == 'a sector')


@pytest.mark.parametrize('kind', JPEGS)
@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
@pytest.mark.parametrize('side', [1, 40, 1500])
def test_what_is_flat_is_no_hole(kind, mode, side):
  flat = Image.new('RGB', (side, side), 'white').convert(mode)
  part = photograph(size=(side // 3 + 1, side // 3 + 1)).convert(mode)
  mixed = flat.copy()
  mixed.paste(part, (side // 2, side // 3))
  # Cameras put a small JPEG into it, which has tables of its own.
  options = {'exif': b'Exif\0\0' + encoded(photograph(size=(40, 30)), 'JPEG')}
  if mode != 'L':
    options['subsampling'] = 0
  for image in (flat, mixed):
    content = encoded(image, 'JPEG', **options, **JPEGS[kind])
    # Bytes behind its end are none of it, be they zeros.
    for whole in (content, content + bytes(5000)):
      image_files.check(io.BytesIO(whole))
      decoding.training_view(whole, rng(), size=20)


@pytest.mark.parametrize('order', [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
def test_flat_colours_in_scans_of_their_own_are_no_hole(order):
  """With the usual tables, as jpegtran -scans makes them."""
  grey = photograph(size=(256, 256)).convert('L')
  content = encoded(grey.convert('RGB'), 'JPEG', subsampling=0)
  bright = encoded(grey, 'JPEG')
  start = content.index(b'\xff\xda')
  names = [content[content.index(b'\xff\xc0') + 10 + 3 * n] for n in range(3)]
  # Four bits for 8 x 8 pixels, all zeros.
  scans = [bright[_scan(bright) : -2], bytes(512), bytes(512)]
  apart = content[:start]
  for n in order:
    head = [0xFF, 0xDA, 0, 8, 1, names[n], 0x11 if n else 0, 0, 63, 0]
    apart += bytes(head) + scans[n]
  apart += content[-2:]
  image_files.check(io.BytesIO(apart), whole=True)
  np.testing.assert_array_equal(
    decoding.decode(apart), decoding.decode(content)
  )


def test_what_is_flat_below_a_crop_is_no_hole():
  flat = Image.new('RGB', (500, 3000), 'white')
  content = encoded(flat, 'JPEG', optimize=True, subsampling=0)
  for seed in range(30):
    assert decoding.training_view(content, rng(seed), size=20).min() == 255


@pytest.mark.parametrize('kind', JPEGS)
def test_zeros_before_the_end_are_no_hole(kind):
  content = encoded(photograph(), 'JPEG', **JPEGS[kind])
  padded = content[:-2] + bytes(3000) + content[-2:]
  image_files.check(io.BytesIO(padded), whole=True)
  np.testing.assert_array_equal(
    decoding.decode(padded), decoding.decode(content)
  )


@pytest.mark.parametrize('side', [1, 40, 400])
def test_zeros_behind_flat_pixels_are_no_hole(side):
  """Both may be zeros; of the first none is too many."""
  image = Image.new('RGB', (side, 3 * side), 'white')
  image.paste(photograph(size=(side, side)), (0, side))
  for kind in ('usual', 'optimised', 'restarting'):
    content = encoded(image, 'JPEG', **JPEGS[kind])
    padded = content[:-2] + bytes(3000) + content[-2:]
    image_files.check(io.BytesIO(padded), whole=True)


def test_all_is_decoded_on_request():
  content = bytearray(encoded(photograph(size=(90, 60)), 'PNG'))
  content[len(content) // 2] ^= 255
  image_files.check(io.BytesIO(content))
  with pytest.raises(DecodeError):
    image_files.check(io.BytesIO(content), whole=True)


def _animated(image):
  """A PNG that says that it has no frames."""
  rows = np.asarray(image).reshape(image.height, -1)
  pixels = zlib.compress(b''.join(b'\0' + bytes(row) for row in rows))
  return _png(*image.size, _chunk(b'acTL', bytes(8)), _chunk(b'IDAT', pixels))


def _of_two_units(image):
  """A TIFF whose unit of resolution is two numbers."""
  content = encoded(image, 'TIFF', dpi=(72, 72))
  one, two = (struct.pack('<HHL', 296, 3, count) for count in (1, 2))
  assert content.count(one) == 1
  return content.replace(one, two)


@pytest.mark.parametrize(
  ('make', 'told'), [(_animated, 'APNG'), (_of_two_units, 'too many entries')]
)
def test_warnings_of_pillow_stay_inside(make, told):
  image = photograph(size=(8, 8))
  content = make(image)
  with (
    pytest.warns(UserWarning, match=told),
    Image.open(io.BytesIO(content)),
  ):
    pass
  filters = list(warnings.filters)
  np.testing.assert_array_equal(decoding.decode(content), image)
  image_files.check(io.BytesIO(content))
  assert warnings.filters == filters


def test_a_cameras_jpeg_with_damaged_exif_is_read_without_a_warning():
  # Without JFIF's resolution Pillow looks for one in EXIF.
  block = bytearray(with_orientation(3).tobytes())
  block[6 + 8 + 2 + 4 : 6 + 8 + 2 + 8] = b'\xff\xff\xff\x7f'
  image = photograph(size=(90, 60))
  content = encoded(image, 'JPEG', exif=bytes(block))
  start = content.index(b'\xff\xe0')
  length = int.from_bytes(content[start + 2 : start + 4], 'big')
  content = content[:start] + content[start + 2 + length :]
  with (
    pytest.warns(UserWarning),
    Image.open(io.BytesIO(content)) as opened,
  ):
    opened.getexif()
  image_files.check(io.BytesIO(content))
  turned = decoding.decode(content, orient=True)
  stored = decoding.decode(content)
  np.testing.assert_array_equal(
    turned, stored.transpose(Image.Transpose.ROTATE_180)
  )


# Looks at a file's ends.


@pytest.mark.parametrize('kind', ALL_KINDS)
def test_whole_files_pass_the_check(kind):
  content = encoded(
    photograph(size=(90, 60)), kind.partition(',')[0], **ALL_KINDS[kind]
  )
  file = io.BytesIO(content)
  file.read()
  image_files.check(file)
  # Programs append things. Then all of it is decoded, and is fine.
  image_files.check(io.BytesIO(content + b'appended'))


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'GIF', 'WEBP'])
def test_the_check_decodes_no_more_than_it_must(kind, monkeypatch):
  content = encoded(photograph(size=(90, 60)), kind)
  monkeypatch.setattr(image_files, 'pixels', None)
  image_files.check(io.BytesIO(content))
  if kind != 'WEBP':
    with pytest.raises((TypeError, DecodeError)):
      image_files.check(io.BytesIO(content[:-1]))


def test_too_little_memory_is_not_taken_for_damage(monkeypatch):
  def load(image):
    raise MemoryError

  monkeypatch.setattr(JpegImagePlugin.JpegImageFile, 'load', load)
  with pytest.raises(MemoryError):
    decoding.decode(encoded(photograph(size=(9, 9)), 'JPEG'))
