# SPDX-License-Identifier: Apache-2.0
"""Parts of a re-identification data set: what their file names tell, and how
they become a `data.Dataset`.

0002_c1s1_000451_03.jpg of Market-1501 is identity 2, seen by camera 1 in its
first sequence, frame 451, box 3. DukeMTMC-reID has 0005_c2_f0046985.jpg, MSMT17
is often renamed to 0012_c14_0003.jpg, CUHK03-NP has 0001_c1_1.png, and VeRi-776
0001_c001_00016450_0.jpg. Some end in .jpg.jpg.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from srdl_jax import data
from srdl_jax.data.images import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  EncodedImages,
  PersonImages,
)
from srdl_jax.errors import ConfigError

__all__ = [
  'DISTRACTOR',
  'JUNK',
  'Part',
  'dataset',
  'folder',
  'layouts',
  'market1501',
  'parse',
]

# The detector found a part of a person, or nobody: never wrong, never right.
JUNK = -1
# Somebody whom no query asks for.
DISTRACTOR = 0
VERSION = '1.0.0'
HEIGHT = 256
_NAME = re.compile(
  r'(-1|[0-9]{4})_c([0-9]{1,2}|[0-9]{3}(?=_[0-9]{8}_))(?:'
  r's[0-9]_[0-9]{6}_[0-9]{2}\.jpg(?:\.jpg)?|'
  r'_f?[0-9]+(?:\.png|\.jpg(?:\.jpg)?)|'
  r'_[0-9]{8}_[0-9]+\.jpg)'
)


def parse(name: str) -> tuple[int, int] | None:
  """Returns the identity and the camera that a file's name tells, or None.

  Without its folder: 0002_c1s1_000451_03.jpg is (2, 1).
  """
  match = _NAME.fullmatch(name)
  return match and (int(match[1]), int(match[2]))


@dataclasses.dataclass(frozen=True)
class Part:
  """The images of one folder, in the order of their names.

  Attributes:
    folder: what it is called in the data set.
    names: of the N files.
    told: the N identities and cameras.
    digests: of the files' content.
    identities, cameras: int32 [N].
  """

  folder: str
  names: Sequence[str]
  told: Sequence[tuple[int, int]]
  digests: Sequence[str]
  records: EncodedImages
  identities: np.ndarray = dataclasses.field(init=False)
  cameras: np.ndarray = dataclasses.field(init=False)

  def __post_init__(self):
    told = np.array(self.told, np.int32)
    identities, cameras = told.reshape(-1, 2).T
    object.__setattr__(self, 'identities', identities)
    object.__setattr__(self, 'cameras', cameras)

  def __len__(self) -> int:
    return len(self.names)

  @property
  def pairs(self) -> list[tuple[int, int]]:
    """The N identities, each with its camera."""
    cameras = self.cameras.tolist()
    return list(zip(self.identities.tolist(), cameras, strict=True))

  def fingerprint(self, full_name: str, split: str) -> str:
    """Returns the identity of these examples, see `data.fingerprint`."""
    pairs = zip(self.names, self.digests, strict=True)
    ids = [f'{name}\t{digest}' for name, digest in pairs]
    return data.fingerprint(full_name, split, ids, self.identities)


def dataset(
  name: str, parts: Mapping[str, Part], height: int = 0
) -> data.Dataset:
  """Makes a data set of its parts; its training images are decoded.

  Args:
    name: a key of `data.DATASETS`.
    parts: 'train', 'query', 'gallery' and, if there are any, 'multi_query'.
    height: of all images, in pixels, twice their width; 0 is 256.

  Returns:
    The data set. Training identities are numbered in ascending order; those of
    `test`, a `data.Retrieval`, stay as they are.

  Raises:
    ConfigError: the height is odd.
    DataError: a training image can't be read.
  """
  height = height or HEIGHT
  if height % 2:
    raise ConfigError(
      f'data.image_size = {height}: the height of images of persons is even, '
      'twice their width.'
    )
  sightings = {
    split: data.Sightings(
      name=split,
      images=PersonImages(part.records, height, height // 2),
      identities=part.identities,
      cameras=part.cameras,
      file_names=tuple(part.names),
      fingerprint=part.fingerprint(f'{name}/{VERSION}', split),
    )
    for split, part in parts.items()
  }
  train = sightings.pop('train')
  identities, labels = np.unique(train.identities, return_inverse=True)
  return data.Dataset(
    name=name,
    version=VERSION,
    num_classes=len(identities),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    train=data.Split(
      name='train',
      images=train.images[:],
      labels=labels.astype(np.int32),
      fingerprint=train.fingerprint,
    ),
    test=data.Retrieval(**sightings),
  )
