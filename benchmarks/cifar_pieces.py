# SPDX-License-Identifier: Apache-2.0
"""CIFAR-100 as arrays in pieces, to travel where its own files can't."""

import pathlib

import numpy as np

from srdl_jax import storage
from srdl_jax.data import cifar, tfds_reader

# Records in a piece: 44 MiB.
PIECE = 15_000
NAMES = 'names.json'
_SPEC = cifar.CIFAR100


def pack(data_dir: str, folder: pathlib.Path) -> None:
  """Writes what a TFDS directory has: 00.npy and so on, uint8 [n, 3074], the
  records of CIFAR's binary files, train first, and the classes' names."""
  place = tfds_reader.directory(data_dir, _SPEC.name, _SPEC.version)
  builder, parts = tfds_reader.open_builder(place), []
  for split in _SPEC.splits:
    source = builder.as_data_source(split=split)
    rows = np.empty((len(source), 2 + cifar.PIXELS), np.uint8)
    for example in source:
      row = rows[int(example['id'].decode().rpartition('_')[2])]
      row[:2] = example['coarse_label'], example['label']
      row[2:] = example['image'].transpose(2, 0, 1).ravel()
    parts.append(rows)
  rows = np.concatenate(parts)
  folder.mkdir(parents=True, exist_ok=True)
  for number, first in enumerate(range(0, len(rows), PIECE)):
    np.save(folder / f'{number:02}.npy', rows[first : first + PIECE])
  features = builder.info.features
  names = {label: features[label].names for label in _SPEC.files.classes}
  storage.write_json(folder / NAMES, names)


def unpack(pieces: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """Writes pieces as CIFAR-100's binary files; returns their folder.

  Whether they are all there, and official, is checked by who reads those.
  """
  rows = np.concatenate([np.load(p) for p in sorted(pieces.glob('*.npy'))])
  train = _SPEC.num_classes * _SPEC.per_class['train']
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'train.bin').write_bytes(rows[:train].tobytes())
  (folder / 'test.bin').write_bytes(rows[train:].tobytes())
  names = storage.read_json(pieces / NAMES)
  for label, file in _SPEC.files.classes.items():
    (folder / file).write_text(''.join(f'{name}\n' for name in names[label]))
  return folder
