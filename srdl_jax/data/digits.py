# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits, 8 x 8 pixels, from scikit-learn: needs no download."""

import importlib.util
import pathlib

import numpy as np

from srdl_jax import data

VERSION = '1.0.0'
NUM_TRAIN = 1437
# Of the training images' pixels, scaled to [0, 1].
MEAN = (0.3054,)
STD = (0.3753,)


def load(_source: data.Location) -> data.Dataset:
  """Loads the digits: the first 1,437 train, the last 360 test.

  Returns:
    The data set, images uint8 [N, 8, 8, 1]; an example's id is its position
    among all 1,797.
  """
  table = _table()
  return data.Dataset(
    name='digits',
    version=VERSION,
    num_classes=10,
    mean=MEAN,
    std=STD,
    train=_split('train', table[:NUM_TRAIN], 0),
    test=_split('test', table[NUM_TRAIN:], NUM_TRAIN),
    classes=tuple('0123456789'),
  )


def _table() -> np.ndarray:
  """Returns the pixels of an image and its class in each row: [1797, 65]."""
  # Its own reader, `load_digits`, takes two seconds to import.
  package = importlib.util.find_spec('sklearn')
  if package and package.origin:
    file = pathlib.Path(package.origin).parent / 'datasets/data/digits.csv.gz'
    if file.is_file():
      return np.loadtxt(file, delimiter=',')
  from sklearn import datasets

  digits = datasets.load_digits()
  return np.column_stack([digits.data, digits.target])


def _split(name: str, rows: np.ndarray, first: int) -> data.Split:
  # The pixels are counts from 0 to 16.
  images = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8)
  labels = rows[:, -1].astype(np.int32)
  ids = [str(first + row) for row in range(len(rows))]
  identity = data.fingerprint(f'digits/{VERSION}', name, ids, labels)
  return data.Split(name, images.reshape(-1, 8, 8, 1), labels, identity)
