# SPDX-License-Identifier: Apache-2.0
"""Every command by its name: srdl COMMAND, or python -m srdl_jax COMMAND."""

import runpy
import sys

from srdl_jax import __version__, storage
from srdl_jax.command.table import COMMANDS
from srdl_jax.errors import ConfigError, unknown


def text() -> str:
  """Returns the commands, one a line."""
  width = max(map(len, COMMANDS))
  lines = (f'  {n:{width}}  {c.line}\n' for n, c in COMMANDS.items())
  return (
    'Self-Referenced Deep Learning (ACCV 2018) in JAX.\n\n'
    'usage: srdl COMMAND [ARGUMENTS]\n\n'
    f'{"".join(lines)}\n'
    'srdl COMMAND --help tells more; srdl --version which version it is.\n'
  )


def main() -> None:
  """Runs the command that the command line names."""
  name, *rest = sys.argv[1:] or ['--help']
  if name in ('-h', '--help', '-help', 'help'):
    # Its reader may have seen enough.
    sys.stdout = storage.Unfailing(sys.stdout)
    print(text(), end='')
  elif name == '--version':
    print(__version__)
  elif name not in COMMANDS:
    error = ConfigError(unknown('command', name, COMMANDS))
    storage.say(f'error: {error}')
    sys.exit(error.exit_code)
  else:
    sys.argv[1:] = rest
    runpy.run_module(COMMANDS[name].module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
