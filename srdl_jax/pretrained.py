# SPDX-License-Identifier: Apache-2.0
"""Weights that a network starts from: files in, a checkpoint, a fresh state."""

import dataclasses
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import safetensors
from flax import traverse_util

from srdl_jax import torch_layout, workdir
from srdl_jax.checkpoint import Checkpoints, Moment, digest
from srdl_jax.errors import CheckpointError, ConfigError, WorkdirError

CLASSIFIERS = ('fc', 'classifier')


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
  """A network's variables from a file.

  Attributes:
    model: name of the network.
    variables: {params, batch_stats}, float32 on the host.
    digest: of the variables.
  """

  model: str
  variables: dict[str, Any]
  digest: str

  @property
  def num_classes(self) -> int:
    """K of its classifier."""
    params = self.variables['params']
    (name,) = params.keys() & set(CLASSIFIERS)
    return len(params[name]['bias'])


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a PyTorch state dict.

  Args:
    path: a .safetensors file, or a .pth, .pt or .bin file, which needs PyTorch
      and is loaded without running any code that it may hold.

  Returns:
    Finite float32 tensors by name; counts of batches are left out.

  Raises:
    CheckpointError: the file can't be read, or a tensor isn't of float32 or
      not finite.
    ConfigError: PyTorch is needed and isn't installed.
  """
  if not path.is_file():
    raise CheckpointError(f'{path}: there is no such file.')
  read = _safetensors if path.suffix == '.safetensors' else _pickled
  found = {}
  for name, dtype, value in read(path):
    if name.endswith(torch_layout.IGNORED):
      continue
    if dtype != 'float32':
      raise CheckpointError(
        f'{path}: {name} is {dtype}. Convert the file to float32: statistics '
        'of batch norm lose digits in other formats.'
      )
    if not np.isfinite(value).all():
      raise CheckpointError(f'{path}: {name} holds a NaN or an infinity.')
    found[_present_name(name)] = value
  if not found:
    raise CheckpointError(f'{path}: there are no tensors in it.')
  return found


_DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}


def _safetensors(path) -> Iterator[tuple[str, str, np.ndarray | None]]:
  try:
    with safetensors.safe_open(path, framework='np') as file:
      for name in sorted(file.keys()):
        dtype = file.get_slice(name).get_dtype()
        dtype = _DTYPES.get(dtype, dtype)
        # NumPy has no bfloat16.
        whole = dtype == 'float32'
        yield name, dtype, file.get_tensor(name) if whole else None
  except (safetensors.SafetensorError, OSError) as error:
    raise CheckpointError(
      f'{path} is damaged, or no safetensors file ({error}).'
    ) from error


def _pickled(path) -> Iterator[tuple[str, str, np.ndarray | None]]:
  try:
    import torch
  except ImportError as error:
    raise ConfigError(
      f'{path}: PyTorch is needed for {path.suffix} files, and is not '
      'installed. Install it, or take a .safetensors file.'
    ) from error
  try:
    tensors = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:
    # Damage shows as an error of the unpickler, of zip files, or of PyTorch.
    text = str(error).strip().partition('\n')[0]
    raise CheckpointError(
      f'{path} is damaged, or holds more than tensors ({text}).'
    ) from error
  for wrapper in ('state_dict', 'model'):
    if isinstance(tensors, dict) and isinstance(tensors.get(wrapper), dict):
      tensors = tensors[wrapper]
  if not isinstance(tensors, dict) or not all(
    isinstance(value, torch.Tensor) for value in tensors.values()
  ):
    raise CheckpointError(f'{path} is not a state dict of tensors.')
  for name, value in tensors.items():
    dtype = str(value.dtype).removeprefix('torch.')
    yield name, dtype, value.numpy() if dtype == 'float32' else None


def _present_name(name: str) -> str:
  # torchvision's published DenseNets have the names of an older version, and
  # a model trained on several GPUs a prefix.
  name = name.removeprefix('module.')
  return re.sub(r'(denselayer\d+\.(?:norm|conv))\.([12])\.', r'\1\2.', name)


def num_classes_of(path: pathlib.Path, tensors: Mapping[str, Any]) -> int:
  """Returns the number of classes of a state dict's classifier.

  Raises:
    CheckpointError: it has none.
  """
  for classifier in CLASSIFIERS:
    weight = tensors.get(f'{classifier}.weight')
    if weight is not None and weight.ndim == 2:
      return len(weight)
  names = ' or '.join(f'{name}.weight [K, D]' for name in CLASSIFIERS)
  raise CheckpointError(f'{path}: there is no classifier, {names}.')


def save(
  directory: pathlib.Path, model: str, variables: dict[str, Any], source: str
) -> None:
  """Writes weights as a checkpoint, all of it or nothing.

  Args:
    directory: must be missing or empty.
    model: name of the network.
    variables: {params, batch_stats}.
    source: what they were made from, for the record.

  Raises:
    WorkdirError: the directory has something in it, or can't be written.
  """
  with workdir.failures(directory):
    if directory.exists() and any(directory.iterdir()):
      raise WorkdirError(f'{directory} is not empty: give another directory.')
    partial = directory.with_name(f'{directory.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
      with Checkpoints(str(partial.absolute())) as checkpoints:
        progress = {'model': model, 'source': source}
        checkpoints.save(Moment(0, variables, progress), score=None, wait=True)
      if directory.exists():
        directory.rmdir()
      partial.rename(directory)
    finally:
      shutil.rmtree(partial, ignore_errors=True)


def load(directory: str) -> Weights:
  """Reads what `save` wrote.

  Raises:
    CheckpointError: there is nothing, it is damaged, or of another making.
  """
  path = pathlib.Path(directory).expanduser()
  with Checkpoints(str(path.absolute()), read_only=True) as checkpoints:
    if checkpoints.steps() != [0]:
      raise CheckpointError(
        f'{path} holds no imported weights: make them with '
        'python -m srdl_jax.weights import.'
      )
    moment = checkpoints.load(0)
  if 'model' not in moment.progress:
    raise CheckpointError(f'{path} holds a checkpoint of training, no weights.')
  return Weights(moment.progress['model'], moment.state, digest(moment.state))


def overlay(fresh: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
  """Returns fresh variables with the weights in their place.

  The classifier stays fresh where the number of classes differs.

  Args:
    fresh: {params, batch_stats} of a new network.
    weights: of a network of the same kind.

  Raises:
    CheckpointError: something else doesn't fit; each is named, with both
      shapes.
  """
  wanted = traverse_util.flatten_dict(dict(fresh))
  given = traverse_util.flatten_dict(weights.variables)
  (classifier,) = fresh['params'].keys() & set(CLASSIFIERS)
  if len(fresh['params'][classifier]['bias']) != weights.num_classes:
    given = {p: v for p, v in given.items() if p[1] != classifier}
    given |= {p: v for p, v in wanted.items() if p[1] == classifier}
  misfits = [
    f'{torch_layout.name_of(path)}: '
    f'{given[path].shape if path in given else "absent"} there, '
    f'{wanted[path].shape if path in wanted else "absent"} here'
    for path in sorted({*wanted, *given})
    if path not in given
    or path not in wanted
    or given[path].shape != wanted[path].shape
  ]
  if misfits:
    raise CheckpointError(
      f'init.from_path: these weights of a {weights.model} do not fit: '
      f'{summary(misfits)}.'
    )
  return traverse_util.unflatten_dict(
    {p: jax.numpy.asarray(given[p], wanted[p].dtype) for p in wanted}
  )


def summary(lines: list[str], most: int = 6) -> str:
  """Joins lines, the first of them if there are many."""
  rest = len(lines) - most
  return '; '.join(lines[:most]) + (f'; and {rest} more' if rest > 0 else '')
