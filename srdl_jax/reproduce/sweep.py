# SPDX-License-Identifier: Apache-2.0
"""Many runs: which there are, each once, and how they are brought to an end."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from srdl_jax import cpu, storage
from srdl_jax.command import bundled
from srdl_jax.errors import EXIT_CODES, ConfigError
from srdl_jax.reproduce import scales, worker
from srdl_jax.reproduce.paper import Row, Setting
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs.progress import duration
from srdl_jax.runs.stop_request import StopRequest

if TYPE_CHECKING:
  from srdl_jax.reproduce.live import JobTable

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_LINES = 60.0
SECONDS_BETWEEN_TABLES = 1.0


_OF_XLA = re.compile(r'[EFIW]\d{4} \d\d:\d\d:')


@dataclasses.dataclass(frozen=True)
class Job:
  """A command, and the file that is there once it has been run.

  Attributes:
    name: unique; also of its log.
    command: arguments of the Python interpreter.
    done: what it leaves at its end.
    needs: names of jobs that must be done before.
    work: what it costs, in any unit that is common to all; 0 if nothing much.
  """

  name: str
  command: tuple[str, ...]
  done: pathlib.Path
  needs: tuple[str, ...] = ()
  work: float = 0.0

  @property
  def is_done(self) -> bool:
    """Whether its last file is there."""
    return self.done.exists()


def apart(program: str) -> str:
  """Returns what a Python program prints in a process of its own.

  This one then neither holds an accelerator nor has to have one.

  Raises:
    ConfigError: it fails; its last line is told.
  """
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=False
  )
  if done.returncode:
    line = (done.stderr.strip().splitlines() or [''])[-1]
    raise ConfigError(re.sub(r'^srdl_jax\.\S+: ', '', line))
  return done.stdout


def _check_device() -> None:
  """Checks that there is what JAX_PLATFORMS names: else every job fails."""
  if os.environ.get('JAX_PLATFORMS') not in (None, '', 'cpu'):
    apart(
      'import jax\nfrom srdl_jax import machine\n'
      'with machine.lacking():\n  jax.devices()'
    )


def directory(root: pathlib.Path, setting: Setting, seed: int) -> pathlib.Path:
  """Returns where a sweep's run lies: the same place for the same numbers."""
  parts = [setting.file, setting.model, setting.method]
  teacher = setting.teacher
  if teacher:
    parts.append(teacher.model)
  told = scales.digested(setting), teacher and scales.digested(teacher)
  digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]
  return root / 'runs' / f'{"-".join(parts)}-{digest}-seed{seed}'


def run_jobs(
  root: pathlib.Path,
  rows: Sequence[Row],
  seeds: Callable[[Row], int],
  *,
  extra: Callable[[Setting], Sequence[tuple[str, object]]],
  work: Callable[[Setting], float],
) -> list[Job]:
  """Returns the jobs that train rows: no run twice, teachers first.

  Args:
    rows: whose settings may coincide.
    seeds: how many of a row; a teacher has seed 0, for all of its students.
    extra: fields of a setting besides its own, by dotted names.
  """
  jobs: dict[str, Job] = {}

  def add(setting: Setting, seed: int) -> Job:
    fields = [('seed', seed), *setting.fields, *extra(setting)]
    needs = ()
    if setting.teacher:
      teacher = add(setting.teacher, 0)
      needs = (teacher.name,)
      fields.append(('teacher.workdir', teacher.done.parent))
    place = directory(root, setting, seed)
    command = (
      '-m',
      'srdl_jax.main',
      f'--config={bundled.path(setting.file)}:{setting.arguments}',
      *(f'--config.{name}={value}' for name, value in fields),
      f'--workdir={place}',
    )
    job = Job(
      place.name, command, place / run_directory.RESULT, needs, work(setting)
    )
    return jobs.setdefault(job.name, job)

  for seed in range(max(map(seeds, rows), default=0)):
    for row in rows:
      if seed < seeds(row):
        add(row.setting, seed)
  return list(jobs.values())


def shard(jobs: Sequence[Job], index: int, count: int) -> list[Job]:
  """Returns the part of the jobs that one of several machines does.

  Jobs that need each other stay together, so that nothing is done twice.

  Args:
    jobs: all of them, each after those that it needs.
    index: of the part, from 1.
  """
  groups: list[set[str]] = []
  for job in jobs:
    touched = [g for g in groups if g & {job.name, *job.needs}]
    merged = {job.name, *job.needs}.union(*touched)
    groups = [g for g in groups if g not in touched] + [merged]
  order = {job.name: i for i, job in enumerate(jobs)}
  groups.sort(key=lambda group: min(order[name] for name in group))
  mine = set().union(*groups[index - 1 :: count])
  return [job for job in jobs if job.name in mine]


@dataclasses.dataclass
class Sweep:
  """Runs jobs as processes; a job that fails stops only those that need it.

  Attributes:
    root: of the sweep; logs are below it.
    jobs: each after those that it needs.
    slots: how many at once; more than one share the cores between them.
    table: on a terminal, where running jobs are shown; elsewhere a line tells
      of each now and then.
  """

  root: pathlib.Path
  jobs: Sequence[Job]
  slots: int = 1
  tell: Callable[[str], None] = print
  table: 'JobTable | None' = None

  def __post_init__(self) -> None:
    self.failed: dict[str, str] = {}
    self._left_to_others: set[str] = set()
    self._told = time.monotonic()
    self._running: dict[int, tuple[Job, BaseProcess, float]] = {}
    self._spent, self._worked = 0.0, 0.0
    # Of running jobs: where their logs begin, and how much of them was done
    # when they first told it, and when.
    self._log_begins: dict[str, int] = {}
    self._first_told: dict[str, tuple[float, float]] = {}
    self._by_name = {job.name: job for job in self.jobs}
    self._options: dict[str, Any] = {}

  def run(self, stop: StopRequest) -> dict[str, str]:
    """Brings every job to its end, or tells why not.

    Args:
      stop: whether to end early; running jobs are asked to save.

    Returns:
      The names of jobs that failed, and a line about each.

    Raises:
      Interrupted: `stop` asked for it.
      WorkdirError: the directory can't be written.
      ConfigError: JAX_PLATFORMS names a device that isn't here.
    """
    _check_device()
    with storage.failures(self.root):
      (self.root / 'logs').mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='compiled_') as cache:
      self._options = compiled_in(cache)
      try:
        while not stop and (self._running or self._waiting()):
          if len(self._running) < self.slots:
            self._start_what_can()
          time.sleep(SECONDS_BETWEEN_LOOKS)
          self._collect()
          self._tell_now_and_then()
      finally:
        if self.table is not None:
          self.table.close()
        self._end_all()
    stop.end_if_asked(f'with {self._done()} of {len(self.jobs)} jobs done')
    # Another sweep may have done meanwhile what failed here.
    lost = [name for name in self.failed if not self._by_name[name].is_done]
    return {name: self.failed[name] for name in lost}

  def _waiting(self) -> list[Job]:
    busy = {job.name for job, _, _ in self._running.values()}
    return [
      job
      for job in self.jobs
      if not job.is_done and job.name not in busy | self.failed.keys()
    ]

  def _done(self) -> int:
    return sum(job.is_done for job in self.jobs)

  def _start_what_can(self) -> None:
    for job in self._waiting():
      lost = [name for name in job.needs if name in self.failed]
      if lost:
        self._fail(job, f'{lost[0]} failed')
        continue
      free = [s for s in range(self.slots) if s not in self._running]
      ready = all(self._by_name[name].is_done for name in job.needs)
      if free and ready and not self._is_left_to_others(job):
        try:
          self._start(free[0], job)
        except OSError as error:
          self._fail(job, f'it cannot be started: {error}')

  def _is_left_to_others(self, job: Job) -> bool:
    """Whether another sweep, or what an earlier one has left, is at it."""
    held = storage.is_held(job.done.parent)
    if held and job.name not in self._left_to_others:
      self._say(f'{job.name}: another process is at it, waiting')
      self._left_to_others.add(job.name)
    return held

  def _start(self, slot: int, job: Job) -> None:
    job.done.parent.mkdir(parents=True, exist_ok=True)
    self._say(f'{job.name}: started')
    cores = sorted(os.sched_getaffinity(0))
    # Of fewer cores than slots one may have no share, and gets all.
    share = cores[slot :: self.slots] or cores
    log, options = self._log(job), self._options
    # What it said before a kill is not where it is now.
    self._log_begins[job.name] = log.stat().st_size if log.exists() else 0
    self._first_told.pop(job.name, None)
    process = worker.start(job.command, log, share, options)
    self._running[slot] = job, process, time.monotonic()

  def _collect(self) -> None:
    for slot, (job, process, begun) in list(self._running.items()):
      if process.is_alive():
        continue
      process.join()
      del self._running[slot]
      if process.exitcode == 0 and job.is_done:
        self._spent += time.monotonic() - begun
        self._worked += job.work
        self._say(f'{job.name}: done. {self._progress()}')
      elif job.is_done or self._is_left_to_others(job):
        # Another process was faster to take its directory.
        continue
      else:
        meaning = EXIT_CODES.get(process.exitcode, 'killed or crashed')
        reason = f'exit code {process.exitcode} ({meaning})'
        self._fail(job, f'{reason}: {last_line(self._log(job))}')

  def _say(self, line: str) -> None:
    self.tell(line)
    if self.table is not None:
      self.table.again()

  def _fail(self, job: Job, why: str) -> None:
    self.failed[job.name] = f'{why} (log: {self._log(job)})'
    self._say(f'{job.name}: FAILED, {self.failed[job.name]}')

  def _log(self, job: Job) -> pathlib.Path:
    return self.root / 'logs' / f'{job.name}.log'

  def _tell_now_and_then(self) -> None:
    seconds = SECONDS_BETWEEN_LINES
    if self.table is not None:
      seconds = SECONDS_BETWEEN_TABLES
    if time.monotonic() - self._told < seconds:
      return
    self._told = time.monotonic()
    if self.table is not None:
      self._show(self.table)
      return
    for job, _, _ in self._running.values():
      self._say(f'{job.name}: {last_line(self._log(job))}')

  def _show(self, table: 'JobTable') -> None:
    """Shows the running jobs, and how far they are by what they say."""
    running, now = {}, time.monotonic()
    ahead = spent = worked = 0.0
    for job, _, _ in self._running.values():
      log, begins = self._log(job), self._log_begins[job.name]
      line = last_line(log, begins, table.is_progress)
      running[job.name] = line
      if table.is_progress(line):
        part = table.share(line)
        since, first = self._first_told.setdefault(job.name, (now, part))
        ahead += job.work * part
        spent, worked = spent + now - since, worked + job.work * (part - first)
    failed = sum(not self._by_name[name].is_done for name in self.failed)
    left = self._left(ahead, spent, worked)
    table.show(done=self._done(), failed=failed, running=running, left=left)

  def _progress(self) -> str:
    text = f'{self._done()} of {len(self.jobs)} jobs'
    return ', '.join(filter(None, [text, self._left()]))

  def _left(
    self, ahead: float = 0.0, spent: float = 0.0, worked: float = 0.0
  ) -> str:
    """Returns how long the rest will take, '' if that isn't known.

    Args:
      ahead: work of running jobs that is done.
      spent, worked: seconds of it that were seen, and the work done in them.
    """
    to_do = (job for job in self.jobs if job.name not in self.failed)
    left = sum(job.work for job in to_do if not job.is_done)
    worked += self._worked
    if not (left and worked):
      return ''
    seconds = (left - ahead) * (self._spent + spent) / worked / self.slots
    return f'about {duration(seconds)} left'

  def _end_all(self) -> None:
    for _, process, _ in self._running.values():
      process.terminate()
    for _, process, _ in self._running.values():
      process.join()
    self._running.clear()


def compiled_in(folder: str) -> dict[str, Any]:
  """Returns options of JAX by which jobs share what they compile, on CPU.

  A run of seconds is mostly compilation. JAX's cache has been seen to hold
  entries that crash on CPU, of other machines: so each sweep has its own. What
  is half written there JAX warns of, and compiles anew. Where there is an
  accelerator, or a cache is named, it stays as it is.
  """
  on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu' or cpu.is_alone()
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ or not on_cpu:
    return {}
  return {
    'jax_compilation_cache_dir': folder,
    'jax_persistent_cache_min_compile_time_secs': 0.0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }


def last_line(
  path: pathlib.Path,
  begin: int = 0,
  wanted: Callable[[str], object] | None = None,
) -> str:
  """Returns the last line of a log that says something, without its time.

  Args:
    begin: bytes that were there before.
    wanted: of lines that are preferred to later ones.
  """
  try:
    text = path.read_bytes()[begin:].decode(errors='replace')
  except FileNotFoundError:  # The job has just begun.
    return ''
  # Lines of progress overwrite each other.
  lines = text.replace('\r', '\n').splitlines()
  # Not what XLA says of itself, in lines of a thousand letters.
  said = [
    re.sub(r'^\d\d:\d\d:\d\d ', '', line)
    for line in reversed(lines)
    if line.strip() and not _OF_XLA.match(line)
  ]
  last = said[0] if said else ''
  return next(filter(wanted, said), last) if wanted else last
