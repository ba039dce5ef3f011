# SPDX-License-Identifier: Apache-2.0
"""A page of each row: curves, stages, confusion, calibration, where from."""

import math
import pathlib
from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np

from srdl_jax.errors import SrdlError
from srdl_jax.report import comparison, run_file, run_tables
from srdl_jax.report.document import Cell, Part, Section, Table
from srdl_jax.report.rows import ReportRow

_PAIRS = 10
_STAGES = (
  ('accuracy (%)', 'accuracy', 100.0, 2),
  ('rank-1 (%)', 'rank_1_accuracy', 100.0, 2),
  ('mAP (%)', 'map', 100.0, 2),
  ('top-5 (%)', 'top5_accuracy', 100.0, 2),
  ('NLL (nats)', 'nll', 1.0, 3),
  ('ECE (%)', 'expected_calibration_error', 100.0, 2),
  ('entropy (nats)', 'entropy', 1.0, 3),
)
_ABOUT = (
  'Of each row how it went, over its seeds, and from where its numbers come. '
  'Curves, from above: test images; the augmented batches of an epoch while it '
  'trains, with the labels that train; the learning rate. '
  'Dotted: a stage ends. Dashed: a stage that trains another network than the '
  'last one.'
)


def sections(
  rows: Sequence[ReportRow],
  names: dict[int, str],
  figures: ModuleType | None,
  left_out: list[str],
) -> Iterator[Section]:
  """Yields a section of what all have in common, and one for each row.

  Args:
    names: of the rows, by number.
    left_out: gets a line about each file that can't be used.
  """
  pages: list[Section] = []
  known = False
  for row in rows:
    parts: list[Part] = [run_tables.config(row)]
    drawn: list[Part] = []
    told: list[Part] = []
    if figures:
      method = {row.fields['method']: row}
      drawn += figures.learning_curves(method, f'run_{row.number}', 'Curves')
    for title, name, found in _details(row, left_out):
      told += [title, _confusions(found.classes, found.counts)]
      known = True
      if figures:
        drawn += figures.details(found, name)
    parts += [*drawn, _stages(row), *told, run_tables.provenance(row)]
    number = f'R{row.number}'
    title = f'{number}: {names[row.number]}'
    pages.append(Section(number.lower(), title, tuple(parts), 3, number))
  about = [_ABOUT]
  if not known and all(row.metric != 'rank1' for row in rows):
    where = rows[0].first.workdir
    about.append(
      'For confusions and calibration here, srdl evaluate '
      f'--workdir={where} --details={where}/details writes what it takes, of '
      'this run for example.'
    )
  yield Section('runs', 'The runs', tuple(about))
  yield from pages


def _stages(row: ReportRow) -> Table:
  """Returns test metrics at each stage's end, and of all together."""
  runs = row.runs
  count = len(row.first.stages)
  named = {
    f'stage {n + 1}, {stage.epochs} epochs': {
      seed: run.stages[n].test for seed, run in runs.items()
    }
    for n, stage in enumerate(row.first.stages)
  }
  if count > 1:
    found = {seed: run.ensemble or {} for seed, run in runs.items()}
    named['all stages together'] = found
  known = [
    column
    for column in _STAGES
    if any(column[1] in one for its in named.values() for one in its.values())
  ]

  def line(name, its):
    for _, metric, factor, digits in known:
      found = {seed: one[metric] for seed, one in its.items() if metric in one}
      yield Cell(comparison.mean(found, factor, digits))

  lines = tuple((Cell(n), *line(n, its)) for n, its in named.items())
  return Table(('last epoch of', *(name for name, *_ in known)), lines)


def _details(
  row: ReportRow, left_out: list[str]
) -> Iterator[tuple[str, str, run_file.Answers]]:
  """Yields (what it is, name, answers) of what `evaluate` wrote about runs."""
  for seed, run in sorted(row.runs.items()):
    folder = pathlib.Path(run.workdir)
    places = folder, *folder.glob('*/')
    for path in sorted(place / run_file.ANSWERS for place in places):
      if not path.exists():
        continue
      try:
        found = run_file.answers(path)
      except SrdlError as error:
        left_out.append(str(error))
        continue
      right = found.counts.trace() / found.counts.sum()
      told = f'{path} (seed {seed}): {found.counts.sum():,} images, '
      told += f'{100 * right:.2f} % right.'
      if not math.isclose(right, run.final.get('accuracy', -1), abs_tol=1e-6):
        told += (
          ' The result is another: these are other images, or answers of '
          'another network.'
        )
      yield told, f'details_{row.number}_{seed}_{path.parent.name}', found


def _confusions(names: Sequence[str], counts: np.ndarray) -> Table:
  """Returns the most frequent confusions."""
  wrong = counts * (1 - np.eye(len(counts), dtype=int))
  order = np.argsort(-wrong, axis=None, kind='stable')[:_PAIRS]
  lines = [
    (
      Cell(f'{names[a]} taken for {names[b]}'),
      Cell(f'{wrong[a, b]}'),
      Cell(f'{100 * wrong[a, b] / counts[a].sum():.0f}'),
    )
    for a, b in zip(*np.unravel_index(order, wrong.shape), strict=True)
    if wrong[a, b]
  ]
  header = 'most frequent mistakes', 'images', 'share of the label (%)'
  return Table(header, tuple(lines))
