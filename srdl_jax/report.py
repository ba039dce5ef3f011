# SPDX-License-Identifier: Apache-2.0
"""Runs as a table: mean over seeds, and the gain over vanilla, by seed.

    python -m srdl_jax.report DIR... [--out=report.md]

Runs that differ in nothing but the seed are one row. The last epoch is the
result; the best one stands beside it.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from srdl_jax import command, plan, run_directory, seeds, workdir
from srdl_jax import config as config_lib
from srdl_jax.errors import ConfigError, SrdlError, WorkdirError

# What a method's row needn't share with the vanilla row that it is compared
# with: what vanilla doesn't read.
_OF_THE_METHOD = ('method', 'teacher.', 'distillation.')
HEADER = (
  'runs',
  'seeds',
  'cost (1e16)',
  'stage one',
  'last epoch',
  'best epoch',
  'ensemble',
  'gain over vanilla, 95 %',
  'commit; device',
)


@dataclasses.dataclass(frozen=True)
class Run:
  """What the report says of a run; accuracies are fractions.

  Attributes:
    final, best: of the last stage, at its last epoch and at its best.
    best_split: that the best was chosen on, and is an accuracy of.
    stage_one: of the first stage's end, where there are several.
    ensemble: of all stages' ends, where there are several.
    cost: TrCost, in 1e16 multiply-adds.
    origin: commit and device.
  """

  final: float
  best: float
  best_split: str
  stage_one: float | None
  ensemble: float | None
  cost: float
  origin: str


@dataclasses.dataclass(frozen=True)
class Row:
  """Runs of one configuration.

  Attributes:
    settings: the fields that change numbers, without the seed, and digests of
      the data and of imported weights.
    runs: by seed.
  """

  settings: dict[str, Any]
  runs: dict[int, Run]

  def accuracies(self, name: str) -> dict[int, float]:
    """Returns an accuracy, a field of Run, by seed, where there is one."""
    found = {seed: getattr(run, name) for seed, run in self.runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}

  @property
  def result(self) -> dict[int, float]:
    """The accuracy that the method is judged by."""
    ensemble = self.settings['method'] in plan.ENSEMBLES
    return self.accuracies('ensemble' if ensemble else 'final')

  @property
  def cost(self) -> float:
    """TrCost of one run, in 1e16 multiply-adds."""
    return next(iter(self.runs.values())).cost

  def told(self, name: str) -> str:
    """Returns what the runs say in a field of text, each thing once."""
    return ', '.join(sorted({getattr(run, name) for run in self.runs.values()}))


def read(directories: Sequence[str]) -> tuple[list[Row], list[str]]:
  """Reads finished runs.

  Args:
    directories: run directories, in any order.

  Returns:
    The rows, in the order in which they first appear, and a line about each
    directory that holds no finished run.
  """
  rows: dict[str, Row] = {}
  left_out = []
  for name in directories:
    try:
      settings, seed, run = _read(run_directory.resolve(name))
      row = rows.setdefault(repr(settings), Row(settings, {}))
      if seed in row.runs:
        raise WorkdirError(f'{name}: another run of the same seed is above.')
      row.runs[seed] = run
    except SrdlError as error:
      left_out.append(str(error))
  return list(rows.values()), left_out


def _read(directory: pathlib.Path) -> tuple[dict[str, Any], int, Run]:
  """Returns a run's settings, its seed, and what it found."""
  path = directory / run_directory.RESULT
  if not path.exists():
    raise WorkdirError(f'{directory}: no finished run ({path.name}).')
  found = workdir.read_json(path)
  try:
    # An older record lacks the fields that came later: their defaults.
    config = config_lib.from_flat(found['config'])
    settings = config_lib.identity(config_lib.flatten(config))
    settings['data'] = found['data']['fingerprint']
    settings['weights'] = found.get('weights')
    return settings, settings.pop('seed'), _run(found)
  except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
    raise WorkdirError(
      f'{path} is not the result of a run of this program.'
    ) from error
  except ConfigError as error:
    raise WorkdirError(f'{path}: {error}') from error


def _run(found: dict[str, Any]) -> Run:
  several = len(found['stages']) > 1
  return Run(
    final=float(found['final']['test']['accuracy']),
    best=float(found['best']['accuracy']),
    best_split=str(found['best']['split']),
    stage_one=float(found['stages'][0]['test']['accuracy'])
    if several
    else None,
    ensemble=float(found['ensemble']['test']['accuracy']) if several else None,
    cost=float(found['cost']['training_1e16']),
    origin=f'{found["commit"]}; {found["device"]["kind"]}',
  )


def markdown(rows: Sequence[Row]) -> str:
  """Returns the table: accuracies in %, mean +- sample deviation (n)."""
  lines = [_line(HEADER), _line(['---'] * len(HEADER))]
  for row, name in zip(rows, _names(rows), strict=True):
    chosen_on = row.told('best_split')
    cells = [
      name,
      ', '.join(map(str, sorted(row.runs))),
      f'{row.cost:.3g}',
      _cell(row.accuracies('stage_one')),
      _cell(row.accuracies('final')),
      _cell(row.accuracies('best'))
      + (f', {chosen_on}' if chosen_on != 'test' else ''),
      _cell(row.accuracies('ensemble')),
      _gain(row, rows),
      row.told('origin'),
    ]
    lines.append(_line(cells))
  return '\n'.join(lines) + '\n'


def _names(rows: Sequence[Row]) -> list[str]:
  """Names each row by the fields in which the rows differ."""
  differing = [
    name
    for name in rows[0].settings
    if len({repr(row.settings[name]) for row in rows}) > 1
  ]
  first = ['model.name', 'method']
  shown = first + [name for name in differing if name not in first]
  return [
    ', '.join(
      f'{row.settings[n]}' if n in first else f'{n}={_short(row.settings[n])}'
      for n in shown
    )
    for row in rows
  ]


def _short(value: Any) -> str:
  # Digests are told apart by their beginning.
  return value[:8] if isinstance(value, str) else str(value)


def _baseline(row: Row, rows: Sequence[Row]) -> Row | None:
  """Returns the vanilla row that differs in nothing but the method."""

  def rest(other: Row) -> dict[str, Any]:
    return {
      name: value
      for name, value in other.settings.items()
      if not name.startswith(_OF_THE_METHOD)
    }

  for other in rows:
    if other.settings['method'] == 'vanilla' and rest(other) == rest(row):
      return other
  return None


def _gain(row: Row, rows: Sequence[Row]) -> str:
  baseline = _baseline(row, rows)
  if baseline is None or baseline is row:
    return ''
  found = seeds.paired(row.result, baseline.result)
  if found is None:
    return 'no shared seed'
  text = f'{100 * found.mean:+.2f}'
  if found.n > 1:
    low, high = found.interval()
    text += f' [{100 * low:+.2f}, {100 * high:+.2f}]'
  text += f' ({found.n})'
  # One pass of extraction is below a percent of any run worth reporting.
  ratio = row.cost / baseline.cost
  return text if abs(ratio - 1) < 0.01 else f'{text}, at {ratio:.2f} x its cost'


def _cell(by_seed: dict[int, float]) -> str:
  if not by_seed:
    return ''
  found = seeds.summarise([100 * value for value in by_seed.values()])
  spread = f' ± {found.std:.2f}' if found.n > 1 else ''
  return f'{found.mean:.2f}{spread} ({found.n})'


def _line(cells: Sequence[str]) -> str:
  return '| ' + ' | '.join(cells) + ' |'


def main(argv: Sequence[str]) -> None:
  """Reports the runs that the command line names."""
  directories = argv[1:]
  if not directories:
    raise ConfigError('Name the run directories: python -m srdl_jax.report DIR')
  rows, left_out = read(directories)
  for line in left_out:
    print(f'left out: {line}', file=sys.stderr)
  if not rows:
    raise ConfigError('None of these directories holds a finished run.')
  text = markdown(rows)
  if flags.FLAGS.out:
    workdir.replace_file(flags.FLAGS.out, text.encode())
  else:
    print(text, end='')


if __name__ == '__main__':
  flags.DEFINE_string('out', None, 'File to write, instead of printing.')
  command.run(main, positional=True)
