# SPDX-License-Identifier: Apache-2.0
"""Rows as figures of the report; drawing them takes matplotlib."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from srdl_jax.flatness import Flatness, groups
from srdl_jax.report import arena, comparison, drawings, run_file, seeds
from srdl_jax.report.document import Figure
from srdl_jax.report.paper_tables import Placed, baseline, once
from srdl_jax.report.rows import ReportRow
from srdl_jax.reproduce.arena import HALF

# More than that in one figure, beside the first, can't be told apart.
_LINES = 5
# Of a picture of confusions; those of more would not be legible.
_CLASSES = 20


def learning_curves(
  named: Mapping[str, ReportRow], name: str, title: str
) -> Iterator[Figure]:
  """Draws how some rows went.

  Args:
    named: rows by name; a comparison begins with what it is over.

  Yields:
    Figures, each with the first row in it; none where there is no curve.
  """
  base, *over = named.items()
  for first in range(0, max(1, len(over)), _LINES):
    number = f'_{first // _LINES + 1}' if first else ''
    some = dict([base, *over[first : first + _LINES]])
    yield from _learning_curves(some, f'{name}{number}', title)


def _learning_curves(
  named: Mapping[str, ReportRow], name: str, title: str
) -> Iterator[Figure]:
  runs = [run for row in named.values() for run in row.runs.values()]
  splits = {run.best_split for run in runs}
  evaluated = splits.pop() if len(splits) == 1 else 'evaluation'
  ranked = evaluated == 'test' and named[next(iter(named))].metric == 'rank1'
  measured = 'rank-1' if ranked else 'accuracy'
  shared = comparison.shared(named)
  rows = {n.removeprefix(shared): row for n, row in named.items() if row.curves}
  told = ', '.join(
    f'{n} (R{row.number}, n = {len(row.curves)})' for n, row in rows.items()
  )
  about = f'{title}, {shared}'.removesuffix(', ').removeprefix(', ')
  if rows:
    yield Figure(
      name,
      drawings.learning_curves(rows, evaluated, measured),
      f'{measured.capitalize()} and learning rate by epoch: {told}',
      f'{about}: {told}.'.removeprefix(': '),
    )


def comparisons(
  placed: Mapping[str, Sequence[Placed]],
) -> Iterator[tuple[str, str, dict[str, ReportRow]]]:
  """Yields what is to be compared in a figure: name, group, rows by name.

  A baseline and what has a gain over it are one comparison; those that another
  one holds are left out.
  """
  found: list[tuple[str, str, dict[str, ReportRow]]] = []
  # The same runs have the same name in each figure, though not in each table.
  everything = (one for rows in placed.values() for one in rows)
  names = {one.ours.number: one.row.name for one in once(everything)}
  for table, rows in placed.items():
    for base in rows:
      over = [one for one in rows if baseline(one, rows) is base]
      # Without any it is in another comparison, or alone.
      if over or not base.row.against:
        ours = [one.ours for one in (base, *over) if one.ours]
        told = f'{table} {base.row.group} {base.row.name}'.lower()
        name = re.sub(r'[^a-z0-9]+', '_', told).strip('_')
        named = {names[row.number]: row for row in ours}
        found.append((name, base.row.group, named))
  numbers = [{row.number for row in named.values()} for _, _, named in found]
  for index, (mine, one) in enumerate(zip(numbers, found, strict=True)):
    within = mine in numbers[:index] or any(mine < other for other in numbers)
    if mine and not within:
      yield one


def schedules(placed: Sequence[Placed], name: str) -> Iterator[Figure]:
  """Draws Figure 3; nothing where no run tells its schedule."""
  rows = {
    one.row.name: one.ours for one in placed if one.ours and one.ours.schedule
  }
  shared = comparison.shared(rows)
  told = ', '.join(f'{n} (R{row.number})' for n, row in rows.items())
  if rows:
    yield Figure(
      name,
      drawings.schedules({n.removeprefix(shared): rows[n] for n in rows}),
      f'Learning rate by epoch: {told}',
      f'{told}, as trained. Dotted: a stage ends.',
    )


def gains(placed: Sequence[Placed], name: str) -> Iterator[Figure]:
  """Draws gains over vanilla by the budget M."""
  lines: dict[str, dict[int, seeds.Summary]] = {}
  for one in placed:
    base = baseline(one, placed)
    if not (base and base.ours and one.ours):
      continue
    found = comparison.difference(one.ours, 'accuracy', base.ours, 'accuracy')
    if found:
      line = lines.setdefault(one.row.name.rpartition(', M')[0], {})
      line[one.ours.fields['epochs']] = found
  if any(len(line) > 1 for line in lines.values()):
    yield Figure(
      name,
      drawings.gains(lines),
      'Gain over vanilla training by budget',
      'Gain of the last-epoch test accuracy over vanilla training of the same '
      "budget, paired by seed, with Student's 95 % interval; a point without "
      'one is of one seed.',
    )


def forest(gains: Sequence[arena.Gain], name: str, title: str) -> Figure:
  """Draws the gains of a group, one below the other."""
  return Figure(
    name,
    drawings.forest(gains),
    f'Paired gains: {title}',
    f'{title}: gains of the last-epoch test accuracy, paired by seed, with '
    "Student's 95 % interval; a point without one is of one seed.",
  )


def crossing(placed: Sequence[Placed], name: str) -> Iterator[Figure]:
  """Draws SRDL's gains over vanilla by images of a class and budget."""
  cells: dict[tuple[int, int], seeds.Summary] = {}
  for group in dict.fromkeys(one.row.group for one in placed):
    for gain in arena.gains(placed, group):
      cells[gain.images, arena.budget(placed, group)] = gain.points
  # One is no map.
  if len(cells) > 1:
    yield Figure(
      name,
      drawings.crossing(cells),
      'Gain of SRDL over vanilla training by images of a class and budget',
      'Gain of the last-epoch test accuracy over vanilla training of the same '
      'images and the same budget M, in points, paired by seed, with '
      "Student's 95 % interval and the number of seeds. In colour where the "
      'interval leaves out zero.',
    )


def over_noise(placed: Sequence[Placed], name: str) -> Iterator[Figure]:
  """Draws gains by the share of wrong labels, where two shares are known.

  What is not of equal cost is left out.
  """
  found: dict[int, dict[str, dict[float, seeds.Summary]]] = {}
  kinds: dict[str, str] = {}
  for group in dict.fromkeys(one.row.group for one in placed):
    lines = found.setdefault(arena.budget(placed, group), {})
    for gain in arena.gains(placed, group):
      if gain.kind != arena.UNEQUAL:
        kinds[gain.name] = gain.kind
        lines.setdefault(gain.name, {})[gain.share] = gain.points
  control = {n for n, kind in kinds.items() if kind == arena.CONTROL}
  found = {
    budget: {n: its for n, its in lines.items() if len(its) > 1 or n in control}
    for budget, lines in found.items()
  }
  names = {n for lines in found.values() for n in lines}
  others = [n for n in kinds if n in names - control]
  for first in range(0, len(others), _LINES):
    # The control is in each figure.
    some = {*control, *others[first : first + _LINES]}
    drawn = {
      budget: {n: line for n, line in lines.items() if n in some}
      for budget, lines in found.items()
    }
    yield _over_noise(
      {m: lines for m, lines in drawn.items() if lines.keys() - control},
      {n: kind for n, kind in kinds.items() if n in some},
      f'{name}_over_noise_{first // _LINES + 1}',
    )


def _over_noise(
  panels: Mapping[int, Mapping[str, Mapping[float, seeds.Summary]]],
  kinds: Mapping[str, str],
  name: str,
) -> Figure:
  looks = {arena.CONTROL: '--', arena.TWO: ':'}
  styles = {n: looks[kind] for n, kind in kinds.items() if kind in looks}
  two = ' Dotted: two networks deployed.' if ':' in styles.values() else ''
  return Figure(
    name,
    drawings.over_noise(panels, styles),
    f'Gain over vanilla training by the share of wrong labels: '
    f'{", ".join(kinds)}',
    'Gain of the last-epoch test accuracy over vanilla training of the same '
    "budget M, paired by seed; bands are Student's 95 % intervals. Dashed: "
    f'the control, {HALF}, gains by a shorter run alone. All seeds have the '
    f'same wrong labels.{two}',
  )


def flatness(found: Flatness, name: str) -> Figure:
  """Draws Figure 4."""
  lines = groups(found)
  several = any(len(group) > 1 for group in lines.values())
  thick = (
    'Thick: mean over directions and seeds; thin: one seed'
    if several
    else 'Lines: mean over directions, each of one run'
  )
  examples = ' and '.join(f'{n:,} {s}' for s, n in found.examples.items())
  return Figure(
    name,
    drawings.flatness(found),
    f'Loss around the solutions of {"; ".join(lines)}',
    f'Mean cross-entropy on {examples} images along {found.directions} random '
    f'directions. {thick}; bands: 80 % of the directions. Networks of '
    'different norm are not comparable along unit directions. '
    f'{found.path}, commit '
    f'{found.commit or "unknown"}, {found.device}.',
  )


def details(found: run_file.Answers, name: str) -> Iterator[Figure]:
  """Draws confusions, of few classes, and calibration."""
  if len(found.classes) <= _CLASSES:
    yield Figure(
      f'{name}_confusion',
      drawings.confusion(found.counts, found.classes),
      'Confusion matrix',
      'Images by label (down) and prediction (across).',
    )
  images, confidence, right = found.bins.T
  gap = np.abs(right - confidence).sum() / images.sum()
  yield Figure(
    f'{name}_calibration',
    drawings.calibration(found.bins),
    'Accuracy by confidence',
    'Accuracy by confidence, in bins of equal width, and images in each; '
    f'dashed: as right as sure. Expected calibration error {100 * gap:.2f} %.',
  )
