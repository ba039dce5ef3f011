# SPDX-License-Identifier: Apache-2.0
"""A TPU's own compiler takes a run's programs, and makes good ones of them.

No TPU is needed, but libtpu: see CONTRIBUTING.md.
"""

import functools
import importlib.util
import json
import os
import sys

import pytest
import started

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='needs libtpu'
  ),
]

IMAGES = 50_000 * 32 * 32 * 3
# Of these runs: CIFAR-100's shape, taught by soft targets.
RUN = '--config=configs/cifar100.py:model=resnet8'
TOPOLOGIES = pytest.mark.parametrize(
  'topology', ['v4:2x2x1', 'v4:2x2x4', 'v5e:2x2']
)


@functools.cache
def _programs(topology):
  """What the compiler says of training and predicting, by their names."""
  # The tests' flags are for CPUs.
  kept = {k: v for k, v in os.environ.items() if not k.startswith('XLA_')}
  ended = started.run(
    [
      sys.executable,
      'benchmarks/compiled.py',
      f'--topology={topology}',
      '--programs=predict,evaluate,train',
      RUN,
    ],
    env={**kept, 'PYTHONPATH': str(started.ROOT)},
    cwd=started.ROOT,
    timeout=3 * started.SECONDS,
  )
  assert ended.returncode == 0, ended.stderr
  found = map(json.loads, ended.stdout.splitlines())
  return {program['program']: program for program in found}


@TOPOLOGIES
def test_a_train_step_is_a_good_program(topology):
  found = _programs(topology)['train']
  assert found['devices'] == (16 if topology == 'v4:2x2x4' else 4)
  assert found['norms'] == 9 and found['steps'] == 78
  # In place: no byte of the state is there twice.
  assert found['donated_arrays'] == found['state_arrays'] > 50
  assert found['donated'] >= found['state']
  # A norm averages forwards and backwards; gradients, loss and its parts once.
  assert 0 < found['collectives']['all-reduce'] <= 2 * found['norms'] + 3
  assert set(found['collectives']) == {'all-reduce'}
  # Over the steps, and not over images.
  assert found['loops'] == 1
  assert not found['image_copies']
  assert found['temporary'] < IMAGES / 4
  assert IMAGES < found['memory'] < 2 * IMAGES


@TOPOLOGIES
@pytest.mark.parametrize('program', ['predict', 'evaluate'])
def test_predicting_gathers_once(topology, program):
  found = _programs(topology)[program]
  assert found['collectives'] == {'all-gather': 1}
  assert not found['loops']
  assert not found['image_copies']
