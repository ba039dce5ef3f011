# SPDX-License-Identifier: Apache-2.0
"""Wide ResNets for 32 x 32 images (Zagoruyko and Komodakis 2016)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srdl_jax.errors import ConfigError
from srdl_jax.models.layers import Layers, relu


class PreActivationBlock(nn.Module):
  """Batch norm and ReLU before each of two 3 x 3 convolutions.

  The stride is that of the first, and of the shortcut.
  """

  layers: Layers
  width: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv, norm = self.layers.conv, self.layers.norm
    y = relu(norm(name='bn1')(x))
    if self.stride > 1 or x.shape[-1] != self.width:
      # The activated input, and no batch norm behind it.
      x = conv(self.width, 1, self.stride, name='convShortcut')(y)
    y = conv(self.width, 3, self.stride, name='conv1')(y)
    y = conv(self.width, 3, name='conv2')(relu(norm(name='bn2')(y)))
    return x + y


class WideResNet(nn.Module):
  """WRN-depth-widen, without dropout.

  Attributes:
    depth: layers, 6n + 4.
    widen: k; the groups have 16k, 32k and 64k channels.
    num_classes: K.
    remat: compute a block's activations again for its gradient.
    dtype, axis_name: see `layers.Layers`.
  """

  depth: int
  widen: int
  num_classes: int
  remat: bool = False
  dtype: Any = jnp.float32
  axis_name: str | None = None

  def __post_init__(self):
    if self.depth < 10 or (self.depth - 4) % 6 or self.widen < 1:
      raise ConfigError(
        'A Wide ResNet has depth 6n + 4 (10, 16, 22, 28, ...) and a width '
        f'above 0, not {self.depth} and {self.widen}.'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """Returns logits [B, K] of normalised images [B, H, W, C]."""
    layers = Layers(train, self.dtype, self.axis_name)
    block = nn.remat(PreActivationBlock) if self.remat else PreActivationBlock
    x = layers.conv(16, 3, name='conv1')(images.astype(self.dtype))
    for group, width in enumerate((16, 32, 64), start=1):
      for i in range((self.depth - 4) // 6):
        stride = 2 if group > 1 and i == 0 else 1
        name = f'block{group}.layer.{i}'
        x = block(layers, width * self.widen, stride, name=name)(x)
    x = relu(layers.norm(name='bn1')(x))
    return layers.classify(x, self.num_classes, zero_bias=True)


MODELS = {
  f'wrn{depth}_{widen}': functools.partial(WideResNet, depth, widen)
  for depth, widen in (
    (10, 2),
    (16, 2),
    (16, 4),
    (16, 8),
    (28, 10),
    (40, 2),
    (40, 4),
  )
}
