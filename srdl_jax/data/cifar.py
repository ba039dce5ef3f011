# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009).

Read from a TFDS directory in ArrayRecord form; where that is missing it is
prepared, with the rows, ids and layout that TFDS gives it, from the official
archive of binary files. TFDS's own preparation needs TensorFlow.
"""

import dataclasses
import pathlib
import tarfile
from collections.abc import Iterable

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from srdl_jax.data import preparation

_SHAPE = (32, 32, 3)


@dataclasses.dataclass(frozen=True)
class Cifar(preparation.Archive):
  """One of the two data sets and its archive.

  Attributes:
    folder: the archive's only folder.
    files: per split, files of records: labels, then a 3 x 32 x 32 image.
    class_names: per label, in the order of a record, its file of names.
  """

  folder: str
  files: dict[str, tuple[str, ...]]
  class_names: dict[str, str]

  def features(
    self, path: pathlib.Path
  ) -> dict[str, tfds.features.FeatureConnector]:
    files = self._read(path, self.class_names.values())
    labels = [tfds.features.ClassLabel(names=f.decode().split()) for f in files]
    return {
      **dict(zip(self.class_names, labels, strict=True)),
      'id': tfds.features.Text(),
      'image': tfds.features.Image(shape=_SHAPE),
    }

  def examples(
    self, path: pathlib.Path
  ) -> dict[str, preparation.KeyedExamples]:
    return {split: self._examples_of(path, split) for split in self.splits}

  def _examples_of(
    self, path: pathlib.Path, split: str
  ) -> preparation.KeyedExamples:
    records = b''.join(self._read(path, self.files[split]))
    count = len(self.class_names)
    rows = np.frombuffer(records, np.uint8).reshape(-1, count + 3072)
    for i, row in enumerate(rows):
      pixels = row[count:].reshape(3, 32, 32).transpose(1, 2, 0)
      # A row begins with the labels; its pixels are left over.
      example = dict(zip(self.class_names, row.tolist(), strict=False))
      example['id'] = f'{split}_{i:05d}'
      # TFDS would encode an array with TensorFlow.
      example['image'] = Image.fromarray(pixels)
      # TFDS's order is a hash of the key, which is that of its own builder.
      yield i, example

  def _read(self, path: pathlib.Path, files: Iterable[str]) -> list[bytes]:
    with tarfile.open(path) as tar:
      members = [tar.extractfile(f'{self.folder}/{file}') for file in files]
      return [member.read() for member in members]


_BOTH = {
  'version': '3.0.2',
  'description': __doc__,
  'homepage': 'https://www.cs.toronto.edu/~kriz/cifar.html',
  'splits': ('train', 'test'),
}
CIFAR10 = Cifar(
  **_BOTH,
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
  **_BOTH,
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
