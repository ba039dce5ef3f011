# SPDX-License-Identifier: Apache-2.0
"""What a machine lacks is told in one line, and isn't taken for a bug."""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import started

from srdl_jax import machine
from srdl_jax.errors import ConfigError, DataError
from srdl_jax.reproduce import sweep
from srdl_jax.runs.stop_request import StopRequest


def caused(error, cause):
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  'error',
  [
    MemoryError(),
    MemoryError('Unable to allocate 9 TiB'),
    caused(ValueError('some library'), MemoryError()),
    *(
      jax.errors.JaxRuntimeError(text)
      for text in (
        'RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.',
        'INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory',
        f'INTERNAL: {"long " * 99} CUDNN_STATUS_ALLOC_FAILED',
      )
    ),
  ],
  ids=str,
)
def test_too_little_memory_is_told_with_its_remedy(error):
  told = pytest.raises(ConfigError, match='^Too little memory.* batch_size')
  with told, machine.lacking():
    raise error


def test_a_bug_does_not_ask_for_devices(monkeypatch):
  # On a pod that may wait for others, without end.
  monkeypatch.setattr(jax, 'devices', lambda: pytest.fail('asked'))
  assert machine.lack(RuntimeError('my own mistake')) is None
  assert machine.lack(AssertionError('x is 2')) is None


@pytest.mark.parametrize(
  'allocate',
  [
    lambda: jnp.zeros(2**50, jnp.uint8).block_until_ready(),
    lambda: np.ones(2**50, np.uint8),
  ],
  ids=['xla', 'numpy'],
)
def test_libraries_say_so_where_memory_is_too_little(allocate):
  told = pytest.raises(ConfigError, match='^Too little memory .*1')
  with told, machine.lacking():
    allocate()


@pytest.mark.parametrize(
  'error',
  [
    RuntimeError('out of memory'),
    AssertionError(),
    ValueError('RESOURCE_EXHAUSTED'),
    jax.errors.JaxRuntimeError('INTERNAL: a bug'),
    DataError('known'),
    caused(DataError('known'), MemoryError()),
  ],
  ids=repr,
)
def test_other_errors_stay_what_they_are(error):
  with pytest.raises(type(error)) as found, machine.lacking():
    raise error
  assert found.value is error


def test_a_batch_larger_than_memory_is_refused(monkeypatch):
  monkeypatch.setattr(machine, 'total_memory', lambda: 4 * 2 * 3 * 5 * 7)
  machine.check_batch(2, (3, 5, 7))
  with pytest.raises(ConfigError, match='3 images of 3 x 5 x 7'):
    machine.check_batch(3, (3, 5, 7))


@pytest.mark.parametrize(
  ('text', 'limited'), [('1000\n', True), ('max\n', False), (None, False)]
)
def test_a_containers_limit_is_its_memory(tmp_path, monkeypatch, text, limited):
  file = tmp_path / 'memory.max'
  if text:
    file.write_text(text)
  monkeypatch.setattr(machine, '_LIMITS', [file])
  there = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  assert machine.total_memory() == (1000 if limited else there)


def test_more_steps_than_32_bits_count_are_refused():
  assert machine.counted([2**30, 2**30 - 1]) == [2**30, 2**30 - 1]
  for steps in ([2**31], [2**30, 2**30]):
    with pytest.raises(ConfigError, match='^epochs make 2,147,483,648 steps'):
      machine.counted(steps)


def on(platform, *arguments):
  env = {**os.environ, 'JAX_PLATFORMS': platform}
  command = [sys.executable, *map(str, arguments)]
  return started.run(command, cwd=started.ROOT, env=env)


# JAX asserts of the first, whose plugin isn't installed, and names the second.
@pytest.mark.parametrize('platform', ['cuda', 'gpuu'])
def test_a_device_that_is_not_here_is_told_by_commands(tmp_path, platform):
  workdir = f'--workdir={tmp_path}/run'
  done = on(platform, '-m', 'srdl_jax.main', '--config=digits', workdir)
  told = f'error: No such device here: JAX_PLATFORMS={platform}'
  assert done.returncode == 2 and done.stderr.count('\n') == 1
  assert done.stderr.startswith(told) and 'JAX_PLATFORMS=cpu' in done.stderr
  assert not (tmp_path / 'run').exists()


def test_a_device_that_is_not_here_is_told_in_python(tmp_path):
  program = (
    'import numpy as np, srdl_jax, tiny\n'
    'from srdl_jax.errors import ConfigError\n'
    'images = np.zeros((20, 8, 8, 1), np.uint8)\n'
    'for use in (\n'
    '  lambda: srdl_jax.train({"data.name": "digits"}, "none"),\n'
    '  lambda: srdl_jax.fit(tiny.Tiny(2), images, np.arange(20) % 2),\n'
    '  lambda: srdl_jax.load("tests/references/runs_format_1/finished"),\n'
    '):\n'
    '  try:\n'
    '    use()\n'
    '  except ConfigError as error:\n'
    '    print(error)\n'
  )
  env = {'PYTHONPATH': f'{started.ROOT}/tests:{started.ROOT}'}
  env = {**os.environ, **env, 'JAX_PLATFORMS': 'gpuu'}
  done = started.run(
    [sys.executable, '-c', program], cwd=started.ROOT, env=env, check=True
  )
  assert done.stdout.count('No such device here: JAX_PLATFORMS=gpuu') == 3


def test_a_sweep_refuses_a_device_before_its_first_job(tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'gpuu')
  with pytest.raises(ConfigError, match='^No such device here'):
    sweep.Sweep(tmp_path / 'sweep', []).run(StopRequest())
  assert not (tmp_path / 'sweep').exists()
