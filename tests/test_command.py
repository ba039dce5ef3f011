# SPDX-License-Identifier: Apache-2.0
"""Commands end as they should, whoever reads what they say."""

import io
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
import started

from srdl_jax import storage
from srdl_jax.runs import processes, progress

RUN = pathlib.Path(__file__).with_name('references') / 'runs_format_1'
MAIN = [
  *('-m', 'srdl_jax.main', '--config=configs/digits.py:method=vanilla'),
  *('--config.epochs=1', '--config.data.examples_per_class=10'),
  *('--config.batch_size=50', '--config.devices=1'),
]


def in_shell(script, *arguments, env=None):
  """Runs Python with arguments, as `"$@"` of a shell's script."""
  command = ['sh', '-c', script, 'sh', sys.executable, *map(str, arguments)]
  env = {**os.environ, **(env or {})}
  return started.run(command, cwd=started.ROOT, env=env)


@pytest.mark.parametrize(
  'streams',
  [
    '2>/dev/full',
    '<&- >&- 2>&-',
    *(
      pytest.param(one, marks=pytest.mark.slow)
      for one in ('2>&-', '>/dev/full 2>&1', '2>&1 >/dev/null | true')
    ),
  ],
)
def test_a_run_that_nobody_reads_ends_well(tmp_path, streams):
  directory = tmp_path / 'run'
  code = in_shell(f'"$@" {streams}', *MAIN, f'--workdir={directory}').returncode
  assert code == 0
  assert (directory / 'result.json').exists()
  # No file of the run had the number of a closed stream, and others' lines.
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  assert all(json.loads(line) for line in lines)


def test_a_failed_save_is_one_line(tmp_path):
  done = in_shell('ulimit -f 20; exec "$@"', *MAIN, f'--workdir={tmp_path}/run')
  said = done.stderr.splitlines()
  assert done.returncode == 4, done.stderr
  assert 'the last save failed: ' in said[-1] and 'too large' in said[-1]
  # What stands before it is said of any run.
  assert len(said) < 10 and 'Traceback' not in done.stderr


@pytest.mark.parametrize('encoding', ['latin-1', 'ascii'])
def test_a_terminal_that_lacks_letters_gets_escapes(tmp_path, encoding):
  shutil.copytree(RUN / 'finished', tmp_path / 'ü')
  done = in_shell(
    f'exec "$@" > {tmp_path}/out 2> {tmp_path}/err',
    *('-m', 'srdl_jax.report', tmp_path / 'ü', tmp_path / 'none–'),
    env={'PYTHONIOENCODING': encoding},
  )
  out, err = ((tmp_path / n).read_text('latin-1') for n in ('out', 'err'))
  assert done.returncode == 0, err
  assert r'\u2076' in out
  assert err.startswith('left out: ') and r'none\u2013' in err


class Broken(io.StringIO):
  """Such as a file on a full disk."""

  def write(self, _):
    raise OSError


def closed():
  stream = io.StringIO()
  stream.close()
  return stream


def test_names_cannot_steer_a_terminal():
  stream = io.StringIO()
  storage.say('a\x1b[2J\rb\u2013c\tü\nd', stream)
  assert stream.getvalue() == 'a\\x1b[2J\\rb\u2013c\tü\nd\n'


@pytest.mark.parametrize('make', [Broken, closed, lambda: None])
def test_what_cannot_be_said_is_no_error(monkeypatch, capsys, make):
  stream = make()
  monkeypatch.setattr(sys, 'stderr', stream)
  storage.say('a line')
  processes.tell('a line')
  storage.Told('train').close()
  shown = progress.Progress(stream, 4)
  shown.event('a line')
  shown.show(
    stage=1, stages=1, epoch=1, epochs=1, images_per_second=1, seconds_left=1
  )
  shown.close()
  if stream is not None:
    storage.Unfailing(stream).write('a line')
    storage.Unfailing(stream).flush()
  # Not even to where a result is read from.
  assert capsys.readouterr().out == ''


GOOD = 'from srdl_jax import config\ndef get_config():\n  '
# What a user's file holds: its line, where there is one, and what is told.
FAULTY = {
  'syntax': ('def get_config(:', None, 'SyntaxError'),
  'import': ('import no_such_module', 1, "named 'no_such_module'"),
  'name': ('def get_config():\n  return undefined', 2, "'undefined'"),
  'key': ('def get_config():\n  return {}["x"]', 2, "KeyError: 'x'"),
  'division': ('def get_config():\n  return 1 / 0', 2, 'ZeroDivision'),
  'file': ('open("/none/such")', 1, 'FileNotFoundError'),
  'recursion': ('def get_config():\n  return get_config()', 2, 'Recursion'),
  'exit': ('import sys\nsys.exit(3)', 2, 'SystemExit: 3'),
  'bytes': ('x = "\udce9"', None, 'SyntaxError'),
  'no exception': ('raise BaseException("q")', 1, 'BaseException: q'),
  'closed': ('raise GeneratorExit', 1, 'raises GeneratorExit'),
  'untold': (
    'class E(Exception):\n  def __str__(self): return 1 / 0\nraise E',
    3,
    'raises E',
  ),
  'frozen': (
    'from ml_collections import FrozenConfigDict as F\n'
    'def get_config():\n  return F({})',
    None,
    'but FrozenConfigDict',
  ),
  'number': ('get_config = 3', None, 'has no get_config()'),
  'argument': ('def get_config(text): pass', None, "'text'"),
  'type': (f'{GOOD}c = config.defaults()\n  c.epochs = "x"', 4, 'TypeError'),
  'field': (f'{GOOD}c = config.defaults()\n  c.epoch = 1', 4, '"epoch"'),
  'dict': ('def get_config():\n  return {"epochs": 1}', None, 'but dict'),
  'nothing': ('def get_config():\n  pass', None, 'but NoneType'),
  'no function': ('x = 1', None, 'has no get_config()'),
  'no Python': ('epochs: 1', None, 'has no get_config()'),
  'boolean': (
    f'{GOOD}c = config.defaults()\n  c.epochs = True\n  return c',
    None,
    'epochs = True',
  ),
}


@pytest.mark.parametrize('fault', FAULTY)
def test_a_faulty_configuration_is_one_line(tmp_path, fault):
  text, line, told = FAULTY[fault]
  file = tmp_path / 'mine.py'
  file.write_bytes(os.fsencode(text))
  done = started.python('-m', 'srdl_jax.command.config', f'--config={file}')
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
  assert done.stderr.startswith('error: ') and told in done.stderr
  assert (f'({file}, line {line}).' in done.stderr) == (line is not None)


def test_a_configuration_is_read_whatever_begins_it(tmp_path):
  file = tmp_path / 'mine.py'
  text = (
    'from __future__ import annotations\nimport dataclasses\n'
    '@dataclasses.dataclass\nclass Mine:\n  a: int\n'
    f'{GOOD}return config.defaults()\n'
  )
  file.write_bytes(b'\xef\xbb\xbf' + text.encode())
  done = started.python('-m', 'srdl_jax.command.config', f'--config={file}')
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', ['lr0.1', 'c.config'])
def test_a_python_file_may_be_called_anything(tmp_path, name):
  (tmp_path / name).write_text(f'{GOOD}return config.defaults()\n')
  config = f'--config={tmp_path / name}'
  done = started.python('-m', 'srdl_jax.command.config', config)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', ['c.json', 'c.yaml', 'c.txt'])
def test_a_file_that_is_no_python_is_not_run(tmp_path, name):
  (tmp_path / name).write_text('raise SystemExit(0)')
  config = f'--config={tmp_path / name}'
  done = started.python('-m', 'srdl_jax.command.config', config)
  assert done.returncode == 2 and 'ends in .py' in done.stderr


def test_one_configuration_is_given():
  twice = ('--config=digits', '--config', 'cifar10')
  done = started.python('-m', 'srdl_jax.command.config', *twice)
  assert (done.returncode, done.stderr) == (
    2,
    'error: --config=FILE is given twice: give one.\n',
  )


@pytest.mark.parametrize(
  ('text', 'told'),
  [
    ('x = 1\nraise KeyError("q")', "KeyError: 'q' ({}, line 2)."),
    ('import none_such', "No module named 'none_such' ({}, line 1)."),
    ('def f(:', 'SyntaxError: '),
  ],
)
def test_a_faulty_module_is_one_line(tmp_path, text, told):
  file = tmp_path / 'faulty_module.py'
  file.write_text(text)
  call = ('-m', 'srdl_jax.command.config', '--config=digits')
  path = {'PYTHONPATH': f'{tmp_path}:{started.ROOT}'}
  done = started.python(
    *call, '--import=faulty_module', cwd=tmp_path, env={**os.environ, **path}
  )
  begin = 'error: --import=faulty_module raises '
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
  assert done.stderr.startswith(begin) and told.format(file) in done.stderr


# What a notebook's processes inherit, in an environment that lacks it.
NOTEBOOK = {'MPLBACKEND': 'module://matplotlib_inline.backend_inline'}


def test_a_report_is_drawn_without_a_screen(tmp_path):
  report = ('-m', 'srdl_jax.report', RUN / 'finished')
  done = in_shell(
    'exec "$@"', *report, f'--out={tmp_path}/r.html', env=NOTEBOOK
  )
  assert done.returncode == 0, done.stderr
  assert '<svg' in (tmp_path / 'r.html').read_text()


def test_rankings_are_drawn_without_a_screen_and_only_if_asked_for(tmp_path):
  rng = np.random.default_rng(0)
  np.savez(
    tmp_path / 'f.npz',
    query=rng.normal(size=(2, 4)),
    query_ids=[1, 2],
    query_images=np.zeros((2, 4, 4, 3), np.uint8),
    gallery=rng.normal(size=(4, 4)),
    gallery_ids=[1, 2, 1, 2],
    gallery_images=np.zeros((4, 4, 4, 3), np.uint8),
  )
  call = ('-m', 'srdl_jax.rank', f'--features={tmp_path}/f.npz')
  drawn = in_shell(
    'exec "$@"', *call, f'--montage={tmp_path}/m.png', env=NOTEBOOK
  )
  assert drawn.returncode == 0 and (tmp_path / 'm.png').exists(), drawn.stderr
  alone = in_shell('exec "$@"', '-X', 'importtime', *call)
  assert alone.returncode == 0 and 'numpy' in alone.stderr
  assert 'matplotlib' not in alone.stderr
