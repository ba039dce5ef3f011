# SPDX-License-Identifier: Apache-2.0
"""Several processes that take turns: one library's threads and memory settings
don't slow the other down, and both meet the same machine."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

READY = 'ready'
Run = Callable[[], str | float]


class Turns(Iterator[str]):
  """In a contestant's process: yields what it is asked to run."""

  def __init__(self):
    # Libraries say things on stdout.
    self._answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)

  def answer(self, value: str | float) -> None:
    """Tells that all is ready, or what a run has returned."""
    print(value, file=self._answers, flush=True)

  def __next__(self) -> str:
    if line := sys.stdin.readline():
      return line.strip()
    raise StopIteration


def serve(runs: Mapping[str, Run]) -> None:
  """Runs what is asked for, and tells what it returns."""
  turns = Turns()
  turns.answer(READY)
  for name in turns:
    turns.answer(runs[name]())


class Contestant:
  """A script's process that serves; it waits, idle, for its turn."""

  def __init__(self, arguments: Sequence[str]):
    """Starts `python ARGUMENTS`."""
    self._process = subprocess.Popen(
      [sys.executable, *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      # Else the first of several would take a GPU's memory.
      env=os.environ | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
    )

  def ready(self) -> bool:
    """Waits until it serves; False where it ended instead."""
    return self._process.stdout.readline().strip() == READY

  def ask(self, name: str) -> str:
    """Returns what the run of that name returns in there, as text.

    Raises:
      ChildProcessError: it has ended.
    """
    with contextlib.suppress(BrokenPipeError):
      print(name, file=self._process.stdin, flush=True)
    if line := self._process.stdout.readline():
      return line.strip()
    raise ChildProcessError(f'{self._process.args} ended: {self.end()}')

  def end(self) -> int:
    """Ends it, and returns its exit status."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    return self._process.wait()
