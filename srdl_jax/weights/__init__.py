# SPDX-License-Identifier: Apache-2.0
"""Weights that a network starts from: files in, a checkpoint, a fresh state."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from srdl_jax import models, storage
from srdl_jax.errors import CheckpointError, WorkdirError
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs.checkpoint import Checkpoints, Moment, digest
from srdl_jax.weights import torch as torch_layout

__all__ = [
  'Weights',
  'check_fit',
  'load',
  'overlay',
  'refuse_misfits',
  'save',
  'state_dict',
  'torch',
]

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
  path = storage.reachable(directory, 'init.from_path', CheckpointError)
  storage.refuse_other_letters(path, 'init.from_path')
  if path.is_file():
    raise CheckpointError(
      f'init.from_path = {directory!r} is a file: make a directory of it, with '
      f'srdl weights import --from={directory} --model=MODEL --out=DIR, and '
      'start from that.'
    )
  if (path / run_directory.CONFIG).is_file():
    raise CheckpointError(
      f'init.from_path = {directory!r} is a run: srdl weights export writes '
      'its weights to a .safetensors file; import that, and start from it.'
    )
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
