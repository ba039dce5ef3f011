# SPDX-License-Identifier: Apache-2.0
"""Results over several seeds: mean, spread, and differences seed by seed."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats


@dataclasses.dataclass(frozen=True)
class Summary:
  """Some numbers in short.

  Attributes:
    std: sample standard deviation (n - 1 below the line); NaN for n = 1.
  """

  mean: float
  std: float
  n: int

  def interval(self) -> tuple[float, float]:
    """Returns Student's 95 % confidence interval of the mean.

    Returns:
      (low, high); NaN for n = 1, which says nothing about the spread.

    Example:
      >>> Summary(mean=2.0, std=1.0, n=3).interval()  # 2 -+ 4.303 / 3**0.5
    """
    half = stats.t.ppf(0.975, self.n - 1) * self.std / self.n**0.5
    return self.mean - half, self.mean + half


def summarise(values: Sequence[float]) -> Summary:
  """Returns mean and sample standard deviation of at least one number."""
  spread = statistics.stdev(values) if len(values) > 1 else math.nan
  return Summary(statistics.fmean(values), spread, len(values))


def paired(
  ours: Mapping[int, float], theirs: Mapping[int, float]
) -> Summary | None:
  """Summarises the differences of two methods, each within one seed.

  A seed gives both methods the same data order and, in their first stage, the
  same initial parameters, so what they share drops out of the difference.

  Returns:
    Of ours - theirs over the seeds that both have; None if there are none.
  """
  shared = sorted(ours.keys() & theirs.keys())
  if not shared:
    return None
  return summarise([ours[seed] - theirs[seed] for seed in shared])
