# SPDX-License-Identifier: Apache-2.0
"""Row 13: several seeds, against values worked out by hand."""

import math

import pytest

from srdl_jax.report import seeds


def test_sample_standard_deviation():
  # Deviations -1, 0, 1 from 2: sqrt(2 / (3 - 1)) = 1, not sqrt(2 / 3).
  found = seeds.summarise([1.0, 2.0, 3.0])
  assert (found.mean, found.std, found.n) == (2.0, 1.0, 3)


def test_one_seed_has_no_spread():
  found = seeds.summarise([0.7])
  assert (found.mean, found.n) == (0.7, 1)
  assert math.isnan(found.std)
  assert all(math.isnan(end) for end in found.interval())


def test_interval_is_students():
  # t(0.975, 2) = 4.302653 from the tables; 4.302653 / sqrt(3) = 2.484138.
  low, high = seeds.summarise([1.0, 2.0, 3.0]).interval()
  assert low == pytest.approx(2 - 2.484138, abs=1e-6)
  assert high == pytest.approx(2 + 2.484138, abs=1e-6)


def test_differences_are_taken_within_a_seed():
  # 0.1, 0.2 and 0.3: the seeds' own spread, ten times larger, drops out.
  theirs = {0: 10.0, 1: 20.0, 2: 30.0, 7: 1.0}
  ours = {2: 30.3, 1: 20.2, 0: 10.1, 9: 5.0}
  found = seeds.paired(ours, theirs)
  assert found.n == 3
  assert found.mean == pytest.approx(0.2)
  assert found.std == pytest.approx(0.1)


def test_methods_without_a_shared_seed_have_no_difference():
  assert seeds.paired({0: 1.0}, {1: 2.0}) is None
