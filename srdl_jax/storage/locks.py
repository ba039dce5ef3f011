# SPDX-License-Identifier: Apache-2.0
"""Folders that one process at a time works in; the kernel ends a dead one's."""

import contextlib
import datetime
import fcntl
import logging
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from srdl_jax import errors
from srdl_jax.storage import bucket, files

_LOCK = '.lock'
# `is_held` takes the lock for an instant.
_PATIENCE = 0.2
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(
  workdir: str | os.PathLike[str],
  *,
  wait: bool = False,
  patience: float = _PATIENCE,
) -> Iterator[bucket.Path]:
  """Holds `workdir` for this process alone; the kernel ends the hold.

  The file `.lock` stays behind: removing it would let two processes lock two
  files of the same name. A bucket has no locks: there nothing is held, and a
  line says so.

  Args:
    workdir: the run directory; created, with its parents, where missing.
    wait: without an end, until another process lets go of it.
    patience: seconds until another process's hold is an error; a network file
      system may end a hold only some time after its machine has died.

  Yields:
    `workdir` as a path.

  Raises:
    WorkdirError: another process holds it (its text names the holder), or it
      cannot be created, written or locked (its text gives the reason).
  """
  if bucket.is_bucket(workdir):
    _log.warning(
      '%s: a bucket has no locks: see that no other run writes there', workdir
    )
    yield bucket.path_of(workdir)
    return
  workdir = pathlib.Path(workdir)
  descriptor = _open_lock(workdir)
  try:
    _take(descriptor, workdir, None if wait else patience)
    try:
      yield workdir
    finally:
      # Of a disk that became read-only meanwhile, the work inside has told.
      with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
      # A child forked meanwhile shares the hold, so closing would not end it.
      with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
  finally:
    with contextlib.suppress(OSError):
      os.close(descriptor)


def is_held(workdir: str | os.PathLike[str]) -> bool:
  """Whether a process holds the lock of a directory, which may be missing.

  What is in a bucket is never held.
  """
  if bucket.is_bucket(workdir):
    return False
  path = pathlib.Path(workdir) / _LOCK
  try:
    with open(path, 'rb', opener=_no_link) as file:
      # Shared: of two that ask, neither is a holder to the other.
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return False
  except BlockingIOError:
    return True
  except OSError:
    # There is no file, or there are no locks: nothing to wait for.
    return False


def _no_link(path: str, flags: int) -> int:
  # By a link, who shares the folder could have any file be written.
  return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _take_within(descriptor: int, seconds: float) -> None:
  deadline = time.monotonic() + seconds
  while True:
    try:
      return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if time.monotonic() >= deadline:
        raise
      time.sleep(0.02)


def _open_lock(workdir: pathlib.Path) -> int:
  with bucket.failures(f'workdir {workdir}'):
    try:
      files.make_folder(workdir)
    except FileExistsError as error:
      raise errors.WorkdirError(
        f'workdir {workdir} is a file: give a directory'
      ) from error
    # Not emptied yet: who is refused reads in it who holds the lock.
    return _no_link(workdir / _LOCK, os.O_RDWR | os.O_CREAT)


def _take(
  descriptor: int, workdir: pathlib.Path, patience: float | None
) -> None:
  """Locks the open file and writes into it who holds it."""
  with bucket.failures(f'workdir {workdir}', 'locked'):
    try:
      if patience is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
      else:
        _take_within(descriptor, patience)
    except BlockingIOError as error:
      holder = os.pread(descriptor, 1000, 0).decode(errors='replace').strip()
      raise errors.WorkdirError(
        f'workdir {workdir} is in use by {holder or "another process"}: wait '
        'for it, or give another workdir'
      ) from error
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    holder = f'pid {os.getpid()} on {socket.gethostname()} since {since}\n'
    # A killed holder's line is still there, and may be longer.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, holder.encode(), 0)


@contextlib.contextmanager
def taking_turns(folder: pathlib.Path) -> Iterator[bool]:
  """Waits for one's turn in a folder; yields False where locks don't exist.

  Raises:
    OSError: nothing can be written in the folder.
  """
  with open(folder / '.srdl_jax.lock', 'w', opener=_no_link) as file:
    alone = True
    try:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        _log.info('waiting for another process that works in %s', folder)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
      alone = False
    yield alone
