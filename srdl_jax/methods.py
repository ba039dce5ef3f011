# SPDX-License-Identifier: Apache-2.0
"""A training method is a tuple of stages. To add one, add a function here."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax.errors import ConfigError, unknown

STARTS = ('fresh', 'previous', 'same')
IMPORTED = 0


@dataclasses.dataclass(frozen=True)
class Stage:
  """One network trained for some epochs.

  Attributes:
    epochs: passes over the training set.
    start: 'fresh': new random parameters from a key of this stage (the random
      restart of Algorithm 1), or imported weights anew; 'same': what stage
      one began with; 'previous': parameters and batch-norm statistics of the
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
    source: where its soft targets come from, a key of targets.SOURCES; '' for
      the configured one, or for labels alone.
  """

  epochs: int
  start: str = 'fresh'
  teacher: int | None = None
  complete: bool = True
  model: str = ''
  keep_optimiser: bool = False
  label_smoothing: float = 0.0
  source: str = ''


@dataclasses.dataclass(frozen=True)
class Method:
  """A method, and what it reads.

  Attributes:
    reads: names of the fields that it reads, beside `epochs` and `model.name`;
      others of a method are refused unless at their default.
  """

  plan: Callable[[ConfigDict], tuple[Stage, ...]]
  reads: tuple[str, ...] = ()


METHODS: dict[str, Method] = {}  # By what `method` says.
# Methods whose result is the mean prediction of all their stages' ends.
ENSEMBLES = frozenset({'vanilla_ensemble'})


def reads(*fields: str) -> Callable[[Any], Any]:
  """Registers the function below as a method, which reads these fields."""

  def register(plan):
    # Else every other method would stumble over the name, but not this one.
    if strange := set(fields) - config_lib.FIELDS.keys():
      raise ValueError(f'{plan.__name__} reads {strange}, which is no field')
    METHODS[plan.__name__] = Method(plan, fields)
    return plan

  return register


@reads()
def vanilla(config: ConfigDict) -> tuple[Stage, ...]:
  """One stage, labels alone (section 3.2)."""
  return (Stage(config.epochs),)


@reads('srdl.split', 'srdl.complete', 'srdl.start', 'srdl.keep_optimiser')
def srdl(config: ConfigDict) -> tuple[Stage, ...]:
  """Stages that share the budget, each taught by the one before (Alg 1).

  The paper's are two halves: stage one gets floor(M / 2), stage two the rest.
  """
  return _self_taught(
    config.epochs,
    config.srdl.split,
    complete=config.srdl.complete,
    start=config.srdl.start,
    keep_optimiser=config.srdl.keep_optimiser,
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
    # In floating point 0.7 of 90 epochs is a little below 63.
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


@reads('teacher.model', 'teacher.epochs', 'teacher.workdir')
def kd(config: ConfigDict) -> tuple[Stage, ...]:
  """A teacher of another network first, at a cost of its own (Table 2).

  The student learns from it by the loss and the cached targets of SRDL (Eq 7).
  An imported teacher has been trained already.

  Raises:
    ConfigError: no teacher is named.
  """
  if config.teacher.workdir:
    # Named too, so that the configuration tells students apart.
    if config.teacher.model and not config.teacher.epochs:
      return (Stage(config.epochs, teacher=IMPORTED),)
    raise ConfigError(
      'With teacher.workdir, teacher.model names its network, and '
      'teacher.epochs is 0.'
    )
  if not config.teacher.model:
    raise ConfigError(
      "method 'kd' needs a teacher: name its network in teacher.model, or a "
      'finished run in teacher.workdir.'
    )
  epochs, model = config.teacher.epochs or config.epochs, config.teacher.model
  return Stage(epochs, model=model), Stage(config.epochs, teacher=1)


@reads()
def vanilla_ensemble(config: ConfigDict) -> tuple[Stage, ...]:
  """Two independent networks of half the budget: Table 6's control."""
  half = config.epochs // 2
  return Stage(half), Stage(config.epochs - half)


@reads()
def stage_incomplete(config: ConfigDict) -> tuple[Stage, ...]:
  """SRDL under a single decay over both stages (Table 4)."""
  return _self_taught(config.epochs, complete=(False, False))


@reads()
def no_restart(config: ConfigDict) -> tuple[Stage, ...]:
  """SRDL whose stage two goes on from stage one's parameters (Table 5)."""
  return _self_taught(config.epochs, start='previous')


@reads()
def same_initialisation(config: ConfigDict) -> tuple[Stage, ...]:
  """SRDL whose stage two restarts at stage one's random parameters."""
  return _self_taught(config.epochs, start='same')


@reads('label_smoothing')
def label_smoothing(config: ConfigDict) -> tuple[Stage, ...]:
  """One stage on smoothed labels: soft targets that know nothing."""
  return (Stage(config.epochs, label_smoothing=config.label_smoothing),)


@reads()
def pll(config: ConfigDict) -> tuple[Stage, ...]:
  """SRDL whose stage two learns from its teacher's two best classes alone."""
  return _self_taught(config.epochs, source='top_two')


@reads()
def self_kd(config: ConfigDict) -> tuple[Stage, ...]:
  """A student of a fully trained copy of itself: one generation."""
  return _generations(config.epochs, 1)


@reads('born_again.generations')
def born_again(config: ConfigDict) -> tuple[Stage, ...]:
  """A network and generations of students, each of M epochs, each taught by
  the one before (Furlanello et al. 2018), with the loss of Eq 7."""
  return _generations(config.epochs, config.born_again.generations)


def _generations(epochs: int, students: int) -> tuple[Stage, ...]:
  return tuple(Stage(epochs, teacher=n or None) for n in range(students + 1))


@reads('born_again.generations')
def born_again_equal_budget(config: ConfigDict) -> tuple[Stage, ...]:
  """Born-again networks that share M: SRDL of more stages."""
  networks = config.born_again.generations + 1
  return _self_taught(config.epochs, (1.0,) * networks)


# Methods that are a source of soft targets: see targets.SOURCES.
SOURCES = (
  'ols',
  'ps_kd',
  'tf_kd',
  'cs_kd',
  'dlb',
  'ddgsd',
  'mean_teacher',
  'ema',
)


def _of_source(name: str) -> Callable[[ConfigDict], tuple[Stage, ...]]:
  return lambda config: (Stage(config.epochs, source=name),)


# Of one stage, with the fields of its source.
METHODS |= {
  name: Method(
    _of_source(name),
    tuple(f for f in config_lib.FIELDS if f.startswith(f'{name}.')),
  )
  for name in SOURCES
}


def create(config: ConfigDict) -> tuple[Stage, ...]:
  """Returns the stages of the configured method, with networks and sources.

  Raises:
    ConfigError: the method is unknown, a stage would have no epoch, or a
      field is set that the method has no use for.
  """
  if config.method not in METHODS:
    raise ConfigError(unknown('method', config.method, METHODS, own=True))
  source = 'online' if config.distillation.online else 'bank'
  stages = tuple(
    dataclasses.replace(
      stage,
      model=stage.model or config.model.name,
      source=stage.source or (source if stage.teacher is not None else ''),
    )
    for stage in METHODS[config.method].plan(config)
  )
  _refuse_unread(config, {stage.source for stage in stages})
  for number, stage in enumerate(stages, start=1):
    _check(config, stages, number, stage)
  return stages


# What banks and online teachers read.
_OF_DISTILLATION = (
  'distillation.temperature',
  'distillation.label_weight',
  'distillation.imitation_weight',
)
# Sources that take a teacher, by targets.SOURCES' keys; what else they read.
_TAUGHT = {
  'bank': ('distillation.views',),
  'top_two': ('distillation.views',),
  'online': ('distillation.online',),
}


def _refuse_unread(config: ConfigDict, sources: set[str]) -> None:
  """Refuses fields of other methods that aren't at their default, nor at what
  they were born with: earlier runs have that."""
  fields = *(method.reads for method in METHODS.values()), *_TAUGHT.values()
  own = (_TAUGHT.get(source, ()) for source in sources)
  read = METHODS[config.method].reads, *own
  others = set().union(*fields) - set().union(*read)
  if sources - {'', 'bank', 'online'}:
    # They have weights and temperatures of their own.
    others |= {*_OF_DISTILLATION}
  unread = [
    f'{name} = {config[name]!r}'
    for name, field in config_lib.FIELDS.items()
    if name in others and config[name] not in (field.default, field.born)
  ]
  if unread:
    raise ConfigError(
      f'Method {config.method!r} has no use for {", ".join(unread)}: leave it '
      'out, or take another method.'
    )


def _check(config, stages, number: int, stage: Stage) -> None:
  if stage.epochs < 1:
    raise ConfigError(
      f'epochs = {config.epochs} leaves stage {number} of {config.method!r} '
      f'without an epoch; it needs at least {len(stages)}.'
    )
  if stage.start not in STARTS:
    raise ConfigError(f'Stage {number} has an unknown start {stage.start!r}.')
  imported = stage.teacher == IMPORTED and config.teacher.workdir
  earlier = stage.teacher is None or 1 <= stage.teacher < number
  if not (imported or earlier):
    raise ConfigError(f'The teacher of stage {number} must come before it.')
  takes_teacher = stage.source in _TAUGHT
  if takes_teacher != (stage.teacher is not None):
    has = 'a' if stage.teacher is not None else 'no'
    raise ConfigError(
      f'Stage {number} has the source {stage.source!r}, but {has} teacher.'
    )
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
