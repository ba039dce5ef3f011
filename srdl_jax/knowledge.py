# SPDX-License-Identifier: Apache-2.0
"""Induces a stage's knowledge: one pass over the training set, kept (Eq 5)."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from srdl_jax import soft_targets, storage
from srdl_jax.data import pipeline
from srdl_jax.experiment import Experiment, Purpose, Teacher, key_for
from srdl_jax.methods import Stage
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import leftovers, processes
from srdl_jax.runs.stop_request import StopRequest
from srdl_jax.targets import SOURCES


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """What a network hands on to a later stage.

  Attributes:
    teacher: the network, which may predict in each step.
    bank: its soft targets; None where no stage learns from stored ones, or no
      later one does.
    seconds: that predicting and writing the soft targets took, compilation
      apart; None if unknown, as a kill fell between the bank and its timing.
    load: reads the bank, which is on the disk; None where there is none.
  """

  teacher: Teacher
  bank: soft_targets.Bank | None
  seconds: float | None
  load: Callable[[], soft_targets.Bank] | None = None


def still_needed(
  knowledge: dict[int, Knowledge], plan: Sequence[Stage]
) -> dict[int, Knowledge]:
  """Returns it without banks that no stage of `plan` learns from."""
  # ImageNet's has 2.6 GB.
  teachers = {stage.teacher for stage in plan}
  return {
    n: its if n in teachers else dataclasses.replace(its, bank=None)
    for n, its in knowledge.items()
  }


def induce(
  experiment: Experiment,
  teacher: Teacher,
  directory: storage.Path,
  stop: StopRequest | None = None,
) -> Knowledge:
  """Returns what a network teaches; predicts its soft targets if need be.

  A complete bank is not made again, unless it is damaged, which is told.

  Args:
    directory: the bank's folder.
    stop: whether to end early; what has been predicted is then lost.

  Raises:
    SoftTargetsError: what is there is of another making.
    Interrupted: `stop` asked for it.
  """
  if not _stores(experiment, teacher):
    return Knowledge(teacher, None, 0.0)
  found = _read(experiment, teacher, directory)
  if found is None:
    _make(experiment, teacher, directory, stop)
    found = _read(experiment, teacher, directory, new=True)
  return found


def _asked(experiment: Experiment, teacher: Teacher) -> dict[str, Any]:
  return {
    'num_examples': len(experiment.dataset.train.labels),
    'num_classes': teacher.network.num_classes,
    'provenance': provenance_of(experiment, teacher),
  }


def _read(experiment, teacher, directory, new=False) -> Knowledge | None:
  """Returns what is kept; None for nothing or, unless `new`, damage."""
  if not processes.first_says(soft_targets.is_complete(directory)):
    return None
  asked, timing = _asked(experiment, teacher), _timing(directory)
  load = functools.partial(soft_targets.load, directory, **asked)
  bank = None
  try:
    bank = load()
  except soft_targets.Damaged as error:
    if new:
      raise
    processes.tell(f'{error}')
  if processes.any_says(bank is None):
    return None
  with storage.failures(timing, 'read'):
    timed = timing.exists()
  seconds = (
    storage.read_json(timing, seconds=float)['seconds'] if timed else None
  )
  return Knowledge(teacher, bank, seconds, load)


def _make(experiment, teacher, directory, stop) -> None:
  # Compiles, if nothing has yet: the time is that of predicting alone.
  next(_predict(experiment, teacher))
  views = experiment.config.distillation.views
  logits = (_mean_of_views if views else _predict)(experiment, teacher)
  begun = time.monotonic()
  soft_targets.save(
    directory,
    _until_asked(stop, logits),
    temperature=teacher.temperature,
    expected_rows=experiment.train_rows,
    # 1.28M x 1000 in float32 would be 5 GB.
    dtype='float16' if experiment.dataset.train.is_streamed else 'float32',
    **_asked(experiment, teacher),
  )
  if processes.is_first():
    seconds = time.monotonic() - begun
    storage.write_json(_timing(directory), {'seconds': seconds})
  processes.wait('soft targets')


def _stores(experiment: Experiment, teacher: Teacher) -> bool:
  """Whether a stage that it teaches learns from soft targets of a bank."""
  taught = [s for s in experiment.plan if s.teacher == teacher.number]
  return any(SOURCES[stage.source].stored for stage in taught)


def provenance_of(experiment: Experiment, teacher: Teacher) -> dict[str, Any]:
  """Returns what soft targets of a teacher must match to be used."""
  config, dataset = experiment.config, experiment.dataset
  augmented = config.distillation.views and {
    'count': config.distillation.views,
    'seed': teacher.seed,
    'flip': config.augment.flip,
    'padding': config.augment.padding,
    'mode': config.augment.mode,
  }
  if augmented and dataset.train.is_streamed:
    augmented['least_area'] = config.augment.least_area
  rows = experiment.train_rows.astype('<i4').tobytes()
  return {
    'dataset': dataset.name,
    'version': dataset.version,
    'split': dataset.train.name,
    'fingerprint': dataset.train.fingerprint,
    'rows': hashlib.sha256(rows).hexdigest(),
    'model': teacher.network.name,
    'checkpoint': teacher.checkpoint,
    'temperature': teacher.temperature,
    'views': augmented,
  }


def induce_imported(
  experiment: Experiment,
  workdir: storage.Path,
  stop: StopRequest | None = None,
) -> dict[int, Knowledge]:
  """Returns what the finished run of `teacher.workdir` teaches, if any does.

  It is under methods.IMPORTED. Its soft targets are kept in its own directory,
  at its own temperature, for every student; or with the student alone where
  nothing can be written there.

  Args:
    workdir: the student's.
    stop: see `induce`.

  Raises:
    SoftTargetsError, WorkdirError: they are of another making, or can't be
      written there.
    Interrupted: `stop` asked for it.
  """
  imported, teacher = experiment.imported, experiment.imported_teacher
  if imported is None:
    return {}
  views = experiment.config.distillation.views
  number = len(imported.found.stages)
  directory = run_directory.soft_targets(imported.directory, number, views)
  found, hold = None, contextlib.nullcontext()
  if _stores(experiment, teacher):
    found = _read(experiment, teacher, directory)
    writable = processes.first_says(_is_writable(imported.directory))
    if not writable and found is None:
      directory = run_directory.soft_targets(workdir, teacher.number, views)
    elif writable and (found is None or found.seconds is None):
      found = None
      if processes.is_first():
        # Several students may come to a new teacher at once.
        hold = storage.lock(imported.directory, wait=True)
  with hold as held:
    if held is not None:
      leftovers.clear(held)
    found = found or induce(experiment, teacher, directory, stop)
  return {teacher.number: found}


def _is_writable(folder: storage.Path) -> bool:
  return storage.is_bucket(folder) or os.access(folder, os.W_OK)


def _until_asked(stop: StopRequest | None, blocks: Iterator) -> Iterator:
  for block in blocks:
    if stop is not None:
      stop.agree(processes.any_says)
      stop.end_if_asked('while predicting soft targets')
    yield block


def _timing(directory: storage.Path) -> storage.Path:
  suffix = directory.name.removeprefix(run_directory.SOFT_TARGETS)
  return directory.with_name(f'extraction{suffix}.json')


def _predict(experiment: Experiment, teacher: Teacher, images: Any = None):
  """Yields rows [b], logits [b, K] of what is trained on."""
  return teacher.network.predict(
    teacher.variables,
    experiment.dataset.train.images if images is None else images,
    experiment.train_rows,
    experiment.config.eval.batch_size,
  )


def _mean_of_views(experiment, teacher):
  """Yields logits that soften to the mean of softened probabilities: T times
  its logarithm."""
  views = experiment.config.distillation.views
  passes = [
    _predict(experiment, teacher, _View(experiment, teacher, view))
    for view in range(views)
  ]
  for blocks in zip(*passes, strict=True):
    softened = [soft_targets.soften(z, teacher.temperature) for _, z in blocks]
    wide = np.stack(softened).astype(np.float64)
    mean = np.logaddexp.reduce(wide) - np.log(views)
    yield blocks[0][0], teacher.temperature * mean


@dataclasses.dataclass(frozen=True)
class _View:
  """The training images as one augmented view shows them, by row."""

  experiment: Experiment
  teacher: Teacher
  number: int

  def __getitem__(self, rows: np.ndarray) -> np.ndarray:
    seed, counts = self.teacher.seed, (self.teacher.number, self.number)
    whole = self.experiment.dataset.train.images
    images = pipeline.views(whole, rows, seed, *counts)
    key = key_for(seed, Purpose.VIEW, *counts)
    return np.asarray(self.experiment.flip_and_crop(key, images, rows))
