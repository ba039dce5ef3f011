# SPDX-License-Identifier: Apache-2.0
"""Orders of examples, wrong labels, and losses that teach a part of a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import second_sources
import second_writing

from srdl_jax import losses
from srdl_jax.data import sampling

# Of the full split; not all are in use.
COUNT = 97


def drawn_of(order, n=61, batch_size=10, **fields):
  rows = np.sort(np.random.default_rng(2).permutation(COUNT)[:n])
  labels = np.random.default_rng(3).integers(0, 4, COUNT)
  settings = {'seed': 5, 'stage': 2, 'rows': rows.astype(np.int32), **fields}
  return sampling.Drawn(
    labels=labels, batch_size=batch_size, order=order, **settings
  )


def used(drawn, epoch):
  """Returns the numbers that an epoch trains on, its remainder dropped."""
  return drawn.epoch(epoch)[: drawn.steps * drawn.batch_size]


SHAPES = [(61, 10), (60, 10), (60, 8), (61, 61), (60, 60), (29, 2)]
sized = pytest.mark.parametrize(
  ('n', 'batch_size'), [(n, b) for n, b in SHAPES if b % 2 == 0]
)


@pytest.mark.parametrize(('n', 'batch_size'), SHAPES)
def test_once_is_the_order_of_an_epoch(n, batch_size):
  drawn = drawn_of('once', n, batch_size)
  for epoch in range(4):
    np.testing.assert_array_equal(
      drawn.epoch(epoch), sampling.epoch_order(5, 2, epoch, drawn.rows)
    )


@sized
def test_pairs_are_two_of_a_class_and_none_comes_twice(n, batch_size):
  drawn = drawn_of('pairs', n, batch_size)
  for epoch in range(4):
    numbers = used(drawn, epoch)
    assert len({*numbers.tolist()}) == len(numbers)
    one, other = drawn.labels[numbers % COUNT].reshape(-1, 2).T
    np.testing.assert_array_equal(one, other)
    first, second = numbers.reshape(-1, 2).T
    assert (first % COUNT != second % COUNT).all()


def test_pairs_take_a_class_with_an_odd_number_of_images_whole():
  # 3 of one class and 5 of the other: a second view of one image of each.
  labels = np.array([0, 1, 1, 0, 1, 1, 0, 1])
  rows = np.arange(8, dtype=np.int32)
  for epoch in range(4):
    numbers = sampling.Drawn(1, 1, rows, labels, 8, 'pairs').epoch(epoch)
    assert len(numbers) == 8
    views = numbers[numbers >= 8]
    assert len(views) <= 2


def test_pairs_show_all_images_in_time():
  drawn = drawn_of('pairs')
  seen = {n % COUNT for e in range(12) for n in used(drawn, e).tolist()}
  assert seen == {*drawn.rows.tolist()}


@sized
def test_two_views_stand_side_by_side(n, batch_size):
  drawn = drawn_of('twice', n, batch_size)
  for epoch in range(4):
    first, second = used(drawn, epoch).reshape(-1, 2).T
    assert np.isin(first, drawn.rows).all()
    np.testing.assert_array_equal(second, first + COUNT)


@sized
def test_what_was_new_comes_again_in_the_next_batch(n, batch_size):
  drawn = drawn_of('again', n, batch_size)
  numbers = np.concatenate([used(drawn, epoch) for epoch in range(4)])
  batches = numbers.reshape(-1, batch_size)
  assert len(batches) == 4 * drawn.steps
  new, again = batches[:, 1::2], batches[:, ::2]
  assert np.isin(new, drawn.rows).all()
  np.testing.assert_array_equal(again[1:], new[:-1] + COUNT)
  np.testing.assert_array_equal(again[0], new[0] + COUNT)


@sized
@pytest.mark.parametrize(('order', 'place'), [('twice', 0), ('again', 1)])
def test_no_row_is_new_twice_in_two_epochs(order, place, n, batch_size):
  drawn = drawn_of(order, n, batch_size)
  for first in (0, 2):
    new = np.concatenate(
      [used(drawn, first + later)[place::2] for later in (0, 1)]
    )
    assert len(new) == drawn.steps * batch_size
    assert len({*new.tolist()}) == len(new)


@sized
@pytest.mark.parametrize('order', sampling.ORDERS)
def test_every_order_fills_its_steps_with_rows_in_use(order, n, batch_size):
  drawn = drawn_of(order, n, batch_size)
  assert drawn.steps == n // batch_size
  for epoch in range(4):
    numbers = drawn.epoch(epoch)
    assert numbers.dtype == np.int32
    least = drawn.steps * batch_size
    assert len(numbers) == (n if order == 'once' else least)
    assert np.isin(numbers % COUNT, drawn.rows).all()
    assert numbers.max() < 2 * COUNT


@pytest.mark.parametrize('order', sampling.ORDERS)
def test_an_order_depends_on_its_fields_alone(order):
  def all_of(**fields):
    return [used(drawn_of(order, **fields), e).tolist() for e in range(4)]

  np.random.seed(1)
  first = all_of()
  assert len({*map(tuple, first)}) == 4
  np.random.seed(2)
  assert all_of() == first
  for fields in ({'seed': 6}, {'stage': 1}):
    other = all_of(**fields)
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize('order', ['once', 'pairs', 'twice', 'again'])
def test_an_order_is_the_one_of_its_second_writing(order):
  drawn = drawn_of(order)
  written = second_sources.Drawn.__new__(second_sources.Drawn)
  for name in ('seed', 'stage', 'rows', 'labels', 'batch_size', 'steps'):
    setattr(written, name, getattr(drawn, name))
  written.count = COUNT
  for epoch in range(4):
    expected = getattr(second_sources, order)(written, epoch)
    np.testing.assert_array_equal(drawn.epoch(epoch), expected)


# Wrong labels.

noisy_of = functools.partial(sampling.with_noise, classes=5)
CLEAN = np.random.default_rng(0).integers(0, 5, 3000).astype(np.int32)
ROWS = np.arange(0, 3000, 2, dtype=np.int32)


@pytest.mark.parametrize('share', [0.001, 0.1, 1 / 3, 0.9])
def test_that_share_of_the_rows_gets_another_class(share):
  before = CLEAN.copy()
  noisy = noisy_of(CLEAN, ROWS, share, 7)
  np.testing.assert_array_equal(CLEAN, before)
  wrong = np.flatnonzero(noisy != CLEAN)
  assert len(wrong) == round(share * len(ROWS))
  assert np.isin(wrong, ROWS).all()
  assert noisy.dtype == CLEAN.dtype
  assert noisy.min() >= 0 and noisy.max() < 5


def test_all_other_classes_are_alike():
  noisy = noisy_of(CLEAN, ROWS, 0.9, 7)
  wrong = noisy != CLEAN
  shifts = np.bincount((noisy - CLEAN)[wrong] % 5, minlength=5)
  assert shifts[0] == 0
  # 337 of each, to three standard deviations.
  assert abs(shifts[1:] - wrong.sum() / 4).max() < 3 * np.sqrt(337 * 3 / 4)


def test_wrong_labels_follow_from_their_seed():
  first, same, other = (noisy_of(CLEAN, ROWS, 0.3, s) for s in (7, 7, 8))
  np.testing.assert_array_equal(first, same)
  assert (first != other).any()
  assert {*np.flatnonzero(first != CLEAN)} != {*np.flatnonzero(other != CLEAN)}


def test_no_noise_is_the_labels_themselves():
  assert noisy_of(CLEAN, ROWS, 0.0, 7) is CLEAN
  assert noisy_of(CLEAN, ROWS[:4], 0.1, 7) is CLEAN


# Losses of which a part has soft targets.

WEIGHTS = {'temperature': 2.5, 'label_weight': 0.6, 'imitation_weight': 1.7}


@pytest.fixture
def example(x64):
  """Logits, labels and targets of 24 images of 5 classes."""
  rng = np.random.default_rng(4)
  logits, soft = rng.normal(size=(2, 24, 5))
  return jnp.array(logits), jnp.array(rng.integers(0, 5, 24)), jnp.array(soft)


def value_and_gradient(loss_of, logits, labels, soft, **fields):
  def its(logits):
    return loss_of(logits, labels, soft, **WEIGHTS, **fields)

  (loss, parts), gradient = jax.value_and_grad(its, has_aux=True)(logits)
  return {'loss': loss, **parts, 'gradient': gradient}


def assert_equal(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(
      found[name], value, rtol=1e-12, atol=1e-14, err_msg=name
    )


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_where_all_are_taught_the_loss_is_that_of_srdl(example, smoothing):
  both = (
    value_and_gradient(loss_of, *example, label_smoothing=smoothing)
    for loss_of in (losses.partly_taught, losses.srdl)
  )
  assert_equal(*both)


def test_where_none_is_taught_labels_alone_teach(example):
  logits, labels, soft = example
  found = value_and_gradient(
    losses.partly_taught, logits, labels, jnp.full_like(soft, jnp.nan)
  )
  expected = value_and_gradient(
    lambda *rest, **_: losses.srdl(*rest, temperature=1), logits, labels, None
  )
  assert np.isfinite(found['gradient']).all()
  assert found['imitation'] == 0
  assert_equal(found, {**expected, 'imitation': 0.0})


def partly(soft, taught):
  return jnp.where(np.isin(np.arange(24), taught)[:, None], soft, jnp.nan)


# Of four devices with six images each: unlike numbers, and none on some.
TAUGHT = [[0, 1, 2, 3, 4, 5, 8, 19, 23], [13], [6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize('taught', TAUGHT)
def test_the_loss_of_a_part_is_the_mean_over_those_taught(example, taught):
  logits, labels, soft = example
  found = losses.partly_taught(logits, labels, partly(soft, taught), **WEIGHTS)
  log_p = second_writing.log_softmax(np.array(logits))
  ce = -log_p[np.arange(24), np.array(labels)]
  own = second_writing.log_softmax(np.array(logits) / 2.5)
  other = second_writing.log_softmax(np.array(soft))
  kl = (np.exp(other) * (other - own)).sum(1)[taught].mean()
  weights = np.where(np.isin(np.arange(24), taught), 0.6, 1.0)
  expected = (weights * ce).mean() + 1.7 * 2.5**2 * kl
  parts = {'cross_entropy': ce.mean(), 'imitation': kl}
  assert_equal({'loss': found[0], **found[1]}, {'loss': expected, **parts})


@pytest.mark.parametrize('taught', TAUGHT)
def test_four_devices_have_the_loss_of_one(example, taught):
  logits, labels, soft = example
  soft = partly(soft, taught)
  expected = value_and_gradient(losses.partly_taught, logits, labels, soft)

  def split(x):
    return x.reshape(4, 6, *x.shape[1:])

  found = jax.pmap(
    functools.partial(
      value_and_gradient, losses.partly_taught, axis_name='devices'
    ),
    'devices',
  )(*map(split, (logits, labels, soft)))
  gradient = np.array(found.pop('gradient')).reshape(24, 5) / 4
  means = {name: np.mean(x) for name, x in found.items()}
  assert_equal({**means, 'gradient': gradient}, expected)


def test_a_row_with_one_unknown_class_is_no_target(example):
  logits, labels, soft = example
  one = soft.at[3, 2].set(jnp.nan)
  row = soft.at[3].set(jnp.nan)
  assert_equal(
    value_and_gradient(losses.partly_taught, logits, labels, one),
    value_and_gradient(losses.partly_taught, logits, labels, row),
  )
