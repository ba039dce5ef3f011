# SPDX-License-Identifier: Apache-2.0
"""Runs a command's main(): known errors become one line and an exit code."""

import functools
import importlib
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging

from srdl_jax import machine, storage
from srdl_jax.command import given, usage
from srdl_jax.errors import ConfigError, SrdlError

_IMPORT = re.compile('--?import(?:=(.*))?')


def _import(arguments: Sequence[str]) -> None:
  """Imports what --import names: before the other flags are understood, as it
  may add fields to them.

  Raises:
    ConfigError: there is no such module.
  """
  end = arguments.index('--') if '--' in arguments else len(arguments)
  words = itertools.pairwise([*arguments[1:end], ''])
  names = [
    following if equals is None else equals
    for word, following in words
    if (match := _IMPORT.fullmatch(word))
    for equals in [match[1]]
  ]
  # As `python -m` has it; a console script has its own folder.
  if names and os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  for name in names:
    if not all(part.isidentifier() for part in name.split('.')):
      raise ConfigError(
        f'--import={name}: give the name of a module, such as my_networks for '
        'my_networks.py.'
      )
    with given.faults(f'--import={name}'):
      try:
        importlib.import_module(name)
      except ModuleNotFoundError as error:
        # Not what it wants itself.
        if not f'{name}.'.startswith(f'{error.name}.'):
          raise
        raise ConfigError(
          f'--import={name}: there is no such module, here or installed.'
        ) from error


def _parse(arguments: Sequence[str], positional: bool) -> list[str]:
  # A wrong config field, type or file fails here, before main.
  if usage.is_asked(arguments[1:]):
    # Its reader may have seen enough.
    sys.stdout = storage.Unfailing(sys.stdout)
    print(usage.text(), end='')
    sys.exit(0)
  _import(arguments)
  known = 'config' in flags.FLAGS
  try:
    if known:
      arguments = given.resolved(arguments)
    rest = flags.FLAGS(list(arguments))
    if len(rest) > 1 and not positional:
      raise ConfigError(f'Unexpected argument {rest[1]!r}.')
    # Libraries tell of every file that they write; --verbosity=0 shows it.
    if not flags.FLAGS['verbosity'].present:
      absl_logging.set_verbosity(absl_logging.WARNING)
      _hush_orbax()
    _tell_what_is_logged()
    return rest
  except (flags.Error, AttributeError, TypeError, ValueError, OSError) as error:
    cause = error
    while isinstance(cause, Exception) and cause.args:
      cause = cause.args[0]
    lines = str(cause).strip().splitlines() or [type(error).__name__]
    # The first line names the flag; the last one of a traceback the reason.
    # A file that cannot be read says all in the last.
    first = '' if lines[-1].strip().startswith('[Errno') else lines[0].strip()
    text = ' '.join(filter(None, dict.fromkeys((first, lines[-1].strip()))))
    fields = ', which lists the fields' if known else ''
    raise ConfigError(f'Command line: {text} (See --help{fields}.)') from error


class _Saying(logging.Handler):
  """Tells what is logged as a command tells everything."""

  def emit(self, record: logging.LogRecord) -> None:
    storage.say(record.getMessage())


def _tell_what_is_logged() -> None:
  """Tells what the package logs: what takes minutes, or is left out.

  By lines of its own: the root may have two handlers, absl's and one that a
  library's first message has brought.
  """
  own = logging.getLogger('srdl_jax')
  own.setLevel(logging.INFO)
  own.handlers, own.propagate = [_Saying()], False


def _hush_orbax() -> None:
  """Leaves a save that failed to our one line; Orbax has 1,200 about it."""
  logging.getLogger('absl').addFilter(lambda r: 'orbax' not in r.pathname)
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  hook, told = sys.unraisablehook, 'Event loop is closed'
  # Of each array that TensorStore still writes when Orbax has given up.
  sys.unraisablehook = lambda e: str(e.exc_value) == told or hook(e)


def _prepare_streams() -> None:
  """Lets a command say what it can: it must not end for what it can't say."""
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      # Else a file of the run would get the number, and others' messages.
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
  sys.stdout = sys.stdout or os.fdopen(1, 'w', closefd=False)
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):
      # A terminal may not have all of our letters.
      stream.reconfigure(errors='backslashreplace')
  sys.stderr = storage.Unfailing(sys.stderr or os.fdopen(2, 'w'))
  absl_logging.get_absl_handler().python_handler.setStream(sys.stderr)


def run(
  main: Callable[[Sequence[str]], None], *, positional: bool = False
) -> None:
  """Runs main(argv) through absl, and exits.

  The exit codes are in `errors.EXIT_CODES`. An error that is not an SrdlError
  is a bug: it keeps its traceback.

  Args:
    main: of the command.
    positional: whether it takes arguments that are no flags.
  """
  _prepare_streams()
  # Nothing is shown; a notebook's own may not be installed here.
  os.environ['MPLBACKEND'] = 'agg'
  if 'import' not in flags.FLAGS:
    flags.DEFINE_multi_string(
      'import', [], 'Module of your own networks, data sets or methods.'
    )
  try:
    with machine.lacking():
      app.run(
        main,
        flags_parser=functools.partial(_parse, positional=positional),
      )
  except SrdlError as error:
    storage.say(f'error: {error}')
    sys.exit(error.exit_code)
  except KeyboardInterrupt:
    storage.say('error: interrupted; what was saved is intact.')
    sys.exit(130)
  except SystemExit as ended:
    # absl ends it with 1.
    if '--helpfull' in sys.argv[1:]:
      sys.exit(0)
    raise ended
