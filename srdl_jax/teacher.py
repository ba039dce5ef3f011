# SPDX-License-Identifier: Apache-2.0
"""A finished run whose last network teaches others: teacher.workdir."""

import dataclasses
import functools
import operator
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax import data, run_directory, stage_record, workdir
from srdl_jax.checkpoint import Checkpoints, Moment
from srdl_jax.data import sampling
from srdl_jax.errors import ConfigError, WorkdirError


@dataclasses.dataclass(frozen=True)
class Teacher:
  """What there is to know of a finished run.

  Attributes:
    directory: of the run.
    record: which run it is.
    number: of its last stage, from 1.
    end: the last moment of that stage.
    checkpoint: digest of that moment's arrays.
    result: what its result.json holds.
  """

  directory: pathlib.Path
  record: run_directory.Record
  number: int
  end: Moment
  checkpoint: str
  result: dict[str, Any]

  @property
  def model(self) -> str:
    """Name of its network."""
    return self.record.config.model.name


def name_network(config: ConfigDict) -> None:
  """Writes the name of an imported teacher's network into its field.

  Raises:
    WorkdirError: teacher.workdir holds no run.
    ConfigError: the field names another network.
  """
  if not config.teacher.workdir:
    return
  record = run_directory.load_record(
    run_directory.local(config.teacher.workdir, 'teacher.workdir')
  )
  name = record.config.model.name
  if config.teacher.model not in ('', name):
    raise ConfigError(
      f'teacher.workdir = {config.teacher.workdir!r} holds a {name}, but '
      f'teacher.model is {config.teacher.model!r}.'
    )
  config.teacher.model = name


def load(directory: str) -> Teacher:
  """Loads a finished run's last network.

  Raises:
    WorkdirError: it isn't finished, or not a run.
    CheckpointError: its last checkpoint is damaged or missing.
  """
  path = run_directory.local(directory, 'teacher.workdir')
  record = run_directory.load_record(path)
  result = read_result(path)
  number = len(result['stages'])
  step = sum(stage['steps'] for stage in result['stages'])
  folder = run_directory.checkpoints(path, number)
  with Checkpoints(folder, read_only=True) as checkpoints:
    end = checkpoints.load(step)
    digest = checkpoints.digest(step)
  lineage = {'data': record.fingerprint, 'stage': number}
  stage_record.refuse_foreign(end, lineage, number)
  return Teacher(path, record, number, end, digest, result)


def read_result(directory: pathlib.Path) -> dict[str, Any]:
  """Reads what a finished run found, as far as its students need it.

  Raises:
    WorkdirError: it isn't finished, or its result is not ours.
  """
  path = directory / run_directory.RESULT
  if not path.exists():
    raise WorkdirError(
      f'teacher.workdir = {str(directory)!r} holds a run that is not finished: '
      'run its command again first.'
    )
  result = workdir.read_json(path)
  try:
    # What is read of it later.
    for place in (
      ('stages', -1, 'steps'),
      ('stages', -1, 'train_epoch'),
      ('final', 'test'),
      ('cost', 'stages', 0),
      ('cost', 'seconds', 'train'),
      ('cost', 'seconds', 'extract'),
      ('device', 'count'),
    ):
      functools.reduce(operator.getitem, place, result)
  except (KeyError, IndexError, TypeError) as error:
    raise WorkdirError(
      f'{path} is not the result of a run of this program.'
    ) from error
  return result


def check_data(
  teacher: Teacher, dataset: data.Dataset, train_rows: np.ndarray
) -> None:
  """Checks that a teacher was trained on the examples that it shall predict.

  Args:
    teacher: of the student.
    dataset: the student's, with the number of classes in use.
    train_rows: that the student trains on.

  Raises:
    ConfigError: other data, other classes, or other examples of the data.
  """
  theirs = teacher.record.config
  name = f'teacher.workdir = {str(teacher.directory)!r}'
  if teacher.record.fingerprint != dataset.train.fingerprint:
    raise ConfigError(
      f'{name} was trained on other data: {theirs.data.name}, fingerprint '
      f'{teacher.record.fingerprint}, not {dataset.train.fingerprint}.'
    )
  classes = theirs.data.classes or int(dataset.train.labels.max()) + 1
  if classes != dataset.num_classes:
    raise ConfigError(
      f'{name} knows {classes} classes, the student learns '
      f'{dataset.num_classes}.'
    )
  rows, _ = sampling.choose_rows(
    dataset.train.labels, **config_lib.subset(theirs)
  )
  if not np.array_equal(rows, train_rows):
    raise ConfigError(
      f'{name} was trained on {len(rows)} examples that are not the '
      f"student's {len(train_rows)}: give both the same data.holdout and "
      'data.examples_per_class and, with a hold-out, seed.'
    )
