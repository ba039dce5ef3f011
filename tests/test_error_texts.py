# SPDX-License-Identifier: Apache-2.0
"""What errors say to the letter, and exit codes, as error_texts.json has them.

    python tests/references/make_error_texts.py

writes that file anew. The situations are in situations_of_*.py, but for those
of whole commands, which are here. What differs between machines, and what
other libraries say, has a placeholder in its stead: <tmp>, <ENOENT>, <others>.
"""

import errno
import functools
import json
import os
import pathlib
import re
from typing import Any

import pytest
import situations_of_data
import situations_of_files
import situations_of_results
import situations_of_runs
import started
from situation_table import Place, Shared, Situation

from srdl_jax import errors
from srdl_jax.config import FIELDS

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = ROOT / 'tests' / 'references' / 'error_texts.json'
TABLES = (
  situations_of_runs.TABLE,
  situations_of_files.TABLE,
  situations_of_data.TABLE,
  situations_of_results.TABLE,
)
SITUATIONS: dict[str, Situation] = {
  name: situation for table in TABLES for name, situation in table.items()
}
# Modules and their arguments; each is a process, which takes seconds.
COMMANDS = {
  'python -m cost: unknown argument of a configuration': (
    'cost',
    '--config=configs/digits.py:modle=a',
  ),
  'python -m cost: no such configuration': (
    'cost',
    '--config=configs/none.py',
  ),
  'python -m rank: an unexpected argument': ('rank', 'x'),
  'python -m report: no run': (
    'report',
    '{tmp}',
    '{tmp}/none',
    'gs://bucket/x',
  ),
  'python -m data.prepare: nothing named': ('data.prepare',),
  'python -m data.prepare: unknown data set': (
    'data.prepare',
    'imagenet',
    '--nodownload',
  ),
  'python -m data.prepare: unknown flag': ('data.prepare', '--no_such_flag'),
  'python -m data.prepare: no archive': (
    'data.prepare',
    'imagenet2012',
    '--data_dir={tmp}',
    '--manual_dir={tmp}/by_hand',
  ),
}


def command(module: str, *arguments: str) -> tuple[int, str]:
  """Returns the exit code and stderr of a command."""
  done = started.python('-m', f'srdl_jax.{module}', *arguments)
  return done.returncode, done.stderr


# What absl says of a command line.
COMMAND_LINE = '(?<=error: Command line: ).*(?= \\(See --help)'
# The system's own words, and what is of this process.
PLACEHOLDERS = {
  r'pid \d+ on \S+ since \S+(?=: )': 'pid <pid> on <host> since <time>',
  **{
    re.escape(os.strerror(number)): f'<{errno.errorcode[number]}>'
    for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
  },
}


def steady(text: str, others: str, place: Place) -> str:
  """Returns a text in which all that may differ has a placeholder.

  Args:
    text: of an error.
    others: a pattern of what is other libraries', and must be there; or ''.
    place: of the situation.
  """
  if others:
    text, found = re.subn(others, '<others>', text)
    assert found, f'{others!r} is not in {text!r}'
  for path, name in (
    (place.shared.folder, '<shared>'),
    (place.folder, '<tmp>'),
    (ROOT, '<root>'),
  ):
    text = text.replace(str(path), name)
  for pattern, name in PLACEHOLDERS.items():
    text = re.sub(pattern, name, text)
  return text


def told(name: str, place: Place) -> dict[str, Any]:
  """Returns the exit code and the text that a situation ends with."""
  if name in COMMANDS:
    arguments = (part.format(tmp=place.folder) for part in COMMANDS[name])
    code, text = command(*arguments)
    others = COMMAND_LINE if 'Command line: ' in text else ''
    return {'exit': code, 'text': steady(text, others, place)}
  situation = SITUATIONS[name]
  try:
    situation.provoke(place)
  except errors.SrdlError as error:
    text = steady(str(error), situation.others, place)
    return {'exit': error.exit_code, 'text': text}
  raise AssertionError(f'{name}: there is no error')


def codes() -> dict[str, Any]:
  """Returns what the exit codes mean, and those of the classes of errors."""
  classes = {
    name: kind.exit_code
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.SrdlError)
  }
  meanings = {str(code): text for code, text in errors.EXIT_CODES.items()}
  return {'exit codes': meanings, 'classes': classes}


def everything(folder: pathlib.Path) -> dict[str, Any]:
  """Returns what error_texts.json holds; works in an empty folder."""
  (folder / 'shared').mkdir()
  shared, found = Shared(folder / 'shared'), {}
  for number, name in enumerate([*SITUATIONS, *COMMANDS]):
    own = folder / str(number)
    own.mkdir()
    with pytest.MonkeyPatch.context() as patch:
      found[name] = told(name, Place(own, shared, patch))
  return {**codes(), 'situations': found}


@functools.cache
def golden() -> dict[str, Any]:
  return json.loads(GOLDEN.read_text())


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  return Shared(tmp_path_factory.mktemp('shared'))


@pytest.mark.parametrize('name', [*SITUATIONS, *COMMANDS])
def test_an_error_says_what_it_said(name, shared, tmp_path, monkeypatch):
  found = told(name, Place(tmp_path, shared, monkeypatch))
  expected = golden()['situations'].get(name, {})
  assert found['text'] == expected.get('text')
  assert found['exit'] == expected.get('exit')


def test_the_golden_file_holds_these_situations_alone():
  assert list(golden()['situations']) == [*SITUATIONS, *COMMANDS]
  assert len(SITUATIONS) == sum(map(len, TABLES))


def test_every_range_has_a_value_out_of_it():
  ranges = {name for name, field in FIELDS.items() if field.range}
  assert set(situations_of_runs.WRONG) == ranges


def test_exit_codes_are_what_they_were():
  found = codes()
  assert found == {name: golden()[name] for name in found}
