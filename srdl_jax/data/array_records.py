# SPDX-License-Identifier: Apache-2.0
"""ArrayRecord files of encoded images, as TFDS writes and reads them.

A record is a tf.Example with the features image, label and file_name.
"""

import bisect
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Sequence

from array_record.python import array_record_data_source, array_record_module
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from srdl_jax.data import whole_files

# JPEG files don't get smaller by it.
_OPTIONS = 'group_size:1,uncompressed'
# What array_record and the parser raise for bytes that have changed.
_DAMAGE = (DecodeError, IndexError, OSError, RuntimeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Example:
  """An image.

  Attributes:
    name: of its file.
    label: its class's number.
    content: its file as it is.
  """

  name: str
  label: int
  content: bytes


def encode(example: Example) -> bytes:
  """Returns the record of an example."""
  record = tf_example_pb2.Example()
  feature = record.features.feature
  feature['image'].bytes_list.value.append(example.content)
  feature['label'].int64_list.value.append(example.label)
  feature['file_name'].bytes_list.value.append(example.name.encode())
  return record.SerializeToString(deterministic=True)


def decode(record: bytes) -> Example:
  """Returns the example of a record.

  Raises:
    ValueError: it is no such record.
  """
  try:
    feature = tf_example_pb2.Example.FromString(record).features.feature
    return Example(
      name=feature['file_name'].bytes_list.value[0].decode(),
      label=feature['label'].int64_list.value[0],
      content=feature['image'].bytes_list.value[0],
    )
  except (DecodeError, IndexError) as error:
    raise ValueError(
      f'no record of image, label and file_name: {error}'
    ) from error


def write(path: pathlib.Path, examples: Iterable[Example]) -> None:
  """Writes a file, onto the disk.

  Args:
    path: the file; an earlier one is replaced.
    examples: what is written.

  Raises:
    OSError: there is no room, or nothing can be written there.
  """
  try:
    writer = array_record_module.ArrayRecordWriter(os.fspath(path), _OPTIONS)
    for example in examples:
      writer.write(encode(example))
      # A full disk is told by close() alone.
      if not writer.ok():
        break
    writer.close()
  except RuntimeError as error:
    raise OSError(str(error)) from error
  whole_files.sync(path)


class Records:
  """The encoded images of several files, by row; it can be pickled.

  Files are opened when they are read, once in each process.
  """

  def __init__(self, paths: Sequence[os.PathLike[str]], lengths: Sequence[int]):
    """Opens nothing yet.

    Args:
      paths: the files, in order.
      lengths: number of records in each.
    """
    self._paths = [os.fspath(path) for path in paths]
    self._lengths = list(lengths)
    self._ends = list(itertools.accumulate(lengths))
    self._source = None
    self._process = 0

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, row: int) -> bytes:
    """Returns the encoded image of a row; see `example`."""
    return self.example(row).content

  def example(self, row: int) -> Example:
    """Returns the example of a row.

    Args:
      row: in 0 .. N - 1.

    Raises:
      IndexError: there is no such row.
      ValueError: its file is missing or damaged; it is named.
    """
    path = self.path(row)
    try:
      return decode(self._opened()[row])
    except _DAMAGE as error:
      raise ValueError(f'{path} is damaged: {error}') from error

  def name(self, row: int) -> str:
    """Returns an image's file name, if it can be read, and where it is."""
    path = self.path(row)
    try:
      return f'{self.example(row).name} in {path}'
    except ValueError:
      return f'in {path}'

  def path(self, row: int) -> str:
    """Returns the file that a row is in.

    Raises:
      IndexError: there is no such row.
    """
    if not 0 <= row < len(self):
      raise IndexError(f'row {row} of {len(self)} records')
    return self._paths[bisect.bisect_right(self._ends, row)]

  def _opened(self) -> array_record_data_source.ArrayRecordDataSource:
    # A fork must not read through its parent's readers: their threads are gone.
    if self._source is None or self._process != os.getpid():
      # With their lengths told, the files needn't all be opened for them.
      parts = [
        f'{path}[0:{length}]'
        for path, length in zip(self._paths, self._lengths, strict=True)
      ]
      source = array_record_data_source.ArrayRecordDataSource(parts)
      self._source, self._process = source, os.getpid()
    return self._source
