# SPDX-License-Identifier: Apache-2.0
"""How far a run is and how fast: timed, and shown to a human."""

import contextlib
import math
import os
import time
from typing import TextIO

import tqdm

from srdl_jax import storage

_BAR = '{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs{postfix}'


class Progress:
  """Shows how far a run is; it never ends a run whose reader has gone."""

  def __init__(self, stream: TextIO | None, total_epochs: int):
    """Shows nothing yet; will draw a bar if the stream is a terminal."""
    self._stream = stream and storage.Unfailing(stream)
    self._total = total_epochs
    self._draws = _can_draw(stream)
    self._bar: _Bar | None = None
    self._told: tuple[int, int] | None = None

  def event(self, text: str) -> None:
    """Says one line, above the bar where there is one."""
    if self._bar is None:
      storage.say(text, self._stream)
    else:
      self._bar.write(text, file=self._stream)

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
      seconds_left: of the whole run.
      **shown: more to show, such as loss=0.53.
    """
    notes = [f'{images_per_second:,.0f} images/s', _left(seconds_left)]
    notes += [f'{name} {_short(value)}' for name, value in shown.items()]
    if self._draws:
      self._move(f'stage {stage}/{stages}', epoch, ', '.join(notes))
    elif epoch == int(epoch) and self._told != (stage, epoch):
      self._told = (stage, epoch)
      where = f'stage {stage}/{stages}, epoch {epoch:g}/{epochs}'
      self.event(', '.join([where, *notes]))

  def close(self) -> None:
    """Leaves the bar where it is; may be called twice."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def _move(self, stage: str, done: float, notes: str) -> None:
    if self._bar is None:
      self._bar = _Bar(
        desc=stage,
        total=self._total,
        initial=done,
        postfix=notes,
        file=self._stream,
        bar_format=_BAR,
        dynamic_ncols=True,
        # By itself tqdm leaves out updates that are smaller than most.
        miniters=0,
      )
    self._bar.set_description_str(stage, refresh=False)
    self._bar.set_postfix_str(notes, refresh=False)
    self._bar.update(done - self._bar.n)


class _Bar(tqdm.tqdm):
  # The caller moves the bar often enough without a thread that watches it.
  monitor_interval = 0


def _can_draw(stream: TextIO | None) -> bool:
  """Whether it is a terminal with a size; without one no bar is visible."""
  with contextlib.suppress(OSError, ValueError):
    if stream is not None and stream.isatty():
      return os.get_terminal_size(stream.fileno()).lines > 1
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


def _short(value: float | str) -> str:
  return value if isinstance(value, str) else f'{value:.4g}'


class Stopwatch:
  """Times the training steps of one process, pauses left out.

  Attributes:
    seconds, steps: of training in the epoch so far. They may be given, to go
      on with an epoch that another process began.
  """

  def __init__(self, seconds: float = 0.0, steps: int = 0) -> None:
    self.seconds = seconds
    self.steps = steps
    self._created = time.monotonic()
    self._all_steps = 0
    self._since: float | None = None
    self._shown = self._created

  def new_epoch(self) -> None:
    """Forgets the epoch so far."""
    self.seconds, self.steps = 0.0, 0

  def start(self) -> None:
    """Training begins, or goes on after a pause."""
    self._since = time.monotonic()

  def count(self, steps: int) -> None:
    """Training has done so many more steps."""
    self.steps += steps
    self._all_steps += steps

  def stop(self) -> float:
    """Training pauses; returns the seconds since `start`."""
    seconds = time.monotonic() - self._since
    self.seconds += seconds
    self._since = None
    return seconds

  def steps_per_second(self) -> float:
    """Returns the speed in this epoch."""
    running = 0.0 if self._since is None else time.monotonic() - self._since
    return self.steps / max(self.seconds + running, 1e-9)

  def seconds_left(self, steps: int) -> float:
    """Returns how long so many steps will take, pauses included."""
    elapsed = time.monotonic() - self._created
    return elapsed / max(self._all_steps, 1) * steps

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
