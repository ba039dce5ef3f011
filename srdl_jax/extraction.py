# SPDX-License-Identifier: Apache-2.0
"""Induces a stage's knowledge: one pass over the training set, kept (Eq 5)."""

import pathlib
import time

from srdl_jax import soft_targets, workdir
from srdl_jax.checkpoint import Moment, digest
from srdl_jax.experiment import Experiment


def extract(
  experiment: Experiment, number: int, end: Moment, directory: pathlib.Path
) -> tuple[soft_targets.Bank, float | None]:
  """Stores what a stage's end predicts of its training examples (Eq 5).

  One pass in evaluation mode over clean images, every example once. A
  complete bank is not made again.

  Args:
    experiment: of the run.
    number: of the stage, from 1.
    end: the stage's last moment.
    directory: the bank's folder.

  Returns:
    The soft targets, and the seconds that predicting and writing them took,
    compilation apart; None if a kill fell between the bank and its timing.

  Raises:
    SoftTargetsError: what is there is damaged or of another making.
  """
  size = {
    'num_examples': len(experiment.dataset.train.labels),
    'num_classes': experiment.dataset.num_classes,
  }
  provenance = experiment.provenance(number, digest(end.state))
  timing = directory.with_name('extraction.json')
  if not soft_targets.is_complete(directory):
    # Compiles, if no evaluation has.
    next(experiment.predict(number, end.variables, 'train'))
    begun = time.monotonic()
    soft_targets.save(
      directory,
      experiment.predict(number, end.variables, 'train'),
      temperature=experiment.config.distillation.temperature,
      provenance=provenance,
      expected_rows=experiment.train_rows,
      **size,
    )
    workdir.write_json(timing, {'seconds': time.monotonic() - begun})
  bank = soft_targets.load(directory, provenance=provenance, **size)
  seconds = workdir.read_json(timing)['seconds'] if timing.exists() else None
  return bank, seconds
