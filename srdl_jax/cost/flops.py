# SPDX-License-Identifier: Apache-2.0
"""Counts a network: its parameters, its multiply-adds, the compiler's FLOPs."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srdl_jax import losses, models


def multiply_adds(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """Returns the multiply-adds of one image's forward pass.

  Counts convolutions and matrix products, padding taps included, as published
  figures do.

  Args:
    model: a network that takes (images, train=...).
    image_shape: (H, W, C).
  """
  images = jnp.zeros((1, *image_shape))
  jaxpr = jax.make_jaxpr(lambda v: model.apply(v, images, train=False))(
    _variables(model, image_shape)
  )
  return _count(jaxpr.jaxpr)


def parameters(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """Returns the number of trained parameters."""
  params = _variables(model, image_shape)['params']
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@functools.lru_cache(maxsize=8)
def _variables(model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
  images = jnp.zeros((1, *image_shape))
  return jax.eval_shape(
    lambda: model.init(jax.random.key(0), images, train=False)
  )


def _count(jaxpr: Any) -> int:
  total = 0
  for equation in jaxpr.eqns:
    total += _of_equation(equation)
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += _count(inner)
  return total


def _of_equation(equation: Any) -> int:
  if equation.primitive.name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    outputs = math.prod(equation.outvars[0].aval.shape)
    out_dim = equation.params['dimension_numbers'].rhs_spec[0]
    return outputs * math.prod(kernel) // kernel[out_dim]
  if equation.primitive.name == 'dot_general':
    (contracted, _), _ = equation.params['dimension_numbers']
    left = equation.invars[0].aval.shape
    outputs = math.prod(equation.outvars[0].aval.shape)
    return outputs * math.prod(left[d] for d in contracted)
  return 0


def forward_flops(
  model: nn.Module, image_shape: tuple[int, int, int]
) -> int | None:
  """Returns the compiler's FLOPs of one image's forward pass, in evaluation.

  A multiply-add is two FLOPs. Sums, norms and activations count too; the taps
  on a convolution's padding do not. The program is counted before it is
  optimised: optimising takes minutes for the gradient of a deep network, and
  what is left depends on the device.

  Args:
    model: a network that takes (images, train=...).
    image_shape: (H, W, C).

  Returns:
    The count, which XLA sums in float32; None where it reports none.
  """
  return _flops(
    lambda variables, images: model.apply(variables, images, train=False),
    _variables(model, image_shape),
    jax.ShapeDtypeStruct((1, *image_shape), jnp.float32),
  )


def train_flops(
  model: nn.Module, image_shape: tuple[int, int, int]
) -> int | None:
  """Returns the compiler's FLOPs of one image's forward and backward pass.

  Of Eq 2 and its gradient, while training. The update isn't in it: its share
  of an image depends on the batch size. Soft targets would add 20 FLOPs a
  class.

  Args:
    image_shape: (H, W, C).

  Returns:
    See `forward_flops`.
  """
  model = models.on_one_device(model)  # Nothing is mapped here.
  # Where it draws random numbers.
  rngs = {'params': jax.random.key(0)}

  def loss(params, stats, images, labels):
    logits_BxK, updates = model.apply(
      {'params': params, **stats},
      images,
      train=True,
      mutable=list(stats),
      rngs=rngs,
    )
    return losses.cross_entropy(logits_BxK, labels), updates

  stats = dict(_variables(model, image_shape))
  return _flops(
    jax.value_and_grad(loss, has_aux=True),
    stats.pop('params'),
    stats,
    jax.ShapeDtypeStruct((1, *image_shape), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )


def _flops(function: Callable[..., Any], *shapes: Any) -> int | None:
  try:
    # JAX's plugins, which GPUs and TPUs are, count compiled programs only.
    cpu = jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return None
  with jax.default_device(cpu):
    # As for accelerators: CPU has loops of its own, whose turns aren't counted.
    traced = jax.jit(function).trace(*shapes)
    analysis = traced.lower(lowering_platforms=('tpu',)).cost_analysis()
  # JAX promises no form of it.
  known = isinstance(analysis, dict) and 'flops' in analysis
  return int(analysis['flops']) if known else None
