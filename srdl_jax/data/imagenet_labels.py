# SPDX-License-Identifier: Apache-2.0
"""ImageNet's classes, and the ones of its validation images.

They are told by the official development kit; the official ones come with
TFDS, too, which then does in its place.
"""

import io
import pathlib
import tarfile
import zlib
from collections.abc import Sequence

import scipy.io
import tensorflow_datasets as tfds

from srdl_jax.errors import DataError

DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'

_GROUND_TRUTH = 'data/ILSVRC2012_validation_ground_truth.txt'
_META = 'data/meta.mat'
# What the readers of the development kit raise when it is damaged.
_DAMAGE = (
  EOFError,
  IndexError,
  KeyError,
  OSError,
  TypeError,
  ValueError,
  scipy.io.matlab.MatReadError,
  tarfile.TarError,
  zlib.error,
)


def read(
  folder: pathlib.Path, count: int
) -> tuple[Sequence[str], Sequence[str]]:
  """Returns the classes, and those of the validation images.

  Args:
    folder: where the archives are.
    count: number of validation images, M.

  Returns:
    (the WordNet ids of all classes, those of the M images by file name).

  Raises:
    DataError: the development kit is missing and needed, damaged, or of other
      images.
  """
  path = folder / DEVKIT
  if path.is_file():
    known, truth = _read_devkit(path)
    if len(truth) != count:
      raise DataError(
        f'{path} has the classes of {len(truth):,} validation images, but '
        f'there are {count:,}: the archives do not belong together'
      )
    return known, truth
  known, truth = _read_tfds()
  if len(truth) != count:
    raise DataError(
      f'{DEVKIT} is not in {folder}: it tells the classes of the {count:,} '
      f'validation images (TFDS has them for {len(truth):,}). It is given out '
      'by image-net.org; put it there'
    )
  return known, truth


def _read_tfds() -> tuple[list[str], list[str]]:
  """The official lists, from TFDS's package: they need no development kit."""
  folder = pathlib.Path(tfds.core.tfds_path('datasets/imagenet2012'))
  lists = [folder / name for name in ('labels.txt', 'validation_labels.txt')]
  if not all(path.is_file() for path in lists):
    return [], []
  known, truth = (path.read_text().split() for path in lists)
  return known, truth


def _read_devkit(path: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns the leaves' WordNet ids, and those of the validation images."""
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
    truth = [ids[int(line)] for line in files[_GROUND_TRUTH].split()]
  except _DAMAGE as error:
    raise DataError(
      f'{path} is damaged or another file ({type(error).__name__}: '
      f'{" ".join(str(error).split())}); fetch it again'
    ) from error
  return list(ids.values()), truth
