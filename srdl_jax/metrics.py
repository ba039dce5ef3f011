# SPDX-License-Identifier: Apache-2.0
"""Classification metrics of exactly the examples that are given (float64).

Sums over blocks of a split, so that no block has to be full and no whole
split has to be in memory. NumPy: they are reported numbers, not training.
"""

import dataclasses
import functools

import numpy as np

CALIBRATION_BINS = 15
_bins = functools.partial(np.zeros, CALIBRATION_BINS)


def log_softmax(logits_BxK: np.ndarray) -> np.ndarray:
  """Returns log-probabilities [B, K] in float64."""
  logits = np.array(logits_BxK, np.float64)
  logits -= logits.max(axis=-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def rank_of_label(scores_BxK: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
  """Returns how many classes stand before the label, [B].

  Equal scores stand in the order of their class, as argmax has it. A score
  that is not a number stands last.
  """
  own_B = np.take_along_axis(scores_BxK, labels_B[:, None], axis=1)
  before_BxK, same_BxK = scores_BxK > own_B, scores_BxK == own_B
  # Mostly each is the same as itself alone.
  if np.isnan(own_B).any() or np.count_nonzero(same_BxK) > len(labels_B):
    is_earlier_BxK = np.arange(scores_BxK.shape[1]) < labels_B[:, None]
    before_BxK |= (same_BxK & is_earlier_BxK) | np.isnan(own_B)
  return before_BxK.sum(axis=1)


@dataclasses.dataclass
class Classification:
  """Sums over examples; `result` divides them by the number of examples.

  Attributes:
    examples: how many examples have been added.
    top1, top5: how many labels rank first, or among the first five.
    nll: sum of -log p(y|x), nats.
    entropy: sum of the predictions' entropies, nats.
    bin_count, bin_correct, bin_confidence: sums over equal-width bins of the
      largest probability, for the expected calibration error.
  """

  examples: int = 0
  top1: int = 0
  top5: int = 0
  nll: float = 0.0
  entropy: float = 0.0
  bin_count: np.ndarray = dataclasses.field(default_factory=_bins)
  bin_correct: np.ndarray = dataclasses.field(default_factory=_bins)
  bin_confidence: np.ndarray = dataclasses.field(default_factory=_bins)

  def add(self, log_probs_BxK: np.ndarray, labels_B: np.ndarray) -> None:
    """Adds examples by their log-probabilities [B, K] and labels [B]."""
    labels_B = np.asarray(labels_B)
    rank_B = rank_of_label(log_probs_BxK, labels_B)
    probs_BxK = np.exp(log_probs_BxK)
    # p log p is 0 where p is: a log-probability of -inf times 0 is not.
    finite_BxK = np.maximum(log_probs_BxK, -1e4)
    self.examples += len(labels_B)
    self.top1 += int((rank_B == 0).sum())
    self.top5 += int((rank_B < 5).sum())
    self.nll -= float(
      np.take_along_axis(log_probs_BxK, labels_B[:, None], axis=1).sum()
    )
    self.entropy -= float((probs_BxK * finite_BxK).sum())
    confidence_B = np.nan_to_num(probs_BxK.max(axis=1))
    bins_B = np.ceil(confidence_B * CALIBRATION_BINS).astype(int) - 1
    bins_B = bins_B.clip(0, CALIBRATION_BINS - 1)
    binned = functools.partial(np.bincount, bins_B, minlength=CALIBRATION_BINS)
    self.bin_count += binned()
    self.bin_correct += binned(rank_B == 0)
    self.bin_confidence += binned(confidence_B)

  def result(self) -> dict[str, float | int]:
    """Returns means: accuracies as fractions, and the denominator.

    `expected_calibration_error` is sum_b |correct_b - confidence_b| / N over
    15 bins of equal width (Guo et al. 2017).
    """
    n = self.examples
    gap = np.abs(self.bin_correct - self.bin_confidence).sum()
    return {
      'accuracy': self.top1 / n,
      'top5_accuracy': self.top5 / n,
      'nll': self.nll / n,
      'expected_calibration_error': float(gap) / n,
      'entropy': self.entropy / n,
      'examples': n,
    }
