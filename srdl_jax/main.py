# SPDX-License-Identifier: Apache-2.0
"""Trains a configuration, or goes on where it was interrupted.

python -m srdl_jax.main --config=FILE[:ARGUMENTS] --workdir=DIR
"""

import sys
from collections.abc import Sequence

from absl import flags

from srdl_jax import command, cpu, srdl, storage
from srdl_jax.errors import ConfigError
from srdl_jax.runs import environment, finished, processes, stop_request


def main(argv: Sequence[str]) -> None:
  """Trains what --config says in --workdir."""
  del argv
  args = flags.FLAGS
  config = command.given_config()
  if not args.workdir:
    raise ConfigError('--workdir=DIR is missing.')
  if not (args.distributed or args.coordinator):
    cpu.prepare()
  processes.initialise(
    automatic=args.distributed,
    coordinator=args.coordinator,
    count=args.process_count,
    index=args.process_index,
    heartbeat_seconds=args.heartbeat_seconds,
  )
  environment.use_compilation_cache(args.workdir)
  with stop_request.listen() as stop, processes.failing_at_once():
    found = srdl.run(config, args.workdir, stop)
  if processes.is_first():
    # It is in result.json, whatever becomes of this line.
    sys.stdout = storage.Unfailing(sys.stdout)
    print(finished.parse(found).summary)


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
