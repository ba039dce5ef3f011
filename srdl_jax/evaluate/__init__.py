# SPDX-License-Identifier: Apache-2.0
"""Metrics of a model, or of several models' mean, over exactly N examples."""

from collections.abc import Sequence

import numpy as np

from srdl_jax.errors import ConfigError
from srdl_jax.evaluate.ranking import Runs, extract_features, rank
from srdl_jax.metrics import Classification, log_softmax
from srdl_jax.network import Member

__all__ = ['classify', 'evaluate', 'extract_features', 'rank']


def classify(members: Sequence[Member]) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of some networks (Table 6).

  Their probabilities at temperature 1 are averaged.

  Args:
    members: of the same examples and classes.

  Returns:
    See `metrics.Classification.result`; of several networks also
    'disagreement', the share of examples on which not all predict the same
    class.
  """
  labels = members[0].examples.split.labels
  sums, differing = Classification(), 0
  passes = [
    # Blocks of one size, whatever each run's own is.
    member.network.predict(
      member.variables,
      member.examples.split.images,
      member.examples.rows,
      members[0].batch_size,
    )
    for member in members
  ]
  for blocks in zip(*passes, strict=True):
    rows = blocks[0][0]
    log_probs = np.stack([log_softmax(logits) for _, logits in blocks])
    mean = np.logaddexp.reduce(log_probs) - np.log(len(passes))
    sums.add(mean, labels[rows])
    top1 = log_probs.argmax(-1)
    differing += int((top1 != top1[0]).any(0).sum())
  result = sums.result()
  if len(passes) > 1:
    result['disagreement'] = differing / result['examples']
  return result


def evaluate(runs: Runs, split: str) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of networks of one or more runs.

  Args:
    runs: of each its experiment, and parameters and statistics by the number
      of the stage.
    split: 'test', 'validation' or 'train' (the rows that are trained on).

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
    [m for e, its in runs for m in e.members(its, e.examples(split))]
  )
