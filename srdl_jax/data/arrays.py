# SPDX-License-Identifier: Apache-2.0
"""Arrays in memory as a data set."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from srdl_jax import data
from srdl_jax.errors import ConfigError

_HELD_OUT = 5


def dataset(
  name: str,
  images: Any,
  labels: Any,
  test: tuple[Any, Any] | None = None,
  classes: Sequence[str] | None = None,
) -> data.Dataset:
  """Returns a data set of arrays; its mean and deviation are theirs.

  Args:
    images: uint8 [N, H, W, C].
    labels: integers [N], from 0 to K - 1.
    test: images and labels to test on; without them every fifth of each class's
      images is held out for it.
    classes: names, by label.

  Raises:
    ConfigError: what is given doesn't fit together.
  """
  images, labels = _arrays(images, labels)
  if test is None:
    held = _held_out(labels)
    if not held.any():
      raise ConfigError(
        'So few images leave none to test on: give test=(images, labels).'
      )
    test = images[held], labels[held]
    images, labels = images[~held], labels[~held]
  else:
    test = _arrays(*test)
  count = int(labels.max()) + 1
  names = [*map(str, range(count) if classes is None else classes)]
  if len(set(names)) < max(count, len(names)):
    raise ConfigError(
      f'{len(set(names))} different names of {count} classes are given.'
    )
  count = len(names)
  check_labels(test[1], len(test[0]), count)
  if test[0].shape[1:] != images.shape[1:]:
    raise ConfigError(
      f'test images are {list(test[0].shape[1:])}, those to train on '
      f'{list(images.shape[1:])}.'
    )
  pixels = images.reshape(-1, images.shape[-1]) / 255
  train, others = _split('train', images, labels), _split('test', *test)
  return data.Dataset(
    name=name,
    version='1',
    num_classes=count,
    mean=tuple(pixels.mean(0).tolist()),
    # A constant channel divides by nothing.
    std=tuple(np.maximum(pixels.std(0), 1e-3).tolist()),
    train=train,
    test=others,
    classes=tuple(names),
  )


def check_labels(labels: Any, count: int, classes: int | None) -> None:
  """Checks that labels are integers [count], from 0 to K - 1 where K is known.

  Raises:
    ConfigError: they aren't.
  """
  labels = np.asarray(labels)
  if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
    raise ConfigError(
      f'labels are {labels.dtype} {list(labels.shape)}, where integers '
      f'[{count}] belong.'
    )
  most = classes or 2**31
  if count and not 0 <= labels.min() <= labels.max() < most:
    raise ConfigError(
      f'labels are from {labels.min()} to {labels.max()}: classes are numbered '
      f'from 0{f" to {classes - 1}" if classes else ""}.'
    )


def _arrays(images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
    raise ConfigError(
      f'images are {images.dtype} {list(images.shape)}, where uint8 '
      '[N, H, W, C] belongs.'
    )
  check_labels(labels, len(images), None)
  return images, np.asarray(labels).astype(np.int32)


def _held_out(labels: np.ndarray) -> np.ndarray:
  """Returns which are every fifth of their class: bool [N]."""
  place = np.zeros(len(labels), np.int64)
  for label in np.unique(labels):
    own = np.flatnonzero(labels == label)
    place[own] = np.arange(len(own))
  return place % _HELD_OUT == _HELD_OUT - 1


def _split(name: str, images: np.ndarray, labels: np.ndarray) -> data.Split:
  ids = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
  identity = data.fingerprint('arrays', name, ids, labels)
  return data.Split(name, images, labels, identity)
