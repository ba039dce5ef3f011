# SPDX-License-Identifier: Apache-2.0
"""A training method is a tuple of stages. To add one, add a function here."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

from srdl_jax import config as config_lib
from srdl_jax.errors import ConfigError

STARTS = ('fresh', 'previous', 'same')
IMPORTED = 0


@dataclasses.dataclass(frozen=True)
class Stage:
  """One network trained for some epochs.

  Attributes:
    epochs: passes over the training set.
    start: 'fresh': new random parameters from a key of this stage (the random
      restart of Algorithm 1); 'same': the random parameters that stage one
      began with; 'previous': parameters and batch-norm statistics of the
      stage before.
    teacher: number of the earlier stage whose soft targets it learns from
      beside the labels, from 1; IMPORTED for a finished run's last network;
      None for labels alone.
    complete: whether it runs a whole learning-rate decay of its own (Eq 4) or
      its part of one decay over the run (Eq 3).
    model: name of its network; '' for the configured one.
    keep_optimiser: whether the momentum of the stage before is kept, else it
      is fresh.
    label_smoothing: share of the labels' mass that goes to all classes alike.
    online: whether the teacher predicts the student's augmented images, step
      by step, instead of clean ones once.
  """

  epochs: int
  start: str = 'fresh'
  teacher: int | None = None
  complete: bool = True
  model: str = ''
  keep_optimiser: bool = False
  label_smoothing: float = 0.0
  online: bool = False


def _set_by(field: str) -> Any:
  default = config_lib.FIELDS[field].default
  return dataclasses.field(default=default, metadata={'field': field})


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the configuration says to a method.

  `create` refuses what a method doesn't read, unless at its default.

  Attributes:
    epochs: M, the budget of the method.
    model: name of the network.
    teacher_model: name of another network that teaches, or ''.
    teacher_epochs: epochs of that teacher, on top of M; 0: M as well.
    teacher_imported: whether the teacher is a finished run's last network.
    split: how the budget is split over srdl's stages, in any unit.
    complete: of each of them, whether it runs a decay of its own.
    start: of each but the first (see `Stage.start`).
    keep_optimiser: of each but the first (see `Stage.keep_optimiser`).
    generations: of born-again students after the first network.
    label_smoothing: see `Stage.label_smoothing`.
    online: see `Stage.online`.
    views: augmented views of an image that a stored soft target is the mean
      of; 0: the clean image.
  """

  epochs: int
  model: str = ''
  teacher_model: str = _set_by('teacher.model')
  teacher_epochs: int = _set_by('teacher.epochs')
  teacher_imported: bool = dataclasses.field(
    default=False, metadata={'field': 'teacher.workdir'}
  )
  split: tuple[float, ...] = _set_by('srdl.split')
  complete: tuple[bool, ...] = _set_by('srdl.complete')
  start: str = _set_by('srdl.start')
  keep_optimiser: bool = _set_by('srdl.keep_optimiser')
  generations: int = _set_by('born_again.generations')
  label_smoothing: float = _set_by('label_smoothing')
  online: bool = _set_by('distillation.online')
  views: int = _set_by('distillation.views')


class ReadSettings:
  """Settings that remember what a method has read of them.

  Attributes:
    names: of the settings that have been read.
  """

  def __init__(self, settings: Settings):
    self._settings = settings
    self.names = {'epochs', 'model'}

  def __getattr__(self, name: str) -> Any:
    self.names.add(name)
    return getattr(self._settings, name)

  def left_over(self) -> list[str]:
    """Returns 'field = value' of what wasn't read, and is neither its default
    nor what it was born with: earlier runs have that."""
    left = []
    for field in dataclasses.fields(self._settings):
      if field.name not in self.names:
        name = field.metadata['field']
        known = config_lib.FIELDS[name]
        value = getattr(self._settings, field.name)
        if value not in (field.default, known.default, known.born):
          left.append(f'{name} = {value!r}')
    return left


def vanilla(settings: Settings) -> tuple[Stage, ...]:
  """One stage, labels alone (section 3.2)."""
  return (Stage(settings.epochs),)


def label_smoothing(settings: Settings) -> tuple[Stage, ...]:
  """One stage on smoothed labels: soft targets that know nothing."""
  return (Stage(settings.epochs, label_smoothing=settings.label_smoothing),)


def srdl(settings: Settings) -> tuple[Stage, ...]:
  """Stages that share the budget, each taught by the one before (Alg 1).

  The paper's are two halves: stage one gets floor(M / 2), stage two the rest.
  """
  return _self_taught(
    settings.epochs,
    settings.split,
    complete=settings.complete,
    start=settings.start,
    keep_optimiser=settings.keep_optimiser,
  )


def _self_taught(
  epochs: int,
  split: tuple[float, ...] = (1.0, 1.0),
  *,
  complete: tuple[bool, ...] = (),
  **later: Any,
) -> tuple[Stage, ...]:
  complete = complete or (True,) * len(split)
  if len(split) < 2 or len(complete) != len(split) or min(split) <= 0:
    raise ConfigError(
      f'srdl.split = {split} and srdl.complete = {complete}: give two or more '
      'shares above 0, and as many times True or False.'
    )
  ends = [
    math.floor(epochs * sum(split[:n]) / sum(split) + 1e-9)
    for n in range(len(split) + 1)
  ]
  first, *others = (end - begin for begin, end in itertools.pairwise(ends))
  return (
    Stage(first, complete=complete[0]),
    *(
      Stage(part, teacher=n, complete=complete[n], **later)
      for n, part in enumerate(others, start=1)
    ),
  )


def kd(settings: Settings) -> tuple[Stage, ...]:
  """A teacher of another network first, at a cost of its own (Table 2).

  The student learns from it by the loss and the cached targets of SRDL (Eq 7).
  An imported teacher has been trained already.

  Raises:
    ConfigError: no teacher is named.
  """
  if settings.teacher_imported:
    # Named too, so that the configuration tells students apart.
    if settings.teacher_model and not settings.teacher_epochs:
      return (Stage(settings.epochs, teacher=IMPORTED),)
    raise ConfigError(
      'With teacher.workdir, teacher.model names its network, and '
      'teacher.epochs is 0.'
    )
  if not settings.teacher_model:
    raise ConfigError(
      "method 'kd' needs a teacher: name its network in teacher.model, or a "
      'finished run in teacher.workdir.'
    )
  return (
    Stage(
      settings.teacher_epochs or settings.epochs, model=settings.teacher_model
    ),
    Stage(settings.epochs, teacher=1),
  )


def born_again(settings: Settings) -> tuple[Stage, ...]:
  """A network and generations of students, each of M epochs, each taught by
  the one before (Furlanello et al. 2018), with the loss of Eq 7."""
  teachers = None, *range(1, settings.generations + 1)
  return tuple(Stage(settings.epochs, teacher=n) for n in teachers)


def self_kd(settings: Settings) -> tuple[Stage, ...]:
  """A student of a fully trained copy of itself: one generation."""
  return born_again(Settings(settings.epochs))


def born_again_equal_budget(settings: Settings) -> tuple[Stage, ...]:
  """Born-again networks that share M: SRDL of more stages."""
  return _self_taught(settings.epochs, (1.0,) * (settings.generations + 1))


def vanilla_ensemble(settings: Settings) -> tuple[Stage, ...]:
  """Two independent networks of half the budget: Table 6's control."""
  half = settings.epochs // 2
  return Stage(half), Stage(settings.epochs - half)


def stage_incomplete(settings: Settings) -> tuple[Stage, ...]:
  """SRDL under a single decay over both stages (Table 4)."""
  return _self_taught(settings.epochs, complete=(False, False))


def no_restart(settings: Settings) -> tuple[Stage, ...]:
  """SRDL whose stage two goes on from stage one's parameters (Table 5)."""
  return _self_taught(settings.epochs, start='previous')


def same_initialisation(settings: Settings) -> tuple[Stage, ...]:
  """SRDL whose stage two restarts at stage one's random parameters."""
  return _self_taught(settings.epochs, start='same')


METHODS: dict[str, Callable[[Settings], tuple[Stage, ...]]] = {
  method.__name__: method
  for method in (
    vanilla,
    srdl,
    kd,
    vanilla_ensemble,
    stage_incomplete,
    no_restart,
    same_initialisation,
    label_smoothing,
    self_kd,
    born_again,
    born_again_equal_budget,
  )
}

# Methods whose result is the mean prediction of all their stages' ends.
ENSEMBLES = frozenset({'vanilla_ensemble'})


def create(method: str, settings: Settings) -> tuple[Stage, ...]:
  """Returns the method's stages, each with the name of its network.

  Raises:
    ConfigError: the method is unknown, a stage would have no epoch, or a
      setting is given that the method has no use for.
  """
  if method not in METHODS:
    raise ConfigError(
      f'Unknown method {method!r}; known: {", ".join(METHODS)}.'
    )
  read = ReadSettings(settings)
  stages = tuple(
    dataclasses.replace(
      stage,
      model=stage.model or settings.model,
      online=settings.online and stage.teacher is not None,
    )
    for stage in METHODS[method](read)
  )
  if any(stage.teacher is not None for stage in stages):
    read.names |= {'online'} if settings.online else {'views'}
  if unread := read.left_over():
    raise ConfigError(
      f'Method {method!r} has no use for {", ".join(unread)}: leave it out, or '
      'take another method.'
    )
  for number, stage in enumerate(stages, start=1):
    _check(method, settings, stages, number, stage)
  return stages


def _check(method, settings, stages, number: int, stage: Stage) -> None:
  if stage.epochs < 1:
    raise ConfigError(
      f'epochs = {settings.epochs} leaves stage {number} of {method!r} without '
      f'an epoch; it needs at least {len(stages)}.'
    )
  if stage.start not in STARTS:
    raise ConfigError(f'Stage {number} has an unknown start {stage.start!r}.')
  earlier = stage.teacher in (None, IMPORTED) or 1 <= stage.teacher < number
  if not earlier:
    raise ConfigError(f'The teacher of stage {number} must come before it.')
  if number == 1 and (stage.start != 'fresh' or stage.keep_optimiser):
    raise ConfigError(
      'Stage 1 can only start fresh, with a fresh optimiser, not '
      f'{stage.start!r}.'
    )
  origins = []
  if stage.start == 'previous' or stage.keep_optimiser:
    origins.append(stages[number - 2])
  if stage.start == 'same':
    origins.append(stages[0])
  for origin in origins:
    if origin.model != stage.model:
      raise ConfigError(
        f'Stage {number} starts from a {origin.model}, but is a {stage.model}.'
      )
