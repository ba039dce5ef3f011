# SPDX-License-Identifier: Apache-2.0
"""Files that are never half there, whenever a process or machine ends."""

import os
import pathlib
import socket


def replace(path: pathlib.Path, content: bytes) -> None:
  """Writes a file in one step, onto the disk.

  Raises:
    OSError: it can't be written; an earlier one stays.
  """
  # Several processes, also of several machines, may write at once.
  writer = f'{socket.gethostname()}.{os.getpid()}'
  draft = path.with_name(f'.{path.name}.{writer}.tmp')
  try:
    draft.write_bytes(content)
    sync(draft)
    os.replace(draft, path)
  finally:
    draft.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
  """Waits until a file's content is on the disk.

  Raises:
    OSError: there is no room for it.
  """
  with path.open('rb') as file:
    os.fsync(file.fileno())
