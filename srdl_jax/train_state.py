# SPDX-License-Identifier: Apache-2.0
"""The state of training, the random restart that makes a fresh one, and SGD."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import serialization, struct
from flax.training import train_state


class TrainState(train_state.TrainState):
  """Flax's TrainState with batch-norm statistics and a source's memory.

  `step` is the global step over all stages of the run, not the optimiser's
  own count: the learning rate is a function of it.
  """

  batch_stats: Mapping[str, Any]
  memory: Any = struct.field(default_factory=dict)

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

  def saved(self) -> dict[str, Any]:
    """Returns what a checkpoint holds: no memory where there is none, as
    before sources had one."""
    state = serialization.to_state_dict(self)
    if not state['memory']:
      del state['memory']
    return state

  def restored(self, saved: Mapping[str, Any]) -> 'TrainState':
    """Returns the state of which `saved` was told."""
    return serialization.from_state_dict(self, {'memory': {}, **saved})

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
    image_shape: (H, W, C) of one example.
    step: the global step at which the stage begins.
  """
  initialise = _initialise
  # Options of the compiler can't be given within another program.
  if not isinstance(key, jax.core.Tracer):
    initialise = _compiled(jax.default_backend())
  variables = initialise(model, key, image_shape)
  return from_variables(model, optimiser, variables, step)


@functools.cache
def _compiled(platform):
  # Jitted: else each layer's operations are compiled one by one.
  # LLVM takes 20 s for random bits; optimised less they are the same within 4.
  options = {'xla_backend_optimization_level': 1} if platform == 'cpu' else None
  return jax.jit(_initialise, static_argnums=(0, 2), compiler_options=options)


def _initialise(model, key, image_shape):
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


def scale_by_given_rate(
  share: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
  """Scales updates by minus the `learning_rate` given to `update`.

  An optimiser's own count is no clock for a run of several stages: a restart
  resets it, and a schedule that reads it would begin anew.

  Args:
    share: of the rate that is applied.
  """

  def update(updates, state, params=None, *, learning_rate, **unused):
    del params, unused
    # A Python number, so that the rate keeps its type.
    return jax.tree.map(lambda u: -share * learning_rate * u, updates), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def sgd(
  *,
  momentum: float,
  weight_decay: float,
  nesterov: bool = True,
  backbone_share: float = 1.0,
  heads: Collection[str] = (),
) -> optax.GradientTransformationExtraArgs:
  """Returns SGD equal, step by step, to torch.optim.SGD.

  Weight decay is coupled (added to the gradient before the momentum) and
  applies to all parameters, batch-norm's and biases among them; the rate
  multiplies after the momentum.

  Args:
    momentum: 0.9 in the paper.
    weight_decay: 2e-4 in the paper.
    nesterov: whether the momentum is Nesterov's.
    backbone_share: share of the rate for all parameters but the head's, which
      imported weights want.
    heads: names that the last layer may have, at the top of the parameters.

  Returns:
    A transformation whose `update` takes the keyword `learning_rate`.
  """
  rate = scale_by_given_rate()
  if backbone_share != 1.0:
    parts = {'head': rate, 'backbone': scale_by_given_rate(backbone_share)}
    rate = optax.partition(
      parts,
      lambda params: {n: 'head' if n in heads else 'backbone' for n in params},
    )
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(decay=momentum, nesterov=nesterov),
    rate,
  )
