# SPDX-License-Identifier: Apache-2.0
"""The arena in the report: cost, controls, ensembles, memory, figures."""

import dataclasses
import re

import made_runs
import pytest

from srdl_jax import report
from srdl_jax.report import (
  arena,
  comparison,
  document,
  paper_tables,
  run_file,
  run_tables,
)
from srdl_jax.report import figures as report_figures
from srdl_jax.report import rows as rows_lib
from srdl_jax.reproduce import scales
from srdl_jax.reproduce.arena import ENTRANTS, HALF, VANILLA

GAIN = 'gain (points), 95 % interval'


@pytest.fixture
def place(tmp_path):
  """Writes invented runs of the arena, one a seed; returns what is placed."""

  def write(table, scale, entrants, share=0.0, budget=None, **changes):
    for row in scales.rows(table, scale):
      name = row.name.partition(', ')[2]
      fields = dict(row.setting.fields)
      if name not in entrants or fields.get('data.label_noise', 0) != share:
        continue
      if budget and not row.group.endswith(f'M = {budget}'):
        continue
      for seed, last in enumerate(entrants[name]):
        found = made_runs.of_arena(row, seed, last, **changes)
        count = len(list(tmp_path.iterdir()))
        made_runs.write(tmp_path / f'run{count}', found)
    read = rows_lib.read([str(tmp_path)])
    assert not read.left_out
    return paper_tables.place(table, scale, read.rows)

  return write


def lines_of(table):
  """Returns the lines of a table without headings."""
  return [ls for ls in table.lines if not isinstance(ls, document.Heading)]


def rows_of(table):
  """Returns the lines of a table that hold runs, by the methods' names."""
  found = {}
  for line in lines_of(table):
    if line[-1].text:
      named = dict(zip(table.header, line, strict=True))
      found[line[0].text.partition(', ')[2]] = named
  return found


def test_costs_are_in_epochs_of_vanilla_training(place):
  place('arena', 'full', {VANILLA: [0.5, 0.6]})
  # One pass of extraction is a third of an epoch.
  extraction = 1 + 1 / 720
  place('arena', 'full', {'SRDL': [0.5]}, units=extraction)
  placed = place('arena', 'full', {'mean teacher': [0.5]})
  lines = rows_of(arena.table(placed))
  costs = {name: line[arena.COST].text for name, line in lines.items()}
  assert costs == {
    VANILLA: '240.00',
    'SRDL': '240.33',
    'mean teacher': '240.00',
  }
  # Its TrCost would be another.
  assert lines['mean teacher'][GAIN] == document.Cell('+0.00 (1)')
  assert 'TrCost (1e16)' not in lines['SRDL']


@pytest.mark.parametrize(
  ('units', 'marks'),
  [
    (1.019, ()),
    (0.981, ()),
    (1.021, ('×1.02 units: not comparable',)),
    (0.979, ('×0.979 units: not comparable',)),
  ],
)
def test_two_percent_of_units_are_the_most(place, units, marks):
  place('arena', 'full', {VANILLA: [0.5]})
  placed = place('arena', 'full', {'OLS': [0.6]}, units=units)
  lines = rows_of(arena.table(placed))
  assert lines['OLS'][GAIN] == document.Cell('+10.00 (1)', marks=marks)
  (gain,) = arena.gains(placed, placed[0].row.group)
  assert gain.kind == (arena.UNEQUAL if marks else arena.METHOD)


def test_trcost_marks_no_row_of_the_arena(place):
  placed = place('arena', 'full', {VANILLA: [0.5], 'OLS': [0.6]})
  ours = next(one for one in placed if one.row.name.endswith('OLS')).ours
  cost = dataclasses.replace(ours.first.cost, training_1e16=0.003)
  ours.runs[0] = dataclasses.replace(ours.first, cost=cost)
  assert rows_of(arena.table(placed))['OLS'][GAIN].marks == ()


def test_half_a_budget_is_marked_as_a_control(place):
  placed = place('arena', 'full', {VANILLA: [0.5], HALF: [0.4]})
  line = rows_of(arena.table(placed))[HALF]
  assert line['row'].marks == ('control',)
  assert line[arena.COST].text == '120.00'
  assert line[GAIN].marks == ('×0.5 units: not comparable',)
  (gain,) = arena.gains(placed, placed[0].row.group)
  assert gain.kind == arena.CONTROL


def test_ensembles_stand_apart(place):
  two = 'two vanilla networks'
  placed = place('arena', 'digits', {VANILLA: [0.5], two: [0.5], 'DLB': [0.5]})
  lines = arena.table(placed).lines
  headings = [
    (n, line)
    for n, line in enumerate(lines)
    if isinstance(line, document.Heading)
  ]
  # After all others of each of two groups, beneath a line that says why.
  group = len(ENTRANTS) + 2
  assert [n for n, _ in headings] == [
    *(0, group - 2),
    *(group, 2 * group - 2),
  ]
  for n, heading in headings[1::2]:
    assert heading.text.endswith('two networks deployed')
    assert heading.detail == 'at 2 × the cost of inference'
    name, last, gain, *_ = lines[n + 1]
    assert name.text.endswith(two)
    assert last.text == '52.00 (1)' and gain.text == '+2.00 (1)'
  kinds = {g.name: g.kind for g in arena.gains(placed, placed[0].row.group)}
  assert kinds == {'DLB': arena.METHOD, two: arena.TWO}


def test_no_gain_under_noise_without_half_the_budget(place):
  entrants = {VANILLA: [0.5, 0.6], 'SRDL': [0.6, 0.7, 0.8]}
  place('noise', 'full', entrants)
  placed = place('noise', 'full', entrants, 0.2)
  clean, noisy = (one.row.group for one in (placed[0], placed[len(ENTRANTS)]))
  table = arena.table(placed)
  gains = [line[2] for line in lines_of(table)]
  shown = [cell for cell in gains if cell != document.Cell()]
  missing = document.Cell(marks=('vanilla of M / 2 is missing',))
  assert shown == [document.Cell('+10.00 [+10.00, +10.00] (2)'), missing]
  # Of a gain that isn't shown, nothing is told.
  assert sum('not the same seeds' in note for note in table.notes) == 1
  assert len(arena.gains(placed, clean)) == 1
  assert arena.gains(placed, noisy) == []
  assert not list(report_figures.over_noise(placed, 'x'))
  # A control of another share is none of this group's.
  place('noise', 'full', {HALF: [0.5]}, 0.4)
  placed = place('noise', 'full', {HALF: [0.5]})
  assert arena.gains(placed, noisy) == []
  placed = place('noise', 'full', {HALF: [0.5]}, 0.2)
  assert [g.name for g in arena.gains(placed, noisy)] == [HALF, 'SRDL']
  assert len(list(report_figures.over_noise(placed, 'x'))) == 1
  # Nor is one of other data.
  half = next(
    one.ours
    for one in placed
    if one.row.group == noisy and one.row.name.endswith(HALF)
  )
  half.runs[0] = dataclasses.replace(half.first, data='other')
  assert arena.gains(placed, noisy) == []


def test_other_runs_under_noise_need_the_control_too(tmp_path):
  noise = {'data.label_noise': 0.3, 'epochs': 10}
  made = [('vanilla', noise), ('srdl', noise)]
  for method, fields in made:
    found = made_runs.result(method, 0, 0.5, **fields)
    made_runs.write(tmp_path / method, found)

  def gain():
    rows = rows_lib.read([str(tmp_path)]).rows
    column = run_tables.OTHERS.index(
      'gain over vanilla (points), 95 % interval'
    )
    lines = run_tables.others(rows, rows).lines
    return next(line[column] for line in lines if 'srdl' in line[0].text)

  assert gain() == document.Cell(marks=(comparison.NO_CONTROL,))
  half = made_runs.result('vanilla', 0, 0.4, **{**noise, 'epochs': 5})
  made_runs.write(tmp_path / 'half', half)
  assert gain() == document.Cell('+0.00 (1)')


def test_what_is_memorised_and_corrected_is_shown(place):
  entrants = {VANILLA: [0.5, 0.5], 'SRDL': [0.6]}
  assert arena.memory(place('noise', 'full', entrants)) is None
  table = arena.memory(place('noise', 'full', entrants, 0.4))
  heading, vanilla, srdl = table.lines
  assert '40 % of labels wrong' in heading.text
  assert [cell.text for cell in srdl[1:5]] == [
    '40.00 (1)',
    '60.00 (1)',
    '50.00 (1)',
    '30.00 (1)',
  ]
  # One stage is the final network.
  assert [cell.text for cell in vanilla[1:5]] == [
    '',
    '60.00 ± 0.00 (2)',
    '',
    '30.00 ± 0.00 (2)',
  ]


def test_a_mean_teachers_mean_is_shown_where_it_is_known(place):
  placed = place('arena', 'full', {VANILLA: [0.5]})
  assert arena.MEAN not in arena.table(placed).header
  placed = place('arena', 'full', {'mean teacher': [0.5]})
  lines = rows_of(arena.table(placed))
  assert lines['mean teacher'][arena.MEAN].text == '50.50 (1)'
  assert lines[VANILLA][arena.MEAN].text == ''


def test_older_results_tell_no_units_and_no_memory(place, tmp_path):
  row = scales.rows('noise', 'full')[len(ENTRANTS)]
  found = made_runs.of_arena(row)
  del found['cost']['units'], found['data']['train_examples']
  del found['stages'][0]['noise']
  made_runs.write(tmp_path / 'old', found)
  placed = place('noise', 'full', {'OLS': [0.6], HALF: [0.6]}, 0.2)
  lines = rows_of(arena.table(placed))
  assert lines[VANILLA][arena.COST] == document.Cell()
  assert lines[VANILLA]['last epoch (%)'].text == '60.00 (1)'
  # What can't be compared isn't said to be comparable.
  assert lines['OLS'][GAIN].marks == ('units unknown: not comparable',)
  assert rows_of(arena.memory(placed)).keys() == {HALF, 'OLS'}
  (old,) = rows_lib.read([str(tmp_path / 'old')]).rows
  new = {'vanilla_epochs', 'memorised', 'corrected', 'mean'}
  assert not new & run_file.values(old.first).keys()


def said(figure):
  """Returns what is written in a picture."""
  return re.findall('>([^<>]+)</text>', figure.svg)


def test_a_forest_plot_has_a_point_for_each_gain_of_the_table(place):
  entrants = {name: [0.5, 0.6] for name in (VANILLA, HALF, 'OLS', 'DLB')}
  entrants |= {'two vanilla networks': [0.5], 'SRDL': [0.6, 0.6, 0.6]}
  placed = place('noise', 'digits', entrants, 0.3, 60)
  group = next(one.row.group for one in placed if one.ours)
  drawn = arena.gains(placed, group)
  figure = report_figures.forest(drawn, 'x', group)
  gains = [line[2].text for line in lines_of(arena.table(placed))]
  names = ['vanilla of M / 2 (n = 2)', 'OLS (n = 2)', 'SRDL (n = 2)']
  names += ['DLB (n = 2)', 'two vanilla networks (n = 1)']
  assert len(list(filter(None, gains))) == len(names)
  # From above, in the order of the table.
  places = re.findall(r' y="([\d.]+)"[^>]*>([^<>]+ \(n = \d\))<', figure.svg)
  assert [
    name for _, name in sorted(places, key=lambda p: float(p[0]))
  ] == names
  kinds = {arena.METHOD, arena.CONTROL, arena.TWO}
  assert {'gain over vanilla (points)', *kinds} <= set(said(figure))
  assert arena.UNEQUAL not in said(figure)
  assert '30 % of labels wrong, M = 60' in figure.caption


def test_a_crossing_has_a_cell_for_each_gain_of_its_table(place):
  placed = place('crossing', 'short', {VANILLA: [0.5, 0.6]}, 0.0)
  assert not list(report_figures.crossing(placed, 'x'))
  place('crossing', 'short', {'SRDL': [0.6, 0.7]}, 0.0, 45)
  placed = place('crossing', 'short', {'SRDL': [0.45]}, 0.0, 360)
  (figure,) = report_figures.crossing(placed, 'x')
  told = said(figure)
  # Three counts of images each; the two seeds gain the same.
  assert told.count('[+10.0, +10.0]') == told.count('-5.0') == 3
  assert told.count('n = 2') == told.count('(one seed)') == 3
  for tick in ('25', '50', '100', '45', '360'):
    assert tick in told
  rows = [one.ours for one in placed if one.ours]
  found = rows_lib.Found(list({r.number: r for r in rows}.values()), [], [])
  sections = {s.name: s for s in report.sections(found, report_figures)}
  pictures = [
    part.name
    for part in sections['short-crossing'].parts
    if isinstance(part, document.Figure)
  ]
  assert pictures == ['short_crossing']


def test_lines_over_noise_need_two_shares(place):
  names = [entrant.name for entrant in ENTRANTS]
  entrants = dict.fromkeys(names, [0.5, 0.6])
  placed = place('noise', 'digits', entrants, 0.3)
  assert not list(report_figures.over_noise(placed, 'x'))
  # Of one budget the other share is there, of the other it isn't.
  placed = place('noise', 'digits', entrants, 0.0, 240)
  drawn = list(report_figures.over_noise(placed, 'x'))
  others = names[2:]
  parts = [others[n : n + 5] for n in range(0, len(others), 5)]
  assert [f.name for f in drawn] == [
    f'x_over_noise_{n}' for n in range(1, len(parts) + 1)
  ]
  for figure in drawn:
    assert {'M = 240', HALF, 'wrong labels (%)'} <= set(said(figure))
    assert 'M = 60' not in said(figure)
    assert 'Dashed: the control' in figure.caption
  named = [[n for n in names if n in said(figure)] for figure in drawn]
  assert named == [[HALF, *part] for part in parts]
  assert ['Dotted' in figure.caption for figure in drawn] == [
    'two vanilla networks' in part for part in parts
  ]


def test_what_is_not_of_equal_cost_is_no_line_over_noise(place):
  placed = place('noise', 'full', {VANILLA: [0.5], 'OLS': [0.5]})
  entrants = {VANILLA: [0.5], HALF: [0.5], 'OLS': [0.5]}
  placed = place('noise', 'full', entrants, 0.2)
  assert len(list(report_figures.over_noise(placed, 'x'))) == 1
  ours = [one.ours for one in placed if one.row.name.endswith('OLS')]
  cost = dataclasses.replace(ours[0].first.cost, units=1.0)
  ours[0].runs[0] = dataclasses.replace(ours[0].first, cost=cost)
  assert not list(report_figures.over_noise(placed, 'x'))


def test_the_arena_is_a_section_without_learning_curves(place, tmp_path):
  entrants = {VANILLA: [0.5], HALF: [0.4], 'SRDL': [0.6]}
  place('noise', 'full', entrants)
  place('noise', 'full', entrants, 0.2)
  found = rows_lib.read([str(tmp_path)])
  sections = {s.name: s for s in report.sections(found, report_figures)}
  assert not {'full-curves', 'others'} & sections.keys()
  kinds = {
    name: [type(part) for part in sections[f'full-{name}'].parts]
    for name in ('arena', 'noise')
    if f'full-{name}' in sections
  }
  figure, table = document.Figure, document.Table
  assert kinds == {'noise': [str, figure, table, table]}
  # The arena's own rows are those of noise without wrong labels.
  (line,) = sections['full'].parts[0].lines
  assert 'Arena' in line[0].text and line[1].link == 'full-noise'
  plots = sections['gains'].parts[1:]
  assert [one.figure.name for one in plots] == [
    'full_noise_forest_1',
    'full_noise_forest_2',
  ]
  names = [figure.name for figure in document.figures([*sections.values()])]
  assert len(names) == len(set(names))
