# SPDX-License-Identifier: Apache-2.0
"""A clock that stands in for `time` in a module that waits."""

from collections.abc import Callable


class Clock:
  """Its time passes by sleeping alone; `sleeping` is called with the time."""

  def __init__(self, sleeping: Callable[[float], object] = lambda now: None):
    self.now = 0.0
    self.sleeping = sleeping

  def monotonic(self) -> float:
    return self.now

  def sleep(self, seconds: float) -> None:
    self.now += seconds
    self.sleeping(self.now)
