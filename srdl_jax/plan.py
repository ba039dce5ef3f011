# SPDX-License-Identifier: Apache-2.0
"""A training method is a tuple of stages. To add one, add a function here."""

import dataclasses
from collections.abc import Callable

from srdl_jax.errors import ConfigError

STARTS = ('fresh', 'previous', 'same')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the configuration says to a method.

  Attributes:
    epochs: M, the budget of the method.
    model: name of the network.
    teacher_model: name of another network that teaches; '' where none does.
    teacher_epochs: epochs of that teacher, on top of M; 0: M as well.
  """

  epochs: int
  model: str = ''
  teacher_model: str = ''
  teacher_epochs: int = 0


@dataclasses.dataclass(frozen=True)
class Stage:
  """One network trained for some epochs.

  Attributes:
    epochs: passes over the training set.
    start: 'fresh': new random parameters from a key of this stage (the random
      restart of Algorithm 1); 'same': the random parameters that stage one
      began with; 'previous': parameters and batch-norm statistics of the
      stage before. The optimiser's state is fresh in each case.
    teacher: number of the earlier stage whose soft targets it learns from
      beside the labels, from 1; None for labels alone.
    complete: whether it runs a whole learning-rate decay of its own (Eq 4) or
      its part of one decay over the run (Eq 3).
    model: name of its network; '' for the configured one.
  """

  epochs: int
  start: str = 'fresh'
  teacher: int | None = None
  complete: bool = True
  model: str = ''


def vanilla(settings: Settings) -> tuple[Stage, ...]:
  """One stage, labels alone (section 3.2)."""
  return (Stage(settings.epochs),)


def srdl(
  settings: Settings,
  *,
  complete: tuple[bool, bool] = (True, True),
  restart: str = 'fresh',
) -> tuple[Stage, ...]:
  """Two stages of half the budget, the second taught by the first (Alg 1).

  Args:
    settings: of M epochs. Stage one gets floor(M / 2), stage two the rest.
    complete: whether stage one and stage two run a decay of their own.
    restart: how stage two starts (see `Stage.start`).
  """
  half = settings.epochs // 2
  return (
    Stage(half, complete=complete[0]),
    Stage(
      settings.epochs - half, start=restart, teacher=1, complete=complete[1]
    ),
  )


def kd(settings: Settings) -> tuple[Stage, ...]:
  """A teacher of another network first, at a cost of its own (Table 2).

  The student learns from it by the loss and the cached targets of SRDL (Eq 7).

  Raises:
    ConfigError: no teacher is named.
  """
  if not settings.teacher_model:
    raise ConfigError(
      "method 'kd' needs a teacher: name its network in teacher.model."
    )
  return (
    Stage(
      settings.teacher_epochs or settings.epochs, model=settings.teacher_model
    ),
    Stage(settings.epochs, teacher=1),
  )


def vanilla_ensemble(settings: Settings) -> tuple[Stage, ...]:
  """Two independent networks of half the budget: Table 6's control."""
  half = settings.epochs // 2
  return (Stage(half), Stage(settings.epochs - half))


def stage_incomplete(settings: Settings) -> tuple[Stage, ...]:
  """SRDL under a single decay over both stages (Table 4)."""
  return srdl(settings, complete=(False, False))


def stage_one_incomplete(settings: Settings) -> tuple[Stage, ...]:
  """SRDL whose stage one alone lacks a decay of its own."""
  return srdl(settings, complete=(False, True))


def stage_two_incomplete(settings: Settings) -> tuple[Stage, ...]:
  """SRDL whose stage two alone lacks a decay of its own."""
  return srdl(settings, complete=(True, False))


def no_restart(settings: Settings) -> tuple[Stage, ...]:
  """SRDL whose stage two goes on from stage one's parameters (Table 5)."""
  return srdl(settings, restart='previous')


def stage_incomplete_no_restart(settings: Settings) -> tuple[Stage, ...]:
  """SRDL under a single decay and without a restart."""
  return srdl(settings, complete=(False, False), restart='previous')


def same_initialisation(settings: Settings) -> tuple[Stage, ...]:
  """SRDL whose stage two restarts at stage one's random parameters."""
  return srdl(settings, restart='same')


METHODS: dict[str, Callable[[Settings], tuple[Stage, ...]]] = {
  method.__name__: method
  for method in (
    vanilla,
    srdl,
    kd,
    vanilla_ensemble,
    stage_incomplete,
    stage_one_incomplete,
    stage_two_incomplete,
    no_restart,
    stage_incomplete_no_restart,
    same_initialisation,
  )
}


# Methods whose result is the mean prediction of all their stages' ends.
ENSEMBLES = frozenset({'vanilla_ensemble'})


def create(method: str, settings: Settings) -> tuple[Stage, ...]:
  """Returns the method's stages, each with the name of its network.

  Raises:
    ConfigError: the method is unknown, a stage would have no epoch, or a
      teacher is named that the method has no use for.
  """
  if method not in METHODS:
    raise ConfigError(
      f'Unknown method {method!r}; known: {", ".join(METHODS)}.'
    )
  stages = METHODS[method](settings)
  given = settings.teacher_model or settings.teacher_epochs
  if given and not any(stage.model for stage in stages):
    raise ConfigError(
      f'teacher.model = {settings.teacher_model!r} and teacher.epochs = '
      f'{settings.teacher_epochs} are set, but method {method!r} has no '
      'teacher of another network.'
    )
  stages = tuple(
    dataclasses.replace(stage, model=stage.model or settings.model)
    for stage in stages
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
  if stage.teacher is not None and not 1 <= stage.teacher < number:
    raise ConfigError(f'The teacher of stage {number} must come before it.')
  if number == 1 and stage.start != 'fresh':
    raise ConfigError(f'Stage 1 can only start fresh, not {stage.start!r}.')
  origin = stages[number - 2] if stage.start == 'previous' else stages[0]
  if stage.start != 'fresh' and origin.model != stage.model:
    raise ConfigError(
      f'Stage {number} starts from a {origin.model}, but is a {stage.model}.'
    )
