# SPDX-License-Identifier: Apache-2.0
"""The jobs of a sweep as a table at the lower end of a terminal."""

import re
from collections.abc import Mapping, Sequence
from typing import TextIO

from srdl_jax import storage
from srdl_jax.runs import bar

# What a run says of itself in a log: see `runs.progress`.
PROGRESS = re.compile(r'stage (\d+/\d+), epoch (([\d.]+)/(\d+)), (.*)')
_GAP = '  '
_HEADS = ('stage', 'epoch', 'score', 'images/s', 'left')
# The columns by when they are left out on a narrow terminal, and the room that
# each leaves to names.
_LEFT_OUT = {3: 32, 0: 32, 2: 24, 1: 20, 4: 8}
_LEAST_NAME = 20


class JobTable(bar.Bar):
  """How far a sweep is, and each of its running jobs.

  It is taken away in the end, when lines have told it all.
  """

  def __init__(self, stream: TextIO, jobs: int):
    """Draws nothing yet; `jobs` is how many there are."""
    if not isinstance(stream, storage.Unfailing):
      stream = storage.Unfailing(stream)
    super().__init__(stream, jobs)
    self._jobs = jobs
    self._running: Mapping[str, str] = {}
    self._drawn = False

  def show(
    self, *, done: int, failed: int, running: Mapping[str, str], left: str
  ) -> None:
    """Draws it anew.

    Args:
      done, failed: numbers of jobs.
      running: what each said last, by its name.
      left: what to say of the time left, '' if that isn't known.
    """
    waiting = self._jobs - done - failed - len(running)
    notes = [(2, f'{len(running)} running'), (1, f'{waiting} waiting')]
    notes += [(3, f'{failed} failed')] if failed else []
    notes += [(4, left)] if left else []
    self._running, self._drawn = running, True
    whole = done + sum(map(self.share, running.values()))
    self.move(f'{done} of {self._jobs} jobs done', whole, notes)

  @staticmethod
  def is_progress(line: str) -> bool:
    """Whether a line of a job's log tells how far it is."""
    return PROGRESS.fullmatch(line) is not None

  @staticmethod
  def share(line: str) -> float:
    """Returns how much of a run is done, by what it said; 0 if it didn't."""
    found = PROGRESS.fullmatch(line)
    return float(found[3]) / float(found[4]) if found else 0.0

  def again(self) -> None:
    """Draws it as it was, where a line has been said."""
    if self._drawn:
      self.draw()

  def close(self) -> None:
    """Takes it away; may be called twice."""
    if self._drawn:
      self._erase()
    self._drawn = False

  def _lines(self, room: int) -> list[str]:
    rows = map(self._plain, rows_of(self._running, room))
    return [*super()._lines(room), *rows]


def rows_of(running: Mapping[str, str], room: int) -> list[str]:
  """Returns a row for each job, and heads, of at most `room` letters.

  Args:
    running: what each said last, by its name.
  """
  told = {name: _cells(line) for name, line in running.items()}
  parted = [cells for cells in told.values() if cells]
  table = zip(_HEADS, *parted, strict=True)
  widths = [max(map(len, column)) for column in table]
  columns = list(range(len(_HEADS) if parted else 0))
  longest = max(map(len, running), default=0)

  def beside_name() -> int:
    return sum(len(_GAP) + widths[n] for n in columns)

  for column, least in _LEFT_OUT.items():
    if min(longest, least) + beside_name() > room:
      columns = [n for n in columns if n != column]
  # A line that is no progress would have no room behind a long name.
  place = min(longest, max(room - beside_name(), 0))
  if not columns and any(running.values()):
    place = min(place, max(room // 2, _LEAST_NAME))

  def row(name: str, texts: Sequence[str]) -> str:
    return _GAP.join([name.ljust(place), *texts])[:room].rstrip()

  def aligned(cells: Sequence[str]) -> list[str]:
    return [cells[n].rjust(widths[n]) for n in columns]

  rows = [row('job', aligned(_HEADS))] if columns else []
  for name, line in running.items():
    cells = told[name]
    # Some terminals take other letters for two, or for commands.
    texts = aligned(cells) if cells else [re.sub('[^ -~]', '?', line)]
    rows.append(row(_shortened(name, place), texts))
  return rows


def _cells(line: str) -> list[str] | None:
  """Returns the columns of a line of progress, None if it is another."""
  found = PROGRESS.fullmatch(line)
  if not found:
    return None
  score = speed = left = ''
  for note in found[5].split(', '):
    if note.endswith(' images/s'):
      speed = note.removesuffix(' images/s')
    elif note.endswith(' %'):
      score = ' '.join(note.split()[-2:])
    elif note.endswith(' left'):
      left = note.removesuffix(' left')
  return [found[1], found[2], score, speed, left]


def _shortened(name: str, room: int) -> str:
  """Leaves out the digest, and what is before method and seed at the end."""
  if len(name) > room:
    name = re.sub(r'-[0-9a-f]{8}(?=-seed\d+$)', '', name)
  if len(name) <= room:
    return name
  begin = max(room - 3, 0) // 4
  end = max(room - 3 - begin, 0)
  return f'{name[:begin]}...{name[len(name) - end :]}'[:room]
