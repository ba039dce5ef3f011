# SPDX-License-Identifier: Apache-2.0
"""ResNets for 32 x 32 images (He et al. 2016, section 4.2): depth 6n + 2."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srdl_jax.errors import ConfigError

# He et al. (2015), counted over the outputs of a layer.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# PyTorch's linear layer: weights and biases uniform in +-1 / sqrt(fan-in).
linear_uniform = nn.initializers.variance_scaling(
  1.0 / 3.0, 'fan_in', 'uniform'
)

SHORTCUTS = ('projection', 'identity')


def linear_bias(fan_in: int) -> nn.initializers.Initializer:
  """Returns PyTorch's initialisation of a linear layer's bias."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions and a shortcut.

  Attributes:
    width: output channels.
    stride: of the first convolution and of the shortcut.
    shortcut: what a change of shape goes through: 'projection' (1 x 1
      convolution and batch norm) or 'identity' (subsampled and padded with
      zero channels, without parameters).
    conv, norm: layer constructors.
  """

  width: int
  stride: int
  shortcut: str
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.conv(self.width, (3, 3), self.stride, name='conv1')(x)
    y = nn.relu(self.norm(name='bn1')(y))
    y = self.conv(self.width, (3, 3), name='conv2')(y)
    y = self.norm(name='bn2')(y)
    return nn.relu(y + self._shortcut(x))

  def _shortcut(self, x: jax.Array) -> jax.Array:
    extra = self.width - x.shape[-1]
    if self.stride == 1 and extra == 0:
      return x
    if self.shortcut == 'projection':
      x = self.conv(
        self.width, (1, 1), self.stride, padding='VALID', name='shortcut'
      )(x)
      return self.norm(name='shortcut_bn')(x)
    x = x[:, :: self.stride, :: self.stride]
    return jnp.pad(
      x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2))
    )


class CifarResNet(nn.Module):
  """Three groups of n basic blocks of 16, 32 and 64 channels.

  Attributes:
    depth: layers, 6n + 2.
    num_classes: K.
    shortcut: 'projection' or 'identity' (see `BasicBlock`).
    dtype: of the computation; parameters, statistics and logits are float32
      (float64 where the dtype is float64).
    axis_name: mapped axis over which batch norm averages its statistics;
      None for one device, initialisation and evaluation.
  """

  depth: int
  num_classes: int
  shortcut: str = 'projection'
  dtype: Any = jnp.float32
  axis_name: str | None = None

  def __post_init__(self):
    if self.depth < 8 or (self.depth - 2) % 6:
      raise ConfigError(
        f'A CIFAR ResNet has depth 6n + 2 (8, 20, 32, ...), not {self.depth}.'
      )
    if self.shortcut not in SHORTCUTS:
      raise ConfigError(
        f'Unknown shortcut {self.shortcut!r}; known: {", ".join(SHORTCUTS)}.'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    """Returns logits [B, K] of normalised images [B, H, W, C]."""
    param_dtype = jnp.promote_types(self.dtype, jnp.float32)
    conv = functools.partial(
      nn.Conv,
      use_bias=False,
      padding=1,
      kernel_init=he_normal,
      dtype=self.dtype,
      param_dtype=param_dtype,
    )
    norm = functools.partial(
      nn.BatchNorm,
      use_running_average=not train,
      # PyTorch's momentum 0.1.
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      param_dtype=param_dtype,
      axis_name=self.axis_name,
    )
    x = conv(16, (3, 3), name='conv1')(images.astype(self.dtype))
    x = nn.relu(norm(name='bn1')(x))
    for group, width in enumerate((16, 32, 64), start=1):
      for block in range((self.depth - 2) // 6):
        stride = 2 if group > 1 and block == 0 else 1
        name = f'group{group}_block{block}'
        x = BasicBlock(width, stride, self.shortcut, conv, norm, name=name)(x)
    feature_BxD = jnp.mean(x, axis=(1, 2), dtype=param_dtype)
    return nn.Dense(
      self.num_classes,
      kernel_init=linear_uniform,
      bias_init=linear_bias(feature_BxD.shape[-1]),
      dtype=param_dtype,
      param_dtype=param_dtype,
      name='classifier',
    )(feature_BxD)


MODELS = {
  f'resnet{depth}': functools.partial(CifarResNet, depth)
  for depth in (8, 20, 32, 44, 56, 110)
}
