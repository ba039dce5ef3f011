# SPDX-License-Identifier: Apache-2.0
"""Weights that a network starts from: files in, a checkpoint, a fresh state."""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util

from srdl_jax import models, storage
from srdl_jax.errors import CheckpointError, ConfigError, WorkdirError
from srdl_jax.runs.checkpoint import Checkpoints, Moment, digest
from srdl_jax.weights import torch as torch_layout

__all__ = [
  'Weights',
  'channels_of',
  'check_fit',
  'load',
  'num_classes_of',
  'overlay',
  'read_tensors',
  'refuse_misfits',
  'save',
  'torch',
]

STEMS = ('conv1', 'features.conv0')
_DTYPES = {f'F{n}': f'float{n}' for n in (16, 32, 64)} | {'BF16': 'bfloat16'}
# Lines of a message; a longer list is printed before it.
_MOST = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
  """A network's variables {params, batch_stats}: float32, on the host.

  Attributes:
    new_classifier: whether fresh states draw theirs, though this one would fit.
  """

  model: str
  variables: dict[str, Any]
  digest: str
  new_classifier: bool = False

  @property
  def num_classes(self) -> int:
    """K of its classifier."""
    name = _classifier(self.variables)
    return len(self.variables['params'][name]['bias'])

  def description(self, classes: int) -> str:
    """Returns what to say of a run that starts from them, of `classes`."""
    text = f', from imported weights of {self.num_classes} classes'
    if self.new_classifier or self.num_classes != classes:
      text += f', with a new classifier of {classes}'
    return text


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
        f'{path}: {name} is {dtype}, not float32: convert the file first.'
      )
    if not np.isfinite(value).all():
      raise CheckpointError(f'{path}: {name} holds a NaN or an infinity.')
    found[_present_name(name)] = value
  if not found:
    raise CheckpointError(f'{path}: there are no tensors in it.')
  return found


def _safetensors(path) -> Iterator[tuple[str, str, np.ndarray | None]]:
  try:
    with safetensors.safe_open(path, framework='np') as file:
      for name in sorted(file.keys()):
        dtype = file.get_slice(name).get_dtype()
        # NumPy has no bfloat16.
        value = file.get_tensor(name) if dtype == 'F32' else None
        yield name, _DTYPES.get(dtype, dtype), value
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
    raise CheckpointError(
      f'{path} is damaged, or holds more than tensors: PyTorch does not load '
      f'it with weights_only ({type(error).__name__}).'
    ) from error
  for wrapper in ('state_dict', 'model'):
    if isinstance(tensors, dict) and isinstance(tensors.get(wrapper), dict):
      tensors = tensors[wrapper]
  if not isinstance(tensors, dict) or not all(
    isinstance(name, str)
    and isinstance(value, torch.Tensor)
    and value.layout == torch.strided
    for name, value in tensors.items()
  ):
    raise CheckpointError(f'{path} is not a state dict of dense tensors.')
  for name, value in tensors.items():
    dtype = str(value.dtype).removeprefix('torch.')
    yield name, dtype, value.detach().numpy() if dtype == 'float32' else None


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
  for classifier in models.CLASSIFIERS:
    weight = tensors.get(f'{classifier}.weight')
    if weight is not None and weight.ndim == 2 and len(weight):
      return len(weight)
  names = ' or '.join(f'{name}.weight [K, D]' for name in models.CLASSIFIERS)
  raise CheckpointError(f'{path}: there is no classifier, {names}.')


def channels_of(tensors: Mapping[str, Any]) -> int:
  """Returns the number of an image's channels; 3 where no stem tells it."""
  for stem in STEMS:
    weight = tensors.get(f'{stem}.weight')
    if weight is not None and weight.ndim == 4:
      return weight.shape[1]
  return 3


def save(
  directory: pathlib.Path, model: str, variables: dict[str, Any], source: str
) -> None:
  """Writes weights as a checkpoint, all of it or nothing.

  Args:
    directory: must be missing or empty.
    variables: {params, batch_stats}.
    source: what they were made from, for the record.

  Raises:
    WorkdirError: the directory has something in it, or can't be written.
  """
  directory = directory.absolute()
  with storage.failures(directory):
    if directory.exists() and any(directory.iterdir()):
      raise WorkdirError(f'{directory} is not empty: give another directory.')
    # In this order: all is saved before the folder gets its name.
    with (
      storage.new_folder(directory) as draft,
      Checkpoints(draft) as checkpoints,
    ):
      progress = {'model': model, 'source': source}
      checkpoints.save(Moment(0, variables, progress), score=None)


def load(directory: str) -> Weights:
  """Reads what `save` wrote.

  Raises:
    CheckpointError: there is nothing, it is damaged, or of another making.
  """
  path = storage.expanded(directory, 'init.from_path')
  storage.refuse_other_letters(path, 'init.from_path')
  with Checkpoints(path, read_only=True) as checkpoints:
    if checkpoints.steps() != [0]:
      raise CheckpointError(
        f'{path} holds no imported weights: make them with '
        'python -m srdl_jax.weights import.'
      )
    moment = checkpoints.load(0)
  if 'model' not in moment.progress:
    raise CheckpointError(f'{path} holds a checkpoint of training, no weights.')
  return Weights(moment.progress['model'], moment.state, digest(moment.state))


def check_fit(like: Mapping[str, Any], weights: Weights) -> None:
  """Checks that weights are a network's, but for the number of classes.

  Args:
    like: {params, batch_stats} of the network: arrays or their shapes.

  Raises:
    CheckpointError: something doesn't fit; each is named, with both shapes in
      PyTorch's layout.
  """
  wanted, given = map(torch_layout.shapes, (like, weights.variables))
  classifier = _classifier(like)
  if wanted.get(f'{classifier}.bias') != given.get(f'{classifier}.bias'):
    wanted, given = (
      {k: v for k, v in side.items() if not k.startswith(f'{classifier}.')}
      for side in (wanted, given)
    )
  refuse_misfits(
    f'init.from_path: these weights of a {weights.model} do not fit',
    [
      f'{name} is {given.get(name, "absent")} there, '
      f'{wanted.get(name, "absent")} here'
      for name in sorted({*wanted, *given})
      if given.get(name) != wanted.get(name)
    ],
  )


def overlay(fresh: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
  """Returns fresh variables with the weights in their place.

  The classifier stays fresh where it is to be new, or of other classes.

  Args:
    fresh: {params, batch_stats} of a new network.
    weights: that `check_fit` has passed.
  """
  given = traverse_util.flatten_dict(weights.variables)
  flat = traverse_util.flatten_dict(dict(fresh))
  for path, value in flat.items():
    fits = given[path].shape == value.shape
    head = path[1] in models.CLASSIFIERS
    assert fits or head, path
    if fits and not (head and weights.new_classifier):
      flat[path] = jnp.asarray(given[path], value.dtype)
  return traverse_util.unflatten_dict(flat)


def refuse_misfits(what: str, misfits: list[str]) -> None:
  """Raises CheckpointError if there are any; a long list is printed before."""
  if not misfits:
    return
  shown = '; '.join(misfits[:_MOST])
  if len(misfits) > _MOST:
    print(*misfits, sep='\n', file=sys.stderr)
    shown += f'; and {len(misfits) - _MOST} more, listed above'
  raise CheckpointError(f'{what}: {shown}.')


def _classifier(variables: Mapping[str, Any]) -> str:
  (name,) = variables['params'].keys() & set(models.CLASSIFIERS)
  return name
