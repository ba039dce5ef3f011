# SPDX-License-Identifier: Apache-2.0
"""Tests of the choice and order of examples."""

import numpy as np
import pytest

from srdl_jax.data import sampling
from srdl_jax.errors import ConfigError

ROWS = np.arange(100, dtype=np.int32)
# Class k of 3 has the rows that leave the remainder k: 34, 33 and 33 of them.
LABELS = (ROWS % 3).astype(np.int32)


def test_epoch_order_is_the_listed_one():
  # Runs are repeatable across machines and NumPy versions only if this holds.
  order = sampling.epoch_order(0, 1, 2, np.arange(8))
  assert order.tolist() == [7, 4, 1, 3, 2, 5, 6, 0]
  assert order.dtype == np.int32


def test_epoch_order_visits_each_row_once():
  rows = np.array([3, 5, 8, 13, 21, 34])
  order = sampling.epoch_order(7, 0, 0, rows)
  assert sorted(order.tolist()) == rows.tolist()
  assert rows.tolist() == [3, 5, 8, 13, 21, 34]


def test_epoch_order_depends_on_each_argument_and_nothing_else():
  orders = {
    tuple(sampling.epoch_order(seed, stage, epoch, ROWS))
    for seed in (0, 1)
    for stage in (0, 1)
    for epoch in (0, 1)
  }
  assert len(orders) == 8
  np.random.seed(3)
  first = sampling.epoch_order(1, 1, 1, ROWS)
  np.random.seed(4)
  np.testing.assert_array_equal(first, sampling.epoch_order(1, 1, 1, ROWS))


def test_choose_rows_takes_all_by_default():
  train, held = sampling.choose_rows(LABELS)
  np.testing.assert_array_equal(train, ROWS)
  assert held.shape == (0,)
  assert train.dtype == held.dtype == np.int32


def test_holdout_is_disjoint_ascending_and_drawn_with_the_seed():
  train, held = sampling.choose_rows(LABELS, holdout=30, seed=5)
  assert len(held) == 30
  np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), ROWS)
  assert (np.diff(train) > 0).all() and (np.diff(held) > 0).all()
  again = sampling.choose_rows(LABELS, holdout=30, seed=5)[1]
  other = sampling.choose_rows(LABELS, holdout=30, seed=6)[1]
  np.testing.assert_array_equal(held, again)
  assert held.tolist() != other.tolist()


def test_holdout_is_not_the_start_of_the_first_epoch():
  # SeedSequence pads with zeros: the words (5,) and (5, 0, 0) draw the same.
  held = sampling.choose_rows(LABELS, holdout=30, seed=5)[1]
  first = sampling.epoch_order(5, 0, 0, ROWS)[:30]
  assert set(held.tolist()) != set(first.tolist())


def test_a_larger_holdout_contains_the_smaller_one():
  small = sampling.choose_rows(LABELS, holdout=10, seed=1)[1]
  large = sampling.choose_rows(LABELS, holdout=20, seed=1)[1]
  assert set(small.tolist()) < set(large.tolist())


def test_examples_per_class_are_the_first_by_row_number():
  train, _ = sampling.choose_rows(LABELS, examples_per_class=2)
  # Rows 0, 3 are of class 0; 1, 4 of class 1; 2, 5 of class 2.
  assert train.tolist() == [0, 1, 2, 3, 4, 5]


def test_examples_per_class_are_chosen_among_the_rest():
  train, held = sampling.choose_rows(
    LABELS, holdout=30, examples_per_class=4, seed=2
  )
  rest = np.setdiff1d(ROWS, held)
  expected = np.sort(
    np.concatenate([rest[LABELS[rest] == k][:4] for k in range(3)])
  )
  np.testing.assert_array_equal(train, expected)
  assert len(held) == 30


@pytest.mark.parametrize('name', ['holdout', 'examples_per_class', 'seed'])
def test_negative_numbers_are_refused(name):
  with pytest.raises(ConfigError, match=f'{name} must not be negative.* -1'):
    sampling.choose_rows(LABELS, **{name: -1})


@pytest.mark.parametrize('holdout', [100, 101])
def test_a_holdout_that_leaves_nothing_is_refused(holdout):
  with pytest.raises(ConfigError, match=f'holdout={holdout}.* 100 examples'):
    sampling.choose_rows(LABELS, holdout=holdout)


def test_the_largest_holdout_leaves_one_example():
  train, held = sampling.choose_rows(LABELS, holdout=99)
  assert (len(train), len(held)) == (1, 99)


def test_a_class_with_too_few_examples_is_named():
  assert len(sampling.choose_rows(LABELS, examples_per_class=33)[0]) == 99
  with pytest.raises(ConfigError, match='=34, but class 1 has 33 examples'):
    sampling.choose_rows(LABELS, examples_per_class=34)


def test_a_class_that_is_all_held_out_is_named():
  labels = np.zeros(5, np.int32)
  lonely = sampling.choose_rows(labels, holdout=1, seed=0)[1]
  labels[lonely] = 9
  with pytest.raises(ConfigError, match='class 9 has 0 examples'):
    sampling.choose_rows(labels, holdout=1, examples_per_class=1, seed=0)
