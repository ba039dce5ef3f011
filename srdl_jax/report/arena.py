# SPDX-License-Identifier: Apache-2.0
"""The arena's tables: methods at equal cost, and what wrong labels do to them.

A gain under wrong labels is never shown without the control of half a budget.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from srdl_jax import methods, reproduce
from srdl_jax.report import comparison, paper_tables, seeds
from srdl_jax.report.document import Cell, Heading, Line, Table
from srdl_jax.report.paper_tables import Placed, baseline, reference
from srdl_jax.reproduce.arena import HALF, VANILLA

MEAN, COST = 'the mean itself (%)', 'cost (epochs of vanilla)'
HEADER = (
  'row',
  'last epoch (%)',
  'gain (points), 95 % interval',
  'best epoch (%)',
  COST,
  MEAN,
  # Without TrCost, to which a pass that predicts is as dear as a train step.
  *comparison.COSTS[1:],
  'runs',
)
_MEMORY = (
  ('memorised by stage one (%)', 'stage_one_memorised'),
  ('memorised by the final network (%)', 'memorised'),
  ('corrected by stage one (%)', 'stage_one_corrected'),
  ('corrected by the final network (%)', 'corrected'),
)
_WRONG = (
  'Vanilla training of M / 2 is a control: a shorter run remembers fewer wrong '
  'labels. Where labels are wrong, no gain is shown without it.'
)
# What a row of the tables is.
METHOD, CONTROL = 'method at equal cost', 'control'
TWO, UNEQUAL = 'two networks deployed', 'another or unknown cost'
KINDS = (METHOD, CONTROL, TWO, UNEQUAL)


@dataclasses.dataclass(frozen=True)
class Gain:
  """A gain of a table, over vanilla training in the arena.

  Attributes:
    name: of the method.
    kind: one of KINDS.
    share: of wrong labels.
    images: of each class; 0 for all.
    points: summary of the gains by seed.
    over: name of what it is over.
    row: number of the row.
    measured: (number, metric) of both.
  """

  name: str
  kind: str
  share: float
  images: int
  points: seeds.Summary
  over: str = VANILLA
  row: int = 0
  measured: tuple[tuple[int, str], ...] = ()


def _name(one: Placed) -> str:
  network = reproduce.NAMES[one.row.setting.model]
  return one.row.name.removeprefix(f'{network}, ')


def _share(one: Placed) -> float:
  return dict(one.row.setting.fields).get('data.label_noise', 0.0)


def _images(one: Placed) -> int:
  return dict(one.row.setting.fields).get('data.examples_per_class', 0)


def _two(one: Placed) -> bool:
  return one.row.setting.method in methods.ENSEMBLES


def _kind(one: Placed, base: Placed) -> str:
  if _name(one) == HALF:
    return CONTROL
  if _two(one):
    return TWO
  return UNEQUAL if comparison.unit_marks(one.ours, base.ours) else METHOD


def _lacks_control(one: Placed, placed: Iterable[Placed]) -> bool:
  """Whether a row's labels are wrong and its group has no usable control."""
  controls = (
    other.ours
    for other in placed
    if other.row.group == one.row.group and _name(other) == HALF
  )
  return bool(_share(one)) and not any(
    ours and one.ours and ours.first.data == one.ours.first.data
    for ours in controls
  )


def _compared(one: Placed, placed: Sequence[Placed]) -> Placed | None:
  """Returns what a gain is over, where both have been run."""
  base = baseline(one, placed)
  return base if base and base.ours and one.ours else None


def table(placed: Sequence[Placed]) -> Table:
  """Returns a table of the arena: results, gains, units, runs.

  What deploys two networks is the last of its group, under a line that says so.
  """
  grouped = list(_grouped(placed))
  lines = [line for line in grouped if not isinstance(line, Heading)]
  means = any(line[HEADER.index(MEAN)].text for line in lines)
  kept = [n for n, name in enumerate(HEADER) if means or name != MEAN]
  notes = [_WRONG] * any(map(_share, placed))
  shown = [one for one in placed if not _lacks_control(one, placed)]
  return Table(
    tuple(HEADER[n] for n in kept),
    tuple(
      line if isinstance(line, Heading) else tuple(line[n] for n in kept)
      for line in grouped
    ),
    (*notes, *paper_tables.notes(shown)),
  )


def _grouped(placed: Sequence[Placed]) -> Iterator[Line | Heading]:
  for group in dict.fromkeys(one.row.group for one in placed):
    members = [one for one in placed if one.row.group == group]
    yield Heading(group)
    yield from (_line(one, placed) for one in members if not _two(one))
    if apart := [one for one in members if _two(one)]:
      yield Heading(f'{group}: {TWO}', detail='at 2 × the cost of inference')
      yield from (_line(one, placed) for one in apart)


def _line(one: Placed, placed: Sequence[Placed]) -> Line:
  marks = (CONTROL,) if _name(one) == HALF else ()
  name, ours = Cell(one.row.name, marks=marks), one.ours
  if ours is None:
    return (name, Cell(strong=True), *[Cell()] * (len(HEADER) - 2))
  cost = ours.values('vanilla_epochs').values()
  last, best = comparison.last_and_best(ours, _metric(one))
  return (
    name,
    last,
    _gain(one, placed),
    best,
    # It is the same of all seeds.
    Cell(f'{next(iter(cost)):.2f}' if cost else ''),
    Cell(comparison.mean(ours.values('mean'))),
    *comparison.costs(ours)[1:],
    reference(ours),
  )


def _metric(one: Placed) -> str:
  ((metric, _),) = one.row.metrics
  return metric


def _gain(one: Placed, placed: Sequence[Placed]) -> Cell:
  base = _compared(one, placed)
  if base is None:
    return Cell()
  if _lacks_control(one, placed):
    return Cell(marks=(comparison.NO_CONTROL,))
  return comparison.gain(
    one.ours, _metric(one), base.ours, _metric(base), comparison.unit_marks
  )


def gains(placed: Sequence[Placed], group: str) -> list[Gain]:
  """Returns the gains of a group that its table shows, in its order."""
  found = []
  for one in placed:
    base = _compared(one, placed)
    # What the table has no number for is not drawn.
    if one.row.group != group or not (base and _gain(one, placed).text):
      continue
    metrics = _metric(one), _metric(base)
    points = comparison.difference(one.ours, metrics[0], base.ours, metrics[1])
    if points:
      numbers = one.ours.number, base.ours.number
      found.append(
        Gain(
          _name(one),
          _kind(one, base),
          _share(one),
          _images(one),
          points,
          _name(base),
          one.ours.number,
          tuple(zip(numbers, metrics, strict=True)),
        )
      )
  return found


def budget(placed: Sequence[Placed], group: str) -> int:
  """Returns the M of a group."""
  return next(
    dict(one.row.setting.fields)['epochs']
    for one in placed
    if one.row.group == group and _name(one) == VANILLA
  )


def memory(placed: Sequence[Placed]) -> Table | None:
  """Returns what networks predict of images whose label is wrong, if known."""
  known = [
    one
    for one in placed
    if one.ours
    and not _two(one)
    and any(one.ours.values(name) for _, name in _MEMORY)
  ]
  if not known:
    return None

  def line(one: Placed) -> Iterator[Line]:
    values = (one.ours.values(name) for _, name in _MEMORY)
    cells = (Cell(comparison.mean(its)) for its in values)
    yield (Cell(one.row.name), *cells, reference(one.ours))

  header = ('row', *(title for title, _ in _MEMORY), 'runs')
  lines = tuple(paper_tables.grouped(known, line))
  return Table(header, lines)
