# SPDX-License-Identifier: Apache-2.0
"""What a run found, what it cost, and on what: result.json."""

import dataclasses
import resource
from typing import Any

import jax

from srdl_jax import analysis, cost, parallel, plan, schedules
from srdl_jax import config as config_lib
from srdl_jax.checkpoint import Moment
from srdl_jax.evaluate import evaluate
from srdl_jax.experiment import Experiment
from srdl_jax.extraction import Knowledge


def assemble(
  experiment: Experiment,
  ends: list[Moment],
  knowledge: dict[int, Knowledge],
) -> dict[str, Any]:
  """Returns the content of result.json.

  Accuracies are fractions; every group of metrics holds its number of
  examples. The last epoch is the result; the best one, chosen on the split
  that was evaluated while training, stands beside it.

  Args:
    experiment: of the run.
    ends: the last moment of each stage.
    knowledge: what the teachers handed on, by the number of their stage or
      plan.IMPORTED.
  """
  members = {n: end.variables for n, end in enumerate(ends, start=1)}
  analysed = analysis.stages(experiment, members, knowledge)
  stages = [
    _stage(experiment, number, end) | analysed[number]
    for number, end in enumerate(ends, start=1)
  ]
  teacher = _teacher(experiment, analysed)
  found = {
    'final': {'test': stages[-1]['test']},
    'best': ends[-1].progress['best'],
    'ensemble': None,
    'stages': stages,
    'teacher': teacher,
    'schedule': schedules.changes(
      experiment.schedule, experiment.first_step(len(stages) + 1)
    ),
    'steps_per_epoch': experiment.steps_per_epoch,
    'cost': _cost(experiment, stages, teacher),
    'peak_memory_bytes': peak_memory(parallel.local(experiment.devices)),
    'seed': experiment.config.seed,
    'config': config_lib.flatten(experiment.config),
    'data': {
      'name': experiment.dataset.name,
      'version': experiment.dataset.version,
      'fingerprint': experiment.dataset.train.fingerprint,
      'ranked': experiment.record.ranked,
      'train_examples': len(experiment.train_rows),
    },
    'weights': experiment.record.weights,
    **experiment.environment,
  }
  if len(members) > 1:
    found['ensemble'] = {'test': evaluate(experiment, members, 'test')}
  return found


def _stage(experiment: Experiment, number: int, end: Moment) -> dict[str, Any]:
  stage = experiment.stages[number - 1]
  return {
    'stage': number,
    'teacher': stage.teacher,
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


def _test(
  experiment: Experiment, number: int, end: Moment
) -> dict[str, float | int]:
  """Returns a stage's test metrics; most often they are known already."""
  if end.progress['evaluation']['split'] == 'test':
    place = {'split', 'stage', 'epoch', 'step'}
    known = end.progress['evaluation'].items()
    return {name: value for name, value in known if name not in place}
  return evaluate(experiment, {number: end.variables}, 'test')


def _teacher(
  experiment: Experiment, analysed: dict[int, dict[str, Any]]
) -> dict[str, Any] | None:
  """Returns what is known of an imported teacher."""
  teacher = experiment.teacher
  if teacher is None:
    return None
  return {
    'model': teacher.model,
    'method': teacher.record.config.method,
    'seed': teacher.record.config.seed,
    'config': config_lib.identity(config_lib.flatten(teacher.record.config)),
    'workdir': str(teacher.directory),
    'checkpoint': teacher.checkpoint,
    'test': teacher.result['final']['test'],
    'train_epoch': teacher.result['stages'][-1]['train_epoch'],
    **analysed[plan.IMPORTED],
  }


def _cost(
  experiment: Experiment,
  stages: list[dict[str, Any]],
  imported: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Returns cost in the paper's unit, in FLOPs and in seconds.

  Args:
    experiment: of the run.
    stages: what is known of each.
    imported: what is known of an imported teacher, if any.
  """
  networks = {name: n.model for name, n in experiment.networks.items()}
  views = experiment.config.distillation.views
  work = cost.work(
    experiment.stages, networks, experiment.image_shape, views=views
  )
  if teacher := experiment.teacher:
    recorded = teacher.result['cost']['stages']
    work = [*cost.with_imported(recorded, experiment.stages, views), *work]
  examples = len(experiment.train_rows)
  taught = [stage for stage in stages if 'extraction_seconds' in stage]
  seconds = {
    'train': sum(s['seconds']['train'] for s in stages),
    'evaluate': sum(s['seconds']['evaluate'] for s in stages),
    'extract': sum(
      s['extraction_seconds'] or 0.0
      for s in (taught + [imported] if imported else taught)
    ),
  }
  if teacher:
    # In device-seconds, as a teacher may have had another number of devices.
    earlier = teacher.result['cost']['seconds']
    own = earlier['train'] + earlier['extract']
    seconds['teacher'] = own * teacher.result['device']['count']
    seconds['teacher'] += earlier.get('teacher', 0.0)
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
