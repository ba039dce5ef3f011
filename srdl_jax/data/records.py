# SPDX-License-Identifier: Apache-2.0
"""ArrayRecord files of encoded images, as TFDS writes and reads them.

A record is a tf.Example with the features image, label and file_name. While a
split is written, its finished shards outlive the process: a shard is finished
when a note about it is there, which is written last.
"""

import bisect
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from array_record.python import array_record_data_source, array_record_module
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from srdl_jax import storage
from srdl_jax.storage import arrays, files

# JPEG files don't get smaller by it.
_OPTIONS = 'group_size:1,uncompressed'
# What array_record and the parser raise for bytes that have changed.
_DAMAGE = (*arrays.DAMAGE, DecodeError)


@dataclasses.dataclass(frozen=True)
class Example:
  """An image: the name of its file, its class's number, the file as it is."""

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
  """Writes a file, onto the disk; an earlier one is replaced.

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
  files.sync(path)


class Records:
  """The encoded images of several files, by row; it can be pickled.

  Files are opened when they are read, once in each process.
  """

  def __init__(self, paths: Sequence[os.PathLike[str]], lengths: Sequence[int]):
    """Opens nothing yet; lengths are the numbers of records."""
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
    """Returns the example of a row, from 0 on.

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


@dataclasses.dataclass(frozen=True)
class Shard:
  """A finished shard.

  Attributes:
    names: its images' file names, str [n].
    labels: int32 [n].
    image_bytes: of its images together.
    file_bytes: of its file.
  """

  names: np.ndarray
  labels: np.ndarray
  image_bytes: int
  file_bytes: int


_NOTED = [field.name for field in dataclasses.fields(Shard)]


class Shards:
  """The shards of one split, in order."""

  def __init__(self, folder: pathlib.Path, notes: pathlib.Path, name: str):
    """Finds what an earlier process has finished.

    Args:
      folder: where the shards are.
      notes: where the notes about them are.
      name: of files, before a shard's number.
    """
    self._folder, self._notes, self._name = folder, notes, name
    self.finished = list(self._read())

  @property
  def lengths(self) -> list[int]:
    return [len(shard.names) for shard in self.finished]

  @property
  def names(self) -> list[str]:
    """All images' file names."""
    return [str(name) for shard in self.finished for name in shard.names]

  @property
  def labels(self) -> np.ndarray:
    """All images' labels, int32 [N]; there is one at least."""
    return np.concatenate([shard.labels for shard in self.finished])

  @property
  def image_bytes(self) -> int:
    return sum(shard.image_bytes for shard in self.finished)

  @property
  def last_name(self) -> str:
    """The last image's file name, '' if there is none."""
    return str(self.finished[-1].names[-1]) if self.finished else ''

  def append(self, examples: Iterable[Example], told: storage.Told) -> None:
    """Writes and finishes one more shard, of at least one example.

    Raises:
      OSError: there is no room, or nothing can be written there.
    """
    names, labels, sizes = [], [], []

    def noted() -> Iterator[Example]:
      for example in examples:
        names.append(example.name)
        labels.append(example.label)
        sizes.append(len(example.content))
        told.add(size=sizes[-1])
        yield example

    number = len(self.finished)
    path = self._path(number)
    write(path, noted())
    shard = Shard(
      names=np.array(names),
      labels=np.array(labels, np.int32),
      image_bytes=sum(sizes),
      file_bytes=path.stat().st_size,
    )
    with files.new_file(self._note(number)) as draft, draft.open('wb') as file:
      np.savez(file, **vars(shard))
    self.finished.append(shard)

  def _path(self, number: int) -> pathlib.Path:
    return self._folder / f'{self._name}-{number:05}'

  def _note(self, number: int) -> pathlib.Path:
    return self._notes / f'{self._name}-{number:05}.npz'

  def _read(self) -> Iterator[Shard]:
    for number in itertools.count():
      try:
        shard = _noted(arrays.read(self._note(number), _NOTED))
        if self._path(number).stat().st_size != shard.file_bytes:
          return
      except (LookupError, OSError, TypeError, ValueError):
        # Also where it is missing: this one is written next.
        return
      yield shard


def _noted(note: Mapping[str, np.ndarray]) -> Shard:
  """Returns what a note says, once its shapes fit each other."""
  names, labels = note['names'], note['labels']
  fit = names.shape == labels.shape == (names.size,) and names.size
  if not fit or names.dtype.kind != 'U' or labels.dtype.kind != 'i':
    raise ValueError(f'{names.dtype} {names.shape}, {labels.dtype}')
  sizes = {n: int(note[n]) for n in ('image_bytes', 'file_bytes')}
  return Shard(names, labels, **sizes)
