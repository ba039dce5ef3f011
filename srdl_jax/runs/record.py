# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint remembers beside the state of training."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from srdl_jax.errors import CheckpointError


@dataclasses.dataclass
class Record:
  """How far a stage is and what it has measured; JSON's types alone.

  Attributes:
    lineage: which run, stage and teacher it is of.
    sessions: the processes that have worked on it, one after another.
    sums: of each metric, over the steps of the epoch so far.
    sum_steps: how many those are.
    train: means over the steps of the last whole epoch.
    evaluation: the last one.
    best: the evaluation of the highest score.
    seconds: of the stage, by what they were spent on.
    epoch: seconds and steps of the epoch so far.
    log: number and digest of the lines of metrics.jsonl up to here.
  """

  lineage: dict[str, Any] = dataclasses.field(default_factory=dict)
  sessions: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  sums: dict[str, float] = dataclasses.field(default_factory=dict)
  sum_steps: int = 0
  train: dict[str, float] = dataclasses.field(default_factory=dict)
  evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
  best: dict[str, Any] = dataclasses.field(default_factory=dict)
  seconds: dict[str, float] = dataclasses.field(
    default_factory=lambda: {'train': 0.0, 'evaluate': 0.0}
  )
  epoch: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0])
  log: dict[str, Any] = dataclasses.field(default_factory=dict)

  def refuse_foreign(self, step: int, lineage: Mapping[str, Any]) -> None:
    """Checks that a checkpoint is of this run, stage and teacher.

    Args:
      lineage: what that of the checkpoint must hold; its stage is the place.

    Raises:
      CheckpointError: names what differs.
    """
    different = [n for n in lineage if self.lineage.get(n) != lineage[n]]
    if different:
      number = lineage['stage']
      raise CheckpointError(
        f'stage {number}, step {step}: this checkpoint belongs to another run; '
        f'it differs in {", ".join(different)}. Move stage_{number} away to '
        'train the stage anew.'
      )

  def note_session(self, environment: dict[str, Any], step: int) -> str:
    """Adds this process.

    Args:
      environment: what may change the bits of a result: versions, devices, ...
      step: the global step that the process goes on from.

    Returns:
      A line about what has changed since the process before; '' if nothing
      has.
    """
    before = self.sessions[-1]['environment'] if self.sessions else environment
    # An earlier version may have recorded less.
    changed = [k for k, v in environment.items() if before.get(k, v) != v]
    self.sessions.append({'from_step': step, 'environment': environment})
    if not changed:
      return ''
    return (
      f'Changed since the last session: {", ".join(changed)}. The bits of an '
      'uninterrupted run are not promised.'
    )

  def add_steps(self, metrics: Mapping[str, np.ndarray]) -> None:
    """Adds a chunk's metrics, arrays [S], to the sums of the epoch."""
    for name, values in metrics.items():
      # One by one: the sum must not depend on the size of a chunk.
      for value in values:
        self.sums[name] = self.sums.get(name, 0.0) + float(value)
    self.sum_steps += len(metrics['loss'])

  def close_epoch(self, batch_size: int) -> dict[str, float | int]:
    """Returns an epoch's means and number of examples, and begins a new one."""
    self.train = {
      name: total / self.sum_steps
      for name, total in self.sums.items()
      if name != 'learning_rate'
    }
    self.train['examples'] = self.sum_steps * batch_size
    self.sums, self.sum_steps = {}, 0
    return self.train

  def shown(self, score: str) -> dict[str, float]:
    """Returns what to show of it while it trains, as far as it is known.

    Args:
      score: name of a metric of evaluations.
    """
    found = {}
    if self.sum_steps:
      found['loss'] = self.sums['loss'] / self.sum_steps
    elif self.train:
      found['loss'] = self.train['loss']
    if self.evaluation:
      found[f'{self.evaluation["split"]}_{score}'] = self.evaluation[score]
    return found
