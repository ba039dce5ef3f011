# SPDX-License-Identifier: Apache-2.0
"""From a configuration to everything that a run needs."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from srdl_jax import (
  augment,
  data,
  environment,
  models,
  optimiser,
  parallel,
  plan,
  schedules,
  steps,
  train_state,
)
from srdl_jax import config as config_lib
from srdl_jax.data import sampling
from srdl_jax.errors import ConfigError
from srdl_jax.predict import predict
from srdl_jax.randomness import Purpose, key_for


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What a configuration stands for.

  Attributes:
    config: validated.
    dataset: all of it; row numbers refer to its full splits.
    train_rows, validation_rows: row numbers of the training split.
    stages: the method's plan.
    steps_per_epoch: optimiser steps; the remainder of an epoch is dropped.
    schedule: rate by global step.
    model: its batch norm averages over the devices' axis while training.
    optimiser: the optax chain.
    devices: to run on.
    train_chunk: see `parallel.map_train`; its resident tree is
      {image, label, soft_logits}.
    predict_batch: see `parallel.map_predict`; from uint8 images to logits.
  """

  config: ConfigDict
  dataset: data.Dataset
  train_rows: np.ndarray
  validation_rows: np.ndarray
  stages: tuple[plan.Stage, ...]
  steps_per_epoch: int
  schedule: optax.Schedule
  model: nn.Module
  optimiser: optax.GradientTransformationExtraArgs
  devices: list[jax.Device]
  train_chunk: Callable[..., Any]
  predict_batch: Callable[..., Any]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of an example."""
    return self.dataset.train.images.shape[1:]

  @property
  def description(self) -> str:
    """One line about what is going to be trained, and on what."""
    epochs = sum(stage.epochs for stage in self.stages)
    device = self.devices[0]
    return (
      f'{self.config.model.name} on {len(self.train_rows):,} images of '
      f'{self.dataset.name}, {self.config.method}: {len(self.stages)} stage(s) '
      f'of {epochs} epochs in all, {self.steps_per_epoch} steps each, on '
      f'{len(self.devices)} {device.platform} device(s), {device.device_kind}'
    )

  def first_step(self, number: int) -> int:
    """Returns the global step at which stage `number` (from 1) begins."""
    epochs = sum(stage.epochs for stage in self.stages[: number - 1])
    return epochs * self.steps_per_epoch

  def rows(self, split: str) -> tuple[data.Split, np.ndarray]:
    """Returns the full split that 'train', 'validation' or 'test' is part of,
    and its row numbers."""
    if split == 'test':
      return self.dataset.test, np.arange(len(self.dataset.test.labels))
    if split == 'train':
      return self.dataset.train, self.train_rows
    return self.dataset.train, self.validation_rows

  @property
  def selection_split(self) -> str:
    """The split that is evaluated while training."""
    return 'validation' if len(self.validation_rows) else 'test'

  def predict(self, variables: Any, split: str):
    """Yields (rows [b], logits [b, K]) over a split, in order."""
    source, rows = self.rows(split)
    ways = len(self.devices)
    batch_size = -(-self.config.eval.batch_size // ways) * ways
    return predict(
      self.predict_batch,
      parallel.replicate(variables, self.devices),
      source.images,
      rows,
      batch_size,
    )

  def initial_state(
    self, number: int, previous: Mapping[str, Any] | None
  ) -> train_state.TrainState:
    """Returns the state that a stage begins with (see `plan.Stage.start`).

    Args:
      number: of the stage, from 1.
      previous: parameters and statistics at the end of the stage before; read
        only where the stage goes on from them.
    """
    start = self.stages[number - 1].start
    step = self.first_step(number)
    if start == 'previous':
      return train_state.from_variables(
        self.model, self.optimiser, previous, step
      )
    origin = 1 if start == 'same' else number
    key = key_for(self.config.seed, Purpose.INITIALISE, origin)
    return train_state.fresh(
      self.model, self.optimiser, key, self.image_shape, step
    )

  @property
  def steps_per_dispatch(self) -> int:
    """Steps in one call of `train_chunk`."""
    requested = self.config.steps_per_dispatch
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

  def lineage(self, number: int, teacher: str | None) -> dict[str, Any]:
    """Returns what the checkpoints of a stage must match to be used.

    Args:
      number: of the stage, from 1.
      teacher: digest of the checkpoint that its soft targets come from.
    """
    identity = config_lib.identity(config_lib.flatten(self.config))
    text = json.dumps(identity, sort_keys=True)
    return {
      'run': hashlib.sha256(text.encode()).hexdigest(),
      'data': self.dataset.train.fingerprint,
      'stage': number,
      'teacher': teacher,
    }

  def provenance(self, checkpoint_digest: str) -> dict[str, Any]:
    """Returns what soft targets of a stage must match to be used."""
    rows = self.train_rows.astype('<i4').tobytes()
    return {
      'dataset': self.dataset.name,
      'version': self.dataset.version,
      'split': self.dataset.train.name,
      'fingerprint': self.dataset.train.fingerprint,
      'rows': hashlib.sha256(rows).hexdigest(),
      'model': self.config.model.name,
      'checkpoint': checkpoint_digest,
      'temperature': self.config.distillation.temperature,
    }


def build(config: ConfigDict) -> Experiment:
  """Builds an experiment; reads the data set, and compiles nothing yet.

  Raises:
    ConfigError: a field is out of range, or fields don't fit each other.
    DataError: the data set can't be read.
  """
  config_lib.validate(config)
  stages = plan.create(config.method, config.epochs)
  if config.model.dtype == 'float64':
    jax.config.update('jax_enable_x64', True)
  parallel.use_compilation_cache()
  devices = parallel.choose_devices(config.devices)
  if config.batch_size % len(devices):
    raise ConfigError(
      f'batch_size = {config.batch_size} is not divisible by the '
      f'{len(devices)} devices; set devices or batch_size.'
    )
  # Names are checked before the data set is read.
  shortcut = config.model.shortcut
  create = functools.partial(
    models.create,
    config.model.name,
    **({'shortcut': shortcut} if shortcut else {}),
    dtype=jnp.dtype(config.model.dtype),
    axis_name=parallel.AXIS,
  )
  create(num_classes=1)
  dataset = data.load(
    config.data.name,
    data_dir=config.data.data_dir,
    manual_dir=config.data.manual_dir,
    download=config.data.download,
  )
  return _assemble(config, stages, devices, create, dataset)


def _assemble(config, stages, devices, create, dataset) -> Experiment:
  train_rows, validation_rows = sampling.choose_rows(
    dataset.train.labels,
    holdout=config.data.holdout,
    examples_per_class=config.data.examples_per_class,
    seed=config.seed,
  )
  steps_per_epoch = len(train_rows) // config.batch_size
  if not steps_per_epoch:
    raise ConfigError(
      f'batch_size = {config.batch_size} is larger than the '
      f'{len(train_rows)} training examples.'
    )
  height, width, _ = dataset.train.images.shape[1:]
  if config.augment.padding >= min(height, width):
    raise ConfigError(
      f'augment.padding = {config.augment.padding} must be below the '
      f"images' size, {height} x {width}."
    )
  schedule = schedules.over_stages(
    config.optimiser.learning_rate,
    [stage.epochs * steps_per_epoch for stage in stages],
    [stage.complete for stage in stages],
    decay_at=config.schedule.decay_at,
    decay_factor=config.schedule.decay_factor,
  )
  model = create(num_classes=dataset.num_classes)
  normalise = functools.partial(
    augment.normalise,
    mean=dataset.mean,
    std=dataset.std,
    dtype=jnp.promote_types(config.model.dtype, jnp.float32),
  )
  return Experiment(
    config=config,
    dataset=dataset,
    train_rows=train_rows,
    validation_rows=validation_rows,
    stages=stages,
    steps_per_epoch=steps_per_epoch,
    schedule=schedule,
    model=model,
    optimiser=optimiser.sgd(
      momentum=config.optimiser.momentum,
      weight_decay=config.optimiser.weight_decay,
    ),
    devices=devices,
    train_chunk=_train_chunk(config, schedule, normalise, devices),
    predict_batch=parallel.map_predict(
      functools.partial(steps.predict_step, model=model, normalise=normalise),
      devices,
    ),
  )


def _train_chunk(config, schedule, normalise, devices):
  step = functools.partial(
    steps.train_step,
    schedule=schedule,
    temperature=config.distillation.temperature,
    label_weight=config.distillation.label_weight,
    imitation_weight=config.distillation.imitation_weight,
    axis_name=parallel.AXIS,
  )
  flip_and_crop = functools.partial(
    augment.flip_and_crop,
    flip=config.augment.flip,
    padding=config.augment.padding,
    mode=config.augment.mode,
  )
  return parallel.map_train(
    functools.partial(
      steps.resident_step,
      augment=flip_and_crop,
      normalise=normalise,
      step=step,
    ),
    devices,
  )
