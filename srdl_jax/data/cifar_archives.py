# SPDX-License-Identifier: Apache-2.0
"""What is known of CIFAR-10, CIFAR-100 and their official archives."""

import dataclasses


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
