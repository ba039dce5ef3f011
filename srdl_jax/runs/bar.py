# SPDX-License-Identifier: Apache-2.0
"""A bar of two lines at the lower end of a terminal, drawn by rich."""

import contextlib
import os
from collections.abc import Sequence

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.text import Text

from srdl_jax import storage

_GAP = '  '
# A shorter one shows nothing.
_LEAST_BAR = 8


class Bar:
  """What is drawn stays on the screen until something else is written.

  Between two drawings the cursor rests, visible, at the bar's upper left, where
  a terminal keeps it when its window is resized and lines are folded anew; and
  whatever kills the process, nothing has to be put right.
  """

  def __init__(self, stream: storage.Unfailing, total: float):
    """Draws nothing yet; the bar is full at `total`."""
    self._stream = stream
    # rich's Live would hide the cursor, and count lines from a folded end.
    self._console = Console(file=stream, force_terminal=True, highlight=False)
    self._total = total
    self._size = os.terminal_size((80, 24))
    self._head, self._done = '', 0.0
    self._notes: Sequence[tuple[int, str]] = ()

  def move(
    self, head: str, done: float, notes: Sequence[tuple[int, str]]
  ) -> None:
    """Draws it anew, also where the window's size has changed.

    Args:
      head: stands before the bar.
      done: of the total.
      notes: of the second line, each with its rank: where not all have room,
        those of low rank are left out.
    """
    self._head, self._done, self._notes = head, done, notes
    self.draw()

  def draw(self) -> None:
    """Draws it as it was, where anything may have been written over it."""
    with contextlib.suppress(OSError, ValueError):
      found = os.get_terminal_size(self._stream.fileno())
      self._size = found if min(found) > 0 else self._size
    # In the last column some terminals begin a new line.
    room = max(self._size.columns - 1, 1)
    # rich would take that of any terminal that it finds.
    self._console.size = room, self._size.lines
    lines = self._lines(room)[: self._size.lines]
    up = f'\x1b[{len(lines) - 1}A' if len(lines) > 1 else ''
    self._write('\r' + '\x1b[K\n'.join(lines) + f'{storage.ERASE}{up}\r')
    self._stream.before_next = self._erase

  def close(self) -> None:
    """Leaves the bar where it is, and the cursor below it."""
    self.draw()
    self._write('\n' * min(2, self._size.lines))

  def _erase(self) -> None:
    self._write(f'\r{storage.ERASE}')

  def _write(self, text: str) -> None:
    self._stream.before_next = None
    self._stream.write(text)
    self._stream.flush()

  def _lines(self, room: int) -> list[str]:
    return [self._first(room), self._second(room)]

  def _first(self, room: int) -> str:
    share = min(self._done / self._total, 1) if self._total else 1
    percent = f'{_GAP}{int(100 * share):3} %'
    left = room - len(self._head + percent + _GAP)
    with self._console.capture() as captured:
      self._print(self._head[:room], 'bold')
      if left >= -len(_GAP):
        self._print(percent)
      if left >= _LEAST_BAR:
        self._print(_GAP)
        shown = ProgressBar(self._total, self._done, width=left)
        self._console.print(shown)
    return captured.get()

  def _second(self, room: int) -> str:
    notes = list(self._notes)
    while (
      len(text := _GAP.join(note for _, note in notes)) > room and notes[1:]
    ):
      notes.remove(min(notes))
    return self._plain(text[:room])

  def _plain(self, text: str) -> str:
    with self._console.capture() as captured:
      self._print(text)
    return captured.get()

  def _print(self, text: str, style: str = '') -> None:
    self._console.print(Text(text, style), end='', soft_wrap=True)
