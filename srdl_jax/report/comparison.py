# SPDX-License-Identifier: Apache-2.0
"""Rows as cells: means over seeds, gains by seed, costs, names."""

import os
import pathlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from srdl_jax import config as config_lib
from srdl_jax.methods import METHODS
from srdl_jax.report import seeds
from srdl_jax.report.document import Cell
from srdl_jax.report.rows import ReportRow
from srdl_jax.runs.finished import ImportedTeacher
from srdl_jax.runs.progress import duration

# What a method's row needn't share with the vanilla row that it is compared
# with: what vanilla doesn't read, and what follows from it.
_OF_THE_METHOD = (
  'method',
  'distillation.',
  'imported teacher',
  'TrCost',
  *sorted({name for one in METHODS.values() for name in one.reads}),
)
ENSEMBLE = 'ensemble of the stages'
_NAMED = ('model.name', 'method')
_DIGESTS = ('data', 'weights')
# What a run may spend more of than another.
_OF_THE_BUDGET = ('epochs', 'batch_size', 'data.examples_per_class')
# One pass of extraction is below a percent of any run worth reporting.
_SAME_COST = 0.01
# Of units; rows that differ by more are not comparable.
_SAME_UNITS = 0.02
# A short run remembers fewer wrong labels, which alone may be a gain.
NO_CONTROL = 'vanilla of M / 2 is missing'
COSTS = (
  'TrCost (multiply-adds)',
  'training FLOPs',
  # Stages are compiled within their training.
  'device time, with compilation',
)
# What is measured where images are ranked, and what it is called.
RANKED = {
  'rank1': 'rank-1',
  'map': 'mAP',
  'mq_rank1': 'multi-query rank-1',
  'mq_map': 'multi-query mAP',
}


def mean(
  by_seed: Mapping[int, float], scale: float = 100.0, digits: int = 2
) -> str:
  """Returns 'mean ± sample deviation (n)', or '' for nothing.

  Args:
    scale: that values are multiplied by; 100 makes percents of fractions.
    digits: behind the point.
  """
  if not by_seed:
    return ''
  found = seeds.summarise([scale * value for value in by_seed.values()])
  spread = f' ± {found.std:.{digits}f}' if found.n > 1 else ''
  return f'{found.mean:.{digits}f}{spread} ({found.n})'


def counted(value: float) -> str:
  """Returns a count in three digits, as '1.13 T' for 1.13e12."""
  for sign, unit in zip('EPTGM', (1e18, 1e15, 1e12, 1e9, 1e6), strict=True):
    # What would be rounded to 1,000 of a unit is one of the next.
    if value >= 0.9995 * unit:
      scaled = value / unit
      return (
        f'{scaled:.3g} {sign}' if scaled < 999.5 else f'{scaled:,.0f} {sign}'
      )
  return f'{value:,.0f}'


def shared(names: Iterable[str]) -> str:
  """Returns what names begin with, most often 'ResNet-32, '; or ''."""
  start = os.path.commonprefix(list(names))
  start = start[: start.rfind(', ') + 2] if ', ' in start else ''
  # A comma may be part of a network's name.
  return start if start.count('(') == start.count(')') else ''


def difference(
  row: ReportRow, metric: str, baseline: ReportRow, baseline_metric: str
) -> seeds.Summary | None:
  """Summarises a gain by seed, in points; None where nothing is shared."""
  values = row.values(metric), baseline.values(baseline_metric)
  points = ({n: 100 * v for n, v in one.items()} for one in values)
  return seeds.paired(*points)


def last_and_best(row: ReportRow, metric: str) -> tuple[Cell, Cell]:
  """Returns a metric of the last epoch, and of the best one.

  The first is marked where it's an ensemble's, which has no best epoch; the
  second tells what it was chosen on, if not the test images.
  """
  last = mean(row.values(metric))
  marks = (ENSEMBLE,) if last and metric == 'ensemble' else ()
  best = mean(row.values(f'best_{metric}'))
  chosen_on = {run.best_split for run in row.runs.values()} - {'test'}
  told = ', '.join([best, *sorted(chosen_on)]) if best else ''
  return Cell(last, strong=True, marks=marks), Cell(told)


def cost_marks(row: ReportRow, baseline: ReportRow) -> tuple[str, ...]:
  """Returns '×1.5 cost' or the like where two rows differ in TrCost."""
  ratio = row.first.cost.training_1e16 / baseline.first.cost.training_1e16
  return () if abs(ratio - 1) < _SAME_COST else (f'×{ratio:.3g} cost',)


def unit_marks(row: ReportRow, baseline: ReportRow) -> tuple[str, ...]:
  """Returns why two rows are not comparable by their units, if so."""
  ours, theirs = row.first.cost.units, baseline.first.cost.units
  if ours is None or theirs is None:
    return ('units unknown: not comparable',)
  ratio = ours / theirs
  if abs(ratio - 1) <= _SAME_UNITS:
    return ()
  return (f'×{ratio:.3g} units: not comparable',)


def gain(
  row: ReportRow,
  metric: str,
  baseline: ReportRow,
  baseline_metric: str,
  marks: Callable[[ReportRow, ReportRow], tuple[str, ...]] = cost_marks,
) -> Cell:
  """Returns the gain by seed in points, with its 95 % interval.

  Of other data there is no gain.

  Args:
    marks: tells how the two differ in cost.
  """
  if row.first.data != baseline.first.data:
    return Cell(marks=('other data: not compared',))
  if not row.values(metric) or not baseline.values(baseline_metric):
    return Cell()
  told = marks(row, baseline)
  found = difference(row, metric, baseline, baseline_metric)
  if found is None:
    return Cell('no shared seed', marks=told)
  text = f'{found.mean:+.2f}'
  if found.n > 1:
    text += ' [{:+.2f}, {:+.2f}]'.format(*found.interval())
  return Cell(f'{text} ({found.n})', marks=told)


def unshared(row: ReportRow, baseline: ReportRow) -> str:
  """Returns a note where a gain is over fewer seeds than either mean, or ''."""
  shared = sorted(row.runs.keys() & baseline.runs.keys())
  same_seeds = row.runs.keys() == baseline.runs.keys()
  if not shared or same_seeds or row.first.data != baseline.first.data:
    return ''
  return (
    f'R{row.number} and R{baseline.number} have not the same seeds: the gain '
    f'is paired over those that both have, {", ".join(map(str, shared))} '
    f'(n = {len(shared)}), and is not the difference of the two means.'
  )


def costs(row: ReportRow) -> tuple[Cell, ...]:
  """Returns the cells of COSTS, each of one run."""
  flops = row.values('training_flops').values()
  seconds = row.values('device_seconds').values()
  devices = {(r.device_count, r.device_kind) for r in row.runs.values()}
  return (
    Cell(counted(1e16 * row.first.cost.training_1e16)),
    Cell(counted(statistics.fmean(flops)) if flops else ''),
    Cell(
      duration(statistics.fmean(seconds)),
      marks=('other hardware',) if len(devices) > 1 else (),
    ),
  )


def names(rows: Sequence[ReportRow]) -> list[str]:
  """Names each row by network, method, and the fields in which they differ."""
  settings = [row.settings for row in rows]
  shown = [
    name
    for name in (settings[0] if settings else {})
    if name not in _NAMED and len({repr(one[name]) for one in settings}) > 1
  ]
  # They follow from the others in most cases, and are shown in the rest.
  for implied in ('TrCost', 'data', 'imported teacher'):
    fewer = [name for name in shown if name != implied]
    named = {repr([one[n] for n in (*_NAMED, *fewer)]) for one in settings}
    if len(named) == len(rows):
      shown = fewer
  return [
    ', '.join(
      [*(f'{one[n]}' for n in _NAMED), *_told(one, shown), *_taught(row)]
    )
    for row, one in zip(rows, settings, strict=True)
  ]


def _told(settings: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
  for name in names:
    value = settings[name]
    # What belongs to other methods is at a default, or absent.
    if name.startswith(_OF_THE_METHOD) and _is_usual(name, value):
      continue
    # Digests are told apart by their beginning.
    yield f'{name}={value[:8] if name in _DIGESTS and value else value}'


def _is_usual(name: str, value: Any) -> bool:
  """Whether a setting is at its default, of today or of the first day."""
  field = config_lib.FIELDS.get(name)
  if field is None or value is None:
    return value is None
  alike = tuple(value) if isinstance(value, list) else value
  return alike in (field.default, field.born)


def name(row: ReportRow) -> str:
  """Names a row by network, method, and the runs that taught it."""
  return ', '.join([*(row.fields[n] for n in _NAMED), *_taught(row)])


def _taught(row: ReportRow) -> Iterator[str]:
  """Yields which finished runs taught, where the results say so."""
  teachers = {run.teacher for run in row.runs.values() if run.teacher}
  names = {pathlib.Path(t.workdir).name for t in teachers if t.workdir}
  if names:
    runs = 'run' if len(names) == 1 else 'runs'
    said = '; '.join(sorted({teacher_name(t) for t in teachers}))
    yield f'taught by the finished {runs} {", ".join(sorted(names))} ({said})'


def teacher_name(teacher: ImportedTeacher) -> str:
  """Names its network, and method and epochs where they are known."""
  known = teacher.fields
  more = f', {known["method"]}, {known["epochs"]} epochs' if known else ''
  return f'{teacher.model}{more}'


def baseline(row: ReportRow, rows: Sequence[ReportRow]) -> ReportRow | None:
  """Returns the vanilla row that differs in nothing but the method."""
  return next((o for o, apart in _vanilla(row, rows) if not apart), None)


def lacks_control(row: ReportRow, rows: Sequence[ReportRow]) -> bool:
  """Whether labels are wrong and vanilla training of half as long isn't there.

  Without it, what is gained over vanilla training is not to be shown.
  """
  if not row.fields['data.label_noise']:
    return False
  return not any(
    apart.keys() == {'epochs'}
    and apart['epochs'][1] == row.fields['epochs'] // 2
    for _, apart in _vanilla(row, rows)
  )


def budget_apart(row: ReportRow, rows: Sequence[ReportRow]) -> str:
  """Returns what a row would need to be compared with vanilla, or ''.

  Where there is vanilla training of the same settings but of another budget,
  this names the budgets; such rows are not compared.
  """
  if row.fields['method'] == 'vanilla' or baseline(row, rows):
    return ''
  for _, apart in _vanilla(row, rows):
    if set(apart) <= set(_OF_THE_BUDGET):
      return ', '.join(
        f'{name} {ours} against {theirs}'
        for name, (ours, theirs) in apart.items()
      )
  return ''


def _vanilla(
  row: ReportRow, rows: Sequence[ReportRow]
) -> Iterator[tuple[ReportRow, dict[str, tuple[Any, Any]]]]:
  """Yields vanilla rows, each with the settings, not of the method, apart."""
  for other in rows:
    if other is not row and other.fields['method'] == 'vanilla':
      ours, theirs = row.settings, other.settings
      apart = {
        name: (ours[name], theirs[name])
        for name in ours
        if ours[name] != theirs[name] and not name.startswith(_OF_THE_METHOD)
      }
      yield other, apart
