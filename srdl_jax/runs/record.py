# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint remembers beside the state of training."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from srdl_jax.errors import CheckpointError
from srdl_jax.runs.checkpoint import Moment


def new(lineage: dict[str, Any]) -> dict[str, Any]:
  """Returns what a checkpoint remembers beside the state.

  Sums over the steps of the epoch so far, the training means of the last
  epoch, the last evaluation, the best one, seconds of the stage, seconds and
  steps of the epoch, and the sessions that have worked on it.
  """
  return {
    'lineage': lineage,
    'sessions': [],
    'sums': {},
    'sum_steps': 0,
    'train': {},
    'evaluation': {},
    'best': {},
    'seconds': {'train': 0.0, 'evaluate': 0.0},
    'epoch': [0.0, 0],
  }


def refuse_foreign(
  moment: Moment, lineage: dict[str, Any], number: int
) -> None:
  """Checks that a checkpoint is of this run, stage and teacher.

  Raises:
    CheckpointError: names what differs.
  """
  there = moment.progress.get('lineage', {})
  different = [name for name in lineage if there.get(name) != lineage[name]]
  if different:
    raise CheckpointError(
      f'stage {number}, step {moment.step}: this checkpoint belongs to another '
      f'run; it differs in {", ".join(different)}. Move stage_{number} away to '
      'train the stage anew.'
    )


def note_session(
  progress: dict[str, Any], environment: dict[str, Any], step: int
) -> str:
  """Adds this process to the record.

  Args:
    progress: of the stage; changed.
    environment: what may change the bits of a result: versions, devices, ...
    step: the global step that the process goes on from.

  Returns:
    A line about what has changed since the process before; '' if nothing has.
  """
  sessions = progress['sessions']
  before = sessions[-1]['environment'] if sessions else environment
  changed = [k for k in environment if before.get(k) != environment[k]]
  sessions.append({'from_step': step, 'environment': environment})
  if not changed:
    return ''
  return (
    f'Changed since the last session: {", ".join(changed)}. The bits of an '
    'uninterrupted run are not promised.'
  )


def add_steps(
  progress: dict[str, Any], metrics: Mapping[str, np.ndarray]
) -> None:
  """Adds a chunk's metrics, arrays [S], to the sums of the epoch."""
  sums = progress['sums']
  for name, values in metrics.items():
    # One by one: the sum must not depend on the size of a chunk.
    for value in values:
      sums[name] = sums.get(name, 0.0) + float(value)
  progress['sum_steps'] += len(metrics['loss'])


def close_epoch(
  progress: dict[str, Any], batch_size: int
) -> dict[str, float | int]:
  """Returns the means over the steps of an epoch, and begins a new one.

  Args:
    progress: of the stage; changed.
    batch_size: examples in a step.

  Returns:
    The means of loss, its parts and accuracy, and the number of examples.
  """
  steps = progress['sum_steps']
  means = {
    name: total / steps
    for name, total in progress['sums'].items()
    if name != 'learning_rate'
  }
  means['examples'] = steps * batch_size
  progress |= {'sums': {}, 'sum_steps': 0, 'train': means}
  return means
