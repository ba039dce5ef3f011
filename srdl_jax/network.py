# SPDX-License-Identifier: Apache-2.0
"""A network without data or training: images to logits, or to features.

Its parameters and batch-norm statistics are given with each call.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from srdl_jax import data, models, parallel
from srdl_jax.augment import Normalise

CLASSIFICATION = 'classification'
RETRIEVAL = 'retrieval'


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A network of a known task.

  Attributes:
    name: a key of models.MODELS.
    model: with its options; its batch norm averages over the devices' axis
      while training.
    image_shape: (H, W, C) of an image.
    num_classes: K.
    normalise: uint8 images to what the model takes.
    task: CLASSIFICATION; or RETRIEVAL, where its features rank a gallery of
      classes that it doesn't know.
  """

  name: str
  model: nn.Module
  image_shape: tuple[int, int, int]
  num_classes: int
  normalise: Normalise
  task: str
  devices: list[jax.Device]

  @functools.cached_property
  def like(self) -> Any:
    """Shapes and types of its parameters and statistics.

    Raises:
      ConfigError: the images are too small.
    """
    return jax.eval_shape(self._initialised, jax.random.key(0))

  def _initialised(self, key: jax.Array) -> Any:
    images = jnp.zeros((1, *self.image_shape))
    return self.model.init(key, images, train=False)

  @functools.cached_property
  def draws(self) -> bool:
    """See `models.draws`."""
    return models.draws(self.model, self.image_shape)

  def predict_step(self, variables: Any, images: jax.Array) -> jax.Array:
    """Returns logits [b, K] of uint8 images, in evaluation mode; on one device.

    Neither this nor `feature_step` is compiled.
    """
    return self.model.apply(variables, self.normalise(images), train=False)

  def feature_step(
    self, variables: Any, images: jax.Array, *, mirrored: bool = False
  ) -> jax.Array:
    """Returns pooled features [b, D] of uint8 images, in evaluation mode.

    Args:
      images: uint8 [b, H, W, C].
      mirrored: whether to average them with those of the mirrored images.
    """
    found_BxD = models.features(self.model, variables, self.normalise(images))
    if not mirrored:
      return found_BxD
    flipped = self.normalise(images[:, :, ::-1])
    return (found_BxD + models.features(self.model, variables, flipped)) / 2

  def predict(
    self, variables: Any, images: Any, rows: np.ndarray, batch_size: int
  ) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Returns (rows [b], logits [b, K]) in order; see `parallel.predict`."""
    step = self._compiled(self.predict_step)
    return parallel.predict(
      step, variables, images, rows, batch_size, self.devices
    )

  def features(
    self,
    variables: Any,
    images: Any,
    rows: np.ndarray,
    batch_size: int,
    *,
    mirrored: bool = False,
  ) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Returns (rows [b], features [b, D]) in order; see `feature_step`."""
    step = self._compiled(self.feature_step, mirrored=mirrored)
    return parallel.predict(
      step, variables, images, rows, batch_size, self.devices
    )

  @functools.cached_property
  def _compiled(self) -> Callable[..., Callable[..., jax.Array]]:
    # Of a step and its options, each once for all calls.
    def compiled(step, **options):
      step = functools.partial(step, **options)
      return parallel.map_predict(step, self.devices)

    return functools.cache(compiled)


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
  """One of the networks that are evaluated together.

  Attributes:
    variables: its parameters and statistics.
    examples: as it sees them: those of the others, at its own size of images;
      or the queries and the gallery that its features rank.
  """

  network: Network
  variables: Any
  examples: data.Subset | data.Retrieval
  batch_size: int
