# SPDX-License-Identifier: Apache-2.0
"""What a run found, why, what it cost, and on what: result.json.

Why a method works shows in what networks say about their training images.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from srdl_jax import config as config_lib
from srdl_jax import cost, methods, parallel, schedules, soft_targets
from srdl_jax.evaluate import evaluate
from srdl_jax.experiment import Experiment
from srdl_jax.knowledge import Knowledge
from srdl_jax.metrics import Classification, log_softmax
from srdl_jax.runs import environment
from srdl_jax.runs.checkpoint import Moment


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
      methods.IMPORTED.
  """
  members = {n: end.variables for n, end in enumerate(ends, start=1)}
  analysed = analyse(experiment, members, knowledge)
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
    'peak_memory_bytes': environment.peak_memory(
      parallel.local(experiment.devices)
    ),
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
    **analysed[methods.IMPORTED],
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


def on_training_images(
  experiment: Experiment,
  number: int,
  variables: Any,
  bank: soft_targets.Bank | None,
) -> tuple[dict[str, float | int], np.ndarray]:
  """Returns metrics on clean training images, and the predicted classes [n].

  Args:
    experiment: of the run.
    number: of the stage whose network it is, from 1, or methods.IMPORTED.
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


def analyse(
  experiment: Experiment,
  variables: Mapping[int, Any],
  taught_by: Mapping[int, Knowledge],
) -> dict[int, dict[str, Any]]:
  """Returns what to say of each stage's end, by the stage's number.

  Args:
    experiment: of the run.
    variables: of the stages' ends, by number.
    taught_by: what the teachers among them, and methods.IMPORTED, handed on.

  Returns:
    'train': metrics on clean training images; where the stage teaches,
    'soft_targets' and 'extraction_seconds'; where it is taught, 'agreement':
    the share of training images on which it predicts its teacher's class.
  """
  everyone = dict(variables)
  if methods.IMPORTED in taught_by:
    everyone[methods.IMPORTED] = taught_by[methods.IMPORTED].variables
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
