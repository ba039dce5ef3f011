# SPDX-License-Identifier: Apache-2.0
"""Batches of streamed images, decoded and cropped ahead of the device."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from srdl_jax import cpu
from srdl_jax.data import sampling
from srdl_jax.data.images import StreamedImages
from srdl_jax.errors import ConfigError

_MOST_THREADS = 16
# Of a worker: one of them decodes while the other waits for a file.
_THREADS = 2
# Batches that wait for each process, or for all threads at least.
_AHEAD = 2
# Batches of a worker that are in shared memory at once: those in its queue, in
# Grain's and in the making. The run holds another one.
_SHARED = 6
_SHARED_MEMORY = pathlib.Path('/dev/shm')
_LESS = 'set fewer data.workers, a smaller batch_size, or data.workers = 0'


class RandomAccess(Protocol):
  """Examples by position; it can be pickled, for worker processes."""

  def __len__(self) -> int:
    """Number of positions."""

  def __getitem__(self, position: int) -> dict[str, Any]:
    """The example at a position in 0 .. len - 1."""


@dataclasses.dataclass
class TrainingViews:
  """What one process trains on in a stage: its part of batch after batch.

  An example's crop depends on the seed, the stage, the epoch and its number,
  not on who makes it.

  Attributes:
    images: of the full split.
    drawn: the orders of its epochs.
    own: int [b], the places within a batch that are this process's.
  """

  images: StreamedImages
  drawn: sampling.Drawn
  epochs: int
  own: np.ndarray

  def __post_init__(self) -> None:
    self._orders = sampling.EpochOrders(self.drawn)

  def __len__(self) -> int:
    return self.epochs * self.drawn.steps * len(self.own)

  def __getitem__(self, position: int) -> dict[str, Any]:
    """Returns {image uint8 [H, W, C], view: its number in the order}."""
    drawn = self.drawn
    batch, place = divmod(int(position), len(self.own))
    epoch, step = divmod(batch, drawn.steps)
    number = int(self._orders[epoch][step * drawn.batch_size + self.own[place]])
    rng = sampling.of_crop(drawn.seed, drawn.stage, epoch, number)
    return {
      'image': self.images.training_view(number % len(self.images), rng),
      'view': np.int32(number),
    }


def views(
  images: np.ndarray | StreamedImages,
  rows: np.ndarray,
  seed: int,
  stage: int,
  view: int,
) -> np.ndarray:
  """Returns the images of one view, before what is done on the device.

  Args:
    images: of the full split; those in memory are returned as they are.
    rows: int [B].
    stage: whose teacher sees them.
    view: from 0.

  Returns:
    uint8 [B, H, W, C].
  """
  if isinstance(images, np.ndarray):
    return images[rows]
  crops = (
    images.training_view(row, sampling.of_view(seed, stage, view, row))
    for row in rows.tolist()
  )
  return np.stack(list(crops))


def begin_worker(_index: int, _count: int) -> None:
  """Prepares a process that decodes: it ends with the run, not before.

  A signal to all processes of a terminal or a job is for the run, which still
  needs batches to come to its next checkpoint. And a run that is killed can't
  end its workers.
  """
  for name in ('INT', 'TERM', 'HUP', 'USR1', 'USR2', 'XCPU'):
    signal.signal(signal.Signals[f'SIG{name}'], signal.SIG_IGN)
  run = multiprocessing.parent_process()
  threading.Thread(target=_end_with, args=(run,), daemon=True).start()


def _end_with(run: multiprocessing.process.BaseProcess) -> None:
  run.join()
  # sys.exit would end this thread alone.
  os._exit(1)


def batches(
  source: RandomAccess, batch_size: int, *, first: int = 0, workers: int = 0
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the source's examples in order, stacked; the remainder is dropped.

  Args:
    first: number of the batch to begin with: going on there is the same as
      having read all before it.
    workers: processes that decode, 0 for threads of this one. They change
      nothing but the speed.

  Raises:
    DataError: of a source whose image is damaged, once its batch is reached.
    ConfigError: workers have too little memory, shared or other.
  """
  # It takes a second, which users of other data sets should not pay.
  import grain

  whole = _Batches(source, batch_size, shared=workers > 0)
  waiting = min(_SHARED * workers + 1, len(whole) - first)
  if workers and waiting > 0:
    example = source[first * batch_size]
    size = batch_size * sum(np.asarray(v).nbytes for v in example.values())
    _check_shared_memory(waiting * size, workers)
  # A saved iterator's state would fit the same number of workers alone.
  dataset = grain.MapDataset.source(whole)[first:]
  # A worker passes each batch on before it makes another: what Grain's threads
  # had made ahead would stay in shared memory when it ends.
  threads = 0 if workers else min(_MOST_THREADS, cpu.cores())
  iterated = dataset.to_iter_dataset(
    grain.ReadOptions(
      num_threads=threads, prefetch_buffer_size=max(threads, _AHEAD)
    )
  )
  if workers:
    options = grain.MultiprocessingOptions(
      num_workers=workers, per_worker_buffer_size=_AHEAD
    )
    iterated = iterated.mp_prefetch(options, worker_init_fn=begin_worker)
  iterator = iter(iterated)
  try:
    yield from iterator
  except RuntimeError as error:
    ended = re.search('unexpectedly with exit code (-?[0-9]+)', str(error))
    if not ended:
      raise
    raise ConfigError(_ended(int(ended[1]))) from error
  finally:
    # Ends the workers, and gives their shared memory back.
    iterator.close()


def _check_shared_memory(needed: int, workers: int) -> None:
  """Checks that so many bytes of batches that wait have room.

  Raises:
    ConfigError: they haven't; a worker would be killed where it writes.
  """
  with contextlib.suppress(OSError):  # Not of Linux.
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
      raise ConfigError(
        f'data.workers = {workers}: their batches take up to '
        f'{needed / 1e6:,.1f} MB of shared memory, but {_SHARED_MEMORY} has '
        f'{free / 1e6:,.1f} MB; give more (docker run --shm-size), or {_LESS}.'
      )


def _ended(code: int) -> str:
  """Returns why a worker ended by itself, by its exit code."""
  if code == -signal.SIGBUS:
    why = f'shared memory, {_SHARED_MEMORY}, is full: give more (--shm-size)'
  elif code == -signal.SIGKILL:
    why = 'it was killed, as where memory, or its limit, is exceeded'
  else:
    why = f'exit code {code}'
  return f'A worker that decodes images ended: {why}, or {_LESS}.'


@dataclasses.dataclass
class _Batches:
  """A source's examples by batch, as Grain's work counts by element.

  Attributes:
    source: of examples, which all have the same names and shapes.
    shared: whether batches are made by a worker, in memory that the run's
      process takes over, instead of copying them there. Who takes one frees
      it.
  """

  source: RandomAccess
  size: int
  shared: bool

  def __len__(self) -> int:
    return len(self.source) // self.size

  def __getitem__(self, number: int) -> dict[str, np.ndarray]:
    """Returns a batch, arrays [size, ...]."""
    first = int(number) * self.size
    one = self.source[first]
    batch = {
      name: self._empty(np.asarray(value)) for name, value in one.items()
    }

    def fill(places: range) -> None:
      for place in places:
        example = self.source[first + place] if place else one
        for name, value in example.items():
          batch[name][place] = value

    if not self.shared:
      fill(range(self.size))
      return batch
    parts = [range(n, self.size, _THREADS) for n in range(_THREADS)]
    try:
      list(_worker_threads().map(fill, parts))
    except BaseException:
      # Nobody else will know of it, and it would outlive this process.
      for array in batch.values():
        array.metadata.close_and_unlink_shm()
      raise
    return batch

  def _empty(self, example: np.ndarray) -> np.ndarray:
    shape = (self.size, *example.shape)
    if not self.shared:
      return np.empty(shape, example.dtype)
    import grain

    return grain.multiprocessing.SharedMemoryArray(shape, example.dtype)


@functools.cache
def _worker_threads() -> concurrent.futures.ThreadPoolExecutor:
  return concurrent.futures.ThreadPoolExecutor(_THREADS, 'decode')
