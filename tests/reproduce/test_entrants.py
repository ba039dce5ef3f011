# SPDX-License-Identifier: Apache-2.0
"""Rows of the arena: every teacher-free method, each at the same cost."""

import pytest

from srdl_jax import cost, methods, models, targets
from srdl_jax.reproduce import arena, scales

# Of another network, or at a cost of their own.
NOT_AT_EQUAL_COST = {'kd', 'self_kd', 'born_again'}
# What 'srdl' trains as well, and the control of Table 4.
THE_SAME_OR_WORSE = {'stage_incomplete'}


def units(row):
  config = scales.config(row.setting)
  stages = methods.create(config)
  network = models.create(row.setting.model, 10)
  networks = {stage.model: network for stage in stages}
  return cost.units(cost.work(stages, networks, (8, 8, 1)), examples=600)


@pytest.fixture(autouse=True)
def uncounted(monkeypatch):
  """Units are counted without the compiler."""
  for name in ('forward_flops', 'train_flops', 'parameters'):
    monkeypatch.setattr(cost, name, lambda *network: 0)
  monkeypatch.setattr(cost, 'multiply_adds', lambda *network: 7)


@pytest.fixture(scope='module')
def groups():
  found = {}
  for scale in arena.GROUNDS:
    for table in arena.TABLES:
      for row in scales.rows(table, scale):
        found.setdefault((table, scale, row.group), {})[row.name] = row
  return found


def test_every_method_takes_part():
  entered = {entrant.method for entrant in arena.ENTRANTS}
  others = NOT_AT_EQUAL_COST | THE_SAME_OR_WORSE
  assert entered == methods.METHODS.keys() - others


def test_all_cost_what_vanilla_costs_but_half_of_it(groups):
  for (_, scale, group), rows in groups.items():
    if scale == 'full':
      continue
    spent = {name.partition(', ')[2]: units(row) for name, row in rows.items()}
    whole = spent.pop(arena.VANILLA)
    budget = int(group.rpartition(' ')[2])
    assert whole == 3 * budget * 600, group
    # Of table `crossing` the other rows are SRDL's.
    assert spent.pop(arena.HALF, whole / 2) == whole / 2
    for name, its in spent.items():
      # Bank after bank: a third of an epoch each.
      assert whole <= its <= whole + 2 * 600, (group, name)
    if budget >= 60:
      assert max(spent.values()) <= 1.02 * whole


def test_what_a_step_costs_more_is_taken_from_its_epochs():
  for entrant in arena.ENTRANTS:
    if kind := targets.SOURCES.get(entrant.method):
      assert entrant.share == 3 / (3 + kind.forwards)


def test_budgets_can_be_divided():
  for ground in arena.GROUNDS.values():
    assert not [m for m in ground.budgets if m % 12]


def test_clean_rows_of_both_tables_are_the_same_runs():
  clean = [row.setting for row in arena.rows('arena', 'digits')]
  noisy = [row.setting for row in arena.rows('noise', 'digits')]
  assert {repr(s) for s in clean} <= {repr(s) for s in noisy}
  shares = {dict(s.fields).get('data.label_noise', 0) for s in noisy}
  assert shares == {0, 0.3}


def test_a_crossing_is_of_vanilla_and_srdl_beside_the_arenas_own_runs():
  crossing = arena.rows('crossing', 'short')
  assert {row.setting.method for row in crossing} == {'vanilla', 'srdl'}
  assert len(crossing) == 2 * 3 * 4 == len({repr(r.setting) for r in crossing})
  again = {repr(row.setting) for row in arena.rows('arena', 'short')}
  # M = 180 of both, and the arena's control, which is vanilla of M = 90.
  assert len(again & {repr(row.setting) for row in crossing}) == 3


def test_other_scales_have_no_rows():
  assert not arena.rows('arena', 'strong')
