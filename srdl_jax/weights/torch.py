# SPDX-License-Identifier: Apache-2.0
"""A network's variables as PyTorch names and lays them out, and back.

Modules carry the names of the PyTorch originals, so only the last part of a
name and the order of axes differ: kernels are [H, W, I, O] or [I, O] here and
[O, I, H, W] or [O, I] there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
# Counts of batches, which nothing here reads.
IGNORED = 'num_batches_tracked'


def name_of(path: tuple[str, ...]) -> str:
  """Returns the PyTorch name of params/... or batch_stats/...

  Example:
    >>> name_of(('params', 'layer1.0', 'conv1', 'kernel'))
    'layer1.0.conv1.weight'
  """
  _, *modules, leaf = path
  return '.'.join([*modules, _LEAVES[leaf]])


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns {params, batch_stats} by PyTorch's names, in its layout."""
  # safetensors writes a transposed array as if it weren't, without a word.
  return {
    name_of(path): np.ascontiguousarray(_turn(np.asarray(value), (3, 2, 0, 1)))
    for path, value in _flat(variables).items()
  }


def shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """Returns what `to_torch` would give of arrays or shapes: its shapes."""
  # Arrays of one number in memory: a file's numbers of channels and classes may
  # ask for any size.
  return {
    name_of(path): _turn(np.broadcast_to(False, x.shape), (3, 2, 0, 1)).shape
    for path, x in _flat(variables).items()
  }


def from_torch(
  tensors: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
  """Fills a network's variables with PyTorch's tensors.

  Args:
    tensors: by name; counts of batches are passed over.
    like: {params, batch_stats} of the network: arrays or their shapes.

  Returns:
    The variables (numpy, in the tensors' own dtypes) that fit, and a line
    about each tensor that is missing, has another shape (both are given, in
    PyTorch's layout) or isn't the network's.
  """
  wanted = {name_of(p): p for p in traverse_util.flatten_dict(dict(like))}
  shape_of = shapes(like)
  flat, misfits = {}, []
  for name, path in wanted.items():
    shape = shape_of[name]
    if name not in tensors:
      misfits.append(f'{name} {shape} is missing')
    elif tensors[name].shape != shape:
      misfits.append(f'{name} is {tensors[name].shape}, not {shape}')
    else:
      turned = _turn(np.asarray(tensors[name]), (2, 3, 1, 0))
      flat[path] = np.ascontiguousarray(turned)
  misfits += [
    f'{name} {tensors[name].shape} is not of this network'
    for name in tensors
    if name not in wanted and not name.endswith(IGNORED)
  ]
  return traverse_util.unflatten_dict(flat), misfits


def _flat(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
  return traverse_util.flatten_dict(
    {name: variables[name] for name in ('params', 'batch_stats')}
  )


def _turn(value: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
  if value.ndim == 4:
    return value.transpose(axes)
  return value.T if value.ndim == 2 else value
