# SPDX-License-Identifier: Apache-2.0
"""ResNets for large images (He et al. 2016), as torchvision has them."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srdl_jax.models.layers import (
  BasicBlock,
  Bottleneck,
  Layers,
  max_pool,
  relu,
)


class ResNet(nn.Module):
  """Four groups of blocks of 64, 128, 256 and 512 channels.

  Attributes:
    blocks: in each group.
    bottleneck: whether they have three layers instead of two.
    num_classes: K.
    small_stem: a 3 x 3 convolution without stride or pooling, for images of 64
      pixels and less, instead of the 7 x 7 one.
    remat: compute a block's activations again for its gradient.
    dtype, axis_name: see `layers.Layers`.
  """

  blocks: tuple[int, ...]
  bottleneck: bool
  num_classes: int
  small_stem: bool = False
  remat: bool = False
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """Returns logits [B, K] of normalised images [B, H, W, C]."""
    layers = Layers(train, self.dtype, self.axis_name)
    block = Bottleneck if self.bottleneck else BasicBlock
    block = nn.remat(block) if self.remat else block
    size, stride = (3, 1) if self.small_stem else (7, 2)
    x = layers.conv(64, size, stride, name='conv1')(images.astype(self.dtype))
    x = relu(layers.norm(name='bn1')(x))
    x = x if self.small_stem else max_pool(x)
    for group, count in enumerate(self.blocks, start=1):
      for i in range(count):
        stride = 2 if group > 1 and i == 0 else 1
        width = 64 * 2 ** (group - 1)
        x = block(layers, width, stride, name=f'layer{group}.{i}')(x)
    return layers.classify(x, self.num_classes)


MODELS = {
  'resnet18': functools.partial(ResNet, (2, 2, 2, 2), False),
  'resnet34': functools.partial(ResNet, (3, 4, 6, 3), False),
  'resnet50': functools.partial(ResNet, (3, 4, 6, 3), True),
  'resnet101': functools.partial(ResNet, (3, 4, 23, 3), True),
}
