# SPDX-License-Identifier: Apache-2.0
"""Files that grow, of a run in a bucket, where nothing can be appended to.

They are written in a folder of this machine, and uploaded whole: always before
a checkpoint vouches for what they record, and else now and then.
"""

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator

from srdl_jax.storage import bucket
from srdl_jax.storage.bucket import failures

SECONDS_BETWEEN_UPLOADS = 60.0


class Mirror:
  """Some files of a run directory, to be appended to in `folder`.

  Those of a run on this machine are in its own directory, and nothing is
  uploaded. A WorkdirError tells of a bucket that cannot be read or written.
  """

  def __init__(self, workdir: bucket.Path, file: str, folder: str):
    """Fetches what an earlier process has written of them.

    Args:
      workdir: exists.
      file: name of a file in it that is gone on with.
      folder: name of a folder in it whose files are only added to; whether it
        is there is all that is fetched.
    """
    self.folder = workdir
    self._workdir = workdir
    self._uploaded: dict[pathlib.Path, tuple[int, int]] = {}
    self._since = time.monotonic()
    self._own: tempfile.TemporaryDirectory | None = None
    if bucket.is_bucket(workdir):
      self._own = tempfile.TemporaryDirectory(prefix='srdl_jax_')
      self.folder = pathlib.Path(self._own.name)
      with failures(workdir, 'read'):
        if (workdir / file).exists():
          (self.folder / file).write_bytes((workdir / file).read_bytes())
        if (workdir / folder).exists():
          (self.folder / folder).mkdir()
      # What was fetched needn't go back.
      self._uploaded = dict(self._states())

  def upload(self, at_most_every: float = 0.0) -> None:
    """Uploads what has changed.

    Args:
      at_most_every: seconds since the last time before which nothing is done.
    """
    if self._own is None or time.monotonic() - self._since < at_most_every:
      return
    for file, state in self._states():
      if self._uploaded.get(file) != state:
        target = self._workdir / file.relative_to(self.folder)
        with failures(target):
          bucket.upload(file, target)
        self._uploaded[file] = state
    self._since = time.monotonic()

  def close(self) -> None:
    """Uploads a last time and gives the folder up; may be called twice."""
    own = self._own
    if own is not None:
      try:
        self.upload()
      finally:
        self._own = None
        own.cleanup()

  def _states(self) -> Iterator[tuple[pathlib.Path, tuple[int, int]]]:
    """Yields the files, and what changes with their content."""
    for file in sorted(self.folder.rglob('*')):
      if file.is_file():
        state = file.stat()
        yield file, (state.st_size, state.st_mtime_ns)


@contextlib.contextmanager
def scratch(folder: bucket.Path) -> Iterator[pathlib.Path]:
  """Yields a folder of this machine that is uploaded to `folder` at the end.

  A folder of this machine is yielded itself.

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
