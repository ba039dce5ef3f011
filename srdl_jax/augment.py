# SPDX-License-Identifier: Apache-2.0
"""Flip, crop and normalisation of images, on the device.

Each example has a key of its own, made of its row number, so that no draw
depends on the batch or on the device.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

PADDINGS = {'reflect': 'reflect', 'zero': 'constant'}


@dataclasses.dataclass(frozen=True)
class Normalise:
  """Makes of pixels what a network takes: (images / 255 - mean) / std.

  Attributes:
    mean, std: of each channel, for pixel values in [0, 1].
  """

  mean: Sequence[float]
  std: Sequence[float]
  dtype: Any = jnp.float32

  def __call__(self, images: jax.Array) -> jax.Array:
    """Returns normalised images; they are uint8, 0 to 255, [..., C]."""
    channels = (1,) * (images.ndim - 1) + (-1,)
    shift = 255.0 * jnp.asarray(self.mean, self.dtype).reshape(channels)
    scale = 255.0 * jnp.asarray(self.std, self.dtype).reshape(channels)
    return (images.astype(self.dtype) - shift) / scale


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
  """Returns the image [H, W, C], mirrored left to right half of the time."""
  flip = jax.random.randint(key, (), 0, 2, jnp.int32)
  return jnp.where(flip, image[:, ::-1], image)


def random_crop(
  key: jax.Array, image: jax.Array, padding: int, mode: str = 'reflect'
) -> jax.Array:
  """Returns a crop, of the image's size, from the padded image.

  Args:
    key: of the two offsets, uniform in 0..2 x padding.
    image: [H, W, C].
    padding: pixels on each side; less than H and W.
    mode: 'reflect' (edges are not repeated) or 'zero' (black pixels, before
      normalisation).
  """
  if padding == 0:
    return image
  padded = jnp.pad(
    image, ((padding, padding), (padding, padding), (0, 0)), PADDINGS[mode]
  )
  top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1, jnp.int32)
  return jax.lax.dynamic_slice(padded, (top, left, jnp.int32(0)), image.shape)


def flip_and_crop(
  key: jax.Array,
  images: jax.Array,
  index_B: jax.Array,
  *,
  flip: bool,
  padding: int,
  mode: str = 'reflect',
) -> jax.Array:
  """Returns images cropped, then flipped; each by its own example's key.

  Args:
    key: of (purpose, stage, epoch); an example's key is fold_in(key, index).
    images: uint8, [B, H, W, C].
    index_B: the examples' numbers in an order (see `sampling.ORDERS`).
    flip: whether to mirror half of the images.
    padding, mode: see `random_crop`.
  """

  def one(image: jax.Array, index: jax.Array) -> jax.Array:
    flip_key, crop_key = jax.random.split(jax.random.fold_in(key, index))
    image = random_crop(crop_key, image, padding, mode)
    return random_flip(flip_key, image) if flip else image

  return jax.vmap(one)(images, index_B)
