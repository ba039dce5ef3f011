# SPDX-License-Identifier: Apache-2.0
"""Processes that tests start; conftest.py ends them with their test."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from multiprocessing import connection

import forked

ROOT = pathlib.Path(__file__).parent.parent
PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
# Of waiting, on a machine that has much else to do.
SECONDS = 600
# Inherited by what a program starts in its turn, also in another group.
_MARK = 'SRDL_STARTED', uuid.uuid4().hex
_running: list[subprocess.Popen] = []
_server: list = []
# Programs that the server was asked for since the last end.
_asked: list = []


def start(command, *, env=None, **options) -> subprocess.Popen:
  """Starts a program in a group of its own, as subprocess.Popen does."""
  env = {**(os.environ if env is None else env), _MARK[0]: _MARK[1]}
  options.setdefault('start_new_session', True)
  _running.append(subprocess.Popen(command, env=env, **options))
  return _running[-1]


def run(
  command, *, input=None, check=False, timeout=SECONDS, **options
) -> subprocess.CompletedProcess:
  """Runs a program to its end; returns its code and what it said, as text."""
  if input is not None:
    options['stdin'] = PIPE
  process = start(command, stdout=PIPE, stderr=PIPE, text=True, **options)
  out, err = process.communicate(input, timeout=timeout)
  return _done(command, process.returncode, out, err, check)


def _done(command, code, out, err, check):
  assert not (check and code), (command, code, out, err)
  return subprocess.CompletedProcess(command, code, out, err)


def python(
  *arguments, env=None, cwd=ROOT, check=False
) -> subprocess.CompletedProcess:
  """As `run` of Python, but in a process in which jax is imported already.

  Args:
    arguments: `-m`, `-c` or a file, and the program's arguments.
    env: Its environment. What Python and jax read of it when they start must
      be this process's.
    cwd: Its directory.
    check: Whether an exit code other than 0 is an error.
  """
  arguments = [*map(str, arguments)]
  env = dict(os.environ if env is None else env)
  differs = {
    name
    for name, _ in {*env.items()} ^ {*os.environ.items()}
    if name.startswith(('JAX_', 'PYTHON'))
  }
  assert differs <= {'PYTHONPATH'}, differs
  if not _server:
    _server.extend(_start_server())
  _, asked = _server
  _asked.append(arguments)
  with tempfile.TemporaryDirectory() as folder:
    out, err = pathlib.Path(folder, 'out'), pathlib.Path(folder, 'err')
    out.touch()
    err.touch()
    asked.send(
      {
        'arguments': arguments,
        'env': {**env, _MARK[0]: _MARK[1]},
        'cwd': str(cwd),
        'out': str(out),
        'err': str(err),
      }
    )
    pid = asked.recv()
    in_time = asked.poll(SECONDS)
    if not in_time:
      os.killpg(pid, signal.SIGKILL)
    code = asked.recv()
    said = out.read_text(), err.read_text()
  assert in_time, (arguments, *said)
  return _done(arguments, code, *said, check)


def _start_server():
  ours, theirs = socket.socketpair()
  with theirs:
    process = subprocess.Popen(
      [sys.executable, forked.__file__, str(theirs.fileno())],
      cwd=ROOT,
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      pass_fds=[theirs.fileno()],
      start_new_session=True,
    )
  return process, connection.Connection(ours.detach())


def wait_until(condition, what='') -> None:
  """Waits until a condition holds, and fails if it never does."""
  deadline = time.monotonic() + SECONDS
  while not condition():
    assert time.monotonic() < deadline, what
    time.sleep(0.02)


def wait_for(*paths: pathlib.Path) -> None:
  """Waits until each file is there and holds something."""
  wait_until(
    lambda: all(path.exists() and path.read_text() for path in paths), paths
  )


def end() -> None:
  """Kills what is left of what was started, and closes its pipes."""
  if not (_running or _asked):
    return
  _asked.clear()
  for process in _running:
    if process.poll() is None:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.kill()
  for pid in _marked():
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
  for process in _running:
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
      if pipe:
        with contextlib.suppress(BrokenPipeError):
          pipe.close()
  _running.clear()


def _marked() -> list[int]:
  mark = '='.join(_MARK).encode()
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
    with contextlib.suppress(OSError):
      if mark in path.read_bytes().split(b'\0'):
        found.append(int(path.parent.name))
  return found


def end_server() -> None:
  """Ends what `python` forks."""
  if _server:
    process, asked = _server
    asked.close()
    process.wait()
    _server.clear()
