# SPDX-License-Identifier: Apache-2.0
"""Files that are never half there, whenever a process or a machine ends."""

import contextlib
import json
import math
import os
import pathlib
import secrets
import shutil
import socket
from collections.abc import Iterator
from typing import Any

from srdl_jax import errors
from srdl_jax.storage import bucket
from srdl_jax.storage.bucket import failures

# How names of files and folders end that are being written.
DRAFT = '.tmp'
# Letters of a path that may be too long.
_SHOWN = 200


def expanded(path: str | os.PathLike[str], name: str) -> pathlib.Path:
  """Returns a path of this machine; ~ stands for the home directory.

  Args:
    name: of what it is, for the message.

  Raises:
    ConfigError: it is empty, or there is no home directory.
  """
  if not os.fspath(path):
    raise errors.ConfigError(f'{name} is empty: give a path.')
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise errors.ConfigError(
      f'{name} {path}: there is no such home directory here (HOME names one); '
      'give a path without ~.'
    ) from error


def reachable(
  path: str | os.PathLike[str],
  name: str,
  error: type[errors.SrdlError] = errors.DataError,
) -> pathlib.Path:
  """Returns a path as `expanded` does, once one may look what is there.

  Nothing need be there. Where one may not enter a folder, `os.path.isdir` and
  its like call all that is in it missing, and pathlib's raise.

  Raises:
    ConfigError: there is no home directory.
    SrdlError: an `error`: one may not, or it can't be a path.
  """
  found = expanded(path, name)
  try:
    os.stat(os.path.join(found, '.'))
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, ValueError) as reason:
    shown = str(found).encode(errors='backslashreplace').decode()
    if len(shown) > _SHOWN:
      shown = f'{shown[:_SHOWN]}...'
    raise error(
      f'{name} {shown} cannot be looked into '
      f'({getattr(reason, "strerror", None) or reason}): give a path that can '
      'be, or change who may enter it'
    ) from reason
  return found


def refuse_other_letters(path: str | os.PathLike[str], name: str) -> None:
  """Checks that a path is UTF-8 from the root on, as Orbax and TFDS need it.

  Raises:
    ConfigError: it isn't, or begins in a directory that was removed.
  """
  try:
    whole = os.path.abspath(path)
    whole.encode()
  except FileNotFoundError as error:
    raise errors.ConfigError(
      f'{name} {path}: the current directory was removed; change to another.'
    ) from error
  except UnicodeEncodeError as error:
    shown = os.fsencode(whole).decode(errors='backslashreplace')
    raise errors.ConfigError(
      f'{name} {shown} is not UTF-8: rename it, or give another.'
    ) from error


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
  """Replaces `path` by `obj` as JSON: a reader sees the old or the new.

  Raises:
    WorkdirError: the file cannot be written; the old one stays.
    TypeError: `obj` is not made of JSON's types; the old file stays.
    ValueError: `obj` holds a NaN or an infinity; the old file stays.
  """
  text = json.dumps(obj, indent=2, allow_nan=False) + '\n'
  replace(path, text.encode())


def read_json(path: str | os.PathLike[str], **wanted: Any) -> Any:
  """Reads what `write_json` wrote.

  Args:
    **wanted: types by the names that it must have, as an object.

  Raises:
    WorkdirError: the file is missing, unreadable or not JSON, or lacks what is
      wanted.
  """
  with failures(path, 'read'):
    content = bucket.path_of(path).read_bytes()
  try:
    found = json.loads(
      content,
      object_pairs_hook=_object,
      parse_constant=_number,
      parse_float=_number,
    )
  except (ValueError, RecursionError) as error:
    raise errors.WorkdirError(
      f'{path} is damaged (not JSON: {error}): remove it or restore it'
    ) from error
  for name, kind in wanted.items():
    if not (isinstance(found, dict) and isinstance(found.get(name), kind)):
      raise errors.WorkdirError(
        f'{path} is damaged (it has no {name}): remove it or restore it'
      )
  return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  # Of two values Python would take the last without a word.
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError('an object names something twice')
  return found


def _number(text: str) -> float:
  # Python would take NaN, and 1e999 for infinity.
  if not math.isfinite(number := float(text)):
    raise ValueError(f'{text} is no number of it')
  return number


def replace(path: str | os.PathLike[str], content: bytes) -> None:
  """Replaces a file, whose folder exists, in one step, and waits for the disk.

  Raises:
    WorkdirError: the file cannot be written; the old one stays.
  """
  path = bucket.absolute(path)
  with failures(path):
    if bucket.is_bucket(path):
      path.write_bytes(content)
    else:
      with new_file(path) as draft:
        draft.write_bytes(content)


def exists(path: bucket.Path) -> bool:
  """Whether something is there.

  Raises:
    WorkdirError: the storage cannot be asked.
  """
  with failures(path, 'read'):
    return path.exists()


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields where to write a file that then takes the place of `path`.

  Until all of the new one is on the disk, and if the block raises, the file
  stays as it was. Its folder exists.

  Raises:
    OSError: nothing can be written there.
  """
  draft = _draft_of(path)
  os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
  try:
    yield draft
    sync(draft)
    os.replace(draft, path)
    sync(path.parent)
  finally:
    # Why it failed matters more than what is left.
    with contextlib.suppress(OSError):
      draft.unlink()


@contextlib.contextmanager
def new_folder(
  path: pathlib.Path,
  draft: pathlib.Path | None = None,
  *,
  replace: bool = False,
) -> Iterator[pathlib.Path]:
  """Yields an empty folder that then takes the place of `path`.

  Args:
    path: its parents are created.
    draft: where to write it, in the same file system; beside it unless given.
      What is there is removed, of a process that was ended.
    replace: see `move`.

  Raises:
    OSError: nothing can be written there, or a folder is in the way.
  """
  draft = draft or _draft_of(path)
  shutil.rmtree(draft, ignore_errors=True)
  make_folder(draft.parent)
  draft.mkdir()
  try:
    yield draft
    move(draft, path, replace=replace)
  finally:
    shutil.rmtree(draft, ignore_errors=True)


def move(
  draft: pathlib.Path, path: pathlib.Path, *, replace: bool = False
) -> None:
  """Gives a finished folder its name in the same file system.

  Args:
    replace: whether it takes the place of a folder with something in it.

  Raises:
    OSError: there is no room, or a folder is in the way.
  """
  # A machine that lost its power could keep the name without the content.
  sync_all(draft)
  earlier = path.with_name(f'{path.name}.earlier')
  if replace and path.exists():
    # A folder can't be renamed over one that isn't empty.
    shutil.rmtree(earlier, ignore_errors=True)
    os.rename(path, earlier)
  os.rename(draft, path)
  sync(path.parent)
  if replace:
    shutil.rmtree(earlier, ignore_errors=True)


def make_folder(path: pathlib.Path) -> None:
  """Creates a folder and its parents where they are missing, on the disk.

  Raises:
    OSError: that isn't possible.
  """
  missing = [part for part in (path, *path.parents) if not part.exists()]
  path.mkdir(parents=True, exist_ok=True)
  for part in missing:
    sync(part.parent)


def sync_all(folder: pathlib.Path) -> None:
  """Does `sync` for a folder and all that is in it."""
  for part in (*folder.rglob('*'), folder):
    sync(part)


def sync(path: pathlib.Path) -> None:
  """Waits until a file's content, or the names in a folder, are on the disk.

  Raises:
    OSError: there is no room for it.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _draft_of(path: pathlib.Path) -> pathlib.Path:
  # Several processes, also of several machines, may write at once; nobody can
  # have put a link there.
  writer = f'{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(8)}'
  return path.with_name(f'.{path.name}.{writer}{DRAFT}')
