# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009).

Read from a TFDS directory in ArrayRecord form; where that is missing it is
prepared, with the rows, ids and layout that TFDS gives it, from the official
archive of binary files. TFDS's own preparation needs TensorFlow.
"""

import dataclasses
import functools
import pathlib
import tarfile
from collections.abc import Iterable

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from srdl_jax import data
from srdl_jax.data import preparation, tfds_reader

VERSION = '3.0.2'
_SHAPE = (32, 32, 3)


@dataclasses.dataclass(frozen=True)
class Cifar:
  """One of the two data sets and its archive.

  Attributes:
    name: the data set's name in TFDS.
    num_classes: number of classes, K.
    mean: per channel, of training pixels scaled to [0, 1].
    std: per channel, of training pixels scaled to [0, 1].
    url: the official archive.
    sha256: the archive's digest.
    folder: the archive's only folder.
    files: per split, files of records: labels, then a 3 x 32 x 32 image.
    class_names: per label, in the order of a record, its file of names.
  """

  name: str
  num_classes: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  url: str
  sha256: str
  folder: str
  files: dict[str, tuple[str, ...]]
  class_names: dict[str, str]

  @property
  def archive(self) -> str:
    """The archive's file name."""
    return self.url.rpartition('/')[2]


CIFAR10 = Cifar(
  name='cifar10',
  num_classes=10,
  mean=(0.4914, 0.4822, 0.4465),
  std=(0.2470, 0.2435, 0.2616),
  url='https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',
  sha256='c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
  folder='cifar-10-batches-bin',
  files={
    'train': tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
    'test': ('test_batch.bin',),
  },
  class_names={'label': 'batches.meta.txt'},
)
CIFAR100 = Cifar(
  name='cifar100',
  num_classes=100,
  mean=(0.5071, 0.4865, 0.4409),
  std=(0.2673, 0.2564, 0.2762),
  url='https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz',
  sha256='58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec',
  folder='cifar-100-binary',
  files={'train': ('train.bin',), 'test': ('test.bin',)},
  class_names={
    'coarse_label': 'coarse_label_names.txt',
    'label': 'fine_label_names.txt',
  },
)


def load(spec: Cifar, source: data.Location) -> data.Dataset:
  """Loads CIFAR into memory, after preparing it where it is missing.

  Args:
    spec: CIFAR10 or CIFAR100.
    source: where it is, or may be fetched from.

  Returns:
    The data set, images uint8 [N, 32, 32, 3].

  Raises:
    DataError: it is missing, damaged or in another form than ArrayRecord.
  """
  directory = _archive(spec).directory(source)
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


load_cifar10 = functools.partial(load, CIFAR10)
load_cifar100 = functools.partial(load, CIFAR100)


def prepare(spec: Cifar, source: data.Location) -> None:
  """Makes the TFDS directory from the archive, all of it or nothing.

  Of several processes that call this at once, one prepares and others wait.

  Args:
    spec: CIFAR10 or CIFAR100.
    source: where the archive is, or may be fetched to.

  Raises:
    DataError: there is no archive, it is damaged, or nothing can be written.
  """
  make = functools.partial(builder_class, spec)
  preparation.prepare(_archive(spec), source, make)


def _archive(spec: Cifar) -> preparation.Archive:
  return preparation.Archive(spec.name, VERSION, spec.url, spec.sha256)


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
    spec: CIFAR10 or CIFAR100.
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
