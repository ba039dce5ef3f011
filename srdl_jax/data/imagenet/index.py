# SPDX-License-Identifier: Apache-2.0
"""Labels and fingerprints of a prepared ImageNet, in a file beside its shards.

Without it, labels would be had by reading 140 GB of images.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from srdl_jax import data
from srdl_jax.data.records import Records
from srdl_jax.errors import DataError
from srdl_jax.storage import Told, arrays, files

FILE = 'srdl_index.npz'
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Index:
  """What is known of a split without reading its images.

  Attributes:
    labels: int32 [N].
    fingerprint: see `data.fingerprint`.
    shards: int64 [S, 2], each file's number of records and of bytes: another
      split's index doesn't fit.
  """

  labels: np.ndarray
  fingerprint: str
  shards: np.ndarray


def shards_of(info: tfds.core.SplitInfo) -> np.ndarray:
  """Returns the shards of an `Index`; the split's files exist."""
  lengths = info.shard_lengths
  sizes = [os.stat(path).st_size for path in info.filepaths]
  return np.stack([np.array(lengths, np.int64), np.array(sizes, np.int64)], 1)


def write(directory: pathlib.Path, indices: Mapping[str, Index]) -> None:
  """Writes the index file of a directory, whole or not at all.

  Raises:
    OSError: it can't be written.
  """
  content = {
    f'{split}_{name}': np.asarray(value)
    for split, index in indices.items()
    for name, value in vars(index).items()
  }
  with files.new_file(directory / FILE) as draft, draft.open('wb') as file:
    np.savez(file, **content)


def read(directory: pathlib.Path, splits: Sequence[str]) -> dict[str, Index]:
  """Reads the index file; returns what is there, by split."""
  path = directory / FILE
  if not path.exists():
    return {}
  names = [field.name for field in dataclasses.fields(Index)]
  try:
    found = arrays.read(path, [f'{s}_{name}' for s in splits for name in names])
    return {
      s: _index(*(found[f'{s}_{name}'] for name in names)) for s in splits
    }
  except (LookupError, OSError, ValueError) as error:
    _log.warning('%s is damaged (%s); it is made again', path, error)
    return {}


def _index(
  labels: np.ndarray, fingerprint: np.ndarray, shards: np.ndarray
) -> Index:
  """Returns what was stored, once its shapes fit each other."""
  whole = {'labels': labels, 'shards': shards}
  for name, value in whole.items():
    if value.dtype.kind not in 'iu' or value.ndim != 1 + (name == 'shards'):
      raise ValueError(f'{name} are {value.dtype} {list(value.shape)}')
  if shards.shape[1] != 2 or len(labels) != shards[:, 0].sum():
    raise ValueError(f'{len(labels)} labels, {list(shards.shape)} shards')
  return Index(labels, str(fingerprint), shards)


def build(full_name: str, info: tfds.core.SplitInfo) -> Index:
  """Reads all records of a split, and tells how far it is.

  Args:
    full_name: name and version of the data set.

  Raises:
    DataError: a file is missing or damaged, or holds something else.
  """
  records = Records(info.filepaths, info.shard_lengths)
  shards = shards_of(info)
  size = int(shards[:, 1].sum())
  told = Told(f'index of {info.name}', 'images', len(records), size=size)
  labels = np.empty(len(records), np.int32)
  names = []
  for row in range(len(records)):
    try:
      example = records.example(row)
    except ValueError as error:
      raise DataError(
        f'cannot read row {row} of {info.name}: {error}'
      ) from error
    labels[row] = example.label
    names.append(example.name)
    told.add(size=len(example.content))
  told.close()
  identity = data.fingerprint(full_name, info.name, names, labels)
  return Index(labels, identity, shards)
