# SPDX-License-Identifier: Apache-2.0
"""Makes a TFDS directory from an official archive, all of it or nothing.

The archive is found where it was put by hand or is downloaded, and its digest
is checked. Of several processes one prepares, in a staging folder that is
renamed when everything is there, and the others wait.
"""

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Callable

import tensorflow_datasets as tfds

from srdl_jax import data
from srdl_jax.data import fetching, tfds_reader
from srdl_jax.errors import DataError
from srdl_jax.storage import locks

_log = logging.getLogger(__name__)
Builder = tfds.core.GeneratorBasedBuilder


@dataclasses.dataclass(frozen=True)
class Archive:
  """An official archive, and the data set that is prepared from it.

  Attributes:
    dataset: the data set's name in TFDS.
    version: version of the data set, such as '1.0.0'.
    url: where the archive is.
    sha256: the archive's digest, 64 hexadecimal digits.
  """

  dataset: str
  version: str
  url: str
  sha256: str

  @property
  def file(self) -> str:
    """The archive's file name."""
    return self.url.rpartition('/')[2]

  def directory(self, source: data.Location) -> pathlib.Path:
    """Where the prepared data set is, or will be."""
    return tfds_reader.directory(source.data_dir, self.dataset, self.version)


def prepare(
  archive: Archive,
  source: data.Location,
  builder_class: Callable[[pathlib.Path], type[Builder]],
) -> None:
  """Makes the TFDS directory from the archive, all of it or nothing.

  Of several processes that call this at once, one prepares and others wait.

  Args:
    archive: what is prepared, and from what.
    source: where the archive is, or may be fetched to.
    builder_class: makes a builder's class, to be called with `data_dir`, from
      the path of the verified archive.

  Raises:
    DataError: there is no archive, it is damaged, or nothing can be written.
  """
  if find(archive.file, source) is None:
    _check_server(archive, source)

  def write(staging: pathlib.Path) -> None:
    path = find(archive.file, source) or _download(archive, source)
    fetching.verify(path, archive.sha256)
    _log.info('preparing %s, once; it takes minutes', directory)
    _run(builder_class(path)(data_dir=staging))

  directory = archive.directory(source)
  make_once(directory, write)


def make_once(
  directory: pathlib.Path, write: Callable[[pathlib.Path], None]
) -> None:
  """Makes a TFDS directory, unless it is there, all of it or nothing.

  Of several processes that call this at once, one makes it and others wait.

  Args:
    directory: of a version of a data set, .../DATASET/VERSION.
    write: makes DATASET/VERSION in the folder that it is given.

  Raises:
    DataError: nothing can be written.
    Exception: of `write`.
  """
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locks.locked(directory.parent) as alone:
      if directory.exists():
        return
      if alone:
        for leftover in directory.parent.glob(f'{_staging_prefix()}*'):
          shutil.rmtree(leftover, ignore_errors=True)
      _write(directory, write)
  except OSError as error:
    raise DataError(
      f'cannot prepare {directory}: {error}; set data_dir to a directory '
      'with enough room that can be written'
    ) from error


def folders(source: data.Location) -> tuple[pathlib.Path, pathlib.Path]:
  """Where archives are put by hand, and where they are downloaded to."""
  downloads = tfds_reader.root(source.data_dir) / 'downloads'
  if source.manual_dir:
    return pathlib.Path(source.manual_dir).expanduser(), downloads
  return downloads / 'manual', downloads


def find(file: str, source: data.Location) -> pathlib.Path | None:
  """Returns the path of an archive that is there, not verified, or None."""
  paths = [folder / file for folder in folders(source)]
  return next((path for path in paths if path.is_file()), None)


def _missing(archive: Archive, source: data.Location, reason: str) -> str:
  return (
    f'{archive.dataset}/{archive.version} is not in '
    f'{tfds_reader.root(source.data_dir)}, and {reason}. Put {archive.file} '
    f'from {archive.url} (sha256 {archive.sha256}) into '
    f'{folders(source)[0]}, or set data_dir to where it is prepared'
  )


def _check_server(archive: Archive, source: data.Location) -> None:
  """Fails, before anything is written, where a download could not begin."""
  if not source.download:
    raise DataError(_missing(archive, source, 'downloading is off'))
  try:
    fetching.check(archive.url)
  except DataError as error:
    raise DataError(_missing(archive, source, str(error))) from error


def _download(archive: Archive, source: data.Location) -> pathlib.Path:
  folder = folders(source)[1]
  folder.mkdir(parents=True, exist_ok=True)
  try:
    path = folder / archive.file
    return fetching.fetch(archive.url, path, sha256=archive.sha256)
  except DataError as error:
    raise DataError(_missing(archive, source, str(error))) from error


def _staging_prefix() -> str:
  # On shared folders a lock may hold for one machine only: another machine's
  # unfinished work must not look like a leftover.
  return f'incomplete.srdl_{socket.gethostname()}_'


def _write(
  directory: pathlib.Path, write: Callable[[pathlib.Path], None]
) -> None:
  """Prepares beside the directory, and renames when everything is there."""
  staging = pathlib.Path(
    tempfile.mkdtemp(prefix=_staging_prefix(), dir=directory.parent)
  )
  try:
    write(staging)
    try:
      os.rename(staging / directory.parent.name / directory.name, directory)
    except OSError:
      # Where locks don't exist, another process may have been first.
      if not directory.exists():
        raise
  finally:
    shutil.rmtree(staging, ignore_errors=True)


def _run(builder: Builder) -> None:
  try:
    # TFDS prints the name of the temporary folder as that of the result.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(file_format='array_record')
  except RuntimeError as error:
    # What array_record raises on a full disk.
    raise OSError(str(error)) from error
