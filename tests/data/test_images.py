# SPDX-License-Identifier: Apache-2.0
"""Streamed images: an array to look at, decoded when rows are asked for."""

import concurrent.futures
import dataclasses
import io
import os
import pathlib
import pickle
import sys
import threading

import numpy as np
import pytest
import started
from PIL import Image
from sklearn import datasets

from srdl_jax.data import decoding, folder_files
from srdl_jax.data.images import StreamedImages
from srdl_jax.errors import DataError

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Reads pickled images as a worker process would.
WORKER = """
import os, pickle, sys
images, rows = pickle.load(sys.stdin.buffer)
views = images[rows]
assert 'jax' not in sys.modules
if sys.argv[1] == 'forked':
  # A fork has none of the threads that there are by now.
  child = os.fork()
  if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
  views = images[rows]
sys.stdout.buffer.write(views.tobytes())
"""


@dataclasses.dataclass(frozen=True)
class InMemory:
  """Encoded images in memory, as records."""

  contents: tuple[bytes, ...]

  def __len__(self):
    return len(self.contents)

  def __getitem__(self, row):
    return self.contents[row]

  def name(self, row):
    return f'the image called {row}'


def _encoded(image, kind='JPEG'):
  file = io.BytesIO()
  image.save(file, kind)
  return file.getvalue()


@pytest.fixture(scope='module')
def contents():
  """Parts of two photographs, of several sizes and kinds."""
  photographs = [
    Image.fromarray(datasets.load_sample_image(name))
    for name in ('china.jpg', 'flower.jpg')
  ]
  kinds = ('JPEG', 'PNG', 'BMP', 'JPEG')
  return tuple(
    _encoded(
      photographs[i % 2].crop((20 * i, 10 * i, 20 * i + 300, 10 * i + 200)),
      kinds[i % 4],
    )
    for i in range(8)
  )


@pytest.fixture(scope='module')
def images(contents):
  return StreamedImages(InMemory(contents), size=32, resize=36)


def _views(contents):
  return np.stack(
    [decoding.evaluation_view(c, resize=36, size=32) for c in contents]
  )


def test_it_looks_like_an_array(images):
  assert images.shape == (8, 32, 32, 3)
  assert images.shape[1:] == images[[0]].shape[1:]
  assert (len(images), images.ndim) == (8, 4)
  assert images.dtype == np.uint8 == images[[0]].dtype


@pytest.mark.parametrize(
  'rows',
  [
    [3],
    [7, 0, 3, 3],
    [-1, -8],
    np.arange(8),
    np.arange(8, dtype=np.int32)[::-1],
    np.array([5, 2], np.uint8),
    np.array([], np.int32),
    [],
    slice(2, 5),
    slice(None),
    slice(-2, None),
    slice(6, 1, -2),
    3,
    [[1, 2], [0, 7]],
  ],
)
def test_rows_are_those_of_an_array(images, contents, rows):
  views = images[rows]
  expected = _views(contents)[rows]
  assert views.dtype == np.uint8
  np.testing.assert_array_equal(views, expected)


def test_rows_may_be_of_a_small_type(contents):
  images = StreamedImages(InMemory(contents * 40), 32, 36)
  views = images[np.array([250, 3], np.uint8)]
  np.testing.assert_array_equal(views, _views(contents)[[250 % 8, 3]])


@pytest.mark.parametrize('rows', [[8], [0, -9], [10**9]])
def test_rows_out_of_range_are_an_index_error(images, rows):
  with pytest.raises(IndexError, match='size 8'):
    images[rows]


@pytest.mark.parametrize('rows', [[0.0], [True, False], 'a'])
def test_rows_of_other_kinds_are_refused(images, rows):
  with pytest.raises(IndexError):
    images[rows]


def test_training_views_follow_their_generator(images, contents):
  for row in (0, 5):
    view = images.training_view(row, np.random.default_rng(3))
    expected = decoding.training_view(
      contents[row], np.random.default_rng(3), size=32
    )
    np.testing.assert_array_equal(view, expected)
    other = images.training_view(row, np.random.default_rng(4))
    assert (view != other).any()


def test_views_obey_the_attributes(contents):
  turned = Image.Exif()
  turned[0x0112] = 6
  file = io.BytesIO()
  Image.open(io.BytesIO(contents[0])).save(file, 'JPEG', exif=turned)
  record = InMemory((file.getvalue(),))
  upright = StreamedImages(record, 32, 36, least_area=1.0, orient=True)
  stored = StreamedImages(record, 32, 36, least_area=1.0, orient=False)
  for images, orient in ((upright, True), (stored, False)):
    np.testing.assert_array_equal(
      images[[0]][0],
      decoding.evaluation_view(record[0], resize=36, size=32, orient=orient),
    )
    np.testing.assert_array_equal(
      images.training_view(0, np.random.default_rng(1)),
      decoding.training_view(
        record[0],
        np.random.default_rng(1),
        size=32,
        least_area=1.0,
        orient=orient,
      ),
    )
  assert (upright[[0]] != stored[[0]]).any()


# Damage.


def test_a_damaged_image_is_named_with_its_row(contents):
  cut = contents[4][: len(contents[4]) // 2]
  images = StreamedImages(
    InMemory((*contents[:4], cut, b'', *contents[6:])), 32, 36
  )
  pattern = '^cannot read image 4, the image called 4: .*truncated.*; restore'
  with pytest.raises(DataError, match=pattern):
    images[[0, 1, 4, 5]]
  with pytest.raises(DataError, match=pattern):
    images.training_view(4, np.random.default_rng(0))
  with pytest.raises(DataError, match='image 5, .*: the file is empty;'):
    images[[5, 4]]
  # The pool goes on.
  np.testing.assert_array_equal(images[[7]], _views(contents[7:]))


def test_a_file_that_vanished_is_named_with_its_row(contents, tmp_path):
  for row, content in enumerate(contents):
    (tmp_path / f'{row}.jpg').write_bytes(content)
  names = tuple(f'{row}.jpg' for row in range(len(contents)))
  files = folder_files.Files(str(tmp_path), names)
  images = StreamedImages(files, 32, 36)
  np.testing.assert_array_equal(images[:], _views(contents))
  (tmp_path / '6.jpg').unlink()
  for read in (
    lambda: images[[2, 6]],
    lambda: images.training_view(6, np.random.default_rng(0)),
  ):
    with pytest.raises(
      DataError, match=f'image 6, {tmp_path}/6.jpg: No such file or directory;'
    ):
      read()


def test_a_bug_in_the_records_is_not_taken_for_damage(contents):
  class Odd(InMemory):
    def __getitem__(self, row):
      raise TypeError('a bug')

  with pytest.raises(TypeError, match='a bug'):
    StreamedImages(Odd(contents), 32, 36)[[0]]


# Threads and processes.


def test_several_images_are_decoded_at_once(contents):
  # Each record waits for another one: one thread would wait forever.
  if len(os.sched_getaffinity(0)) < 2:
    pytest.skip('one thread for one core')
  both = threading.Barrier(2, timeout=started.SECONDS)

  class Meeting(InMemory):
    def __getitem__(self, row):
      both.wait()
      return super().__getitem__(row)

  images = StreamedImages(Meeting(contents), 32, 36)
  np.testing.assert_array_equal(images[[0, 1]], _views(contents[:2]))


def test_callers_in_several_threads_get_their_own_rows(images, contents):
  expected = _views(contents)
  wanted = [[i % 8, (3 * i + 1) % 8] for i in range(12)]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for rows, views in zip(
      wanted, pool.map(images.__getitem__, wanted), strict=True
    ):
      np.testing.assert_array_equal(views, expected[rows])


@pytest.mark.parametrize('kind', ['spawned', 'forked'])
def test_a_worker_process_reads_the_same(contents, tmp_path, kind):
  for row, content in enumerate(contents):
    (tmp_path / f'{row}.jpg').write_bytes(content)
  names = tuple(f'{row}.jpg' for row in range(len(contents)))
  images = StreamedImages(folder_files.Files(str(tmp_path), names), 32, 36)
  rows = np.array([6, 1, 1])
  here = images[rows]
  worker = started.start(
    [sys.executable, '-c', WORKER, kind],
    stdin=started.PIPE,
    stdout=started.PIPE,
    cwd=ROOT,
  )
  given = pickle.dumps((images, rows))
  there, _ = worker.communicate(given, timeout=started.SECONDS)
  assert worker.returncode == 0 and there == here.tobytes()
