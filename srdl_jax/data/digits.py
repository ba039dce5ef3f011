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
  images, labels = _arrays()
  return data.Dataset(
    name='digits',
    version=VERSION,
    num_classes=10,
    mean=MEAN,
    std=STD,
    train=_split('train', images, labels, range(NUM_TRAIN)),
    test=_split('test', images, labels, range(NUM_TRAIN, len(labels))),
  )


def _arrays() -> tuple[np.ndarray, np.ndarray]:
  table = _table()
  # The pixels are counts from 0 to 16.
  images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)
  return images.reshape(-1, 8, 8, 1), table[:, -1].astype(np.int32)


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


def _split(
  name: str, images: np.ndarray, labels: np.ndarray, rows: range
) -> data.Split:
  part = slice(rows.start, rows.stop)
  ids = [str(i) for i in rows]
  identity = data.fingerprint(f'digits/{VERSION}', name, ids, labels[part])
  return data.Split(name, images[part], labels[part], identity)
