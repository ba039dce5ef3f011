# SPDX-License-Identifier: Apache-2.0
"""The train step: pure functions, written per device."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from srdl_jax import losses
from srdl_jax.targets import Source
from srdl_jax.train_state import TrainState

Batch = dict[str, Any]
Metrics = dict[str, jax.Array]


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  schedule: optax.Schedule,
  source: Source,
  label_smoothing: float = 0.0,
  axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
  """One optimiser step on Eq 2 or, with soft targets, Eq 7.

  Args:
    state: to update; the rate is schedule(state.step).
    batch: see `Source.targets`.
    schedule: rate by global step.
    source: of the soft targets, their temperature and weights.
    label_smoothing: see `losses.srdl`.
    axis_name: mapped axis to average gradients and metrics over.

  Returns:
    The next state, and scalars: loss, its parts, accuracy (a fraction) and
    the applied learning_rate.
  """
  label_weight, imitation_weight = source.weights(state.step)
  loss_of = losses.srdl
  if source.partial:
    loss_of = functools.partial(losses.partly_taught, axis_name=axis_name)

  memory = source.look(state.memory, batch)

  def loss_fn(params):
    logits_BxK, updates = state.apply_fn(
      {'params': params, 'batch_stats': state.batch_stats},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
      rngs=batch.get('rngs'),
    )
    said_BxK = jax.lax.stop_gradient(logits_BxK)
    loss, parts = loss_of(
      logits_BxK,
      batch['label'],
      source.targets(memory, batch, said_BxK),
      temperature=source.temperature,
      label_weight=label_weight,
      imitation_weight=imitation_weight,
      label_smoothing=label_smoothing,
    )
    correct = jnp.mean(
      jnp.argmax(logits_BxK, -1) == batch['label'], dtype=loss.dtype
    )
    metrics = {'loss': loss, **parts, 'accuracy': correct}
    return loss, (updates.get('batch_stats', {}), said_BxK, metrics)

  grads, (batch_stats, said_BxK, metrics) = jax.grad(loss_fn, has_aux=True)(
    state.params
  )
  if axis_name is not None:
    # Not the statistics: batch norm averages over this axis by itself.
    grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
  rate = jnp.asarray(schedule(state.step), metrics['loss'].dtype)
  before = state.step
  state = state.apply_gradients(
    grads=grads, learning_rate=rate, batch_stats=batch_stats
  )
  memory = source.end(memory, batch, said_BxK, state.variables, before)
  return state.replace(memory=memory), {**metrics, 'learning_rate': rate}


def gather(resident: Mapping[str, Any], examples: jax.Array | Batch) -> Batch:
  """Returns a batch: of examples on the device, or one that was streamed.

  Args:
    resident: teacher, see `Source.targets`; and, where the batch isn't
      streamed, image uint8 [N, H, W, C], label [N], soft_logits None or [N, K].
    examples: numbers [b] of an order (see `sampling.ORDERS`); or the streamed
      batch, image uint8 [b, H, W, C], label [b], soft_logits None or [b, K],
      index, its rows [b], and view, their numbers [b].
  """
  if isinstance(examples, Mapping):
    return {**resident, **examples}
  index = examples % len(resident['image'])
  arrays = {name: resident[name] for name in ('image', 'label', 'soft_logits')}
  rows = {n: x if x is None else x[index] for n, x in arrays.items()}
  return {**resident, 'index': index, 'view': examples, **rows}


def augmented_step(
  state: TrainState,
  resident: Mapping[str, Any],
  examples: jax.Array | Batch,
  key: jax.Array,
  *,
  augment: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  normalise: Callable[[jax.Array], jax.Array],
  step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
  draws: bool = False,
) -> tuple[TrainState, Metrics]:
  """Augments a batch of uint8 images, and steps.

  Args:
    state: to update.
    resident, examples: see `gather`.
    key: of the epoch; see `augment.flip_and_crop`.
    augment: (key, images, index) to images.
    normalise: uint8 images to what the model takes.
    step: `train_step`, its options bound.
    draws: whether the network draws random numbers, as dropout does.
  """
  batch = gather(resident, examples)
  images = normalise(augment(key, batch['image'], batch['view']))
  if draws:
    # Whatever a module calls what it draws, it comes from 'params' then. Split,
    # as the key that is folded alone is that of an image's augmentation.
    _, own = jax.random.split(jax.random.fold_in(key, state.step))
    batch['rngs'] = {'params': own}
  return step(state, {**batch, 'image': images})
