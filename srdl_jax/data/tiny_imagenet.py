# SPDX-License-Identifier: Apache-2.0
"""Tiny ImageNet: 200 classes of ImageNet at 64 x 64 pixels (Stanford CS231n).

Read from a TFDS directory in ArrayRecord form; where that is missing it is
prepared from the official zip, or from its folder, unpacked, whose validation
images may have been sorted into folders of classes. TFDS has no builder of its
own for it. The archive's test images have no labels; the validation split takes
their place.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping

import tensorflow_datasets as tfds

from srdl_jax import storage
from srdl_jax.data import preparation, tfds_reader
from srdl_jax.data.folder_files import listed
from srdl_jax.errors import DataError
from srdl_jax.storage import arrays

_SHAPE = (64, 64, 3)
_FOLDER = 'tiny-imagenet-200'
_CLASSES = f'{_FOLDER}/wnids.txt'
_WORDS = f'{_FOLDER}/words.txt'
_ANNOTATIONS = f'{_FOLDER}/val/val_annotations.txt'
# Where images are in it, or where scripts put them.
_IMAGES = ('train/*', 'train/*/images', 'val', 'val/*', 'val/*/images')


class _Unpacked:
  """The unpacked folder, with the names that its files have in the zip."""

  def __init__(self, path: pathlib.Path):
    self.filename = str(path)
    texts = (_CLASSES, _WORDS, _ANNOTATIONS)
    self._files = {
      name: file
      for name in texts
      if (file := path / name.removeprefix(f'{_FOLDER}/')).is_file()
    }
    # What scripts leave that make a folder of each class.
    self._sorted: dict[str, str] = {}
    for file in sorted(
      file for folder in _IMAGES for file in path.glob(f'{folder}/[!.]*.JPEG')
    ):
      part, *folders = file.relative_to(path).parts[:-1]
      if part == 'train':
        self._files[f'{_FOLDER}/train/{folders[0]}/images/{file.name}'] = file
      else:
        self._files[f'{_FOLDER}/val/images/{file.name}'] = file
        if folders and folders[0] != 'images':
          first = self._sorted.setdefault(file.name, folders[0])
          if first != folders[0]:
            raise _wrong(
              self, f'val/{first} and val/{folders[0]} both have {file.name}'
            )

  def namelist(self) -> list[str]:
    return list(self._files)

  def read(self, member: str) -> bytes:
    if member in self._files:
      return self._files[member].read_bytes()
    train = f'{_FOLDER}/train/'
    made = {
      _CLASSES: {n.split('/')[2] for n in self._files if n.startswith(train)}
    }
    if self._sorted:
      made[_ANNOTATIONS] = map('\t'.join, self._sorted.items())
    return '\n'.join(made[member]).encode()

  def disagreeing(self, labels: Mapping[str, str]) -> list[str]:
    """Returns whose folders of classes are others than the labels."""
    return [n for n, wnid in self._sorted.items() if labels.get(n) != wnid]


_Zip = zipfile.ZipFile | _Unpacked
# It has 110,000 files, which a preparation asks for eight times.
_unpacked = functools.lru_cache(maxsize=1)(_Unpacked)


@dataclasses.dataclass(frozen=True)
class TinyImageNet(preparation.Archive):
  """The archive, whose JPEG files are stored as they are.

  An example's id is its file's name. Every class must have so many images.
  """

  train_per_class: int
  validation_per_class: int

  def features(
    self, path: pathlib.Path
  ) -> dict[str, tfds.features.FeatureConnector]:
    with _opened(path) as archive:
      classes = _classes(archive, self)
    return {
      'id': tfds.features.Text(),
      'image': tfds.features.Image(shape=_SHAPE, encoding_format='jpeg'),
      'label': tfds.features.ClassLabel(names=classes),
    }

  def examples(
    self, path: pathlib.Path
  ) -> dict[str, preparation.KeyedExamples]:
    # All lists are looked at before the first image is written.
    return {
      split: self._examples_of(path, split, found)
      for split, found in self._labels(path).items()
    }

  def is_copy(self, path: pathlib.Path) -> bool:
    return all(os.path.isdir(path / part) for part in ('train', 'val'))

  def check_copy(self, path: pathlib.Path) -> str:
    _unpacked.cache_clear()
    digest = hashlib.sha256()
    for labels in self._labels(path).values():
      with _opened(path) as archive:
        for member, label in labels.items():
          content = hashlib.sha256(archive.read(member)).hexdigest()
          digest.update(f'{member}\t{label}\t{content}\n'.encode())
    return digest.hexdigest()

  def words(self, path: pathlib.Path) -> dict[str, str]:
    with _opened(path) as archive:
      if _WORDS not in archive.namelist():
        return {}
      # Of all of WordNet.
      lines = (line.partition('\t') for line in _lines(archive, _WORDS))
      meaning = {name: words for name, _, words in lines}
      return {n: meaning.get(n, '') for n in _classes(archive, self)}

  def _labels(self, path: pathlib.Path) -> dict[str, dict[str, str]]:
    """Returns, per split, classes by image."""
    with _opened(path) as archive:
      classes = _classes(archive, self)
      labels = (
        _train_labels(archive, self, classes),
        _validation_labels(archive, self, classes),
      )
    return dict(zip(self.splits, labels, strict=True))

  def _examples_of(
    self, path: pathlib.Path, split: str, labels: Mapping[str, str]
  ) -> preparation.KeyedExamples:
    told = storage.Told(f'{self.name}, {split}', 'images', len(labels))
    with _opened(path) as archive:
      for member, label in labels.items():
        try:
          content = archive.read(member)
          tfds_reader.pixels_of(content, _SHAPE)
        except arrays.DAMAGE as error:
          raise _wrong(archive, f'cannot decode {member}: {error}') from error
        name = member.rpartition('/')[2]
        # TFDS orders by a hash of the key: another would renumber all rows.
        yield member, {'id': name, 'image': content, 'label': label}
        told.add()
    told.close()


OFFICIAL = TinyImageNet(
  name='tiny_imagenet',
  version='1.0.0',
  description=__doc__,
  homepage='http://cs231n.stanford.edu',
  url='http://cs231n.stanford.edu/tiny-imagenet-200.zip',
  copies=(_FOLDER,),
  sha256='6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821',
  num_classes=200,
  mean=(0.4802, 0.4481, 0.3975),
  std=(0.2764, 0.2689, 0.2816),
  splits=('train', 'validation'),
  train_per_class=500,
  validation_per_class=50,
)


def _wrong(archive: _Zip, reason: str) -> DataError:
  return DataError(
    f'{archive.filename} is not as the official archive: {reason}; replace it'
  )


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[_Zip]:
  if path.is_dir():
    try:
      yield _unpacked(path)
    except OSError as error:
      raise DataError(f'cannot read {path}: {error}; mend it') from error
    return
  try:
    archive = zipfile.ZipFile(path)
  except arrays.DAMAGE as error:
    raise DataError(f'cannot read {path}: {error}; replace it') from error
  with archive:
    yield archive


def _lines(archive: _Zip, member: str) -> list[str]:
  """Returns the lines of a text file that are not empty."""
  try:
    text = archive.read(member).decode('utf-8-sig')
  except KeyError:
    raise _wrong(archive, f'it has no {member}') from None
  except arrays.DAMAGE as error:
    raise _wrong(archive, f'cannot decode {member}: {error}') from error
  return [line for line in text.splitlines() if line.strip()]


def _classes(archive: _Zip, spec: TinyImageNet) -> list[str]:
  """Returns the classes by name, not in the order of their file.

  Readers of folders number classes so, here and elsewhere: models agree on
  what a class's number means, wherever they were trained.
  """
  classes = sorted({line.strip() for line in _lines(archive, _CLASSES)})
  if len(classes) != spec.num_classes:
    raise _wrong(
      archive,
      f'{_CLASSES} lists {len(classes)} classes, expected {spec.num_classes}',
    )
  return classes


def _files(archive: _Zip, folder: str) -> list[str]:
  """Returns the images below a folder, whichever way they were packed."""
  names = {n for n in archive.namelist() if n.startswith(f'{folder}/')}
  return sorted(name for name in names if name.endswith('.JPEG'))


def _train_labels(
  archive: _Zip, spec: TinyImageNet, classes: list[str]
) -> dict[str, str]:
  """Returns classes by image: those of the folders that images are in."""
  folder = f'{_FOLDER}/train'
  labels = {m: m.split('/')[2] for m in _files(archive, folder)}
  found = set(labels.values())
  if unknown := sorted(found - set(classes)):
    raise _wrong(
      archive,
      f'{_CLASSES} does not list {folder}/{listed(unknown, 1)}',
    )
  if empty := sorted(set(classes) - found):
    raise _wrong(archive, f'no images are in {folder}/{listed(empty, 1)}')
  _check_counts(archive, 'train', labels, classes, spec.train_per_class)
  return labels


def _validation_labels(
  archive: _Zip, spec: TinyImageNet, classes: list[str]
) -> dict[str, str]:
  """Returns classes by image: those of the file of annotations."""
  folder = f'{_FOLDER}/val/images'
  labels = {}
  for line in _lines(archive, _ANNOTATIONS):
    name, *rest = line.split('\t')
    if not rest or f'{folder}/{name}' in labels:
      raise _wrong(
        archive, f'{_ANNOTATIONS} has no class, or a second one, for {name!r}'
      )
    labels[f'{folder}/{name}'] = rest[0]
  if isinstance(archive, _Unpacked):
    its = {member.rpartition('/')[2]: wnid for member, wnid in labels.items()}
    if wrong := archive.disagreeing(its):
      raise _wrong(
        archive, f'{_ANNOTATIONS} has another class for {listed(wrong, 1)}'
      )
  files = set(_files(archive, folder))
  if unlabelled := sorted(files - set(labels)):
    raise _wrong(archive, f'{_ANNOTATIONS} lacks {listed(unlabelled, 1)}')
  if absent := sorted(set(labels) - files):
    raise _wrong(archive, f'{_ANNOTATIONS} names absent {listed(absent, 1)}')
  if unknown := sorted(m for m, k in labels.items() if k not in classes):
    raise _wrong(
      archive,
      f'{_ANNOTATIONS} gives {unknown[0]} the class {labels[unknown[0]]}, '
      f'which {_CLASSES} does not list',
    )
  expected = spec.validation_per_class
  _check_counts(archive, 'validation', labels, classes, expected)
  return dict(sorted(labels.items()))


def _check_counts(
  archive: _Zip,
  split: str,
  labels: Mapping[str, str],
  classes: Iterable[str],
  expected: int,
) -> None:
  counts = collections.Counter(labels.values())
  for name in classes:
    if counts[name] != expected:
      raise _wrong(
        archive,
        f'{split} has {counts[name]} images of {name}, expected {expected}',
      )
