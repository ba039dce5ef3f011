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
from srdl_jax.data import Subset
from srdl_jax.evaluate import evaluate
from srdl_jax.experiment import BoundStage, Experiment
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
    ends: the last moment of each stage.
    knowledge: what the teachers handed on, by the number of their stage or
      methods.IMPORTED.
  """
  stages = zip(experiment.stages, ends, strict=True)
  variables = {stage.number: stage.result(end) for stage, end in stages}
  analysed = analyse(experiment, variables, knowledge)
  stages = [
    _stage(experiment, stage, end) | analysed[stage.number]
    for stage, end in zip(experiment.stages, ends, strict=True)
  ]
  teacher = _teacher(experiment, analysed)
  found = {
    'final': {'test': stages[-1]['test']},
    'best': ends[-1].record.best,
    'ensemble': None,
    'stages': stages,
    'teacher': teacher,
    'schedule': schedules.changes(experiment.schedule, experiment.total_steps),
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
      'ranked': experiment.identity.ranked,
      'train_examples': len(experiment.train_rows),
    },
    'weights': experiment.identity.weights,
    **experiment.environment,
  }
  if len(variables) > 1:
    found['ensemble'] = {'test': evaluate([(experiment, variables)], 'test')}
  return found


def _stage(
  experiment: Experiment, stage: BoundStage, end: Moment
) -> dict[str, Any]:
  plan, record = stage.plan, end.record
  memory = end.state.get('memory', {})
  others = {
    name: evaluate([(experiment, {stage.number: variables})], 'test')
    for name, variables in stage.source.others(memory).items()
  }
  return {
    'stage': stage.number,
    'teacher': plan.teacher,
    'model': plan.model,
    'epochs': plan.epochs,
    'steps': stage.end_step - stage.first_step,
    'test': _test(experiment, stage, end),
    **({'others': others} if others else {}),
    'best': record.best,
    'train_epoch': record.train,
    'seconds': record.seconds,
    'last_epoch_seconds': record.epoch[0],
    'sessions': record.sessions,
  }


def _test(
  experiment: Experiment, stage: BoundStage, end: Moment
) -> dict[str, float | int]:
  """Returns a stage's test metrics; most often they are known already."""
  evaluation = end.record.evaluation
  if evaluation['split'] == 'test':
    place = {'split', 'stage', 'epoch', 'step'}
    return {name: v for name, v in evaluation.items() if name not in place}
  return evaluate([(experiment, {stage.number: stage.result(end)})], 'test')


def _teacher(
  experiment: Experiment, analysed: dict[int, dict[str, Any]]
) -> dict[str, Any] | None:
  """Returns what is known of an imported teacher."""
  teacher = experiment.imported
  if teacher is None:
    return None
  return {
    'model': teacher.config.model.name,
    'method': teacher.config.method,
    'seed': teacher.config.seed,
    'config': config_lib.identity(config_lib.flatten(teacher.config)),
    'workdir': str(teacher.directory),
    'checkpoint': teacher.checkpoint,
    'test': teacher.found.final,
    'train_epoch': teacher.found.stages[-1].train_epoch,
    **analysed[methods.IMPORTED],
  }


def _cost(
  experiment: Experiment,
  stages: list[dict[str, Any]],
  imported: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Returns cost in the paper's unit, in FLOPs and in seconds.

  Args:
    stages: what is known of each.
    imported: what is known of an imported teacher, if any.
  """
  networks = {s.network.name: s.network.model for s in experiment.stages}
  image_shape = experiment.stages[0].network.image_shape
  views = experiment.config.distillation.views
  work = cost.work(experiment.plan, networks, image_shape, views=views)
  if teacher := experiment.imported:
    recorded = teacher.found.cost.stages
    work = [*cost.with_imported(recorded, experiment.plan, views), *work]
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
    # A teacher may have had another number of devices.
    seconds['teacher'] = teacher.found.device_seconds
  return {
    'forward_multiply_adds': {part.model: part.forward for part in work},
    'parameters': {part.model: part.parameters for part in work},
    'stages': [dataclasses.asdict(part) for part in work],
    'units': cost.units(work, examples),
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


def analyse(
  experiment: Experiment,
  variables: Mapping[int, Any],
  taught_by: Mapping[int, Knowledge],
) -> dict[int, dict[str, Any]]:
  """Returns what to say of each stage's end, by the stage's number.

  Args:
    variables: of the stages' ends, by number.
    taught_by: what the teachers among them, and methods.IMPORTED, handed on.

  Returns:
    'train': metrics on clean training images and their right labels; where
    some labels are wrong, 'noise'; where the stage teaches, 'soft_targets' and
    'extraction_seconds'; where it is taught, 'agreement':
    the share of training images on which it predicts its teacher's class.
  """
  networks = {
    number: (experiment.stages[number - 1].network, its)
    for number, its in variables.items()
  }
  if imported := experiment.imported_teacher:
    networks[imported.number] = imported.network, imported.variables
  examples = experiment.examples('train')
  found, top1 = {}, {}
  for number, (network, its) in networks.items():
    knowledge = taught_by.get(number)
    bank = knowledge.load() if knowledge and knowledge.load else None
    if bank is None or bank.provenance['views']:
      blocks = _predicted(experiment, network, its)
    else:
      # They are of clean images, and save a pass.
      blocks = (
        (rows, soft_targets.at_temperature(soft, bank.temperature, 1.0))
        for rows, soft in _stored(bank, examples.rows)
      )
    metrics, top1[number] = _on_training_images(examples, blocks)
    found[number] = {'train': metrics, **_of_noise(experiment, top1[number])}
    if knowledge:
      found[number]['soft_targets'] = bank and _of_soft_targets(
        experiment, bank
      )
      found[number]['extraction_seconds'] = knowledge.seconds
  for number, stage in enumerate(experiment.plan, start=1):
    if stage.teacher is not None:
      same = top1[number] == top1[stage.teacher]
      found[number]['agreement'] = {
        'agreement': float(same.mean()),
        'examples': len(same),
      }
  return found


def _predicted(experiment, network, variables):
  """Yields (rows, log-probabilities at temperature 1) of training images."""
  examples = experiment.examples('train')
  for rows, logits in network.predict(
    variables,
    examples.split.images,
    examples.rows,
    experiment.config.eval.batch_size,
  ):
    yield rows, log_softmax(logits)


def _stored(bank: soft_targets.Bank, rows: np.ndarray):
  """Yields (rows, log-probabilities at the bank's own temperature)."""
  # In float64 a whole large set would not fit.
  for part in np.array_split(rows, -(-len(rows) // 10_000)):
    yield part, bank.log_probs_NxK[part].astype(np.float64)


def _on_training_images(
  examples: Subset, blocks
) -> tuple[dict[str, float | int], np.ndarray]:
  """Returns metrics, and the predicted classes [n], of what was predicted."""
  sums, top1 = Classification(), []
  for rows, log_probs in blocks:
    sums.add(log_probs, examples.split.labels[rows])
    top1.append(log_probs.argmax(-1))
  return sums.result(), np.concatenate(top1)


def _of_noise(experiment: Experiment, top1: np.ndarray) -> dict[str, Any]:
  """Returns, under 'noise', what is predicted of images with wrong labels.

  Args:
    top1: classes [n] of the images that are trained on.

  Returns:
    'memorised', the share of them of which the wrong label is predicted, and
    'corrected', the share of which the right one is; nothing without noise.
  """
  examples = experiment.examples('train')
  given = experiment.labels[examples.rows]
  right = examples.split.labels[examples.rows]
  wrong = given != right
  if not wrong.any():
    return {}
  shares = {
    name: float(np.mean(top1[wrong] == labels[wrong]))
    for name, labels in (('memorised', given), ('corrected', right))
  }
  return {'noise': {**shares, 'examples': int(wrong.sum())}}


def _of_soft_targets(
  experiment: Experiment, bank: soft_targets.Bank
) -> dict[str, Any]:
  """Returns how soft targets are made, and their mean entropy, in nats."""
  examples = experiment.examples('train')
  metrics, top1 = _on_training_images(examples, _stored(bank, examples.rows))
  views = bank.provenance['views']
  return {
    'temperature': bank.temperature,
    'views': views['count'] if views else 0,
    'entropy': metrics['entropy'],
    'examples': metrics['examples'],
    **_of_noise(experiment, top1),
  }
