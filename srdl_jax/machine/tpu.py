# SPDX-License-Identifier: Apache-2.0
"""What a TPU wants otherwise: crops as matrix products, images in long rows.

Both give the same bits as what other devices do. Figures are in
docs/accelerators.md.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

# Numbers of an image: longer rows are read in parts, each of which is copied.
LONGEST_ROW = 1 << 15


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['rows'],
  meta_fields=['shape'],
)
@dataclasses.dataclass(frozen=True)
class FlatImages:
  """Images that a TPU keeps as they are given, and reads by their numbers.

  Of [N, H, W, C] with few channels each call would make a padded copy.

  Attributes:
    rows: uint8 [N, H W C].
    shape: (H, W, C).
  """

  rows: np.ndarray | jax.Array
  shape: tuple[int, int, int]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: jax.Array) -> jax.Array:
    """Returns images [..., H, W, C] by their numbers [...]."""
    return self.rows[index].reshape(*index.shape, *self.shape)


def laid_out(array: np.ndarray) -> np.ndarray | FlatImages:
  """Returns images, uint8 [N, H, W, C], as a TPU reads them without a copy.

  Other arrays stay as they are, and so do larger images: those of persons, 256
  x 128, need no copy.
  """
  count, *shape = array.shape
  flat = array.dtype == np.uint8 and len(shape) == 3
  if not flat or math.prod(shape) > LONGEST_ROW:
    return array
  return FlatImages(array.reshape(count, -1), tuple(shape))


def window(
  images: jax.Array,
  flipped_B: jax.Array,
  corner_Bx2: jax.Array,
  *,
  padding: int,
  mode: str,
) -> jax.Array:
  """Returns crops of padded images, some mirrored, by matrix products.

  A slice from a place of its own for each image would be a loop over them.

  Args:
    images: uint8 [B, H, W, C].
    flipped_B: which crops are mirrored, left to right.
    corner_Bx2: of each crop in its padded image: top, left.
    padding, mode: see `augment.flip_and_crop`.
  """
  height, width = images.shape[1:3]
  rows_BxH = corner_Bx2[:, :1] + jnp.arange(height)[None]
  columns = jnp.arange(width)[None]
  mirrored = width - 1 - columns
  columns_BxW = jnp.where(flipped_B[:, None], mirrored, columns)
  columns_BxW += corner_Bx2[:, 1:]
  # bfloat16 has all of 0 to 255, and in a sum one product alone isn't 0.
  pixels = jnp.einsum(
    'bih,bhwc->biwc',
    _chosen(rows_BxH - padding, height, mode),
    images.astype(jnp.bfloat16),
  )
  pixels = jnp.einsum(
    'bjw,biwc->bijc', _chosen(columns_BxW - padding, width, mode), pixels
  )
  return pixels.astype(jnp.uint8)


def _chosen(place_BxL: jax.Array, size: int, mode: str) -> jax.Array:
  """Returns matrices [B, L, size] that choose places: outside, what is
  reflected there, or nothing."""
  if mode == 'reflect':
    place_BxL = size - 1 - abs(size - 1 - abs(place_BxL))
  return jax.nn.one_hot(place_BxL, size, dtype=jnp.bfloat16)
