# SPDX-License-Identifier: Apache-2.0
"""Which of a stage's moments are saved, and when."""

import time

from srdl_jax.runs.checkpoint import Checkpoints, Moment
from srdl_jax.runs.log import RunLog


class Saver:
  """Saves what it is given; of what is the best so far, before all later.

  Until then it is in memory alone: in a stage's first epochs each is the best,
  and a run that is killed finds it once more.
  """

  def __init__(
    self,
    checkpoints: Checkpoints,
    log: RunLog,
    *,
    score: str,
    every_seconds: float,
  ):
    """Begins to wait.

    Args:
      log: is on the disk before a moment that stands behind it.
      score: name of the metric that is best where it is highest.
      every_seconds: between moments; 0: for ever.
    """
    self._checkpoints = checkpoints
    self._log = log
    self._score = score
    self._every_seconds = every_seconds
    self._since = time.monotonic()
    self._best: Moment | None = None

  def is_time(self) -> bool:
    """Whether nothing has been saved for so long."""
    waited = time.monotonic() - self._since
    return 0 < self._every_seconds <= waited

  def keep(self, best: Moment) -> None:
    """Keeps what was evaluated as the best, in place of any before."""
    self._best = best

  def save(self, moment: Moment, *, is_best: bool = False) -> None:
    """Begins to save a moment, see `Checkpoints.save`."""
    if is_best:
      self._best = None
    self._write_best()
    self._write(moment)
    self._since = time.monotonic()

  def go_on(self) -> None:
    """Goes on with what has begun, see `Checkpoints.go_on`."""
    self._checkpoints.go_on()

  def finish(self) -> None:
    """Waits until all is on the disk."""
    self._write_best()
    self._checkpoints.wait()

  def _write_best(self) -> None:
    best, self._best = self._best, None
    if best is not None:
      self._write(best)

  def _write(self, moment: Moment) -> None:
    self._log.settle()
    said = moment.record.evaluation
    is_evaluated = said.get('step') == moment.step
    score = said[self._score] if is_evaluated else None
    self._checkpoints.save(moment, score=score)
