# SPDX-License-Identifier: Apache-2.0
"""Google Storage: what of a run can lie at gs://BUCKET/PATH, and how.

An object is replaced whole, and seen by all as soon as it is; nothing can be
renamed, appended to or locked, and folders are but the beginnings of names.
"""

import contextlib
import functools
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from etils import epath

from srdl_jax import errors
from srdl_jax.errors import ConfigError

# Without empty names and steps up, as an object's name is taken literally, and
# without what epath would take for a pattern.
FOLDER = re.compile(r'gs://[^/]+(/(?!\.{1,2}(/|$))[^/*?[\]]+)+/?')
_SCHEME = 'gs://'
# python/cpython#111049: the garbage collector lets go of what gcsfs sends from.
_CRASHING = ((3, 12, 0), (3, 12, 1))
Path = pathlib.Path | epath.Path  # Of a disk, or in a bucket.


def is_bucket(path: str | os.PathLike[str]) -> bool:
  """Whether a path is in a bucket; asks nobody."""
  return os.fspath(path).startswith(_SCHEME)


def path_of(path: str | os.PathLike[str]) -> Path:
  """Returns a path of this machine or, for gs://, of a bucket.

  Raises:
    ConfigError: what reaches buckets isn't installed, or would crash.
  """
  if not is_bucket(path):
    return pathlib.Path(path)
  _prepare()
  return epath.Path(path)


def absolute(path: str | os.PathLike[str]) -> Path:
  """Returns `path_of(path)`, made absolute where it is of this machine."""
  # An epath.Path would be put below the working directory.
  return path_of(path) if is_bucket(path) else pathlib.Path(path).absolute()


def errors_of(path: str | os.PathLike[str]) -> tuple[type[Exception], ...]:
  """Returns what the storage of a path raises where something is wrong.

  In a bucket that is anything: those of gcsfs, of google-auth, of the HTTP
  clients below, and OSError.
  """
  return (Exception,) if is_bucket(path) else (OSError,)


def reason_of(error: Exception) -> str:
  """Returns a storage's error in words, on one line."""
  # gcsfs hands over nothing but the address of what is missing.
  if isinstance(error, FileNotFoundError) and error.strerror is None:
    return 'there is no such object or bucket'
  text = getattr(error, 'strerror', None) or ' '.join(str(error).split())
  return text[:300] or type(error).__name__


def kvstore(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns TensorStore's specification of a folder, absolute or a bucket's."""
  text = f'{os.fspath(folder)}/'
  if not is_bucket(folder):
    return {'driver': 'file', 'path': text}
  name, _, path = text.removeprefix(_SCHEME).partition('/')
  return {'driver': 'gcs', 'bucket': name, 'path': path}


def upload(source: pathlib.Path, target: epath.Path) -> None:
  """Copies a file of this machine, or all files of a folder, to a bucket.

  Raises:
    Exception: see `errors_of`.
  """
  files = [source]
  if source.is_dir():
    files = [file for file in sorted(source.rglob('*')) if file.is_file()]
  for file in files:
    path = target / file.relative_to(source) if file != source else target
    with file.open('rb') as content, path.open('wb') as sink:
      shutil.copyfileobj(content, sink, 1 << 23)


def finished(folder: Path, mark: str) -> list[str]:
  """Returns the names of a folder's folders in which all is there.

  Args:
    folder: on disk, what is in it has its name only when all is there.
    mark: a file that is added last, as nothing in a bucket can be renamed.
  """
  if is_bucket(folder):
    return [path.parent.name for path in folder.glob(f'*/{mark}')]
  return [path.name for path in folder.iterdir()]


@functools.cache
def _prepare() -> None:
  """Makes ready what epath reaches buckets with."""
  if importlib.util.find_spec('gcsfs') is None:
    raise ConfigError(
      "A path at gs:// needs gcsfs, which isn't installed: pip install -e "
      "'.[gcs]'"
    )
  if sys.version_info[:3] in _CRASHING:
    raise ConfigError(
      f'Python {platform.python_version()} may crash at any moment in which '
      'a path at gs:// is used: take another than 3.12.0 and 3.12.1.'
    )
  from fsspec.config import conf

  # It would keep listings for good, whatever others write meanwhile: other
  # processes of the run, or TensorStore in this one.
  conf.setdefault('gcs', {})['use_listings_cache'] = False
  # Where TensorFlow is installed, epath would take that.
  os.environ.setdefault('EPATH_USE_TF', '0')


@contextlib.contextmanager
def failures(
  path: str | os.PathLike[str], verb: str = 'written'
) -> Iterator[None]:
  """Turns a failure of the storage inside into one readable line.

  Args:
    verb: what cannot be done to the path, for the line.

  Raises:
    WorkdirError: in place of what the storage raises.
  """
  try:
    yield
  except errors.SrdlError:
    # In a bucket what follows would take in our own errors.
    raise
  except errors_of(path) as error:
    raise errors.WorkdirError(
      f'{path} cannot be {verb}: {reason_of(error)}'
    ) from error
