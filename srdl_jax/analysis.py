# SPDX-License-Identifier: Apache-2.0
"""Why a method works: what networks say about their training images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from srdl_jax import plan, soft_targets
from srdl_jax.experiment import Experiment
from srdl_jax.extraction import Knowledge
from srdl_jax.metrics import Classification, log_softmax


def on_training_images(
  experiment: Experiment,
  number: int,
  variables: Any,
  bank: soft_targets.Bank | None,
) -> tuple[dict[str, float | int], np.ndarray]:
  """Returns metrics on clean training images, and the predicted classes [n].

  Args:
    experiment: of the run.
    number: of the stage whose network it is, from 1, or plan.IMPORTED.
    variables: of that network.
    bank: its soft targets, which save a pass where they are of clean images.
  """
  sums, top1 = Classification(), []
  labels = experiment.dataset.train.labels
  for rows, log_probs in _log_probs(experiment, number, variables, bank):
    sums.add(log_probs, labels[rows])
    top1.append(log_probs.argmax(-1))
  return sums.result(), np.concatenate(top1)


def _log_probs(experiment, number, variables, bank):
  """Yields (rows, log-probabilities at temperature 1) of training images."""
  if bank is None or bank.provenance['views']:
    for rows, logits in experiment.predict(number, variables, 'train'):
      yield rows, log_softmax(logits)
    return
  for part in _parts(experiment.train_rows):
    stored = bank.log_probs_NxK[part].astype(np.float64)
    yield part, soft_targets.at_temperature(stored, bank.temperature, 1.0)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
  # In float64 a whole large set would not fit.
  return np.array_split(rows, -(-len(rows) // 10_000))


def of_soft_targets(
  experiment: Experiment, knowledge: Knowledge
) -> dict[str, float | int] | None:
  """Returns the mean entropy of soft targets, in nats, and how they are made.

  None where the teacher predicts online: nothing is stored.
  """
  bank = knowledge.bank
  if bank is None:
    return None
  rows, views, entropy = experiment.train_rows, bank.provenance['views'], 0.0
  for part in _parts(rows):
    log_probs = bank.log_probs_NxK[part].astype(np.float64)
    entropy -= float((np.exp(log_probs) * log_probs).sum())
  return {
    'temperature': bank.temperature,
    'views': views['count'] if views else 0,
    'entropy': entropy / len(rows),
    'examples': len(rows),
  }


def stages(
  experiment: Experiment,
  variables: Mapping[int, Any],
  taught_by: Mapping[int, Knowledge],
) -> dict[int, dict[str, Any]]:
  """Returns what to say of each stage's end, by the stage's number.

  Args:
    experiment: of the run.
    variables: of the stages' ends, by number.
    taught_by: what the teachers among them, and plan.IMPORTED, handed on.

  Returns:
    'train': metrics on clean training images; where the stage teaches,
    'soft_targets' and 'extraction_seconds'; where it is taught, 'agreement':
    the share of training images on which it predicts its teacher's class.
  """
  everyone = dict(variables)
  if plan.IMPORTED in taught_by:
    everyone[plan.IMPORTED] = taught_by[plan.IMPORTED].variables
  found, top1 = {}, {}
  for number, its in everyone.items():
    knowledge = taught_by.get(number)
    bank = knowledge.bank if knowledge else None
    metrics, top1[number] = on_training_images(experiment, number, its, bank)
    found[number] = {'train': metrics}
    if knowledge:
      found[number]['soft_targets'] = of_soft_targets(experiment, knowledge)
      found[number]['extraction_seconds'] = knowledge.seconds
  for number, stage in enumerate(experiment.stages, start=1):
    if stage.teacher is not None:
      same = top1[number] == top1[stage.teacher]
      found[number]['agreement'] = {
        'agreement': float(same.mean()),
        'examples': len(same),
      }
  return found
