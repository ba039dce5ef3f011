# SPDX-License-Identifier: Apache-2.0
"""A prepared data set of a bucket, copied once to each machine that reads it.

ArrayRecord's reader opens files of this machine only, and a local disk is
faster than a bucket when rows are read in random order.
"""

import os
import pathlib
import shutil
import socket
import sys
import threading
import time
from concurrent import futures

from srdl_jax import bucket
from srdl_jax.data import folder_lock
from srdl_jax.errors import DataError

# A single connection doesn't use what a machine's network has.
_AT_ONCE = 8
_DRAFT = '.part'
_SECONDS_BETWEEN_LINES = 5.0


def fetch(data_dir: str, dataset: str, version: str) -> pathlib.Path:
  """Copies one version of a data set, as far as it isn't here already.

  It goes to $XDG_CACHE_HOME/srdl_jax/data/BUCKET/PATH/DATASET/VERSION. Each
  file is there whole or not at all, and one of the right size isn't fetched
  again. Of several processes of a machine one copies, and the others wait.

  Args:
    data_dir: TFDS directory in a bucket, gs://...
    dataset: name of the data set in TFDS.
    version: its version, such as '1.0.0'.

  Returns:
    The local directory.

  Raises:
    DataError: it isn't in the bucket, or can't be read there or written here.
    ConfigError: what reaches buckets isn't installed.
  """
  if not bucket.FOLDER.fullmatch(data_dir):
    raise DataError(f'data_dir {data_dir}: give gs://BUCKET/FOLDER')
  source = bucket.path_of(data_dir) / dataset / version
  local = _place(str(source))
  try:
    sizes = _sizes(str(source))
  except Exception as error:
    raise DataError(
      f'cannot read {source}: {bucket.reason_of(error)}'
    ) from error
  if not sizes:
    raise DataError(
      f'{dataset}/{version} is not in {data_dir}: prepare it in a directory of '
      'a machine, and copy that there'
    )
  try:
    local.mkdir(parents=True, exist_ok=True)
    with folder_lock.locked(local.parent) as alone:
      if alone:
        # Of processes that were ended.
        for draft in local.rglob(f'.*{_DRAFT}'):
          draft.unlink()
      _complete(str(source), local, sizes)
  except Exception as error:
    raise DataError(
      f'cannot copy {source} to {local}: {bucket.reason_of(error)}; '
      'XDG_CACHE_HOME names another place, and what has arrived is kept'
    ) from error
  return local


def _place(source: str) -> pathlib.Path:
  cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  return cache.expanduser() / 'srdl_jax' / 'data' / source.partition('://')[2]


def _system():
  import fsspec

  return fsspec.filesystem('gs')


def _sizes(source: str) -> dict[str, int]:
  """Returns the bytes of every file below, by its name there."""
  found = _system().find(source, detail=True)
  root = source.partition('://')[2] + '/'
  return {
    name.removeprefix(root): about['size']
    for name, about in found.items()
    if name.startswith(root) and not name.endswith('/')
  }


def _complete(source: str, local: pathlib.Path, sizes: dict[str, int]) -> None:
  """Fetches what is missing or of another size.

  Raises:
    Exception: the first failure, of the bucket or the disk.
  """
  missing = {
    name: size for name, size in sizes.items() if _size(local / name) != size
  }
  total = sum(missing.values())
  if total > shutil.disk_usage(local).free:
    raise OSError(f'no room for {total / 1e9:.1f} GB')
  told = _Told(source, len(missing), total)
  pool = futures.ThreadPoolExecutor(_AT_ONCE)
  try:
    copies = [
      pool.submit(_copy, f'{source}/{name}', local / name, size, told)
      for name, size in missing.items()
    ]
    for copy in futures.as_completed(copies):
      copy.result()
  finally:
    pool.shutdown(cancel_futures=True)


def _copy(source: str, path: pathlib.Path, size: int, told: '_Told') -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  # Where locks don't exist, others may copy too.
  copier = f'{socket.gethostname()}.{os.getpid()}'
  draft = path.with_name(f'.{path.name}.{copier}{_DRAFT}')
  try:
    _system().get_file(source, str(draft))
    if _size(draft) != size:
      raise OSError(f'{path.name} arrived with {_size(draft)} of {size} bytes')
    os.replace(draft, path)
  finally:
    draft.unlink(missing_ok=True)
  told.add(size)


def _size(path: pathlib.Path) -> int | None:
  return path.stat().st_size if path.is_file() else None


class _Told:
  """Says how far the copying is, every few seconds and at its end."""

  def __init__(self, source: str, files: int, total: int):
    self._source, self._files, self._total = source, files, total
    self._done = self._bytes = 0
    self._begun = self._last = time.monotonic()
    self._lock = threading.Lock()
    if files:
      self._say(f'copying {files:,} files, {total / 1e9:.2f} GB')

  def add(self, size: int) -> None:
    """Counts a file."""
    with self._lock:
      self._done += 1
      self._bytes += size
      now = time.monotonic()
      last = self._done == self._files
      if last or now - self._last >= _SECONDS_BETWEEN_LINES:
        self._last = now
        rate = self._bytes / max(now - self._begun, 1e-9)
        self._say(
          f'{self._done:,} of {self._files:,} files, {self._bytes / 1e9:.2f} '
          f'of {self._total / 1e9:.2f} GB, {rate / 1e6:.0f} MB/s'
        )

  def _say(self, text: str) -> None:
    print(f'{self._source}: {text}', file=sys.stderr, flush=True)
