# SPDX-License-Identifier: Apache-2.0
"""Four CPU devices, no silent broadcasting, no warnings; tiny real data."""

import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import signal

import compiled
import numpy as np
import pytest
import started
from absl import flags
from xdist.scheduler import LoadScopeScheduling

from srdl_jax import data

# Read when jax is first used, which is after pytest_configure; processes that
# a test starts inherit it. Compiling is most of the tests' time: level 0 halves
# it, the older emitters halve the rest, and what was compiled once is kept for
# the session.
XLA_FLAGS = [
  '--xla_force_host_platform_device_count=4',
  '--xla_backend_optimization_level=0',
]
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  # Later ones have no other emitters, and end at a flag that they don't know.
  XLA_FLAGS.append('--xla_cpu_use_fusion_emitters=false')
  # 0.10.1 writes lines to stderr wherever it loads what was compiled before.
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'JAX_NUMPY_RANK_PROMOTION': 'raise',
  'XLA_FLAGS': ' '.join(XLA_FLAGS),
}


def pytest_configure(config):
  # Who starts the tests by nohup, or in a script's background, would have every
  # process ignore these.
  signal.signal(signal.SIGHUP, signal.SIG_DFL)
  if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
  os.environ.update(ENVIRONMENT)
  config.addinivalue_line('filterwarnings', 'error')
  flags.FLAGS.mark_as_parsed()
  # Workers of xdist inherit the directory of the process that starts them.
  if not hasattr(config, 'workerinput'):
    programs = compiled.directory()
    programs.__enter__()
    config.add_cleanup(lambda: programs.__exit__(None, None, None))


# xdist's own groups are none under pytest 9: it knows tests by other names.
class Scheduling(LoadScopeScheduling):
  """Leaves a file with fixtures of its own to one worker, others to any."""

  def _split_scope(self, nodeid: str) -> str:
    file, _, _ = nodeid.partition('::')
    return file if _shares_fixtures(self.config.rootpath / file) else nodeid


@functools.cache
def _shares_fixtures(path: pathlib.Path) -> bool:
  return "scope='module'" in path.read_text()


def pytest_xdist_make_scheduler(config, log):
  return Scheduling(config, log)


@pytest.fixture(scope='session', autouse=True)
def _programs_are_compiled_once():
  compiled.share()
  yield
  started.end_server()


@pytest.fixture(autouse=True)
def _no_test_changes_another():
  yield
  started.end()


@pytest.fixture
def x64():
  """Runs a test in double precision, where identities hold to 1e-12."""
  import jax

  with jax.enable_x64(True):
    yield


@pytest.fixture(scope='session')
def tiny_digits() -> data.Dataset:
  """The first 48 training and 20 test images of the digits."""
  digits = data.load('digits')

  def first(split: data.Split, count: int) -> data.Split:
    return dataclasses.replace(
      split, images=split.images[:count], labels=split.labels[:count]
    )

  return dataclasses.replace(
    digits, train=first(digits.train, 48), test=first(digits.test, 20)
  )


@pytest.fixture(scope='session')
def drawn_variables():
  """A function of a model and images that returns variables, uncompiled.

  Kernels are He normal, as in a new network; norms and their statistics are
  not at their initial values, so that none can be mistaken for another.
  """
  import jax

  def draw(model, images):
    rng = np.random.default_rng(0)

    def fill(path, leaf):
      draws = rng.standard_normal(leaf.shape)
      value = {
        'kernel': draws * np.sqrt(2 * leaf.shape[-1] / leaf.size),
        'scale': 1 + 0.1 * draws,
        'bias': 0.1 * draws,
        'mean': 0.1 * draws,
        'var': 2 + np.abs(draws),
      }[path[-1].key]
      return value.astype(leaf.dtype)

    init = functools.partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(fill, shapes)

  return draw
