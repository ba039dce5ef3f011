# SPDX-License-Identifier: Apache-2.0
"""Invented results of runs, for the tests of what reads them."""

import json
import pathlib
from typing import Any

from srdl_jax import config as config_lib
from srdl_jax import methods, storage
from srdl_jax.reproduce import Row, scales

# Epochs of each stage in the invented runs, whatever their configuration says.
EPOCHS = 2
STEPS_PER_EPOCH = 5
EXAMPLES = 200


def result(
  method: str = 'srdl', seed: int = 0, last: float = 0.6, **fields: Any
) -> dict[str, Any]:
  """Returns what result.json would hold.

  Args:
    method: kd imports its teacher; it and methods of one stage have one,
      others two.
    seed: of the run.
    last: test accuracy of the last epoch; the best is 0.01 above it, the
      ensemble 0.02, stage one 0.03 below.
    **fields: of the configuration, by dotted names.
  """
  config = config_lib.defaults()
  for name, value in ({'method': method, 'seed': seed} | fields).items():
    config.update_from_flattened_dict({name: value})
  several = (
    config.method != 'kd'
    and len(methods.METHODS[config.method].plan(config)) > 1
  )
  stages, teacher = [_stage(1, last)], None
  if several:
    soft_targets = {'temperature': 3.0, 'entropy': 1.5, 'views': 0}
    agreement = {'agreement': 0.9, 'examples': 200}
    stages = [
      _stage(1, last - 0.03) | {'soft_targets': soft_targets},
      _stage(2, last) | {'teacher': 1, 'agreement': agreement},
    ]
  if config.method == 'kd':
    stages[0]['teacher'] = 0
    teacher = {
      'model': config.teacher.model,
      'checkpoint': 'd1' * 16,
      'train_epoch': {'cross_entropy': 0.0087},
      'soft_targets': {'temperature': 3.0, 'entropy': 1.1, 'views': 0},
    }
  return {
    'final': {'test': stages[-1]['test']},
    'best': stages[-1]['test'] | {'accuracy': last + 0.01, 'split': 'test'},
    'ensemble': {'test': _test(last + 0.02) | {'disagreement': 0.25}}
    if several
    else None,
    'stages': stages,
    'teacher': teacher,
    'schedule': [[0, 0.1], [EPOCHS * STEPS_PER_EPOCH // 2, 0.01]],
    'steps_per_epoch': STEPS_PER_EPOCH,
    'cost': {
      'units': 3 * EPOCHS * EXAMPLES,
      'training_1e16': 0.002,
      'training_flops': 120_000_000_000_000,
      'seconds': {'train': 10.0, 'evaluate': 5.0, 'extract': 2.0},
    },
    'seed': seed,
    'config': config_lib.flatten(config),
    'data': {
      'name': config.data.name,
      'fingerprint': 'f1' * 32,
      'train_examples': EXAMPLES,
    },
    'weights': None,
    'device': {'platform': 'cpu', 'kind': 'abacus', 'count': 1},
    'versions': {'jax': '0.10.2'},
    'commit': 'c0ffee',
  }


def _test(accuracy: float) -> dict[str, float | int]:
  return {
    'accuracy': accuracy,
    'top5_accuracy': accuracy,
    'nll': 1.25,
    'expected_calibration_error': 0.04,
    'entropy': 0.5,
    'examples': 100,
  }


def _stage(number: int, accuracy: float) -> dict[str, Any]:
  return {
    'stage': number,
    'teacher': None,
    'model': '',
    'epochs': EPOCHS,
    'steps': EPOCHS * STEPS_PER_EPOCH,
    'test': _test(accuracy),
    'train_epoch': {'accuracy': 0.9, 'cross_entropy': 0.1637 / number},
  }


def change(directory: str | pathlib.Path, found: Any) -> None:
  """Writes another result into a run directory, and whose it is beside it."""
  directory = pathlib.Path(directory)
  storage.write_json(directory / 'result.json', found)
  try:
    record = {
      'config': found['config'],
      'fingerprint': found['data']['fingerprint'],
      'ranked': found['data'].get('ranked'),
      'weights': found.get('weights'),
      'teacher': (found['teacher'] or {}).get('checkpoint'),
    }
  except (AttributeError, LookupError, TypeError):
    # What isn't ours is to be refused as it is.
    return
  storage.write_json(directory / 'config.json', record)


def write(directory: pathlib.Path, found: dict[str, Any]) -> str:
  """Writes a run directory without checkpoints; returns its name."""
  directory.mkdir(parents=True)
  change(directory, found)
  lines = []
  for stage in found['stages']:
    for epoch in range(1, EPOCHS + 1):
      place = {'stage': stage['stage'], 'epoch': epoch}
      accuracy = stage['test']['accuracy'] * epoch / EPOCHS
      for split in ('train', 'train_epoch', found['best']['split']):
        lines.append(place | {'split': split, 'accuracy': accuracy})
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (directory / 'metrics.jsonl').write_text(text)
  return str(directory)


def of_row(row: Row, seed: int = 0, last: float = 0.6) -> dict[str, Any]:
  """Returns what result.json would hold of a run of a row of the paper."""
  fields = config_lib.flatten(scales.config(row.setting)) | {'seed': seed}
  found = result(fields['method'], seed, last)
  found['config'] |= fields
  if teacher := row.setting.teacher:
    found['teacher']['model'] = teacher.model
    found['teacher']['config'] = config_lib.flatten(scales.config(teacher))
  return found


def of_arena(
  row: Row, seed: int = 0, last: float = 0.6, units: float = 1.0
) -> dict[str, Any]:
  """Returns the same of a row of the arena, with what its methods tell.

  Where labels are wrong, 60 % of them are memorised by the last stage, and
  40 % by the one before; 30 % and 50 % are corrected.

  Args:
    units: times those that its epochs have.
  """
  found = of_row(row, seed, last)
  forwards = 3 + (row.setting.method in ('mean_teacher', 'ema'))
  if row.setting.method == 'mean_teacher':
    found['stages'][-1]['others'] = {'mean': _test(last + 0.005)}
  passes = forwards * found['config']['epochs']
  found['cost']['units'] = units * passes * EXAMPLES
  if found['config']['data.label_noise']:
    for n, stage in enumerate(reversed(found['stages'])):
      shares = {'memorised': 0.6 - 0.2 * n, 'corrected': 0.3 + 0.2 * n}
      stage['noise'] = shares | {'examples': 60}
      if 'soft_targets' in stage:
        stage['soft_targets'] |= {'noise': stage['noise']}
  return found


def flatness(**run):
  """Returns what a flatness.json holds, of one network; `run` over its own."""
  curves = {'train': [[0.5, 1.0], [0.5, None]], 'test': [[1.0, 2.0]] * 2}
  return {
    'directions': 2,
    'distances': [0.0, 5.0],
    'alphas': [0.0, 1.0],
    'examples': {'train': 10, 'test': 20},
    'runs': [
      {
        'workdir': 'runs/a',
        'name': 'resnet8, srdl',
        'seed': 0,
        'norm': 35.2,
        'parameters': 100,
        'curves': {'literal': curves, 'filter_normalised': curves},
        **run,
      }
    ],
    'commit': 'c0ffee',
    'device': {'kind': 'abacus'},
  }
