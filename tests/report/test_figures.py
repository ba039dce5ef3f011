# SPDX-License-Identifier: Apache-2.0
"""The report's pictures: what they show, in which units, the same each time."""

import dataclasses
import math
import pathlib
import re
from xml.etree import ElementTree

import made_runs
import numpy as np
import pytest

from srdl_jax.flatness import KINDS, SPLITS, Flatness, MeasuredNetwork
from srdl_jax.report import arena, drawings, style
from srdl_jax.report.rows import ReportRow
from srdl_jax.report.run_file import TRAIN
from srdl_jax.report.seeds import Summary
from srdl_jax.runs import finished

SRDL = ((0.0, 0.1), (1.0, 0.01), (2.0, 0.1), (3.0, 0.01))


def row(seeds=2, schedule=SRDL, models=('tiny', 'tiny')):
  """Returns runs of two stages, of two epochs each."""
  run = finished.parse(made_runs.result())
  stages = [
    dataclasses.replace(stage, model=model)
    for stage, model in zip(run.stages, models, strict=True)
  ]
  run = dataclasses.replace(run, stages=tuple(stages), schedule=schedule)

  def curves(seed):
    points = [
      [(epoch, 0.1 * epoch + 0.05 * seed) for epoch in epochs]
      for epochs in ((1, 2), (3, 4))
    ]
    return {'test': points, TRAIN: points}

  return ReportRow(
    1,
    {seed: dataclasses.replace(run, seed=seed) for seed in range(seeds)},
    {seed: curves(seed) for seed in range(seeds)},
  )


def networks(*names, **changes):
  curves = np.array([[0.02, 1.0, 4.0], [0.02, 2.0, 6.0]])
  losses = {(kind, split): curves for kind in KINDS for split in SPLITS}
  return [
    MeasuredNetwork(f'runs/{n}', name, n, 30.0, 100, losses | changes, {})
    for n, name in enumerate(names)
  ]


def around(found):
  distances = {kind: np.array([0.0, 0.5, 1.0]) for kind in KINDS}
  examples = {'train': 10, 'test': 20}
  return Flatness('flatness.json', distances, 2, examples, found, '', 'abacus')


def texts(svg):
  """Returns what is written in a picture, which is well-formed XML."""
  root = ElementTree.fromstring(svg)
  return [e.text for e in root.iter('{http://www.w3.org/2000/svg}text')]


def lines(svg, colour):
  """Returns how many lines of a colour there are."""
  return len(re.findall(rf'fill: none; stroke: {colour}', svg))


GAINS = [
  arena.Gain('SRDL', arena.METHOD, 0.0, 0, Summary(1.0, 0.5, 3)),
  arena.Gain('half', arena.CONTROL, 0.0, 0, Summary(-1.0, math.nan, 1)),
  arena.Gain('longer', arena.UNEQUAL, 0.0, 0, Summary(-1.0, 0.5, 3)),
  arena.Gain('two', arena.TWO, 0.0, 0, Summary(2.0, 0.5, 3)),
]
DRAWN = {
  'curves': lambda: drawings.learning_curves({'SRDL': row()}, 'test'),
  'schedules': lambda: drawings.schedules({'SRDL': row()}),
  'gains': lambda: drawings.gains(
    {'SRDL': {50: Summary(1.0, 0.5, 3), 100: Summary(2.0, math.nan, 1)}}
  ),
  'forest': lambda: drawings.forest(GAINS),
  'over_noise': lambda: drawings.over_noise(
    {
      60: {'SRDL': {0.0: Summary(1.0, 0.5, 3), 0.3: Summary(2.0, 0.5, 3)}},
      240: {'half': {0.0: Summary(0.0, math.nan, 1)}},
    },
    {'half': '--'},
  ),
  'flatness': lambda: drawings.flatness(around(networks('a, srdl'))),
}


@pytest.mark.parametrize('name', DRAWN)
def test_axes_are_named_with_units(name):
  units = {
    'curves': (
      'test accuracy (%)',
      'training accuracy (%)',
      'learning rate',
      'epoch, over all stages',
    ),
    'schedules': ('learning rate', 'epoch'),
    'gains': ('gain over vanilla (points)', 'budget M (epochs)'),
    'forest': ('gain over vanilla (points)', *arena.KINDS),
    'over_noise': ('gain over vanilla (points)', 'wrong labels (%)', 'M = 60'),
    'flatness': (
      'cross-entropy (nats)',
      'distance d',
      "distance, in the filters' norms",
    ),
  }
  assert set(units[name]) <= set(texts(DRAWN[name]()))


@pytest.mark.parametrize('name', DRAWN)
def test_pictures_are_the_same_each_time(name):
  first, second = DRAWN[name](), DRAWN[name]()
  assert first == second
  assert '<dc:date>' not in first and 'http://matplotlib' not in first


def test_rates_are_written_as_numbers():
  # Not as powers of ten, nor rounded to 0.00 with the coordinates.
  schedule = ((0.0, 0.1), (1.0, 0.01), (2.0, 0.001))
  drawn = drawings.schedules({'a': row(schedule=schedule)})
  assert {'0.1', '0.01', '0.001'} <= set(texts(drawn))


def test_a_rate_changes_where_its_schedule_says():
  drawn = drawings.schedules({'SRDL': row()})
  (path,) = re.findall(
    rf'd="([^"]*)"[^>]*style="[^"]*stroke: {style.COLOURS[1]}', drawn
  )
  numbers = [
    tuple(map(float, p)) for p in re.findall(r'([\d.]+) ([\d.]+)', path)
  ]
  # Epochs 0 to 4 of the axis, two values of the rate, and back (Figure 3b).
  x, y = np.array(numbers).T
  np.testing.assert_allclose(
    (x - x[0]) / (x[-1] - x[0]),
    [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1],
    atol=1e-3,
  )
  high, low = y.min(), y.max()
  assert y.tolist() == [high, high, low, low, high, high, low, low, low]


def test_each_seed_has_a_thin_line_and_their_mean_a_thick_one():
  drawn = drawings.learning_curves({'SRDL': row(3, ())}, 'test')
  # Two pictures of two stages of three seeds and their mean; the legend's.
  assert lines(drawn, style.COLOURS[1]) == 2 * 2 * (3 + 1) + 1
  assert drawn.count('stroke-opacity: 0.45') == 2 * 2 * 3
  # No schedule, no third axes.
  assert 'learning rate' not in texts(drawn)


def test_the_stage_of_another_network_is_dashed():
  def dashes(*models):
    kd = row(1, (), models)
    drawn = drawings.learning_curves({'KD': kd}, 'test')
    return len(
      re.findall(r'stroke-dasharray: [^;]*; [^>]*stroke: #d55e00', drawn)
    )

  assert dashes('tiny', 'tiny') == 0
  assert dashes('large', 'tiny') == 2


def test_seeds_that_were_evaluated_at_other_epochs_share_what_they_share():
  short = row(schedule=())
  for seed, points in enumerate(([(3, 0.2), (4, 0.4)], [(4, 0.6)])):
    short.curves[seed]['test'] = [[], points]
  assert 'a' in texts(drawings.learning_curves({'a': short}, 'test'))


def test_vanilla_and_srdl_have_the_same_colours_everywhere():
  names = ['SRDL', 'KD', 'vanilla', 'resnet8, vanilla', 'resnet8, srdl']
  grey, blue, *rest = style.COLOURS
  assert style.colours(names) == [blue, rest[0], grey, rest[1], rest[2]]
  assert style.colours(['resnet8, vanilla', 'resnet8, srdl']) == [grey, blue]
  many = [f'ablation {n}' for n in range(7)]
  assert set(style.colours(many)) == set(rest)


def test_gains_have_bars_of_their_intervals():
  # 1 -+ 4.302653 / 3**0.5 for n = 3; nothing for n = 1.
  drawn = DRAWN['gains']()
  assert {'50', '100'} <= set(texts(drawn))
  bars = re.findall(
    r'd="M ([\d.]+) ([\d.]+) L \1 ([\d.]+)\s*"[^>]*stroke: #0072b2', drawn
  )
  heights = [abs(float(a) - float(b)) for _, a, b in bars]
  assert len(heights) == 2 and min(heights) == 0 and max(heights) > 0


def test_a_forest_has_bars_of_intervals_in_the_colour_of_their_kind():
  drawn = DRAWN['forest']()
  lengths = []
  for colour in style.KINDS:
    # The first is of the plot, the second of the legend.
    bar, *_ = re.findall(
      rf'd="M ([\d.]+) ([\d.]+) L ([\d.]+) \2\s*"[^>]*stroke: {colour}', drawn
    )
    lengths.append(abs(float(bar[2]) - float(bar[0])))
  # The control is of one seed.
  equal, control, two, unequal = lengths
  assert control == 0 and equal > 0
  assert [two, unequal] == pytest.approx([equal] * 2, abs=0.02)
  assert 'half (n = 1)' in texts(drawn)


def test_a_line_over_noise_has_a_band_and_the_control_is_dashed():
  drawn = DRAWN['over_noise']()
  blue, grey = style.COLOURS[1], style.COLOURS[0]
  # The line, two rims; the legend's; nothing of it in the other panel.
  assert len(re.findall(rf'd="M [^"]+L[^"]+"[^>]*stroke: {blue}', drawn)) == 4
  dashed = rf'stroke-dasharray: [^;]*; [^>]*stroke: {grey}'
  assert re.findall(dashed, drawn)
  # Of one seed there is no band.
  assert {'SRDL', 'half', 'M = 240', '0', '30'} <= set(texts(drawn))


def test_losses_that_are_not_finite_end_a_line():
  curves = np.array([[0.02, 1.0, np.nan], [0.02, np.nan, np.nan]])
  losses = {(kind, split): curves for kind in KINDS for split in SPLITS}
  found = around(
    [MeasuredNetwork('runs/a', 'a, srdl', 0, 30.0, 100, losses, {})]
  )
  assert 'a, srdl' in texts(drawings.flatness(found))


def test_seeds_of_a_network_share_a_colour_in_figure_4():
  drawn = drawings.flatness(
    around(networks('a, vanilla', 'a, srdl', 'a, srdl'))
  )
  assert texts(drawn).count('a, srdl') == 1
  # In four axes, the mean and two seeds; the legend's.
  assert lines(drawn, style.COLOURS[1]) == 4 * 3 + 1
  assert lines(drawn, style.COLOURS[0]) == 4 * 1 + 1


def test_runs_of_one_name_are_lines_of_their_own_in_figure_4():
  vanilla = networks(*['a, vanilla'] * 3)
  found = around(
    [
      dataclasses.replace(network, what={'epochs': epochs})
      for network, epochs in zip(vanilla, (4, 4, 2), strict=True)
    ]
  )
  drawn = drawings.flatness(found)
  said = texts(drawn)
  assert said.count('a, vanilla, M = 4') == said.count('a, vanilla, M = 2') == 1
  # In four axes, the mean and two seeds of one, the other alone; legends.
  assert lines(drawn, style.COLOURS[0]) == 4 * 3 + 1
  assert lines(drawn, style.COLOURS[2]) == 4 * 1 + 1
  assert 'a, vanilla' not in said


def test_large_losses_have_a_logarithmic_axis():
  curves = np.array([[1.0, 10.0, 1000.0]] * 2)
  losses = {(kind, split): curves for kind in KINDS for split in SPLITS}
  found = around(
    [MeasuredNetwork('runs/a', 'a, srdl', 0, 30.0, 100, losses, {})]
  )
  assert {'1', '10', '100', '1000'} <= set(texts(drawings.flatness(found)))


def test_names_from_files_are_only_text():
  name = r'<script>$\nonsense{'
  drawn = drawings.learning_curves({name: row(), 'b & c': row()}, 'test')
  assert {name, 'b & c'} <= set(texts(drawn))


def test_reading_reports_draws_nothing_by_itself():
  # pyplot would hold figures, and choose a window system.
  package = pathlib.Path(style.__file__).parent
  assert not [
    path.name for path in package.glob('*.py') if 'pyplot' in path.read_text()
  ]
