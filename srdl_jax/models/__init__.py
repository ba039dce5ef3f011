# SPDX-License-Identifier: Apache-2.0
"""Networks by name: one family in a file, each with its table MODELS."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError

from srdl_jax.errors import ConfigError, unknown
from srdl_jax.models import cifar_resnet, densenet, resnet, wide_resnet

__all__ = [
  'CLASSIFIERS',
  'MODELS',
  'create',
  'draws',
  'features',
  'on_one_device',
]

# What makes a network, by its name: see `create`.
MODELS: dict[str, Callable[..., nn.Module]] = {
  **cifar_resnet.MODELS,
  **wide_resnet.MODELS,
  **resnet.MODELS,
  **densenet.MODELS,
}
# Names that a network's last layer may have: PyTorch's.
CLASSIFIERS = ('fc', 'classifier')


def create(name: str, num_classes: int, **options: Any) -> nn.Module:
  """Returns the network of that name.

  Args:
    name: a key of MODELS.
    num_classes: K, the length of its logits.
    **options: fields of the family, such as dtype, axis_name or shortcut.

  Returns:
    A module that is called with (images [B, H, W, C], train=bool) and returns
    logits [B, K].

  Raises:
    ConfigError: the name or an option's value is unknown.
  """
  if name not in MODELS:
    raise ConfigError(unknown('model', name, MODELS, own=True))
  try:
    return MODELS[name](num_classes=num_classes, **options)
  except TypeError as error:
    # Of "... got an unexpected keyword argument 'x'".
    option = str(error).rpartition(' ')[2]
    raise ConfigError(f'Model {name!r} has no option {option}.') from error


def features(model: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
  """Returns what a network's classifier is given, in evaluation mode: [B, D].

  Images are normalised, [B, H, W, C].
  """
  found = []

  def look(method, args, kwargs, context):
    if context.module.path in [(name,) for name in CLASSIFIERS]:
      found.append(args[0])
    return method(*args, **kwargs)

  # So a family needs nothing of its own for its features.
  with nn.intercept_methods(look):
    model.apply(variables, images, train=False)
  if len(found) != 1:
    raise ConfigError(
      'The network has no features: no last layer of it is named '
      f'{" or ".join(CLASSIFIERS)}.'
    )
  return found[0]


def draws(model: nn.Module, image_shape: tuple[int, int, int]) -> bool:
  """Returns whether it draws random numbers while it is trained, as dropout
  does."""
  # Ours draw nothing, and to trace a deep one twice takes seconds.
  if type(model).__module__.startswith('srdl_jax.'):
    return False
  alone = on_one_device(model)

  def trained(key):
    images = jnp.zeros((1, *image_shape))
    variables = alone.init(key, images, train=False)
    stats = [name for name in variables if name != 'params']
    return alone.apply(variables, images, train=True, mutable=stats)

  try:
    jax.eval_shape(trained, jax.random.key(0))
  except InvalidRngError:
    return True
  return False


def on_one_device(model: nn.Module) -> nn.Module:
  """Returns a network whose batch norm averages over no other device."""
  names = {field.name for field in dataclasses.fields(model)}
  return model.clone(axis_name=None) if 'axis_name' in names else model
