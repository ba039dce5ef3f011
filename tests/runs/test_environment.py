# SPDX-License-Identifier: Apache-2.0
"""What a run tells of the machine and of JAX."""

import pwd
import sys
import types

import jax
import pytest
import started

from srdl_jax.runs import environment

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


@pytest.mark.parametrize('home', [True, False])
def test_compiled_programs_are_kept_where_there_is_a_home(
  monkeypatch, tmp_path, home
):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.delenv('HOME')
  if home:
    monkeypatch.setenv('HOME', str(tmp_path))
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  try:
    environment.use_compilation_cache()
    found = jax.config.jax_compilation_cache_dir
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  assert (found or '').startswith(f'{tmp_path}/.cache/srdl_jax/') == home
  assert bool(found) == home
