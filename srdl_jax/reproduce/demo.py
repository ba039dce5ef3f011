# SPDX-License-Identifier: Apache-2.0
"""The first minute: does self-reference help, at equal cost, here?

    python -m srdl_jax.reproduce.demo [--workdir=runs/demo] [--jobs=2]

trains vanilla networks, half as long ones, label smoothing and SRDL on some of
the digits that come with the installation, with right and with wrong labels,
three seeds of each, and shows what came out, and what to do next. What is
finished isn't trained again.
"""

import pathlib
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence

import jax
from absl import flags

from srdl_jax import command, cost, cpu, storage
from srdl_jax.errors import SweepError
from srdl_jax.report import seeds
from srdl_jax.reproduce import arena, scales, sweep
from srdl_jax.reproduce.paper import Row, Setting
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished, stop_request
from srdl_jax.runs.finished import FinishedRun

SCALE, TABLE = 'demo', 'noise'
_HEADER = ('', 'accuracy', 'NLL', 'over vanilla', 'over M / 2', 'memorised')
_ABOUT = (
  'Means over {count} seeds on the test images; differences in points of '
  'accuracy, paired by seed, with 95 % intervals: one that holds 0 tells '
  'nothing. Rows cost the same, M = {budget} epochs of vanilla training, but '
  'for {half}. Memorised: wrong training labels that the network reproduces.'
)
_EXPECT = (
  'With more seeds and longer runs (docs/results.md): where labels are wrong, '
  'self-reference gains over vanilla training; of a short run all of that is '
  'that half a run memorises less, as the row of M / 2 shows, of a long one a '
  'part. Where all labels are right it gains nothing on these images.'
)


def _work(setting: Setting) -> float:
  return cost.own_training_cost(scales.config(setting))


def _tell(line: str) -> None:
  storage.say(f'{time.strftime("%H:%M:%S")} {line}')


def _told(summary: seeds.Summary | None) -> str:
  if summary is None:
    return ''
  low, high = summary.interval()
  return f'{100 * summary.mean:+.1f} ± {50 * (high - low):.1f}'


def table(
  rows: Sequence[Row], runs: Mapping[Row, Mapping[int, FinishedRun]]
) -> str:
  """Returns what was found, by group, for a terminal of 80 columns.

  Args:
    runs: of each row, by seed.
  """
  lines = []
  for group in dict.fromkeys(row.group for row in rows):
    own = {row: runs[row] for row in rows if row.group == group}
    accuracy = {
      row.name: {seed: run.final['accuracy'] for seed, run in its.items()}
      for row, its in own.items()
    }
    first, half = list(accuracy)[:2]
    lines += ['', group, _line(_HEADER)]
    for row, its in own.items():
      kept = [run.stages[-1].noise.get('memorised') for run in its.values()]
      shares = accuracy[row.name]
      cells = (
        row.name.partition(', ')[2],
        f'{100 * seeds.summarise([*shares.values()]).mean:.1f} %',
        f'{seeds.summarise([r.final["nll"] for r in its.values()]).mean:.2f}',
        _told(seeds.paired(shares, accuracy[first])) if row.against else '',
        _told(seeds.paired(shares, accuracy[half]))
        if row.name not in (first, half)
        else '',
        f'{100 * seeds.summarise(kept).mean:.0f} %' if None not in kept else '',
      )
      lines.append(_line(cells))
  return '\n'.join(lines)


def _line(cells: Sequence[str]) -> str:
  name, *others = cells
  widths = (9, 6, 14, 14, 10)
  rest = (f'{c:>{w}}' for c, w in zip(others, widths, strict=True))
  return f'  {name:<18}{" ".join(rest)}'.rstrip()


def _next(root: pathlib.Path, run: pathlib.Path) -> str:
  return (
    f'\nReport:       {root / "report.html"}\n'
    f'Each run:     {run.parent}/*/\n'
    f'TensorBoard:  tensorboard --logdir {root}\n'
    '\nNext:\n'
    f'  srdl evaluate --workdir={run} --details=details\n'
    '  srdl train --config=folder:path=DIR,model=resnet18 '
    '--workdir=runs/mine\n'
    '  srdl train --config=cifar100:model=resnet32,method=srdl '
    '--workdir=runs/c100\n'
  )


def main(argv: Sequence[str]) -> None:
  """Trains the rows, reports them, and prints a table."""
  del argv
  args = flags.FLAGS
  # Counting needs no accelerator, which its jobs are to have.
  jax.config.update('jax_platforms', 'cpu')
  root = run_directory.local(args.workdir).absolute()
  rows, count = scales.rows(TABLE, SCALE), scales.SCALES[SCALE].seeds
  jobs = sweep.run_jobs(
    root, rows, lambda row: count, extra=lambda setting: (), work=_work
  )
  with stop_request.listen() as stop:
    failed = sweep.Sweep(root, jobs, args.jobs or cpu.cores(), _tell).run(stop)
  if failed:
    told = '; '.join(f'{name}: {why}' for name, why in failed.items())
    raise SweepError(f'{len(failed)} of {len(jobs)} runs failed: {told}')
  runs = {
    row: {
      seed: finished.read(sweep.directory(root, row.setting, seed))
      for seed in range(count)
    }
    for row in rows
  }
  out = root / 'report.html'
  call = [sys.executable, '-m', 'srdl_jax.report', str(root), f'--out={out}']
  if subprocess.run(call, check=False).returncode:
    raise SweepError('The report could not be written.')
  print(table(rows, runs))
  budget = scales.config(rows[0].setting).epochs
  about = _ABOUT.format(count=count, budget=budget, half=arena.HALF)
  width = min(shutil.get_terminal_size((80, 24)).columns, 100)
  for text in (about, _EXPECT):
    print('\n' + textwrap.fill(text, width))
  # SRDL with right labels.
  last = sweep.directory(root, rows[len(rows) // 2 - 1].setting, 0)
  folder = storage.expanded(args.workdir, 'workdir')
  print(_next(folder, folder / last.relative_to(root)), end='')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', 'runs/demo', 'Directory of the runs.')
  flags.DEFINE_integer(
    'jobs', 0, 'Runs at the same time; 0: one for each core.', lower_bound=0
  )
  command.run(main)
