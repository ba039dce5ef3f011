# SPDX-License-Identifier: Apache-2.0
"""Classification metrics in closed form, over any split into blocks."""

import math

import jax
import numpy as np
import pytest

from srdl_jax import metrics
from srdl_jax.metrics import Classification
from srdl_jax.parallel import predict


def _result(log_probs, labels):
  sums = Classification()
  sums.add(np.asarray(log_probs), np.asarray(labels))
  return sums.result()


def _logits(examples, classes):
  """Class scores of few different values, so that many are equal."""
  index = np.arange(examples * classes).reshape(examples, classes)
  return np.round(3 * np.sin(1.7 * index)).astype(np.float32)


def test_log_softmax_is_normalised_and_finite_in_float64():
  logits = np.float32([[0, math.log(3)], [1e4, -1e4], [-1e4, -1e4]])
  found = metrics.log_softmax(logits)
  expected = [
    [math.log(0.25), math.log(0.75)],
    [0, -2e4],
    [math.log(0.5), math.log(0.5)],
  ]
  assert found.dtype == np.float64
  np.testing.assert_allclose(found, expected, rtol=1e-7)


# Accuracies.


def test_top1_and_top5_count_ranks():
  # The label's class has rank 0, 1, 4, 5 and 9 of ten.
  log_probs = np.tile(np.log(np.arange(10, 0, -1) / 55), (5, 1))
  result = _result(log_probs, [0, 1, 4, 5, 9])
  assert result['accuracy'] == 1 / 5
  assert result['top5_accuracy'] == 3 / 5
  assert result['examples'] == 5


def test_ties_go_to_the_first_class_as_argmax_has_it():
  scores = np.zeros((7, 7))
  ranks = metrics.rank_of_label(scores, np.arange(7))
  assert ranks.tolist() == [0, 1, 2, 3, 4, 5, 6]
  result = _result(np.full((7, 7), -math.log(7)), np.arange(7))
  assert (result['accuracy'], result['top5_accuracy']) == (1 / 7, 5 / 7)


def test_a_tie_counts_where_another_row_has_no_number():
  scores = np.array([[1.0, 1.0, 0.0], [np.nan, 0.0, np.nan]])
  assert metrics.rank_of_label(scores, np.array([1, 0])).tolist() == [1, 3]


def test_top1_is_argmax_and_top5_a_stable_sort():
  scores, labels = _logits(200, 8), np.arange(200) % 8
  assert any(len(set(row)) < 8 for row in scores.tolist())
  ranks = metrics.rank_of_label(scores, labels)
  np.testing.assert_array_equal(ranks == 0, scores.argmax(1) == labels)
  order = np.argsort(-scores, axis=1, kind='stable')
  np.testing.assert_array_equal(order[np.arange(200), ranks], labels)


def test_fewer_than_five_classes_are_always_among_the_first_five():
  assert _result(np.log([[0.7, 0.2, 0.1]]), [2])['top5_accuracy'] == 1


# Likelihood and entropy.


def test_nll_is_the_mean_minus_log_probability_of_the_label():
  result = _result(np.log([[0.5, 0.5], [0.875, 0.125]]), [0, 1])
  # (log 2 + log 8) / 2.
  assert result['nll'] == pytest.approx(2 * math.log(2), rel=1e-14)


def test_entropy_of_uniform_and_of_certain_predictions():
  assert _result(np.full((3, 8), -math.log(8)), [0, 1, 2])[
    'entropy'
  ] == pytest.approx(math.log(8), rel=1e-14)
  # 0 log 0 is 0.
  for kind in (np.float16, np.float32, np.float64):
    assert _result(np.array([[0, -np.inf]], kind), [0])['entropy'] == 0


def test_an_impossible_label_has_infinite_nll():
  assert _result([[0.0, -np.inf]], [1])['nll'] == np.inf


# Calibration.


def test_ece_is_the_gap_between_confidence_and_accuracy():
  # One bin holds both examples: accuracy 1/2, confidence 0.9.
  result = _result(np.log([[0.9, 0.1], [0.9, 0.1]]), [0, 1])
  assert result['expected_calibration_error'] == pytest.approx(0.4, abs=1e-14)


def test_ece_weighs_bins_by_their_examples():
  # Three at 0.9, one of them wrong: |2/3 - 0.9| x 3/4.
  # One at 0.6, right: |1 - 0.6| x 1/4.
  log_probs = np.log([[0.9, 0.1]] * 3 + [[0.6, 0.4]])
  result = _result(log_probs, [0, 0, 1, 0])
  expected = (0.9 - 2 / 3) * 3 / 4 + 0.4 / 4
  assert result['expected_calibration_error'] == pytest.approx(expected)


def test_ece_does_not_cancel_between_bins():
  # Wrong at 0.75 and right at 0.25 + 1/3: without bins the gaps would cancel
  # in part; apart they add up.
  low = 0.25 + 1 / 3
  log_probs = np.log([[0.75, 0.25], [low, 1 - low]])
  result = _result(log_probs, [1, 0])
  expected = (0.75 + (1 - low)) / 2
  assert result['expected_calibration_error'] == pytest.approx(expected)


@pytest.mark.parametrize(
  ('confidence', 'number'),
  [
    # Bin b of 15 is (b / 15, (b + 1) / 15].
    (0.5, 7),
    (0.5334, 8),
    (0.9333, 13),
    (0.9334, 14),
    (1.0, 14),
  ],
)
def test_ece_bins_are_fifteenths(confidence, number):
  sums = Classification()
  other = max(1 - confidence, 1e-300)
  sums.add(np.log([[confidence, other]]), np.array([0]))
  assert np.flatnonzero(sums.bin_count).tolist() == [number]


def test_ece_of_an_ideal_prediction_is_zero():
  # Confidence 3/4, right in three of four.
  result = _result(np.log([[0.75, 0.25]] * 4), [0, 0, 0, 1])
  assert result['expected_calibration_error'] == pytest.approx(0, abs=1e-15)


# Blocks.


@pytest.mark.parametrize('size', [1, 2, 3, 7, 12, 13])
def test_blocks_of_any_size_give_the_same_metrics(size):
  log_probs, labels = metrics.log_softmax(_logits(13, 8)), np.arange(13) % 8
  sums = Classification()
  for start in range(0, 13, size):
    block = slice(start, start + size)
    sums.add(log_probs[block], labels[block])
  whole = _result(log_probs, labels)
  # Counts are equal; sums of floats but for the order of their summands.
  assert sums.result() == pytest.approx(whole, rel=1e-13)
  for name in ('accuracy', 'top5_accuracy', 'examples'):
    assert sums.result()[name] == whole[name]


def test_padding_of_the_last_batch_counts_for_nothing():
  # Ten images in batches of four: the last one repeats two of its images.
  # The "network" looks the logits up by the image's only pixel.
  images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
  logits, labels = _logits(10, 8), np.arange(10) % 8
  sums, sizes = Classification(), []

  def step(variables, images):
    sizes.append(len(images))
    return np.asarray(variables)[images[:, 0, 0, 0]]

  devices = jax.devices()[:1]
  for rows, found in predict(step, logits, images, np.arange(10), 4, devices):
    sums.add(metrics.log_softmax(found), labels[rows])
  assert sizes == [4, 4, 4]
  whole = _result(metrics.log_softmax(logits), labels)
  assert sums.result() == pytest.approx(whole, rel=1e-13)
  assert sums.result()['examples'] == 10


def test_a_prediction_that_is_not_a_number_is_never_right():
  sums = metrics.Classification()
  sums.add(np.full((4, 10), np.nan), np.array([0, 1, 2, 9]))
  assert sums.top1 == sums.top5 == 0 and np.isnan(sums.nll)
