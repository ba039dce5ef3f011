# SPDX-License-Identifier: Apache-2.0
"""What a run costs in the paper's unit, by counting the traced network."""

import math
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def multiply_adds(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """Returns the multiply-adds of one image's forward pass.

  Counts convolutions and matrix products, padding taps included, as published
  figures do.

  Args:
    model: a network that takes (images, train=...).
    image_shape: (H, W, C).
  """
  images = jnp.zeros((1, *image_shape))
  variables = _variables(model, image_shape)
  jaxpr = jax.make_jaxpr(lambda v: model.apply(v, images, train=False))(
    variables
  )
  return _count(jaxpr.jaxpr)


def parameters(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """Returns the number of trained parameters."""
  params = _variables(model, image_shape)['params']
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


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


def training_cost(stages: Iterable[tuple[int, int]], examples: int) -> float:
  """Returns TrCost: forward multiply-adds x epochs x examples, in 1e16.

  Args:
    stages: for each its network's multiply-adds for one image, and its passes
      over the training set: epochs, and one more where it teaches.
    examples: images in an epoch.
  """
  return sum(forward * passes for forward, passes in stages) * examples / 1e16
