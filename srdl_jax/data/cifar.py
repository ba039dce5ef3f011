# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009).

Read from a TFDS directory in ArrayRecord form; where that is missing it is
prepared, with the rows, ids and layout that TFDS gives it, from the official
archive of binary files. TFDS's own preparation needs TensorFlow.
"""

import contextlib
import fcntl
import io
import logging
import os
import pathlib
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from srdl_jax import data
from srdl_jax.data import download, tfds_reader
from srdl_jax.data.cifar_archives import Cifar
from srdl_jax.errors import DataError

VERSION = '3.0.2'
_SHAPE = (32, 32, 3)
_log = logging.getLogger(__name__)


def load(spec: Cifar, source: data.Source) -> data.Dataset:
  """Loads CIFAR into memory, after preparing it where it is missing.

  Args:
    spec: of `cifar_archives`.
    source: where it is, or may be fetched from.

  Returns:
    The data set, images uint8 [N, 32, 32, 3].

  Raises:
    DataError: it is missing, damaged or in another form than ArrayRecord.
  """
  directory = tfds_reader.root(source.data_dir) / spec.name / VERSION
  if not directory.exists():
    prepare(spec, source)
  builder = tfds_reader.open_builder(directory)
  return data.Dataset(
    name=spec.name,
    version=VERSION,
    num_classes=spec.num_classes,
    mean=spec.mean,
    std=spec.std,
    train=tfds_reader.read_split(builder, 'train', spec.num_classes),
    test=tfds_reader.read_split(builder, 'test', spec.num_classes),
  )


def prepare(spec: Cifar, source: data.Source) -> None:
  """Makes the TFDS directory from the archive, all of it or nothing.

  Of several processes that call this at once, one prepares and others wait.

  Args:
    spec: of `cifar_archives`.
    source: where the archive is, or may be fetched to.

  Raises:
    DataError: there is no archive, it is damaged, or nothing can be written.
  """
  directory = tfds_reader.root(source.data_dir) / spec.name / VERSION
  if _find_archive(spec, source) is None:
    _check_server(spec, source)
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.parent) as alone:
      if directory.exists():
        return
      if alone:
        for leftover in directory.parent.glob(f'{_staging_prefix()}*'):
          shutil.rmtree(leftover, ignore_errors=True)
      archive = _find_archive(spec, source) or _download(spec, source)
      download.verify(archive, spec.sha256)
      _write(spec, archive, directory)
  except OSError as error:
    raise DataError(
      f'cannot prepare {directory}: {error}; set data_dir to a directory '
      'with enough room that can be written'
    ) from error


def _folders(source: data.Source) -> tuple[pathlib.Path, pathlib.Path]:
  """Where archives are put by hand, and where they are downloaded to."""
  downloads = tfds_reader.root(source.data_dir) / 'downloads'
  if source.manual_dir:
    return pathlib.Path(source.manual_dir).expanduser(), downloads
  return downloads / 'manual', downloads


def _find_archive(spec: Cifar, source: data.Source) -> pathlib.Path | None:
  paths = [folder / spec.archive for folder in _folders(source)]
  return next((path for path in paths if path.is_file()), None)


def _missing(spec: Cifar, source: data.Source, reason: str) -> str:
  manual = _folders(source)[0]
  return (
    f'{spec.name}/{VERSION} is not in {tfds_reader.root(source.data_dir)}, '
    f'and {reason}. Put {spec.archive} from {spec.url} (sha256 '
    f'{spec.sha256}) into {manual}, or set data_dir to where it is prepared'
  )


def _check_server(spec: Cifar, source: data.Source) -> None:
  """Fails, before anything is written, where a download could not begin."""
  if not source.download:
    raise DataError(_missing(spec, source, 'downloading is off'))
  try:
    download.check(spec.url)
  except DataError as error:
    raise DataError(_missing(spec, source, str(error))) from error


def _download(spec: Cifar, source: data.Source) -> pathlib.Path:
  folder = _folders(source)[1]
  folder.mkdir(parents=True, exist_ok=True)
  try:
    target, progress = folder / spec.archive, _log_tenths(spec.archive)
    return download.fetch(
      spec.url, target, sha256=spec.sha256, progress=progress
    )
  except DataError as error:
    raise DataError(_missing(spec, source, str(error))) from error


def _log_tenths(name: str) -> Callable[[int, int | None], None]:
  logged = {0}

  def progress(received: int, total: int | None) -> None:
    tenths = 10 * received // total if total else 0
    if tenths not in logged:
      logged.add(tenths)
      _log.info('%s: %d %% of %d bytes', name, 10 * tenths, total)

  return progress


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[bool]:
  """Waits for the folder's lock; yields False where locks don't exist."""
  with (folder / '.srdl_jax.lock').open('w') as file:
    alone = True
    try:
      fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
      alone = False
    yield alone


def _staging_prefix() -> str:
  # On shared folders a lock may hold for one machine only: another machine's
  # unfinished work must not look like a leftover.
  return f'incomplete.srdl_{socket.gethostname()}_'


def _write(spec: Cifar, archive: pathlib.Path, directory: pathlib.Path) -> None:
  """Prepares beside the directory, and renames when everything is there."""
  staging = pathlib.Path(
    tempfile.mkdtemp(prefix=_staging_prefix(), dir=directory.parent)
  )
  try:
    builder = builder_class(spec, archive)(data_dir=staging)
    _log.info('preparing %s once, in about a minute', directory)
    # TFDS prints the name of the temporary folder as that of the result.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(file_format='array_record')
    try:
      os.rename(staging / spec.name / VERSION, directory)
    except OSError:
      # Where locks don't exist, another process may have been first.
      if not directory.exists():
        raise
  finally:
    shutil.rmtree(staging, ignore_errors=True)


def _read(
  spec: Cifar, archive: pathlib.Path, files: Iterable[str]
) -> list[bytes]:
  with tarfile.open(archive) as tar:
    members = [tar.extractfile(f'{spec.folder}/{file}') for file in files]
    return [member.read() for member in members]


def builder_class(
  spec: Cifar, archive: pathlib.Path
) -> type[tfds.core.GeneratorBasedBuilder]:
  """Makes a builder that writes what TFDS's own would, without TensorFlow.

  Args:
    spec: of `cifar_archives`.
    archive: its archive, already verified.

  Returns:
    A class to be called with `data_dir`.
  """
  files = spec.class_names.values()
  names = [text.decode().split() for text in _read(spec, archive, files)]

  # TFDS keeps every builder class for good, so this one holds no images.
  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Yields images as PIL objects: TFDS encodes arrays with TensorFlow."""

    name = spec.name
    VERSION = tfds.core.Version(VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
      labels = [tfds.features.ClassLabel(names=n) for n in names]
      features = dict(zip(spec.class_names, labels, strict=True))
      features['id'] = tfds.features.Text()
      features['image'] = tfds.features.Image(shape=_SHAPE)
      return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=('image', 'label'),
        homepage='https://www.cs.toronto.edu/~kriz/cifar.html',
      )

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in spec.files}

    def _generate_examples(self, split):
      records = b''.join(_read(spec, archive, spec.files[split]))
      rows = np.frombuffer(records, np.uint8).reshape(-1, len(names) + 3072)
      for i, row in enumerate(rows):
        pixels = row[len(names) :].reshape(3, 32, 32).transpose(1, 2, 0)
        example = dict(zip(spec.class_names, row.tolist(), strict=False))
        example['id'] = f'{split}_{i:05d}'
        example['image'] = Image.fromarray(pixels)
        yield i, example

  return Builder
