# SPDX-License-Identifier: Apache-2.0
"""Rows as cells: means over seeds, gains by seed, costs, names."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from srdl_jax import config as config_lib
from srdl_jax.report import seeds
from srdl_jax.report.document import Cell
from srdl_jax.report.rows import Row
from srdl_jax.runs.progress import duration

# What a method's row needn't share with the vanilla row that it is compared
# with: what vanilla doesn't read, and what follows from it.
_OF_THE_METHOD = (
  'method',
  'srdl.',
  'born_again.',
  'label_smoothing',
  'teacher.',
  'distillation.',
  'imported teacher',
  'TrCost',
)
ENSEMBLE = 'ensemble of the stages'
_NAMED = ('model.name', 'method')
_DIGESTS = ('data', 'weights')
# What a run may spend more of than another.
_OF_THE_BUDGET = ('epochs', 'batch_size', 'data.examples_per_class')
# One pass of extraction is below a percent of any run worth reporting.
_SAME_COST = 0.01
# Stages are compiled within their training.
DEVICE_TIME = 'device time, with compilation'
COSTS = ('TrCost (1e16)', 'training FLOPs (1e16)', DEVICE_TIME)
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
    by_seed: a measured value.
    scale: that it is multiplied by; 100 makes percents of fractions.
    digits: behind the point.
  """
  if not by_seed:
    return ''
  found = seeds.summarise([scale * value for value in by_seed.values()])
  spread = f' ± {found.std:.{digits}f}' if found.n > 1 else ''
  return f'{found.mean:.{digits}f}{spread} ({found.n})'


def last(row: Row, metric: str) -> Cell:
  """Returns an accuracy of the last epoch, marked where it's an ensemble's."""
  text = mean(row.values(metric))
  marks = (ENSEMBLE,) if text and metric == 'ensemble' else ()
  return Cell(text, strong=True, marks=marks)


def best(row: Row, metric: str) -> str:
  """Returns a metric at the best epoch, and what that was chosen on."""
  text = mean(row.values(f'best_{metric}'))
  chosen_on = {run.best_split for run in row.runs.values()} - {'test'}
  return ', '.join([text, *sorted(chosen_on)]) if text else ''


def gain(row: Row, metric: str, baseline: Row, baseline_metric: str) -> Cell:
  """Returns the gain by seed in points, with its 95 % interval.

  Args:
    row: that gains.
    metric: of it, an accuracy.
    baseline: that it is compared with; of other data there is no gain.
    baseline_metric: of that.
  """
  if row.first.data != baseline.first.data:
    return Cell(marks=('other data: not compared',))
  ours, theirs = row.values(metric), baseline.values(baseline_metric)
  if not ours or not theirs:
    return Cell()
  marks = cost_marks(row, baseline)
  found = seeds.paired(ours, theirs)
  if found is None:
    return Cell('no shared seed', marks=marks)
  text = f'{100 * found.mean:+.2f}'
  if found.n > 1:
    low, high = found.interval()
    text += f' [{100 * low:+.2f}, {100 * high:+.2f}]'
  return Cell(f'{text} ({found.n})', marks=marks)


def unshared(row: Row, baseline: Row) -> str:
  """Returns a note where a gain is over fewer seeds than either mean, or ''."""
  shared = sorted(row.runs.keys() & baseline.runs.keys())
  if not shared or row.runs.keys() == baseline.runs.keys():
    return ''
  if row.first.data != baseline.first.data:
    return ''
  return (
    f'R{row.number} and R{baseline.number} have not the same seeds: the gain '
    f'is paired over those that both have, {", ".join(map(str, shared))} '
    f'(n = {len(shared)}), and is not the difference of the two means.'
  )


def cost_marks(row: Row, baseline: Row) -> tuple[str, ...]:
  """Returns '×1.5 cost' where two rows differ in TrCost, else nothing."""
  ratio = row.first.values['cost'] / baseline.first.values['cost']
  return () if abs(ratio - 1) < _SAME_COST else (f'×{ratio:.3g} cost',)


def costs(row: Row) -> tuple[Cell, ...]:
  """Returns the cells of COSTS, each of one run."""
  flops = row.values('training_flops')
  devices = {run.origin.device for run in row.runs.values()}
  return (
    Cell(f'{row.first.values["cost"]:.3g}'),
    Cell(f'{_average(flops) / 1e16:.3g}' if flops else ''),
    Cell(
      duration(_average(row.values('device_seconds'))),
      marks=('other hardware',) if len(devices) > 1 else (),
    ),
  )


def _average(by_seed: Mapping[int, float]) -> float:
  return seeds.summarise(list(by_seed.values())).mean


def names(rows: Sequence[Row]) -> list[str]:
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
    ', '.join([*(one[n] for n in _NAMED), *_told(one, shown), *_taught(row)])
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


def name(row: Row) -> str:
  """Names a row by network, method, and the runs that taught it."""
  return ', '.join([*(row.fields[n] for n in _NAMED), *_taught(row)])


def _taught(row: Row) -> Iterator[str]:
  """Yields which finished runs taught, where the results say so."""
  teachers = {run.teacher for run in row.runs.values() if run.teacher}
  places = filter(None, (teacher.workdir for teacher in teachers))
  names = sorted({pathlib.Path(place).name for place in places})
  if names:
    runs = 'run' if len(names) == 1 else 'runs'
    said = sorted({t.said for t in teachers})
    yield (
      f'taught by the finished {runs} {", ".join(names)} ({"; ".join(said)})'
    )


def baseline(row: Row, rows: Sequence[Row]) -> Row | None:
  """Returns the vanilla row that differs in nothing but the method."""
  for other in _vanilla(row, rows):
    if not differences(row, other):
      return other
  return None


def budget_apart(row: Row, rows: Sequence[Row]) -> str:
  """Returns what a row would need to be compared with vanilla, or ''.

  Where there is vanilla training of the same settings but of another budget,
  this names the budgets; such rows are not compared.
  """
  if row.fields['method'] == 'vanilla' or baseline(row, rows):
    return ''
  for other in _vanilla(row, rows):
    apart = differences(row, other)
    if set(apart) <= set(_OF_THE_BUDGET):
      return ', '.join(
        f'{name} {apart[name][0]} against {apart[name][1]}' for name in apart
      )
  return ''


def _vanilla(row: Row, rows: Sequence[Row]) -> list[Row]:
  return [
    other
    for other in rows
    if other is not row and other.fields['method'] == 'vanilla'
  ]


def differences(row: Row, other: Row) -> dict[str, tuple[Any, Any]]:
  """Returns the settings that differ, but for those of the method."""
  ours, theirs = row.settings, other.settings
  return {
    name: (ours[name], theirs[name])
    for name in ours
    if ours[name] != theirs[name] and not name.startswith(_OF_THE_METHOD)
  }
