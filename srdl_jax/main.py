# SPDX-License-Identifier: Apache-2.0
"""Trains a configuration, or goes on where it was interrupted.

python -m srdl_jax.main --config=configs/digits.py --workdir=runs/digits
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from srdl_jax import command, srdl, stop_request
from srdl_jax.errors import ConfigError


def summary(found: dict[str, Any]) -> str:
  """Returns what to say about a finished run."""
  config = found['config']
  parts = [
    f'stage {stage["stage"]} {stage["test"]["accuracy"]:.2%}'
    for stage in found['stages'][:-1]
  ]
  parts.append(f'final {found["final"]["test"]["accuracy"]:.2%}')
  if found['ensemble']:
    parts.append(f'ensemble {found["ensemble"]["test"]["accuracy"]:.2%}')
  lines = [
    f'{config["data.name"]}, {config["model.name"]}, {config["method"]}, '
    f'seed {config["seed"]}: test accuracy {", ".join(parts)} '
    f'(last epoch, {found["final"]["test"]["examples"]} images)'
  ]
  if found['cost']['extraction_epochs']:
    share = found['cost']['extraction_share']
    lines.append(f'extraction of the soft targets: {share:.2%} of the time')
  return '\n'.join(lines)


def main(argv: Sequence[str]) -> None:
  """Trains what --config says in --workdir."""
  del argv
  config = command.given_config()
  if not flags.FLAGS.workdir:
    raise ConfigError('--workdir=DIR is missing.')
  with stop_request.listen() as stop:
    found = srdl.run(config, flags.FLAGS.workdir, stop)
  print(summary(found))


if __name__ == '__main__':
  command.define_config()
  flags.DEFINE_string(
    'workdir', None, 'Run directory; resumed if it has a run.'
  )
  command.run(main)
