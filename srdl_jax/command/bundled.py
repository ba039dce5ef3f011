# SPDX-License-Identifier: Apache-2.0
"""The configuration files that come along, from any directory."""

import ast
import pathlib

from srdl_jax import storage
from srdl_jax.errors import ConfigError, unknown

# Of files that others' programs take; a Python file may be called anything.
_OTHER_FORMS = ('.json', '.yaml', '.yml', '.toml', '.ini', '.txt', '.md')
_PACKAGE = pathlib.Path(__file__).parents[1]


def folder() -> pathlib.Path:
  """Returns where they are: in the package, or beside it in a checkout."""
  installed = _PACKAGE / 'configs'
  return installed if installed.is_dir() else _PACKAGE.parent / 'configs'


def names() -> list[str]:
  """Returns what --config calls them."""
  return sorted(path.stem for path in folder().glob('*.py'))


def about(name: str) -> str:
  """Returns the first line of a file's docstring."""
  text = path(name).read_text()
  return (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]


def path(name: str) -> pathlib.Path:
  """Returns one of these files.

  Raises:
    ConfigError: there is none of this name; the names are listed.
  """
  if name not in names():
    raise ConfigError(unknown('configuration', name, names()))
  return folder() / f'{name}.py'


def find(given: str) -> pathlib.Path:
  """Returns the file that --config=given means.

  Args:
    given: a path, which wins where there is such a file; or the name of one of
      these, also as NAME.py and configs/NAME.py.

  Raises:
    ConfigError: it is neither; the names are listed.
  """
  there = storage.reachable(given or '.', '--config', ConfigError)
  if there.is_file():
    if there.suffix.lower() in _OTHER_FORMS:
      raise ConfigError(
        f'--config={given}: give a Python file that ends in .py, or the name '
        'of one that comes along; --config.FIELD=VALUE sets single fields.'
      )
    return there
  name = given.removeprefix('configs/').removesuffix('.py')
  if name in names():
    return path(name)
  raise ConfigError(
    f'--config={given}: there is no such file, and none of this name comes '
    f'along; known: {", ".join(names())}.'
  )
