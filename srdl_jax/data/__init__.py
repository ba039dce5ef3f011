# SPDX-License-Identifier: Apache-2.0
"""Data sets, in one order that never changes: in memory, or streamed.

Row i of a split is example i of the full TFDS split, before any shuffling or
subsetting; soft targets are stored under the same numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from srdl_jax.errors import ConfigError, unknown

if TYPE_CHECKING:
  from srdl_jax.data.images import PersonImages, StreamedImages


__all__ = [
  'DATASETS',
  'Dataset',
  'Entry',
  'Location',
  'PREPARED',
  'Retrieval',
  'Shape',
  'Sightings',
  'Split',
  'Subset',
  'arrays',
  'fingerprint',
  'folder_files',
  'imagenet',
  'images',
  'labelled',
  'load',
  'pipeline',
  'sampling',
  'shape',
  'tfds_reader',
]


@dataclasses.dataclass(frozen=True)
class Location:
  """Where a data set may be read, and how it may be fetched.

  Attributes:
    data_dir: TFDS directory; '' is TFDS_DATA_DIR or ~/tensorflow_datasets.
    manual_dir: directory with archives put there by hand; '' is
      downloads/manual below the TFDS directory.
    download: whether a missing archive may be downloaded.
    path: of a folder with images of one's own; or of a copy of a data set.
    image_size: side, in pixels, of the square that is cut out of images of
      any size, or the height of images of persons; 0 is the data set's usual
      one.
    skip_unreadable: leave out images of a folder that can't be read: each is
      decoded for that.
    allow_differences: take a copy of Market-1501 or ImageNet that isn't the
      official one, or folders of persons that look swapped.
    compared: whether a `path` must hold what is prepared; who knows the
      fingerprint, as an evaluation does, need not have the copy.
  """

  data_dir: str = ''
  manual_dir: str = ''
  download: bool = True
  path: str = ''
  image_size: int = 0
  skip_unreadable: bool = False
  allow_differences: bool = False
  compared: bool = True


@dataclasses.dataclass(frozen=True)
class Split:
  """All examples of one split.

  Attributes:
    name: the data set's own: 'train', 'test', 'validation', ...
    images: uint8 [N, H, W, C], values 0 to 255: an array in memory, or images
      that look like one and are decoded when they are asked for.
    labels: int32 [N], values 0 to num_classes - 1.
    fingerprint: the examples' identity, see `fingerprint`.
  """

  name: str
  images: np.ndarray | StreamedImages
  labels: np.ndarray
  fingerprint: str

  @property
  def is_streamed(self) -> bool:
    """Whether the images are decoded when they are asked for."""
    return not isinstance(self.images, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Subset:
  """Those examples of a split that are used.

  Attributes:
    split: all of it.
    rows: numbers of the examples, int [n], ascending.
  """

  split: Split
  rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class Sightings:
  """Images of persons, by whom and by which camera they show.

  Attributes:
    name: 'query', 'gallery' or 'multi_query'.
    images: uint8 [N, H, W, C]: an array, or what looks like one and decodes
      images when they are asked for.
    identities: int32 [N]; none of them is trained on. 0 are distractors, whom
      no query asks for; -1 is junk, which counts neither as right nor wrong.
    cameras: int32 [N].
    fingerprint: the examples' identity, see `fingerprint`.
  """

  name: str
  images: np.ndarray | PersonImages
  identities: np.ndarray
  cameras: np.ndarray
  file_names: tuple[str, ...]
  fingerprint: str


def _pairs(part: Sightings) -> list[tuple[int, int]]:
  return list(zip(part.identities.tolist(), part.cameras.tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class Retrieval:
  """A test that ranks a gallery for each query, as its identities are new.

  Attributes:
    query: whom to look for.
    gallery: where; junk and distractors are in it.
    multi_query: more images of the queries' identities by the queries'
      cameras, for queries of several images; None where there are none.
  """

  query: Sightings
  gallery: Sightings
  multi_query: Sightings | None = None

  @property
  def parts(self) -> tuple[Sightings, ...]:
    """Those that are there, in the order of the attributes."""
    parts = self.query, self.gallery, self.multi_query
    return tuple(part for part in parts if part is not None)

  @property
  def pictured_queries(self) -> np.ndarray:
    """Which queries have images in `multi_query`: bool [Q]."""
    more = self.multi_query
    there = set() if more is None else set(_pairs(more))
    return np.array([pair in there for pair in _pairs(self.query)], bool)

  @property
  def fingerprint(self) -> str:
    """The identity of all parts' examples, as 64 hexadecimal digits."""
    parts = [f'{part.name}\t{part.fingerprint}\n' for part in self.parts]
    return hashlib.sha256(''.join(parts).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What to train and to test on, and what normalises the images.

  Attributes:
    name: a key of `DATASETS`.
    version: of the data, not of this program.
    mean, std: per channel, of training pixels scaled to [0, 1].
    classes: their names, by label; none where they have no names.
    words: what the names mean, where they are codes.
    test: of the same classes; or, where the classes are persons, of whom others
      are to be found again, a retrieval.
  """

  name: str
  version: str
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  train: Split
  test: Split | Retrieval
  classes: tuple[str, ...] = ()
  words: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Shape:
  """What is known of a data set before it is read; images are (H, W, C)."""

  image_shape: tuple[int, int, int]
  num_classes: int
  train_examples: int


def fingerprint(
  full_name: str, split: str, ids: Iterable[str], labels: Iterable[int]
) -> str:
  """Identity of a split: which examples it has, in which order.

  File format and shards are left out: they differ for the same data.

  Args:
    full_name: name and version, such as 'cifar100/3.0.2'.
    ids: the N examples' own, in order.
    labels: of the N examples, in order.

  Returns:
    A sha256 as 64 hexadecimal digits.
  """
  rows = [f'{i}\t{int(k)}\n' for i, k in zip(ids, labels, strict=True)]
  text = f'{full_name}\n{split}\n{len(rows)}\n' + ''.join(rows)
  return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Entry:
  """A data set by its name; its shape may not be known before it is read."""

  load: Callable[[Location], Dataset]
  shape: Shape | None = None


def _loader(name: str) -> Callable[[Location], Dataset]:
  """Returns a loader by its module and name, 'module:function'.

  It is imported when called: scikit-learn and TFDS take a second each, which
  data workers and other data sets' users should not pay.
  """
  return lambda source: pkgutil.resolve_name(f'{__name__}.{name}')(source)


# Loaders, by what `data.name` says. Costs are told by the shapes, without data.
DATASETS: dict[str, Entry] = {
  'digits': Entry(_loader('digits:load'), Shape((8, 8, 1), 10, 1437)),
  'cifar10': Entry(
    _loader('cifar:CIFAR10.load'), Shape((32, 32, 3), 10, 50_000)
  ),
  'cifar100': Entry(
    _loader('cifar:CIFAR100.load'), Shape((32, 32, 3), 100, 50_000)
  ),
  'tiny_imagenet': Entry(
    _loader('tiny_imagenet:OFFICIAL.load'), Shape((64, 64, 3), 200, 100_000)
  ),
  'imagenet': Entry(
    _loader('imagenet:load'), Shape((224, 224, 3), 1000, 1_281_167)
  ),
  'folder': Entry(_loader('folder:load')),
  'market1501': Entry(
    _loader('persons.market1501:load'), Shape((256, 128, 3), 751, 12_936)
  ),
  'reid_folder': Entry(_loader('persons.folder:load')),
}
# Those that are read from `data_dir`, wherever they were prepared from.
PREPARED = ('cifar10', 'cifar100', 'tiny_imagenet', 'market1501')


def shape(name: str) -> Shape:
  """Returns what is known of a data set before it is read.

  Raises:
    ConfigError: there is none of this name; the known ones are listed.
  """
  shapes = {n: entry.shape for n, entry in DATASETS.items() if entry.shape}
  if name not in shapes:
    raise ConfigError(unknown('data set', name, sorted(shapes)))
  return shapes[name]


def load(name: str, **source: str | int) -> Dataset:
  """Loads a data set; prepares it in `data_dir` first where it is missing.

  Args:
    name: a key of `DATASETS`.
    **source: what isn't at its default of `Location`.

  Returns:
    The data set: decoded in memory, or streamed.

  Raises:
    ConfigError: there is no data set of this name.
    DataError: the data is missing, damaged or in a form that can't be read.
  """
  if name not in DATASETS:
    known = sorted(DATASETS)
    raise ConfigError(unknown('data set', name, known, own=True))
  return DATASETS[name].load(Location(**source))
