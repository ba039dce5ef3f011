# SPDX-License-Identifier: Apache-2.0
"""A training method is a tuple of stages. To add one, add a function here."""

import dataclasses
from collections.abc import Callable

from srdl_jax.errors import ConfigError

STARTS = ('fresh', 'previous', 'same')


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
  """

  epochs: int
  start: str = 'fresh'
  teacher: int | None = None
  complete: bool = True


def vanilla(epochs: int) -> tuple[Stage, ...]:
  """One stage, labels alone (section 3.2)."""
  return (Stage(epochs),)


def srdl(
  epochs: int,
  *,
  complete: tuple[bool, bool] = (True, True),
  restart: str = 'fresh',
) -> tuple[Stage, ...]:
  """Two stages of half the budget, the second taught by the first (Alg 1).

  Args:
    epochs: M. Stage one gets floor(M / 2), stage two the rest.
    complete: whether stage one and stage two run a decay of their own.
    restart: how stage two starts (see `Stage.start`).
  """
  half = epochs // 2
  return (
    Stage(half, complete=complete[0]),
    Stage(epochs - half, start=restart, teacher=1, complete=complete[1]),
  )


def stage_incomplete(epochs: int) -> tuple[Stage, ...]:
  """SRDL under a single decay over both stages (Table 4)."""
  return srdl(epochs, complete=(False, False))


def stage_one_incomplete(epochs: int) -> tuple[Stage, ...]:
  """SRDL whose stage one alone lacks a decay of its own."""
  return srdl(epochs, complete=(False, True))


def stage_two_incomplete(epochs: int) -> tuple[Stage, ...]:
  """SRDL whose stage two alone lacks a decay of its own."""
  return srdl(epochs, complete=(True, False))


def no_restart(epochs: int) -> tuple[Stage, ...]:
  """SRDL whose stage two goes on from stage one's parameters (Table 5)."""
  return srdl(epochs, restart='previous')


def stage_incomplete_no_restart(epochs: int) -> tuple[Stage, ...]:
  """SRDL under a single decay and without a restart."""
  return srdl(epochs, complete=(False, False), restart='previous')


def same_initialisation(epochs: int) -> tuple[Stage, ...]:
  """SRDL whose stage two restarts at stage one's random parameters."""
  return srdl(epochs, restart='same')


METHODS: dict[str, Callable[[int], tuple[Stage, ...]]] = {
  method.__name__: method
  for method in (
    vanilla,
    srdl,
    stage_incomplete,
    stage_one_incomplete,
    stage_two_incomplete,
    no_restart,
    stage_incomplete_no_restart,
    same_initialisation,
  )
}


def create(method: str, epochs: int) -> tuple[Stage, ...]:
  """Returns the method's stages for a budget of M epochs.

  Raises:
    ConfigError: the method is unknown, or a stage would have no epoch.
  """
  if method not in METHODS:
    raise ConfigError(
      f'Unknown method {method!r}; known: {", ".join(METHODS)}.'
    )
  stages = METHODS[method](epochs)
  for number, stage in enumerate(stages, start=1):
    if stage.epochs < 1:
      raise ConfigError(
        f'epochs = {epochs} leaves stage {number} of {method!r} without an '
        f'epoch; it needs at least {len(stages)}.'
      )
    if stage.start not in STARTS:
      raise ConfigError(f'Stage {number} has an unknown start {stage.start!r}.')
    if stage.teacher is not None and not 1 <= stage.teacher < number:
      raise ConfigError(f'The teacher of stage {number} must come before it.')
  return stages
