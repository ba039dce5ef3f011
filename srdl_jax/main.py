# SPDX-License-Identifier: Apache-2.0
"""Trains a configuration, or goes on where it was interrupted.

python -m srdl_jax.main --config=configs/digits.py --workdir=runs/digits
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from srdl_jax import command, srdl
from srdl_jax.errors import ConfigError
from srdl_jax.runs import processes, stop_request


def summary(found: dict[str, Any]) -> str:
  """Returns what to say about a finished run."""
  config, ranked = found['config'], 'map' in found['final']['test']
  metric = 'rank_1_accuracy' if ranked else 'accuracy'
  parts = [
    f'stage {stage["stage"]} {stage["test"][metric]:.2%}'
    for stage in found['stages'][:-1]
  ]
  parts.append(f'final {found["final"]["test"][metric]:.2%}')
  if found['ensemble']:
    parts.append(f'ensemble {found["ensemble"]["test"][metric]:.2%}')
  lines = [
    f'{config["data.name"]}, {config["model.name"]}, {config["method"]}, '
    f'seed {config["seed"]}: test {"rank-1" if ranked else "accuracy"} '
    f'{", ".join(parts)} '
    f'(last epoch, {found["final"]["test"]["examples"]} images)'
  ]
  if found['cost']['extraction_epochs']:
    share = found['cost']['extraction_share']
    lines.append(f'extraction of the soft targets: {share:.2%} of the time')
  return '\n'.join(lines)


def main(argv: Sequence[str]) -> None:
  """Trains what --config says in --workdir."""
  del argv
  args = flags.FLAGS
  config = command.given_config()
  if not args.workdir:
    raise ConfigError('--workdir=DIR is missing.')
  processes.initialise(
    automatic=args.distributed,
    coordinator=args.coordinator,
    count=args.process_count,
    index=args.process_index,
    heartbeat_seconds=args.heartbeat_seconds,
  )
  with stop_request.listen() as stop, processes.failing_at_once():
    found = srdl.run(config, args.workdir, stop)
  if processes.is_first():
    print(summary(found))


if __name__ == '__main__':
  command.define_config()
  flags.DEFINE_string(
    'workdir', None, 'Run directory; resumed if it has a run.'
  )
  flags.DEFINE_bool(
    'distributed', False, 'One of several processes, which JAX finds by itself.'
  )
  flags.DEFINE_string('coordinator', None, 'HOST:PORT of the first process.')
  flags.DEFINE_integer('process_count', None, 'Processes.', lower_bound=1)
  flags.DEFINE_integer('process_index', None, 'Of this one.', lower_bound=0)
  flags.DEFINE_integer(
    'heartbeat_seconds',
    30,
    'After so long a silent process is lost, and the others abort.',
    lower_bound=1,
  )
  command.run(main)
