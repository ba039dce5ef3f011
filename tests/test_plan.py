# SPDX-License-Identifier: Apache-2.0
"""The methods of the paper as tuples of stages."""

import pytest

from srdl_jax import plan
from srdl_jax.errors import ConfigError
from srdl_jax.plan import Stage


def test_vanilla_is_one_stage_of_all_epochs():
  assert plan.create('vanilla', 200) == (
    Stage(200, start='fresh', teacher=None, complete=True),
  )


@pytest.mark.parametrize(
  ('method', 'start', 'complete'),
  [
    # Algorithm 1.
    ('srdl', 'fresh', (True, True)),
    # Table 4, and its two missing corners.
    ('stage_incomplete', 'fresh', (False, False)),
    ('stage_one_incomplete', 'fresh', (False, True)),
    ('stage_two_incomplete', 'fresh', (True, False)),
    # Table 5.
    ('no_restart', 'previous', (True, True)),
    ('stage_incomplete_no_restart', 'previous', (False, False)),
    ('same_initialisation', 'same', (True, True)),
  ],
)
def test_two_stages_of_half_the_budget(method, start, complete):
  assert plan.create(method, 200) == (
    Stage(100, start='fresh', teacher=None, complete=complete[0]),
    Stage(100, start=start, teacher=1, complete=complete[1]),
  )


@pytest.mark.parametrize('complete', [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize('restart', plan.STARTS)
def test_the_whole_factorial_can_be_expressed(complete, restart):
  first, second = plan.srdl(
    10, complete=tuple(map(bool, complete)), restart=restart
  )
  assert (first.complete, second.complete, second.start) == (
    *map(bool, complete),
    restart,
  )
  assert (first.start, first.teacher, second.teacher) == ('fresh', None, 1)


@pytest.mark.parametrize(
  ('epochs', 'halves'),
  [(2, (1, 1)), (3, (1, 2)), (151, (75, 76)), (300, (150, 150))],
)
def test_stage_one_gets_the_smaller_half_of_odd_epochs(epochs, halves):
  for method in plan.METHODS:
    if method != 'vanilla':
      found = tuple(stage.epochs for stage in plan.create(method, epochs))
      assert found == halves


def test_one_epoch_is_enough_for_vanilla_alone():
  assert plan.create('vanilla', 1) == (Stage(1),)
  for method in plan.METHODS:
    if method != 'vanilla':
      with pytest.raises(ConfigError, match='epochs = 1 .* stage 1 .* least 2'):
        plan.create(method, 1)


def test_no_epochs_are_an_error():
  with pytest.raises(ConfigError, match='epochs = 0'):
    plan.create('vanilla', 0)


def test_an_unknown_method_lists_the_known():
  with pytest.raises(ConfigError, match="'srld'; known: vanilla, srdl, stage_"):
    plan.create('srld', 200)


@pytest.mark.parametrize('teacher', [0, 2, 3])
def test_a_teacher_must_be_an_earlier_stage(monkeypatch, teacher):
  stages = (Stage(1), Stage(1, teacher=teacher))
  monkeypatch.setitem(plan.METHODS, 'new', lambda epochs: stages)
  with pytest.raises(ConfigError, match='teacher of stage 2 must come before'):
    plan.create('new', 2)


def test_an_unknown_start_is_an_error(monkeypatch):
  monkeypatch.setitem(plan.METHODS, 'new', lambda e: (Stage(e, start='warm'),))
  with pytest.raises(ConfigError, match="'warm'"):
    plan.create('new', 2)
