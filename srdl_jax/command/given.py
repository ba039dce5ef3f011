# SPDX-License-Identifier: Apache-2.0
"""The flag --config and those of its fields: names resolved, errors told."""

import contextlib
import difflib
import importlib.machinery
import itertools
import re
import sys
import textwrap
import traceback
import types
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from srdl_jax.command import bundled
from srdl_jax.errors import ConfigError, SrdlError
from srdl_jax.fields import FIELDS

_FIELD = re.compile(r'--?(?:no)?config\.([^=]*)')
_FILE = re.compile(r'(--?config)(?:=(.*))?', re.DOTALL)
# Below it a name is another, not one misspelt.
_NEAR = 0.7
_FORM = (
  'A configuration is a Python file whose get_config() begins with '
  'srdl_jax.config.defaults(); --config.FIELD=VALUE sets single fields.'
)


def define_config() -> None:
  """Defines the flag --config=FILE:ARGUMENTS and those of its fields."""
  config_flags.DEFINE_config_file(
    'config', None, 'Configuration file, and its arguments behind a colon.'
  )
  flags.FLAGS['config'].parser.parse = _loaded


def _loaded(path: str) -> ConfigDict:
  """Returns what get_config of FILE[:ARGUMENTS] returns.

  Raises:
    ConfigError: the file is faulty, or it returns something else.
  """
  file, *text = path.split(':', 1)
  loader = importlib.machinery.SourceFileLoader('config_file', file)
  module = types.ModuleType('config_file')
  module.__file__ = file
  # Dataclasses look for their module there.
  sys.modules['config_file'] = module
  with faults(f'--config={file}', file):
    loader.exec_module(module)
    get_config = getattr(module, 'get_config', None)
    config = callable(get_config) and get_config(*text)
  if not callable(get_config):
    raise ConfigError(f'--config={file} has no get_config(). {_FORM}')
  # What is frozen can't take fields of the command line.
  if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
    kind = type(config).__name__
    raise ConfigError(
      f'--config={file}: get_config() gives no ConfigDict, but {kind}. {_FORM}'
    )
  return config.lock()


@contextlib.contextmanager
def faults(name: str, file: str = '') -> Iterator[None]:
  """Tells in one line what a file of the user's raises, and where in it.

  Args:
    name: the flag.
    file: the first that isn't of the import, unless it is given.

  Raises:
    ConfigError: in place of all but our own errors and Ctrl-C.
  """
  try:
    yield
  except (SrdlError, KeyboardInterrupt):
    raise
  # Also SystemExit, and what derives from nothing nearer.
  except BaseException as error:
    trace = [
      (frame.f_code.co_filename, line)
      for frame, line in traceback.walk_tb(error.__traceback__)
      if 'importlib' not in frame.f_code.co_filename
    ]
    # The first two are ours: this one, and who imports.
    if not file and trace[2:]:
      file = trace[2][0]
    lines = [line for its, line in trace if its == file]
    # Python tells the line of what isn't Python itself.
    where = f' ({file}, line {lines[-1]})' if lines else ''
    try:
      words = textwrap.shorten(str(error), 300)
    except Exception:
      words = ''  # It can't be told.
    told = f'{type(error).__name__}: {words}'.removesuffix(': ')
    raise ConfigError(f'{name} raises {told}{where}.') from error


def given_config() -> ConfigDict:
  """Returns what --config says.

  Raises:
    ConfigError: it is missing.
  """
  if flags.FLAGS.config is None:
    raise _missing()
  return flags.FLAGS.config


def _missing() -> ConfigError:
  return ConfigError(
    '--config=FILE is missing, such as --config=digits; known: '
    f'{", ".join(bundled.names())}.'
  )


def resolved(arguments: Sequence[str]) -> list[str]:
  """Returns a command line whose --config is a file that is there.

  Raises:
    ConfigError: there is no such file or field, or fields of no file.
  """
  arguments = flags.FLAGS.read_flags_from_files(
    list(arguments), force_gnu=False
  )
  end = arguments.index('--') if '--' in arguments else len(arguments)
  kinds, files = set(), 0
  for number, argument in enumerate(arguments[:end]):
    if field := _FIELD.match(argument):
      check_field(field[1])
      kinds.add('field')
    elif file := _FILE.fullmatch(argument):
      kinds.add('file')
      files += 1
      if file[2] is not None:
        arguments[number] = f'{file[1]}={_with_file(file[2])}'
      elif number + 1 < end:
        arguments[number + 1] = _with_file(arguments[number + 1])
  if kinds == {'field'}:
    raise _missing()
  if files > 1:
    raise ConfigError('--config=FILE is given twice: give one.')
  return arguments


def _with_file(value: str) -> str:
  given, colon, rest = value.partition(':')
  return f'{bundled.find(given)}{colon}{rest}'


def groups() -> dict[str, list[str]]:
  """Returns the fields of each group; those of none are in that named ''."""
  found: dict[str, list[str]] = {}
  for name in FIELDS:
    group, _, _ = name.rpartition('.')
    found.setdefault(group, []).append(name)
  return found


def check_field(name: str) -> None:
  """Checks that --config.name=VALUE sets a field.

  Raises:
    ConfigError: it doesn't; the nearest one that would is named.
  """
  if name in FIELDS:
    return
  parts = name.split('.')
  for above in map('.'.join, itertools.accumulate([[p] for p in parts[:-1]])):
    if above in FIELDS:
      raise ConfigError(
        f'--config.{name}: {above} is a field, without fields of its own; '
        f'--config.{above}=VALUE sets it.'
      )
  if name in groups():
    raise ConfigError(f'--config.{name} is a group of fields; {_known(name)}.')
  near = nearest(name)
  if near in groups():
    hint = f'did you mean the group {near}? {_known(near).capitalize()}'
  elif near:
    hint = f'did you mean --config.{near}?'
  else:
    rest = [f'{group}.*' for group in groups() if group]
    hint = f'known: {", ".join([*groups()[""], *rest])}. (See --help.)'
  raise ConfigError(f'Unknown config field {name!r}; {hint}')


def _known(group: str) -> str:
  return f'known: {", ".join(groups()[group])}'


def nearest(name: str) -> str | None:
  """Returns the field or group whose name is most like a wrong one, if any."""
  parts = name.split('.')

  def likeness(other: str) -> float:
    others = other.split('.')
    if len(others) != len(parts):
      # The group is forgotten, or one too many.
      return _alike(others[-1], parts[-1])
    pairs = zip(parts, others, strict=True)
    return sum(_alike(*pair) for pair in pairs) / len(parts)

  known = [*FIELDS, *filter(None, groups())]
  as_deep = [other for other in known if other.count('.') == len(parts) - 1]
  for some in (as_deep, known):
    best = max(some, key=likeness, default='')
    if best and likeness(best) >= _NEAR:
      return best
  return None


def _alike(one: str, other: str) -> float:
  return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()
