# SPDX-License-Identifier: Apache-2.0
"""The report as an article: sentences, plots, one place a run, words."""

import csv
import os
import re

import made_runs
import numpy as np
import pytest

from srdl_jax import data, metrics, report
from srdl_jax.errors import WorkdirError
from srdl_jax.evaluate.details import Details
from srdl_jax.report import comparison, document, findings, run_file, terms
from srdl_jax.report import figures as report_figures
from srdl_jax.report import html as html_report
from srdl_jax.report import rows as rows_lib
from srdl_jax.reproduce import scales
from srdl_jax.reproduce.arena import HALF, VANILLA


@pytest.fixture
def arena(tmp_path):
  """Writes invented runs of the arena by method; returns what was read."""

  def write(entrants, scale='short'):
    for row in scales.rows('arena', scale):
      name = row.name.partition(', ')[2]
      for seed, last in enumerate(entrants.get(name, ())):
        count = len(list(tmp_path.iterdir()))
        found = made_runs.of_arena(row, seed, last)
        made_runs.write(tmp_path / f'run{count}', found)
    return rows_lib.read([str(tmp_path)])

  return write


def sections_of(found, figures=None):
  return {one.name: one for one in report.sections(found, figures)}


def test_it_opens_with_what_was_gained_and_how_surely(place):
  """Gains of 1, 2 and 3 points: 2 -+ 4.303 / sqrt(3)."""
  names = [place(f'v{n}', 'vanilla', n, 0.5 + n / 10) for n in range(3)]
  names += [place(f's{n}', 'srdl', n, 0.51 + 0.11 * n) for n in range(3)]
  found = rows_lib.read(names)
  first, gains, *_ = report.sections(found, None)
  ((told,), facts, settings) = first.parts
  assert told == (
    'cifar100, tiny. Srdl over vanilla: +2.0 points [-0.5, +4.5], n = 3, an '
    'interval that holds 0. Vanilla itself: 60.0 ± 10.0 % (R1).'
  )
  assert facts.startswith('6 runs of 2 configurations on 1 × abacus, 1.2 min')
  assert 'commit c0ffee, jax 0.10.2' in facts
  assert settings == 'The settings of runs of no table stand with them, below.'
  (estimate,) = gains.parts[1].lines
  assert estimate.text == '+2.0 [-0.5, +4.5]' and estimate.n == 3
  assert estimate.link == 'r2'
  os.utime(f'{names[0]}/result.json', (1.6e9, 1.6e9))
  (_, facts, _) = sections_of(found)['found'].parts
  assert re.search(r'results written 2020-09-13 to 20\d\d-', facts)
  # As archives have it: that is no date.
  for name in names:
    os.utime(f'{name}/result.json', (0, 0))
  assert 'written' not in sections_of(found)['found'].parts[1]


def test_one_seed_has_no_interval_and_one_row_no_gain(place):
  names = [place('v', 'vanilla', 0, 0.5), place('s', 'srdl', 0, 0.6)]
  first = sections_of(rows_lib.read(names))['found']
  assert '+10.0 points, of one seed, without an interval.' in first.parts[0][0]
  alone = report.sections(rows_lib.read(names[1:]), None)
  assert alone[0].parts[0] == (
    'tiny, srdl (R1): accuracy 60.0 % (stage one 57.0 %; all stages together '
    '62.0 %) on 100 test images of cifar100 after 4 epochs, one seed.',
    'There is nothing to compare it with: nothing is said of a gain.',
  )
  assert 'gains' not in [one.name for one in alone]


def test_many_gains_are_counted_and_srdl_is_told(arena):
  surely = [0.5, 0.6], [0.55, 0.651], [0.45, 0.549]
  found = arena(
    {
      VANILLA: surely[0],
      HALF: surely[2],
      'OLS': surely[1],
      'SRDL': surely[2],
      'PS-KD': [0.6, 0.5],
      'DLB': [0.6],
    }
  )
  ((told, *_), _, command) = sections_of(found)['found'].parts
  # -5 and -5.1 points: -5.05 -+ 12.706 x 0.05.
  assert re.search(r'SRDL over vanilla: -5\.[01] points \[-5\.7, -4\.4\]', told)
  assert (
    'Of 4 gains over vanilla at equal cost, intervals are: 1 above 0 (OLS), '
    '1 below 0 (SRDL), 1 around 0 (PS-KD), 1 of one seed without one (DLB).'
  ) in told
  # What costs less is told, and not counted.
  assert re.search(r'Vanilla of M / 2 over vanilla: .* \(control\)', told)
  assert command == (
    'Tables are trained by srdl reproduce arena table6 --scale=short '
    '--workdir=DIR.'
  )


def test_runs_that_tables_share_are_shown_once(arena, tmp_path):
  found = arena({VANILLA: [0.5], 'SRDL': [0.6], 'SRDL, no restart': [0.55]})
  sections = sections_of(found)
  shown = [name for name in sections if name.startswith('short-')]
  tables = ['arena', 'table5', 'table6', 'reasons']
  assert shown == [f'short-{name}' for name in tables]
  (line,) = sections['short'].parts[-1].lines
  assert {'Table 1', 'Controls'} <= set(line[0].text.split('; '))
  assert line[1].link == 'short-arena'
  # Table 5 has a gain of its own; costs are where the rows are at home.
  table = sections['short-table5'].parts[1]
  assert not {'TrCost (multiply-adds)', 'best epoch (%)'} & {*table.header}
  _, restart, srdl = table.lines
  assert srdl[table.header.index('gain (points), 95 % interval')].text
  assert [one[-1].link for one in (restart, srdl)] == ['short-arena'] * 2
  # A pair is compared once, whichever of the two is the base.
  names = [
    line.name for one in sections['gains'].parts[1:] for line in one.lines
  ]
  assert names.count('SRDL over SRDL, no restart') == 1
  assert not [name for name in names if name.endswith('complete, restart')]


@pytest.mark.parametrize('scale', ['full', 'short'])
def test_the_papers_numbers_are_not_hidden_at_its_own_scale(tmp_path, scale):
  for number, row in enumerate(scales.rows('budget', scale)):
    made_runs.write(tmp_path / f'{number}', made_runs.of_row(row, 0, 0.6))
  sections = sections_of(rows_lib.read([str(tmp_path)]))
  # Table 1 has no other gain than one of the budgets'.
  assert f'{scale}-budget' in sections
  assert (f'{scale}-table1' in sections) == (scale == 'full')
  # Whichever tables show it, a pair is compared once.
  lines = [line for one in sections['gains'].parts[1:] for line in one.lines]
  single = [line for line in lines if not line.marks]
  assert len(single) == len(scales.rows('budget', scale)) / 2


def test_a_forest_plot_has_the_same_axis_everywhere(place):
  names = [place(f'v{n}', 'vanilla', n, 0.5 + n / 10) for n in range(2)]
  names += [place(f's{n}', 'srdl', n, 0.6 + n / 10) for n in range(2)]
  names += [place(f'p{n}', 'ps_kd', n, 0.5 - n / 10) for n in range(2)]
  found = rows_lib.read(names)
  (plot,) = sections_of(found)['gains'].parts[1:]
  # Gains of 10, 10 and 0, -20: -10 -+ 127.06, which is cut off.
  assert [one.text for one in plot.lines] == [
    '+10.0 [+10.0, +10.0]',
    '-10.0 [-137.1, +117.1]',
  ]
  assert plot.span == pytest.approx((-54, 54), abs=0.5)
  text = html_report.render('t', report.sections(found, None))
  forest = text.partition('<table class="forest">')[2].partition('</table>')[0]
  circles = re.findall(r'<circle cx="([\d.]+)%"', forest)
  assert [float(x) for x in circles] == pytest.approx([59.3, 40.7], abs=0.1)
  first, second, _ = re.findall(
    '<tr.*?</tr>', forest.partition('</tr>')[2], re.S
  )
  assert not re.search('[‹›]', first) and '‹' in second and '›' in second
  ends = re.findall(r'x[12]="([\d.-]+)%"', forest)
  assert ends and all(0 <= float(end) <= 100 for end in ends)
  assert re.findall('class="(up|down|)">', forest) == ['up', '']
  assert '<strong>−10.0</strong> <span>[−137.1, +117.1]</span>' in forest


def test_columns_lead_to_what_they_mean(arena, place):
  place('v', 'vanilla', 0, 0.5)
  entrants = {VANILLA: [0.5], 'SRDL': [0.6], 'OLS': [0.6]}
  sections = report.sections(arena(entrants), None)
  text = html_report.render('t', sections)
  defined = set(re.findall('<dt id="([^"]+)"', text))
  linked = set(re.findall('<th[^>]*><a href="#([^"]+)"', text))
  assert defined == linked and {'gain', 'units', 'nll', 'trcost'} <= defined
  # Of words that nothing here uses there is no definition.
  assert 'memorised' not in defined
  assert all(terms.of(header) for header in comparison.COSTS)


def test_names_and_numbers_of_a_line_stay_together_on_a_phone(place):
  found = rows_lib.read([place('s', 'srdl', 0, 0.6)])
  text = html_report.render('t', report.sections(found, None))
  assert 'data-label="last epoch (%)"><strong>60.00 (1)</strong>' in text
  # Rows of tables and paragraphs lead to a run's own page.
  assert '(<a href="#r1">R1</a>): accuracy' in text


@pytest.mark.parametrize(
  ('count', 'text'),
  [
    (1.126e12, '1.13 T'),
    (8e14, '800 T'),
    (9.994e14, '999 T'),
    (9.996e14, '1 P'),
    (4.89e8, '489 M'),
    (12, '12'),
    (3e22, '30,000 E'),
  ],
)
def test_counts_have_a_unit(count, text):
  assert comparison.counted(count) == text


@pytest.fixture
def answers(place):
  """A run with details, and the probabilities that these are of."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(60, 3)) * 2
  images = np.zeros((60, 8, 8, 1), np.uint8)
  split = data.Split('test', images, np.arange(60) % 3, '')
  log_probs = metrics.log_softmax(logits)
  details = Details(split, ['a', 'b', 'c'])
  details.add(np.arange(60), log_probs)
  run = place('s', 'srdl', 0, 0.6)
  details.write(rows_lib.pathlib.Path(run) / 'details')
  return rows_lib.pathlib.Path(run), split.labels, log_probs


def test_confusions_and_calibration_are_those_of_the_details(answers):
  run, labels, log_probs = answers
  found = run_file.answers(run / 'details' / run_file.ANSWERS)
  said = log_probs.argmax(-1)
  for label in range(3):
    counts = np.bincount(said[labels == label], minlength=3)
    assert found.counts[label].tolist() == counts.tolist()
  text = (run / 'details/confusion.csv').read_text()
  lines = list(csv.DictReader(text.splitlines()))
  assert [int(lines[0][n]) for n in 'abc'] == found.counts[0].tolist()
  confidence, right = np.exp(log_probs.max(-1)), said == labels
  number = np.digitize(confidence, np.arange(1, 15) / 15, right=True)
  gap = sum(
    abs(right[number == n].mean() - confidence[number == n].mean())
    * np.mean(number == n)
    for n in set(number)
  )
  images, sums, hits = found.bins.T
  assert images.tolist() == np.bincount(number, minlength=15).tolist()
  found = np.abs(hits - sums).sum() / images.sum()
  assert found == pytest.approx(gap, abs=1e-5)


def test_a_page_has_what_its_run_has(answers, place):
  run, labels, log_probs = answers
  page = sections_of(rows_lib.read([str(run)]), report_figures)['r1']
  pictures = [one.name for one in document.figures([page])]
  label = 'details_1_0_details'
  assert pictures == ['run_1', f'{label}_confusion', f'{label}_calibration']
  tables = [p for p in page.parts if isinstance(p, document.Table)]
  stages, mistakes, _ = tables
  assert [line[0].text for line in stages.lines] == [
    'stage 1, 2 epochs',
    'stage 2, 2 epochs',
    'all stages together',
  ]
  values = [line[1].text for line in stages.lines]
  assert values == ['57.00 (1)', '60.00 (1)', '62.00 (1)']
  counts = [int(line[1].text) for line in mistakes.lines]
  wrong = int((log_probs.argmax(-1) != labels).sum())
  assert sum(counts) == wrong and counts == sorted(counts, reverse=True)
  # The invented result is of no such answers.
  (told,) = (p for p in page.parts if isinstance(p, str) and 'images' in p)
  assert 'The result is another' in told
  other = place('t', 'srdl', 0, 0.6, epochs=7)
  about = sections_of(rows_lib.read([other]))['runs'].parts[-1]
  assert f'srdl evaluate --workdir={other} --details={other}/details' in about


HEADER = 'label,predicted,probability\n'


@pytest.mark.parametrize(
  'content',
  ['', 'a,b\n1,2\n', f'{HEADER}a,b,nan\n', '\0', f'{HEADER}a\n'],
)
def test_damaged_details_are_left_out_with_a_line(answers, content):
  run, *_ = answers
  path = run / 'details' / run_file.ANSWERS
  path.write_text(content)
  with pytest.raises(WorkdirError, match='not what evaluate --details writes'):
    run_file.answers(path)
  sections = sections_of(rows_lib.read([str(run)]))
  assert str(path) in sections['left-out'].parts[0][0]


def test_many_classes_have_mistakes_and_no_matrix():
  names = [f'c{n:02}' for n in range(21)]
  found = run_file.Answers(names, np.eye(21, dtype=int), np.ones((15, 3)))
  (figure,) = report_figures.details(found, 'x')
  assert figure.name == 'x_calibration'


def test_a_table_at_home_elsewhere_keeps_results_and_gains():
  header = ('row', 'last epoch (%)', 'gain', 'best epoch (%)', 'runs')
  cells = [document.Cell(text) for text in ('a', '1', '', '2')]
  lines = [(*cells, document.Cell(f'R{n}', link=f'r{n}')) for n in (1, 2)]
  table = document.Table(header, tuple(lines))
  found = findings.lightened(table, {'r1': ('home', 'Home')})
  assert [[c.text for c in line] for line in found.lines] == [
    ['a', '1', '', '', 'R1, in Home'],
    ['a', '1', '', '2', 'R2'],
  ]
  assert findings.lightened(table, {}) == table
  # A column of details that nobody has left goes.
  both = {link: ('home', 'Home') for link in ('r1', 'r2')}
  assert findings.lightened(table, both).header == (*header[:3], 'runs')
