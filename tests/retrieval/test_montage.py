# SPDX-License-Identifier: Apache-2.0
"""Which images a montage shows, and how they are framed."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from srdl_jax import retrieval
from srdl_jax.errors import ConfigError, WorkdirError
from srdl_jax.retrieval import Nearest, montage

RIGHT, WRONG = '#0072b2', '#d55e00'


def plain(shade, shape=(20, 10, 3)):
  return np.full(shape, shade, np.uint8)


# The shade of an image is its row.
GALLERY = np.stack([plain(row) for row in range(12)])
QUERIES = np.stack([plain(200 + row) for row in range(3)])


def found(items, right):
  return Nearest(np.array(items, int), np.array(right, bool))


@pytest.mark.parametrize('shape', [(20, 10, 2), (0, 10, 3), (9,), (2, 2, 2, 3)])
def test_what_is_no_image_is_told(shape):
  with pytest.raises(
    ConfigError, match=r'^An image of shape \(.*cannot be drawn'
  ):
    montage.draw(
      np.zeros((1, *shape), np.uint8), GALLERY, {0: found([1], [True])}
    )


def frames(figure):
  """(title, shade, colour, whether dashed) of each image, row by row."""
  seen = []
  for ax in figure.axes:
    if not ax.images:
      assert not ax.axison
      seen.append(None)
      continue
    spines = list(ax.spines.values())
    colours = {to_hex(spine.get_edgecolor()) for spine in spines}
    dashed = {spine.get_linestyle() != '-' for spine in spines}
    assert all(spine.get_linewidth() > 1 for spine in spines)
    assert len(colours) == len(dashed) == 1
    (image,) = ax.images
    shades = np.unique(image.get_array())
    assert len(shades) == 1
    seen.append((ax.get_title(), int(shades[0]), *colours, *dashed))
  return seen


def test_right_and_wrong_items_are_framed_in_their_order():
  rankings = {2: found([7, 3, 11], [1, 0, 1]), 0: found([3], [0])}
  figure = montage.draw(QUERIES, GALLERY, rankings)
  ink = to_hex(montage.QUERY['edgecolor'])
  assert frames(figure) == [
    ('query 2', 202, ink, False),
    ('1 ✓', 7, RIGHT, False),
    ('2 ✗', 3, WRONG, True),
    ('3 ✓', 11, RIGHT, False),
    ('query 0', 200, ink, False),
    ('1 ✗', 3, WRONG, True),
    None,
    None,
  ]


def test_junk_and_the_own_camera_are_left_out():
  # By distance: junk, identity 1 under the query's camera, a distractor,
  # identity 1 under another camera, identity 2.
  gallery, ids = np.arange(5.0)[:, None], [-1, 1, 0, 1, 2]
  rankings = retrieval.nearest(
    np.zeros((1, 1)), gallery, [1], ids, [4], [4, 4, 4, 5, 4]
  )
  figure = montage.draw(QUERIES, GALLERY, dict(enumerate(rankings)))
  assert [(title, shade) for title, shade, *_ in frames(figure)] == [
    ('query 0', 200),
    ('1 ✗', 2),
    ('2 ✓', 3),
    ('3 ✗', 4),
  ]


def test_images_may_come_from_functions_and_differ_in_size():
  asked = []

  def image(row):
    asked.append(row)
    return plain(row, (10 + row, 10, 3) if row % 2 else (8, 30))

  rankings = {1: found([4, 5], [1, 0])}
  figure = montage.draw(lambda row: plain(row), image, rankings)
  assert asked == [4, 5]
  shades = [shade for _, shade, *_ in frames(figure)]
  assert shades == [1, 4, 5]


def test_a_query_of_which_nothing_is_left_stands_alone():
  figure = montage.draw(QUERIES, GALLERY, {1: found([], [])})
  assert [title for title, *_ in frames(figure)] == ['query 1']


def test_the_file_shows_the_frames(tmp_path):
  path = tmp_path / 'first.png'
  path.write_bytes(b'old')
  rankings = {0: found([1, 2], [1, 0])}

  def image(row):
    # No letter's edge has these colours.
    return np.full((20, 10, 3), (10 * row, 200, 60), np.uint8)

  montage.montage(path, image, image, rankings)
  with Image.open(path) as picture:
    pixels = np.asarray(picture.convert('RGB')).astype(int)
  columns = {
    name: np.argwhere((pixels == colour).all(axis=2))[:, 1]
    for name, colour in (
      ('query', [0, 200, 60]),
      ('right', [0, 0x72, 0xB2]),
      ('first', [10, 200, 60]),
      ('wrong', [0xD5, 0x5E, 0]),
      ('second', [20, 200, 60]),
    )
  }
  for name in ('query', 'first', 'second'):
    assert len(columns[name]) > 2000
  # From left to right; each image is inside its frame, and dashes are fewer.
  assert columns['query'].max() < columns['right'].min()
  assert columns['right'].min() < columns['first'].min()
  assert columns['first'].max() < columns['right'].max()
  assert columns['right'].max() < columns['wrong'].min()
  assert columns['wrong'].min() < columns['second'].min()
  assert 100 < len(columns['wrong']) < 0.8 * len(columns['right'])
  again = tmp_path / 'again.png'
  montage.montage(again, image, image, rankings)
  assert again.read_bytes() == path.read_bytes()
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'again.png',
    'first.png',
  ]


def test_bad_montages_are_refused(tmp_path):
  with pytest.raises(ConfigError, match='ends in .png'):
    montage.montage(tmp_path / 'a.jpg', QUERIES, GALLERY, {})
  with pytest.raises(ConfigError, match='no query'):
    montage.draw(QUERIES, GALLERY, {})
  missing = tmp_path / 'missing' / 'file.png'
  with pytest.raises(WorkdirError, match='missing'):
    montage.montage(missing, QUERIES, GALLERY, {0: found([1], [1])})
