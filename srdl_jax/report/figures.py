# SPDX-License-Identifier: Apache-2.0
"""Rows as figures of the report; drawing them takes matplotlib."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from srdl_jax.flatness import Flatness, groups
from srdl_jax.report import drawings, seeds
from srdl_jax.report.document import Figure
from srdl_jax.report.drawings import Curve
from srdl_jax.report.paper_tables import Placed, baseline, once
from srdl_jax.report.rows import ReportRow
from srdl_jax.report.run_file import TRAIN

# More than that in one figure, beside the first, can't be told apart.
_LINES = 5


def learning_curves(
  named: Mapping[str, ReportRow], name: str, title: str
) -> list[Figure]:
  """Draws how some rows went.

  Args:
    named: rows by name; a comparison begins with what it is over.

  Returns:
    Figures, each with the first row in it; none where there is no curve.
  """
  base, *over = named.items()
  drawn = [
    _learning_curves(
      dict([base, *over[first : first + _LINES]]),
      f'{name}_{first // _LINES + 1}' if first else name,
      title,
    )
    for first in range(0, max(1, len(over)), _LINES)
  ]
  return [figure for figure in drawn if figure]


def _learning_curves(
  named: Mapping[str, ReportRow], name: str, title: str
) -> Figure | None:
  runs = [run for row in named.values() for run in row.runs.values()]
  splits = {run.best_split for run in runs}
  evaluated = splits.pop() if len(splits) == 1 else 'evaluation'
  ranked = evaluated == 'test' and named[next(iter(named))].metric == 'rank1'
  measured = 'rank-1' if ranked else 'accuracy'
  drawn, told = [], []
  shared = _shared(list(named))
  for full_name, row in named.items():
    if row.curves:
      short = full_name.removeprefix(shared)
      drawn.append(_curve(short, row))
      told.append(f'{short} (R{row.number}, n = {len(row.curves)})')
  if not drawn:
    return None
  about = f'{title}, {shared}'.removesuffix(', ')
  return Figure(
    name,
    drawings.learning_curves(drawn, evaluated, measured),
    f'{measured.capitalize()} and learning rate by epoch: {", ".join(told)}',
    f'{about}: {", ".join(told)}.',
  )


def _curve(name: str, row: ReportRow) -> Curve:
  stages, runs = row.first.stages, row.runs
  return Curve(
    name,
    ends=tuple(itertools.accumulate(stage.epochs for stage in stages)),
    others=tuple(stage.model != stages[-1].model for stage in stages),
    evaluated=[its[runs[n].best_split] for n, its in row.curves.items()],
    training=[its[TRAIN] for its in row.curves.values()],
    schedule=next((r.schedule for r in runs.values() if r.schedule), ()),
  )


def _shared(names: Sequence[str]) -> str:
  """Returns what names begin with, most often 'ResNet-32, '; or ''."""
  start = os.path.commonprefix(names)
  start = start[: start.rfind(', ') + 2] if ', ' in start else ''
  # A comma may be part of a network's name.
  return start if start.count('(') == start.count(')') else ''


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
        name = _slug(f'{table} {base.row.group} {base.row.name}')
        named = {names[row.number]: row for row in ours}
        found.append((name, base.row.group, named))
  numbers = [{row.number for row in named.values()} for _, _, named in found]
  for index, one in enumerate(found):
    mine = numbers[index]
    earlier = any(mine <= other for other in numbers[:index])
    later = any(mine < other for other in numbers[index:])
    if mine and not earlier and not later:
      yield one


def _slug(text: str) -> str:
  return re.sub(r'[^a-z0-9]+', '_', text.lower()).strip('_')


def schedules(placed: Sequence[Placed], name: str) -> list[Figure]:
  """Draws Figure 3; nothing where no run tells its schedule."""
  rows = {
    one.row.name: one.ours
    for one in placed
    if one.ours and any(run.schedule for run in one.ours.runs.values())
  }
  if not rows:
    return []
  shared = _shared(list(rows))
  drawn = [_curve(n.removeprefix(shared), row) for n, row in rows.items()]
  told = ', '.join(f'{name} (R{row.number})' for name, row in rows.items())
  return [
    Figure(
      name,
      drawings.schedules(drawn),
      f'Learning rate by epoch: {told}',
      f'{told}, as trained. Dotted: a stage ends.',
    )
  ]


def gains(placed: Sequence[Placed], name: str) -> list[Figure]:
  """Draws gains over vanilla by the budget M."""
  lines: dict[str, dict[int, seeds.Summary]] = {}
  for one in placed:
    base = baseline(one, placed)
    if not (base and base.ours and one.ours):
      continue
    found = seeds.paired(
      *(
        {s: 100 * v for s, v in row.values('accuracy').items()}
        for row in (one.ours, base.ours)
      )
    )
    if found:
      line = lines.setdefault(one.row.name.rpartition(', M')[0], {})
      line[one.ours.fields['epochs']] = found
  if max(map(len, lines.values()), default=0) < 2:
    return []
  return [
    Figure(
      name,
      drawings.gains(lines),
      'Gain over vanilla training by budget',
      'Gain of the last-epoch test accuracy over vanilla training of the same '
      "budget, paired by seed, with Student's 95 % interval; a point without "
      'one is of one seed.',
    )
  ]


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
