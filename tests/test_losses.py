# SPDX-License-Identifier: Apache-2.0
"""The losses against the paper's equations, in double precision."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdl_jax import losses

T = 3.0
CLOSE = {'rtol': 1e-12, 'atol': 1e-14}

pytestmark = pytest.mark.usefixtures('x64')


def _logits(phase, batch=4, classes=5):
  """Class scores without a pattern between rows or columns, [B, K]."""
  index = np.arange(batch * classes).reshape(batch, classes)
  return jnp.asarray(4 * np.sin(phase + 1.7 * index))


def _softmax(logits_BxK):
  exp_BxK = np.exp(np.asarray(logits_BxK))
  return exp_BxK / exp_BxK.sum(1, keepdims=True)


def _stored(logits_BxK, temperature=T):
  """What the bank holds: log p~ at the temperature."""
  return jnp.log(_softmax(logits_BxK / temperature))


@pytest.fixture
def batch():
  """A student's scores, the labels, and the stored log p~ of another net."""
  return _logits(0.3), jnp.array([0, 4, 2, 2]), _stored(_logits(5.0))


# Eq 2.


def test_eq2_is_minus_the_mean_log_probability():
  # p(y|x) is 1/2 in the first row and 1/8 in the second.
  logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.5, 0.375, 0.125]]))
  loss = losses.cross_entropy(logits, jnp.array([0, 2]))
  # (log 2 + log 8) / 2 = 2 log 2: a mean, and not negative.
  np.testing.assert_allclose(loss, 2 * math.log(2), **CLOSE)


def test_eq2_of_uniform_scores_is_log_k():
  for classes in (2, 10, 100):
    logits = jnp.full((3, classes), 7.0)
    loss = losses.cross_entropy(logits, jnp.zeros(3, int))
    np.testing.assert_allclose(loss, math.log(classes), **CLOSE)


def test_eq2_has_temperature_one(batch):
  # d/dz of -log softmax(z)_y is p - onehot; any T would scale and soften it.
  logits, labels, _ = batch
  gradient = jax.grad(losses.cross_entropy)(logits, labels)
  expected = (_softmax(logits) - np.eye(5)[labels]) / 4
  np.testing.assert_allclose(gradient, expected, **CLOSE)


# Eq 5 and 6.


def test_eq6_is_kl_from_stored_to_student():
  # Student p~ = (1/2, 1/2) whatever T; stored p~ = (9/10, 1/10).
  stored = jnp.log(jnp.array([[0.9, 0.1]]))
  loss = losses.imitation(jnp.zeros((1, 2)), stored, T)
  forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
  backward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
  np.testing.assert_allclose(loss, forward, **CLOSE)
  assert abs(forward - backward) > 0.1


def test_eq6_sums_over_classes_and_averages_over_the_batch():
  # A row of 2 m classes, stored uniform on half of them and student uniform
  # on all: KL = log 2 for every m. A mean over classes would give log 2 / 2m.
  # The second row agrees with its targets and halves the mean.
  for half in (1, 8):
    stored = jnp.array([[0.0] * half + [-800.0] * half, [0.0] * 2 * half])
    loss = losses.imitation(jnp.zeros((2, 2 * half)), stored, T)
    np.testing.assert_allclose(loss, math.log(2) / 2, **CLOSE)


def test_eq6_softens_the_student_and_not_the_stored_again():
  # z = T log q softens to q. Softening the stored side once more, or leaving
  # the student as it is, would both leave a divergence.
  q = jnp.array([[0.7, 0.2, 0.1]])
  assert abs(losses.imitation(T * jnp.log(q), jnp.log(q), T)) < 1e-15
  assert losses.imitation(jnp.log(q), jnp.log(q), T) > 0.05


def test_eq6_is_zero_for_own_targets():
  logits = _logits(0.3)
  value, gradient = jax.value_and_grad(losses.imitation)(
    logits, _stored(logits), T
  )
  assert abs(value) < 1e-15
  np.testing.assert_allclose(gradient, np.zeros((4, 5)), atol=1e-15)


def test_eq6_is_positive_for_other_targets(batch):
  logits, _, stored = batch
  for row in range(4):
    one = slice(row, row + 1)
    assert losses.imitation(logits[one], stored[one], T) > 1e-2


def test_eq6_takes_logits_up_to_a_constant_per_row(batch):
  # log p~ and z* / T differ by a constant of the row: both are targets.
  logits, _, stored = batch
  shift = jnp.array([[-50.0], [0.0], [3.0], [1e3]])
  np.testing.assert_allclose(
    losses.imitation(logits, stored + shift, T),
    losses.imitation(logits, stored, T),
    rtol=1e-11,
  )


def test_no_gradient_reaches_the_stored_side(batch):
  logits, labels, stored = batch

  def loss(stored):
    return losses.srdl(logits, labels, stored, temperature=T)[0]

  np.testing.assert_array_equal(jax.grad(loss)(stored), np.zeros((4, 5)))


def test_nothing_reaches_a_student_through_its_own_stored_scores():
  # Both arguments are the same traced array, as with an online teacher that
  # shares the student's pass; the stored side still counts as a constant:
  # the gradient is T (softmax(z / T) - softmax(z)) / (B T^2).
  logits = _logits(0.3)
  gradient = jax.grad(lambda z: losses.imitation(z, z, T))(logits)
  expected = (_softmax(logits / T) - _softmax(logits)) / (4 * T)
  np.testing.assert_allclose(gradient, expected, **CLOSE)


# Eq 7.


def test_eq7_weighs_cross_entropy_by_one_and_kl_by_t_squared(batch):
  logits, labels, stored = batch
  loss, parts = losses.srdl(logits, labels, stored, temperature=T)
  ce = losses.cross_entropy(logits, labels)
  kl = losses.imitation(logits, stored, T)
  np.testing.assert_allclose(loss, ce + 9 * kl, **CLOSE)
  assert parts == {'cross_entropy': ce, 'imitation': kl}


@pytest.mark.parametrize('temperature', [1.0, 3.0, 20.0])
def test_eq7_gradient_is_t_times_the_difference_over_b(batch, temperature):
  # d/dz of KL(q || softmax(z / T)) is (p~ - q) / T for each example. With the
  # mean over B and the factor T^2: T (p~ - q) / B.
  logits, labels, _ = batch
  stored = _stored(_logits(5.0), temperature)
  gradient = jax.grad(
    lambda z: losses.srdl(
      z, labels, stored, temperature=temperature, label_weight=0.0
    )[0]
  )(logits)
  difference = _softmax(logits / temperature) - np.exp(stored)
  np.testing.assert_allclose(gradient, temperature * difference / 4, **CLOSE)


def test_eq7_gradient_adds_that_of_eq2(batch):
  logits, labels, stored = batch
  gradient = jax.grad(
    lambda z: losses.srdl(z, labels, stored, temperature=T)[0]
  )(logits)
  labels_part = _softmax(logits) - np.eye(5)[labels]
  targets_part = T * (_softmax(logits / T) - np.exp(stored))
  np.testing.assert_allclose(
    gradient, (labels_part + targets_part) / 4, **CLOSE
  )


def test_eq7_with_own_targets_is_eq2(batch):
  logits, labels, _ = batch
  loss, _ = losses.srdl(logits, labels, _stored(logits), temperature=T)
  np.testing.assert_allclose(
    loss, losses.cross_entropy(logits, labels), rtol=1e-13
  )


def test_eq7_for_a_high_temperature_matches_centred_logits():
  # Hinton et al. 2015, section 2.1: for T much larger than the logits,
  # T^2 KL tends to sum_j (z_j - v_j)^2 / 2K for scores of zero mean.
  student, teacher = _logits(0.3), _logits(5.0)
  student -= student.mean(1, keepdims=True)
  teacher -= teacher.mean(1, keepdims=True)
  high = 1e4
  loss, _ = losses.srdl(
    student,
    jnp.zeros(4, int),
    teacher / high,
    temperature=high,
    label_weight=0.0,
  )
  expected = ((student - teacher) ** 2).sum(1).mean() / (2 * 5)
  np.testing.assert_allclose(loss, expected, rtol=1e-3)


def test_weights_are_those_of_their_terms(batch):
  # Hinton's option: 0.1 of the labels, 0.9 of T^2 R_kl.
  logits, labels, stored = batch
  loss, parts = losses.srdl(
    logits,
    labels,
    stored,
    temperature=T,
    label_weight=0.1,
    imitation_weight=0.9,
  )
  np.testing.assert_allclose(
    loss,
    0.1 * parts['cross_entropy'] + 0.9 * 9 * parts['imitation'],
    **CLOSE,
  )


def test_without_targets_the_loss_is_eq2_whatever_the_weights(batch):
  logits, labels, _ = batch
  loss, parts = losses.srdl(
    logits, labels, None, temperature=T, label_weight=0.1
  )
  assert loss == losses.cross_entropy(logits, labels)
  assert list(parts) == ['cross_entropy']


def test_losses_are_finite_at_extreme_scores(batch):
  _, labels, stored = batch
  logits = 1e4 * _logits(0.3)
  value, gradient = jax.value_and_grad(
    functools.partial(
      lambda z, s: losses.srdl(z, labels, s, temperature=T)[0], s=stored
    )
  )(logits)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


def test_targets_in_half_precision_are_summed_in_single():
  logits = jax.random.normal(jax.random.key(0), (64, 1000), jnp.float32)
  stored = jax.nn.log_softmax(logits / 3).astype(jnp.float16)
  found = losses.imitation(logits, stored, 3.0)
  expected = losses.imitation(logits, stored.astype(jnp.float32), 3.0)
  assert found.dtype == jnp.float32
  assert found == expected and 0 <= found < 1e-5
