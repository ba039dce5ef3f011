# SPDX-License-Identifier: Apache-2.0
"""The official archives of ImageNet (ILSVRC 2012), read where they lie.

The training archive is a tar of one tar a class, n01440764.tar and so on; the
validation archive is a tar of images, whose classes are told by the
development kit. An example's row is its place among its split's sorted file
names, a class's number its place among the sorted WordNet ids: neither depends
on how the tars were packed. The official classes come with TFDS, too, which
then does in place of the kit.
"""

import dataclasses
import io
import pathlib
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import scipy.io
import tensorflow_datasets as tfds

from srdl_jax.data.records import Example
from srdl_jax.errors import DataError
from srdl_jax.storage import arrays

TRAIN = 'ILSVRC2012_img_train.tar'
VALIDATION = 'ILSVRC2012_img_val.tar'
_CLASS_TAR = re.compile(r'n\d{8}\.tar')
_BLOCK = tarfile.BLOCKSIZE
DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'
_GROUND_TRUTH = 'data/ILSVRC2012_validation_ground_truth.txt'
_META = 'data/meta.mat'
# What the readers of the development kit raise when it is damaged.
_DAMAGE = (*arrays.DAMAGE, scipy.io.matlab.MatReadError, tarfile.TarError)


@dataclasses.dataclass(frozen=True)
class Counts:
  """How many classes and images the archives must hold."""

  classes: int
  train: int
  validation: int


OFFICIAL = Counts(classes=1000, train=1_281_167, validation=50_000)


@dataclasses.dataclass(frozen=True)
class Archives:
  """What is known of the archives before an image is read.

  Attributes:
    classes: the K WordNet ids, sorted.
    class_tars: of the training archive, sorted by name, which has no folders.
    validation: images of the validation archive, sorted likewise.
    labels: of those, int32 [M], 0 to K - 1.
  """

  folder: pathlib.Path
  classes: tuple[str, ...]
  class_tars: Sequence[tarfile.TarInfo]
  validation: Sequence[tarfile.TarInfo]
  labels: np.ndarray

  def path(self, split: str) -> pathlib.Path:
    """The archive of a split."""
    return self.folder / (TRAIN if split == 'train' else VALIDATION)

  def images(self, split: str, after: str = '') -> Iterator[Example]:
    """Yields a split's images by file name.

    Args:
      split: 'train' or 'validation'.
      after: begin behind the image of this name.

    Raises:
      DataError: the archive is cut short, or not as the official one.
    """
    with self.path(split).open('rb') as file:
      if split == 'train':
        yield from self._train_images(file, after)
        return
      for member, label in zip(self.validation, self.labels, strict=True):
        if member.name > after:
          content = _read(file, member, self.path(split))
          yield Example(member.name, int(label), content)

  def _train_images(self, file: BinaryIO, after: str) -> Iterator[Example]:
    for label, tar in enumerate(self.class_tars):
      name = self.classes[label]
      if name < after[: len(name)]:
        # All of it is written: going on, it isn't read again.
        continue
      where = f'{tar.name} in {self.path("train")}'
      # Reading on is quicker than seeking from header to header.
      class_tar = io.BytesIO(_read(file, tar, self.path('train')))
      for member in _members(class_tar, where):
        if not member.name.startswith(f'{name}_'):
          raise _wrong(where, f'it holds {member.name}, of another class')
        if member.name > after:
          content = _read(class_tar, member, where)
          yield Example(member.name, label, content)


def open_archives(
  folder: pathlib.Path, counts: Counts | None = OFFICIAL
) -> Archives:
  """Reads the lists of the archives, and the validation images' classes.

  Args:
    counts: how much they must hold; None takes what there is. The number of
      training images is not looked at yet.

  Raises:
    DataError: an archive is missing, damaged, cut short or of another kind, or
      they don't belong together.
  """
  for name in (TRAIN, VALIDATION):
    if not (folder / name).is_file():
      raise DataError(
        f'{name} is not in {folder}. It is given out by image-net.org to those '
        'who register; put it there, or set manual_dir to where it is'
      )
  class_tars = _list(
    folder / TRAIN, 'tars such as n01440764.tar', _CLASS_TAR.fullmatch
  )
  validation = _list(
    folder / VALIDATION, 'images', lambda name: not name.endswith('.tar')
  )
  if counts is not None:
    path = folder / VALIDATION
    check_count(path, len(validation), counts.validation, 'images')
  known, truth = read_labels(folder, len(validation))
  classes = tuple(member.name.removesuffix('.tar') for member in class_tars)
  if strange := sorted(set(classes) - set(known)):
    raise _wrong(folder / TRAIN, f'{strange[0]} is no class of the challenge')
  if counts is not None:
    missing = sorted(set(known) - set(classes))
    what = f'classes, without {missing[0]}' if missing else 'classes'
    check_count(folder / TRAIN, len(classes), counts.classes, what)
  labels = _labels(folder, validation, truth, classes)
  return Archives(folder, classes, class_tars, validation, labels)


def check_count(
  where: str | pathlib.Path, found: int, expected: int, what: str
) -> None:
  """Raises a DataError with both numbers of `what` where they differ."""
  if found != expected:
    raise _wrong(
      where,
      f'it has {found:,} {what}, expected {expected:,} (sets of another size '
      'need --allow_other_counts)',
    )


def _wrong(where: str | pathlib.Path, reason: str) -> DataError:
  return DataError(f'{where} is not as the official archive: {reason}')


def _list(
  path: pathlib.Path, what: str, fits: Callable[[str], object]
) -> list[tarfile.TarInfo]:
  """Returns the files in an archive of `what`, whose names all must fit."""
  with path.open('rb') as file:
    members = _members(file, path)
  for member in members:
    if not fits(member.name):
      raise _wrong(path, f'it holds {member.name} instead of {what}')
  return members


def _members(
  file: BinaryIO, where: str | pathlib.Path
) -> list[tarfile.TarInfo]:
  """Returns the files in a tar, by name, without folders; one at least."""
  try:
    with tarfile.open(fileobj=file, mode='r:') as tar:
      found = tar.getmembers()
  except tarfile.TarError as error:
    raise DataError(
      f'{where} is no tar, or damaged ({error}); fetch it again'
    ) from error
  if found:
    # tarfile takes a damaged header for the end, and so would lose files.
    last = found[-1]
    end = last.offset_data + -(-last.size // _BLOCK) * _BLOCK
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
      raise DataError(
        f'{where} is cut short or damaged at byte {end:,}, behind {last.name}; '
        'fetch it again'
      )
  members = [member for member in found if member.isfile()]
  for member in members:
    member.name = pathlib.PurePosixPath(member.name).name
  members.sort(key=lambda member: member.name)
  if not members:
    raise _wrong(where, 'it is empty')
  for one, next_one in zip(members, members[1:], strict=False):
    if one.name == next_one.name:
      raise _wrong(where, f'it has {one.name} twice')
  return members


def _read(
  file: BinaryIO, member: tarfile.TarInfo, where: str | pathlib.Path
) -> bytes:
  file.seek(member.offset_data)
  content = file.read(member.size)
  if len(content) != member.size:
    raise DataError(f'{where} is cut short in {member.name}; fetch it again')
  return content


def _labels(
  folder: pathlib.Path,
  validation: Sequence[tarfile.TarInfo],
  truth: Sequence[str],
  classes: Sequence[str],
) -> np.ndarray:
  """Returns the classes' numbers of the validation images, int32 [M]."""
  numbers = {name: number for number, name in enumerate(classes)}
  for member, name in zip(validation, truth, strict=True):
    if name not in numbers:
      raise DataError(
        f'{folder / VALIDATION} has {member.name} of class {name}, of which '
        f'{TRAIN} has no images'
      )
  return np.array([numbers[name] for name in truth], np.int32)


def read_labels(
  folder: pathlib.Path, count: int
) -> tuple[Sequence[str], Sequence[str]]:
  """Returns the classes, and those of the `count` validation images, M.

  Returns:
    (the WordNet ids of all classes, those of the M images by file name).

  Raises:
    DataError: the development kit is missing and needed, damaged, or of other
      images.
  """
  path = folder / DEVKIT
  there = path.is_file()
  known, truth = _read_devkit(path)[:2] if there else read_tfds()
  if len(truth) == count:
    return known, truth
  if there:
    raise DataError(
      f'{path} has the classes of {len(truth):,} validation images, but '
      f'there are {count:,}: the archives do not belong together'
    )
  raise DataError(
    f'{DEVKIT} is not in {folder}: it tells the classes of the {count:,} '
    f'validation images (TFDS has them for {len(truth):,}). It is given out '
    'by image-net.org; put it there'
  )


def read_tfds() -> tuple[list[str], list[str]]:
  """The official lists, from TFDS's package: they need no development kit."""
  folder = pathlib.Path(tfds.core.tfds_path('datasets/imagenet2012'))
  lists = [folder / name for name in ('labels.txt', 'validation_labels.txt')]
  if not all(path.is_file() for path in lists):
    return [], []
  known, truth = (path.read_text().split() for path in lists)
  return known, truth


def words(folder: pathlib.Path) -> dict[str, str]:
  """Returns what WordNet ids mean; nothing without a development kit.

  Raises:
    DataError: it is damaged.
  """
  path = folder / DEVKIT
  return _read_devkit(path)[2] if path.is_file() else {}


def _read_devkit(
  path: pathlib.Path,
) -> tuple[list[str], list[str], dict[str, str]]:
  """Returns the leaves' WordNet ids, those of the validation images, and what
  ids mean."""
  try:
    with tarfile.open(path) as tar:
      files = {
        wanted: tar.extractfile(name).read()
        for name in tar.getnames()
        for wanted in (_META, _GROUND_TRUTH)
        if name.endswith(f'/{wanted}')
      }
    meta = scipy.io.loadmat(io.BytesIO(files[_META]), squeeze_me=True)
    # Inner nodes of the tree are listed too, but have no images.
    leaves = [node for node in meta['synsets'] if not node['num_children']]
    ids = {int(n['ILSVRC2012_ID']): str(n['WNID']) for n in leaves}
    meaning = {str(n['WNID']): str(n['words']) for n in leaves}
    truth = [ids[int(line)] for line in files[_GROUND_TRUTH].split()]
  except _DAMAGE as error:
    raise DataError(
      f'{path} is damaged or another file ({type(error).__name__}: '
      f'{" ".join(str(error).split())}); fetch it again'
    ) from error
  return list(ids.values()), truth, meaning
