# SPDX-License-Identifier: Apache-2.0
"""Streamed batches: each example's own, wherever and by whomever it is made."""

import dataclasses
import io
import itertools
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys

import numpy as np
import pytest
import started
from PIL import Image

from srdl_jax.data import pipeline, sampling
from srdl_jax.data.images import StreamedImages
from srdl_jax.errors import ConfigError, DataError

SEED, STAGE, EPOCHS, BATCH = 3, 2, 3, 4
ROWS = np.array([0, 2, 3, 5, 6, 7, 8, 9, 11])
DRAWN = sampling.Drawn(SEED, STAGE, ROWS, np.zeros(12, np.int32), BATCH)


@dataclasses.dataclass(frozen=True)
class Gradients:
  """Twelve images that are told apart by their level, and have structure."""

  damaged: int = -1

  def __len__(self):
    return 12

  def __getitem__(self, row):
    if row == self.damaged:
      return b'no image'
    pixels = np.add.outer(np.arange(24), 2 * np.arange(20)) + 10 * row
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, 'PNG')
    return file.getvalue()

  def name(self, row):
    return f'{row}.png'


def source(own=range(BATCH), **fields):
  records = Gradients(**fields)
  return pipeline.TrainingViews(
    images=StreamedImages(records, size=8, resize=9, least_area=0.3),
    drawn=DRAWN,
    epochs=EPOCHS,
    own=np.asarray(own),
  )


def listed(views, size=BATCH, **how):
  with_images = pipeline.batches(views, size, **how)
  return [(b['view'], b['image']) for b in with_images]


def assert_same(found, expected):
  for (index, image), (index_, image_) in zip(found, expected, strict=True):
    np.testing.assert_array_equal(index, index_)
    np.testing.assert_array_equal(image, image_)


def test_batches_follow_the_order_of_each_epoch():
  found = np.stack([index for index, _ in listed(source())])
  # Nine rows give two batches of four; the ninth is another one each epoch.
  orders = [
    sampling.epoch_order(SEED, STAGE, epoch, ROWS)[:8].reshape(2, BATCH)
    for epoch in range(EPOCHS)
  ]
  np.testing.assert_array_equal(found, np.concatenate(orders))


def test_an_example_has_its_own_crop_and_each_epoch_another():
  crops = {}
  images = source().images
  for batch, (index, views) in enumerate(listed(source())):
    for row, view in zip(index, views, strict=True):
      rng = sampling.of_crop(SEED, STAGE, batch // 2, int(row))
      np.testing.assert_array_equal(view, images.training_view(int(row), rng))
      crops.setdefault(int(row), []).append(view)
  several = [c for c in crops.values() if len(c) > 1]
  assert several and all(
    (a != b).any() for c in several for a, b in itertools.pairwise(c)
  )


def test_a_second_view_is_the_same_image_in_a_crop_of_its_own():
  twice = dataclasses.replace(
    source(), drawn=dataclasses.replace(DRAWN, order='twice')
  )
  for batch, (numbers, views) in enumerate(listed(twice)):
    np.testing.assert_array_equal(numbers[1::2], numbers[::2] + 12)
    for number, view in zip(numbers.tolist(), views, strict=True):
      rng = sampling.of_crop(SEED, STAGE, batch // 2, number)
      image = twice.images.training_view(number % 12, rng)
      np.testing.assert_array_equal(view, image)
    assert any((views[::2] != views[1::2]).ravel())


@pytest.mark.parametrize('first', [1, 3, 5])
def test_going_on_is_the_same_as_having_read_all_before(first):
  assert_same(listed(source(), first=first), listed(source())[first:])


def test_processes_share_batches_without_changing_them():
  whole = listed(source())
  halves = [listed(source(own), 2) for own in (range(2), range(2, 4))]
  joined = [
    (np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]]))
    for a, b in zip(*halves, strict=True)
  ]
  assert_same(joined, whole)


@pytest.mark.parametrize('first', [0, 3])
def test_workers_change_nothing(first):
  found = listed(source(), first=first, workers=2)
  assert_same(found, listed(source())[first:])


@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_image_is_named_when_its_batch_comes(workers):
  found = pipeline.batches(source(damaged=7), BATCH, workers=workers)
  reached = [7 in index for index, _ in listed(source())].index(True)
  for _ in range(reached):
    next(found)
  with pytest.raises(DataError, match=r'cannot read image 7, 7\.png'):
    next(found)


def test_a_signal_to_all_leaves_the_workers_at_work():
  found = pipeline.batches(source(), BATCH, workers=1)
  first = next(found)
  (worker,) = multiprocessing.active_children()
  for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(worker.pid, number)
  rest = [(batch['view'], batch['image']) for batch in found]
  assert_same([(first['view'], first['image']), *rest], listed(source()))


@dataclasses.dataclass(frozen=True)
class Killed(Gradients):
  """A signal ends the worker that reads an image, as the kernel would."""

  by: int = 0

  def __getitem__(self, row):
    os.kill(os.getpid(), self.by)
    return super().__getitem__(row)


@pytest.mark.parametrize(
  ('by', 'told'),
  [
    (signal.SIGBUS, 'shared memory, /dev/shm, is full: .*--shm-size'),
    (signal.SIGKILL, 'it was killed, .*memory'),
    (signal.SIGSEGV, 'exit code -11'),
  ],
)
def test_a_worker_that_dies_is_told(monkeypatch, by, told):
  # Which reads an image in this process, too.
  monkeypatch.setattr(pipeline, '_check_shared_memory', lambda *_: None)
  views = source()
  images = dataclasses.replace(views.images, records=Killed(by=by))
  views = OutsideTheRun(dataclasses.replace(views, images=images), os.getpid())
  with pytest.raises(ConfigError, match=f'{told}.*data.workers = 0'):
    next(pipeline.batches(views, BATCH, workers=1))


@dataclasses.dataclass(frozen=True)
class OutsideTheRun:
  """Examples that are damaged for workers alone."""

  views: pipeline.TrainingViews
  run: int

  def __len__(self):
    return len(self.views)

  def __getitem__(self, position):
    here = os.getpid() == self.run
    return (source() if here else self.views)[position]


@pytest.mark.parametrize('missing', [0, 1])
def test_shared_memory_has_room_for_the_batches_that_wait(monkeypatch, missing):
  # A batch has views of 8 x 8 x 3 bytes and their numbers; all six wait.
  free = 6 * BATCH * (8 * 8 * 3 + 4) - missing
  usage = shutil.disk_usage('/')._replace(free=free)
  monkeypatch.setattr(pipeline.shutil, 'disk_usage', lambda path: usage)
  assert len(listed(source())) == 6
  found = pipeline.batches(source(), BATCH, workers=2)
  if missing:
    with pytest.raises(ConfigError, match='data.workers = 2: .*--shm-size'):
      next(found)
  else:
    next(found)
    found.close()


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed():
  program = (
    'import multiprocessing, time\n'
    'from absl import flags\n'
    'import test_pipeline as t\n'
    'if __name__ == "__main__":\n'
    '  flags.FLAGS.mark_as_parsed()\n'
    '  found = t.pipeline.batches(t.source(), t.BATCH, workers=1)\n'
    '  next(found)\n'
    '  print(multiprocessing.active_children()[0].pid, flush=True)\n'
    '  time.sleep(600)\n'
  )
  here = pathlib.Path(__file__).parent
  run = started.start(
    [sys.executable, '-c', program],
    stdout=started.PIPE,
    text=True,
    env={**os.environ, 'PYTHONPATH': f'{here}:{here.parent}:{here.parents[1]}'},
  )
  worker = int(run.stdout.readline())
  run.kill()
  run.communicate()
  started.wait_until(lambda: not pathlib.Path('/proc', str(worker)).exists())


@pytest.mark.slow
def test_workers_leave_nothing_in_shared_memory():
  # One is closed while batches wait, the other fails at the third of a batch.
  program = (
    'from absl import flags\n'
    'import test_pipeline as t\n'
    'if __name__ == "__main__":\n'
    '  flags.FLAGS.mark_as_parsed()\n'
    '  whole = t.pipeline.batches(t.source(), t.BATCH, workers=1)\n'
    '  third = next(whole)["view"][2]\n'
    '  whole.close()\n'
    '  damaged = t.source(damaged=third)\n'
    '  try:\n'
    '    next(t.pipeline.batches(damaged, t.BATCH, workers=1))\n'
    '  except t.DataError:\n'
    '    print("named")\n'
  )
  here = pathlib.Path(__file__).parent
  run = started.run(
    [sys.executable, '-c', program],
    env={**os.environ, 'PYTHONPATH': f'{here}:{here.parent}:{here.parents[1]}'},
    check=True,
  )
  # Python tells at its end what it had to free.
  assert (run.stdout, run.stderr) == ('named\n', '')


def test_orders_are_drawn_once_by_threads_that_read_ahead(monkeypatch):
  drawn = []
  order = sampling.epoch_order

  def counted(seed, stage, epoch, rows):
    drawn.append(epoch)
    return order(seed, stage, epoch, rows)

  monkeypatch.setattr(sampling, 'epoch_order', counted)
  orders = sampling.EpochOrders(DRAWN)
  for epoch in (0, 0, 1, 0, 1, 1, 2, 1, 2):
    np.testing.assert_array_equal(
      orders[epoch], order(SEED, STAGE, epoch, ROWS)
    )
  assert drawn == [0, 1, 2]


def test_views_of_streamed_images_are_their_own():
  images = source().images
  rows = np.array([5, 0, 5])
  one, other = (pipeline.views(images, rows, SEED, 1, view) for view in (0, 1))
  np.testing.assert_array_equal(one[0], one[2])
  assert (one != other).any() and (one[0] != one[1]).any()
  again = images.training_view(5, sampling.of_view(SEED, 1, 1, 5))
  np.testing.assert_array_equal(other[0], again)


def test_views_of_images_in_memory_are_the_images():
  images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)
  found = pipeline.views(images, np.array([4, 1]), SEED, 1, 0)
  np.testing.assert_array_equal(found, images[[4, 1]])
