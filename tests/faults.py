# SPDX-License-Identifier: Apache-2.0
"""A run whose disk fails, or which is killed, at an operation.

    python tests/faults.py WORKDIR OPERATION N WHAT

WHAT is KILL or the name of an error; it comes at the N-th OPERATION of Python's
within WORKDIR. What is left to TensorStore is not counted. At the end of the
process WORKDIR.counts says how many there were.
"""

import builtins
import collections
import errno
import io
import json
import os
import pathlib
import signal
import sys
import threading

import tiny

OPERATIONS = ('write', 'fsync', 'rename', 'mkdir')


class Disk:
  """Counts what is done in a directory, and fails at its time."""

  def __init__(self, directory: str, operation: str, number: int, what: str):
    self._directory, self._fault = directory, (operation, number)
    self._what = what
    self._lock = threading.Lock()
    self.counts = collections.Counter()

  def fails(self, operation: str, path) -> bool:
    """Counts an operation; whether it is the one to fail."""
    if isinstance(path, int):
      path = os.readlink(f'/proc/self/fd/{path}')
    if not os.path.abspath(path).startswith(self._directory):
      return False
    with self._lock:
      self.counts[operation] += 1
      return (operation, self.counts[operation]) == self._fault

  def fail(self):
    if self._what == 'KILL':
      os.kill(os.getpid(), signal.SIGKILL)
    number = getattr(errno, self._what)
    raise OSError(number, os.strerror(number))

  def patch(self) -> None:
    """Has Python's operations counted."""
    for name, operation in {
      'fsync': 'fsync',
      'rename': 'rename',
      'replace': 'rename',
      'mkdir': 'mkdir',
    }.items():
      setattr(os, name, self._counted(getattr(os, name), operation))
    real = io.open

    def opened(file, mode='r', *rest, **more):
      stream = real(file, mode, *rest, **more)
      plain = isinstance(file, int) or not set(mode) & set('wax+')
      return stream if plain else Stream(stream, os.fspath(file), self)

    io.open = builtins.open = opened

  def _counted(self, original, operation):
    def counted(path, *rest, **more):
      if self.fails(operation, path):
        self.fail()
      return original(path, *rest, **more)

    return counted


class Stream:
  """A file that is written, in part where the writing fails."""

  def __init__(self, stream, path, disk: Disk):
    self._stream, self._path, self._disk = stream, path, disk

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._stream.close()

  def __iter__(self):
    return iter(self._stream)

  def write(self, content):
    if not self._disk.fails('write', self._path):
      return self._stream.write(content)
    self._stream.write(content[: len(content) // 2])
    self._stream.flush()
    return self._disk.fail()


if __name__ == '__main__':
  workdir, *fault, what = sys.argv[1:]
  disk = Disk(workdir, fault[0], int(fault[1]), what)
  disk.patch()
  try:
    tiny.main(workdir, 'none', 'checkpoint.every_steps=4')
  finally:
    pathlib.Path(f'{workdir}.counts').write_text(json.dumps(disk.counts))
