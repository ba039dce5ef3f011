# SPDX-License-Identifier: Apache-2.0
"""Commands end as they should, whoever reads what they say."""

import io
import json
import os
import pathlib
import shutil
import sys

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
