# SPDX-License-Identifier: Apache-2.0
"""What was found, in sentences; and which table shows which runs."""

import collections
import contextlib
import dataclasses
import datetime
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType

from srdl_jax import reproduce
from srdl_jax.report import arena, comparison
from srdl_jax.report.document import Cell, Estimate, Forest, Heading, Table
from srdl_jax.report.paper_tables import Placed, baseline
from srdl_jax.report.rows import ReportRow
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs.progress import duration

# Of names, commits, results in a sentence.
_FEW = 6
_FEW_GAINS = 3
# Before it, a file's time is not when it was written: archives reset it.
_SINCE = 2018


@dataclasses.dataclass(frozen=True)
class Group:
  """Gains of rows that are compared with each other.

  Attributes:
    title: table, data and scale.
    base: each row that some gain is over and its metric, by name.
  """

  name: str
  title: str
  gains: tuple[arena.Gain, ...]
  base: Mapping[str, tuple[ReportRow, str]]


def short(table: str) -> str:
  """Returns a table's title without what it compares and what it adds."""
  return reproduce.TABLES[table].title.partition(':')[0].partition(' (')[0]


def arranged(
  placed: Mapping[str, Sequence[Placed]], scale: str
) -> tuple[list[str], dict[int, str], dict[str, list[str]]]:
  """Decides which table shows which runs: those of most rows first.

  Returns:
    (shown, home, told): the tables that show something no other one does; the
    one that shows a row whole, by its number; and those whose rows and gains
    are all in others, each with these.
  """
  shown: list[str] = []
  home: dict[int, str] = {}
  told: dict[str, list[str]] = {}
  numbers = {
    table: dict.fromkeys(one.ours.number for one in rows if one.ours)
    for table, rows in placed.items()
  }
  seen: set = set()
  for table in sorted(placed, key=lambda table: -len(numbers[table])):
    its = set(_compared(placed[table], scale))
    if its <= seen:
      if its:
        there = (home[number] for number in numbers[table])
        told[table] = list(dict.fromkeys(there))
      continue
    shown.append(table)
    seen |= its
    for number in numbers[table]:
      home.setdefault(number, table)
  return shown, home, told


def _compared(placed: Sequence[Placed], scale: str) -> Iterator[tuple]:
  """Yields what a table says: results, pairs, the paper's numbers."""
  for one in placed:
    base = baseline(one, placed)
    for metric, number in one.row.metrics if one.ours else ():
      yield one.ours.number, metric
      if base and base.ours:
        yield 'pair', *sorted([one.ours.number, base.ours.number]), metric
      if number is not None and scale == 'full':
        yield 'paper', one.ours.number, metric


def lightened(table: Table, where: Mapping[str, tuple[str, str]]) -> Table:
  """Returns a table without what another one tells of the same runs.

  Args:
    where: name and title of the section that tells it, by the link to a row.
  """
  detail = {
    n
    for n, name in enumerate(table.header)
    if name.startswith(('best', *comparison.COSTS, arena.COST))
  }

  def line(cells):
    if isinstance(cells, Heading) or cells[-1].link not in where:
      return cells
    name, title = where[cells[-1].link]
    kept = (Cell() if n in detail else c for n, c in enumerate(cells[:-1]))
    return (*kept, Cell(f'{cells[-1].text}, in {title}', link=name))

  lines = [line(cells) for cells in table.lines]
  said = [one for one in lines if not isinstance(one, Heading)]
  left = [
    n
    for n in range(len(table.header))
    if n not in detail or any(one[n] != Cell() for one in said)
  ]
  return Table(
    tuple(table.header[n] for n in left),
    tuple(
      one if isinstance(one, Heading) else tuple(one[n] for n in left)
      for one in lines
    ),
    table.notes,
    tuple(i for i, n in enumerate(left) if n in table.texts),
    tuple(i for i, n in enumerate(left) if n in table.theirs),
  )


def elsewhere(told: Mapping[str, Sequence[str]], scale: str) -> Table:
  """Returns where the tables are shown of which no run is shown apart."""
  by_home: dict[str, list[str]] = {}
  for table, there in told.items():
    # The first holds the most.
    by_home.setdefault(there[0], []).append(short(table))
  lines = (
    (Cell('; '.join(sorted(its))), Cell(short(home), link=f'{scale}-{home}'))
    for home, its in by_home.items()
  )
  header = 'tables whose rows are all in another one', 'shown in'
  return Table(header, tuple(lines), texts=(0, 1))


def of_tables(
  placed: Mapping[str, Sequence[Placed]], shown: Iterable[str], scale: str
) -> Iterator[Group]:
  """Yields the gains of tables by group, each pair of results once."""
  seen: set[frozenset] = set()
  for table in shown:
    rows = placed[table]
    for number, title in enumerate(dict.fromkeys(o.row.group for o in rows), 1):
      found = _gains(table, rows, title)
      new = [g for g in found if frozenset(g.measured) not in seen]
      seen |= {frozenset(gain.measured) for gain in new}
      bases = {
        _plain(one, rows): (one.ours, one.row.metrics[0][0])
        for one in rows
        if one.ours and one.row.group == title
      }
      if new:
        over = {gain.over for gain in new}
        yield Group(
          f'{scale}_{table}_forest_{number}',
          f'{title} ({short(table)}, {scale} scale)',
          tuple(new),
          {n: base for n, base in bases.items() if n in over},
        )


def _plain(one: Placed, rows: Sequence[Placed]) -> str:
  """Names a row without the network, where its group has no other."""
  names = [o.row.name for o in rows if o.row.group == one.row.group]
  return one.row.name.removeprefix(comparison.shared(names))


def _gains(table: str, rows: Sequence[Placed], group: str) -> list[arena.Gain]:
  if table in reproduce.arena.TABLES:
    return arena.gains(rows, group)
  found = []
  for one in rows:
    base = baseline(one, rows)
    if one.row.group != group or not (base and base.ours and one.ours):
      continue
    metric, against = one.row.metrics[0][0], base.row.metrics[0][0]
    names = _plain(one, rows), _plain(base, rows)
    kind = arena.TWO if metric == 'ensemble' else None
    found += _gain(one.ours, base.ours, (metric, against), names, kind)
  return found


def _gain(
  ours: ReportRow,
  base: ReportRow,
  metrics: tuple[str, str],
  names: tuple[str, str],
  kind: str | None = None,
) -> Iterator[arena.Gain]:
  """Yields a gain, where the two rows can be compared and share a seed."""
  found = comparison.difference(ours, metrics[0], base, metrics[1])
  if found is None or ours.first.data != base.first.data:
    return
  apart = comparison.cost_marks(ours, base)
  kind = kind or (arena.UNEQUAL if apart else arena.METHOD)
  numbers = ours.number, base.number
  pair = tuple(zip(numbers, metrics, strict=True))
  yield arena.Gain(names[0], kind, 0.0, 0, found, names[1], ours.number, pair)


def of_others(
  rows: Sequence[ReportRow], known: Sequence[ReportRow]
) -> Iterator[Group]:
  """Yields the gains of rows of no table, by what they are over."""
  bases = {row.number: comparison.baseline(row, known) for row in rows}
  named = dict(
    zip([r.number for r in rows], comparison.names(rows), strict=True)
  )
  for base in {b.number: b for b in bases.values() if b}.values():
    over = named.get(base.number, comparison.name(base))
    gains: list[arena.Gain] = []
    for row in rows:
      told = comparison.lacks_control(row, known)
      if bases[row.number] is base and row is not base and not told:
        metrics, names = (row.metric, base.metric), (named[row.number], over)
        gains += _gain(row, base, metrics, names)
    # Vanilla rows are compared with none.
    gains = [g for g in gains if named[g.row] != over]
    if gains:
      same = comparison.shared([over, *(g.name for g in gains)])
      short_names = tuple(
        dataclasses.replace(
          g, name=g.name.removeprefix(same), over=over.removeprefix(same)
        )
        for g in gains
      )
      title = f'{base.fields["data.name"]}, {same}'.removesuffix(', ')
      bare = {over.removeprefix(same): (base, base.metric)}
      yield Group(f'others_forest_{base.number}', title, short_names, bare)


def forests(
  groups: Sequence[Group], figures: ModuleType | None
) -> Iterator[Forest]:
  """Yields a forest plot for each group, all with the same axis."""
  span = _span([gain.points for group in groups for gain in group.gains])
  for group in groups:
    lines = tuple(
      Estimate(
        f'{gain.name} over {gain.over}',
        gain.points.mean,
        gain.points.interval() if gain.points.n > 1 else None,
        gain.points.n,
        () if gain.kind == arena.METHOD else (gain.kind,),
        f'r{gain.row}',
      )
      for gain in group.gains
    )
    drawn = figures and figures.forest(group.gains, group.name, group.title)
    yield Forest(group.title, lines, span, drawn)


def _span(points) -> tuple[float, float]:
  """Returns an axis of all means and, but for far ones, all intervals."""
  means = [0.0, *(one.mean for one in points)]
  ends = [end for one in points for end in one.interval() if one.n > 1]
  most = 2 * (max(means) - min(means)) or max(map(abs, ends), default=0) or 1.0
  low = max(min([*means, *ends]), min(means) - most)
  high = min(max([*means, *ends]), max(means) + most)
  room = 0.04 * (high - low)
  return low - room, high + room


def of_group(group: Group) -> Iterator[str]:
  """Yields sentences: what was gained over what, and how surely."""
  for over, (row, metric) in group.base.items():
    gains = [g for g in group.gains if g.over == over]
    # What the program is for comes first.
    gains.sort(key=lambda gain: gain.name != 'SRDL')
    fair = [g for g in gains if g.kind == arena.METHOD]
    told = [f'{_told(gain)}.' for gain in fair]
    if len(fair) > _FEW_GAINS:
      told = [f'{_told(gain)}.' for gain in fair if gain.name == 'SRDL']
      told.append(_tally(fair))
    apart = [g for g in gains if g not in fair]
    told += [f'{_told(g)} ({g.kind}).' for g in apart[:_FEW_GAINS]]
    mean = comparison.mean(row.values(metric), digits=1).partition(' (')[0]
    told.append(f'{_capital(over)} itself: {mean} % (R{row.number}).')
    yield f'{group.title}. {" ".join(told)}'


def _capital(name: str) -> str:
  return f'{name[:1].upper()}{name[1:]}'


def _told(gain: arena.Gain) -> str:
  one = gain.points
  text = f'{_capital(gain.name)} over {gain.over}: {one.mean:+.1f} points'
  if one.n == 1:
    return f'{text}, of one seed, without an interval'
  low, high = one.interval()
  sure = low > 0 or high < 0
  end = '' if sure else ', an interval that holds 0'
  return f'{text} [{low:+.1f}, {high:+.1f}], n = {one.n}{end}'


def _tally(gains: Sequence[arena.Gain]) -> str:
  """Returns how many intervals are above, below and around 0."""
  sides: dict[str, list[str]] = {'above 0': [], 'below 0': [], 'around 0': []}
  # Of one seed there is no interval.
  alone = [gain.name for gain in gains if gain.points.n == 1]
  for gain in gains:
    if gain.points.n > 1:
      low, high = gain.points.interval()
      side = 'above 0' if low > 0 else 'below 0' if high < 0 else 'around 0'
      sides[side].append(gain.name)
  told = [
    f'{len(names)} {side} ({_few(names, "; ")})' if names else f'none {side}'
    for side, names in sides.items()
  ]
  if alone:
    told.append(f'{len(alone)} of one seed without one ({_few(alone, "; ")})')
  return (
    f'Of {len(gains)} gains over {gains[0].over} at equal cost, intervals are: '
    f'{", ".join(told)}.'
  )


def of_rows(rows: Sequence[ReportRow]) -> Iterator[str]:
  """Yields what single rows found, where nothing is to be compared."""
  for row in rows[:_FEW]:
    run, word = row.first, 'rank-1' if row.metric == 'rank1' else 'accuracy'
    values = {
      word: row.values(row.metric),
      'stage one': row.values('stage_one'),
      'all stages together': row.values('ensemble'),
    }
    if row.metric == 'ensemble':
      del values['all stages together']
    result, *others = (
      f'{name} {comparison.mean(by_seed, digits=1).rpartition(" (")[0]} %'
      for name, by_seed in values.items()
      if by_seed
    )
    among = f' ({"; ".join(others)})' if others else ''
    count = f'{run.final["examples"]:,}' if 'examples' in run.final else 'the'
    seeds = f'{len(row.runs)} seeds' if len(row.runs) > 1 else 'one seed'
    yield (
      f'{comparison.name(row)} (R{row.number}): {result}{among} on {count} '
      f'test images of {row.fields["data.name"]} after '
      f'{sum(stage.epochs for stage in run.stages)} epochs, {seeds}.'
    )


def provenance(
  rows: Sequence[ReportRow], commands: Sequence[str], others: bool
) -> Iterator[str]:
  """Yields on what, when, by which program and commands.

  Args:
    commands: that train the rows of tables.
    others: whether there are rows of no table.
  """
  runs = [run for row in rows for run in row.runs.values()]
  kinds = collections.Counter(
    f'{run.device_count} × {run.device_kind}' for run in runs
  )
  many = len(kinds) > 1
  devices = (f'{k} ({n})' if many else k for k, n in kinds.most_common())
  commits = _few(dict.fromkeys(f'{run.commit or "unknown"}' for run in runs))
  jax = _few(sorted({run.jax for run in runs if run.jax}))
  spent = duration(math.fsum(run.device_seconds for run in runs))
  one = len(runs) == 1
  what = 'One run' if one else f'{len(runs)} runs of {len(rows)} configurations'
  text = f'{what} on {_few(devices)}, {spent} of device time in all'
  yield f'{text}; commit {commits}{f", jax {jax}" if jax else ""}{_when(runs)}.'
  told = [f'Tables are trained by {"; ".join(commands)}.'] if commands else []
  if others:
    told.append('The settings of runs of no table stand with them, below.')
  yield ' '.join(told)


def _when(runs) -> str:
  """Returns between which days results were written, where files tell."""
  days = set()
  for run in runs:
    path = pathlib.Path(run.workdir) / run_directory.RESULT
    # It is no more than a detail of a run that has been read.
    with contextlib.suppress(OSError):
      time = path.stat().st_mtime
      day = datetime.datetime.fromtimestamp(time, datetime.UTC).date()
      days |= {day} if day.year >= _SINCE else set()
  if not days:
    return ''
  told = ' to '.join(f'{day}' for day in sorted({min(days), max(days)}))
  return f'; results written {told} (UTC, by their files)'


def _few(names: Iterable[str], between: str = ', ') -> str:
  first = list(names)
  more = f' and {len(first) - _FEW} more' if len(first) > _FEW else ''
  return between.join(first[:_FEW]) + more


def run_rows(placed: Sequence[Placed], scale: str) -> list[Placed]:
  """Returns the rows to show: of full scale also what a group lacks."""
  groups = {one.row.group for one in placed if one.ours}
  return [
    one
    for one in placed
    if one.ours or scale == 'full' and one.row.group in groups
  ]
