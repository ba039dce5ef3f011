# SPDX-License-Identifier: Apache-2.0
"""Starts a training as several processes on this machine.

    python launch/local.py --processes=2 [--devices=2] [--restarts=3] -- \
        python -m srdl_jax.main --config=configs/digits.py --workdir=runs/two

Everything behind `--` is the command. Each process gets it with --coordinator,
--process_count and --process_index added, and each line that it writes is
passed on behind its index: `[1] ...`.

SIGTERM and Ctrl-C are passed on, once each. When a process dies, the others
are ended, too. Exit codes:

  0           every process finished
  2, 3, 4, 5  some process ended with this known error; 2: or a wrong flag
  75          run me again: all was saved, or a process was lost
  n           otherwise, the code of the first process that failed

It needs nothing but Python's standard library.
"""

import argparse
import contextlib
import dataclasses
import os
import queue
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

AGAIN = 75
# They win: running again doesn't mend them, and the others die of them.
KNOWN_ERRORS = (2, 3, 4, 5)
# A process aborts when its peers are gone; this is the code in a shell's words.
PEER_LOST = 134
# From SIGTERM to SIGKILL at most, after the time of grace.
SECONDS_TO_KILL = 10.0
DEVICES_FLAG = '--xla_force_host_platform_device_count'
ONE_LINE = threading.Lock()


@dataclasses.dataclass(frozen=True)
class End:
  """How a process ended: its code, or minus the signal that killed it."""

  index: int
  code: int

  @property
  def lost(self) -> bool:
    """Whether running again may help."""
    return self.code < 0 or self.code in (AGAIN, PEER_LOST)

  def __str__(self) -> str:
    if self.code >= 0:
      return f'process {self.index} ended with code {self.code}'
    name = signal.Signals(-self.code).name
    return f'process {self.index} was killed by {name}'


def exit_code(ends: Sequence[End]) -> int:
  """Returns the launcher's code.

  Args:
    ends: of all processes, in the order in which they ended. Without a known
      error the first failure counts, as the others may stem from it.
  """
  failures = [end for end in ends if end.code]
  for end in failures:
    if end.code in KNOWN_ERRORS:
      return end.code
  if not failures:
    return 0
  return AGAIN if failures[0].lost else failures[0].code


def free_port(other_than: int) -> int:
  """Returns a port of this machine that nothing listens on."""
  while True:
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      port = probe.getsockname()[1]
    if port != other_than:
      return port


def added_environment(devices: int) -> dict[str, str]:
  """Returns what the processes get besides the launcher's environment.

  Args:
    devices: CPU devices of each process, 0 to leave them as they are.
  """
  # Lines are passed on when they are written, not when a buffer is full.
  added = {'PYTHONUNBUFFERED': '1'}
  if not devices:
    return added
  # XLA takes the last of several such flags.
  flags = f'{os.environ.get("XLA_FLAGS", "")} {DEVICES_FLAG}={devices}'
  return added | {'XLA_FLAGS': flags.strip(), 'JAX_PLATFORMS': 'cpu'}


def say(text: str) -> None:
  """Writes a line of the launcher's own."""
  # With the terminal gone, the processes must still be seen to their end.
  with contextlib.suppress(OSError):
    print(f'local.py: {text}', file=sys.stderr, flush=True)


def pass_on(index: int, source: BinaryIO, sink: BinaryIO) -> None:
  """Writes the lines of `source` to `sink`, behind the process's index."""
  for line in source:
    with ONE_LINE:
      try:
        sink.write(b'[%d] %s\n' % (index, line.rstrip(b'\n')))
        sink.flush()
      except OSError:
        # Nobody listens any more. The rest is read and dropped, lest the
        # process blocks on a full pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sink.fileno())


def end_group(group: int) -> None:
  """Ends what a process left behind, such as workers that read data."""
  with contextlib.suppress(ProcessLookupError, PermissionError):
    for _ in range(50):
      os.killpg(group, 0)
      time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)


class Launcher:
  """Runs the processes, once or several times.

  Attributes:
    asked_to_stop: whether a signal asked the launcher to end.
  """

  def __init__(self, options: argparse.Namespace) -> None:
    self._options = options
    self._running: list[subprocess.Popen] = []
    self._pending: list[int] = []
    self._port = 0
    self.asked_to_stop = False

  def listen(self) -> None:
    """Passes signals on to the processes, from now on."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      # Under nohup SIGHUP stays ignored.
      if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, self._note)

  def _note(self, number: int, frame) -> None:
    del frame
    self.asked_to_stop = True
    # A closed terminal is a reason to save and stop, too.
    self._pending.append(signal.SIGTERM if number == signal.SIGHUP else number)
    self._send_pending()

  def _send_pending(self) -> None:
    while self._running and self._pending:
      number = self._pending.pop(0)
      for process in self._running:
        process.send_signal(number)

  def commands(self) -> list[list[str]]:
    """Returns every process's command, with a port unlike the last one."""
    self._port = free_port(other_than=self._port)
    count = self._options.processes
    where = f'--coordinator=127.0.0.1:{self._port}'
    command = [*self._options.command, where, f'--process_count={count}']
    return [[*command, f'--process_index={i}'] for i in range(count)]

  def run(self) -> int:
    """Runs the processes to their end and returns the exit code."""
    started = []
    ended: queue.Queue[End] = queue.Queue()
    try:
      for command in self.commands():
        started.append(self._start(command))
      self._running = started
      self._send_pending()
      threads = [
        threading.Thread(target=function, args=args, daemon=True)
        for index, process in enumerate(started)
        for function, *args in (
          (pass_on, index, process.stdout, sys.stdout.buffer),
          (pass_on, index, process.stderr, sys.stderr.buffer),
          (lambda i, p: ended.put(End(i, p.wait())), index, process),
        )
      ]
      for thread in threads:
        thread.start()
      ends = list(self._wait(ended))
    finally:
      self._running = []
      for process in started:
        end_group(process.pid)
    for thread in threads:
      thread.join(timeout=5)
    return exit_code(ends)

  def _start(self, command: Sequence[str]) -> subprocess.Popen:
    return subprocess.Popen(
      command,
      env=os.environ | added_environment(self._options.devices),
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      # Else a terminal's Ctrl-C came twice, and the second one kills.
      start_new_session=True,
    )

  def _wait(self, ended: queue.Queue[End]) -> Iterator[End]:
    """Yields how each process ended; a failure starts the others' end."""
    due: list[tuple[float, int]] = []
    for left in reversed(range(len(self._running))):
      end = self._next(ended, due)
      if end.code:
        say(f'{end}.')
        if left and not due:
          term = time.monotonic() + self._options.grace
          kill = term + min(SECONDS_TO_KILL, self._options.grace)
          due = [(term, signal.SIGTERM), (kill, signal.SIGKILL)]
      yield end

  def _next(self, ended: queue.Queue[End], due: list[tuple[float, int]]) -> End:
    """Returns the next end; sends the signals that fall due meanwhile."""
    while True:
      wait = max(0.0, due[0][0] - time.monotonic()) if due else None
      try:
        return ended.get(timeout=wait)
      except queue.Empty:
        number = due.pop(0)[1]
        say(f'the others are still there: {signal.Signals(number).name}.')
        self._pending.append(number)
        self._send_pending()


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Returns the options; `command` is what stands behind `--`."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  flag = parser.add_argument
  flag('--processes', type=int, required=True, help='how many to start')
  flag('--devices', type=int, default=0, help='CPU devices of each; 0: as is')
  flag('--restarts', type=int, default=0, help='on code 75, at most so often')
  flag('--grace', type=float, default=60, help='seconds until SIGTERM')
  flag('--dry-run', action='store_true', help='print commands, run nothing')
  split = argv.index('--') if '--' in argv else len(argv)
  options = parser.parse_args(argv[:split])
  options.command = argv[split + 1 :]
  if not options.command:
    parser.error('the command is missing: put it behind --')
  if options.processes < 1:
    parser.error('--processes must be at least 1')
  if min(options.devices, options.restarts, options.grace) < 0:
    parser.error('--devices, --restarts and --grace must not be negative')
  platforms = os.environ.get('JAX_PLATFORMS') or 'cpu'
  if options.devices and platforms != 'cpu':
    parser.error(f'--devices is for CPU, but JAX_PLATFORMS is {platforms}')
  return options


def main(argv: Sequence[str]) -> int:
  """Runs the launcher and returns its exit code."""
  options = parse(argv)
  launcher = Launcher(options)
  if options.dry_run:
    added = added_environment(options.devices).items()
    environment = ['env', *(f'{name}={value}' for name, value in added)]
    for index, command in enumerate(launcher.commands()):
      print(f'[{index}] {shlex.join(environment + command)}')
    return 0
  launcher.listen()
  for left in reversed(range(options.restarts + 1)):
    try:
      code = launcher.run()
    except (FileNotFoundError, PermissionError) as error:
      say(f'{options.command[0]} cannot be started: {error.strerror}.')
      return 2
    if code != AGAIN or launcher.asked_to_stop or not left:
      break
    say(f'running again; {left - 1} more times at most.')
  return code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
