# SPDX-License-Identifier: Apache-2.0
"""Files that are never half there, whenever a process or a machine ends."""

import json
import os
import pathlib
import socket
from typing import Any

from srdl_jax import errors
from srdl_jax.storage import bucket
from srdl_jax.storage.bucket import failures


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
  replace(path, text.encode())


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


def replace(path: str | os.PathLike[str], content: bytes) -> None:
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
  with failures(path):
    replace_here(path, content)


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


def replace_here(path: pathlib.Path, content: bytes) -> None:
  """Does what `replace` does with a file of this machine.

  Raises:
    OSError: it can't be written; an earlier one stays.
  """
  # Several processes, also of several machines, may write at once.
  writer = f'{socket.gethostname()}.{os.getpid()}'
  draft = path.with_name(f'.{path.name}.{writer}.tmp')
  try:
    with draft.open('wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)
  finally:
    draft.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
  """Waits until a file's content is on the disk.

  Raises:
    OSError: there is no room for it.
  """
  with path.open('rb') as file:
    os.fsync(file.fileno())
