# SPDX-License-Identifier: Apache-2.0
"""ResNets for 32 x 32 images (He et al. 2016, section 4.2): depth 6n + 2."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srdl_jax.errors import ConfigError, unknown
from srdl_jax.models.layers import BasicBlock, Bottleneck, Layers, relu

SHORTCUTS = ('projection', 'identity')


class CifarResNet(nn.Module):
  """Three groups of n blocks of 16, 32 and 64 channels.

  Attributes:
    depth: layers, 6n + 2, counting two a block.
    num_classes: K.
    bottleneck: n blocks of three layers instead, as in the authors' code for
      depth 110; the number of layers is then 9n + 2.
    shortcut: what a change of shape goes through: 'projection' (1 x 1
      convolution and batch norm) or 'identity' (without parameters).
    remat: compute a block's activations again for its gradient.
    dtype, axis_name: see `layers.Layers`.
  """

  depth: int
  num_classes: int
  bottleneck: bool = False
  shortcut: str = 'projection'
  remat: bool = False
  dtype: Any = jnp.float32
  axis_name: str | None = None

  def __post_init__(self):
    if self.depth < 8 or (self.depth - 2) % 6:
      raise ConfigError(
        f'A CIFAR ResNet has depth 6n + 2 (8, 20, 32, ...), not {self.depth}.'
      )
    if self.shortcut not in SHORTCUTS:
      raise ConfigError(unknown('shortcut', self.shortcut, SHORTCUTS))
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """Returns logits [B, K] of normalised images [B, H, W, C]."""
    layers = Layers(train, self.dtype, self.axis_name)
    block = Bottleneck if self.bottleneck else BasicBlock
    block = nn.remat(block) if self.remat else block
    projection = self.shortcut == 'projection'
    x = layers.conv(16, 3, name='conv1')(images.astype(self.dtype))
    x = relu(layers.norm(name='bn1')(x))
    for group, width in enumerate((16, 32, 64), start=1):
      for i in range((self.depth - 2) // 6):
        stride = 2 if group > 1 and i == 0 else 1
        name = f'layer{group}.{i}'
        x = block(layers, width, stride, projection, name=name)(x)
    return layers.classify(x, self.num_classes)


MODELS = {
  f'resnet{depth}': functools.partial(CifarResNet, depth)
  for depth in (8, 20, 32, 44, 56, 110)
} | {
  'resnet110_bottleneck': functools.partial(CifarResNet, 110, bottleneck=True)
}
