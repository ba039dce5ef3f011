# SPDX-License-Identifier: Apache-2.0
"""Makes the tables and pictures of when.md from the finished runs beside it.

    python docs/when.py                   # when.md's tables, when_*.svg
    python docs/when.py --unpack=DIR      # the runs, as their sweep left them
    python docs/when.py --pack=DIR        # keeps those of a sweep

What a run's result.json and metrics.jsonl say is kept, and no weights. A sweep
goes on from unpacked runs: they are finished.
"""

import argparse
import dataclasses
import io
import itertools
import lzma
import pathlib
import re
import statistics
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from srdl_jax import report
from srdl_jax.report import (
  arena,
  comparison,
  drawings,
  figures,
  paper_tables,
  seeds,
  style,
)
from srdl_jax.report.document import INK
from srdl_jax.report.paper_tables import Placed
from srdl_jax.report.rows import ReportRow
from srdl_jax.reproduce.arena import HALF

DOCS = pathlib.Path(__file__).parent
PAGE, KEPT = DOCS / 'when.md', DOCS / 'when_runs.tar.xz'
KEPT_FILES = ('config.json', 'model.json', 'result.json', 'metrics.jsonl')
SCALE = 'short'
# What a table shows of the last network: name, value, factor, digits.
ACCURACY = ('accuracy', 'accuracy', 100.0, 1)
NLL = ('NLL', 'nll', 1.0, 2)
ECE = ('ECE', 'expected_calibration_error', 100.0, 1)
MEMORISED = ('memorised', 'memorised', 100.0, 0)
ENSEMBLE, TWO = 'SRDL, both stages', 'two vanilla networks'


def pack(root: pathlib.Path) -> None:
  """Keeps the finished runs of a sweep."""
  raw = io.BytesIO()
  with tarfile.open(fileobj=raw, mode='w') as tar:
    for result in sorted(root.glob('runs/*/result.json')):
      for name in KEPT_FILES:
        path = result.with_name(name)
        if not path.exists():
          continue
        info = tarfile.TarInfo(f'runs/{path.parent.name}/{name}')
        info.size = path.stat().st_size
        tar.addfile(info, io.BytesIO(path.read_bytes()))
  KEPT.write_bytes(
    lzma.compress(raw.getvalue(), preset=9 | lzma.PRESET_EXTREME)
  )


def unpack(folder: pathlib.Path) -> None:
  """Writes the kept runs into a folder."""
  with tarfile.open(KEPT) as tar:
    tar.extractall(folder, filter='data')


@dataclasses.dataclass(frozen=True)
class Runs:
  """The kept runs, by the rows of the tables."""

  rows: Sequence[ReportRow]

  def placed(self, table: str) -> list[Placed]:
    """Returns the rows of a table that have been run."""
    found = paper_tables.place(table, SCALE, self.rows)
    return [one for one in found if one.ours]


def kept() -> Runs:
  """Returns the kept runs."""
  with tempfile.TemporaryDirectory() as folder:
    unpack(pathlib.Path(folder))
    found = report.read([folder])
  if found.left_out:
    raise ValueError(f'{KEPT}: {found.left_out}')
  return Runs(found.rows)


def name_of(one: Placed) -> str:
  """Returns the name of a row without its network."""
  return one.row.name.partition(', ')[2]


def mean(values: dict[int, float], factor: float, digits: int) -> str:
  """Returns 'mean ± sample deviation' of values by seed, '' for none."""
  # Their number has a column of its own.
  return comparison.mean(values, factor, digits).rpartition(' (')[0]


def gain(
  ours: dict[int, float],
  theirs: dict[int, float],
  factor: float = 100.0,
  digits: int = 1,
) -> str:
  """Returns a paired gain with its interval; '' if no seed is shared."""
  found = seeds.paired(ours, theirs)
  if found is None:
    return ''
  text = f'{factor * found.mean:+.{digits}f}'
  if found.n > 1:
    low, high = (factor * end for end in found.interval())
    text += f' [{low:+.{digits}f}, {high:+.{digits}f}]'
  return text.replace('-', '−')


def lines_of_methods(
  placed: Sequence[Placed], columns: Sequence[tuple[str, str, float, int]]
) -> Iterator[list[str]]:
  """Yields a header, and a line for each method of a group.

  SRDL has a second line, for both of its stages' ends together.
  """
  yield [
    'method',
    'n',
    *(name for name, *_ in columns),
    'gain over vanilla',
    'over vanilla of M / 2',
    'NLL over vanilla',
  ]
  by_name = {name_of(one): one for one in placed}
  if 'vanilla' not in by_name:
    return
  vanilla = by_name['vanilla'].ours
  half = by_name[HALF].ours if HALF in by_name else None
  for name, one in by_name.items():
    values = dict.fromkeys((v for _, v, _, _ in columns), {})
    values |= {value: one.ours.values(value) for value in values}
    if one.ours.metric == 'ensemble':
      values = ensemble(one.ours, values)
    yield line(name, values, columns, vanilla, half)
    if name == 'SRDL':
      both = ensemble(one.ours, values)
      yield line(ENSEMBLE, both, columns, vanilla, half)


def ensemble(row: ReportRow, values: dict) -> dict[str, dict[int, float]]:
  """Returns what the mean prediction of all stages' ends is measured by."""
  return {
    value: {
      seed: run.ensemble[value]
      for seed, run in sorted(row.runs.items())
      if value in run.ensemble
    }
    for value in values
  }


def line(
  name: str,
  values: dict[str, dict[int, float]],
  columns: Sequence[tuple[str, str, float, int]],
  vanilla: ReportRow,
  half: ReportRow | None,
) -> list[str]:
  cells = [
    mean(values[value], factor, digits) for _, value, factor, digits in columns
  ]
  accuracy = values['accuracy']
  over = ['', '', '']
  if name != 'vanilla':
    over[0] = gain(accuracy, vanilla.values('accuracy'))
    over[2] = gain(values['nll'], vanilla.values('nll'), 1.0, 2)
    if half and name != HALF:
      over[1] = gain(accuracy, half.values('accuracy'))
  return [name, str(len(accuracy)), *cells, *over]


def arena_table(runs: Runs) -> Iterator[list[str]]:
  yield from lines_of_methods(runs.placed('arena'), (ACCURACY, NLL, ECE))


def noise_table(runs: Runs, share: float) -> Iterator[list[str]]:
  """Yields the table of a share of wrong labels."""
  chosen = [
    one
    for one in runs.placed('noise')
    if one.ours.fields['data.label_noise'] == share
  ]
  columns = (ACCURACY, NLL, ECE, MEMORISED)
  yield from lines_of_methods(chosen, columns)


def averaged_table(runs: Runs) -> Iterator[list[str]]:
  """Yields both stages' networks beside two of labels alone, averaged."""
  yield ['wrong labels', 'n', ENSEMBLE, TWO, 'gain', 'NLL over these']
  shares: dict[float, dict[str, dict[str, dict[int, float]]]] = {}
  for one in runs.placed('noise'):
    if name_of(one) in ('SRDL', TWO):
      its = shares.setdefault(one.ours.fields['data.label_noise'], {})
      its[name_of(one)] = ensemble(one.ours, {'accuracy': {}, 'nll': {}})
  for share, its in shares.items():
    if len(its) == 2:
      ours, theirs = its['SRDL'], its[TWO]
      accuracies = ours['accuracy'], theirs['accuracy']
      yield [
        f'{100 * share:.0f} %',
        str(len(accuracies[0].keys() & accuracies[1].keys())),
        *(mean(values, 100.0, 1) for values in accuracies),
        gain(*accuracies),
        gain(ours['nll'], theirs['nll'], 1.0, 2),
      ]


def crossing_table(runs: Runs) -> Iterator[list[str]]:
  nll = 'NLL over vanilla'
  yield ['images a class', 'M', 'n', 'vanilla', 'SRDL', 'gain', nll]
  placed = runs.placed('crossing')
  for group in dict.fromkeys(one.row.group for one in placed):
    pair = [one.ours for one in placed if one.row.group == group]
    if len(pair) == 2:
      vanilla, srdl = pair
      accuracies = [row.values('accuracy') for row in pair]
      shared = accuracies[0].keys() & accuracies[1].keys()
      yield [
        str(vanilla.fields['data.examples_per_class']),
        str(vanilla.fields['epochs']),
        str(len(shared)),
        *(mean(values, 100.0, 1) for values in accuracies),
        gain(*reversed(accuracies)),
        gain(srdl.values('nll'), vanilla.values('nll'), 1.0, 2),
      ]


def ablations_table(runs: Runs) -> Iterator[list[str]]:
  """Yields Tables 4 to 6."""
  yield ['table', 'row', 'n', 'accuracy', 'gain', 'over']
  for table in ('table4', 'table5', 'table6'):
    placed = runs.placed(table)
    for one in placed:
      ((metric, _),) = one.row.metrics
      ours, over, against = one.ours.values(metric), '', ''
      base = paper_tables.baseline(one, placed)
      if base:
        ((its, _),) = base.row.metrics
        over, against = gain(ours, base.ours.values(its)), name_of(base)
      count = str(len(ours))
      yield [
        table[-1],
        name_of(one),
        count,
        mean(ours, 100.0, 1),
        over,
        against,
      ]


FACTORS = (
  ('a whole decay for stage one', 'stage one complete', 'stage one incomplete'),
  ('a whole decay for stage two', 'stage two complete', 'stage two incomplete'),
  ('the restart', ', restart', ', no restart'),
)


def factorial_table(runs: Runs) -> Iterator[list[str]]:
  yield ['schedule and start', 'n', 'accuracy', 'NLL', 'gain over SRDL']
  placed = runs.placed('factorial')
  for one in placed:
    accuracy = one.ours.values('accuracy')
    base = paper_tables.baseline(one, placed)
    over = gain(accuracy, base.ours.values('accuracy')) if base else ''
    nll = mean(one.ours.values('nll'), 1.0, 2)
    count = str(len(accuracy))
    yield [name_of(one), count, mean(accuracy, 100.0, 1), nll, over]


def effects(runs: Runs) -> list[tuple[str, str, seeds.Summary]]:
  """Returns (factor, '' or where, effect in points by seed).

  An effect is the mean difference of pairs of rows that differ in one factor
  alone; behind it are those of each pair. There are none before all has run.
  """
  found = []
  rows = {
    name_of(one): one.ours.values('accuracy')
    for one in runs.placed('factorial')
  }
  for title, with_it, without in FACTORS:
    pairs = [
      (name, name.replace(with_it, without)) for name in rows if with_it in name
    ]
    if len(pairs) != 4 or not all(b in rows for _, b in pairs):
      return []
    shared = set.intersection(*(set(rows[n]) for pair in pairs for n in pair))
    by_seed = {
      seed: statistics.fmean(rows[a][seed] - rows[b][seed] for a, b in pairs)
      for seed in sorted(shared)
    }
    mean_effect = seeds.summarise([100 * d for d in by_seed.values()])
    found.append((title, '', mean_effect))
    for a, b in pairs:
      points = seeds.paired(
        *({s: 100 * v for s, v in rows[n].items()} for n in (a, b))
      )
      where = (part for part in a.split(', ') if part not in with_it)
      found.append((title, ', '.join(where), points))
  return found


def effects_table(runs: Runs) -> Iterator[list[str]]:
  yield ['what changes alone', 'n', 'mean effect']
  for title, where, found in effects(runs):
    if not where:
      low, high = found.interval()
      text = f'{found.mean:+.1f} [{low:+.1f}, {high:+.1f}]'
      yield [title, str(found.n), text.replace('-', '−')]


TABLES: dict[str, Callable[[Runs], Iterator[list[str]]]] = {
  'arena': arena_table,
  'noise 20': lambda runs: noise_table(runs, 0.2),
  'noise 40': lambda runs: noise_table(runs, 0.4),
  'averaged': averaged_table,
  'crossing': crossing_table,
  'ablations': ablations_table,
  'factorial': factorial_table,
  'effects': effects_table,
}


def markdown(header: list[str], rest: list[list[str]]) -> str:
  """Returns a table, numbers to the right."""
  right = [
    all(not line[n] or line[n][0] in '+−0123456789' for line in rest)
    for n in range(len(header))
  ]
  rule = ['---:' if is_right else '---' for is_right in right]
  return '\n'.join(f'| {" | ".join(line)} |' for line in (header, rule, *rest))


def filled(page: str, runs: Runs) -> str:
  """Returns the page with its tables as the runs have them."""

  def table(match: re.Match) -> str:
    header, *lines = TABLES[match[1]](runs)
    text = f'\n{markdown(header, lines)}\n\n' if lines else ''
    return f'<!-- {match[1]} -->\n{text}<!-- end -->'

  return re.sub(
    r'<!-- ([a-z0-9 ]+) -->\n.*?<!-- end -->', table, page, flags=re.S
  )


LOOKS = {
  'vanilla': (0, '-'),
  HALF: (0, '--'),
  'label smoothing': (2, '-'),
  'SRDL': (1, '-'),
  ENSEMBLE: (1, ':'),
}


@style.drawn
def likelihood(runs: Runs) -> Figure:
  """Draws NLL, calibration and memory over the share of wrong labels."""
  panels = (
    ('NLL (nats)', 'nll', 1.0),
    ('calibration error (%)', 'expected_calibration_error', 100.0),
    ('wrong labels memorised (%)', 'memorised', 100.0),
  )
  lines: dict[str, dict[float, dict]] = {}
  for one in runs.placed('noise'):
    share = one.ours.fields['data.label_noise']
    values = {value: one.ours.values(value) for _, value, _ in panels}
    lines.setdefault(name_of(one), {})[share] = values
    if name_of(one) == 'SRDL':
      both = ensemble(one.ours, values)
      lines.setdefault(ENSEMBLE, {})[share] = both
  figure = Figure((8, 3.4), layout='constrained')
  for ax, (title, value, factor) in zip(
    figure.subplots(1, len(panels)), panels, strict=True
  ):
    for name, (colour, dashes) in LOOKS.items():
      found = {
        100 * share: seeds.summarise([factor * v for v in its[value].values()])
        for share, its in sorted(lines.get(name, {}).items())
        if its[value]
      }
      means = [one.mean for one in found.values()]
      ends = [one.interval() for one in found.values()]
      look = {'color': style.COLOURS[colour]}
      if found:
        ax.errorbar(
          list(found),
          means,
          np.nan_to_num(np.abs(np.transpose(ends) - means)),
          linestyle=dashes,
          marker='o',
          capsize=3,
          label=name,
          **look,
        )
    ax.set_title(title)
    ax.set_xlabel('wrong labels (%)')
    ax.set_xticks([0, 20, 40])
    ax.set_ylim(0, 1.04 * ax.get_ylim()[1])
  style.legend(figure, figure.axes[0])
  return figure


@style.drawn
def effects_forest(runs: Runs) -> Figure:
  """Draws the effects of each factor: their mean, and each pair's."""
  found = effects(runs)
  figure = Figure((8, 1.0 + 0.27 * len(found)), layout='constrained')
  ax = figure.subplots()
  ax.axvline(0, color=INK, linewidth=1)
  for place, (_, where, points) in enumerate(found):
    low, high = points.interval()
    ax.errorbar(
      points.mean,
      place,
      xerr=[[points.mean - low], [high - points.mean]],
      fmt='D' if not where else 'o',
      color=style.COLOURS[0 if where else 1],
      capsize=3,
    )
  names = [where or f'{title}: mean' for title, where, _ in found]
  ax.set_yticks(range(len(found)), names)
  ax.set_ylim(len(found) - 0.4, -0.6)
  ax.set_xlabel('effect on the accuracy (points)')
  return figure


def pictures(runs: Runs) -> Iterator[tuple[str, str]]:
  """Yields the page's pictures, of what has been run: name, SVG."""
  contest, noise = runs.placed('arena'), runs.placed('noise')
  if contest:
    yield 'arena', drawings.forest(arena.gains(contest, contest[0].row.group))
  for figure in itertools.islice(figures.over_noise(noise, ''), 1):
    yield 'noise', figure.svg
    yield 'likelihood', likelihood(runs)
  crossing = runs.placed('crossing')
  # The arena's own runs are a corner of it.
  if len({one.row.group for one in crossing}) > 2:
    yield 'crossing', next(figures.crossing(crossing, '')).svg
  if effects(runs):
    yield 'factorial', effects_forest(runs)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--pack', metavar='DIR', type=pathlib.Path)
  parser.add_argument('--unpack', metavar='DIR', type=pathlib.Path)
  given = parser.parse_args()
  if given.pack:
    pack(given.pack)
  elif given.unpack:
    unpack(given.unpack)
  else:
    runs = kept()
    PAGE.write_text(filled(PAGE.read_text(), runs))
    for name, svg in pictures(runs):
      (DOCS / f'when_{name}.svg').write_text(svg)


if __name__ == '__main__':
  main()
