# SPDX-License-Identifier: Apache-2.0
"""The report: its numbers by hand, its comparisons, its two formats."""

import dataclasses
import html.parser
import pathlib
import re
import sys

import made_runs
import pytest
import started
import tiny

from srdl_jax import config as config_lib
from srdl_jax import report, reproduce, srdl, storage
from srdl_jax.errors import ConfigError, WorkdirError
from srdl_jax.report import (
  __main__,
  comparison,
  document,
  paper_tables,
  run_file,
  run_tables,
)
from srdl_jax.report import figures as report_figures
from srdl_jax.report import html as html_report
from srdl_jax.report import rows as rows_lib
from srdl_jax.reproduce import scales
from srdl_jax.runs import progress, stop_request

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def place_row(tmp_path):
  """Writes invented runs of a row of the paper, one a seed."""

  def write(row, *accuracies, **changes):
    for seed, accuracy in enumerate(accuracies):
      found = made_runs.of_row(row, seed, accuracy)
      count = len(list(tmp_path.iterdir()))
      made_runs.write(tmp_path / f'row{count}', found | changes)

  return write


def rows_of(table):
  """Returns the lines of a table, each by the names of the columns."""
  return [
    dict(zip(table.header, line, strict=True))
    for line in table.lines
    if not isinstance(line, document.Heading)
  ]


def others(names):
  """Returns the lines of the table of other runs."""
  rows = rows_lib.read(names).rows
  return rows_of(run_tables.others(rows, rows))


def page_of(found, number):
  """Returns the page of a row."""
  sections = {one.name: one for one in report.sections(found, None)}
  return sections[f'r{number}']


def tabled(tmp_path, table, scale='smoke'):
  """Returns the lines of one of the paper's tables."""
  rows = rows_lib.read([str(tmp_path)]).rows
  placed = paper_tables.place(table, scale, rows)
  return rows_of(paper_tables.table(placed, scale))


GAIN = 'gain over vanilla (points), 95 % interval'
PAPERS_GAIN = 'gain (points), 95 % interval'
LAST, BEST = 'last epoch (%)', 'best epoch (%)'
TIME = 'device time, with compilation'


def test_a_row_is_a_mean_over_seeds_and_its_gain_is_paired(place):
  vanilla, srdl_row = others(
    [
      place('v1', 'vanilla', 1, 0.60),
      place('v0', 'vanilla', 0, 0.50),
      place('v2', 'vanilla', 2, 0.70),
      place('s0', 'srdl', 0, 0.51),
      place('s1', 'srdl', 1, 0.62),
      place('s2', 'srdl', 2, 0.73),
    ]
  )
  assert vanilla['runs'].text == 'tiny, vanilla'
  assert srdl_row['runs'].text == 'tiny, srdl'
  assert srdl_row['seeds'].text == '0, 1, 2'
  # 51, 62, 73: deviations of 11. Last epoch first, its gain beside it.
  assert list(srdl_row)[1:4] == [LAST, GAIN, BEST]
  assert srdl_row[LAST] == document.Cell('62.00 ± 11.00 (3)', strong=True)
  assert srdl_row[BEST].text == '63.00 ± 11.00 (3)'
  assert srdl_row['ensemble (%)'].text == '64.00 ± 11.00 (3)'
  assert srdl_row['stage one (%)'].text == '59.00 ± 11.00 (3)'
  assert vanilla['stage one (%)'].text == vanilla['ensemble (%)'].text == ''
  # Gains of 1, 2 and 3 points: 2 -+ 4.3027 / sqrt(3).
  assert srdl_row[GAIN] == document.Cell('+2.00 [-0.48, +4.48] (3)')
  assert vanilla[GAIN] == document.Cell()


def test_only_shared_seeds_are_paired(place, tmp_path):
  _, gained = others(
    [
      place('v0', 'vanilla', 0, 0.5),
      place('s0', 'srdl', 0, 0.6),
      place('s1', 'srdl', 1, 0.9),
    ]
  )
  assert gained[GAIN].text == '+10.00 (1)'
  rows = rows_lib.read([str(tmp_path)]).rows
  (note,) = run_tables.others(rows, rows).notes
  first, second = (row.number for row in rows)
  assert note == (
    'R1 and R2 have not the same seeds: the gain is paired over those that '
    'both have, 0 (n = 1), and is not the difference of the two means.'
  )
  _, apart = others(
    [
      str(place('v5', 'vanilla', 5, 0.5, epochs=7)),
      place('s6', 'srdl', 6, 0.6, epochs=7),
    ]
  )
  assert apart[GAIN].text == 'no shared seed'


def test_cost_is_told_in_three_units(place):
  (row,) = others([place('s', 'srdl', 0, 0.5)])
  assert [row[name].text for name in comparison.COSTS] == [
    '20 T',
    '120 T',
    '12 s',
  ]


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (59.9, '59.9 s'),
    (60, '1 min'),
    (5400, '1.5 h'),
    (36e4, '100 h'),
    (36e5, '42 days'),
  ],
)
def test_durations(seconds, text):
  assert progress.duration(seconds) == text


def test_rows_of_unequal_cost_are_marked(place):
  names = [place('v', 'vanilla', 0, 0.5), place('s', 'srdl', 0, 0.5)]
  found = storage.read_json(f'{names[1]}/result.json')
  # A percent more goes without a mark; it is one pass of extraction.
  for cost, marks in ((0.003, ('×1.5 cost',)), (0.00201, ())):
    found['cost']['training_1e16'] = cost
    made_runs.change(names[1], found)
    assert others(names)[1][GAIN] == document.Cell('+0.00 (1)', marks=marks)


def test_other_budgets_are_no_baseline_and_reported(place):
  names = [
    place('v', 'vanilla', 0, 0.5, epochs=300),
    place('s', 'srdl', 0, 0.6, epochs=2),
  ]
  rows = rows_lib.read(names).rows
  table = run_tables.others(rows, rows)
  vanilla, srdl_row = rows_of(table)
  assert vanilla['runs'].text == 'tiny, vanilla, epochs=300'
  assert srdl_row['runs'].text == 'tiny, srdl, epochs=2'
  assert srdl_row[GAIN] == document.Cell()
  assert table.notes == (
    'R2 is not compared with vanilla: epochs 2 against 300.',
  )


def test_other_data_are_no_baseline(place):
  _, srdl_row = others(
    [
      place('v', 'vanilla', 0, 0.5),
      place('s', 'srdl', 0, 0.6, **{'data.name': 'cifar10'}),
    ]
  )
  assert srdl_row[GAIN] == document.Cell()


def test_ablations_of_distillation_share_the_vanilla_row(place):
  _, one, two = others(
    [
      place('v', 'vanilla', 0, 0.5),
      place('s', 'srdl', 0, 0.6, **{'distillation.temperature': 4.0}),
      place('t', 'srdl', 0, 0.7, **{'srdl.start': 'previous'}),
    ]
  )
  assert one[GAIN].text == '+10.00 (1)'
  assert one['runs'].text == 'tiny, srdl, distillation.temperature=4.0'
  assert two[GAIN].text == '+20.00 (1)'
  assert two['runs'].text == 'tiny, srdl, srdl.start=previous'


def test_what_only_a_new_method_reads_parts_it_from_no_vanilla_row(place):
  _, row = others(
    [
      place('v', 'vanilla', 0, 0.5),
      place('p', 'ps_kd', 0, 0.6, **{'ps_kd.alpha': 0.5}),
    ]
  )
  assert row[GAIN].text == '+10.00 (1)'
  assert row['runs'].text == 'tiny, ps_kd, ps_kd.alpha=0.5'


def test_imported_weights_make_another_row(place):
  names = [place('v', 'vanilla', 0, 0.5), place('s', 'srdl', 0, 0.6)]
  found = storage.read_json(f'{names[1]}/result.json')
  found['weights'] = 'abcdef0123456789'
  made_runs.change(names[1], found)
  _, row = others(names)
  assert row['runs'].text == 'tiny, srdl, weights=abcdef01'
  assert row[GAIN] == document.Cell()


def test_a_control_is_judged_by_its_ensemble(place):
  _, row = others(
    [
      place('v', 'vanilla', 0, 0.5),
      place('e', 'vanilla_ensemble', 0, 0.5),
    ]
  )
  # 0.52 of the ensemble, not 0.50 of the second half: the gain's number is the
  # row's. There is no best epoch of an ensemble.
  assert row[GAIN].text == '+2.00 (1)'
  assert row[LAST] == document.Cell(
    '52.00 (1)', strong=True, marks=('ensemble of the stages',)
  )
  assert row[BEST] == document.Cell()


def test_validation_is_not_called_test(place):
  name = place('s', 'srdl', 0, 0.6)
  found = storage.read_json(f'{name}/result.json')
  found['best']['split'] = 'validation'
  made_runs.change(name, found)
  assert others([name])[0][BEST].text == '61.00 (1), validation'


def test_table_4_has_ours_beside_the_papers(place_row, tmp_path):
  incomplete, srdl_row = scales.rows('table4', 'full')
  place_row(incomplete, 0.58, 0.58)
  place_row(srdl_row, 0.70, 0.72)
  first, second = tabled(tmp_path, 'table4', 'full')
  # 70 and 72: 71 -+ sqrt(2); over 58, 12 and 14: 13 -+ 12.7062 for n = 2.
  assert second[LAST] == document.Cell('71.00 ± 1.41 (2)', strong=True)
  assert second[PAPERS_GAIN].text == '+13.00 [+0.29, +25.71] (2)'
  assert second['paper (%)'].text == '71.63 (5)'
  assert second["paper's gain"].text == '+13.52'
  assert first[PAPERS_GAIN] == document.Cell()
  # The order in which they were found: the incomplete one first.
  assert second['runs'] == document.Cell('R2', link='r2')


def test_what_has_not_been_run_is_blank(place_row, tmp_path):
  # The lines are by data set.
  rows = scales.rows('table1', 'full')
  groups = list(dict.fromkeys(row.group for row in rows))
  rows.sort(key=lambda row: groups.index(row.group))
  place_row(rows[1], 0.9)
  vanilla, srdl_row, *rest = tabled(tmp_path, 'table1', 'full')
  assert len(rest) == len(rows) - 2
  assert srdl_row[LAST].text == '90.00 (1)'
  # No baseline, no gain; the paper's numbers are there all the same.
  assert srdl_row[PAPERS_GAIN].text == ''
  for line, row in zip([vanilla, *rest], [rows[0], *rows[2:]], strict=True):
    number = dict(row.metrics)['accuracy']
    assert line['paper (%)'].text == f'{number:.2f} (5)'
    cost = comparison.counted(1e16 * row.cost)
    assert line["paper's TrCost"].text == cost
    ours = [LAST, BEST, PAPERS_GAIN, *comparison.COSTS, 'runs']
    assert all(not line[name].text for name in ours)


def test_at_other_scales_the_papers_numbers_are_called_its_own(
  place_row, tmp_path
):
  place_row(scales.rows('table4', 'smoke')[1], 0.9)
  line = tabled(tmp_path, 'table4')[1]
  assert line['paper (its own network and data) (%)'].text == '71.63 (5)'
  assert 'paper (%)' not in line
  found = rows_lib.read([str(tmp_path)])
  text = document.markdown('t', report.sections(found, None), None)
  assert '## Smoke scale: no reproduction of the paper' in text
  assert scales.SCALES['smoke'].meaning in text
  assert 'ours are not to be compared with them' in text


def test_ensembles_are_rows_of_the_same_runs(place_row, tmp_path):
  single, _, control = scales.rows('table6', 'full')
  place_row(single, 0.7)
  place_row(control, 0.7)
  one, both, two = tabled(tmp_path, 'table6', 'full')
  assert [line[LAST].text for line in (one, both, two)] == [
    '70.00 (1)',
    '72.00 (1)',
    '72.00 (1)',
  ]
  # What is no single network's says so.
  assert not one[LAST].marks
  assert both[LAST].marks == two[LAST].marks == ('ensemble of the stages',)
  assert both[PAPERS_GAIN].text == '+2.00 (1)'
  assert both["paper's gain"].text == '+0.70'
  assert one['runs'] == both['runs']


def test_several_metrics_are_several_lines(place_row, tmp_path):
  for row in scales.rows('imagenet', 'full'):
    place_row(row, 0.7)
  top1, top5, *_ = tabled(tmp_path, 'imagenet', 'full')
  assert top1['row'].text == 'DenseNet-201, vanilla, top-1'
  assert top5['row'].text == 'DenseNet-201, vanilla, top-5'
  assert top5['paper (%)'].text == '94.57 (1)'
  # What a run cost isn't told twice.
  assert top1[TIME].text and not top5[TIME].text


def kd(scale='full'):
  """Returns a vanilla row, and one that it taught."""
  rows = [row for row in scales.rows('table2', scale)]
  taught = next(row for row in rows if row.setting.teacher)
  return next(row for row in rows if row.name == taught.against), taught


def test_seeds_that_a_table_does_not_pair_are_told(place_row, tmp_path):
  incomplete, srdl_row = scales.rows('table4', 'full')
  place_row(incomplete, 0.58, 0.60)
  place_row(srdl_row, 0.70, 0.72, 0.74)
  rows = rows_lib.read([str(tmp_path)]).rows
  placed = paper_tables.place('table4', 'full', rows)
  (note,) = paper_tables.table(placed, 'full').notes
  assert note.startswith('R2 and R1 have not the same seeds')
  assert 'both have, 0, 1 (n = 2)' in note


def test_device_time_is_said_to_hold_compilation(place):
  *_, last = report.sections(rows_lib.read([place('s')]), None)
  told = {name: meaning for name, _, meaning in last.parts[0].items}
  assert 'it includes compilation' in told['device-time']


def taught(name, directory, **teacher):
  """Adds to a result which finished run taught; returns its directory."""
  found = storage.read_json(f'{directory}/result.json')
  config = config_lib.defaults()
  config.epochs = 4
  flat = config_lib.identity(config_lib.flatten(config))
  found['teacher'] |= {'workdir': name, 'config': flat, **teacher}
  made_runs.change(directory, found)
  return directory


def test_a_finished_run_that_teaches_is_named(place):
  names = [
    taught(
      '/runs/big', place(f'k{n}', 'kd', n, **{'teacher.model': 'resnet20'})
    )
    for n in range(2)
  ]
  (line,) = others(names)
  said = 'resnet20, srdl, 4 epochs'
  label = f'tiny, kd, taught by the finished run big ({said})'
  assert line['runs'].text == label
  page = page_of(rows_lib.read(names), 1)
  assert page.title == f'R1: {label}'
  digest = 'd1' * 6
  where = f'taught by the finished run /runs/big ({said}, checkpoint {digest}).'
  assert page.parts[0].endswith(where)
  # The same network in another place is the same teacher; another one isn't.
  taught('/copies/big', names[1])
  assert rows_lib.read(names).rows[0].one_teacher
  taught('/runs/other', names[1], checkpoint='d2')
  (line,) = others(names)
  assert line['runs'].text == (
    f'tiny, kd, taught by the finished runs big, other ({said})'
  )


def test_older_results_do_not_say_which_run_taught(place):
  name = place('k', 'kd', 0, **{'teacher.model': 'resnet20'})
  assert others([name])[0]['runs'].text == 'tiny, kd'
  detail = page_of(rows_lib.read([name]), 1).parts[0]
  assert detail.endswith('imported teacher resnet20, checkpoint d1d1d1d1d1d1.')


def test_one_teacher_of_all_seeds_is_told(place_row, tmp_path):
  vanilla, taught = kd()
  place_row(vanilla, 0.5, 0.6)
  place_row(
    taught,
    0.6,
    0.7,
    cost={
      'training_1e16': 0.2,
      'seconds': {
        'train': 1.0,
        'evaluate': 0.0,
        'extract': 0.0,
        'teacher': 7200.0,
      },
    },
  )
  rows = rows_lib.read([str(tmp_path)]).rows
  placed = paper_tables.place('table2', 'full', rows)
  table = paper_tables.table(placed, 'full')
  line = rows_of(table)[1]
  assert line[PAPERS_GAIN].marks == ('×100 cost', 'one teacher')
  assert line[TIME].text == '2 h'
  assert line['training FLOPs'].text == ''
  assert table.notes == (paper_tables.ONE_TEACHER,)


def test_teachers_and_students_have_their_training_losses(place_row, tmp_path):
  vanilla, taught = kd()
  place_row(vanilla, 0.5)
  place_row(taught, 0.6, 0.7)

  def read():
    rows = rows_lib.read([str(tmp_path)]).rows
    placed = paper_tables.place('table2', 'full', rows)
    lines = rows_of(paper_tables.teachers(placed))
    return {
      line['network'].text: line[
        'training cross-entropy (nats), last epoch'
      ].text
      for line in lines
    }

  name = reproduce.NAMES[taught.setting.teacher.model]
  # From the students' records, until the teacher's own runs are there.
  assert read() == {
    vanilla.name: '0.1637 (1)',
    f'{name}, teacher': '0.0087 ± 0.0000 (2)',
    taught.name: '0.1637 ± 0.0000 (2)',
  }
  teacher = reproduce.Row('', '', taught.setting.teacher, ())
  place_row(teacher, 0.8)
  assert read()[f'{name}, teacher'] == '0.1637 (1)'


def test_a_teacher_is_reported_before_its_students(place_row, tmp_path):
  _, taught = kd('short')
  place_row(reproduce.Row('', '', taught.setting.teacher, ()), 0.8)
  found = rows_lib.read([str(tmp_path)])
  sections = {s.name: s for s in report.sections(found, None)}
  (line,) = rows_of(sections['short-teachers'].parts[0])
  assert line['last epoch (%)'].text == '80.00 (1)'
  assert 'others' not in sections and 'short-reasons' not in sections


def test_runs_that_are_not_averaged_are_told(place_row, tmp_path):
  row = scales.rows('table5', 'full')[1]
  place_row(row, 0.7, 0.8)
  other = {'name': 'cifar100', 'fingerprint': 'other'}
  place_row(row, 0.2, data=other)
  assert tabled(tmp_path, 'table5', 'full')[1][LAST].text.startswith('75.00')
  found = rows_lib.read([str(tmp_path)])
  text = document.markdown('t', report.sections(found, None), None)
  assert (
    'R2 has the configuration of R1, but differs in data: they are not averaged'
  ) in text
  # It is to be seen all the same.
  assert '20.00 (1)' in text.partition('## Other runs')[2]


def test_rows_on_other_data_are_not_compared(place_row, tmp_path):
  incomplete, srdl_row = scales.rows('table4', 'full')
  place_row(incomplete, 0.5)
  place_row(srdl_row, 0.7, data={'name': 'cifar100', 'fingerprint': 'other'})
  cell = tabled(tmp_path, 'table4', 'full')[1][PAPERS_GAIN]
  assert cell == document.Cell(marks=('other data: not compared',))


def test_reasons_are_told_of_each_row_once(place_row, tmp_path):
  row = scales.rows('table4', 'full')[1]
  place_row(row, 0.7, 0.72)
  found = rows_lib.read([str(tmp_path)])
  placed = [
    one
    for table in ('table1', 'table4', 'table5')
    for one in paper_tables.place(table, 'full', found.rows)
  ]
  (line,) = rows_of(paper_tables.reasons(paper_tables.once(placed)))
  assert line['NLL (nats)'].text == '1.250 ± 0.000 (2)'
  assert line['ECE (%)'].text == '4.00 ± 0.00 (2)'
  assert line['soft-target entropy (nats)'].text == '1.500 ± 0.000 (2)'
  assert line['agreement with teacher (%)'].text == '90.00 ± 0.00 (2)'
  assert line['stages disagree (%)'].text == '25.00 ± 0.00 (2)'


def test_gains_are_drawn_by_budget(place_row, tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(
    report_figures.drawings,
    'gains',
    lambda lines: drawn.append(lines) or '<svg/>',
  )
  for row in scales.rows('budget', 'full')[:4]:
    good = row.setting.method == 'srdl'
    place_row(row, 0.52 if good else 0.5, 0.54 if good else 0.5)
  rows = rows_lib.read([str(tmp_path)]).rows
  placed = paper_tables.place('budget', 'full', rows)
  assert list(report_figures.gains(placed, 'budget'))
  ((name, by_budget),) = drawn[0].items()
  assert name == 'ResNet-32, SRDL'
  assert sorted(by_budget) == [25, 50]
  assert by_budget[25].mean == pytest.approx(3) and by_budget[25].n == 2


def test_a_comparison_is_drawn_once(place_row, tmp_path):
  place_row(scales.rows('table4', 'full')[0], 0.5)
  for row in scales.rows('fig3', 'full'):
    place_row(row, 0.6)
  rows = rows_lib.read([str(tmp_path)]).rows
  placed = {
    table: paper_tables.place(table, 'full', rows)
    for table in ('table1', 'table2', 'table4', 'table6')
  }
  drawn = [list(named) for _, _, named in report_figures.comparisons(placed)]
  # Table 2 compares what Table 1 does; Table 6's single row is in both others.
  assert drawn == [
    ['ResNet-32, vanilla', 'ResNet-32, SRDL'],
    ['ResNet-32, SRDL, stage-incomplete', 'ResNet-32, SRDL'],
  ]


def test_captions_name_the_network_and_legends_the_method(
  place_row, tmp_path, monkeypatch
):
  drawn = []
  monkeypatch.setattr(
    report_figures.drawings,
    'learning_curves',
    lambda rows, *_: drawn.append(list(rows)) or '<svg/>',
  )
  rows = [r for r in scales.rows('table1', 'full') if 'DenseNet' in r.name][:2]
  for row in rows:
    place_row(row, 0.6)
  found = rows_lib.read([str(tmp_path)]).rows
  named = dict(zip([row.name for row in rows], found, strict=True))
  (figure,) = report_figures.learning_curves(named, 'x', 'CIFAR-10')
  # The comma in the network's name parts nothing.
  assert drawn == [['vanilla', 'SRDL']]
  assert figure.caption == (
    'CIFAR-10, DenseNet-BC (190, 40): vanilla (R1, n = 1), SRDL (R2, n = 1).'
  )
  # Of two networks, the whole names.
  named = {'A (1, 2), vanilla': found[0], 'A (1, 3), SRDL': found[1]}
  list(report_figures.learning_curves(named, 'x', 'CIFAR-10'))
  assert drawn[1] == list(named)


def test_many_rows_are_drawn_in_several_figures(place, tmp_path):
  names = [place(f's{n}', 'srdl', 0, 0.5, epochs=10 + n) for n in range(8)]
  rows = rows_lib.read(names).rows
  named = {f'a{row.number}': row for row in rows}
  drawn = list(report_figures.learning_curves(named, 'x', 't'))
  assert [figure.name for figure in drawn] == ['x', 'x_2']
  # The first row is in each of them.
  assert all('a1 (R1' in figure.caption for figure in drawn)
  assert 'a7 (R7' not in drawn[0].caption and 'a7 (R7' in drawn[1].caption


@pytest.fixture
def mixed(place, place_row, tmp_path):
  """A directory of a little of everything, and what was read from it."""
  for row in scales.rows('table4', 'full') + scales.rows('fig3', 'full')[:1]:
    place_row(row, 0.58, 0.6)
  place('<i>&"x', 'vanilla', 0, 0.5)
  place('own', 'srdl', 0, 0.6)
  (tmp_path / 'own/metrics.jsonl').write_text('"test"\n')
  (tmp_path / 'damaged').mkdir()
  (tmp_path / 'damaged/result.json').write_text('{')
  curves = {'train': [[0.5, 1.0]], 'test': [[1.0, 2.0]]}
  flatness = made_runs.flatness(
    name='<b>, srdl',
    norm=35.25,
    parameters=1234,
    curves={'literal': curves, 'filter_normalised': curves},
  )
  flatness['directions'] = 1
  storage.write_json(tmp_path / 'flatness.json', flatness)
  return rows_lib.read([str(tmp_path)])


class Page(html.parser.HTMLParser):
  """What a page refers to and names, and whether its tags are closed."""

  EMPTY = ('meta', 'wbr')

  def __init__(self, text):
    super().__init__()
    self.names, self.links, self.open, self.said = [], [], [], []
    self.tags = set()
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    if tag not in self.EMPTY:
      self.open.append(tag)
    for name, value in attrs:
      if name == 'id':
        self.names.append(value)
      elif name in ('href', 'xlink:href', 'src'):
        self.links.append(value)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    self.handle_endtag(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.said.append(data)


def test_html_needs_no_other_file_and_is_whole(mixed, tmp_path):
  out = tmp_path / 'report.html'
  report.write(str(out), mixed)
  text = out.read_text()
  page = Page(text)
  assert page.open == ['html'] or not page.open
  # Every name once, and every link within the page.
  assert len(page.names) == len(set(page.names))
  assert {link[0] for link in page.links} == {'#'}
  assert {link[1:] for link in page.links} <= set(page.names)
  assert 'script' not in page.tags and 'img' not in page.tags
  for url in re.findall(r'url\(([^)]*)\)', text):
    assert url[0] == '#' and url[1:] in page.names
  assert not re.search(r'@import|https?://(?!www\.w3\.org)', text)
  # Text from files is text.
  assert 'i' not in page.tags and 'b' not in page.tags
  assert any('<i>&"x' in part for part in page.said)
  # Figure 3, curves of two comparisons and of each row, Figure 4.
  assert len(re.findall('<figure\\b', text)) == text.count('role="img"') >= 4
  report.write(str(out), mixed)
  assert out.read_text() == text


def test_every_section_is_in_the_contents(mixed):
  sections = report.sections(mixed, None)
  titles = [section.title for section in sections]
  text = html_report.render('t', sections)
  contents = text.partition('<nav')[2].partition('</nav>')[0]
  said = [section.short or section.title for section in sections]
  assert re.findall('>([^<]+)</a>', contents) == said
  assert titles[:3] == [
    'What was found',
    'All paired gains',
    'What is not here',
  ]
  assert titles[-1] == 'What the words mean'


def test_a_damaged_log_leaves_out_its_curve_alone(mixed):
  sections = {s.name: s for s in report.sections(mixed, report_figures)}
  *lines, _ = sections['left-out'].parts[0]
  assert len(lines) == 2
  assert 'damaged/result.json' in lines[0]
  assert 'own/metrics.jsonl is damaged in line 1' in lines[1]
  # Its numbers are there, and the other run's curve.
  _, table = sections['others'].parts
  assert [line['runs'].text for line in rows_of(table)] == [
    'tiny, vanilla',
    'tiny, srdl',
  ]
  _, curves = sections['others-curves'].parts
  assert 'vanilla' in curves.caption and 'srdl' not in curves.caption
  pages = {s.title: s for s in sections.values() if s.short}
  assert not document.figures([pages['R2: tiny, srdl']])


def test_markdown_has_its_figures_beside_it(mixed, tmp_path):
  out = tmp_path / 'report.md'
  report.write(str(out), mixed)
  text = out.read_text()
  images = re.findall(r'!\[[^]]*\]\(([^)]*)\)', text)
  assert images and len(images) == len(set(images))
  for image in images:
    assert image.startswith('report_figures/')
    assert (tmp_path / image).read_text().startswith('<?xml')
  folder = tmp_path / 'report_figures'
  assert {path.name for path in folder.iterdir()} == {
    pathlib.Path(image).name for image in images
  }
  # In a table, what a file says can't begin a column or a tag.
  assert '<i>' not in text.replace(r'\<i>', '')


def test_printed_tables_have_no_figures(mixed):
  text = document.markdown('t', report.sections(mixed, None), None)
  assert '![' not in text
  columns = {
    len(re.findall(r'(?<!\\)\|', line))
    for line in text.partition('### R2: ')[2].splitlines()
    if line.startswith('| ') and ' c0ffee ' in line
  }
  assert columns == {9}


def test_provenance_names_every_run(mixed, tmp_path):
  pages = [page for page in report.sections(mixed, None) if page.short]
  assert [page.name for page in pages] == [f'r{r.number}' for r in mixed.rows]
  lines = [line for page in pages for line in rows_of(page.parts[-1])]
  runs = [run for row in mixed.rows for run in row.runs.values()]
  assert [line['directory'].text for line in lines] == [r.workdir for r in runs]
  line = lines[0]
  assert line['commit'].text == 'c0ffee' and line['jax'].text == '0.10.2'
  assert line['data'].text == 'f1' * 6
  assert line['device'].text == '1 × abacus'
  assert line['last epoch (%)'].text == '50.00'
  assert line['device time'].text == '12 s'
  assert pages[1].title == 'R2: tiny, srdl'
  assert pages[1].parts[0] == (
    'Settings that differ from the defaults: model.name=tiny.'
  )
  assert pages[2].title == (
    'R3: ResNet-32, SRDL, stage-incomplete (Table 4, CIFAR-100)'
  )


def test_flatness_has_norms_and_losses(mixed):
  (line,) = rows_of(run_tables.flatness(mixed.flatness[0]))
  assert [cell.text for cell in line.values()] == [
    '<b>, srdl (runs/a)',
    '0',
    '1,234',
    '35.25',
    *('0.5', '1', '1', '2', '1', '2'),
  ]


def test_figure_4_speaks_of_seeds_only_where_there_are_several(mixed):
  (one,) = mixed.flatness
  (network,) = one.networks
  alone = report_figures.flatness(one, 'x')
  assert 'and seeds' not in alone.caption and 'one run' in alone.caption
  second = dataclasses.replace(network, seed=1)
  two = dataclasses.replace(one, networks=[network, second])
  caption = report_figures.flatness(two, 'x').caption
  assert 'mean over directions and seeds' in caption
  longer = dataclasses.replace(second, what={**network.what, 'epochs': 4})
  one.networks[0].what['epochs'] = 2
  two = dataclasses.replace(one, networks=[network, longer])
  drawn = report_figures.flatness(two, 'x')
  assert 'and seeds' not in drawn.caption
  assert drawn.alt.endswith('<b>, srdl, M = 2; <b>, srdl, M = 4')
  named = [line['network'].text for line in rows_of(run_tables.flatness(two))]
  assert named == [f'<b>, srdl, M = {m} (runs/a)' for m in (2, 4)]


def test_real_results_are_read(tmp_path):
  for method in ('srdl', 'vanilla'):
    config = tiny.config(**{'method': method, 'epochs': 2})
    srdl.run(config, str(tmp_path / method), stop_request.StopRequest())
  found = rows_lib.read([str(tmp_path)])
  assert len(found.rows) == 2 and not found.left_out
  invented = rows_lib.read(
    [made_runs.write(tmp_path / 'invented', made_runs.result())]
  )
  for row in found.rows:
    assert row.first.schedule[0] == (0.0, pytest.approx(0.1))
    assert sum(stage.epochs for stage in row.first.stages) == 2
    if row.fields['method'] == 'srdl':
      assert set(run_file.values(row.first)) == set(
        run_file.values(invented.rows[0].first)
      )
  sections = report.sections(found, report_figures)
  forest, both, *alone = document.figures(sections)
  assert 'Gain' not in both.caption
  assert 'vanilla' in both.caption and 'srdl' in both.caption
  assert [figure.name for figure in alone] == ['run_1', 'run_2']


def test_flatness_alone_is_a_report(mixed):
  found = rows_lib.Found([], mixed.flatness, [])
  titles = [section.title for section in report.sections(found, None)]
  assert titles == [reproduce.TABLES['fig4'].title]


def test_what_cannot_be_written_is_named(tmp_path):
  nothing = rows_lib.Found([], [], [])
  with pytest.raises(WorkdirError, match='none/report.md'):
    report.write(str(tmp_path / 'none/report.md'), nothing)


def test_markdown_without_figures_has_no_folder(tmp_path):
  report.write(str(tmp_path / 'z.md'), rows_lib.Found([], [], []))
  assert [path.name for path in tmp_path.iterdir()] == ['z.md']


def test_tables_without_any_run_are_named_not_shown(place_row, tmp_path):
  place_row(scales.rows('table5', 'full')[0], 0.6)
  sections = {
    s.name: s for s in report.sections(rows_lib.read([str(tmp_path)]), None)
  }
  # The factorial has it, too; Tables 1 and 2 aren't of this method.
  assert 'full-table5' in sections
  assert not {'full-table1', 'full-table2', 'full-budget'} & set(sections)
  (told,) = sections['left-out'].parts[0]
  assert told == (
    'Full scale: no run at all of Table 1; ImageNet; Table 2; Table 3; '
    'Table 4; Table 6; SRDL over vanilla by the budget M; Controls; '
    'Arena; Label noise; SRDL over vanilla by images of a class and budget.'
  )
  (_, table) = sections['full-table5'].parts
  # What the paper has a number of is there, though it is not run.
  assert [line[LAST].text for line in rows_of(table)] == ['60.00 (1)', '']


def test_runs_of_no_table_are_of_no_scale(place):
  sections = report.sections(rows_lib.read([place('s', 'srdl')]), None)
  names = [section.name for section in sections]
  assert names == ['found', 'others', 'runs', 'r1', 'terms']


def test_names_have_no_brackets_in_brackets(place_row, tmp_path):
  place_row(scales.rows('budget', 'full')[0], 0.6)
  place_row(scales.rows('imagenet', 'full')[0], 0.6)
  sections = report.sections(rows_lib.read([str(tmp_path)]), None)
  named = [section.title for section in sections if section.short]
  assert named == [
    'R1: ResNet-32, vanilla, M = 25 (SRDL over vanilla by the budget M, '
    'CIFAR-100)',
    'R2: DenseNet-201, vanilla (ImageNet)',
  ]


def test_a_stage_of_the_same_network_is_solid(place):
  def dashes(sections):
    (figure,) = document.figures(sections)
    return figure.svg.count('stroke-dasharray: 6.66')

  name = place('b', 'born_again', 0, 0.5)
  same = report.sections(rows_lib.read([name]), report_figures)
  found = storage.read_json(f'{name}/result.json')
  found['stages'][0]['model'] = 'resnet20'
  made_runs.change(name, found)
  sections = report.sections(rows_lib.read([name]), report_figures)
  # As the caption says: dashed is another network alone.
  assert (dashes(same), dashes(sections)) == (0, 2)
  (about,) = [s.parts[0] for s in sections if s.name == 'runs']
  assert 'Dashed: a stage that trains another network' in about


def test_without_directories_the_command_says_how():
  with pytest.raises(ConfigError, match='Name the run directories'):
    __main__.main(['report'])


@pytest.mark.parametrize(
  ('arguments', 'code', 'printed'),
  [
    (['{run}', '{run}/none'], 0, '(?s)tiny, srdl.*left out: .*none: No such'),
    (['{run}', '--out={run}/report.html'], 0, '^written: .*/report.html$'),
    (['{run}/none'], 2, 'error: None of these'),
    (['{run}', '--out=x.pdf'], 2, r'error: --out=x.pdf: .*\.html or \.md'),
    (['{run}', '--out={run}/none/x.html'], 4, 'error: .*none/x.html'),
  ],
)
def test_command(place, arguments, code, printed):
  run = place('s', 'srdl', 0, 0.6)
  program = (
    'import runpy, sys; sys.modules["jax"] = None; '
    'runpy.run_module("srdl_jax.report", run_name="__main__", alter_sys=True)'
  )
  done = started.run(
    [
      sys.executable,
      '-c',
      program,
      *(argument.format(run=run) for argument in arguments),
    ],
    cwd=ROOT,
  )
  output = done.stdout + done.stderr
  assert done.returncode == code, output
  assert re.search(printed, output), output
  assert 'Traceback' not in output
