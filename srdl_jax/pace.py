# SPDX-License-Identifier: Apache-2.0
"""How fast training is, and how long the rest will take."""

import time


class Pace:
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
