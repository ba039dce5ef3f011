# SPDX-License-Identifier: Apache-2.0
"""Notices SIGTERM and Ctrl-C, so that a run can save before it ends."""

import contextlib
import signal
from collections.abc import Iterator


class StopRequest:
  """Whether the run was asked to end.

  Attributes:
    signal_name: name of the signal that asked, '' while none has.
  """

  def __init__(self) -> None:
    self.signal_name = ''

  def __bool__(self) -> bool:
    return bool(self.signal_name)


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
  """Notes the first signal instead of dying of it; the second one kills."""
  request = StopRequest()
  before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

  def note(number, frame):
    del frame
    request.signal_name = signal.Signals(number).name
    restore()

  def restore():
    for number, handler in before.items():
      signal.signal(number, handler)

  for number in before:
    signal.signal(number, note)
  try:
    yield request
  finally:
    restore()
