# SPDX-License-Identifier: Apache-2.0
"""Tables of runs that are none of the paper's, and of where runs come from."""

from collections.abc import Iterator, Sequence

from srdl_jax import config as config_lib
from srdl_jax.flatness import KINDS, SPLITS, Flatness, groups
from srdl_jax.report import comparison
from srdl_jax.report.document import Cell, Line, Table
from srdl_jax.report.paper_tables import ONE_TEACHER, reference
from srdl_jax.report.rows import ReportRow
from srdl_jax.runs.finished import ImportedTeacher
from srdl_jax.runs.progress import duration

OTHERS = (
  'runs',
  'last epoch (%)',
  'gain over vanilla (points), 95 % interval',
  'best epoch (%)',
  'stage one (%)',
  'ensemble (%)',
  *comparison.COSTS,
  'seeds',
  'ref',
)
_PROVENANCE = (
  'seed',
  'last epoch (%)',
  'directory',
  'commit',
  'data',
  'device',
  'device time',
  'jax',
)


def others(rows: Sequence[ReportRow], known: Sequence[ReportRow]) -> Table:
  """Returns a table of rows and their gains over vanilla.

  Args:
    known: all rows, of which the one of the same settings but of vanilla
      training is what another is compared with.
  """
  lines, notes = [], []
  for row, name in zip(rows, comparison.names(rows), strict=True):
    lines += _lines(row, name, known)
    base = comparison.baseline(row, known)
    if base and row.fields['method'] != 'vanilla':
      notes.append(comparison.unshared(row, base))
    if apart := comparison.budget_apart(row, known):
      notes.append(f'R{row.number} is not compared with vanilla: {apart}.')
  if any(row.one_teacher for row in rows):
    notes.append(ONE_TEACHER)
  notes = tuple(filter(None, notes))
  return Table(OTHERS, tuple(lines), notes, texts=(0, 9))


def _lines(
  row: ReportRow, name: str, known: Sequence[ReportRow]
) -> Iterator[Line]:
  """Yields a line of all, and one for whatever else a ranking measures."""
  ranked = row.metric == 'rank1'
  yield (
    Cell(f'{name}, {comparison.RANKED[row.metric]}' if ranked else name),
    *_measured(row, row.metric, known),
    Cell(comparison.mean(row.values('stage_one'))),
    Cell(comparison.mean(row.values('ensemble'))),
    *comparison.costs(row),
    Cell(', '.join(map(str, sorted(row.runs)))),
    reference(row),
  )
  for metric, told in comparison.RANKED.items() if ranked else ():
    if metric != row.metric and row.values(metric):
      cells = Cell(f'{name}, {told}'), *_measured(row, metric, known)
      yield cells + (Cell(),) * (len(OTHERS) - len(cells))


def _measured(
  row: ReportRow, metric: str, known: Sequence[ReportRow]
) -> tuple[Cell, Cell, Cell]:
  """Returns a metric of the last epoch, its gain, and of the best epoch."""
  base, gain = comparison.baseline(row, known), Cell()
  if base is not None and row.fields['method'] != 'vanilla':
    against = base.metric if metric == row.metric else metric
    gain = comparison.gain(row, metric, base, against)
    if comparison.lacks_control(row, known):
      gain = Cell(marks=(comparison.NO_CONTROL,))
  last, best = comparison.last_and_best(row, metric)
  return last, gain, best


def comparisons(
  rows: Sequence[ReportRow], known: Sequence[ReportRow]
) -> Iterator[tuple[str, str, dict[str, ReportRow]]]:
  """Yields what `figures.comparisons` does, vanilla first.

  Each row is in one comparison; for `known` see `others`.
  """
  groups: dict[int, list[ReportRow]] = {}
  for row in rows:
    base = comparison.baseline(row, known) or row
    group = groups.setdefault(base.number, [base])
    if row is not base:
      group.append(row)
  for number, group in enumerate(groups.values(), 1):
    named = dict(zip(comparison.names(group), group, strict=True))
    yield str(number), 'Other runs', named


def flatness(found: Flatness) -> Table:
  """Returns norms, and mean losses at both ends of the directions."""
  distances = [('', 'literal', 0)]
  distances += [
    (f', {sign} = {found.distances[kind][-1]:g}', kind, -1)
    for sign, kind in zip(('d', 'α'), KINDS, strict=True)
  ]
  ends = [(split, *end) for end in distances for split in SPLITS]
  header = ['network', 'seed', 'parameters', 'norm']
  header += [f'{split} loss{text} (nats)' for split, text, _, _ in ends]
  lines = []
  labels = {
    id(network): label
    for label, group in groups(found).items()
    for network in group
  }
  for network in found.networks:
    means = [
      network.losses[kind, split].mean(0)[index]
      for split, _, kind, index in ends
    ]
    label = labels[id(network)]
    if network.workdir not in label:
      label += f' ({network.workdir})'
    cells = [
      label,
      str(network.seed),
      f'{network.parameters:,}',
      f'{network.norm:.4g}',
      *(f'{mean:.4g}' if mean == mean else 'not finite' for mean in means),
    ]
    lines.append(tuple(map(Cell, cells)))
  return Table(tuple(header), tuple(lines))


def provenance(row: ReportRow) -> Table:
  """Returns a table of a row's runs: what, from where, on what."""
  lines: list[Line] = []
  for seed, run in sorted(row.runs.items()):
    value = row.values(row.metric)[seed]
    cells = (
      str(seed),
      f'{100 * value:.2f}',
      run.workdir,
      run.commit or '',
      run.data[:12],
      f'{run.device_count} × {run.device_kind}',
      duration(run.device_seconds),
      run.jax,
    )
    lines.append(tuple(map(Cell, cells)))
  return Table(_PROVENANCE, tuple(lines), texts=(0, 2, 3, 4, 5, 7))


def config(row: ReportRow) -> str:
  """Returns the settings of a row that aren't the defaults."""
  defaults = config_lib.flatten(config_lib.defaults())
  told = [
    f'{name}={tuple(value) if isinstance(value, list) else value}'
    for name, value in row.fields.items()
    if value != defaults[name]
  ]
  if row.first.weights:
    told.append(f'weights {row.first.weights[:12]}')
  for teacher in dict.fromkeys(run.teacher for run in row.runs.values()):
    if teacher:
      told.append(_teacher(teacher))
  said = ', '.join(told) or 'none, all fields are at their defaults'
  return f'Settings that differ from the defaults: {said}.'


def _teacher(teacher: ImportedTeacher) -> str:
  name = comparison.teacher_name(teacher)
  known = f'{name}, checkpoint {teacher.checkpoint[:12]}'
  if not teacher.workdir:
    return f'imported teacher {known}'
  return f'taught by the finished run {teacher.workdir} ({known})'
