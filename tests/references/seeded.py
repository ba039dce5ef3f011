# SPDX-License-Identifier: Apache-2.0
"""Numbers that follow from a name alone, the same in every library."""

import zlib

import numpy as np


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns float64 draws of mean 0 and variance 1: SplitMix64 of an index."""
  count = int(np.prod(shape))
  with np.errstate(over='ignore'):
    state = np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
    z = state + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
      0x9E3779B97F4A7C15
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
  unit = (z >> np.uint64(11)).astype(np.float64) / 2**53
  return ((2 * unit - 1) * 3**0.5).reshape(shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the value of a network's tensor of that PyTorch name and shape."""
  draws = uniform(name, shape)
  if name.endswith('running_var'):
    return 1 + abs(draws)
  if len(shape) == 4:
    return draws * (2 / (shape[0] * shape[2] * shape[3])) ** 0.5
  if len(shape) == 2:
    return draws * shape[1] ** -0.5
  # Scales of batch norm are around one; biases and means around zero.
  return float(name.endswith('weight')) + 0.1 * draws


def fingerprint(name: str, value: np.ndarray) -> list[float]:
  """Returns a tensor's norm and its product with a random one of unit norm."""
  value = np.asarray(value, np.float64)
  other = uniform(f'{name} projected', value.shape)
  other /= np.linalg.norm(other)
  return [float(np.linalg.norm(value)), float(np.vdot(value, other))]
