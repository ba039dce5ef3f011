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

from srdl_jax import command, run_directory, seeds, workdir
from srdl_jax import config as config_lib
from srdl_jax.errors import ConfigError, SrdlError, WorkdirError

# What a method's row shares with the vanilla row that it is compared with.
_OF_THE_METHOD = ('method', 'teacher.model', 'teacher.epochs')
HEADER = (
  'runs',
  'seeds',
  'cost (1e16)',
  'stage one',
  'last epoch',
  'best epoch',
  'ensemble',
  'gain over vanilla, 95 %',
)


@dataclasses.dataclass(frozen=True)
class Row:
  """Runs of one configuration.

  Attributes:
    settings: the fields that change numbers, without the seed, and the
      fingerprint of the data.
    results: what result.json holds, by seed.
  """

  settings: dict[str, Any]
  results: dict[int, dict[str, Any]]

  def accuracies(self, *path: str | int) -> dict[int, float]:
    """Returns an accuracy by seed, for the seeds that have it.

    Args:
      *path: keys of result.json down to its group of metrics.
    """
    found = {}
    for seed, result in self.results.items():
      group: Any = result
      for key in path:
        group = group[key] if group else None
      if group:
        found[seed] = group['accuracy']
    return found

  @property
  def best_split(self) -> str:
    """Where the best epoch was chosen and measured, if not on the test set."""
    split = next(iter(self.results.values()))['best']['split']
    return '' if split == 'test' else f', {split}'

  @property
  def cost(self) -> float:
    """TrCost of one run, in 1e16 multiply-adds."""
    return next(iter(self.results.values()))['cost']['training_1e16']


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
      result = _result(run_directory.resolve(name))
      settings = config_lib.identity(result['config'])
      seed = settings.pop('seed')
      settings['data'] = result['data']['fingerprint']
      row = rows.setdefault(repr(settings), Row(settings, {}))
      if seed in row.results:
        raise WorkdirError(f'{name}: another run of the same seed is above.')
      row.results[seed] = result
    except SrdlError as error:
      left_out.append(str(error))
  return list(rows.values()), left_out


def _result(directory: pathlib.Path) -> dict[str, Any]:
  path = directory / run_directory.RESULT
  if not path.exists():
    raise WorkdirError(f'{directory}: no finished run ({path.name}).')
  result = workdir.read_json(path)
  try:
    result['final']['test']['accuracy'], result['cost']['training_1e16']
    result['config']['seed'], result['best']['accuracy'], result['ensemble']
    result['data']['fingerprint'], result['best']['split']
    result['stages'][0]['test']['accuracy']
  except (KeyError, IndexError, TypeError) as error:
    raise WorkdirError(
      f'{path} is not the result of a run of this program.'
    ) from error
  return result


def markdown(rows: Sequence[Row]) -> str:
  """Returns the table: accuracies in %, mean +- sample deviation (n)."""
  lines = [_line(HEADER), _line(['---'] * len(HEADER))]
  names = _names(rows)
  for row, name in zip(rows, names, strict=True):
    several = len(row.results[min(row.results)]['stages']) > 1
    lines.append(
      _line(
        [
          name,
          ', '.join(map(str, sorted(row.results))),
          f'{row.cost:.3g}',
          _cell(row.accuracies('stages', 0, 'test')) if several else '',
          _cell(row.accuracies('final', 'test')),
          _cell(row.accuracies('best')) + row.best_split,
          _cell(row.accuracies('ensemble', 'test')),
          _gain(row, rows),
        ]
      )
    )
  return '\n'.join(lines) + '\n'


def _names(rows: Sequence[Row]) -> list[str]:
  """Names each row by the fields in which the rows differ."""
  fields = {name for row in rows for name in row.settings}
  differing = [
    name
    for name in config_lib.FIELDS
    if name in fields and len({repr(r.settings.get(name)) for r in rows}) > 1
  ]
  first = ['model.name', 'method']
  shown = first + [name for name in differing if name not in first]
  return [
    ', '.join(
      f'{row.settings[n]}' if n in first else f'{n}={row.settings.get(n)}'
      for n in shown
    )
    for row in rows
  ]


def _baseline(row: Row, rows: Sequence[Row]) -> Row | None:
  """Returns the vanilla row that differs in nothing but the method."""

  def rest(other: Row) -> dict[str, Any]:
    return {k: v for k, v in other.settings.items() if k not in _OF_THE_METHOD}

  for other in rows:
    if other.settings['method'] == 'vanilla' and rest(other) == rest(row):
      return other
  return None


def _gain(row: Row, rows: Sequence[Row]) -> str:
  baseline = _baseline(row, rows)
  if baseline is None or baseline is row:
    return ''
  found = seeds.paired(
    row.accuracies('final', 'test'), baseline.accuracies('final', 'test')
  )
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
