# SPDX-License-Identifier: Apache-2.0
"""Finished runs on disk, gathered into rows: one configuration, its seeds."""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from srdl_jax import flatness, methods
from srdl_jax.errors import SrdlError, WorkdirError
from srdl_jax.report import run_file
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished
from srdl_jax.runs.finished import FinishedRun

# Folders that hold no runs: hidden ones, and what belongs to a run's stages.
_WITHOUT_RUNS = re.compile(r'\..*|stage_\d+', re.DOTALL)
# A folder of nothing else is one of figures or notes.
_OTHERS = {'.csv', '.html', '.log', '.md', '.pdf', '.png', '.svg', '.txt'}


@dataclasses.dataclass(frozen=True)
class ReportRow:
  """Runs that differ in nothing but the seed.

  Attributes:
    number: by which the report refers to it, from 1.
    runs: by seed; at least one.
    curves: by seed, of those runs whose logs are whole.
  """

  number: int
  runs: dict[int, FinishedRun]
  curves: dict[int, run_file.Curves]

  @property
  def first(self) -> FinishedRun:
    """The run of the smallest seed, for what all have in common."""
    return self.runs[min(self.runs)]

  @property
  def fields(self) -> Mapping[str, Any]:
    """Those that change a run's numbers, but the seed."""
    return self.first.fields

  @property
  def settings(self) -> dict[str, Any]:
    """What all runs have in common: fields, data, weights, teacher, cost."""
    teacher = self.first.teacher
    return {
      **self.fields,
      'data': self.first.data,
      'weights': self.first.weights,
      'imported teacher': teacher.model if teacher else None,
      'TrCost': float(f'{self.first.cost.training_1e16:.3g}'),
    }

  def values(self, name: str) -> dict[int, float]:
    """Returns a measured value by seed, of the runs that have it."""
    found = {
      seed: run_file.values(self.runs[seed]) for seed in sorted(self.runs)
    }
    return {seed: its[name] for seed, its in found.items() if name in its}

  @property
  def ends(self) -> list[int]:
    """Epochs of the whole run at which its stages end."""
    return list(itertools.accumulate(s.epochs for s in self.first.stages))

  @property
  def schedule(self) -> Sequence[tuple[float, float]]:
    """That of a run which tells it, see `FinishedRun`; () where none does."""
    return next((r.schedule for r in self.runs.values() if r.schedule), ())

  @property
  def metric(self) -> str:
    """Name of the accuracy that the method is judged by."""
    if self.fields['method'] in methods.ENSEMBLES:
      return 'ensemble'
    return 'rank1' if self.first.metric == finished.RANK_1 else 'accuracy'

  @property
  def one_teacher(self) -> bool:
    """Whether several seeds learnt from the same imported network."""
    teachers = {run.teacher for run in self.runs.values()}
    return len(self.runs) > 1 and len(teachers) == 1 and teachers != {None}


@dataclasses.dataclass(frozen=True)
class Found:
  """What lies in some directories.

  Attributes:
    rows: in the order in which they first appear.
    flatness: files of it, in their order.
    left_out: a line about each thing that can't be used.
    passed_over: what was given and can be no run: notes, figures, last time's
      report. A glob gives such things.
  """

  rows: list[ReportRow]
  flatness: list[flatness.Flatness]
  left_out: list[str]
  passed_over: list[str] = dataclasses.field(default_factory=list)


def read(directories: Sequence[str]) -> Found:
  """Reads finished runs.

  Args:
    directories: run directories, or ones that hold some anywhere below, or
      files of flatness. A run that several of them hold counts once; of two
      runs of the same configuration and seed the first one does, in the order
      given and, below a directory, in that of the names.
  """
  found = Found([], [], [])
  rows: dict[str, ReportRow] = {}
  seen: set[str] = set()
  for name in directories:
    for place in _search(name, found):
      real = os.path.realpath(place)
      if real in seen:
        continue
      seen.add(real)
      try:
        if place.is_file():
          found.flatness.append(flatness.read(place))
          continue
        run = finished.read(place)
        row = _add(rows, run)
        # Its numbers are of use without its log.
        row.curves[run.seed] = run_file.curves(run)
      except SrdlError as error:
        found.left_out.append(str(error))
      except Exception as error:
        # Whatever is odd about one, the others are reported.
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
        found.left_out.append(f'{place} cannot be read: {reason}')
  found.rows.extend(rows.values())
  return found


def _search(name: str, found: Found) -> Iterator[pathlib.Path]:
  """Yields run directories and files of flatness."""
  try:
    root = run_directory.local(name)
  except SrdlError as error:
    found.left_out.append(str(error))
    return
  if root.is_file():
    if root.suffix != '.json':
      found.passed_over.append(name)
    else:
      yield root.parent if root.name == run_directory.RESULT else root
    return
  unreadable: list[str] = []
  empty = True
  kinds: set[str] = set()
  # Of itself, os.walk passes over what can't be read.
  for folder, folders, files in os.walk(
    root,
    onerror=lambda e: unreadable.append(f'{e.filename}: {e.strerror}.'),
  ):
    run = not {run_directory.CONFIG, run_directory.RESULT}.isdisjoint(files)
    if flatness.NAME in files:
      yield pathlib.Path(folder) / flatness.NAME
    if run:
      yield pathlib.Path(folder)
    kinds |= {pathlib.PurePath(file).suffix for file in files}
    empty = empty and not run and flatness.NAME not in files
    # A run holds no other.
    within = () if run else sorted(folders)
    folders[:] = [name for name in within if not _WITHOUT_RUNS.fullmatch(name)]
  found.left_out.extend(unreadable)
  if empty and kinds and kinds <= _OTHERS:
    found.passed_over.append(name)
  elif empty and not unreadable:
    found.left_out.append(f'{name}: no finished run in it.')


def _add(rows: dict[str, ReportRow], run: FinishedRun) -> ReportRow:
  """Adds a run to its row.

  Raises:
    WorkdirError: its values are not finite, or its seed is there already.
  """
  alone = ReportRow(len(rows) + 1, {run.seed: run}, {})
  here = alone.values(alone.metric)[run.seed]
  # Of another budget, data, teacher: another row, not an average.
  row = rows.setdefault(repr(alone.settings), alone)
  kept = row.runs.setdefault(run.seed, run)
  if kept is run:
    return row
  there = row.values(row.metric)[run.seed]
  told = 'their final accuracies are the same'
  if here != there:
    told = (
      f'their final accuracies differ: {100 * there:.2f} % there, '
      f'{100 * here:.2f} % here'
    )
  raise WorkdirError(
    f'{run.workdir}: {kept.workdir} is a run of the same configuration and '
    f'the same seed, {run.seed}, and is kept, as it comes first in the order '
    f'given; {told}.'
  )
