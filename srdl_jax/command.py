# SPDX-License-Identifier: Apache-2.0
"""Runs a command's main(): known errors become one line and an exit code."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from srdl_jax.errors import ConfigError, SrdlError


def _parse(arguments: Sequence[str]) -> list[str]:
  # A wrong config field, type or file fails here, before main.
  try:
    rest = flags.FLAGS(list(arguments))
    if len(rest) > 1:
      raise ConfigError(f'Unexpected argument {rest[1]!r}.')
    # Libraries tell of every file that they write; --verbosity=0 shows it.
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    return rest
  except (flags.Error, AttributeError, TypeError, ValueError, OSError) as error:
    message = str(error.args[0]) if error.args else type(error).__name__
    lines = message.strip().splitlines()
    # The first line names the flag; the last one of a traceback the reason.
    text = ' '.join(dict.fromkeys((lines[0].strip(), lines[-1].strip())))
    raise ConfigError(
      f'Command line: {text} (See --help, and srdl_jax/config.py for the '
      'fields.)'
    ) from error


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs main(argv) through absl, and exits.

  The exit codes are in `errors.EXIT_CODES`. An error that is not an SrdlError
  is a bug: it keeps its traceback.
  """
  try:
    app.run(main, flags_parser=_parse)
  except SrdlError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(error.exit_code)
