# SPDX-License-Identifier: Apache-2.0
"""What a run tells of the machine and of JAX."""

import pathlib
import pwd
import sys
import types

import jax
import pytest
import started

from srdl_jax.runs import environment, processes
from srdl_jax.storage import bucket

SQUARES = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update('jax_enable_x64', True)
for dtype, count in (('float32', 32_769), ('float64', 16_385)):
  m, rows = jnp.eye(3, dtype=dtype), np.zeros((count, 3), dtype)
  rows[:, 0] = np.arange(count)
  found = jax.jit(jax.vmap(lambda row: jnp.sum((m @ row) ** 2)))(rows)
  np.testing.assert_allclose(found, np.arange(count) ** 2.0, rtol=1e-6)
"""


def test_this_jax_sums_squares():
  """It is wrong with jaxlib 0.10.2, which is excluded: jax#39103."""
  # The tests' own flags hide it.
  env = {'PATH': '', 'JAX_PLATFORMS': 'cpu'}
  ended = started.run([sys.executable, '-c', SQUARES], env=env)
  assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
  ('version', 'platform', 'told'),
  [('0.10.2', 'cpu', True), ('0.10.2', 'gpu', False), ('0.10.1', 'cpu', False)],
)
def test_a_known_fault_is_told(monkeypatch, version, platform, told):
  monkeypatch.setattr(
    environment.importlib.metadata, 'version', lambda name: version
  )
  device = types.SimpleNamespace(platform=platform)
  assert bool(environment.known_fault(device)) == told


def test_what_may_change_bits_is_recorded():
  found = environment.environment(jax.devices())
  assert {'python', 'cpu', 'xla_flags', 'jax_options'} < found.keys()
  assert found['xla_flags'] and found['cpu'] and found['python'][:2] == '3.'
  assert found['jax_options']['jax_default_prng_impl'] == 'threefry2x32'


@pytest.fixture
def cache_for(monkeypatch, tmp_path):
  """A function of a workdir: where programs are kept on a GPU, or None."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.setenv('HOME', str(tmp_path))
  names = 'jax_compilation_cache_dir', 'jax_persistent_cache_enable_xla_caches'
  before = {name: getattr(jax.config, name) for name in names}

  def found(workdir=''):
    jax.config.update('jax_compilation_cache_dir', None)
    environment.use_compilation_cache(workdir)
    return jax.config.jax_compilation_cache_dir

  yield found
  for name, value in before.items():
    jax.config.update(name, value)


def test_compiled_programs_are_kept_at_home(cache_for, monkeypatch, tmp_path):
  versions = f'{jax.__version__}-'
  expected = f'{tmp_path}/.cache/srdl_jax/{versions}'
  assert cache_for().startswith(expected)
  # Of one process, wherever it trains.
  assert cache_for('runs/a') == cache_for()
  monkeypatch.delenv('HOME')
  assert cache_for() is None


def test_programs_of_several_processes_lie_beside_the_run(
  cache_for, monkeypatch, tmp_path
):
  monkeypatch.setattr(processes, 'several', lambda: True)
  found = pathlib.Path(cache_for(f'{tmp_path}/runs/a'))
  assert found.parent == tmp_path / 'runs' / '.compiled'
  assert cache_for('~/runs/b') == str(found)
  # Another command's, which has no run directory.
  assert cache_for().startswith(f'{tmp_path}/.cache/')


def test_programs_of_a_run_in_a_bucket_lie_there(cache_for, monkeypatch):
  monkeypatch.setattr(bucket, '_CRASHING', ())
  found = cache_for('gs://bucket/runs/a')
  assert found.startswith('gs://bucket/runs/.compiled/')
  # They would be written by XLA, which knows no buckets.
  assert jax.config.jax_persistent_cache_enable_xla_caches == 'none'


def test_a_cache_that_is_named_stays(cache_for, monkeypatch):
  jax.config.update('jax_compilation_cache_dir', 'mine')
  monkeypatch.setattr(processes, 'several', lambda: True)
  environment.use_compilation_cache('runs/a')
  assert jax.config.jax_compilation_cache_dir == 'mine'


@pytest.mark.parametrize('name', ['flags', 'Features'])
def test_processors_of_other_features_share_no_programs(
  cache_for, monkeypatch, tmp_path, name
):
  folders = set()
  for features in ('avx2', 'avx2 avx512f'):
    file = tmp_path / 'cpuinfo'
    file.write_text(f'model name\t: made\n{name}\t\t: {features}\n' * 2)
    monkeypatch.setattr(environment.cpu, 'CPU_INFO', file)
    folders.add(cache_for())
    # What varies in time tells nothing.
    file.write_text(f'{file.read_text()}cpu MHz\t: 1234.5\n')
    folders.add(cache_for())
  assert len(folders) == 2
