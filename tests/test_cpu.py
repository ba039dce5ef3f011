# SPDX-License-Identifier: Apache-2.0
"""What a command asks of the processor, and what that leaves as it was."""

import json
import os
import sys

import jax
import numpy as np
import pytest
import started
import tiny
from situation_table import seal

from srdl_jax import cpu, parallel, srdl, trained
from srdl_jax.runs.stop_request import StopRequest

COUNT = 'import jax; print(jax.device_count())'
PREPARED = f'from srdl_jax import cpu; cpu.prepare(); {COUNT}'
BUILT = f"""
from srdl_jax import build, config
given = config.defaults()
given.data.name, given.model.name = 'digits', 'resnet8'
assert len(build.build(given).devices) == 1
{COUNT}
"""


def usual():
  """Returns an environment that says nothing of devices."""
  said = {'XLA_FLAGS', 'JAX_NUM_CPU_DEVICES'}
  return {name: v for name, v in os.environ.items() if name not in said}


def devices(program, **environment):
  """Returns how many CPU devices a program has of its own."""
  kept = usual()
  ended = started.run([sys.executable, '-c', program], env=kept | environment)
  assert ended.returncode == 0, ended.stderr
  return int(ended.stdout)


@pytest.mark.parametrize(('narrow', 'least'), [(True, 4), (False, 2)])
def test_a_command_has_several_devices(narrow, least):
  known = f'from srdl_jax import cpu; cpu.has_narrow_vectors = lambda: {narrow}'
  assert devices(f'{known}; {PREPARED}') == max(least, cpu.cores())


@pytest.mark.parametrize(
  ('machine', 'told', 'narrow'),
  [
    ('x86_64', 'flags : sse avx avx2', True),
    ('x86_64', 'flags : avx2 avx512f', False),
    ('AMD64', None, True),
    ('aarch64', 'Features : asimd', False),
  ],
)
def test_narrow_vectors_are_known(monkeypatch, tmp_path, machine, told, narrow):
  if told:
    (tmp_path / 'cpuinfo').write_text(told)
  monkeypatch.setattr(cpu, 'CPU_INFO', tmp_path / 'cpuinfo')
  monkeypatch.setattr(cpu.platform, 'machine', lambda: machine)
  assert cpu.has_narrow_vectors.__wrapped__() == narrow


@pytest.mark.parametrize(
  'told',
  [
    {'XLA_FLAGS': f'{cpu.DEVICES_FLAG}=3'},
    {'JAX_NUM_CPU_DEVICES': '3'},
  ],
  ids=lambda told: next(iter(told)),
)
def test_who_says_how_many_has_so_many(told):
  assert devices(PREPARED, **told) == 3


def test_python_has_one():
  assert devices(BUILT) == 1


FAULTS = """
import resource
from srdl_jax import cpu
{}

def faults():
  begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  block = bytearray(40 * 2**20)
  block[::4096] = bytes(len(block) // 4096)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

first = faults()
print(first > 500, faults() > first / 2)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
@pytest.mark.parametrize(
  ('line', 'again'), [('', 'True'), ('cpu.prepare()', 'False')]
)
def test_memory_that_is_freed_is_used_again(line, again):
  ended = started.run([sys.executable, '-c', FAULTS.format(line)])
  assert ended.stdout.split() == ['True', again], ended.stderr


@pytest.mark.parametrize(
  ('platforms', 'plugins', 'kept'),
  [(None, [], True), (None, ['cuda'], False), ('cpu', ['cuda'], True)],
)
def test_malloc_stays_as_it_is_beside_an_accelerator(
  monkeypatch, platforms, plugins, kept
):
  called = []
  monkeypatch.setattr(cpu, '_keep_memory', lambda: called.append(True))
  monkeypatch.setattr(cpu.importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(
    cpu.importlib.metadata, 'entry_points', lambda group: plugins
  )
  before = jax.config.jax_platforms
  jax.config.update('jax_platforms', platforms)
  try:
    cpu.prepare()
  finally:
    jax.config.update('jax_platforms', before)
  assert bool(called) == kept


def test_jax_that_is_in_use_stays_as_it_is():
  assert devices(f'import jax; jax.devices(); {PREPARED}') == 1


@pytest.mark.parametrize('dtype', ['uint8', 'float16', 'int32', 'bool'])
def test_devices_have_one_copy_of_what_is_aligned(dtype):
  odd = np.arange(1004)[1:].astype(dtype).reshape(17, 59)[:, ::2]
  copy = cpu.aligned(odd)
  assert copy.dtype == odd.dtype and not np.shares_memory(copy, odd)
  np.testing.assert_array_equal(copy, odd)
  # What is right is taken as it is.
  assert cpu.aligned(copy) is copy
  shared = parallel.replicate({'image': copy}, jax.devices())['image']
  places = {s.data.unsafe_buffer_pointer() for s in shared.addressable_shards}
  assert places == {copy.ctypes.data}


def test_evaluation_takes_as_many_devices_as_the_run(tmp_path):
  config = tiny.config(method='vanilla', epochs=1, devices=2)
  srdl.run(config, str(tmp_path), StopRequest())
  for device, count in (
    ({}, 2),
    ({'count': 100}, 4),
    # What rounds otherwise all the same.
    ({'kind': 'another'}, 1),
  ):
    seal(tmp_path, lambda found, its=device: found['device'].update(its))
    assert len(trained.open_run(tmp_path, None).devices) == count
  (tmp_path / 'result.json').unlink()
  assert len(trained.open_run(tmp_path, None).devices) == 1


@pytest.mark.slow
def test_evaluation_has_the_digits_of_the_run(tmp_path):
  """With the devices that both have by default."""
  workdir = f'--workdir={tmp_path}/run'
  kept = usual()
  small = [
    f'--config.{setting}'
    for setting in (
      'epochs=1',
      'batch_size=128',
      'method=vanilla',
      'eval.batch_size=100',
    )
  ]
  run = [sys.executable, '-m', 'srdl_jax.main', '--config=configs/digits.py']
  ended = started.run([*run, workdir, *small], env=kept)
  assert ended.returncode == 0, ended.stderr
  result = json.loads((tmp_path / 'run/result.json').read_text())
  count = max(4 if cpu.has_narrow_vectors() else 2, cpu.cores())
  assert result['device']['count'] == min(count, 4)
  ended = started.run(
    [sys.executable, '-m', 'srdl_jax.evaluate', workdir], env=kept
  )
  found = json.loads(ended.stdout)
  assert found == found | result['final']['test']
