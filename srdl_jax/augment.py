# SPDX-License-Identifier: Apache-2.0
"""Flip, crop and normalisation of images, on the device.

Each example has a key of its own, made of its row number, so that no draw
depends on the batch or on the device.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from srdl_jax.machine import tpu

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
    padding: pixels on each side of an image; less than H and W. A crop's
      offsets in the padded image are uniform in 0..2 x padding.
    mode: 'reflect' (edges are not repeated) or 'zero' (black pixels, before
      normalisation).
  """

  def draw(index: jax.Array) -> tuple[jax.Array, jax.Array]:
    flip_key, crop_key = jax.random.split(jax.random.fold_in(key, index))
    flipped = jax.random.randint(flip_key, (), 0, 2, jnp.int32)
    corner = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1, jnp.int32)
    return flipped * flip, corner

  drawn, options = jax.vmap(draw)(index_B), {'padding': padding, 'mode': mode}
  cut = jax.vmap(functools.partial(_window, **options))
  if not padding:
    return cut(images, *drawn)
  products = functools.partial(tpu.window, **options)
  return jax.lax.platform_dependent(images, *drawn, tpu=products, default=cut)


def _window(image, flipped, corner, *, padding, mode):
  """Returns a crop [H, W, C] of the padded image, mirrored if it is flipped."""
  if padding:
    padded = jnp.pad(
      image, ((padding, padding), (padding, padding), (0, 0)), PADDINGS[mode]
    )
    start = (*corner, jnp.int32(0))
    image = jax.lax.dynamic_slice(padded, start, image.shape)
  return jnp.where(flipped, image[:, ::-1], image)
