# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009).

Read from a TFDS directory in ArrayRecord form; where that is missing it is
prepared, with the rows, ids and layout that TFDS gives it, from the official
archive of binary files, or from a copy: those files unpacked, or the pickles
for Python, packed or not. TFDS's own preparation needs TensorFlow.
"""

import dataclasses
import hashlib
import os
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from srdl_jax.data import cifar_files, preparation
from srdl_jax.data.cifar_files import PIXELS, Contents, Names

_SHAPE = (32, 32, 3)
_TARS = ('.tar', '.tar.bz2', '.tar.gz', '.tar.xz', '.tbz2', '.tgz', '.txz')


@dataclasses.dataclass(frozen=True)
class Cifar(preparation.Archive):
  """One of the two data sets and its archive.

  Attributes:
    files: what they are called.
    per_class: per split, images of each class.
    official: what shows a copy to be official: the MD5 of each pickle, or the
      sha256 of the classes' names and of each split's records.
  """

  files: Names
  per_class: dict[str, int]
  official: dict[str, str]

  def features(
    self, path: pathlib.Path
  ) -> dict[str, tfds.features.FeatureConnector]:
    names = cifar_files.read(path, self.files).names
    labels = [tfds.features.ClassLabel(names=its) for its in names]
    return {
      **dict(zip(self.files.classes, labels, strict=True)),
      'id': tfds.features.Text(),
      'image': tfds.features.Image(shape=_SHAPE),
    }

  def examples(
    self, path: pathlib.Path
  ) -> dict[str, preparation.KeyedExamples]:
    records = cifar_files.read(path, self.files).records
    return {
      s: self._examples_of(s, [*records[s].values()]) for s in self.splits
    }

  def is_copy(self, path: pathlib.Path) -> bool:
    if os.path.isfile(path):
      return path.name.lower().endswith(_TARS)
    forms = (self.files.in_form(pickled=pickled) for pickled in (False, True))
    return any(os.path.isfile(path / name) for form in forms for name in form)

  def check_copy(self, path: pathlib.Path) -> str:
    contents = cifar_files.read(path, self.files)
    self._check_counts(path, contents)
    lines = (f'{name}\n' for names in contents.names for name in names)
    digests = {'names': hashlib.sha256(''.join(lines).encode()).hexdigest()}
    for split, files in contents.records.items():
      digests[split] = hashlib.sha256(b''.join(files.values())).hexdigest()
    if self.official in (digests, contents.md5):
      return ''
    return hashlib.sha256(''.join(digests.values()).encode()).hexdigest()

  def _check_counts(self, path: pathlib.Path, contents: Contents) -> None:
    count, names = self.num_classes, contents.names[-1]
    if {len(names), len(set(names))} != {count}:
      raise cifar_files.wrong(
        path, f'it names {len(set(names))} classes, expected {count}'
      )
    for split, files in contents.records.items():
      each = self.per_class[split]
      expected = each * count // len(files)
      for name, rows in files.items():
        if len(rows) != expected:
          raise cifar_files.wrong(
            path, f'{name} has {len(rows):,} images, expected {expected:,}'
          )
      labels = np.concatenate([*files.values()])[:, :-PIXELS]
      for names, its in zip(contents.names, labels.T, strict=True):
        if its.max() >= len(names):
          raise cifar_files.wrong(
            path, f'{split} has a label {its.max()}, of {len(names)} classes'
          )
      counts = np.bincount(labels[:, -1], minlength=count)
      for name, found in zip(contents.names[-1], counts, strict=True):
        if found != each:
          raise cifar_files.wrong(
            path, f'{split} has {found:,} images of {name}, expected {each:,}'
          )

  def _examples_of(
    self, split: str, files: list[np.ndarray]
  ) -> preparation.KeyedExamples:
    for i, row in enumerate(row for rows in files for row in rows):
      pixels = row[-PIXELS:].reshape(3, 32, 32).transpose(1, 2, 0)
      # A row begins with the labels; its pixels are left over.
      example = dict(zip(self.files.classes, row.tolist(), strict=False))
      example['id'] = f'{split}_{i:05d}'
      # TFDS would encode an array with TensorFlow.
      example['image'] = Image.fromarray(pixels)
      # TFDS's order is a hash of the key, which is that of its own builder.
      yield i, example


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
  copies=(
    'cifar-10-batches-py',
    'cifar-10-batches-bin',
    'cifar-10-python.tar.gz',
  ),
  files=Names(
    records={
      'train': tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
      'test': ('test_batch.bin',),
    },
    classes={'label': 'batches.meta.txt'},
    pickled=('batches.meta', 'label_names'),
  ),
  per_class={'train': 5000, 'test': 1000},
  # As torchvision has them.
  official={
    'data_batch_1': 'c99cafc152244af753f735de768cd75f',
    'data_batch_2': 'd4bba439e000b95fd0a9bffe97cbabec',
    'data_batch_3': '54ebc095f3ab1f0389bbae665268c751',
    'data_batch_4': '634d18415352ddfa80567beed471001a',
    'data_batch_5': '482c414d41f54cd18b22e5b47cb7c3cb',
    'test_batch': '40351d587109b95175f43aff81a1287e',
    'batches.meta': '5ff9c542aee3614f3951f8cda6e48888',
  },
)
CIFAR100 = Cifar(
  **_BOTH,
  name='cifar100',
  num_classes=100,
  mean=(0.5071, 0.4865, 0.4409),
  std=(0.2673, 0.2564, 0.2762),
  url='https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz',
  sha256='58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec',
  copies=('cifar-100-python', 'cifar-100-binary', 'cifar-100-python.tar.gz'),
  files=Names(
    records={'train': ('train.bin',), 'test': ('test.bin',)},
    classes={
      'coarse_label': 'coarse_label_names.txt',
      'label': 'fine_label_names.txt',
    },
    pickled=('meta', 'coarse_label_names', 'fine_label_names'),
  ),
  per_class={'train': 500, 'test': 100},
  # Of the official archive's, as TFDS prepares it.
  official={
    'names': '94f5133b758c7346651203f245ef47baa76176447130aa72cfb4edd08b131a25',
    'train': 'f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29',
    'test': 'd8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a',
  },
)
