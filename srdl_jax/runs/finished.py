# SPDX-License-Identifier: Apache-2.0
"""A finished run whose last network teaches others: teacher.workdir."""

import dataclasses
import functools
import operator
import pathlib
from typing import Any

from srdl_jax import storage
from srdl_jax.errors import WorkdirError
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import record as stage_record
from srdl_jax.runs.checkpoint import Checkpoints, Moment


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
  result = storage.read_json(path)
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
