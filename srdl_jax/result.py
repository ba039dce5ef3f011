# SPDX-License-Identifier: Apache-2.0
"""What a run found, what it cost, and on what: result.json."""

import dataclasses
import resource
from typing import Any

import jax
import numpy as np

from srdl_jax import config as config_lib
from srdl_jax import cost, soft_targets
from srdl_jax.checkpoint import Moment
from srdl_jax.evaluate import evaluate
from srdl_jax.experiment import Experiment
from srdl_jax.metrics import METRICS, Classification


def assemble(
  experiment: Experiment,
  ends: list[Moment],
  banks: dict[int, soft_targets.Bank],
  extractions: dict[int, float | None],
) -> dict[str, Any]:
  """Returns the content of result.json.

  Accuracies are fractions; every group of metrics holds its number of
  examples. The last epoch is the result; the best one, chosen on the split
  that was evaluated while training, stands beside it.

  Args:
    experiment: of the run.
    ends: the last moment of each stage.
    banks: soft targets of the stages that taught, by number.
    extractions: seconds that each bank took, None where unknown.
  """
  members = {n: end.variables for n, end in enumerate(ends, start=1)}
  stages = [
    {
      'stage': number,
      'model': stage.model,
      'epochs': stage.epochs,
      'steps': stage.epochs * experiment.steps_per_epoch,
      'test': _test(experiment, number, end),
      'best': end.progress['best'],
      'train_epoch': end.progress['train'],
      'seconds': end.progress['seconds'],
      'last_epoch_seconds': end.progress['epoch'][0],
      'sessions': end.progress['sessions'],
    }
    for number, (stage, end) in enumerate(
      zip(experiment.stages, ends, strict=True), start=1
    )
  ]
  for number, bank in banks.items():
    stages[number - 1]['train'] = _train(experiment, bank)
    stages[number - 1]['extraction_seconds'] = extractions[number]
  found = {
    'final': {'test': stages[-1]['test']},
    'best': ends[-1].progress['best'],
    'ensemble': None,
    'stages': stages,
    'cost': _cost(experiment, stages),
    'peak_memory_bytes': peak_memory(experiment.devices),
    'seed': experiment.config.seed,
    'config': config_lib.flatten(experiment.config),
    'data': {
      'name': experiment.dataset.name,
      'version': experiment.dataset.version,
      'fingerprint': experiment.dataset.train.fingerprint,
      'train_examples': len(experiment.train_rows),
    },
    'weights': experiment.record.weights,
    **experiment.environment,
  }
  if len(members) > 1:
    found['ensemble'] = {'test': evaluate(experiment, members, 'test')}
  return found


def _test(
  experiment: Experiment, number: int, end: Moment
) -> dict[str, float | int]:
  """Returns a stage's test metrics; most often they are known already."""
  if end.progress['evaluation']['split'] == 'test':
    return {name: end.progress['evaluation'][name] for name in METRICS}
  return evaluate(experiment, {number: end.variables}, 'test')


def _train(
  experiment: Experiment, bank: soft_targets.Bank
) -> dict[str, float | int]:
  """Returns metrics on clean training images, from the stored targets."""
  sums = Classification()
  rows = experiment.train_rows
  log_probs = soft_targets.at_temperature(
    bank.log_probs_NxK[rows].astype(np.float64), bank.temperature, 1.0
  )
  sums.add(log_probs, experiment.dataset.train.labels[rows])
  return sums.result()


def _cost(
  experiment: Experiment, stages: list[dict[str, Any]]
) -> dict[str, Any]:
  """Returns cost in the paper's unit, in FLOPs and in seconds."""
  networks = {name: n.model for name, n in experiment.networks.items()}
  work = cost.work(experiment.stages, networks, experiment.image_shape)
  examples = len(experiment.train_rows)
  taught = [stage for stage in stages if 'extraction_seconds' in stage]
  seconds = {
    'train': sum(s['seconds']['train'] for s in stages),
    'evaluate': sum(s['seconds']['evaluate'] for s in stages),
    'extract': sum(s['extraction_seconds'] or 0.0 for s in taught),
  }
  return {
    'forward_multiply_adds': {part.model: part.forward for part in work},
    'parameters': {part.model: part.parameters for part in work},
    'stages': [dataclasses.asdict(part) for part in work],
    'training_1e16': cost.training_cost(work, examples),
    'training_flops': cost.training_flops(work, examples),
    'seconds': seconds,
    'extraction_share': seconds['extract'] / sum(seconds.values()),
    'extraction_epochs': [
      s['extraction_seconds'] / s['last_epoch_seconds']
      for s in taught
      if s['extraction_seconds'] is not None
    ],
  }


def peak_memory(devices: list[jax.Device]) -> dict[str, int]:
  """Returns the largest memory used so far, in bytes: host and device."""
  kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  peaks = {'host': kibibytes * 1024}
  statistics = devices[0].memory_stats()
  if statistics and 'peak_bytes_in_use' in statistics:
    peaks['device'] = statistics['peak_bytes_in_use']
  return peaks
