# SPDX-License-Identifier: Apache-2.0
"""ImageNet (ILSVRC 2012): 1.28 million images of 1000 classes, streamed.

Read from TFDS's imagenet2012 in ArrayRecord form, which `python -m
srdl_jax.data.prepare imagenet2012` makes, or TFDS itself where TensorFlow is
installed; or from folders of classes, see `folder`. Images stay on disk; labels
are in memory.
"""

import contextlib
import logging
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from srdl_jax import data
from srdl_jax.data import tfds_reader
from srdl_jax.data.imagenet import index as imagenet_index
from srdl_jax.data.imagenet.index import Index
from srdl_jax.data.images import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  EncodedImages,
  StreamedImages,
)
from srdl_jax.data.records import Records
from srdl_jax.errors import DataError
from srdl_jax.storage import locks

__all__ = [
  'NAME',
  'SPLITS',
  'VERSION',
  'archives',
  'directory_of',
  'folder',
  'load',
  'open_builder',
  'preparation',
  'streamed',
]

NAME = 'imagenet2012'  # TFDS's.
VERSION = '5.1.0'  # TFDS's.
SPLITS = ('train', 'validation')  # TFDS's names of them.
_SIZE, _RESIZE = 224, 256
_log = logging.getLogger(__name__)


def load(source: data.Location) -> data.Dataset:
  """Opens ImageNet; images are read and decoded when they are asked for.

  Returns:
    The data set; `test` is TFDS's split 'validation'. Its number of classes is
    that of the prepared directory, or of `source.path`'s folders.

  Raises:
    DataError: it is missing, damaged or in another form than ArrayRecord.
  """
  if source.path:
    from srdl_jax.data.imagenet import folder

    return folder.load(source)
  directory = directory_of(source)
  if not directory.exists():
    raise DataError(
      f'{NAME}/{VERSION} is not in {tfds_reader.root(source.data_dir, NAME)}. '
      f'Prepare it from the official archives with `python -m '
      f'srdl_jax.data.prepare {NAME} --manual_dir=DIR --data_dir=DIR`, or set '
      'data_dir to where it is prepared'
    )
  builder = open_builder(directory)
  num_classes = builder.info.features['label'].num_classes
  indices = _indices(builder, directory)
  splits = [builder.info.splits[split] for split in SPLITS]
  train, validation = (
    data.Split(
      name=name,
      images=streamed(
        Records(info.filepaths, info.shard_lengths), source.image_size
      ),
      labels=indices[info.name].labels,
      fingerprint=indices[info.name].fingerprint,
    )
    for name, info in zip(('train', 'test'), splits, strict=True)
  )
  return data.Dataset(
    name='imagenet',
    version=VERSION,
    num_classes=num_classes,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    train=train,
    test=validation,
    classes=(names := tfds_reader.class_names(builder, num_classes)),
    words=tfds_reader.class_words(directory, names),
  )


def streamed(records: EncodedImages, size: int) -> StreamedImages:
  """Returns images as networks for ImageNet see them; `size` 0 is 224."""
  size = size or _SIZE
  return StreamedImages(records, size, resize=round(size * _RESIZE / _SIZE))


def directory_of(source: data.Location) -> pathlib.Path:
  """Where the prepared data set is, or will be."""
  return tfds_reader.directory(source.data_dir, NAME, VERSION)


def open_builder(directory: pathlib.Path) -> tfds.core.DatasetBuilder:
  """Opens the prepared data set, see `tfds_reader.open_builder`."""
  return tfds_reader.open_builder(directory, SPLITS)


def _indices(
  builder: tfds.core.DatasetBuilder, directory: pathlib.Path
) -> dict[str, Index]:
  """Returns the splits' indices; what isn't beside the shards is made once."""
  indices = _fitting(builder, directory)
  if len(indices) < len(SPLITS):
    with contextlib.ExitStack() as stack:
      # Where nothing can be written, everyone reads for himself.
      with contextlib.suppress(OSError):
        stack.enter_context(locks.taking_turns(directory.parent))
      # Whoever was waited for may have made them.
      stored = _fitting(builder, directory)
      infos = builder.info.splits
      indices = {s: stored.get(s) or _built(infos[s]) for s in SPLITS}
      if len(stored) < len(SPLITS):
        _keep(directory, indices)
  num_classes = builder.info.features['label'].num_classes
  for split, index in indices.items():
    where = f'{directory}, {split}'
    if not len(index.labels):
      raise DataError(f'{where}: there are no images')
    tfds_reader.check_labels(where, index.labels, num_classes)
  return indices


def _built(info: tfds.core.SplitInfo) -> Index:
  folder = info.filepaths[0].parent
  _log.warning('reading all of %s once, for its labels', folder)
  return imagenet_index.build(f'{NAME}/{VERSION}', info)


def _fitting(
  builder: tfds.core.DatasetBuilder, directory: pathlib.Path
) -> dict[str, Index]:
  """Returns the stored indices that belong to the shards that are there."""
  return {
    split: index
    for split, index in imagenet_index.read(directory, SPLITS).items()
    if np.array_equal(
      index.shards, imagenet_index.shards_of(builder.info.splits[split])
    )
  }


def _keep(directory: pathlib.Path, indices: dict[str, Index]) -> None:
  try:
    imagenet_index.write(directory, indices)
  except OSError as error:
    _log.warning(
      'cannot keep the labels in %s (%s): the next run reads all images again',
      directory,
      error,
    )
