# SPDX-License-Identifier: Apache-2.0
"""Layers and residual blocks that several families share.

Names of layers are those of the PyTorch originals, so that a parameter's path,
joined by dots, is its name there.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srdl_jax import cpu

# He et al. (2015), counted over a layer's outputs or over its inputs.
he_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
he_fan_in = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
# PyTorch's linear layer: weights and biases uniform in +-1 / sqrt(fan-in).
linear_uniform = nn.initializers.variance_scaling(
  1.0 / 3.0, 'fan_in', 'uniform'
)

# Of images that a kernel's gradient takes at a time: of a core's second cache.
CACHE_BYTES = 2**18


def linear_bias(fan_in: int) -> nn.initializers.Initializer:
  """Returns PyTorch's initialisation of a linear layer's bias."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


@dataclasses.dataclass(frozen=True)
class Layers:
  """Makes a network's layers; called inside of its compact method.

  Attributes:
    train: whether batch norm takes the batch's statistics.
    dtype: of the computation; parameters, statistics and logits are float32
      (float64 where the dtype is float64).
    axis_name: mapped axis over which batch norm averages while training.
    kernel_init: of convolutions.
  """

  train: bool
  dtype: Any = jnp.float32
  axis_name: str | None = None
  kernel_init: nn.initializers.Initializer = he_fan_out

  @property
  def param_dtype(self) -> Any:
    """Of parameters, statistics and logits."""
    return jnp.promote_types(self.dtype, jnp.float32)

  def conv(
    self, width: int, size: int, stride: int = 1, *, name: str
  ) -> nn.Conv:
    """Returns a square convolution that keeps the size but for its stride."""
    # Not 'SAME', which with a stride of 2 pads otherwise than PyTorch does.
    return nn.Conv(
      width,
      (size, size),
      stride,
      padding=(size - 1) // 2,
      conv_general_dilated=pointwise if size == 1 else convolution,
      use_bias=False,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )

  def norm(self, *, name: str) -> 'BatchNorm':
    """Returns batch norm with PyTorch's momentum 0.1 and epsilon."""
    return BatchNorm(
      self.train, self.dtype, self.param_dtype, self.axis_name, name=name
    )

  def classify(
    self,
    x: jax.Array,
    num_classes: int,
    *,
    name: str = 'fc',
    zero_bias: bool = False,
  ) -> jax.Array:
    """Returns logits [B, K] of the mean over the pixels of x [B, H, W, D]."""
    feature_BxD = jnp.mean(x, axis=(1, 2), dtype=self.param_dtype)
    bias_init = linear_bias(feature_BxD.shape[-1])
    return nn.Dense(
      num_classes,
      kernel_init=linear_uniform,
      bias_init=nn.initializers.zeros if zero_bias else bias_init,
      dtype=self.param_dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(feature_BxD)


class BatchNorm(nn.Module):
  """flax's batch norm, with the same variables, as x * factor + offset.

  Its gradient takes two sums and one pass over x, where that of
  (x - mean) * factor + bias takes three of each on XLA's CPU backend.

  Attributes:
    train: whether to take the batch's statistics, and to move the running ones
      by a tenth towards them.
    dtype: of what is returned.
    param_dtype: of scale, bias and the batch's statistics.
    axis_name: mapped axis over which the statistics are averaged.
  """

  train: bool
  dtype: Any
  param_dtype: Any
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns x [B, H, W, C], normalised by channel."""
    shape = x.shape[-1:]
    # flax's begin in float32, also where the first step makes them float64.
    running = [
      self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32),
      self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32),
    ]
    scale = self.param('scale', nn.initializers.ones, shape, self.param_dtype)
    bias = self.param('bias', nn.initializers.zeros, shape, self.param_dtype)
    wide = x.astype(self.param_dtype)
    if self.train:
      statistics = self._of_batch(wide)
      if not self.is_initializing():
        for old, new in zip(running, statistics, strict=True):
          old.value = 0.9 * old.value + 0.1 * new
    else:
      statistics = [its.value for its in running]
    mean, variance = statistics
    factor = scale * jax.lax.rsqrt(variance + 1e-5)
    offset = bias - mean * factor
    factor, offset = (v.reshape(1, 1, 1, -1) for v in (factor, offset))
    return (wide * factor + offset).astype(self.dtype)

  def _of_batch(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    moments = jnp.stack([jnp.mean(v, (0, 1, 2)) for v in (x, jnp.square(x))])
    if self.axis_name is not None and not self.is_initializing():
      moments = jax.lax.pmean(moments, self.axis_name)
    mean, mean_of_squares = moments
    # Over n, where PyTorch's running variance divides by n - 1.
    return mean, jnp.maximum(0.0, mean_of_squares - jnp.square(mean))


def pointwise(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Any,
  **options: Any,
) -> jax.Array:
  """Returns a 1 x 1 convolution, by a matrix product: faster on CPU.

  Takes and returns what `jax.lax.conv_general_dilated` does, for x
  [B, H, W, C].
  """
  del padding
  rows, columns = strides
  precision = options['precision']
  x = x[:, ::rows, ::columns]
  return jnp.tensordot(x, kernel[0, 0], axes=1, precision=precision)


def convolution(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """Returns a convolution, whose kernel's gradient is computed apart on a CPU
  with narrow vectors.

  There, XLA computes it as a convolution whose window is the image, and reads
  the images again for every few of its numbers: at half the forward pass's
  rate, and with some shapes at a fifteenth. Where vectors have 512 bits, XLA's
  own takes a quarter to nine tenths of this one's time.

  Takes and returns what `jax.lax.conv_general_dilated` does, for x
  [B, H, W, C].
  """

  def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

  # Sums over the images would be rounded to half precision.
  if x.dtype.itemsize < 4 or not cpu.has_narrow_vectors():
    return plain(x, kernel)

  def backward(saved, gradient):
    x, kernel = saved
    of_x = jax.linear_transpose(lambda x: plain(x, kernel), x)
    of_kernel = jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)
    return *of_x(gradient), jax.lax.platform_dependent(
      x,
      gradient,
      cpu=functools.partial(_of_kernel, kernel.shape, strides, padding),
      default=lambda x, gradient: of_kernel(gradient)[0],
    )

  convolve = jax.custom_vjp(plain)
  convolve.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)
  return convolve(x, kernel)


def _of_kernel(
  shape: Sequence[int],
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  x: jax.Array,
  gradient: jax.Array,
) -> jax.Array:
  """Returns a kernel's gradient: a matrix product for each of its places.

  Args:
    shape: of the kernel.
    strides, padding: of the convolution of x [B, H, W, C].
    gradient: of what it returned, [B, h, w, D].
  """
  _, columns, channels, width = shape
  _, h, w, _ = gradient.shape
  # Some images at a time, so that what is copied stays in a core's cache.
  fitting = max(1, CACHE_BYTES // x[0].nbytes)
  part = max(n for n in range(1, fitting + 1) if len(x) % n == 0)
  window = (channels, part, strides[0] * (h - 1) + 1, strides[1] * (w - 1) + 1)

  def add(sums, images):
    x, gradient = images
    x = jnp.pad(jnp.moveaxis(x, -1, 0), ((0, 0), (0, 0), *padding))

    def at(place):
      corner = (0, 0, place // columns, place % columns)
      seen = jax.lax.dynamic_slice(x, corner, window)
      seen = seen[..., :: strides[0], :: strides[1]].reshape(channels, -1)
      return seen @ gradient.reshape(-1, width)

    return sums + jax.lax.map(at, jnp.arange(len(sums))), None

  zeros = jnp.zeros((shape[0] * columns, channels, width), x.dtype)
  parts = (v.reshape(-1, part, *v.shape[1:]) for v in (x, gradient))
  sums, _ = jax.lax.scan(add, zeros, tuple(parts))
  return sums.reshape(shape)


def relu(x: jax.Array) -> jax.Array:
  """Returns max(x, 0), as a choice.

  XLA's CPU backend copies a maximum with 0, and with it the sum before it, into
  everything that reads it: transposes for kernels' gradients then compute whole
  chains of blocks again.
  """
  return jnp.where(x <= 0, 0, x)


def max_pool(x: jax.Array) -> jax.Array:
  """Halves the size: the largest of 3 x 3, as in ImageNet networks' stems."""
  return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions and a shortcut.

  Attributes:
    stride: of the first 3 x 3 convolution and of the shortcut.
    projection: whether a change of shape goes through a 1 x 1 convolution with
      batch norm; otherwise it is subsampled and padded with zero channels.
  """

  layers: Layers
  width: int
  stride: int = 1
  projection: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv, norm = self.layers.conv, self.layers.norm
    y = conv(self.width, 3, self.stride, name='conv1')(x)
    y = relu(norm(name='bn1')(y))
    y = norm(name='bn2')(conv(self.width, 3, name='conv2')(y))
    return relu(y + self._shortcut(x, y.shape[-1]))

  def _shortcut(self, x: jax.Array, width: int) -> jax.Array:
    extra = width - x.shape[-1]
    if self.stride == 1 and extra == 0:
      return x
    if self.projection:
      x = self.layers.conv(width, 1, self.stride, name='downsample.0')(x)
      return self.layers.norm(name='downsample.1')(x)
    x = x[:, :: self.stride, :: self.stride]
    channels = (extra // 2, extra - extra // 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), channels))


class Bottleneck(BasicBlock):
  """1 x 1, 3 x 3 and 1 x 1 convolutions, the last four times as wide."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv, norm = self.layers.conv, self.layers.norm
    y = relu(norm(name='bn1')(conv(self.width, 1, name='conv1')(x)))
    y = conv(self.width, 3, self.stride, name='conv2')(y)
    y = relu(norm(name='bn2')(y))
    y = norm(name='bn3')(conv(4 * self.width, 1, name='conv3')(y))
    return relu(y + self._shortcut(x, y.shape[-1]))
