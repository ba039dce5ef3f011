# SPDX-License-Identifier: Apache-2.0
"""Which examples a run uses, and how their images are varied."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from srdl_jax import augment, data, retrieval_task
from srdl_jax import config as config_lib
from srdl_jax.data import sampling
from srdl_jax.errors import ConfigError


def choose(
  config: ConfigDict, dataset: data.Dataset
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the rows to train on, to validate and to test on.

  There are none to test on where the test is a retrieval.

  Raises:
    ConfigError: a batch is larger than the training set, or see
      `sampling.choose_rows`.
    DataError: no query of a retrieval can be answered.
  """
  train_rows, validation_rows = sampling.choose_rows(
    dataset.train.labels, **config_lib.subset(config)
  )
  if len(train_rows) < config.batch_size:
    raise ConfigError(
      f'batch_size = {config.batch_size} is larger than the '
      f'{len(train_rows)} training examples.'
    )
  if isinstance(dataset.test, data.Retrieval):
    _check_retrieval(dataset.test)
    return train_rows, validation_rows, np.arange(0)
  test_rows = sampling.rows_of_classes(dataset.test.labels, config.data.classes)
  return train_rows, validation_rows, test_rows


def _check_retrieval(test):
  """Refuses a test in which no query can be answered, before training."""
  asked = [slice(None)]
  if test.multi_query is not None:
    asked.append(test.pictured_queries)
  for queries in asked:
    retrieval_task.Task(
      test.query.identities[queries],
      test.gallery.identities,
      test.query.cameras[queries],
      test.gallery.cameras,
    ).refuse_impossible()


def with_crops(dataset: data.Dataset, least_area: float) -> data.Dataset:
  """Returns streamed data whose training crops have at least that area."""
  images = dataclasses.replace(dataset.train.images, least_area=least_area)
  train = dataclasses.replace(dataset.train, images=images)
  return dataclasses.replace(dataset, train=train)


def augmentation(
  config: ConfigDict, dataset: data.Dataset
) -> Callable[..., jax.Array]:
  """Returns the configured `augment.flip_and_crop`.

  Raises:
    ConfigError: it doesn't fit the images.
  """
  height, width, _ = dataset.train.images.shape[1:]
  streamed = dataset.train.is_streamed
  if streamed and config.augment.padding:
    raise ConfigError(
      f'augment.padding = {config.augment.padding}, but images of '
      f'{dataset.name} are cropped by augment.least_area: set it to 0.'
    )
  if config.data.image_size not in (0, height) and not streamed:
    raise ConfigError(
      f'data.image_size = {config.data.image_size}, but images of '
      f'{dataset.name} are {height} x {width}: set it to 0.'
    )
  if config.augment.padding >= min(height, width):
    raise ConfigError(
      f'augment.padding = {config.augment.padding} must be below the '
      f"images' size, {height} x {width}."
    )
  return functools.partial(
    augment.flip_and_crop,
    flip=config.augment.flip,
    padding=config.augment.padding,
    mode=config.augment.mode,
  )
