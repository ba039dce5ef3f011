# SPDX-License-Identifier: Apache-2.0
"""Induces a stage's knowledge: one pass over the training set, kept (Eq 5)."""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from srdl_jax import methods, soft_targets, storage
from srdl_jax.experiment import Experiment
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import processes
from srdl_jax.runs.checkpoint import Moment, digest
from srdl_jax.runs.stop_request import StopRequest


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """What a network hands on to a later stage.

  Attributes:
    checkpoint: digest of the network.
    bank: its soft targets; None where it teaches online.
    variables: its parameters and statistics.
    seconds: that predicting and writing the soft targets took, compilation
      apart; None if unknown, as a kill fell between the bank and its timing.
  """

  checkpoint: str
  bank: soft_targets.Bank | None
  variables: Any
  seconds: float | None


def induce(
  experiment: Experiment,
  number: int,
  end: Moment,
  directory: storage.Path,
  stop: StopRequest | None = None,
) -> Knowledge:
  """Returns what a stage's end teaches; predicts its soft targets if need be.

  A complete bank is not made again.

  Args:
    experiment: of the run.
    number: of the stage, from 1, or methods.IMPORTED.
    end: the stage's last moment.
    directory: the bank's folder.
    stop: whether to end early; what has been predicted is then lost.

  Raises:
    SoftTargetsError: what is there is damaged or of another making.
    Interrupted: `stop` asked for it.
  """
  checkpoint = digest(end.state)
  if experiment.config.distillation.online:
    return Knowledge(checkpoint, None, end.variables, 0.0)
  size = {
    'num_examples': len(experiment.dataset.train.labels),
    'num_classes': experiment.dataset.num_classes,
  }
  provenance = provenance_of(experiment, number, checkpoint)
  timing = _timing(directory)
  if not processes.first_says(soft_targets.is_complete(directory)):
    # Compiles, if no evaluation has.
    next(experiment.predict(number, end.variables, 'train'))
    begun = time.monotonic()
    soft_targets.save(
      directory,
      _until_asked(
        stop,
        _logits(experiment, number, end.variables, provenance['temperature']),
      ),
      temperature=provenance['temperature'],
      provenance=provenance,
      expected_rows=experiment.train_rows,
      # 1.28M x 1000 in float32 would be 5 GB.
      dtype='float16' if experiment.dataset.train.is_streamed else 'float32',
      **size,
    )
    if processes.is_first():
      storage.write_json(timing, {'seconds': time.monotonic() - begun})
    processes.wait('soft targets')
  bank = soft_targets.load(directory, provenance=provenance, **size)
  with storage.failures(timing, 'read'):
    timed = timing.exists()
  seconds = storage.read_json(timing)['seconds'] if timed else None
  return Knowledge(checkpoint, bank, end.variables, seconds)


def provenance_of(
  experiment: Experiment, number: int, checkpoint_digest: str
) -> dict[str, Any]:
  """Returns what soft targets of a stage must match to be used.

  Args:
    number: of the stage, from 1, or methods.IMPORTED.
    checkpoint_digest: of the network that makes them.
  """
  augmented = experiment.config.distillation.views and {
    'count': experiment.config.distillation.views,
    'seed': experiment.owner(number).seed,
    'flip': experiment.config.augment.flip,
    'padding': experiment.config.augment.padding,
    'mode': experiment.config.augment.mode,
  }
  if augmented and experiment.dataset.train.is_streamed:
    augmented['least_area'] = experiment.config.augment.least_area
  imported = number == methods.IMPORTED
  model = (
    experiment.teacher.model
    if imported
    else experiment.stages[number - 1].model
  )
  rows = experiment.train_rows.astype('<i4').tobytes()
  return {
    'dataset': experiment.dataset.name,
    'version': experiment.dataset.version,
    'split': experiment.dataset.train.name,
    'fingerprint': experiment.dataset.train.fingerprint,
    'rows': hashlib.sha256(rows).hexdigest(),
    'model': model,
    'checkpoint': checkpoint_digest,
    'temperature': experiment.owner(number).distillation.temperature,
    'views': augmented,
  }


def induce_imported(
  experiment: Experiment, stop: StopRequest | None = None
) -> dict[int, Knowledge]:
  """Returns what the finished run of `teacher.workdir` teaches, if any does.

  It is under methods.IMPORTED. Its soft targets are kept in its own directory,
  at its own temperature, for every student.

  Args:
    experiment: of the run.
    stop: see `induce`.

  Raises:
    SoftTargetsError, WorkdirError: they are of another making, or can't be
      written there.
    Interrupted: `stop` asked for it.
  """
  teacher = experiment.teacher
  if teacher is None:
    return {}
  directory = run_directory.soft_targets(
    teacher.directory, teacher.number, experiment.config.distillation.views
  )
  made = soft_targets.is_complete(directory) and _timing(directory).exists()
  hold = contextlib.nullcontext()
  needed = not (made or experiment.config.distillation.online)
  if needed and processes.is_first():
    hold = storage.lock(teacher.directory, wait=True)
  with hold:
    number = methods.IMPORTED
    return {number: induce(experiment, number, teacher.end, directory, stop)}


def _until_asked(stop: StopRequest | None, blocks: Iterator) -> Iterator:
  for block in blocks:
    if stop is not None:
      stop.agree(processes.any_says)
      stop.end_if_asked('while predicting soft targets')
    yield block


def _timing(directory: storage.Path) -> storage.Path:
  suffix = directory.name.removeprefix(run_directory.SOFT_TARGETS)
  return directory.with_name(f'extraction{suffix}.json')


def _logits(
  experiment: Experiment, number: int, variables: Any, temperature: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Returns rows [b], logits [b, K]: of clean images, or the mean of views."""
  if experiment.config.distillation.views:
    return _mean_of_views(experiment, number, variables, temperature)
  return experiment.predict(number, variables, 'train')


def _mean_of_views(experiment, number, variables, temperature):
  """Yields logits that soften to the mean of softened probabilities: T times
  its logarithm."""
  views = experiment.config.distillation.views
  passes = [
    experiment.predict(number, variables, 'train', view=view)
    for view in range(views)
  ]
  for blocks in zip(*passes, strict=True):
    softened = [soft_targets.soften(z, temperature) for _, z in blocks]
    wide = np.stack(softened).astype(np.float64)
    mean = np.logaddexp.reduce(wide) - np.log(views)
    yield blocks[0][0], temperature * mean
