# SPDX-License-Identifier: Apache-2.0
"""A run directory: its lock, and JSON files that are never half there."""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import pathlib
import socket
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from srdl_jax import bucket, errors

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
    wait: whether to wait until another process lets go of it.
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
      # A child forked meanwhile shares the hold, so closing would not end it.
      os.ftruncate(descriptor, 0)
      fcntl.flock(descriptor, fcntl.LOCK_UN)
  finally:
    os.close(descriptor)


def is_held(workdir: str | os.PathLike[str]) -> bool:
  """Whether a process holds the lock of a directory, which may be missing.

  What is in a bucket is never held.
  """
  if bucket.is_bucket(workdir):
    return False
  path = pathlib.Path(workdir) / _LOCK
  try:
    with open(path, 'rb') as file:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return False
  except BlockingIOError:
    return True
  except OSError:
    return False


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
  """Replaces `path` by `obj` as JSON: a reader sees the old or the new.

  Args:
    path: the file; its folder exists.
    obj: what json.dump takes, without NaN and infinities, which are not JSON.

  Raises:
    WorkdirError: the file cannot be written; the old one stays.
    TypeError: `obj` is not made of JSON's types; the old file stays.
    ValueError: `obj` holds a NaN or an infinity; the old file stays.
  """
  text = json.dumps(obj, indent=2, allow_nan=False) + '\n'
  replace_file(path, text.encode())


def read_json(path: str | os.PathLike[str]) -> Any:
  """Reads what `write_json` wrote.

  Args:
    path: the file.

  Returns:
    The object.

  Raises:
    WorkdirError: the file is missing, unreadable or not JSON.
  """
  with failures(path, 'read'):
    content = bucket.path_of(path).read_bytes()
  try:
    return json.loads(content)
  except ValueError as error:
    raise errors.WorkdirError(
      f'{path} is damaged (not JSON: {error}): remove it or restore it'
    ) from error


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
  """Replaces a file by `content` in one step, and waits for the disk.

  Args:
    path: the file; its folder exists.
    content: the bytes that it holds afterwards.

  Raises:
    WorkdirError: the file cannot be written; the old one stays.
  """
  path = bucket.absolute(path)
  if bucket.is_bucket(path):
    with failures(path):
      path.write_bytes(content)
    return
  # The process id keeps two writers of one name out of each other's file.
  draft = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  with failures(path):
    try:
      with open(draft, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
      os.replace(draft, path)
      sync_folder(path.parent)
    finally:
      draft.unlink(missing_ok=True)


@contextlib.contextmanager
def failures(
  path: str | os.PathLike[str], verb: str = 'written'
) -> Iterator[None]:
  """Turns a failure of the storage inside into one readable line.

  Args:
    path: what the line names.
    verb: what cannot be done to it.

  Raises:
    WorkdirError: in place of what the storage raises.
  """
  try:
    yield
  except errors.SrdlError:
    raise
  except bucket.errors_of(path) as error:
    raise errors.WorkdirError(
      f'{path} cannot be {verb}: {bucket.reason_of(error)}'
    ) from error


@contextlib.contextmanager
def scratch(folder: bucket.Path) -> Iterator[pathlib.Path]:
  """Yields a folder of this machine that is uploaded at the end.

  Args:
    folder: where its files go; if it is of this machine, that is yielded.

  Raises:
    WorkdirError: they cannot be uploaded.
  """
  if not bucket.is_bucket(folder):
    yield folder
    return
  with tempfile.TemporaryDirectory(prefix='srdl_jax_') as local:
    yield pathlib.Path(local)
    with failures(folder):
      bucket.upload(pathlib.Path(local), folder)


def exists(path: bucket.Path) -> bool:
  """Whether something is there.

  Raises:
    WorkdirError: the storage cannot be asked.
  """
  with failures(path, 'read'):
    return path.exists()


def sync_folder(folder: str | os.PathLike[str]) -> None:
  """Waits until the names in `folder` are on the disk.

  Args:
    folder: an existing folder.

  Raises:
    OSError: the folder cannot be opened or synchronised.
  """
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _take_within(descriptor: int, seconds: float) -> None:
  """Takes the lock as soon as it is free, or raises BlockingIOError."""
  deadline = time.monotonic() + seconds
  while True:
    try:
      return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if time.monotonic() >= deadline:
        raise
      time.sleep(0.02)


def _open_lock(workdir: pathlib.Path) -> int:
  """Creates the run directory and opens its lock file."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    return os.open(workdir / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
  except FileExistsError as error:
    raise errors.WorkdirError(
      f'workdir {workdir} is a file: give a directory'
    ) from error
  except OSError as error:
    raise errors.WorkdirError(
      f'workdir {workdir} cannot be written: {error.strerror}'
    ) from error


def _take(
  descriptor: int, workdir: pathlib.Path, patience: float | None
) -> None:
  """Locks the open file and writes into it who holds it."""
  try:
    if patience is None:
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    else:
      _take_within(descriptor, patience)
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    holder = f'pid {os.getpid()} on {socket.gethostname()} since {since}\n'
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, holder.encode(), 0)
  except BlockingIOError as error:
    holder = os.pread(descriptor, 1000, 0).decode(errors='replace').strip()
    raise errors.WorkdirError(
      f'workdir {workdir} is in use by {holder or "another process"}: wait '
      'for it, or give another workdir'
    ) from error
  except OSError as error:
    raise errors.WorkdirError(
      f'workdir {workdir} cannot be locked: {error.strerror}'
    ) from error
