# SPDX-License-Identifier: Apache-2.0
"""Trains the rows of the paper's tables and figures, and reports them.

    python -m srdl_jax.reproduce TABLE... --workdir=DIR [--scale=full|...]
    python -m srdl_jax.reproduce TABLE... --dry-run [--workdir=DIR]

TABLE is all, table1 to table6, imagenet, fig3, fig4 or budget; or, which all
leaves out, controls, factorial, arena, noise or crossing. What is finished
isn't trained again: the same command goes on after any kill.
"""

import fnmatch
import functools
import itertools
import pathlib
import re
import shlex
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from absl import flags

from srdl_jax import command, cost, flatness, machine, models, storage
from srdl_jax.errors import (
  ConfigError,
  SweepError,
  WorkdirError,
  unknown,
)
from srdl_jax.reproduce import arena, scales, sweep
from srdl_jax.reproduce.paper import Row, Setting
from srdl_jax.reproduce.scales import TABLES
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished, progress, stop_request
from srdl_jax.runs.progress import duration

if TYPE_CHECKING:
  from srdl_jax.reproduce import live

# What 'all' stands for: the paper, and SRDL by its budget.
NOT_OF_ALL = ('controls', 'factorial', *arena.TABLES)
ALL = tuple(table for table in TABLES if table not in NOT_OF_ALL)


def choose(tables: Sequence[str], scale: str, patterns: str) -> list[Row]:
  """Returns the rows that are asked for.

  Args:
    tables: keys of scales.TABLES, or 'all' of them but NOT_OF_ALL.
    scale: a key of scales.SCALES.
    patterns: of parts of 'group: name', with * and ?, and $ for its end,
      separated by ';'; '' for all.

  Raises:
    ConfigError: a table, the scale or a pattern fits nothing.
  """
  known = [*TABLES, 'all']
  for table in tables:
    if table not in known:
      raise ConfigError(unknown('table', table, known))
  asked = {*tables, *(ALL if 'all' in tables else ())}
  names = [name for name in TABLES if name in asked]
  rows = [row for table in names for row in scales.rows(table, scale)]
  titles = [f'{row.group}: {row.name}' for row in rows]
  chosen: set[str] = set()
  for pattern in filter(None, map(str.strip, patterns.split(';'))):
    fitting = f'*{pattern.lower()}*'.removesuffix('$*')
    found = {t for t in titles if fnmatch.fnmatch(t.lower(), fitting)}
    if not found:
      listed = '; '.join(dict.fromkeys(titles)) or 'none'
      raise ConfigError(
        f'No row fits {pattern!r}. Rows of {", ".join(names)} at scale '
        f'{scale!r}: {listed}.'
      )
    chosen |= found
  return [
    row
    for row, title in zip(rows, titles, strict=True)
    if not patterns or title in chosen
  ]


@functools.cache
def work_of(setting: Setting) -> float:
  """Returns the TrCost of a setting's own stages, in 1e16 multiply-adds."""
  config = scales.config(setting)
  if setting.teacher:
    # It is a run of its own, which need not be there yet.
    config.teacher.workdir = '.'
  return cost.own_training_cost(config)


def _whole_work(setting: Setting) -> float:
  """Returns the TrCost of a run, its teacher's and its extraction included."""
  own, teacher = work_of(setting), setting.teacher
  if not teacher:
    return own
  return own + work_of(teacher) * (1 + 1 / scales.config(teacher).epochs)


def flatness_jobs(
  root: pathlib.Path, rows: Sequence[Row], scale: str
) -> list[sweep.Job]:
  """Returns the job of Figure 4, if all of its rows are chosen."""
  places = [
    sweep.directory(root, row.setting, 0) for row in rows if row.table == 'fig4'
  ]
  if not places or len(places) < len(scales.rows('fig4', scale)):
    return []
  out = root / f'flatness-{scale}' / flatness.NAME
  given = [f'--workdir={place}' for place in places]
  given += [f'--{n}={v}' for n, v in scales.SCALES[scale].flatness]
  return [
    sweep.Job(
      name=out.parent.name,
      command=('-m', 'srdl_jax.flatness', *given, f'--out={out}'),
      done=out,
      needs=tuple(place.name for place in places),
    )
  ]


def table_of(
  root: pathlib.Path,
  rows: Sequence[Row],
  seeds: Callable[[Row], int],
  extra: Callable[[Setting], Iterable],
) -> str:
  """Returns what would be run: rows, costs of a run, and what is there."""
  lines = []
  for table, its_rows in itertools.groupby(rows, lambda row: row.table):
    lines.append(TABLES[table].title)
    for row in its_rows:
      places = (
        sweep.directory(root, row.setting, seed) for seed in range(seeds(row))
      )
      done = sum((place / run_directory.RESULT).exists() for place in places)
      lines.append(
        f'  {row.group}: {row.name}: {_whole_work(row.setting):.3g} (1e16), '
        f'{done} of {seeds(row)} seeds done, {_command(row.setting, extra)}'
      )
  return '\n'.join(lines)


def _command(setting: Setting, extra: Callable[[Setting], Iterable]) -> str:
  fields = (f'--config.{n}={v}' for n, v in [*setting.fields, *extra(setting)])
  return shlex.join([f'--config={setting.config}', *fields])


def refuse_damaged(jobs: Sequence[sweep.Job]) -> None:
  """Checks finished jobs' results, as a report would leave a damaged one out.

  Raises:
    WorkdirError: names a result that is damaged.
  """
  for job in jobs:
    try:
      if job.is_done:
        storage.read_json(job.done)
    except WorkdirError as error:
      raise WorkdirError(
        f'{error}; without it, this command makes it again from what the run '
        'has saved.'
      ) from error


def main(argv: Sequence[str]) -> None:
  """Runs the tables that the command line names."""
  args = flags.FLAGS
  dry = args['dry-run'].value
  if not (args.workdir or dry) or not argv[1:]:
    raise ConfigError(
      'Name tables and a directory: python -m srdl_jax.reproduce table1 '
      f'--workdir=DIR. Tables: {", ".join(TABLES)}, or all (but '
      f'{", ".join(NOT_OF_ALL)}).'
    )
  scale = args.scale
  # Counting needs no accelerator, which its jobs are to have.
  jax.config.update('jax_platforms', 'cpu')
  shard = _shard(args.shard)
  rows = choose(argv[1:], scale, args.rows)
  rows, reason = scales.possible(rows, args.weights)
  root = run_directory.local(args.workdir or '.').absolute()

  def seeds(row: Row) -> int:
    return args.seeds or min(scales.SCALES[scale].seeds, row.seeds)

  def extra(setting: Setting):
    if args.data_dir:
      yield 'data.data_dir', args.data_dir
    if scales.starts_from_weights(setting):
      weights = storage.expanded(args.weights, '--weights')
      yield 'init.from_path', str(weights / setting.model)

  jobs = sweep.run_jobs(root, rows, seeds, extra=extra, work=work_of)
  jobs += flatness_jobs(root, rows, scale)
  jobs = sweep.shard(jobs, *shard)
  if not jobs:
    why = reason or f'scale {scale!r} has none of these rows'
    raise ConfigError(f'Nothing to do: {why}.')
  refuse_damaged(jobs)
  failed, unreported = {}, ''
  if dry:
    print(table_of(root, rows, seeds, extra))
    print(_estimate(jobs, args.jobs))
  else:
    with stop_request.listen() as stop:
      running = sweep.Sweep(root, jobs, args.jobs, _tell, _table(len(jobs)))
      failed = running.run(stop)
    if any(job.is_done for job in jobs):
      unreported = _report(root)
  if reason:
    print(f'Left out: {reason}.')
  if not (failed or unreported or dry):
    print(f'All {len(jobs)} jobs are done.')
  if failed or unreported:
    listed = ''.join(f'\n  {name}: {why}' for name, why in failed.items())
    raise SweepError(
      f'{len(failed)} of {len(jobs)} jobs failed.{listed}{unreported}'
    )


def _shard(text: str) -> tuple[int, int]:
  found = re.fullmatch('([0-9]+)/([0-9]+)', text)
  if not found or not 1 <= int(found[1]) <= int(found[2]):
    raise ConfigError(f'--shard={text!r}: give I/N, such as 1/4.')
  return int(found[1]), int(found[2])


def _tell(line: str) -> None:
  storage.say(f'{time.strftime("%H:%M:%S")} {line}')


def _table(jobs: int) -> 'live.JobTable | None':
  """Returns the table of a terminal, None where lines are told."""
  if not progress.can_draw(sys.stderr):
    return None
  # Who reads a file doesn't wait for rich.
  from srdl_jax.reproduce.live import JobTable

  return JobTable(sys.stderr, jobs)


def _estimate(jobs: Sequence[sweep.Job], slots: int) -> str:
  """Returns how many jobs and how much time are left, from measured speed."""
  left = [job for job in jobs if not job.is_done]
  spent = [_seconds(job) for job in jobs if job.is_done and job.work]
  worked = sum(job.work for job in jobs if job.is_done)
  if worked:
    how, speed = 'the finished runs', slots * worked / sum(spent)
  else:
    _tell('Measuring the speed of this machine ...')
    how, speed = 'a ResNet-20 train step here', measured_apart()
  seconds = sum(job.work for job in left) / speed
  return (
    f'{len(left)} of {len(jobs)} jobs are to be done, '
    f"{sum(job.work for job in left):.3g} (1e16) of the paper's TrCost; about "
    f'{duration(seconds)}, by the speed of {how}; compilation, some seconds to '
    'minutes a run, is not in it.'
  )


def _seconds(job: sweep.Job) -> float:
  try:
    cost = finished.read(job.done.parent).cost
  except WorkdirError as error:
    raise WorkdirError(f'{job.done} is not the result of a run.') from error
  return cost.train_seconds + cost.evaluate_seconds + cost.extract_seconds


def _report(root: pathlib.Path) -> str:
  """Writes the report; returns what is wrong, '' if nothing is."""
  out = root / 'report.html'
  done = subprocess.run(
    [sys.executable, '-m', 'srdl_jax.report', str(root), f'--out={out}'],
    check=False,
  )
  if done.returncode:
    return f'\n  The report could not be written (exit code {done.returncode}).'
  print(f'The report is {out}.')
  return ''


def measured_apart() -> float:
  """Returns `train_speed` as another process measures it.

  Raises:
    ConfigError: it can't be measured, as where there is no such device.
  """
  program = (
    'from srdl_jax.reproduce.__main__ import train_speed; print(train_speed())'
  )
  try:
    return float(sweep.apart(program))
  except ConfigError as error:
    raise ConfigError(f'The speed cannot be measured: {error}') from error


@machine.lacking()
def train_speed() -> float:
  """Returns the forward multiply-adds, in 1e16, trained in a second here.

  Of ResNet-20 on 64 images of 32 x 32 pixels.
  """
  model = models.create('resnet20', 100)
  images = jnp.zeros((64, 32, 32, 3))
  variables = model.init(jax.random.key(0), images, train=False)

  @jax.jit
  @jax.grad
  def gradient(params):
    both = {**variables, 'params': params}
    logits, _ = model.apply(both, images, train=True, mutable=['batch_stats'])
    return jnp.mean(logits**2)

  def step() -> None:
    jax.block_until_ready(gradient(variables['params']))

  # The first call compiles.
  seconds = timeit.timeit(step, setup=step, number=3) / 3
  return cost.multiply_adds(model, (32, 32, 3)) * 64 / 1e16 / seconds


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Directory of the sweep.')
  flags.DEFINE_enum('scale', 'full', list(scales.SCALES), 'How large.')
  flags.DEFINE_string(
    'rows',
    '',
    "Parts of 'data: row', with *, ? and $ for its end, separated by ';'.",
  )
  flags.DEFINE_integer('seeds', 0, "How many; 0: the scale's.", lower_bound=0)
  flags.DEFINE_integer(
    'jobs', 1, 'Runs at the same time on these CPUs.', lower_bound=1
  )
  flags.DEFINE_string('shard', '1/1', "I/N: this machine's part, I of N.")
  flags.DEFINE_bool('dry-run', False, 'Tell what would be done, and its cost.')
  flags.DEFINE_string('data_dir', None, 'TFDS directory.')
  flags.DEFINE_string('weights', None, 'Imported weights, by network.')
  command.run(main, positional=True)
