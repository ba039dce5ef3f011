# SPDX-License-Identifier: Apache-2.0
"""What a configuration stands for: data, networks, stages, clock and keys."""

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax import data, methods, parallel, train_state
from srdl_jax import weights as weights_lib
from srdl_jax.data import pipeline
from srdl_jax.errors import ConfigError
from srdl_jax.parallel import predict
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import environment
from srdl_jax.runs.checkpoint import Moment
from srdl_jax.runs.finished import Teacher


class Purpose(enum.IntEnum):
  """What a random key is for; the number is part of the key."""

  INITIALISE = 0
  AUGMENT = 1
  VIEW = 2


def key_for(seed: int, purpose: Purpose, *counts: int) -> jax.Array:
  """Returns the key of a purpose, a stage and, maybe, an epoch.

  Nothing random has to be saved, and no draw depends on the number of
  devices.

  Args:
    seed: of the run.
    purpose: what is drawn.
    *counts: stage, from 1, and epoch or view, from 0.
  """
  key = jax.random.key(seed)
  for count in (purpose, *counts):
    key = jax.random.fold_in(key, count)
  return key


@dataclasses.dataclass(frozen=True)
class Network:
  """A network that some stage trains.

  Attributes:
    model: its batch norm averages over the devices' axis while training.
    predict_step: (variables, uint8 images [b, H, W, C]) to logits [b, K].
    predict_batch: the same over the devices (see `parallel.map_predict`).
    feature_batch: whether images are mirrored, too, to the same of pooled
      features [b, D] (see `steps.feature_step`).
  """

  model: nn.Module
  predict_step: Callable[..., jax.Array]
  predict_batch: Callable[..., Any]
  feature_batch: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What a configuration stands for.

  Attributes:
    config: validated.
    dataset: all of it, but for the number of classes, which is of those in
      use; row numbers refer to its full splits.
    train_rows, validation_rows, test_rows: row numbers of their splits.
    stages: the method's plan.
    networks: by the names that the stages give.
    weights: that the configured network starts from, or None.
    teacher: the finished run that teaches, or None.
    teacher_network: its network, or None.
    steps_per_epoch: optimiser steps; the remainder of an epoch is dropped.
    schedule: rate by global step.
    optimiser: the optax chain.
    devices: to run on.
    flip_and_crop: the augmentation, see `augment.flip_and_crop`.
    train_chunk_of: share of smoothed labels and number of an online teacher,
      or None, to a train step (see `parallel.map_train`,
      `steps.augmented_step` and `feed`).
  """

  config: ConfigDict
  dataset: data.Dataset
  train_rows: np.ndarray
  validation_rows: np.ndarray
  test_rows: np.ndarray
  stages: tuple[methods.Stage, ...]
  networks: Mapping[str, Network]
  weights: weights_lib.Weights | None
  teacher: Teacher | None
  teacher_network: Network | None
  steps_per_epoch: int
  schedule: optax.Schedule
  optimiser: optax.GradientTransformationExtraArgs
  devices: list[jax.Device]
  flip_and_crop: Callable[..., jax.Array]
  train_chunk_of: Callable[[float, int | None], Callable[..., Any]]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of an example."""
    return self.dataset.train.images.shape[1:]

  @property
  def description(self) -> str:
    """One line about what is going to be trained, and on what."""
    epochs = sum(stage.epochs for stage in self.stages)
    device = self.devices[0]
    classes = self.dataset.num_classes
    names = ', then '.join(dict.fromkeys(s.model for s in self.stages))
    return (
      f'{names} on {len(self.train_rows):,} images of '
      f'{self.dataset.name}, {self.config.method}: {len(self.stages)} stage(s) '
      f'of {epochs} epochs in all, {self.steps_per_epoch} steps each, on '
      f'{len(self.devices)} {device.platform} device(s), {device.device_kind}'
    ) + (self.weights and self.weights.description(classes) or '')

  def network(self, number: int) -> Network:
    """Returns the network of stage `number` (from 1), or methods.IMPORTED."""
    if number == methods.IMPORTED:
      return self.teacher_network
    return self.networks[self.stages[number - 1].model]

  def train_chunk(self, number: int) -> Callable[..., Any]:
    """Returns the compiled train step of stage `number` (from 1)."""
    stage = self.stages[number - 1]
    online = stage.teacher if stage.online else None
    return self.train_chunk_of(stage.label_smoothing, online)

  def first_step(self, number: int) -> int:
    """Returns the global step at which stage `number` (from 1) begins."""
    epochs = sum(stage.epochs for stage in self.stages[: number - 1])
    return epochs * self.steps_per_epoch

  def rows(self, split: str) -> tuple[data.Split, np.ndarray]:
    """Returns the full split that 'train', 'validation' or 'test' is part of,
    and its row numbers.

    Raises:
      ConfigError: the test ranks a gallery.
    """
    if split == 'test' and self.is_retrieval:
      raise ConfigError(
        f'The test identities of {self.dataset.name} are new: they can be '
        'ranked, not classified.'
      )
    if split == 'test':
      return self.dataset.test, self.test_rows
    if split == 'train':
      return self.dataset.train, self.train_rows
    return self.dataset.train, self.validation_rows

  @property
  def selection_split(self) -> str:
    """The split that is evaluated while training."""
    return 'validation' if len(self.validation_rows) else 'test'

  @property
  def is_retrieval(self) -> bool:
    """Whether the test ranks a gallery, as its classes are new."""
    return isinstance(self.dataset.test, data.Retrieval)

  @property
  def score(self) -> str:
    """The metric of the selection split by which a network is the best."""
    ranked = self.is_retrieval and self.selection_split == 'test'
    return 'map' if ranked else 'accuracy'

  def predict(
    self,
    number: int,
    variables: Any,
    split: str,
    *,
    view: int | None = None,
    batch_size: int = 0,
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (rows [b], logits [b, K]) over a split, in order.

    Args:
      number: of the stage whose network it is, from 1, or methods.IMPORTED.
      variables: its parameters and statistics.
      split: see `rows`.
      view: number of an augmented view of the images; None: clean.
      batch_size: images in a call; 0: eval.batch_size.
    """
    source, rows = self.rows(split)

    def fetch(rows_B):
      own = parallel.own(rows_B, self.devices)
      if view is None:
        return source.images[own]
      seed = self.owner(number).seed
      images = pipeline.views(source.images, own, seed, number, view)
      key = key_for(seed, Purpose.VIEW, number, view)
      return np.asarray(self.flip_and_crop(key, images, own))

    batch_size = batch_size or self.config.eval.batch_size
    return predict(
      self.network(number).predict_batch,
      parallel.replicate(variables, self.devices),
      fetch,
      rows,
      parallel.whole_batch(batch_size, self.devices),
    )

  def owner(self, number: int) -> ConfigDict:
    """Returns whose settings soft targets follow: an imported teacher's are
    the same for all students."""
    return self.config if number else self.teacher.record.config

  def initial_state(
    self, number: int, previous: Moment | None
  ) -> train_state.TrainState:
    """Returns the state that a stage begins with (see `methods.Stage.start`).

    Args:
      number: of the stage, from 1.
      previous: the end of the stage before; read only where the stage goes on
        from it.
    """
    state = self._parameters(number, previous)
    if not self.stages[number - 1].keep_optimiser:
      return state
    opt_state = flax.serialization.from_state_dict(
      state.opt_state, previous.state['opt_state']
    )
    return state.replace(opt_state=opt_state)

  def _parameters(
    self, number: int, previous: Moment | None
  ) -> train_state.TrainState:
    start = self.stages[number - 1].start
    model = self.network(number).model
    step = self.first_step(number)
    if start == 'previous':
      return train_state.from_variables(
        model, self.optimiser, previous.variables, step
      )
    origin = 1 if start == 'same' else number
    key = key_for(self.config.seed, Purpose.INITIALISE, origin)
    state = train_state.fresh(
      model, self.optimiser, key, self.image_shape, step
    )
    if not self._pretrained(number):
      return state
    variables = weights_lib.overlay(state.variables, self.weights)
    return train_state.from_variables(model, self.optimiser, variables, step)

  def _pretrained(self, number: int) -> bool:
    configured = self.stages[number - 1].model == self.config.model.name
    return self.weights is not None and configured

  @property
  def steps_per_dispatch(self) -> int:
    """Steps in one call of `train_chunk`."""
    requested = self.config.steps_per_dispatch
    if self.dataset.train.is_streamed:
      return requested or 1
    if self.config.profile and not requested:
      # A trace is of whole dispatches.
      requested = parallel.steps_per_dispatch(0, 5, self.devices)
    return parallel.steps_per_dispatch(
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
  def record(self) -> run_directory.Record:
    """Which run a directory of this experiment belongs to."""
    return run_directory.Record(
      self.config,
      self.dataset.train.fingerprint,
      self.weights.digest if self.weights else None,
      self.teacher.checkpoint if self.teacher else None,
      self.dataset.test.fingerprint if self.is_retrieval else None,
    )

  def lineage(self, number: int, teacher: str | None) -> dict[str, Any]:
    """Returns what the checkpoints of a stage must match to be used.

    Args:
      number: of the stage, from 1.
      teacher: digest of the checkpoint that its soft targets come from.
    """
    return {
      'run': config_lib.digest(self.config),
      'data': self.dataset.train.fingerprint,
      'stage': number,
      'teacher': teacher,
      'weights': self.weights.digest if self._pretrained(number) else None,
    }
