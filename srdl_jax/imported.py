# SPDX-License-Identifier: Apache-2.0
"""A finished run as the teacher of others: teacher.workdir."""

import dataclasses
import pathlib

import numpy as np
from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax import data
from srdl_jax.data import sampling
from srdl_jax.errors import ConfigError
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished
from srdl_jax.runs.checkpoint import Checkpoints, Moment
from srdl_jax.runs.finished import FinishedRun


@dataclasses.dataclass(frozen=True)
class Imported:
  """A finished run whose last network teaches: teacher.workdir.

  Attributes:
    identity: which run it is.
    found: what result.json says of it.
    end: the last moment of its last stage.
    checkpoint: digest of that moment's arrays.
  """

  directory: pathlib.Path
  identity: run_directory.Identity
  found: FinishedRun
  end: Moment
  checkpoint: str

  @property
  def config(self) -> ConfigDict:
    """Configuration of that run."""
    return self.identity.config


def name_network(config: ConfigDict) -> ConfigDict:
  """Returns the configuration with the name of an imported teacher's network.

  Raises:
    WorkdirError: teacher.workdir holds no run.
    ConfigError: the field names another network.
  """
  if not config.teacher.workdir:
    return config
  record = run_directory.load_identity(
    run_directory.local(config.teacher.workdir, 'teacher.workdir')
  )
  name = record.config.model.name
  if config.teacher.model not in ('', name):
    raise ConfigError(
      f'teacher.workdir = {config.teacher.workdir!r} holds a {name}, but '
      f'teacher.model is {config.teacher.model!r}.'
    )
  config = config.copy_and_resolve_references()
  config.teacher.model = name
  return config


def load(directory: str) -> Imported:
  """Reads a finished run, and its last network.

  Raises:
    WorkdirError: it is missing, unfinished or damaged.
  """
  path = run_directory.local(directory, 'teacher.workdir')
  identity = run_directory.load_identity(path)
  found = finished.read_teacher(path)
  folder = run_directory.checkpoints(path, len(found.stages))
  step = sum(stage.steps for stage in found.stages)
  with Checkpoints(folder, read_only=True) as checkpoints:
    end = checkpoints.load(step)
    digest = checkpoints.digest(step)
  lineage = {'data': identity.fingerprint, 'stage': len(found.stages)}
  end.record.refuse_foreign(end.step, lineage)
  return Imported(path, identity, found, end, digest)


def check(
  teacher: Imported,
  ours: ConfigDict,
  dataset: data.Dataset,
  train_rows: np.ndarray,
) -> None:
  """Checks that a teacher was trained on the examples that it shall predict.

  Args:
    teacher: of the student.
    ours: the student's configuration.
    dataset: the student's, with the number of classes in use.
    train_rows: that the student trains on.

  Raises:
    ConfigError: other data, classes or wrong labels, or other examples.
  """
  theirs = teacher.config
  name = f'teacher.workdir = {str(teacher.directory)!r}'
  if teacher.identity.fingerprint != dataset.train.fingerprint:
    raise ConfigError(
      f'{name} was trained on other data: {theirs.data.name}, fingerprint '
      f'{teacher.identity.fingerprint}, not {dataset.train.fingerprint}.'
    )
  classes = theirs.data.classes or int(dataset.train.labels.max()) + 1
  if classes != dataset.num_classes:
    raise ConfigError(
      f'{name} knows {classes} classes, the student learns '
      f'{dataset.num_classes}.'
    )
  wrong = [
    (its.data.label_noise, its.data.label_noise_seed) for its in (theirs, ours)
  ]
  if wrong[0] != wrong[1] and (wrong[0][0] or wrong[1][0]):
    raise ConfigError(
      f'{name} learnt other labels: data.label_noise and its seed are '
      f'{wrong[0]}, not {wrong[1]}. It would tell right ones, or other wrong '
      'ones.'
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
