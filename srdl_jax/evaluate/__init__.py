# SPDX-License-Identifier: Apache-2.0
"""Metrics of a model, or of several models' mean, over exactly N examples."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from srdl_jax.errors import ConfigError
from srdl_jax.evaluate.ranking import Runs, extract_features, rank
from srdl_jax.metrics import Classification, log_softmax
from srdl_jax.network import Member

__all__ = [
  'beside',
  'classify',
  'evaluate',
  'extract_features',
  'mean_of',
  'passes',
  'rank',
  'said',
]

Blocks = Iterable[tuple[np.ndarray, Any]]  # Logits may be JAX's.


def passes(members: Sequence[Member]) -> list[Blocks]:
  """Returns of each network its logits [b, K] of rows [b], block by block.

  Nothing is waited for where the images are on the devices (see
  `parallel.predict`), else nothing has begun.
  """
  return [
    # Blocks of one size, whatever each run's own is.
    member.network.predict(
      member.variables,
      member.examples.split.images,
      member.examples.rows,
      members[0].batch_size,
    )
    for member in members
  ]


def said(
  members: Sequence[Member], begun: list[Blocks] | None = None
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
  """Yields rows [b] and each of some networks' log-probabilities [b, K].

  Args:
    members: of the same examples and classes.
    begun: what `passes` has returned of them, if it was asked.
  """
  for blocks in zip(*begun or passes(members), strict=True):
    yield blocks[0][0], [log_softmax(logits) for _, logits in blocks]


def mean_of(log_probs_BxK: Sequence[np.ndarray]) -> np.ndarray:
  """Returns the logarithm of the mean of probabilities, [B, K] (Table 6)."""
  if len(log_probs_BxK) == 1:
    return log_probs_BxK[0]
  return np.logaddexp.reduce(log_probs_BxK) - np.log(len(log_probs_BxK))


def classify(
  members: Sequence[Member],
  each: Callable[[np.ndarray, np.ndarray], None] | None = None,
  begun: list[Blocks] | None = None,
) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of some networks (Table 6).

  Their probabilities at temperature 1 are averaged.

  Args:
    members: of the same examples and classes.
    each: is told the rows [b] and mean log-probabilities [b, K] of each block.
    begun: see `said`.

  Returns:
    See `metrics.Classification.result`; of several networks also
    'disagreement', the share of examples on which not all predict the same
    class.
  """
  labels = members[0].examples.split.labels
  sums, differing = Classification(), 0
  for rows, log_probs in said(members, begun):
    mean = mean_of(log_probs)
    sums.add(mean, labels[rows])
    if len(members) > 1:
      top1 = np.argmax(log_probs, axis=-1)
      differing += int((top1 != top1[0]).any(0).sum())
    if each is not None:
      each(rows, mean)
  result = sums.result()
  if len(members) > 1:
    result['disagreement'] = differing / result['examples']
  return result


def evaluate(
  runs: Runs,
  split: str,
  each: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of networks of one or more runs.

  Args:
    runs: of each its experiment, and parameters and statistics by the number
      of the stage.
    split: 'test', 'validation' or 'train' (the rows that are trained on).
    each: see `classify`; not of the test of a retrieval.

  Returns:
    See `measure.metrics` for the test of a retrieval, else `classify`.

  Raises:
    ConfigError: the runs are of different examples or classes.
  """
  if split == 'test' and runs[0][0].is_retrieval:
    return rank(runs)
  first, first_examples = runs[0][0], runs[0][0].examples(split)
  for other, _ in runs[1:]:
    examples = other.examples(split)
    same = (
      examples.split.fingerprint == first_examples.split.fingerprint
      and np.array_equal(examples.rows, first_examples.rows)
      and other.dataset.num_classes == first.dataset.num_classes
    )
    if not same:
      raise ConfigError(
        f'The runs have other {split} examples or classes: '
        f'{first.description}; {other.description}.'
      )
  return classify(
    [m for e, its in runs for m in e.members(its, e.examples(split))], each
  )
