# SPDX-License-Identifier: Apache-2.0
"""The state of training, and the random restart that makes a fresh one."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state


class TrainState(train_state.TrainState):
  """Flax's TrainState with batch-norm statistics.

  `step` is the global step over all stages of the run, not the optimiser's
  own count: the learning rate is a function of it.
  """

  batch_stats: Mapping[str, Any]

  def apply_gradients(
    self,
    *,
    grads: Any,
    learning_rate: jax.Array,
    batch_stats: Mapping[str, Any],
  ) -> 'TrainState':
    """Returns the state after one update at the given rate."""
    updates, opt_state = self.tx.update(
      grads, self.opt_state, self.params, learning_rate=learning_rate
    )
    return self.replace(
      step=self.step + 1,
      params=optax.apply_updates(self.params, updates),
      opt_state=opt_state,
      batch_stats=batch_stats,
    )

  @property
  def variables(self) -> dict[str, Any]:
    """What the model's `apply` takes: parameters and statistics."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


def fresh(
  model: nn.Module,
  optimiser: optax.GradientTransformation,
  key: jax.Array,
  image_shape: tuple[int, int, int],
  step: int = 0,
) -> TrainState:
  """Returns a randomly initialised state: the random restart of Algorithm 1.

  Args:
    model: a network that takes (images, train=...).
    optimiser: its state is fresh too.
    key: of the initialisation.
    image_shape: (H, W, C) of one example.
    step: the global step at which the stage begins.
  """
  variables = _initialise(model, key, image_shape)
  return from_variables(model, optimiser, variables, step)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _initialise(model, key, image_shape):
  # Jitted: else each layer's operations are compiled one by one.
  variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
  # Flax's statistics begin as float32 whatever the parameters are.
  dtype = jax.tree.leaves(variables['params'])[0].dtype
  stats = jax.tree.map(
    lambda x: x.astype(dtype), variables.get('batch_stats', {})
  )
  return {'params': variables['params'], 'batch_stats': stats}


def from_variables(
  model: nn.Module,
  optimiser: optax.GradientTransformation,
  variables: Mapping[str, Any],
  step: int,
) -> TrainState:
  """Returns a state with the given parameters and a fresh optimiser."""
  params = variables['params']
  return TrainState(
    step=jnp.int32(step),
    apply_fn=model.apply,
    params=params,
    tx=optimiser,
    opt_state=optimiser.init(params),
    batch_stats=variables['batch_stats'],
  )
