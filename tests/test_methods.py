# SPDX-License-Identifier: Apache-2.0
"""The methods of the paper as tuples of stages."""

import pytest

from srdl_jax import methods
from srdl_jax.errors import ConfigError
from srdl_jax.methods import Settings, Stage

HALVES = {
  'srdl',
  'vanilla_ensemble',
  'stage_incomplete',
  'no_restart',
  'same_initialisation',
  'born_again_equal_budget',
}


def test_vanilla_is_one_stage_of_all_epochs():
  assert methods.create('vanilla', Settings(200)) == (
    Stage(200, start='fresh', teacher=None, complete=True),
  )


@pytest.mark.parametrize(
  ('method', 'start', 'complete'),
  [
    # Algorithm 1.
    ('srdl', 'fresh', (True, True)),
    # Table 4.
    ('stage_incomplete', 'fresh', (False, False)),
    # Table 5.
    ('no_restart', 'previous', (True, True)),
    ('same_initialisation', 'same', (True, True)),
  ],
)
def test_two_stages_of_half_the_budget(method, start, complete):
  assert methods.create(method, Settings(200)) == (
    Stage(100, start='fresh', teacher=None, complete=complete[0]),
    Stage(100, start=start, teacher=1, complete=complete[1]),
  )


@pytest.mark.parametrize('complete', [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize('restart', methods.STARTS)
def test_the_whole_factorial_can_be_expressed(complete, restart):
  settings = Settings(10, complete=tuple(map(bool, complete)), start=restart)
  first, second = methods.create('srdl', settings)
  assert (first.complete, second.complete, second.start) == (
    *map(bool, complete),
    restart,
  )
  assert (first.start, first.teacher, second.teacher) == ('fresh', None, 1)


@pytest.mark.parametrize('method', sorted(HALVES))
@pytest.mark.parametrize(
  ('epochs', 'halves'),
  [(2, (1, 1)), (3, (1, 2)), (151, (75, 76)), (300, (150, 150))],
)
def test_stage_one_gets_the_smaller_half_of_odd_epochs(method, epochs, halves):
  stages = methods.create(method, Settings(epochs))
  assert tuple(stage.epochs for stage in stages) == halves


@pytest.mark.parametrize('method', sorted(HALVES))
def test_two_stages_need_two_epochs(method):
  with pytest.raises(ConfigError, match='epochs = 1 .* stage 1 .* least 2'):
    methods.create(method, Settings(1))


def test_one_epoch_is_enough_for_vanilla():
  assert methods.create('vanilla', Settings(1)) == (Stage(1),)


def test_no_epochs_are_an_error():
  with pytest.raises(ConfigError, match='epochs = 0'):
    methods.create('vanilla', Settings(0))


def test_an_unknown_method_lists_the_known():
  with pytest.raises(ConfigError, match="'srld'; known: vanilla, srdl, kd"):
    methods.create('srld', Settings(200))


@pytest.mark.parametrize('teacher', [-1, 2, 3])
def test_a_teacher_must_be_an_earlier_stage(monkeypatch, teacher):
  stages = (Stage(1), Stage(1, teacher=teacher))
  monkeypatch.setitem(methods.METHODS, 'new', lambda settings: stages)
  with pytest.raises(ConfigError, match='teacher of stage 2 must come before'):
    methods.create('new', Settings(2))


def test_an_unknown_start_is_an_error(monkeypatch):
  monkeypatch.setitem(
    methods.METHODS, 'new', lambda s: (Stage(s.epochs), Stage(1, start='warm'))
  )
  with pytest.raises(ConfigError, match="'warm'"):
    methods.create('new', Settings(2))


def test_kd_is_a_teacher_of_its_own_epochs_and_a_student_of_m():
  settings = Settings(
    200, model='resnet32', teacher_model='resnet110', teacher_epochs=90
  )
  assert methods.create('kd', settings) == (
    Stage(90, model='resnet110'),
    Stage(200, model='resnet32', teacher=1),
  )


def test_a_teacher_has_as_many_epochs_as_the_student_unless_told():
  teacher, student = methods.create(
    'kd', Settings(7, teacher_model='resnet110')
  )
  assert teacher.epochs == student.epochs == 7


def test_kd_needs_a_teacher():
  with pytest.raises(ConfigError, match='needs a teacher.*teacher.model'):
    methods.create('kd', Settings(2))


@pytest.mark.parametrize('method', ['vanilla', 'srdl'])
@pytest.mark.parametrize(
  'teacher',
  [
    {'teacher_model': 'resnet110'},
    {'teacher_epochs': 3},
    {'teacher_imported': True},
  ],
)
def test_a_teacher_that_nothing_uses_is_an_error(method, teacher):
  with pytest.raises(ConfigError, match=f'{method!r} has no use for teacher.'):
    methods.create(method, Settings(2, **teacher))


@pytest.mark.parametrize(
  ('name', 'value', 'field'),
  [
    ('split', (1, 1, 1), 'srdl.split'),
    ('complete', (False, True), 'srdl.complete'),
    ('start', 'same', 'srdl.start'),
    ('keep_optimiser', True, 'srdl.keep_optimiser'),
    ('generations', 2, 'born_again.generations'),
    ('label_smoothing', 0.2, 'label_smoothing'),
    ('online', True, 'distillation.online'),
  ],
)
def test_what_a_method_does_not_read_is_an_error(name, value, field):
  with pytest.raises(ConfigError, match=f"'vanilla' has no use for {field} = "):
    methods.create('vanilla', Settings(2, **{name: value}))


def test_srdl_takes_any_number_of_stages_and_any_split():
  settings = Settings(10, split=(1, 1, 3), complete=(True, False, True))
  assert methods.create('srdl', settings) == (
    Stage(2),
    Stage(2, teacher=1, complete=False),
    Stage(6, teacher=2),
  )


@pytest.mark.parametrize('epochs', [3, 7, 11, 100])
@pytest.mark.parametrize('split', [(1, 1), (0.3, 0.7), (2, 1, 1), (1,) * 3])
def test_the_parts_of_a_split_are_the_whole_budget(epochs, split):
  settings = Settings(epochs, split=split, complete=(True,) * len(split))
  try:
    stages = methods.create('srdl', settings)
  except ConfigError as error:
    assert 'without an epoch' in str(error)
    assert any(epochs * part < sum(split) for part in split)
  else:
    assert sum(stage.epochs for stage in stages) == epochs
    for stage, part in zip(stages, split, strict=True):
      assert abs(stage.epochs - epochs * part / sum(split)) < 1


@pytest.mark.parametrize(
  'settings',
  [
    Settings(10, split=(1, 1, 1)),
    Settings(10, split=(1,), complete=(True,)),
    Settings(10, split=(1, 0)),
  ],
)
def test_a_split_that_does_not_fit_is_an_error(settings):
  with pytest.raises(ConfigError, match='srdl.split = .* srdl.complete'):
    methods.create('srdl', settings)


def test_born_again_students_have_the_full_budget_each():
  assert methods.create('born_again', Settings(5, generations=2)) == (
    Stage(5),
    Stage(5, teacher=1),
    Stage(5, teacher=2),
  )


def test_self_distillation_is_born_again_with_one_student():
  settings = Settings(5)
  assert methods.create('self_kd', settings) == methods.create(
    'born_again', settings
  )
  with pytest.raises(ConfigError, match='no use for born_again.gen'):
    methods.create('self_kd', Settings(5, generations=2))


def test_born_again_at_an_equal_budget_is_srdl_of_more_stages():
  thirds = Settings(10, split=(1, 1, 1), complete=(True,) * 3)
  equal = methods.create('born_again_equal_budget', Settings(10, generations=2))
  assert equal == methods.create('srdl', thirds)
  assert [stage.epochs for stage in equal] == [3, 3, 4]


def test_label_smoothing_is_one_stage_on_smoothed_labels():
  settings = Settings(5, label_smoothing=0.2)
  assert methods.create('label_smoothing', settings) == (
    Stage(5, label_smoothing=0.2),
  )


def test_an_imported_teacher_costs_no_stage():
  settings = Settings(5, teacher_model='resnet110', teacher_imported=True)
  assert methods.create('kd', settings) == (Stage(5, teacher=methods.IMPORTED),)


def test_an_imported_teacher_has_been_trained():
  settings = Settings(
    5, teacher_model='resnet110', teacher_epochs=2, teacher_imported=True
  )
  with pytest.raises(ConfigError, match='teacher.epochs is 0'):
    methods.create('kd', settings)


def test_only_what_is_taught_is_taught_online():
  first, second = methods.create('srdl', Settings(4, online=True))
  assert (first.online, second.online) == (False, True)


def test_stage_one_has_no_momentum_to_keep(monkeypatch):
  stages = (Stage(1, keep_optimiser=True),)
  monkeypatch.setitem(methods.METHODS, 'new', lambda settings: stages)
  with pytest.raises(ConfigError, match='Stage 1 can only start fresh, with a'):
    methods.create('new', Settings(1))


def test_momentum_is_kept_by_the_same_kind_of_network(monkeypatch):
  stages = (Stage(1, model='resnet8'), Stage(1, keep_optimiser=True))
  monkeypatch.setitem(methods.METHODS, 'new', lambda settings: stages)
  with pytest.raises(ConfigError, match='Stage 2 starts from a resnet8'):
    methods.create('new', Settings(2, model='resnet32'))


def test_table6_control_is_two_independent_halves():
  assert methods.create('vanilla_ensemble', Settings(5)) == (Stage(2), Stage(3))


def test_every_stage_names_its_network():
  for stage in methods.create('srdl', Settings(2, model='resnet32')):
    assert stage.model == 'resnet32'


@pytest.mark.parametrize('start', ['previous', 'same'])
def test_a_stage_goes_on_from_its_own_kind_of_network(monkeypatch, start):
  stages = (Stage(1, model='resnet8'), Stage(1, start=start))
  monkeypatch.setitem(methods.METHODS, 'new', lambda settings: stages)
  with pytest.raises(ConfigError, match='Stage 2 starts from a resnet8'):
    methods.create('new', Settings(2, model='resnet32'))


def test_stage_one_has_nothing_to_go_on_from(monkeypatch):
  stages = (Stage(1, start='previous'),)
  monkeypatch.setitem(methods.METHODS, 'new', lambda settings: stages)
  with pytest.raises(ConfigError, match='Stage 1 can only start fresh'):
    methods.create('new', Settings(1))
