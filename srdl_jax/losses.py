# SPDX-License-Identifier: Apache-2.0
"""The losses of the paper: Eq 2 (labels), Eq 5 and 6 (imitation), Eq 7."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
  logits_BxK: jax.Array, labels_B: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
  """Returns the mean of `cross_entropies` over the batch (Eq 2), a scalar.

  Uniform logits give log K:

  >>> float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])))
  1.3862943649291992
  """
  return jnp.mean(cross_entropies(logits_BxK, labels_B, label_smoothing))


def cross_entropies(
  logits_BxK: jax.Array, labels_B: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
  """Returns each example's cross-entropy with its label, in nats, [B].

  -log p(y|x) at temperature 1. The paper prints Eq 2 without its minus sign.

  Args:
    logits_BxK: class scores z, [B, K].
    labels_B: integer labels in [0, K), [B].
    label_smoothing: share of a label's mass that all K classes get alike
      (Szegedy et al. 2016), in [0, 1); 0 in the paper.
  """
  if label_smoothing == 0:
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      logits_BxK, labels_B
    )
  one_hot_BxK = jax.nn.one_hot(
    labels_B, logits_BxK.shape[-1], dtype=logits_BxK.dtype
  )
  smooth_BxK = optax.losses.smooth_labels(one_hot_BxK, label_smoothing)
  return optax.losses.softmax_cross_entropy(logits_BxK, smooth_BxK)


def imitation(
  logits_BxK: jax.Array, soft_logits_BxK: jax.Array, temperature: float
) -> jax.Array:
  """Returns the mean of `imitations` over the batch (Eq 6), a scalar."""
  return jnp.mean(imitations(logits_BxK, soft_logits_BxK, temperature))


def imitations(
  logits_BxK: jax.Array, soft_logits_BxK: jax.Array, temperature: float
) -> jax.Array:
  """Returns KL(stored || student) of softened probabilities (Eq 6).

  sum_j p~(j|x, theta*) log(p~(j|x, theta*) / p~(j|x, theta)), where
  p~ = softmax(z / T) (Eq 5), of each example, in nats. No gradient reaches the
  stored side.

  Args:
    logits_BxK: the student's class scores z, not softened, [B, K].
    soft_logits_BxK: the stored targets as logits that are softened already,
      such as log p~(j|x, theta*), [B, K].
    temperature: T, which softens the student.

  Returns:
    [B]; zero where the student predicts its own targets.
  """
  # float16 is how large banks are stored, not what to sum in.
  wide = jnp.promote_types(soft_logits_BxK.dtype, jnp.float32)
  soft_logits_BxK = jax.lax.stop_gradient(soft_logits_BxK).astype(wide)
  # Once more: stored in float16 they sum to 1 up to rounding alone.
  stored_BxK = jax.nn.log_softmax(soft_logits_BxK)
  student_BxK = jax.nn.log_softmax(logits_BxK / temperature)
  return optax.losses.kl_divergence_with_log_targets(student_BxK, stored_BxK)


def srdl(
  logits_BxK: jax.Array,
  labels_B: jax.Array,
  soft_logits_BxK: jax.Array | None,
  *,
  temperature: float,
  label_weight: float = 1.0,
  imitation_weight: float = 1.0,
  label_smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the stage's loss, L = L_ce + T^2 R_kl (Eq 7), and its parts.

  Without soft targets this is Eq 2 alone, the loss of stage one and of
  vanilla training. The gradient of T^2 R_kl with respect to the logits is
  T (p~_student - p~_stored) / B.

  Args:
    logits_BxK: class scores, [B, K].
    labels_B: integer labels, [B].
    soft_logits_BxK: stored targets (see `imitation`), or None.
    temperature: T of Eq 5.
    label_weight: weight of the cross-entropy (1 in the paper) where there are
      soft targets.
    imitation_weight: weight of T^2 R_kl (1 in the paper).
    label_smoothing: see `cross_entropy`.

  Returns:
    The loss, a scalar in nats, and {'cross_entropy': scalar} or, with soft
    targets, {'cross_entropy': scalar, 'imitation': R_kl}.
  """
  ce = cross_entropy(logits_BxK, labels_B, label_smoothing)
  if soft_logits_BxK is None:
    return ce, {'cross_entropy': ce}
  kl = imitation(logits_BxK, soft_logits_BxK, temperature)
  loss = label_weight * ce + imitation_weight * temperature**2 * kl
  return loss, {'cross_entropy': ce, 'imitation': kl}


def partly_taught(
  logits_BxK: jax.Array,
  labels_B: jax.Array,
  soft_logits_BxK: jax.Array,
  *,
  temperature: float,
  label_weight: float | jax.Array,
  imitation_weight: float | jax.Array,
  label_smoothing: float = 0.0,
  axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns `srdl` where some examples have no soft target: rows of NaN.

  They learn from their labels alone, with weight 1; R_kl is the mean over the
  others, 0 where there are none.

  Args:
    axis_name: mapped axis over which a batch is split; the means over the
      devices of what is returned are those of the whole batch.
    logits_BxK, labels_B, soft_logits_BxK, temperature: see `srdl`.
    label_weight, imitation_weight, label_smoothing: see `srdl`.
  """
  taught_B = ~jnp.isnan(soft_logits_BxK).any(-1)
  # Not only in what is summed: a gradient of NaN times 0 is NaN.
  soft_logits_BxK = jnp.where(taught_B[:, None], soft_logits_BxK, 0)
  kl_B = imitations(logits_BxK, soft_logits_BxK, temperature)
  count = jnp.sum(taught_B, dtype=kl_B.dtype)
  if axis_name is not None:
    count = jax.lax.pmean(count, axis_name)
  kl = jnp.sum(jnp.where(taught_B, kl_B, 0)) / jnp.where(count > 0, count, 1)
  ce_B = cross_entropies(logits_BxK, labels_B, label_smoothing)
  labels = jnp.mean(jnp.where(taught_B, label_weight, 1) * ce_B)
  loss = labels + imitation_weight * temperature**2 * kl
  return loss, {'cross_entropy': jnp.mean(ce_B), 'imitation': kl}
