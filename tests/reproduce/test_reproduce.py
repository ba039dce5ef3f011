# SPDX-License-Identifier: Apache-2.0
"""All tables and figures by one command: killed, gone on with, reported."""

import os
import re
import shutil
import sys

import compiled
import pytest
import started

from srdl_jax import report
from srdl_jax.errors import ConfigError
from srdl_jax.report import document, paper_tables
from srdl_jax.report import figures as report_figures
from srdl_jax.report import rows as rows_lib
from srdl_jax.reproduce import __main__ as reproduce_command
from srdl_jax.reproduce import scales, sweep
from srdl_jax.runs import directory as run_directory

# As on a laptop: one device, and no time spent on fast programs.
ENVIRONMENT = {
  **os.environ,
  'XLA_FLAGS': '--xla_backend_optimization_level=0',
}
# Of these jobs alone, because a killed one may leave half a program behind.
PROGRAMS = {
  'JAX_COMPILATION_CACHE_DIR': f'{os.environ[compiled.VARIABLE]}/reproduce',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}
SLOW = pytest.mark.slow
ARENA = 'arena noise'
JOBS = {'table4': 1, 'all': os.cpu_count(), ARENA: os.cpu_count()}


def start(workdir, *arguments):
  return started.start(
    [
      *(sys.executable, '-m', 'srdl_jax.reproduce'),
      *(*arguments, f'--workdir={workdir}'),
    ],
    cwd=started.ROOT,
    env=ENVIRONMENT | PROGRAMS,
    stdout=started.PIPE,
    stderr=started.PIPE,
    text=True,
  )


def finish(workdir, *arguments):
  process = start(workdir, *arguments)
  out, err = process.communicate(timeout=3000)
  return process.returncode, out, err


def ask(workdir, *arguments):
  """Runs a command that trains nothing."""
  place = f'--workdir={workdir}'
  done = started.python(
    *('-m', 'srdl_jax.reproduce', *arguments, place), env=ENVIRONMENT
  )
  return done.returncode, done.stdout, done.stderr


def results(workdir):
  return {
    path.parent.name: path.stat().st_mtime_ns
    for path in workdir.glob(f'runs/*/{run_directory.RESULT}')
  }


@pytest.fixture(
  scope='module',
  params=['table4', *(pytest.param(n, marks=SLOW) for n in ('all', ARENA))],
)
def swept(request, tmp_path_factory):
  """A table, or all, at the smallest scale, killed once on the way."""
  workdir = tmp_path_factory.mktemp('sweep')
  jobs = f'--jobs={JOBS[request.param]}'
  arguments = (*request.param.split(), '--scale=smoke', jobs)
  process = start(workdir, *arguments)
  started.wait_until(
    lambda: results(workdir) or process.poll() is not None, 'for a result'
  )
  # With what it has started, as a machine that goes down.
  started.end()
  before = results(workdir)
  code, out, err = finish(workdir, *arguments)
  return workdir, before, code, err


def tables(request):
  """The tables of the sweep that a test was given."""
  table = request.node.callspec.params['swept']
  return reproduce_command.ALL if table == 'all' else table.split()


def test_a_killed_sweep_goes_on(swept):
  workdir, before, code, err = swept
  assert code == 0, err
  after = results(workdir)
  assert before and before.items() <= after.items()
  # Nothing that was finished has been started again.
  again = re.findall(r'(\S+): started', err)
  assert len(set(again)) == len(again)
  assert not set(again) & before.keys()
  done, jobs = re.findall(r'done\. (\d+) of (\d+) jobs', err)[-1]
  assert done == jobs
  flatness = [*workdir.glob('flatness-*/flatness.json')]
  assert int(jobs) == len(after) + len(flatness)


def test_every_table_is_filled(swept, request):
  workdir, *_ = swept
  found = rows_lib.read([str(workdir)])
  assert not found.left_out
  for name in tables(request):
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


@pytest.mark.parametrize(
  'swept', [pytest.param('all', marks=SLOW)], indirect=True
)
def test_every_figure_is_drawn(swept):
  workdir, *_ = swept
  found = rows_lib.read([str(workdir)])
  drawn = document.figures(report.sections(found, report_figures))
  names = ' '.join(figure.name for figure in drawn)
  for name in ('smoke_budget', 'smoke_fig3', 'flatness', 'smoke_table1'):
    assert name in names, names
  (curves,) = found.flatness
  assert len(curves.networks) == 2
  text = (workdir / 'report.html').read_text()
  # Forest plots are tables there, whose lines are drawn by themselves.
  pictures = [one for one in drawn if '_forest_' not in one.name]
  assert text.count('role="img"') == len(pictures)


def test_a_finished_sweep_has_nothing_left_to_do(swept, request):
  workdir, *_ = swept
  table = request.node.callspec.params['swept']
  code, out, _ = ask(workdir, *table.split(), '--scale=smoke', '--dry-run')
  assert code == 0
  assert re.search(r'^0 of \d+ jobs are to be done', out, re.M)
  assert ' 1 of 1 seeds done' in out and ' 0 of 1 seeds done' not in out


@pytest.mark.parametrize('swept', ['table4'], indirect=True)
@pytest.mark.slow
def test_a_failed_row_is_listed_and_the_rest_goes_on(swept, tmp_path):
  workdir = tmp_path / 'sweep'
  shutil.copytree(swept[0], workdir)
  (workdir / 'report.html').unlink()
  for place in workdir.glob(f'runs/*/{run_directory.RESULT}'):
    place.unlink()
  # A run directory that isn't one: its row can't be trained.
  (row,) = reproduce_command.choose(['table4'], 'smoke', 'stage-incomplete')
  place = sweep.directory(workdir, row.setting, 0)
  (place / run_directory.CONFIG).write_text('{}')
  code, out, err = finish(workdir, 'table4', '--scale=smoke')
  assert code == 6
  assert len(results(workdir)) == 1
  assert re.search(r'error: 1 of 2 jobs failed\.\n  .*exit code 4', err)
  assert (workdir / 'report.html').exists()


@pytest.mark.slow
def test_a_dry_run_tells_rows_cost_and_time(tmp_path):
  workdir = tmp_path / 'none'
  code, out, _ = ask(
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
  code, out, err = ask(tmp_path / 'none', *arguments)
  assert code == 2 and not out
  assert re.match(f'error: .*{message}', err), err
  assert err.count('\n') == 1
  assert not (tmp_path / 'none').exists()


def test_rows_are_chosen_by_patterns():
  rows = reproduce_command.choose(
    ['table1', 'table2'], 'full', 'tiny*srdl; KD from R'
  )
  assert {f'{row.group}: {row.name}' for row in rows} == {
    'Tiny ImageNet: ResNet-32, SRDL',
    'Tiny ImageNet: WRN-28-10, SRDL',
    'Tiny ImageNet: DenseNet-BC (190, 40), SRDL',
    'CIFAR-10: ResNet-32, KD from ResNet-110',
    'CIFAR-100: ResNet-32, KD from ResNet-110',
    'Tiny ImageNet: ResNet-32, KD from ResNet-110',
  }

  # 'SRDL' alone is in the names of its variants, too.
  ends = reproduce_command.choose(['arena'], 'smoke', '*, SRDL$; vanilla$')
  assert [row.name.partition(', ')[2] for row in ends] == ['vanilla', 'SRDL']


def test_no_row_is_an_error_that_lists_the_rows():
  with pytest.raises(ConfigError, match='Rows of table4 .*stage-incomplete'):
    reproduce_command.choose(['table4'], 'full', 'vanila')


@pytest.mark.parametrize('more', [(), ('--dry-run',)])
def test_a_damaged_result_is_no_finished_row(tmp_path, more):
  (row,) = reproduce_command.choose(['table4'], 'smoke', 'stage-incomplete')
  place = sweep.directory(tmp_path, row.setting, 0)
  place.mkdir(parents=True)
  (place / run_directory.RESULT).write_text('{')
  code, _, err = ask(tmp_path, 'table4', '--scale=smoke', *more)
  assert code == 4
  assert re.match(f'error: {place}.*damaged.* makes it again', err), err
