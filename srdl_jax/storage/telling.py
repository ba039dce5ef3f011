# SPDX-License-Identifier: Apache-2.0
"""What is told to a human, who may have gone; and how far something is."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO


class Unfailing:
  """A text stream that swallows what can't be written, also when it ends."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    with contextlib.suppress(OSError, ValueError):
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    with contextlib.suppress(OSError, ValueError):
      self._stream.flush()


def say(text: str, stream: TextIO | None = None) -> None:
  """Writes a line to a human, stderr unless given; who may have gone."""
  stream = stream or sys.stderr
  # Without one, print would turn to stdout.
  if stream is not None:
    print(text, file=Unfailing(stream), flush=True)


class Told:
  """Counts what is done, and says a line about it now and then.

  Several threads may count.
  """

  def __init__(
    self,
    name: str,
    unit: str = '',
    total: int | None = None,
    *,
    size: int | None = None,
    done: int = 0,
    stream: TextIO | None = None,
    every: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Says nothing yet.

    Args:
      unit: what is counted, in the plural; '' if bytes alone are.
      total: how many there will be, if that is known.
      size: bytes that all of them have, about, if that is known.
      done: bytes among these that an earlier process has done.
      stream: where a human reads, sys.stderr unless given.
      every: seconds between lines.
    """
    self._name, self._unit, self._total = name, unit, total
    self._size, self._done = size, done
    self._stream, self._every, self._clock = stream, every, clock
    self._began = self._said = clock()
    self._count = self._bytes = 0
    self._lock = threading.Lock()

  def add(self, count: int = 1, size: int = 0) -> None:
    """Counts so many more, of so many bytes together."""
    with self._lock:
      self._count += count
      self._bytes += size
      if self._clock() - self._said >= self._every:
        self._said = self._clock()
        self.say(self._so_far(self._left()))

  def close(self) -> None:
    """Says a last line."""
    self.say(self._so_far('done'))

  def say(self, text: str) -> None:
    """Says a line at once."""
    say(f'{self._name}: {text}', self._stream)

  def _so_far(self, end: str) -> str:
    told = []
    if self._unit:
      of = '' if self._total is None else f' of {self._total:,}'
      told.append(f'{self._count:,}{of} {self._unit}')
    if self._bytes:
      of = '' if self._size is None else f' of {self._size / 1e9:.2f}'
      rate = self._bytes / max(self._clock() - self._began, 1e-9)
      told.append(f'{(self._done + self._bytes) / 1e9:.2f}{of} GB')
      told.append(f'{rate / 1e6:.1f} MB/s')
    return ', '.join([*told, *([end] if end else [])])

  def _left(self) -> str:
    """Returns how long the rest will take, '' if that isn't known."""
    now, all_of_it = self._count, self._total
    if self._size is not None:
      now, all_of_it = self._bytes, self._size - self._done
    if all_of_it is None:
      return ''
    seconds = (self._clock() - self._began) / max(now, 1) * (all_of_it - now)
    minutes, seconds = divmod(max(round(seconds), 0), 60)
    return f'{minutes} min {seconds:02} s left'
