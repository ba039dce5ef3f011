# SPDX-License-Identifier: Apache-2.0
"""One process at a time works in a folder; the others wait."""

import contextlib
import fcntl
import logging
import pathlib
from collections.abc import Iterator

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[bool]:
  """Waits for a folder's lock; yields False where locks don't exist.

  Raises:
    OSError: nothing can be written in the folder.
  """
  with (folder / '.srdl_jax.lock').open('w') as file:
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
