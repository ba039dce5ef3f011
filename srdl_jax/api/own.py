# SPDX-License-Identifier: Apache-2.0
"""Modules of one's own, known by a name while a run needs them."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srdl_jax import models
from srdl_jax.errors import ConfigError
from srdl_jax.network import Network

# How their names in records begin.
PREFIX = 'own_module_'
# What is known by a name for a while, and how many want it known.
_wanted: collections.Counter[str] = collections.Counter()
_turn = threading.RLock()


def name_of(model: nn.Module) -> str:
  """Returns a name that another module, or other fields of it, don't have."""
  kind = type(model)
  # Functions among the fields are told with their addresses.
  fields = re.sub(r' at 0x[0-9a-f]+', '', repr(model))
  text = f'{kind.__module__}.{kind.__qualname__}\n{fields}'
  return f'{PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:12]}'


def check_logits(
  model: nn.Module, image_shape: tuple[int, int, int], classes: int
) -> None:
  """Raises a ConfigError unless a module returns logits of the classes."""
  alone = models.on_one_device(model)

  def logits(key):
    images = jnp.zeros((1, *image_shape))
    return alone.init_with_output(key, images, train=False)[0]

  found = jax.eval_shape(logits, jax.random.key(0)).shape
  if found != (1, classes):
    raise ConfigError(
      f'{type(model).__name__} returns {list(found)} of one image, where '
      f'logits [1, {classes}] belong.'
    )


def check_fit(network: Network, variables: Any) -> None:
  """Raises a ConfigError where variables aren't those of a network."""
  shapes = (
    jax.tree.map(jnp.shape, dict(its)) for its in (network.like, variables)
  )
  wanted, found = shapes
  if wanted['params'] != found['params']:
    raise ConfigError(
      f'{network.name}: the parameters that were trained are of other shapes '
      "than the module's: give the module that was trained."
    )


@contextlib.contextmanager
def known(table: dict[str, Any], name: str, its: Any) -> Iterator[None]:
  """Puts something under a name for a while; a module as its constructor."""
  if its is None:
    yield
    return
  # Threads may want one thing at a time.
  with _turn:
    _wanted[name] += 1
    table[name] = functools.partial(_clone, its) if _is_module(its) else its
  try:
    yield
  finally:
    with _turn:
      _wanted[name] -= 1
      if not _wanted[name]:
        del table[name], _wanted[name]


def _is_module(its: Any) -> bool:
  return isinstance(its, nn.Module)


def _clone(model: nn.Module, *, num_classes, dtype, axis_name=None):
  """Returns the module with the axis of the devices, if it asks for one."""
  del num_classes, dtype
  if asks_for_axis(model):
    return model.clone(axis_name=axis_name)
  return model


def asks_for_axis(model: nn.Module) -> bool:
  return any(f.name == 'axis_name' for f in dataclasses.fields(model))
