# SPDX-License-Identifier: Apache-2.0
"""How far a run is and how fast: timed, and shown to a human."""

import collections
import contextlib
import math
import os
import time
from typing import TYPE_CHECKING, TextIO

from srdl_jax import storage

if TYPE_CHECKING:
  from srdl_jax.runs.bar import Bar

# Of the intervals that speed is told from.
_RECENT = 1000


class Progress:
  """Shows how far a run is; it never ends a run whose reader has gone."""

  def __init__(self, stream: TextIO | None, total_epochs: int):
    """Shows nothing yet; will draw a bar if the stream is a terminal."""
    if stream is not None and not isinstance(stream, storage.Unfailing):
      stream = storage.Unfailing(stream)
    self._stream = stream
    self._total = total_epochs
    self._draws = can_draw(stream)
    self._bar: Bar | None = None
    self._told: tuple[int, int] | None = None

  def event(self, text: str) -> None:
    """Says one line: above the bar of a terminal, elsewhere with the time."""
    if not self._draws:
      text = f'{time.strftime("%H:%M:%S")} {text}'
    storage.say(text, self._stream)
    if self._bar is not None:
      self._bar.draw()

  def show(
    self,
    *,
    stage: int,
    stages: int,
    epoch: float,
    epochs: int,
    images_per_second: float,
    seconds_left: float,
    **shown: float | str,
  ) -> None:
    """Moves the bar, or says a line at the end of an epoch.

    Args:
      stage: from 1.
      epoch: epochs done of all stages together, a fraction within one.
      epochs: of all stages together.
      images_per_second: NaN if that isn't known.
      seconds_left: of the whole run; NaN if that isn't known.
      **shown: more to show, such as loss=0.53.
    """
    # The last to be left out on a narrow terminal is the time, the first speed.
    notes = [
      (rank, _told(name, value))
      for rank, (name, value) in enumerate(shown.items(), 1)
    ]
    if math.isfinite(images_per_second):
      notes.append((0, f'{_rounded(images_per_second)} images/s'))
    if math.isfinite(seconds_left) or not self._draws:
      notes.append((len(notes) + 1, _left(seconds_left)))
    if self._draws:
      where = f'stage {stage}/{stages}  epoch {epoch:.1f}/{epochs}'
      self._move(where, epoch, notes)
    elif epoch == int(epoch) and self._told != (stage, epoch):
      self._told = (stage, epoch)
      where = f'stage {stage}/{stages}, epoch {epoch:g}/{epochs}'
      self.event(', '.join([where, *(note for _, note in notes)]))

  def close(self) -> None:
    """Leaves the bar where it is; may be called twice."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def _move(
    self, where: str, done: float, notes: list[tuple[int, str]]
  ) -> None:
    if self._bar is None:
      # Who reads a file, or a report, doesn't wait for rich.
      from srdl_jax.runs.bar import Bar

      self._bar = Bar(self._stream, self._total)
    self._bar.move(where, done, notes)


def can_draw(stream: TextIO | None) -> bool:
  """Whether it is a terminal on which what is written can be taken back."""
  if os.environ.get('TERM', '').lower() in ('', 'dumb', 'unknown'):
    return False
  with contextlib.suppress(OSError, ValueError):
    if stream is not None and stream.isatty():
      # Without a size no bar is visible.
      return min(os.get_terminal_size(stream.fileno())) > 1
  return False


def _left(seconds: float) -> str:
  """A duration in the two units that matter."""
  if not math.isfinite(seconds):
    return 'time left unknown'
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02} min left'
  return f'{minutes} min {seconds:02} s left'


def _told(name: str, value: float | str) -> str:
  if not isinstance(value, str):
    share = name.endswith(('accuracy', 'map'))
    value = f'{100 * value:.1f} %' if share else f'{value:#.4g}'
  return f'{name.replace("_", " ")} {value}'


def _rounded(rate: float) -> str:
  return f'{rate:,.0f}' if rate >= 100 else f'{rate:.3g}'


class Stopwatch:
  """Times the training steps of one process, pauses and compilation left out.

  Attributes:
    seconds, steps: of training in the epoch so far, with compilation. They may
      be given, to go on with an epoch that another process began.
  """

  def __init__(self, seconds: float = 0.0, steps: int = 0) -> None:
    self.seconds = seconds
    self.steps = steps
    self._since = self._counted = self._shown = time.monotonic()
    # Seconds and steps of the last chunks, and numbers of steps seen.
    self._timed = collections.deque(maxlen=_RECENT)
    self._sizes: set[int] = set()
    self._all_steps = self._steps_to_pause = 0
    self._stopped: float | None = None
    self._pauses: list[float] = []

  def new_epoch(self) -> None:
    """Forgets the epoch so far."""
    self.seconds, self.steps = 0.0, 0

  def start(self) -> None:
    """Training begins, or goes on after a pause."""
    self._since = self._counted = time.monotonic()
    if self._stopped is not None:
      self._pauses.append(self._since - self._stopped)
      self._steps_to_pause = self._all_steps

  def count(self, steps: int) -> None:
    """Training has done so many more steps, a chunk."""
    now = time.monotonic()
    if steps in self._sizes:
      self._timed.append((now - self._counted, steps))
    else:
      # It was compiled while the chunk before it was waited for.
      self._sizes.add(steps)
      with contextlib.suppress(IndexError):
        self._timed.pop()
    self._counted = now
    self.steps += steps
    self._all_steps += steps

  def stop(self) -> float:
    """Training pauses; returns the seconds since `start`."""
    self._stopped = time.monotonic()
    self.seconds += self._stopped - self._since
    return self._stopped - self._since

  def steps_per_second(self) -> float:
    """Returns the speed of late, NaN if it isn't known yet."""
    return 1 / max(self._pace(), 1e-9)

  def seconds_left(self, steps: int) -> float:
    """Returns how long so many steps will take, pauses included.

    NaN if it isn't known yet, which is until steps were timed.
    """
    if not steps or not self._timed:
      return math.nan if steps else 0.0
    return steps * (self._pace() + self._pause())

  def _pace(self) -> float:
    """Seconds a step."""
    if not self._timed:
      return math.nan
    seconds, steps = map(sum, zip(*self._timed, strict=True))
    return seconds / steps

  def _pause(self) -> float:
    """Seconds of pauses a step."""
    count = len(self._pauses)
    if count < 2:
      return 0.0
    # In one of them evaluation was compiled.
    seconds = (sum(self._pauses) - max(self._pauses)) * count / (count - 1)
    return seconds / self._steps_to_pause

  def due(self, seconds: float) -> bool:
    """Whether nothing has been due for so many seconds."""
    now = time.monotonic()
    if now - self._shown < seconds:
      return False
    self._shown = now
    return True


def duration(seconds: float) -> str:
  """Returns a time in seconds, minutes, hours or days.

  >>> duration(5400)
  '1.5 h'
  """
  if seconds >= 1000 * 3600:
    return f'{seconds / 86400:,.0f} days'
  for length, unit in ((3600, 'h'), (60, 'min')):
    if seconds >= length:
      return f'{seconds / length:.3g} {unit}'
  return f'{seconds:.3g} s'
