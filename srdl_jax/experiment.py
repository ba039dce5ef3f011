# SPDX-License-Identifier: Apache-2.0
"""What a configuration stands for: data, bound stages, random keys."""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from srdl_jax import data, machine, methods, train_state
from srdl_jax import weights as weights_lib
from srdl_jax.artefact import Artefact
from srdl_jax.data import sampling
from srdl_jax.errors import ConfigError
from srdl_jax.imported import Imported
from srdl_jax.network import RETRIEVAL, Member, Network
from srdl_jax.runs import checkpoint, environment
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs.checkpoint import Moment
from srdl_jax.targets import Source


class Purpose(enum.IntEnum):
  """What a random key is for; the number is part of the key.

  What is drawn on the host, orders, hold-outs and crops of streamed images,
  has generators of its own: see `data.sampling`.
  """

  INITIALISE = 0
  AUGMENT = 1
  VIEW = 2


def key_for(seed: int, purpose: Purpose, *counts: int) -> jax.Array:
  """Returns the key of a purpose, a stage and, maybe, an epoch.

  Nothing random has to be saved, and no draw depends on the number of
  devices.

  Args:
    *counts: stage, from 1, and epoch or view, from 0.
  """
  # Named, as others that JAX may be told to take, such as rbg, draw other
  # numbers where a batch is split otherwise.
  key = jax.random.key(seed, impl='threefry2x32')
  for count in (purpose, *counts):
    key = jax.random.fold_in(key, count)
  return key


@dataclasses.dataclass(frozen=True)
class BoundStage:
  """A stage of a method with all that it takes to train it.

  Attributes:
    number: from 1.
    first_step: global step at which it begins.
    drawn: the orders of its epochs.
    source: of its soft targets.
    weights: that a fresh state starts from, or None for random parameters.
    train_chunk: its steps, compiled (see `parallel.map_train` and
      `steps.augmented_step`).
    fingerprint: of the training split.
  """

  number: int
  plan: methods.Stage
  network: Network
  first_step: int
  drawn: sampling.Drawn
  source: Source
  optimiser: optax.GradientTransformationExtraArgs
  weights: weights_lib.Weights | None
  train_chunk: Callable[..., Any]
  config_digest: str
  fingerprint: str

  @property
  def end_step(self) -> int:
    """Global step at which it ends."""
    # A checkpoint at this step is the end; its number is the steps done.
    return self.first_step + self.plan.epochs * self.drawn.steps

  def key(self, purpose: Purpose, *counts: int) -> jax.Array:
    """Returns a random key of this stage: see `key_for`."""
    return key_for(self.drawn.seed, purpose, self.number, *counts)

  def initial_state(self, previous: Moment | None) -> train_state.TrainState:
    """Returns the state that it begins with (see `methods.Stage.start`).

    Args:
      previous: the end of the stage before; read only where this one goes on
        from it.
    """
    state = self._parameters(previous)
    memory = self.source.begin(
      state.variables,
      examples=len(self.drawn.labels),
      classes=self.network.num_classes,
      batch_size=self.drawn.batch_size,
    )
    state = state.replace(memory=memory)
    if not self.plan.keep_optimiser:
      return state
    opt_state = flax.serialization.from_state_dict(
      state.opt_state, previous.state['opt_state']
    )
    return state.replace(opt_state=opt_state)

  def _parameters(self, previous: Moment | None) -> train_state.TrainState:
    rest = self.network.model, self.optimiser
    if self.plan.start == 'previous':
      return train_state.from_variables(
        *rest, previous.variables, self.first_step
      )
    origin = 1 if self.plan.start == 'same' else self.number
    key = key_for(self.drawn.seed, Purpose.INITIALISE, origin)
    state = train_state.fresh(
      *rest, key, self.network.image_shape, self.first_step
    )
    if self.weights is None:
      return state
    # The classifier may stay as drawn, so the draw comes first all the same.
    variables = weights_lib.overlay(state.variables, self.weights)
    return train_state.from_variables(*rest, variables, self.first_step)

  def result(self, moment: Moment) -> dict[str, Any]:
    """Returns the variables of its network at one of its moments."""
    memory = moment.state.get('memory', {})
    return self.source.result(memory, moment.variables)

  def lineage(self, teacher: str | None) -> dict[str, Any]:
    """Returns what its checkpoints must match to be used.

    Args:
      teacher: digest of the checkpoint that its soft targets come from.
    """
    return {
      'run': self.config_digest,
      'data': self.fingerprint,
      'stage': self.number,
      'teacher': teacher,
      'weights': self.weights.digest if self.weights else None,
    }


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A trained network that teaches later stages.

  Attributes:
    number: of its stage, from 1; methods.IMPORTED of another run's.
    variables: its parameters and statistics.
    checkpoint: digest of the state that it ended in.
    seed, temperature: of the run that trained it: an imported teacher's soft
      targets are the same for all students.
  """

  number: int
  network: Network
  variables: Any
  checkpoint: str
  seed: int
  temperature: float


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What a configuration stands for.

  Attributes:
    dataset: all of it, but for the number of classes, which is of those in
      use; row numbers refer to its full splits.
    train_rows, validation_rows, test_rows: row numbers of their splits.
    labels: of the full training split, as they are trained on: with noise.
    stages: what the method does, one after another.
    artefact: what the networks see and say.
    weights: that the configured network starts from, or None.
    imported: the finished run that teaches, or None.
    imported_teacher: its network, or None.
    schedule: rate by global step.
    flip_and_crop: the augmentation, see `augment.flip_and_crop`.
  """

  config: ConfigDict
  dataset: data.Dataset
  train_rows: np.ndarray
  validation_rows: np.ndarray
  test_rows: np.ndarray
  labels: np.ndarray
  stages: tuple[BoundStage, ...]
  artefact: Artefact
  weights: weights_lib.Weights | None
  imported: Imported | None
  imported_teacher: Teacher | None
  schedule: optax.Schedule
  devices: list[jax.Device]
  flip_and_crop: Callable[..., jax.Array]

  @property
  def plan(self) -> tuple[methods.Stage, ...]:
    """The method's stages."""
    return tuple(stage.plan for stage in self.stages)

  @property
  def steps_per_epoch(self) -> int:
    """Optimiser steps; the remainder of an epoch is dropped."""
    return self.stages[0].drawn.steps

  @property
  def total_steps(self) -> int:
    """Optimiser steps of all stages."""
    return self.stages[-1].end_step

  @property
  def description(self) -> str:
    """One line about what is going to be trained, and on what."""
    epochs = sum(stage.epochs for stage in self.plan)
    device = self.devices[0]
    classes = self.dataset.num_classes
    names = ', then '.join(dict.fromkeys(s.model for s in self.plan))
    share = self.config.data.label_noise
    wrong = f' with {100 * share:g} % of labels wrong' if share else ''
    return (
      f'{names} on {len(self.train_rows):,} images of '
      f'{self.dataset.name}{wrong}, {self.config.method}: '
      f'{len(self.stages)} stage(s) '
      f'of {epochs} epochs in all, {self.steps_per_epoch} steps each, on '
      f'{len(self.devices)} {device.platform} device(s), {device.device_kind}'
    ) + (self.weights and self.weights.description(classes) or '')

  @property
  def introduction(self) -> str:
    """The description, and what is known to be wrong with this JAX."""
    fault = environment.known_fault(self.devices[0])
    return f'{self.description}\n{fault}' if fault else self.description

  def examples(self, split: str) -> data.Subset:
    """Returns the examples of 'train', 'validation' or 'test'.

    Raises:
      ConfigError: there are none of that name, or the test ranks a gallery.
    """
    if split not in ('train', 'validation', 'test'):
      raise ConfigError(f'split {split!r}: give train, validation or test.')
    if split == 'validation' and not len(self.validation_rows):
      raise ConfigError('The run kept no validation set (data.holdout = 0).')
    if split == 'test' and self.is_retrieval:
      raise ConfigError(
        f'The test identities of {self.dataset.name} are new: they can be '
        'ranked, not classified.'
      )
    if split == 'test':
      return data.Subset(self.dataset.test, self.test_rows)
    rows = self.train_rows if split == 'train' else self.validation_rows
    return data.Subset(self.dataset.train, rows)

  def members(
    self, variables: Mapping[int, Any], examples: Any
  ) -> list[Member]:
    """Returns networks with their variables, by their stages' numbers, and the
    examples that they are evaluated on."""
    size = self.config.eval.batch_size
    return [
      Member(self.stages[number - 1].network, its, examples, size)
      for number, its in variables.items()
    ]

  @property
  def selection_split(self) -> str:
    """The split that is evaluated while training."""
    return 'validation' if len(self.validation_rows) else 'test'

  @property
  def is_retrieval(self) -> bool:
    """Whether the test ranks a gallery, as its classes are new."""
    return self.stages[0].network.task == RETRIEVAL

  @property
  def score(self) -> str:
    """The metric of the selection split by which a network is the best."""
    ranked = self.is_retrieval and self.selection_split == 'test'
    return 'map' if ranked else 'accuracy'

  def teacher(self, number: int, end: Moment) -> Teacher:
    """Returns the teacher that a stage, by its number, is at its end."""
    stage = self.stages[number - 1]
    return Teacher(
      number=number,
      network=stage.network,
      variables=stage.result(end),
      checkpoint=checkpoint.digest(end.state),
      seed=self.config.seed,
      temperature=self.config.distillation.temperature,
    )

  @property
  def steps_per_dispatch(self) -> int:
    """Steps in one call of `train_chunk`."""
    requested = self.config.steps_per_dispatch
    if self.dataset.train.is_streamed:
      return requested or 1
    if self.config.profile and not requested:
      # A trace is of whole dispatches.
      requested = machine.steps_per_dispatch(0, 5, self.devices)
    return machine.steps_per_dispatch(
      requested, self.steps_per_epoch, self.devices
    )

  @property
  def environment(self) -> dict[str, Any]:
    """What isn't part of the run's identity, but may change its bits."""
    return {
      **environment.environment(self.devices),
      'steps_per_dispatch': self.steps_per_dispatch,
      'eval_batch_size': self.config.eval.batch_size,
    }

  @property
  def identity(self) -> run_directory.Identity:
    """Which run a directory of this experiment belongs to."""
    return run_directory.Identity(
      self.config,
      self.dataset.train.fingerprint,
      self.weights.digest if self.weights else None,
      self.imported.checkpoint if self.imported else None,
      self.dataset.test.fingerprint if self.is_retrieval else None,
    )
