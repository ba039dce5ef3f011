# SPDX-License-Identifier: Apache-2.0
"""DenseNets with bottlenecks and compression 0.5 (Huang et al. 2017).

As torchvision has them for large images, and DenseNet-BC(L, k) for small ones.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srdl_jax.errors import ConfigError
from srdl_jax.models.layers import Layers, he_fan_in, he_fan_out, max_pool, relu


class DenseLayer(nn.Module):
  """A 1 x 1 bottleneck of 4k channels and a 3 x 3 convolution of k = growth.

  Its output follows its input, k channels more.
  """

  layers: Layers
  growth: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv, norm = self.layers.conv, self.layers.norm
    y = relu(norm(name='norm1')(x))
    y = conv(4 * self.growth, 1, name='conv1')(y)
    y = relu(norm(name='norm2')(y))
    y = conv(self.growth, 3, name='conv2')(y)
    return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
  """Halves the channels and the size between two dense blocks."""

  layers: Layers

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if min(x.shape[1:3]) < 2:
      raise ConfigError(
        'The images are too small for this DenseNet: nothing is left of them '
        'to pool between two of its blocks.'
      )
    y = relu(self.layers.norm(name='norm')(x))
    y = self.layers.conv(x.shape[-1] // 2, 1, name='conv')(y)
    return nn.avg_pool(y, (2, 2), (2, 2))


class DenseNet(nn.Module):
  """Dense blocks behind a stem of 2k channels, without dropout.

  Attributes:
    blocks: layers in each dense block.
    growth: k, the channels that a layer adds.
    num_classes: K.
    small_stem: a 3 x 3 convolution alone, for images of 64 pixels and less,
      instead of the 7 x 7 one with stride, batch norm and pooling.
    remat: compute a layer's activations again for its gradient, so that only
      the concatenations stay in memory.
    dtype, axis_name, kernel_init: see `layers.Layers`; torchvision counts the
      inputs of a layer, DenseNet-BC the outputs.
  """

  blocks: tuple[int, ...]
  growth: int
  num_classes: int
  small_stem: bool = False
  remat: bool = False
  dtype: Any = jnp.float32
  axis_name: str | None = None
  kernel_init: nn.initializers.Initializer = he_fan_in

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """Returns logits [B, K] of normalised images [B, H, W, C]."""
    layers = Layers(train, self.dtype, self.axis_name, self.kernel_init)
    dense = nn.remat(DenseLayer) if self.remat else DenseLayer
    x = self._stem(layers, images.astype(self.dtype))
    for block, count in enumerate(self.blocks, start=1):
      for i in range(1, count + 1):
        name = f'features.denseblock{block}.denselayer{i}'
        x = dense(layers, self.growth, name=name)(x)
      if block < len(self.blocks):
        x = Transition(layers, name=f'features.transition{block}')(x)
    x = relu(layers.norm(name='features.norm5')(x))
    return layers.classify(
      x, self.num_classes, name='classifier', zero_bias=True
    )

  def _stem(self, layers: Layers, x: jax.Array) -> jax.Array:
    width = 2 * self.growth
    if self.small_stem:
      return layers.conv(width, 3, name='features.conv0')(x)
    x = layers.conv(width, 7, 2, name='features.conv0')(x)
    return max_pool(relu(layers.norm(name='features.norm0')(x)))


def densenet_bc(
  depth: int, growth: int, num_classes: int, **options: Any
) -> DenseNet:
  """Returns DenseNet-BC(L, k): three dense blocks, for small images.

  Args:
    depth: L, 6n + 4.
    growth: k.
    **options: other fields of `DenseNet`.

  Raises:
    ConfigError: there is no such depth.
  """
  if depth < 10 or (depth - 4) % 6:
    raise ConfigError(
      f'A DenseNet-BC has depth 6n + 4 (40, 100, 190, ...), not {depth}.'
    )
  blocks = 3 * ((depth - 4) // 6,)
  usual = {'small_stem': True, 'kernel_init': he_fan_out}
  return DenseNet(blocks, growth, num_classes, **usual | options)


MODELS = {
  f'densenet_bc_{depth}_{growth}': functools.partial(densenet_bc, depth, growth)
  for depth, growth in ((40, 12), (100, 12), (190, 40))
} | {
  'densenet121': functools.partial(DenseNet, (6, 12, 24, 16), 32),
  'densenet169': functools.partial(DenseNet, (6, 12, 32, 32), 32),
  'densenet201': functools.partial(DenseNet, (6, 12, 48, 32), 32),
}
