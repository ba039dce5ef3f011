# SPDX-License-Identifier: Apache-2.0
"""docs/when.md says what the runs beside it say, and these are whole."""

import importlib.util
import pathlib
import re
import tarfile

import made_runs
import pytest

from srdl_jax import report
from srdl_jax.reproduce import scales, sweep

DOCS = pathlib.Path(__file__).parents[2] / 'docs'


@pytest.fixture(scope='module')
def when():
  spec = importlib.util.spec_from_file_location('when', DOCS / 'when.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def invented(when, tmp_path):
  """Writes runs of a table, by accuracies of each seed; returns all."""

  def write(table, accuracy):
    for row in scales.rows(table, when.SCALE):
      for seed in range(2):
        place = sweep.directory(tmp_path, row.setting, seed)
        if (last := accuracy(row, seed)) and not place.exists():
          made_runs.write(place, made_runs.of_arena(row, seed, last))
    return when.Runs(report.read([str(tmp_path)]).rows)

  return write


def cells(lines):
  """Returns the lines of a table by their first cell, and those by header."""
  header, *rest = lines
  return {line[0]: dict(zip(header, line, strict=True)) for line in rest}


def test_gains_are_paired_over_vanilla_and_over_half_of_its_budget(
  when, invented
):
  known = {'vanilla': 0.5, 'vanilla of M / 2': 0.45, 'SRDL': 0.56}

  def accuracy(row, seed):
    last = known.get(row.name.partition(', ')[2])
    # Seeds differ by more than methods do.
    return last and last + 0.2 * seed + 0.01 * seed * (last > 0.5)

  found = cells(when.arena_table(invented('arena', accuracy)))
  assert set(found) == {*known, when.ENSEMBLE}
  assert found['vanilla']['accuracy'] == '60.0 ± 14.1'
  assert found['vanilla']['gain over vanilla'] == ''
  # 6 and 7 points: mean 6.5, and t(.975, 1) x .7071 / sqrt(2) = 6.35.
  assert found['SRDL']['gain over vanilla'] == '+6.5 [+0.1, +12.9]'
  assert found['SRDL']['over vanilla of M / 2'] == '+11.5 [+5.1, +17.9]'
  assert found['vanilla of M / 2']['gain over vanilla'] == '−5.0 [−5.0, −5.0]'
  assert {line['n'] for line in found.values()} == {'2'}


def test_effects_are_of_what_changes_alone(when, invented):
  """Invented: a restart gains 2 points, a decay of stage one 3, of two 0."""

  def accuracy(row, seed):
    gains = 0.02 * (', restart' in row.name)
    gains += 0.03 * ('stage one complete' in row.name)
    return 0.5 + gains + 0.1 * seed

  runs = invented('factorial', accuracy)
  found = cells(when.effects_table(runs))
  means = {n: line['mean effect'].split()[0] for n, line in found.items()}
  assert list(means.values()) == ['+3.0', '+0.0', '+2.0']
  places = [where for _, where, _ in when.effects(runs)]
  # Each factor has a pair for each setting of the two others.
  assert len(places) == 3 * 5 and len({*places} - {''}) == 3 * 4
  assert all(', ' in where for where in places if where)


def test_what_was_not_run_is_left_out(when, invented):
  runs = invented('arena', lambda row, seed: None)
  page = 'A\n<!-- arena -->\nold\n<!-- end -->\n<!-- effects -->\n<!-- end -->B'
  empty = page.replace('old\n', '')
  assert when.filled(page, runs) == empty
  assert not list(when.pictures(runs))


def test_the_kept_runs_are_small_and_name_no_machine(when):
  assert when.KEPT.stat().st_size < 2**20
  with tarfile.open(when.KEPT) as tar:
    for member in tar:
      text = tar.extractfile(member).read().decode()
      assert not re.search(r'"/(?!\d)|\w+@|hostname', text), member.name


def test_a_sweep_goes_on_from_the_kept_runs(when, tmp_path):
  when.unpack(tmp_path)
  there = {path.parent.name for path in tmp_path.glob('runs/*/result.json')}
  known = {
    sweep.directory(tmp_path, row.setting, seed).name
    for table in scales.TABLES
    for row in scales.rows(table, when.SCALE)
    for seed in range(5)
  }
  assert there and there <= known


@pytest.mark.slow
def test_the_page_says_what_its_runs_say(when):
  runs = when.kept()
  page = when.PAGE.read_text()
  assert when.filled(page, runs) == page
  shown = {*re.findall(r'\(when_(\w+)\.svg\)', page)}
  assert shown == {name for name, _ in when.pictures(runs)}
