# SPDX-License-Identifier: Apache-2.0
"""The train step and the predict step: pure functions, written per device."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from srdl_jax import losses, models
from srdl_jax.train_state import TrainState

Batch = dict[str, jax.Array | None]
Metrics = dict[str, jax.Array]
# (the batch, its images augmented and normalised) to soft logits [b, K], or
# None for labels alone.
TargetSource = Callable[[Batch, jax.Array], jax.Array | None]


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  schedule: optax.Schedule,
  temperature: float,
  label_weight: float = 1.0,
  imitation_weight: float = 1.0,
  label_smoothing: float = 0.0,
  axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
  """One optimiser step on Eq 2 or, with soft targets, Eq 7.

  Args:
    state: to update; the rate is schedule(state.step).
    batch: image [b, H, W, C] (augmented and normalised), label [b], index
      [b], and soft_logits: None or softened targets [b, K].
    schedule: rate by global step.
    temperature, label_weight, imitation_weight, label_smoothing: see
      `losses.srdl`.
    axis_name: mapped axis to average gradients and metrics over.

  Returns:
    The next state, and scalars: loss, its parts, accuracy (a fraction) and
    the applied learning_rate.
  """

  def loss_fn(params):
    logits_BxK, updates = state.apply_fn(
      {'params': params, 'batch_stats': state.batch_stats},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
    )
    loss, parts = losses.srdl(
      logits_BxK,
      batch['label'],
      batch['soft_logits'],
      temperature=temperature,
      label_weight=label_weight,
      imitation_weight=imitation_weight,
      label_smoothing=label_smoothing,
    )
    correct = jnp.mean(
      jnp.argmax(logits_BxK, -1) == batch['label'], dtype=loss.dtype
    )
    metrics = {'loss': loss, **parts, 'accuracy': correct}
    return loss, (updates.get('batch_stats', {}), metrics)

  grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
  if axis_name is not None:
    grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
  rate = jnp.asarray(schedule(state.step), metrics['loss'].dtype)
  state = state.apply_gradients(
    grads=grads, learning_rate=rate, batch_stats=batch_stats
  )
  return state, {**metrics, 'learning_rate': rate}


def predict_step(
  variables: Any,
  images: jax.Array,
  *,
  model: nn.Module,
  normalise: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """Returns logits [b, K] of clean uint8 images, in evaluation mode."""
  return model.apply(variables, normalise(images), train=False)


def feature_step(
  variables: Any,
  images: jax.Array,
  *,
  model: nn.Module,
  normalise: Callable[[jax.Array], jax.Array],
  mirrored: bool = False,
) -> jax.Array:
  """Returns pooled features [b, D] of clean uint8 images, in evaluation mode.

  Args:
    variables: parameters and statistics.
    images: uint8 [b, H, W, C].
    model: see `models.features`.
    normalise: uint8 to the network's input.
    mirrored: whether to average them with those of the mirrored images.
  """
  features_BxD = models.features(model, variables, normalise(images))
  if not mirrored:
    return features_BxD
  flipped = normalise(images[:, :, ::-1])
  return (features_BxD + models.features(model, variables, flipped)) / 2


def stored_targets(resident: Mapping[str, Any]) -> TargetSource:
  """The ordinary target source: what the batch brings with it."""
  del resident
  return lambda batch, images: batch['soft_logits']


def online_teacher(
  resident: Mapping[str, Any], *, model: nn.Module, temperature: float
) -> TargetSource:
  """An ablation: the teacher predicts the very images that are trained on.

  Args:
    resident: its 'teacher' holds the teacher's parameters and statistics.
    model: the teacher's network, which runs in evaluation mode.
    temperature: T of Eq 5.
  """

  def source(batch, images):
    del batch
    logits_BxK = model.apply(resident['teacher'], images, train=False)
    return jax.nn.log_softmax(logits_BxK / temperature)

  return source


def gather(resident: Mapping[str, Any], rows_B: jax.Array) -> Batch:
  """Returns a batch of arrays that live on the device.

  Args:
    resident: image uint8 [N, H, W, C], label [N], soft_logits None or [N, K].
    rows_B: row numbers of the batch.
  """
  arrays = {name: resident[name] for name in ('image', 'label', 'soft_logits')}
  return {'index': rows_B, **jax.tree.map(lambda x: x[rows_B], arrays)}


def augmented_step(
  state: TrainState,
  resident: Mapping[str, Any],
  examples: jax.Array | Batch,
  key: jax.Array,
  *,
  augment: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  normalise: Callable[[jax.Array], jax.Array],
  step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
  targets: Callable[[Mapping[str, Any]], TargetSource] = stored_targets,
) -> tuple[TrainState, Metrics]:
  """Augments a batch of uint8 images, finds its soft targets, and steps.

  Args:
    state: to update.
    resident: what lives on the device: see `gather`, and what else `targets`
      reads.
    examples: row numbers [b] of resident examples; or the batch, streamed:
      image uint8 [b, H, W, C], label [b], index [b], soft_logits None or
      [b, K].
    key: of the epoch; see `augment.flip_and_crop`.
    augment: (key, images, index) to images.
    normalise: uint8 images to what the model takes.
    step: `train_step`, its options bound.
    targets: makes the target source from what is resident.
  """
  streamed = isinstance(examples, Mapping)
  batch = examples if streamed else gather(resident, examples)
  images = normalise(augment(key, batch['image'], batch['index']))
  soft_logits = targets(resident)(batch, images)
  return step(state, {**batch, 'image': images, 'soft_logits': soft_logits})
