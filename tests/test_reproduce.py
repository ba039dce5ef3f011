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

from srdl_jax import report, reproduce, run_directory, scales, sweep
from srdl_jax.errors import ConfigError
from srdl_jax.reporting import document, paper_tables, report_figures
from srdl_jax.reporting import results as results_lib

ROOT = pathlib.Path(__file__).parent.parent
# What all of it may take in a test, on two cores.
MOST_SECONDS = 900
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


def kill(process):
  """Kills a sweep and what it has started, as a machine that goes down."""
  children = subprocess.run(
    ['ps', '-o', 'pid=', '--ppid', str(process.pid)],
    capture_output=True,
    text=True,
    check=False,
  )
  for pid in [process.pid, *map(int, children.stdout.split())]:
    os.kill(pid, signal.SIGKILL)
  process.communicate()


@pytest.fixture(scope='module')
def everything(tmp_path_factory):
  """All tables at the smallest scale, killed once on the way."""
  workdir = tmp_path_factory.mktemp('sweep')
  arguments = ('all', '--scale=smoke', f'--jobs={os.cpu_count()}')
  begun = time.monotonic()
  process = start(workdir, *arguments)
  while not results(workdir) and process.poll() is None:
    time.sleep(0.2)
  kill(process)
  before = results(workdir)
  code, out, err = finish(workdir, *arguments)
  return workdir, before, code, err, time.monotonic() - begun


def test_a_killed_sweep_goes_on(everything):
  workdir, before, code, err, seconds = everything
  assert code == 0, err
  after = results(workdir)
  assert before and before.items() <= after.items()
  # Nothing that was finished has been started again.
  started = re.findall(r'(\S+): started', err)
  assert len(set(started)) == len(started)
  assert not set(started) & before.keys()
  jobs = len(after) + 1
  assert re.search(rf'done\. {jobs} of {jobs} jobs', err)
  assert seconds < MOST_SECONDS, seconds


def test_every_table_is_filled(everything):
  workdir, *_ = everything
  found = results_lib.read([str(workdir)])
  assert not found.left_out
  for name in reproduce.ALL:
    rows = paper_tables.place(name, 'smoke', found.rows)
    assert len(rows) == len(scales.rows(name, 'smoke')) > 0
    table = paper_tables.table(rows, 'smoke')
    lines = [
      dict(zip(table.header, (cell.text for cell in line), strict=True))
      for line in table.lines
      if not isinstance(line, document.Heading)
    ]
    for placed in rows:
      assert placed.ours is not None, placed.row.name
      if placed.row.against:
        assert paper_tables.baseline(placed, rows).ours is not None
    gained = [row for row in rows if row.row.against]
    # Of Market-1501 there are lines of its own metrics, too, which are blank.
    measured = [line for line in lines if line['last epoch (%)']]
    assert len(measured) >= len(rows)
    gain = 'gain (points), 95 % interval'
    assert sum(bool(line[gain]) for line in measured) >= len(gained)


def test_every_figure_is_drawn(everything):
  workdir, *_ = everything
  found = results_lib.read([str(workdir)])
  drawn = document.figures(report.sections(found, report_figures))
  names = ' '.join(figure.name for figure in drawn)
  for name in ('smoke_budget', 'smoke_fig3', 'flatness', 'smoke_table1'):
    assert name in names, names
  (curves,) = found.flatness
  assert len(curves.networks) == 2
  text = (workdir / 'report.html').read_text()
  assert text.count('<svg') == len(drawn)


def test_a_finished_sweep_has_nothing_left_to_do(everything):
  workdir, *_ = everything
  code, out, _ = finish(workdir, 'all', '--scale=smoke', '--dry-run')
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
    '--dry-run',
    '--seeds=2',
  )
  assert code == 0 and not workdir.exists()
  # 69.1M multiply-adds x 200 epochs x 50,000 images.
  assert 'CIFAR-100: ResNet-32, vanilla: 0.0691 (1e16), 0 of 2 seeds' in out
  assert 'ResNet-32, SRDL: 0.0695 (1e16)' in out and 'WRN' not in out
  assert '--config=configs/cifar100.py:model=resnet32,method=srdl,' in out
  assert re.search(
    r'^4 of 4 jobs .* 0\.277 \(1e16\).*about [\d.]+ (days|h|min)', out, re.M
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
    (('table3',), 'weights=DIR, which holds resnet50, densenet121'),
    (
      ('table3', '--weights=no'),
      'weights=no has no folder resnet50, densenet121',
    ),
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


@pytest.mark.parametrize('more', [(), ('--dry-run',)])
def test_a_damaged_result_is_no_finished_row(tmp_path, more):
  (row,) = reproduce.choose(['table4'], 'smoke', 'stage-incomplete')
  place = sweep.directory(tmp_path, row.run, 0)
  place.mkdir(parents=True)
  (place / run_directory.RESULT).write_text('{')
  code, _, err = finish(tmp_path, 'table4', '--scale=smoke', *more)
  assert code == 4
  assert re.match(f'error: {place}.*damaged.* makes it again', err), err


def test_a_failed_row_is_listed_and_the_rest_goes_on(tmp_path):
  # A run directory that isn't one: its row can't be trained.
  (row,) = reproduce.choose(['table4'], 'smoke', 'stage-incomplete')
  place = sweep.directory(tmp_path, row.run, 0)
  place.mkdir(parents=True)
  (place / 'config.json').write_text('{}')
  code, out, err = finish(tmp_path, 'table4', '--scale=smoke')
  assert code == 6
  assert len(results(tmp_path)) == 1
  assert re.search(r'error: 1 of 2 jobs failed\.\n  .*exit code 4', err)
  assert (tmp_path / 'report.html').exists()
