# SPDX-License-Identifier: Apache-2.0
"""Labelled images from elsewhere, whose classes a network knows by name."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from srdl_jax import storage
from srdl_jax.data import folder_files, tfds_reader
from srdl_jax.data.images import EncodedImages
from srdl_jax.errors import DataError

_TFDS = 'tfds:'
_SHOWN = 5
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Labelled:
  """Encoded images and their labels, in the numbers of the network's classes.

  Attributes:
    labels: int32 [N].
  """

  records: EncodedImages
  labels: np.ndarray


def read(source: str, classes: Sequence[str], data_dir: str = '') -> Labelled:
  """Finds labelled images.

  Args:
    source: a folder with one for each class, or with those in `val` or what
      else training takes for it, see `folder`;
      or tfds:NAME or tfds:NAME/SPLIT, a data set prepared in ArrayRecord form,
      of which 'test' is taken, or 'validation' where there is none.
    classes: names of the network's classes, by label. Not all must be there.
    data_dir: TFDS directory, see `Location`.

  Raises:
    DataError: there is no such data, a class has another name, a file can't be
      read, or nothing is there.
  """
  if source.startswith(_TFDS):
    return _tfds(source.removeprefix(_TFDS), classes, data_dir)
  root = storage.expanded(source, '--data').absolute()
  if not os.path.isdir(root):
    raise DataError(f'--data={source}: there is no such folder.')
  found = folder_files.entries(root)
  folders = {folder_files.printable(n) for n in folder_files.folders(root)}
  tests = folder_files.named(found, folder_files.TEST_FOLDERS)
  # Unless it is a class.
  split = bool(tests) and not folders <= set(classes)
  directory = root / tests[0] if split else root
  (part,), faults = folder_files.images(root, [directory])
  # As a network's record has them.
  part = {folder_files.printable(name): its for name, its in part.items()}
  _refuse_unknown(str(directory), [n for n in part if part[n]], classes)
  paths = [path for name in part for path in part[name]]
  _, unreadable = folder_files.look_at(root, paths)
  if faults := [*faults, *unreadable]:
    folder_files.report(root, faults, None)
  if not paths:
    raise DataError(f'there are no images in the folders in {directory}.')
  _log.info('testing on %d images in %s', len(paths), directory)
  counts = [len(part[name]) for name in part]
  numbers = [classes.index(n) if part[n] else -1 for n in part]
  labels = np.repeat(np.array(numbers, np.int32), counts)
  return Labelled(folder_files.Files(str(root), tuple(paths)), labels)


def _refuse_unknown(
  where: str, names: Sequence[str], classes: Sequence[str]
) -> None:
  strange = [name for name in names if name not in classes]
  if strange:
    raise DataError(
      f'{where}: the network has no class '
      f'{folder_files.listed(strange, _SHOWN)}; it knows '
      f'{folder_files.listed(list(classes), 2 * _SHOWN)}.'
    )


class _TfdsImages:
  """The encoded images of a split, by row: see `images.EncodedImages`."""

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
    self._name = f'{builder.info.full_name}, {split}'
    self._source = builder.as_data_source(
      split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, row: int) -> bytes:
    return self._feature(row, 'image').bytes_list.value[0]

  def label(self, row: int) -> int:
    """Returns the data set's own number of the row's class."""
    return self._feature(row, 'label').int64_list.value[0]

  def name(self, row: int) -> str:
    return f'{self._name}, row {row}'

  def _feature(self, row: int, name: str) -> tf_example_pb2.Example:
    example = tf_example_pb2.Example.FromString(self._source[row])
    return example.features.feature[name]


def _tfds(text: str, classes: Sequence[str], data_dir: str) -> Labelled:
  name, _, split = text.partition('/')
  root = tfds_reader.root(data_dir, name)
  versions = [path.parent for path in (root / name).glob('*/dataset_info.json')]
  if not versions:
    raise DataError(
      f'--data={_TFDS}{text}: {name} is not in {root}; say where it is with '
      '--data_dir=DIR'
    )
  directory = max(versions, key=_version)
  builder = tfds_reader.open_builder(directory, (split,) if split else ())
  if not split:
    there = [s for s in ('test', 'validation') if s in builder.info.splits]
    if not there:
      raise DataError(
        f'{directory} has no test split: name one of '
        f'{", ".join(builder.info.splits)}, as in --data={_TFDS}{name}/SPLIT'
      )
    split = there[0]
    builder = tfds_reader.open_builder(directory, (split,))
  _check_features(directory, builder)
  names = tfds_reader.class_names(builder)
  records = _TfdsImages(builder, split)
  own = np.array([records.label(row) for row in range(len(records))], int)
  if not len(own):
    raise DataError(f'{directory}: its split {split!r} is empty.')
  # TFDS has -1 where a label isn't given away.
  tfds_reader.check_labels(f'{directory}, {split}', own, len(names))
  _refuse_unknown(str(directory), [names[n] for n in np.unique(own)], classes)
  known = {n: classes.index(names[n]) for n in np.unique(own)}
  return Labelled(records, np.array([known[n] for n in own], np.int32))


def _check_features(
  directory: pathlib.Path, builder: tfds.core.DatasetBuilder
) -> None:
  features = builder.info.features
  wanted = {
    'image': tfds.features.Image,
    'label': tfds.features.ClassLabel,
  }
  for name, kind in wanted.items():
    if name not in features or not isinstance(features[name], kind):
      raise DataError(
        f'{directory} has no feature {name!r} that is a {kind.__name__}: it is '
        'no set of labelled images.'
      )


def _version(path: pathlib.Path) -> tuple[int, ...]:
  return tuple(int(n) for n in path.name.split('.') if n.isdecimal())
