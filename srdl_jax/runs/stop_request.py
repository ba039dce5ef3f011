# SPDX-License-Identifier: Apache-2.0
"""Notices SIGTERM and Ctrl-C, so that a run can save before it ends."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from srdl_jax.errors import Interrupted


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
  """Notes the first signal instead of dying of it; the second one kills."""
  request = StopRequest()
  # None, a handler that Python hasn't set, could not be set again.
  before = {
    number: signal.getsignal(number) or signal.SIG_DFL
    for number in (signal.SIGINT, signal.SIGTERM)
  }

  def note(number, _frame):
    request.signal_name = signal.Signals(number).name
    restore()
    # Written at once: print is not safe within a handler.
    os.write(2, b'\nEnding at the next checkpoint; once more to end now.\n')

  def restore():
    for number, handler in before.items():
      signal.signal(number, handler)

  for number in before:
    signal.signal(number, note)
  try:
    yield request
  finally:
    restore()
