# SPDX-License-Identifier: Apache-2.0
"""Fetches one file over HTTP, checked and resumable, and gives up soon."""

import hashlib
import http.client
import os
import pathlib
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

from srdl_jax.errors import DataError

_BLOCK = 1 << 18
_RANGE_NOT_SATISFIABLE = 416

Progress = Callable[[int, int | None], None]


def fetch(
  url: str,
  destination: str | os.PathLike[str],
  *,
  sha256: str,
  timeout: float = 10.0,
  progress: Progress | None = None,
) -> pathlib.Path:
  """Downloads a file unless it is there already.

  What has arrived is kept beside the destination as `<name>.part` and is
  resumed by the next call. Only one process at a time may fetch to the same
  destination; the caller sees to that.

  Args:
    url: where the file is.
    destination: path it gets; its folder exists.
    sha256: the file's digest, 64 hexadecimal digits.
    timeout: seconds until the answer has begun, and seconds without a byte.
    progress: called with the bytes so far and their total, None if unknown.

  Returns:
    The destination, a complete file with the right digest.

  Raises:
    DataError: the network or server failed, or the digest is another.
  """
  destination = pathlib.Path(destination)
  if destination.exists():
    verify(destination, sha256)
    return destination
  part = destination.with_name(destination.name + '.part')
  try:
    _receive(url, part, timeout, progress or _silent)
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise DataError(
      f'could not download {url}: {_reason(error, timeout)}'
    ) from error
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
    url: where a file is.
    timeout: seconds until the answer has begun.

  Raises:
    DataError: the network or server failed.
  """
  try:
    _open(url, 0, timeout).close()
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise DataError(
      f'could not download {url}: {_reason(error, timeout)}'
    ) from error


def verify(path: pathlib.Path, sha256: str) -> None:
  """Checks a file's digest.

  Args:
    path: the file.
    sha256: the digest it must have, 64 hexadecimal digits.

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


def _silent(received: int, total: int | None) -> None:
  del received, total


def _reason(error: Exception, timeout: float) -> str:
  if isinstance(error, urllib.error.HTTPError):
    return f'HTTP status {error.code} ({error.reason})'
  cause = getattr(error, 'reason', error)
  if isinstance(cause, TimeoutError):
    return f'no answer or no data for {timeout:g} s'
  return str(cause) or type(cause).__name__


def _receive(
  url: str, part: pathlib.Path, timeout: float, progress: Progress
) -> None:
  """Appends to `part` until the server has sent everything."""
  have = part.stat().st_size if part.exists() else 0
  try:
    response = _open(url, have, timeout)
  except urllib.error.HTTPError as error:
    error.close()
    if not have or error.code != _RANGE_NOT_SATISFIABLE:
      raise
    have = 0
    response = _open(url, have, timeout)
  with response:
    if not _continues_at(response, have):
      have = 0
    length = response.headers.get('Content-Length')
    total = None if length is None else have + int(length)
    with part.open('ab' if have else 'wb') as file:
      # read1 hands over what has arrived; read would lose it to a timeout.
      while have != total and (block := response.read1(_BLOCK)):
        file.write(block)
        have += len(block)
        progress(have, total)
  if total is not None and have != total:
    raise ConnectionError(f'the connection ended after {have} of {total} bytes')


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
