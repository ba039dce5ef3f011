# SPDX-License-Identifier: Apache-2.0
"""What is told to a human, who may have gone; and how far something is."""

import contextlib
import dataclasses
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

_STEERING = re.compile(r'[^\n\t -~\u00a0-\U0010ffff]')
SECONDS_BETWEEN_LINES = 5.0
# What a terminal shows from the cursor on.
ERASE = '\x1b[J'


class Unfailing:
  """A text stream that swallows what can't be written, also when it ends.

  Attributes:
    before_next: is called once, before the next text is written: whoever has
      drawn something at the end of a terminal takes it away.
  """

  def __init__(self, stream: TextIO):
    self._stream = stream
    self.before_next: Callable[[], object] | None = None

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    if text and self.before_next is not None:
      before, self.before_next = self.before_next, None
      before()
    with contextlib.suppress(OSError, ValueError):
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    with contextlib.suppress(OSError, ValueError):
      self._stream.flush()


def say(text: str, stream: TextIO | None = None) -> None:
  """Writes a line to a human, stderr unless given; who may have gone."""
  stream = stream or sys.stderr
  # Names of files may steer a terminal.
  text = _STEERING.sub(lambda found: repr(found[0])[1:-1], text)
  # Without one, print would turn to stdout.
  if stream is not None:
    print(text, file=Unfailing(stream), flush=True)


@dataclasses.dataclass(eq=False)
class Told:
  """Counts what is done, and says a line about it now and then.

  Several threads may count.

  Attributes:
    unit: what is counted, in the plural; '' if bytes alone are.
    total: how many there will be, if that is known.
    size: bytes that all of them have, about, if that is known.
    done: bytes among these that an earlier process has done.
    stream: where a human reads, sys.stderr unless given.
  """

  name: str
  unit: str = ''
  total: int | None = None
  _: dataclasses.KW_ONLY
  size: int | None = None
  done: int = 0
  stream: TextIO | None = None
  clock: Callable[[], float] = time.monotonic

  def __post_init__(self) -> None:
    self._began = self._said = self.clock()
    self._count = self._bytes = 0
    self._lock = threading.Lock()

  def add(self, count: int = 1, size: int = 0) -> None:
    """Counts so many more, of so many bytes together."""
    with self._lock:
      self._count += count
      self._bytes += size
      if self.clock() - self._said >= SECONDS_BETWEEN_LINES:
        self._said = self.clock()
        self.say(self._so_far(self._left()))

  def close(self) -> None:
    """Says a last line."""
    self.say(self._so_far('done'))

  def say(self, text: str) -> None:
    """Says a line at once."""
    say(f'{self.name}: {text}', self.stream)

  def _so_far(self, end: str) -> str:
    told = []
    if self.unit:
      of = '' if self.total is None else f' of {self.total:,}'
      told.append(f'{self._count:,}{of} {self.unit}')
    if self._bytes:
      of = '' if self.size is None else f' of {self.size / 1e9:.2f}'
      rate = self._bytes / max(self.clock() - self._began, 1e-9)
      told.append(f'{(self.done + self._bytes) / 1e9:.2f}{of} GB')
      told.append(f'{rate / 1e6:.1f} MB/s')
    return ', '.join(filter(None, [*told, end]))

  def _left(self) -> str:
    """Returns how long the rest will take, '' if that isn't known."""
    now, all_of_it = self._count, self.total
    if self.size is not None:
      now, all_of_it = self._bytes, self.size - self.done
    if all_of_it is None:
      return ''
    seconds = (self.clock() - self._began) / max(now, 1) * (all_of_it - now)
    minutes, seconds = divmod(max(round(seconds), 0), 60)
    return f'{minutes} min {seconds:02} s left'
