# SPDX-License-Identifier: Apache-2.0
"""A split's shards while they are written; finished ones outlive the process.

A shard is finished when a note about it is there, which is written last.
"""

import dataclasses
import io
import itertools
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from srdl_jax.data import array_records, whole_files
from srdl_jax.data.array_records import Example

# What numpy raises for a note that is damaged.
_DAMAGE = (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile)


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


class Shards:
  """The shards of one split, in order."""

  def __init__(self, folder: pathlib.Path, notes: pathlib.Path, name: str):
    """Finds what an earlier process has finished.

    Args:
      folder: where the shards are.
      notes: where the notes about them are.
      name: of the shards' files, before their number.
    """
    self._folder, self._notes, self._name = folder, notes, name
    self.finished = list(self._read())

  @property
  def paths(self) -> list[pathlib.Path]:
    return [self._path(number) for number in range(len(self.finished))]

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

  def append(
    self, examples: Iterable[Example], progress: Callable[[int], None]
  ) -> None:
    """Writes and finishes one more shard.

    Args:
      examples: what is in it, at least one.
      progress: called with the bytes of each image.

    Raises:
      OSError: there is no room, or nothing can be written there.
    """
    names, labels, sizes = [], [], []

    def noted() -> Iterator[Example]:
      for example in examples:
        names.append(example.name)
        labels.append(example.label)
        sizes.append(len(example.content))
        progress(sizes[-1])
        yield example

    number = len(self.finished)
    path = self._path(number)
    array_records.write(path, noted())
    shard = Shard(
      names=np.array(names),
      labels=np.array(labels, np.int32),
      image_bytes=sum(sizes),
      file_bytes=path.stat().st_size,
    )
    content = io.BytesIO()
    np.savez(content, **vars(shard))
    whole_files.replace(self._note(number), content.getvalue())
    self.finished.append(shard)

  def _path(self, number: int) -> pathlib.Path:
    return self._folder / f'{self._name}-{number:05}'

  def _note(self, number: int) -> pathlib.Path:
    return self._notes / f'{self._name}-{number:05}.npz'

  def _read(self) -> Iterator[Shard]:
    for number in itertools.count():
      try:
        # numpy leaves a file open that it opened itself and can't read.
        with self._note(number).open('rb') as file, np.load(file) as note:
          shard = Shard(
            names=note['names'],
            labels=note['labels'],
            image_bytes=int(note['image_bytes']),
            file_bytes=int(note['file_bytes']),
          )
        if self._path(number).stat().st_size != shard.file_bytes:
          return
      except _DAMAGE:
        # Also where it is missing: this one is written next.
        return
      yield shard
