# SPDX-License-Identifier: Apache-2.0
"""What --help prints: usage, examples, the command's own flags, fields."""

import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from absl import flags

from srdl_jax.command import bundled, given, table
from srdl_jax.config import RECIPES
from srdl_jax.fields import FIELDS, Field

ASKED = {'-h', '--help', '-help'}
NARROWEST, WIDEST = 60, 100


def is_asked(arguments: Sequence[str]) -> bool:
  """Whether a command line asks for help, but absl's own (--helpfull)."""
  return bool(ASKED & set(arguments[: _end(arguments)]))


def _end(arguments: Sequence[str]) -> int:
  return arguments.index('--') if '--' in arguments else len(arguments)


def text() -> str:
  """Returns the help of the command that is running."""
  main = sys.modules['__main__']
  module = main.__spec__.name.removesuffix('.__main__') if main.__spec__ else ''
  parts = [_about(main.__doc__ or '', module)]
  own = flags.FLAGS.get_flags_for_module(sys.argv[0])
  takes_config = 'config' in flags.FLAGS
  if takes_config:
    own = [flags.FLAGS['config'], *own]
  own = [*own, *([flags.FLAGS['import']] if 'import' in flags.FLAGS else [])]
  if own:
    parts.append('flags:\n' + _columns(map(_flag, own)))
  if takes_config:
    parts.append(_of_config())
  return '\n'.join(parts) + '\n--helpfull lists the flags of libraries, too.\n'


def _about(docstring: str, module: str) -> str:
  """Returns a command's docstring, by the name of `srdl`, and examples."""
  names = {command.module: n for n, command in table.COMMANDS.items()}
  summary, _, rest = docstring.strip().partition('\n\n')
  synopsis, _, rest = rest.partition('\n\n')
  name = names.get(module)
  started = rf'python -m {re.escape(module)}\b(?!\.)'
  if name:
    synopsis = re.sub(started, f'srdl {name}', synopsis)
  told = f'{summary}\n\nusage:\n'
  told += ''.join(map(_folded, synopsis.splitlines()))
  told += f'\n{rest}\n' if rest else ''
  if not name:
    return told
  told += f'\n`python -m {module}` is the same.\n\nexamples:\n'
  examples = table.COMMANDS[name].examples
  return told + ''.join(_folded(f'srdl {name} {given}') for given in examples)


def _folded(command: str) -> str:
  """Returns a command in lines of a shell, two spaces in front."""
  lines = [' ']
  for word in re.findall(r"(?:\[[^]]*\]|'[^']*'|\S)+", command):
    if len(lines[-1]) + len(word) + 3 > _width():
      lines[-1] += ' \\'
      lines.append('     ')
    lines[-1] += f' {word}'
  return '\n'.join(lines) + '\n'


def _width() -> int:
  columns = shutil.get_terminal_size((80, 24)).columns
  return min(max(columns, NARROWEST), WIDEST)


def _columns(rows: Iterable[Sequence[str]]) -> str:
  """Returns rows as aligned lines; their last column is folded."""
  rows = [*rows]
  *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
  left = 2 + sum(width + 2 for width in widths)
  lines = []
  for *cells, last in rows:
    padded = (c.ljust(w + 2) for c, w in zip(cells, widths, strict=True))
    lines += textwrap.wrap(
      last or '-',
      _width(),
      initial_indent='  ' + ''.join(padded),
      subsequent_indent=' ' * left,
      break_long_words=False,
      break_on_hyphens=False,
    )
  return '\n'.join(lines) + '\n'


def _flag(flag: flags.Flag) -> tuple[str, str]:
  values = getattr(flag.parser, 'enum_values', None)
  kind = {'int': 'N', 'float': 'X'}.get(flag.flag_type(), 'TEXT')
  if flag.name == 'config':
    form = '--config=FILE[:ARGUMENTS]'
  elif flag.boolean:
    form = f'--{flag.name}' if flag.default is False else f'--[no]{flag.name}'
  else:
    form = f'--{flag.name}={"|".join(values) if values else kind}'
  # What absl adds to it is in the form.
  meaning = re.sub('^<.*?>: |;\n *repeat this option.*$', '', flag.help)
  if flag.default in (None, [], '', False):
    return form, meaning
  return form, f'{meaning.removesuffix(".")}. Default: {flag.default}.'


def _of_config() -> str:
  """Returns what --config takes: files, arguments, names, fields."""
  # Not before they are asked for: jax takes a second to import.
  from srdl_jax import data, methods, models

  files = _columns((name, bundled.about(name)) for name in bundled.names())
  arguments = _columns(
    (
      *((f'{name}=NAME', meaning) for name, meaning in _ARGUMENTS.items()),
      *((f'recipe={name}', _set(by)) for name, by in RECIPES.items()),
      ('path=, size=', 'of folder: where images are, and their side in pixels'),
    )
  )
  lists = {
    'methods': methods.METHODS,
    'models': models.MODELS,
    'data sets': data.DATASETS,
  }
  return (
    f'FILE, a path or one of these:\n{files}\n'
    f'ARGUMENTS, separated by commas:\n{arguments}\n'
    + ''.join(f'{kind}:\n{_listed(names)}\n\n' for kind, names in lists.items())
    + 'fields, each set by --config.FIELD=VALUE (default; meaning; range):\n\n'
    + fields()
  )


_ARGUMENTS = {
  'model': 'sets model.name to one of the models below',
  'method': 'sets method to one of the methods below',
  'teacher': 'sets teacher.model; with a slash in it, teacher.workdir',
}


def _set(fields: Mapping[str, object]) -> str:
  return 'sets ' + ', '.join(f'{n} = {v}' for n, v in fields.items())


def _listed(names: Iterable[str]) -> str:
  return textwrap.fill(
    ', '.join(names), _width(), initial_indent='  ', subsequent_indent='  '
  )


def shown(value: object) -> str:
  """Returns a field's value as a command line takes it."""
  return shlex.quote(str(value))


def _meaning(field: Field) -> str:
  values = 'True or False' if isinstance(field.default, bool) else field.range
  ended = f'{values[:1].upper()}{values[1:]}.' if values else ''
  meaning = re.sub(r'a key of \w+\.(\w+)', _above, field.meaning)
  return f'{meaning}. {ended}'


def _above(table_of: re.Match) -> str:
  names = {'DATASETS': 'data sets'}.get(table_of[1], table_of[1].lower())
  return f'one of the {names} above'


def fields() -> str:
  """Returns a line of each field, by group."""
  rows = [
    (
      name,
      shown(FIELDS[name].default),
      _meaning(FIELDS[name]),
    )
    for names in given.groups().values()
    for name in names
  ]
  lines = _columns(rows).splitlines()
  return '\n'.join(_spaced(lines)) + '\n'


def _spaced(lines: Iterable[str]) -> Iterable[str]:
  """Yields lines, and an empty one before each group's first field."""
  group = ''
  for line in lines:
    if line[2] != ' ':
      first = line.split()[0].rpartition('.')[0]
      if first != group:
        yield ''
      group = first
    yield line
