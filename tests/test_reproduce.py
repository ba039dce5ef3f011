# SPDX-License-Identifier: Apache-2.0
"""All tables and figures by one command: killed, gone on with, reported."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from srdl_jax import paper, reproduce, run_directory, scales
from srdl_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).parent.parent
# As on a laptop: one device, and no time spent on fast programs.
ENVIRONMENT = {
  **os.environ,
  'JAX_PLATFORMS': 'cpu',
  'XLA_FLAGS': '--xla_backend_optimization_level=0',
}


def start(workdir, *arguments):
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'srdl_jax.reproduce',
      *arguments,
      f'--workdir={workdir}',
    ],
    cwd=ROOT,
    env=ENVIRONMENT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(workdir, *arguments):
  process = start(workdir, *arguments)
  out, err = process.communicate(timeout=1500)
  return process.returncode, out, err


def results(workdir):
  return {
    path.parent.name: path.stat().st_mtime_ns
    for path in workdir.glob(f'runs/*/{run_directory.RESULT}')
  }


@pytest.fixture(scope='module')
def everything(tmp_path_factory):
  """All tables at the smallest scale, killed once on the way."""
  workdir = tmp_path_factory.mktemp('sweep')
  arguments = ('all', '--scale=smoke', f'--jobs={os.cpu_count()}')
  process = start(workdir, *arguments)
  while not results(workdir) and process.poll() is None:
    time.sleep(0.2)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  before = results(workdir)
  code, out, err = finish(workdir, *arguments)
  return workdir, before, code, out, err


def test_a_killed_sweep_goes_on(everything):
  workdir, before, code, _, err = everything
  assert code == 0, err
  after = results(workdir)
  assert before and before.items() <= after.items()
  # Nothing that was finished has been started again.
  started = re.findall(r'(\S+): started', err)
  assert len(set(started)) == len(started)
  assert not set(started) & before.keys()
  jobs = len(after) + 1
  assert re.search(rf'done\. {jobs} of {jobs} jobs', err)


def test_every_table_and_figure_is_filled(everything):
  workdir, *_ = everything
  report = (workdir / 'report.html').read_text()
  tables = [table for table in paper.TABLES if table != 'controls']
  for table in tables:
    assert paper.TABLES[table].title in report
  done = subprocess.run(
    [sys.executable, '-m', 'srdl_jax.report', str(workdir)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  for table in tables:
    for row in scales.rows(table, 'smoke'):
      if table not in ('fig3', 'fig4'):
        (line, *_) = [
          line for line in done.stdout.splitlines() if f'{row.name} |' in line
        ]
        assert re.search(r'\d+\.\d\d', line), line


def test_a_finished_sweep_has_nothing_left_to_do(everything):
  workdir, *_ = everything
  code, out, _ = finish(workdir, 'all', '--scale=smoke', '--dry_run')
  assert code == 0
  assert re.search(r'^0 of \d+ jobs are to be done', out, re.M)
  assert ' 1 of 1 seeds done' in out and ' 0 of 1 seeds done' not in out


def test_a_dry_run_tells_rows_cost_and_time(tmp_path):
  workdir = tmp_path / 'none'
  code, out, _ = finish(
    workdir,
    'table1',
    '--scale=strong',
    '--rows=cifar-100: resnet*',
    '--dry_run',
    '--seeds=2',
  )
  assert code == 0 and not workdir.exists()
  # 69.1M multiply-adds x 200 epochs x 50,000 images.
  assert 'CIFAR-100: ResNet-32, vanilla: 0.0691 (1e16), 0 of 2 seeds' in out
  assert 'ResNet-32, SRDL: 0.0695 (1e16)' in out and 'WRN' not in out
  assert re.search(
    r'^4 of 4 jobs .* 0\.277 \(1e16\).*about [\d.]+ (h|min)', out, re.M
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('table7',), "Unknown table 'table7'; known: table1, .*all"),
    (('table1', '--rows=ResNet-33'), "No row fits 'ResNet-33'. Rows of table1"),
    (('table3', '--scale=short'), "'short' has none of these rows"),
    ((), 'Name tables and a directory'),
    (('table1', '--shard=3/2'), "--shard='3/2': give I/N"),
    (('table1', '--scale=tiny'), 'scale.*should be one of'),
    (('table3',), "can't be read yet"),
  ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
  code, out, err = finish(tmp_path / 'none', *arguments)
  assert code == 2 and not out
  assert re.match(f'error: .*{message}', err), err
  assert err.count('\n') == 1
  assert not (tmp_path / 'none').exists()


def test_rows_are_chosen_by_patterns():
  rows = reproduce.choose(['table1', 'table2'], 'full', 'tiny*srdl; KD from R')
  assert {f'{row.group}: {row.name}' for row in rows} == {
    'Tiny ImageNet: ResNet-32, SRDL',
    'Tiny ImageNet: WRN-28-10, SRDL',
    'Tiny ImageNet: DenseNet-BC (190, 40), SRDL',
    'CIFAR-10: ResNet-32, KD from ResNet-110',
    'CIFAR-100: ResNet-32, KD from ResNet-110',
    'Tiny ImageNet: ResNet-32, KD from ResNet-110',
  }


def test_no_row_is_an_error_that_lists_the_rows():
  with pytest.raises(ConfigError, match='Rows of table4 .*stage-incomplete'):
    reproduce.choose(['table4'], 'full', 'vanila')


def test_a_failed_row_is_listed_and_the_rest_goes_on(tmp_path):
  # A run directory that isn't one: its row can't be trained.
  (row,) = reproduce.choose(['table4'], 'smoke', 'stage-incomplete')
  from srdl_jax import sweep

  place = sweep.directory(tmp_path, row.run, 0)
  place.mkdir(parents=True)
  (place / 'config.json').write_text('{}')
  code, out, err = finish(tmp_path, 'table4', '--scale=smoke')
  assert code == 6
  assert len(results(tmp_path)) == 1
  assert re.search(r'error: 1 of 2 jobs failed:\n  .*exit code 4', err)
  assert (tmp_path / 'report.html').exists()
