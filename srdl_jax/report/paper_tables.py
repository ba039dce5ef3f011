# SPDX-License-Identifier: Apache-2.0
"""The paper's tables with our rows beside the paper's numbers."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

from srdl_jax import reproduce
from srdl_jax.report import comparison
from srdl_jax.report.document import Cell, Heading, Line, Table
from srdl_jax.report.rows import ReportRow
from srdl_jax.reproduce import scales

# What the rows of a table measure, where it isn't the accuracy.
_METRICS = {
  'accuracy': 'top-1',
  'top5_accuracy': 'top-5',
  'ensemble': 'ensemble',
  **comparison.RANKED,
}
ONE_TEACHER = (
  'One teacher: all seeds learnt from one imported network, so the interval '
  "leaves out the teacher's variation."
)
# Beside accuracy, what may tell why a method works: name, scale, digits.
_REASONS = (
  ('NLL (nats)', 'nll', 1.0, 3),
  ('ECE (%)', 'expected_calibration_error', 100.0, 2),
  ('stage one (%)', 'stage_one', 100.0, 2),
  ('ensemble of stages (%)', 'ensemble', 100.0, 2),
  ('soft-target entropy (nats)', 'soft_target_entropy', 1.0, 3),
  ('agreement with teacher (%)', 'agreement', 100.0, 2),
  ('stages disagree (%)', 'disagreement', 100.0, 2),
)
# It is asked for with every row that was found.
_identity = functools.cache(scales.identity)


@dataclasses.dataclass(frozen=True)
class Placed:
  """A row of the paper, and ours.

  Attributes:
    row: of the paper, as the scale runs it.
    ours: None where it hasn't been run.
    beside: other rows of the same configuration, which aren't averaged with
      ours, as something else differs.
    teacher: runs of the network that it imports, None where there are none.
  """

  row: reproduce.Row
  ours: ReportRow | None
  beside: tuple[ReportRow, ...]
  teacher: ReportRow | None


def place(table: str, scale: str, rows: Sequence[ReportRow]) -> list[Placed]:
  """Returns a table's rows with the runs that belong to them.

  Args:
    table: a key of paper.TABLES.
    scale: a key of scales.SCALES.
    rows: that were found. Of several that belong to a row, that of most seeds
      is taken.
  """
  placed = []
  for row in scales.rows(table, scale):
    ours, *beside = _matching(row.setting, rows) or [None]
    taught = row.setting.teacher and _matching(row.setting.teacher, rows)
    teacher = taught[0] if taught else None
    placed.append(Placed(row, ours, tuple(beside), teacher))
  return placed


def _matching(
  setting: reproduce.Setting, rows: Sequence[ReportRow]
) -> list[ReportRow]:
  matching = [
    row
    for row in rows
    if row.fields == _identity(setting)
    and bool(row.first.weights) == scales.starts_from_weights(setting)
    and _is_taught_as(setting, row)
  ]
  return sorted(matching, key=lambda row: -len(row.runs))


def _is_taught_as(setting: reproduce.Setting, row: ReportRow) -> bool:
  """Whether all seeds of a row learnt from the teacher that a setting names."""
  teachers = [one.teacher for one in row.runs.values()]
  if setting.teacher is None or None in teachers:
    return setting.teacher is None and not any(teachers)
  # An older result doesn't say which run taught.
  known = None, _identity(setting.teacher)
  return all(one.fields in known for one in teachers)


def baseline(placed: Placed, others: Iterable[Placed]) -> Placed | None:
  """Returns the row of a table that another one's gain is over."""
  over = placed.row.group, placed.row.against
  return next((o for o in others if (o.row.group, o.row.name) == over), None)


def table(placed: Sequence[Placed], scale: str) -> Table:
  """Returns a table of the paper: ours, the paper's, gains, costs, runs.

  Columns of the paper's numbers that are all blank are left out.
  """
  theirs = 'paper' if scale == 'full' else 'paper (its own network and data)'
  header = (
    'row',
    'last epoch (%)',
    'gain (points), 95 % interval',
    'best epoch (%)',
    f'{theirs} (%)',
    "paper's gain",
    *comparison.COSTS,
    "paper's TrCost",
    'runs',
  )
  found = list(grouped(placed, lambda one: _lines(one, placed)))
  lines = [line for line in found if not isinstance(line, Heading)]
  kept = [
    n
    for n, name in enumerate(header)
    if 'paper' not in name or any(line[n].text for line in lines)
  ]
  return Table(
    tuple(header[n] for n in kept),
    tuple(
      line if isinstance(line, Heading) else tuple(line[n] for n in kept)
      for line in found
    ),
    tuple(notes(placed)),
    theirs=tuple(i for i, n in enumerate(kept) if 'paper' in header[n]),
  )


def notes(placed: Sequence[Placed]) -> Iterator[str]:
  """Yields what a reader of gains must know of teachers and seeds."""
  if any(one.ours and one.ours.one_teacher for one in placed):
    yield ONE_TEACHER
  told = []
  for one in placed:
    base = baseline(one, placed)
    if one.ours and base and base.ours:
      told.append(comparison.unshared(one.ours, base.ours))
  yield from filter(None, dict.fromkeys(told))


def grouped(
  placed: Sequence[Placed], lines: Callable[[Placed], Iterable[Line]]
) -> Iterator[Line | Heading]:
  """Yields the lines of rows, under a heading for each group."""
  for group in dict.fromkeys(one.row.group for one in placed):
    yield Heading(group)
    for one in placed:
      if one.row.group == group:
        yield from lines(one)


def _lines(placed: Placed, others: Sequence[Placed]) -> Iterator[Line]:
  """Yields a line for each metric of a row."""
  base = baseline(placed, others)
  row, ours = placed.row, placed.ours
  for index, (metric, number) in enumerate(row.metrics):
    name = row.name
    if len(row.metrics) > 1 or metric not in ('accuracy', 'ensemble'):
      name += f', {_METRICS[metric]}'
    last, best = Cell(strong=True), Cell()
    if ours:
      last, best = comparison.last_and_best(ours, metric)
    theirs = Cell('' if number is None else f'{number:.2f} ({row.seeds})')
    gain, their_gain = _gains(placed, base, metric, number)
    cells = [Cell(name), last, gain, best, theirs, their_gain]
    first = index == 0
    cells += comparison.costs(ours) if ours and first else [Cell()] * 3
    their_cost = row.cost if first else None
    cells.append(
      Cell(comparison.counted(1e16 * their_cost) if their_cost else '')
    )
    cells.append(reference(ours) if first else Cell())
    yield tuple(cells)


def _gains(
  placed: Placed, base: Placed | None, metric: str, number: float | None
) -> list[Cell]:
  """Returns ours and the paper's."""
  if base is None:
    return [Cell(), Cell()]
  metrics = dict(base.row.metrics)
  against = metric if metric in metrics else next(iter(metrics))
  ours = Cell()
  if placed.ours and base.ours:
    ours = comparison.gain(placed.ours, metric, base.ours, against)
    if ours.text and placed.ours.one_teacher:
      ours = dataclasses.replace(ours, marks=(*ours.marks, 'one teacher'))
  theirs = metrics[against]
  if number is None or theirs is None:
    return [ours, Cell()]
  return [ours, Cell(f'{number - theirs:+.2f}')]


def reference(row: ReportRow | None) -> Cell:
  """Returns the cell that leads to a row's runs."""
  return Cell(f'R{row.number}', link=f'r{row.number}') if row else Cell()


def beside(placed: Iterable[Placed]) -> list[str]:
  """Returns a line about each row that isn't averaged with another one."""
  lines = {}
  for one in placed:
    for other in one.beside:
      ours, theirs = one.ours.settings, other.settings
      apart = [name for name in ours if ours[name] != theirs[name]]
      lines[other.number] = (
        f'R{other.number} has the configuration of R{one.ours.number}, but '
        f'differs in {", ".join(apart)}: they are not averaged.'
      )
  return list(lines.values())


def once(placed: Iterable[Placed]) -> list[Placed]:
  """Returns the rows that have been run, each of our rows once."""
  found: dict[int, Placed] = {}
  for one in placed:
    if one.ours:
      found.setdefault(one.ours.number, one)
  return list(found.values())


def reasons(placed: Sequence[Placed]) -> Table:
  """Returns what may tell why methods work, of the rows that have been run."""

  def lines(one: Placed) -> Iterator[Line]:
    yield (
      Cell(one.row.name),
      *(
        Cell(comparison.mean(one.ours.values(name), scale, digits))
        for _, name, scale, digits in _REASONS
      ),
      reference(one.ours),
    )

  header = ('row', *(title for title, *_ in _REASONS), 'runs')
  return Table(header, tuple(grouped(placed, lines)))


def teachers(placed: Sequence[Placed]) -> Table:
  """Returns training cross-entropies of teachers and of their students."""

  def lines(one: Placed) -> Iterator[Line]:
    if one.row.setting.teacher:
      name = f'{reproduce.NAMES[one.row.setting.teacher.model]}, teacher'
      # Told by its own runs, or else by those of its student.
      if one.teacher:
        yield _network(name, one.teacher, 'train_cross_entropy')
      elif one.ours:
        yield _network(name, one.ours, 'teacher_cross_entropy')
    if one.ours:
      yield _network(one.row.name, one.ours, 'train_cross_entropy')

  header = (
    'network',
    'training cross-entropy (nats), last epoch',
    'last epoch (%)',
    'runs',
  )
  note = (
    'The paper gives 0.0087 for ResNet-110 and 0.1637 for ResNet-32, and '
    "doesn't say of which data."
  )
  return Table(header, tuple(grouped(placed, lines)), (note,))


def _network(name: str, row: ReportRow, metric: str) -> Line:
  own = metric == 'train_cross_entropy'
  return (
    Cell(name),
    Cell(comparison.mean(row.values(metric), scale=1.0, digits=4), strong=True),
    Cell(comparison.mean(row.values('accuracy')) if own else ''),
    reference(row),
  )
