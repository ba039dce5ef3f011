# SPDX-License-Identifier: Apache-2.0
"""Notices what asks a run to end, so that it can save before it does."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

from srdl_jax import storage
from srdl_jax.errors import Interrupted
from srdl_jax.runs import progress

# Of these a second one ends the process at once.
_INSIST = (signal.SIGINT, signal.SIGTERM)
# A terminal that closes says it twice; schedulers warn by the others.
_WARN = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class StopRequest:
  """Whether the run was asked to end.

  Attributes:
    signal_name: name of the signal that asked, '' while none has.
    agreed: whether the run's processes know that one of them was asked; None
      in a process that is alone and need not agree with any.
  """

  def __init__(self) -> None:
    self.signal_name = ''
    self.agreed: bool | None = None

  @property
  def heard(self) -> bool:
    """Whether this process was asked."""
    return bool(self.signal_name)

  def __bool__(self) -> bool:
    return self.heard if self.agreed is None else self.agreed

  def agree(self, any_says: Callable[[bool], bool]) -> None:
    """Lets all processes know; `any_says` is that of `processes`."""
    if self.agreed is not None:
      self.agreed = any_says(self.heard)

  def end_if_asked(self, where: str) -> None:
    """Ends the run, once all is saved; `where` it is stands in the message.

    Raises:
      Interrupted: a signal asked for it.
    """
    if self:
      raise Interrupted(
        f'{self.signal_name or "Another process was asked to end"} {where}: '
        'everything is saved; run the same command again to go on.'
      )


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
  """Notes signals instead of dying of them; a second SIGINT or SIGTERM kills.

  Warnings that are ignored already, as nohup ignores SIGHUP, stay so.
  """
  request = StopRequest()
  # None, a handler that Python hasn't set, could not be set again.
  before = {
    number: signal.getsignal(number) or signal.SIG_DFL
    for number in (*_INSIST, *_WARN)
    if number in _INSIST or signal.getsignal(number) != signal.SIG_IGN
  }

  # What has a bar on it is cleared, else the bar would mix with the line.
  begin = f'\r{storage.ERASE}' if progress.can_draw(sys.stderr) else '\n'
  line = f'{begin}Ending at the next checkpoint; Ctrl-C to end now.\n'.encode()

  def note(number, _frame):
    if not request.heard:
      request.signal_name = signal.Signals(number).name
      # The terminal may be what has gone.
      with contextlib.suppress(OSError):
        # Written at once: print is not safe within a handler.
        os.write(2, line)
    if number in _INSIST:
      restore(_INSIST)

  def restore(numbers):
    for number in before.keys() & set(numbers):
      signal.signal(number, before[number])

  for number in before:
    signal.signal(number, note)
  try:
    yield request
  finally:
    restore(before)
