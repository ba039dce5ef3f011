# SPDX-License-Identifier: Apache-2.0
"""Brings data here: a file over HTTP, a prepared data set out of a bucket.

A file is checked, gone on with where it was interrupted, and given up soon. A
data set is copied once to each machine that reads it: ArrayRecord's reader
opens files of this machine only, and a local disk is faster than a bucket when
rows are read in random order.
"""

import contextlib
import hashlib
import http.client
import os
import pathlib
import queue
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent import futures

from srdl_jax import storage
from srdl_jax.errors import DataError
from srdl_jax.storage import Told, bucket, files, locks

_BLOCK = 1 << 18
_RANGE_NOT_SATISFIABLE = 416
# A single connection doesn't use what a machine's network has.
_AT_ONCE = 8


def fetch(
  url: str,
  destination: str | os.PathLike[str],
  *,
  sha256: str,
  timeout: float = 10.0,
) -> pathlib.Path:
  """Downloads a file unless it is there already.

  What has arrived is kept beside the destination as `<name>.part` and is
  resumed by the next call. Only one process at a time may fetch to the same
  destination; the caller sees to that.

  Args:
    destination: its folder exists.
    sha256: 64 hexadecimal digits.
    timeout: seconds until the answer has begun, and seconds without a byte.

  Returns:
    The destination, a complete file with the right digest.

  Raises:
    DataError: the network or server failed, or the digest is another.
  """
  destination = pathlib.Path(destination)
  if destination.exists():
    verify(destination, sha256)
    return destination
  part = destination.with_name(f'{destination.name}.part')
  with _failures(url, timeout):
    _receive(url, part, timeout, destination.name)
  try:
    verify(part, sha256)
  except DataError:
    # Otherwise the next call would resume what can never become right.
    part.unlink()
    raise
  part.replace(destination)
  return destination


def check(url: str, *, timeout: float = 10.0) -> None:
  """Checks that a server answers for a URL; fetches and writes nothing.

  Args:
    timeout: seconds until the answer has begun.

  Raises:
    DataError: the network or server failed.
  """
  with _failures(url, timeout):
    _open(url, 0, timeout).close()


def verify(path: pathlib.Path, sha256: str) -> None:
  """Checks a file's digest, 64 hexadecimal digits.

  Raises:
    DataError: it has another, or can't be read.
  """
  try:
    with path.open('rb') as file:
      got = hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise DataError(f'cannot read {path}: {error.strerror}') from error
  if got != sha256:
    raise DataError(
      f'{path} is damaged or another file: expected sha256 {sha256}, '
      f'got {got}; replace it'
    )


@contextlib.contextmanager
def _failures(url: str, timeout: float) -> Iterator[None]:
  try:
    yield
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise DataError(
      f'could not download {url}: {_reason(error, timeout)}'
    ) from error


def _reason(error: Exception, timeout: float) -> str:
  if isinstance(error, urllib.error.HTTPError):
    return f'HTTP status {error.code} ({error.reason})'
  cause = getattr(error, 'reason', error)
  if isinstance(cause, TimeoutError):
    return f'no answer or no data for {timeout:g} s'
  return str(cause) or type(cause).__name__


def _receive(url: str, part: pathlib.Path, timeout: float, name: str) -> None:
  """Appends to `part` until the server has sent everything."""
  have = part.stat().st_size if part.exists() else 0
  try:
    response = _open(url, have, timeout)
  except urllib.error.HTTPError as error:
    error.close()
    if not have or error.code != _RANGE_NOT_SATISFIABLE:
      raise
    # What is kept is as long as the file, or longer: it can't be gone on with.
    have = 0
    response = _open(url, have, timeout)
  with response:
    # Some servers ignore what range is asked for, and send all.
    if not _continues_at(response, have):
      have = 0
    length = response.headers.get('Content-Length')
    total = None if length is None else have + int(length)
    told = Told(name, size=total, done=have)
    with part.open('ab' if have else 'wb') as file:
      # read1 hands over what has arrived; read would lose it to a timeout.
      while have != total and (block := response.read1(_BLOCK)):
        file.write(block)
        have += len(block)
        told.add(size=len(block))
  if total is not None and have != total:
    raise ConnectionError(f'the connection ended after {have} of {total} bytes')
  told.close()


def _continues_at(response: http.client.HTTPResponse, have: int) -> bool:
  """Whether the answer's first byte is number `have` of the file."""
  sent = response.headers.get('Content-Range', '')
  return response.status == 206 and sent.startswith(f'bytes {have}-')


def _open(url: str, have: int, timeout: float) -> http.client.HTTPResponse:
  """Opens the URL from byte `have`, within `timeout` seconds.

  A socket's timeout covers neither the look-up of the host's name nor several
  addresses tried in turn, so a thread does the opening and may be left behind.
  """
  headers = {'Range': f'bytes={have}-'} if have else {}
  request = urllib.request.Request(url, headers=headers)
  outcome: queue.Queue[http.client.HTTPResponse | Exception] = queue.Queue()
  abandoned = threading.Event()

  def work() -> None:
    try:
      response = urllib.request.urlopen(request, timeout=timeout)
    except Exception as error:
      outcome.put(error)
      return
    outcome.put(response)
    if abandoned.is_set():
      response.close()

  threading.Thread(target=work, daemon=True).start()
  try:
    result = outcome.get(timeout=timeout)
  except queue.Empty:
    abandoned.set()
    raise TimeoutError from None
  if isinstance(result, Exception):
    raise result
  return result


def copy_from_bucket(data_dir: str, dataset: str, version: str) -> pathlib.Path:
  """Copies one version of a data set, as far as it isn't here already.

  It goes to $XDG_CACHE_HOME/srdl_jax/data/BUCKET/PATH/DATASET/VERSION. Each
  file is there whole or not at all, and one of the right size isn't fetched
  again. Of several processes of a machine one copies, and the others wait.

  Args:
    data_dir: TFDS directory in a bucket, gs://...
    dataset: its name in TFDS.
    version: such as '1.0.0'.

  Returns:
    The local directory.

  Raises:
    DataError: it isn't in the bucket, or can't be read there or written here.
    ConfigError: what reaches buckets isn't installed.
  """
  if not bucket.FOLDER.fullmatch(data_dir):
    raise DataError(f'data_dir {data_dir}: give gs://BUCKET/FOLDER')
  source = storage.path_of(data_dir) / dataset / version
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  place = storage.expanded(cache, 'XDG_CACHE_HOME') / 'srdl_jax' / 'data'
  local = place / str(source).partition('://')[2]
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
    with locks.taking_turns(local.parent) as alone:
      if alone:
        # Of processes that were ended.
        for draft in local.rglob(f'.*{files.DRAFT}'):
          draft.unlink()
      _complete(str(source), local, sizes)
  except Exception as error:
    raise DataError(
      f'cannot copy {source} to {local}: {bucket.reason_of(error)}; '
      'XDG_CACHE_HOME names another place, and what has arrived is kept'
    ) from error
  return local


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
  if not missing:
    return
  total = sum(missing.values())
  if total > shutil.disk_usage(local).free:
    raise OSError(f'no room for {total / 1e9:.1f} GB')
  told = Told(source, 'files', len(missing), size=total)
  told.say(f'copying {len(missing):,} files, {total / 1e9:.2f} GB')
  pool = futures.ThreadPoolExecutor(_AT_ONCE)
  try:
    copies = [
      pool.submit(_copy, f'{source}/{name}', local / name, size, told)
      for name, size in missing.items()
    ]
    for copy in futures.as_completed(copies):
      copy.result()
  finally:
    # Else a failure would be told after all other copies alone.
    pool.shutdown(cancel_futures=True)
  told.close()


def _copy(source: str, path: pathlib.Path, size: int, told: Told) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  # Where locks don't exist, others may copy too.
  with files.new_file(path) as draft:
    _system().get_file(source, str(draft))
    if _size(draft) != size:
      raise OSError(f'{path.name} arrived with {_size(draft)} of {size} bytes')
  told.add(size=size)


def _size(path: pathlib.Path) -> int | None:
  return path.stat().st_size if path.is_file() else None
