# SPDX-License-Identifier: Apache-2.0
"""Reads a prepared TFDS directory of ArrayRecord files, without TensorFlow."""

import io
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError
from google.protobuf.message import DecodeError
from PIL import Image, UnidentifiedImageError
from tensorflow_datasets.proto import tf_example_pb2

from srdl_jax import data, storage
from srdl_jax.data import fetching
from srdl_jax.errors import DataError
from srdl_jax.storage import arrays

# Beside the files of a prepared data set whose classes' names are codes.
WORDS = 'words.txt'
# Beside those that were not shown to be the official archive's: a digest.
COPY = 'copy.txt'
_VERSION = re.compile(r'\d+\.\d+\.\d+')
_CHUNK = 1024
# What array_record, the parsers and the image decoder raise when the bytes are
# not what they should be.
_DAMAGE = (*arrays.DAMAGE, DecodeError, ParseError)
_log = logging.getLogger(__name__)


def directory(data_dir: str, dataset: str, version: str) -> pathlib.Path:
  """Where a version of a data set is, or would be prepared.

  What lies in a bucket is copied to this machine first.

  Args:
    data_dir: a local path or gs://BUCKET/FOLDER; '' is TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    dataset: its name in TFDS.
    version: such as '1.0.0'.

  Raises:
    DataError: it is not in the bucket or cannot be copied from there, the path
      is another address, or there are other versions of it only.
  """
  chosen = _chosen(data_dir, dataset)
  if chosen != _given(data_dir):
    told = _given(data_dir), dataset, chosen
    _log.info('data_dir %s is a folder of %s itself: taking %s', *told)
  if storage.is_bucket(chosen):
    return fetching.copy_from_bucket(chosen, dataset, version)
  place = root(data_dir, dataset) / dataset / version
  storage.reachable(place, 'data_dir')
  if not place.exists() and (others := _versions(place.parent)):
    raise DataError(
      f'{place.parent} holds {dataset}/{", ".join(others)} and not {version}, '
      'which is wanted: set data_dir to where that is, or to another '
      'directory, to have it prepared there'
    )
  return place


def root(data_dir: str, dataset: str = '') -> pathlib.Path:
  """The TFDS directory of this machine that a `data_dir` stands for.

  Args:
    data_dir: see `directory`.
    dataset: whose own folder, or that of a version of it, may be named, too.

  Raises:
    DataError: the path is an address, such as that of a bucket.
    ConfigError: it isn't UTF-8, or there is no home directory.
  """
  chosen = _chosen(data_dir, dataset)
  if '://' in chosen:
    raise DataError(
      f'data_dir {chosen} is not a local directory; copy the data set to a '
      'local disk and give its path'
    )
  path = _local(chosen)
  storage.refuse_other_letters(path, 'data_dir')
  return path


def _given(data_dir: str) -> str:
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return data_dir or default


def _chosen(data_dir: str, dataset: str) -> str:
  """Returns the directory above a data set's own, where that is named."""
  given = _given(data_dir)
  away = '://' in given
  path = given.rstrip('/') if away else os.path.abspath(_local(given))
  above, name = os.path.split(path)
  if _VERSION.fullmatch(name) and os.path.basename(above) == dataset:
    own = above
  elif dataset and name == dataset and not away and _versions(_local(path)):
    own = path
  else:
    return given
  # What lies below it is there to be read: a directory may have any name.
  inside = not away and os.path.isdir(os.path.join(path, dataset))
  return given if inside else os.path.dirname(own)


def _local(path: str) -> pathlib.Path:
  return storage.reachable(path, 'data_dir')


def _versions(folder: pathlib.Path) -> list[str]:
  """Returns the versions of a data set that are prepared in its folder."""
  known = (path for path in folder.glob('*') if _VERSION.fullmatch(path.name))
  # One that is closed must not look like none.
  return sorted(
    path.name
    for path in known
    if (storage.reachable(path, 'data_dir') / 'dataset_info.json').is_file()
  )


def open_builder(
  directory: pathlib.Path, splits: Sequence[str] = ('train', 'test')
) -> tfds.core.DatasetBuilder:
  """Opens a prepared version of a data set, after a look at its files.

  Args:
    directory: `<data_dir>/<name>/<version>`.
    splits: those that will be read.

  Returns:
    A builder that reads ArrayRecord files, all of which exist.

  Raises:
    DataError: metadata or a shard is missing, or the form is another.
  """
  for name in ('dataset_info.json', 'features.json'):
    if not (directory / name).is_file():
      raise DataError(
        f'{directory} is incomplete: it has no {name}; remove the '
        'directory to have it prepared again'
      )
  try:
    builder = tfds.builder_from_directory(directory)
    formats = builder.info.available_file_formats()
    if absent := {'image', 'label'} - {*builder.info.features}:
      raise ValueError(f'there is no feature {", ".join(sorted(absent))}')
    for split in builder.info.splits.values():
      _ = split.filepaths
  # For a feature of no kind TFDS would import TensorFlow.
  except (*_DAMAGE, ImportError) as error:
    reason = arrays.reason_of(error)
    raise DataError(
      f'cannot read the metadata in {directory}: {reason}; remove the '
      'directory to have it prepared again'
    ) from error
  wanted = tfds.core.FileFormat.ARRAY_RECORD
  if wanted not in formats:
    found = ', '.join(sorted(f.value for f in formats)) or 'unknown'
    raise DataError(
      f'{directory} holds the data set in {found} form, which cannot be '
      'read by row; it stays as it is. Set data_dir to another directory: '
      'there it is prepared in array_record form'
    )
  if builder.info.file_format != wanted:
    # What as_data_source does later; the paths are looked at before.
    builder.info.set_file_format(
      wanted, override=True, override_if_initialized=True
    )
  for name in splits:
    if name not in builder.info.splits:
      raise DataError(f'{directory} has no split {name!r}')
    for path in builder.info.splits[name].filepaths:
      if not path.exists():
        raise DataError(
          f'{directory} is incomplete: {path.name} is missing; restore it, '
          'or remove the directory to have it prepared again'
        )
  return builder


def read_split(
  builder: tfds.core.DatasetBuilder, name: str, num_classes: int
) -> data.Split:
  """Reads and decodes all examples of a split, in TFDS's order.

  Args:
    builder: from `open_builder`; its examples have image, label and id.

  Returns:
    The split, images uint8 [N, H, W, C].

  Raises:
    DataError: a file is damaged, or its examples are not what was expected.
  """
  info = builder.info
  shape = info.features['image'].shape
  if None in shape:
    raise DataError(f'{info.full_name}: images are of several sizes, {shape}')
  count = info.splits[name].num_examples
  images = np.empty((count, *shape), np.uint8)
  labels = np.empty(count, np.int32)
  ids = []
  for row, (image, label, example_id) in enumerate(_examples(builder, name)):
    images[row] = image
    labels[row] = label
    ids.append(example_id)
  if count:
    check_labels(f'{info.full_name}, {name}', labels, num_classes)
  full_name = info.full_name + copy_mark(pathlib.Path(builder.data_path))
  identity = data.fingerprint(full_name, name, ids, labels)
  return data.Split(name, images, labels, identity)


def class_names(
  builder: tfds.core.DatasetBuilder, num_classes: int | None = None
) -> tuple[str, ...]:
  """Returns the names of a data set's classes, by label.

  Where there are none, TFDS numbers them.

  Raises:
    DataError: `num_classes` are to be named, and others or none are.
  """
  names = tuple(builder.info.features['label'].names)
  path = pathlib.Path(builder.data_path) / 'label.labels.txt'
  found = len(names) if path.is_file() else 0
  if num_classes not in (None, found):
    raise DataError(
      f'{path} names {found:,} of {num_classes:,} classes: restore it, or '
      'remove the directory to have it prepared again'
    )
  return names


def class_words(
  directory: pathlib.Path, classes: Sequence[str]
) -> tuple[str, ...]:
  """Returns what classes' names mean, by WORDS in a prepared directory.

  It has a line `name<TAB>meaning` for each; there is nothing without the file,
  and '' for a name that isn't in it.

  Raises:
    DataError: it can't be read.
  """
  path = directory / WORDS
  if not path.is_file():
    return ()
  try:
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(
      f'cannot read {path}: {error}; mend or remove it'
    ) from error
  meaning = dict(line.partition('\t')[::2] for line in lines)
  return tuple(meaning.get(name, '').strip() for name in classes)


def write_words(directory: pathlib.Path, meaning: Mapping[str, str]) -> None:
  """Writes WORDS, if anything is known.

  Raises:
    OSError: nothing can be written there.
  """
  if meaning:
    lines = (f'{name}\t{words}\n' for name, words in meaning.items())
    (directory / WORDS).write_text(''.join(lines), encoding='utf-8')


def copy_mark(directory: pathlib.Path) -> str:
  """Returns what the name of a prepared copy is marked with, by COPY.

  Raises:
    DataError: the file can't be read.
  """
  path = directory / COPY
  try:
    return f'+copy {path.read_text().strip()}' if path.exists() else ''
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(
      f'cannot read {path}: {error}; remove {directory} to have it prepared '
      'again'
    ) from error


def check_labels(where: str, labels: np.ndarray, num_classes: int) -> None:
  """Raises a DataError where a label is not in 0 .. num_classes - 1."""
  if not 0 <= labels.min() <= labels.max() < num_classes:
    raise DataError(
      f'{where}: labels from {labels.min()} to {labels.max()}, expected 0 to '
      f'{num_classes - 1}'
    )


def _examples(
  builder: tfds.core.DatasetBuilder, name: str
) -> Iterator[tuple[np.ndarray, int, str]]:
  """Yields images, labels and ids, by shard so that errors name a file."""
  split = builder.info.splits[name]
  source = builder.as_data_source(
    split=name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
  )
  shape = builder.info.features['image'].shape
  start = 0
  for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
    stop = start + length
    for first in range(start, stop, _CHUNK):
      rows = list(range(first, min(first + _CHUNK, stop)))
      try:
        yield from [_decode(r, shape) for r in source.__getitems__(rows)]
      except _DAMAGE as error:
        raise DataError(
          f'{path} is damaged between rows {rows[0]} and {rows[-1]}: '
          f'{error}; remove {path.parent} to have it prepared again'
        ) from error
    start = stop


def _decode(
  record: bytes, shape: tuple[int, ...]
) -> tuple[np.ndarray, int, str]:
  # Half the time of TFDS's own decoding; a pool of threads is slower.
  features = tf_example_pb2.Example.FromString(record).features.feature
  pixels = pixels_of(features['image'].bytes_list.value[0], shape)
  label = features['label'].int64_list.value[0]
  return pixels, label, features['id'].bytes_list.value[0].decode()


def pixels_of(encoded: bytes, shape: tuple[int, ...]) -> np.ndarray:
  """Decodes a PNG or JPEG image; where `shape` has three channels, to RGB.

  Returns:
    uint8 [H, W, C], which is `shape`; read-only.

  Raises:
    ValueError: it is damaged or of another shape.
  """
  try:
    with Image.open(io.BytesIO(encoded), formats=('PNG', 'JPEG')) as image:
      if image.size != shape[1::-1]:
        raise ValueError(f'its (width, height) is {image.size}')
      rgb = image.mode == 'RGB' or shape[2] != 3
      pixels = (image if rgb else image.convert('RGB')).tobytes()
    return np.frombuffer(pixels, np.uint8).reshape(shape)
  except UnidentifiedImageError as error:
    raise ValueError('it is neither a JPEG nor a PNG file') from error
  except (*arrays.DAMAGE, Image.DecompressionBombError) as error:
    raise ValueError(str(error)) from error
