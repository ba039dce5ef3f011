# SPDX-License-Identifier: Apache-2.0
"""Makes a TFDS directory from an official archive, all of it or nothing.

The archive is found where it was put by hand or is downloaded, and its digest
is checked. So are copies of the data set in other forms, unpacked or packed
otherwise; what can't be shown to be the archive's is marked as a copy. Of
several processes one prepares, in a staging folder that is renamed when
everything is there, and the others wait.
"""

import abc
import contextlib
import dataclasses
import hashlib
import io
import logging
import os
import pathlib
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from srdl_jax import data, storage
from srdl_jax.data import fetching, tfds_reader
from srdl_jax.errors import DataError
from srdl_jax.storage import files, locks

_log = logging.getLogger(__name__)
# Beside what is prepared: the `traits` of the copy that is known to be it.
SOURCE = 'source.txt'
# TFDS orders them by a hash of their keys.
KeyedExamples = Iterator[tuple[str | int, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Archive(abc.ABC):
  """An official archive, and the data set that is prepared from it.

  Attributes:
    name: the data set's, here and in TFDS.
    version: such as '1.0.0'.
    mean, std: per channel, of training pixels scaled to [0, 1].
    splits: names of those to train and to test on.
    copies: names of files and folders that hold the same in other forms.
  """

  name: str
  version: str
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  splits: tuple[str, str]
  description: str
  homepage: str
  url: str
  sha256: str
  copies: tuple[str, ...]

  @property
  def file(self) -> str:
    """The archive's file name."""
    return self.url.rpartition('/')[2]

  @abc.abstractmethod
  def features(
    self, path: pathlib.Path
  ) -> dict[str, tfds.features.FeatureConnector]:
    """Returns TFDS's features by name: 'id', 'image', 'label' and others."""

  @abc.abstractmethod
  def examples(self, path: pathlib.Path) -> dict[str, KeyedExamples]:
    """Returns the examples of each split: keys, and features by name."""

  @abc.abstractmethod
  def is_copy(self, path: pathlib.Path) -> bool:
    """Whether a file or folder of any name looks like one of `copies`."""

  @abc.abstractmethod
  def check_copy(self, path: pathlib.Path) -> str:
    """Looks at all of a copy.

    Returns:
      A digest of its contents; '' where they are shown to be the archive's.

    Raises:
      DataError: it is damaged, incomplete or has other counts.
    """

  def words(self, path: pathlib.Path) -> dict[str, str]:
    """Returns what classes' names mean, where they are codes."""
    del path
    return {}

  def load(self, source: data.Location) -> data.Dataset:
    """Loads the data set into memory, after preparing it where it is missing.

    Images are uint8 [N, H, W, C], rows and ids TFDS's.

    Raises:
      DataError: it is missing, damaged or in another form than ArrayRecord, or
        was not prepared from what `source.path` names.
    """
    place = tfds_reader.directory(source.data_dir, self.name, self.version)
    if not place.exists():
      self.prepare(source)
    # Another process may have prepared another copy just now.
    if source.path and source.compared:
      compare(_find(self, source), place, self._difference)
    builder = tfds_reader.open_builder(place, self.splits)
    train, test = (
      tfds_reader.read_split(builder, split, self.num_classes)
      for split in self.splits
    )
    return data.Dataset(
      name=self.name,
      version=self.version,
      num_classes=self.num_classes,
      mean=self.mean,
      std=self.std,
      train=train,
      test=test,
      classes=(names := tfds_reader.class_names(builder, self.num_classes)),
      words=tfds_reader.class_words(place, names),
    )

  def prepare(self, source: data.Location) -> None:
    """Makes the TFDS directory from the archive or a copy, or nothing.

    Of several processes that call this at once, one prepares and others wait.

    Raises:
      DataError: there is no archive and no copy, it is damaged or not as it
        should be, or nothing can be written.
    """
    if _find(self, source) is None:
      # Fails, before anything is written, where a download could not begin.
      with _or_by_hand(self, source):
        if not source.download:
          raise DataError('downloading is off')
        fetching.check(self.url)

    def write(draft: pathlib.Path) -> None:
      path = _find(self, source) or _download(self, source)
      now, mark = traits(path), self._mark(path)
      told = directory, path
      _log.info('preparing %s from %s, once; it takes minutes', *told)
      _run(self, path, draft)
      if mark:
        _log.warning(
          '%s is not shown to be the official archive: its fingerprint is that '
          'of a copy, %s',
          path,
          mark,
        )
        (draft / tfds_reader.COPY).write_text(f'{mark}\n')
      (draft / SOURCE).write_text(now)

    directory = tfds_reader.directory(source.data_dir, self.name, self.version)
    make_once(directory, write)

  def _mark(self, path: pathlib.Path) -> str:
    """Returns what `check_copy` does, also of the archive itself."""
    if path.name != self.file or path.is_dir():
      return self.check_copy(path)
    fetching.verify(path, self.sha256)
    return ''

  def _difference(self, path: pathlib.Path, place: pathlib.Path) -> str:
    """Says how a copy differs from what is prepared."""
    ours = self._mark(path)
    theirs = tfds_reader.copy_mark(place).removeprefix('+copy ')
    if ours == theirs:
      return ''
    is_its, was_its = (
      f'a copy ({mark})' if mark else 'the official data set'
      for mark in (ours, theirs)
    )
    return f'is {is_its}, but {place} was prepared from {was_its}'


def compare(
  path: pathlib.Path,
  place: pathlib.Path,
  difference: Callable[[pathlib.Path, pathlib.Path], str],
) -> None:
  """Refuses a copy of other contents than what is prepared.

  All of it is read once: what is known to be the same is told by the names,
  sizes and times of its files from then on.

  Args:
    path: of the copy.
    place: of what is prepared.
    difference: says what is different; '' if nothing is.

  Raises:
    DataError: there is a difference.
  """
  now, known = traits(path), place / SOURCE
  with contextlib.suppress(OSError, UnicodeDecodeError):
    if known.read_text() == now:
      return
  _log.info('comparing %s with %s, which is prepared', path, place)
  if told := difference(path, place):
    raise DataError(
      f'data.path, {path}, {told}: leave data.path out to take what is '
      'prepared, or set data_dir to another directory, to have this one '
      'prepared there'
    )
  # Where nothing can be written, it is read again each time.
  with contextlib.suppress(OSError), files.new_file(known) as draft:
    draft.write_text(now)


def builder_of(
  archive: Archive, path: pathlib.Path, data_dir: pathlib.Path
) -> tfds.core.GeneratorBasedBuilder:
  """Returns what writes an archive, verified, as TFDS would.

  Raises:
    DataError: the archive isn't as it should be; also raised by its run.
  """
  named_features = archive.features(path)

  # TFDS keeps every builder class for good, so this one holds no examples; and
  # where its own builder has the name, none can be registered.
  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = archive.name
    VERSION = tfds.core.Version(archive.version)

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self,
        description=archive.description,
        features=tfds.features.FeaturesDict(named_features),
        supervised_keys=('image', 'label'),
        homepage=archive.homepage,
      )

    def _split_generators(self, dl_manager):
      found = archive.examples(path)
      return {s: self._generate_examples(found[s]) for s in archive.splits}

    def _generate_examples(self, examples: KeyedExamples) -> KeyedExamples:
      yield from examples

  return Builder(data_dir=data_dir)


def write_metadata(
  template: tfds.core.ShardedFileTemplate,
  splits: Sequence[tfds.core.SplitInfo],
  label: tfds.features.FeatureConnector,
  **about: str,
) -> None:
  """Writes what TFDS wants to read beside files of `records`.

  Args:
    template: of the files' names, with their folder.
    splits: what has been written.
    **about: the data set: `version`, `description`, `homepage`.

  Raises:
    OSError: there is no room, or nothing can be written there.
  """
  tfds.folder_dataset.write_metadata(
    data_dir=template.data_dir,
    features=tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(encoding_format='jpeg'),
        'label': label,
        'file_name': tfds.features.Text(),
      }
    ),
    split_infos=splits,
    filename_template=template,
    # It would read through TensorFlow.
    check_data=False,
    supervised_keys=('image', 'label'),
    **about,
  )


def make_once(
  directory: pathlib.Path, write: Callable[[pathlib.Path], None]
) -> None:
  """Makes a TFDS directory, unless it is there, all of it or nothing.

  Of several processes that call this at once, one makes it and others wait.

  Args:
    directory: of a version of a data set, .../DATASET/VERSION.
    write: fills the folder that it is given.

  Raises:
    DataError: nothing can be written.
    Exception: of `write`.
  """
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locks.taking_turns(directory.parent) as alone:
      if directory.exists():
        return
      # On shared folders a lock may hold for one machine only: another one's
      # unfinished work must not look like a leftover.
      machine = f'incomplete.srdl_{socket.gethostname()}_'
      if alone:
        for leftover in directory.parent.glob(f'{machine}*'):
          shutil.rmtree(leftover, ignore_errors=True)
      # Containers of one machine may all have the process id 1.
      own = f'{os.getpid()}_{secrets.token_hex(4)}'
      draft = directory.with_name(machine + own)
      with storage.new_folder(directory, draft):
        write(draft)
  except OSError as error:
    if directory.exists():
      # Where locks don't exist, another process may have been first.
      return
    raise DataError(
      f'cannot prepare {directory}: {error}; set data_dir to a directory '
      'with enough room that can be written'
    ) from error


def folders(
  source: data.Location, dataset: str
) -> tuple[pathlib.Path, pathlib.Path]:
  """Where archives are put by hand, and where they are downloaded to."""
  downloads = tfds_reader.root(source.data_dir, dataset) / 'downloads'
  manual = source.manual_dir or downloads / 'manual'
  return storage.reachable(manual, 'manual_dir'), downloads


def _find(archive: Archive, source: data.Location) -> pathlib.Path | None:
  """Returns where an archive, or else a copy, is, not verified, or None.

  Raises:
    DataError: data.path is given, and there is none.
  """
  names = archive.file, *archive.copies

  def within(*places: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in (place / name for name in names for place in places):
      # Unpackers make folders that are called as the archive, or as what is in
      # it.
      if path.suffix and os.path.isfile(path):
        yield path
      elif not path.suffix and os.path.isdir(path):
        yield from filter(os.path.isdir, (path, path / path.name))

  def first(*places: pathlib.Path) -> pathlib.Path | None:
    """Of what is called a copy, what looks like one, or else any."""
    found = [*within(*places)]
    good = (p for p in found if not p.is_dir() or archive.is_copy(p))
    return next(good, next(iter(found), None))

  if not source.path:
    manual, downloads = folders(source, archive.name)
    root = tfds_reader.root(source.data_dir, archive.name)
    found = first(manual, downloads, root)
    return found or (manual if archive.is_copy(manual) else None)
  given = storage.reachable(source.path, 'data.path')
  is_archive = given.name == archive.file and os.path.isfile(given)
  if is_archive or archive.is_copy(given):
    return given
  if found := first(given):
    return found
  if not os.path.exists(given):
    raise DataError(
      f'data.path, {given}, is not there: name a copy of {archive.name}, or '
      'leave data.path out'
    )
  raise DataError(
    f'data.path, {source.path}, is no copy of {archive.name} and holds none: '
    f'name one of {", ".join(names)}, or the folder that it is in'
  )


def traits(path: pathlib.Path) -> str:
  """Returns what tells a copy from others without reading it, as a digest."""
  digest = hashlib.sha256(os.fsencode(os.path.realpath(path)))
  for file in sorted(path.rglob('*')) or [path]:
    # What is missing behind a link is missed where it is read.
    with contextlib.suppress(OSError):
      its = file.stat()
      digest.update(f'{its.st_size}\t{its.st_mtime_ns}\t'.encode())
      digest.update(os.fsencode(file.relative_to(path)) + b'\n')
  return digest.hexdigest()


@contextlib.contextmanager
def _or_by_hand(archive: Archive, source: data.Location) -> Iterator[None]:
  """Adds what else to do to an error inside."""
  try:
    yield
  except DataError as error:
    raise DataError(
      f'{archive.name}/{archive.version} is not in '
      f'{tfds_reader.root(source.data_dir, archive.name)}, and {error}. Put '
      f'{archive.file} from {archive.url} (sha256 {archive.sha256}) into '
      f'{folders(source, archive.name)[0]}, set data.path to a copy (one of '
      f'{", ".join(archive.copies)}), or data_dir to where it is prepared'
    ) from error


def _download(archive: Archive, source: data.Location) -> pathlib.Path:
  folder = folders(source, archive.name)[1]
  folder.mkdir(parents=True, exist_ok=True)
  with _or_by_hand(archive, source):
    path = folder / archive.file
    return fetching.fetch(archive.url, path, sha256=archive.sha256)


def _run(archive: Archive, path: pathlib.Path, folder: pathlib.Path) -> None:
  builder = builder_of(archive, path, folder / 'tfds')
  try:
    # TFDS prints the name of the temporary folder as that of the result.
    with contextlib.redirect_stdout(io.StringIO()):
      # The format by default is written by TensorFlow.
      builder.download_and_prepare(file_format='array_record')
  except RuntimeError as error:
    # What array_record raises on a full disk.
    raise OSError(str(error)) from error
  # TFDS makes DATASET/VERSION below.
  for file in list(builder.data_path.iterdir()):
    file.rename(folder / file.name)
  shutil.rmtree(folder / 'tfds')
  tfds_reader.write_words(folder, archive.words(path))
