# SPDX-License-Identifier: Apache-2.0
"""The rate at every step, and around every boundary (Eq 3, 4; Figure 3)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdl_jax import config as config_lib
from srdl_jax import methods, schedules

HIGH, MIDDLE, LOW = 0.1, 0.01, 0.001


def _rates(schedule, steps):
  """The rate at each of the steps, which are traced, as in training."""
  return jax.jit(jax.vmap(schedule))(jnp.asarray(steps))


def created(**fields):
  """Returns the stages of a method of four epochs."""
  config = config_lib.defaults()
  config.update_from_flattened_dict({'epochs': 4, **fields})
  return methods.create(config)


def _assert_rates(schedule, steps, expected):
  np.testing.assert_allclose(_rates(schedule, steps), expected, rtol=1e-6)


# Eq 3.


def test_eq3_at_every_step_of_a_short_schedule():
  # Half of 8 is 4, three quarters are 6; the lower rate holds from there.
  expected = [HIGH] * 4 + [MIDDLE] * 2 + [LOW] * 2
  _assert_rates(schedules.step_decay(0.1, 8), range(8), expected)


@pytest.mark.parametrize(
  ('steps', 'expected'),
  [
    # 0.5 and 0.75: both round down to 0.
    (1, [LOW]),
    # 1 and 1.5: both round down to 1.
    (2, [HIGH, LOW]),
    # 1.5 and 2.25.
    (3, [HIGH, MIDDLE, LOW]),
    # 2.5 and 3.75.
    (5, [HIGH, HIGH, MIDDLE, LOW, LOW]),
    # 3.5 and 5.25.
    (7, [HIGH] * 3 + [MIDDLE] * 2 + [LOW] * 2),
  ],
)
def test_boundaries_round_down(steps, expected):
  _assert_rates(schedules.step_decay(0.1, steps), range(steps), expected)


@pytest.mark.parametrize(
  ('epochs', 'first', 'second'),
  [
    (200, 39000, 58500),
    # 37.5 and 56.25 epochs into a stage of 75: 14625, and 21937.5.
    (75, 14625, 21937),
    # 75 and 112.5 epochs.
    (150, 29250, 43875),
    # 150 and 225 epochs.
    (300, 58500, 87750),
    # 2.5 and 3.75 epochs: 975, and 1462.5.
    (5, 975, 1462),
  ],
)
def test_boundaries_are_counted_in_steps(epochs, first, second):
  schedule = schedules.step_decay(0.1, epochs * 390)
  around = [0, first - 1, first, second - 1, second, epochs * 390 - 1]
  _assert_rates(schedule, around, [HIGH, HIGH, MIDDLE, MIDDLE, LOW, LOW])


def test_the_initial_rate_factor_and_fractions_are_given():
  schedule = schedules.step_decay(
    0.4, 10, decay_at=(0.3, 0.6, 0.8), decay_factor=0.5
  )
  expected = [0.4] * 3 + [0.2] * 3 + [0.1] * 2 + [0.05] * 2
  _assert_rates(schedule, range(10), expected)


def test_a_schedule_without_boundaries_is_constant():
  schedule = schedules.step_decay(0.1, 4, decay_at=())
  _assert_rates(schedule, range(4), [HIGH] * 4)


# Eq 4: stage-complete, and the factorial of Table 4.

COMPLETE = [HIGH, HIGH, MIDDLE, LOW]
FIRST_HALF = [HIGH] * 4
SECOND_HALF = [MIDDLE, MIDDLE, LOW, LOW]


@pytest.mark.parametrize(
  ('complete', 'expected'),
  [
    ((True, True), COMPLETE + COMPLETE),
    ((False, False), FIRST_HALF + SECOND_HALF),
    ((False, True), FIRST_HALF + COMPLETE),
    ((True, False), COMPLETE + SECOND_HALF),
  ],
)
def test_factorial_of_complete_stages_at_every_step(complete, expected):
  schedule = schedules.over_stages(0.1, [4, 4], complete)
  _assert_rates(schedule, range(8), expected)


@pytest.mark.parametrize(
  ('method', 'expected'),
  [
    ('vanilla', FIRST_HALF + SECOND_HALF),
    ('vanilla_ensemble', COMPLETE + COMPLETE),
    ('srdl', COMPLETE + COMPLETE),
    ('no_restart', COMPLETE + COMPLETE),
    ('same_initialisation', COMPLETE + COMPLETE),
    ('stage_incomplete', FIRST_HALF + SECOND_HALF),
    ('born_again_equal_budget', COMPLETE + COMPLETE),
    ('label_smoothing', FIRST_HALF + SECOND_HALF),
  ],
)
def test_each_method_has_its_rates(method, expected):
  stages = created(method=method)
  schedule = schedules.over_stages(
    0.1,
    [2 * stage.epochs for stage in stages],
    [stage.complete for stage in stages],
  )
  _assert_rates(schedule, range(8), expected)


def test_eq4_starts_again_at_the_initial_rate():
  # Figure 3 for CIFAR: 200 epochs of 390 steps, stages of 100.
  schedule = schedules.over_stages(0.1, [39000, 39000], [True, True])
  steps = [19500, 29250, 38999, 39000, 58499, 58500, 68249, 68250, 77999]
  expected = [MIDDLE, LOW, LOW, HIGH, HIGH, MIDDLE, MIDDLE, LOW, LOW]
  _assert_rates(schedule, steps, expected)


def test_stage_incomplete_has_the_whole_length_of_vanilla():
  # Odd M: 75 + 76 epochs. The boundary, 75.5 epochs, lies in stage two.
  parts = [75 * 390, 76 * 390]
  over = schedules.over_stages(0.1, parts, [False, False])
  whole = schedules.step_decay(0.1, 151 * 390)
  half, three_quarters = 29445, 44167
  steps = [0, 29249, 29250, half - 1, half]
  steps += [three_quarters - 1, three_quarters, 58889]
  np.testing.assert_array_equal(_rates(over, steps), _rates(whole, steps))
  expected = [HIGH] * 4 + [MIDDLE] * 2 + [LOW] * 2
  _assert_rates(over, steps, expected)


def test_three_stages_each_have_their_own_decay():
  schedule = schedules.over_stages(0.1, [4, 2, 4], [True, True, True])
  _assert_rates(schedule, range(10), COMPLETE + [HIGH, LOW] + COMPLETE)


def test_fractions_and_factor_reach_every_stage():
  decay = {'decay_at': (0.25,), 'decay_factor': 0.5}
  schedule = schedules.over_stages(1.0, [4, 4], [True, False], **decay)
  # The single decay over 8 falls at step 2, before stage two begins.
  _assert_rates(schedule, range(8), [1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize(
  ('complete', 'start', 'expected'),
  [
    ((False, True), 'fresh', FIRST_HALF + COMPLETE),
    ((True, False), 'fresh', COMPLETE + SECOND_HALF),
    ((False, True), 'previous', FIRST_HALF + COMPLETE),
    ((True, False), 'previous', COMPLETE + SECOND_HALF),
    ((False, False), 'previous', FIRST_HALF + SECOND_HALF),
  ],
)
def test_the_factorial_of_table4_is_a_matter_of_fields(
  complete, start, expected
):
  stages = created(**{'srdl.complete': complete, 'srdl.start': start})
  schedule = schedules.over_stages(0.1, [4, 4], [s.complete for s in stages])
  _assert_rates(schedule, range(8), expected)


def test_changes_of_a_schedule_are_where_the_rate_is_new():
  schedule = schedules.over_stages(0.1, [4, 4], [True, True])
  steps, rates = zip(*schedules.changes(schedule, 8), strict=True)
  assert steps == (0, 2, 3, 4, 6, 7)
  np.testing.assert_allclose(rates, [HIGH, MIDDLE, LOW] * 2, rtol=1e-6)


def test_stages_and_their_completeness_must_match():
  with pytest.raises(ValueError, match='shorter'):
    schedules.over_stages(0.1, [4, 4], [True])


def test_boundaries_are_exact_where_floating_point_is_not():
  # 0.29 x 100 and 0.57 x 100 are a little below 29 and 57 in binary.
  schedule = schedules.step_decay(1.0, 100, decay_at=(0.29, 0.57))
  rates = [float(schedule(step)) for step in (28, 29, 56, 57)]
  np.testing.assert_allclose(rates, [1.0, 0.1, 0.1, 0.01], rtol=1e-6)
