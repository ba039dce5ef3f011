# SPDX-License-Identifier: Apache-2.0
"""Trains a configuration, or goes on where it was interrupted.

python -m srdl_jax.main --config=configs/digits.py --workdir=runs/digits
"""

import importlib.metadata
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from srdl_jax import command, srdl, stop_request
from srdl_jax.errors import ConfigError


def use_compilation_cache() -> None:
  """Keeps compiled programs between runs, by versions.

  Not on CPU, where JAX's cache has been seen to hold entries that crash.
  """
  if jax.default_backend() == 'cpu' or jax.config.jax_compilation_cache_dir:
    return
  versions = [importlib.metadata.version(name) for name in ('jax', 'jaxlib')]
  cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME', '~/.cache'))
  folder = cache.expanduser() / 'srdl_jax' / '-'.join(versions)
  jax.config.update('jax_compilation_cache_dir', str(folder))


def summary(found: dict[str, Any]) -> str:
  """Returns one line about a finished run."""
  config = found['config']
  parts = [
    f'stage {stage["stage"]} {stage["test"]["accuracy"]:.2%}'
    for stage in found['stages'][:-1]
  ]
  parts.append(f'final {found["final"]["test"]["accuracy"]:.2%}')
  if found['ensemble']:
    parts.append(f'ensemble {found["ensemble"]["test"]["accuracy"]:.2%}')
  return (
    f'{config["data.name"]}, {config["model.name"]}, {config["method"]}, '
    f'seed {config["seed"]}: test accuracy {", ".join(parts)} '
    f'(last epoch, {found["final"]["test"]["examples"]} images)'
  )


def main(argv: Sequence[str]) -> None:
  """Trains what --config says in --workdir."""
  del argv
  if not flags.FLAGS.workdir:
    raise ConfigError('--workdir=DIR is missing.')
  path = pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config']))
  if not path.is_file():
    raise ConfigError(f'--config={path}: there is no such file.')
  use_compilation_cache()
  with stop_request.listen() as stop:
    found = srdl.run(flags.FLAGS.config, flags.FLAGS.workdir, stop)
  print(summary(found))


if __name__ == '__main__':
  config_flags.DEFINE_config_file(
    'config', None, 'Configuration file, and its arguments behind a colon.'
  )
  flags.DEFINE_string(
    'workdir', None, 'Run directory; resumed if it has a run.'
  )
  flags.mark_flag_as_required('config')
  command.run(main)
