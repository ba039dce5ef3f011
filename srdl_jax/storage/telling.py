# SPDX-License-Identifier: Apache-2.0
"""Tells every few seconds how far a long pass over files is."""

import sys
import time
from collections.abc import Callable
from typing import TextIO


class ByteProgress:
  """Counts images and bytes, and says a line about them now and then."""

  def __init__(
    self,
    name: str,
    total: int,
    *,
    done: int = 0,
    stream: TextIO | None = None,
    every: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Says nothing yet.

    Args:
      name: of what is done, at the start of each line.
      total: bytes of all, about.
      done: bytes that an earlier run has done.
      stream: where a human reads, sys.stderr unless given.
      every: seconds between lines.
      clock: returns seconds.
    """
    self._name, self._total, self._done = name, total, done
    self._stream, self._every, self._clock = stream, every, clock
    self._began = self._told = clock()
    self._images = self._bytes = 0

  def add(self, size: int) -> None:
    """Counts an image of `size` bytes."""
    self._images += 1
    self._bytes += size
    if self._clock() - self._told >= self._every:
      self._told = self._clock()
      self._say(f'{self._left()} left')

  def close(self) -> None:
    """Says a last line."""
    self._say('done')

  def _say(self, text: str) -> None:
    rate = self._bytes / max(self._clock() - self._began, 1e-9)
    print(
      f'{self._name}: {self._images:,} images, {rate / 1e6:.1f} MB/s, {text}',
      file=self._stream or sys.stderr,
      flush=True,
    )

  def _left(self) -> str:
    rest = max(self._total - self._done - self._bytes, 0)
    seconds = rest * (self._clock() - self._began) / max(self._bytes, 1)
    minutes, seconds = divmod(round(seconds), 60)
    return f'{minutes} min {seconds:02} s'
