# SPDX-License-Identifier: Apache-2.0
"""The methods of the paper as tuples of stages."""

import dataclasses

import pytest

from srdl_jax import config as config_lib
from srdl_jax import methods, targets
from srdl_jax.errors import ConfigError
from srdl_jax.methods import Stage

HALVES = {
  'srdl',
  'vanilla_ensemble',
  'stage_incomplete',
  'no_restart',
  'same_initialisation',
  'born_again_equal_budget',
}


def create(method, epochs, **fields):
  """Returns a method's stages; fields by their names."""
  config = config_lib.defaults()
  config.update_from_flattened_dict(
    {'method': method, 'epochs': epochs, 'model.name': '', **fields}
  )
  return methods.create(config)


def taught(epochs, teacher, **how):
  return Stage(epochs, teacher=teacher, source='bank', **how)


def plan(*stages):
  """Returns a method of given stages."""
  return methods.Method(lambda config: stages)


def test_vanilla_is_one_stage_of_all_epochs():
  assert create('vanilla', 200) == (
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
  assert create(method, 200) == (
    Stage(100, start='fresh', teacher=None, complete=complete[0]),
    taught(100, 1, start=start, complete=complete[1]),
  )


@pytest.mark.parametrize('complete', [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize('restart', methods.STARTS)
def test_the_whole_factorial_can_be_expressed(complete, restart):
  own = tuple(map(bool, complete))
  fields = {'srdl.complete': own, 'srdl.start': restart}
  first, second = create('srdl', 10, **fields)
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
  stages = create(method, epochs)
  assert tuple(stage.epochs for stage in stages) == halves


@pytest.mark.parametrize('method', sorted(HALVES))
def test_two_stages_need_two_epochs(method):
  with pytest.raises(ConfigError, match='epochs = 1 .* stage 1 .* least 2'):
    create(method, 1)


def test_one_epoch_is_enough_for_vanilla():
  assert create('vanilla', 1) == (Stage(1),)


def test_no_epochs_are_an_error():
  with pytest.raises(ConfigError, match='epochs = 0'):
    create('vanilla', 0)


def test_an_unknown_method_lists_the_known():
  with pytest.raises(ConfigError, match="'srld'; known: vanilla, srdl, kd"):
    create('srld', 200)


@pytest.mark.parametrize('teacher', [-1, 2, 3])
def test_a_teacher_must_be_an_earlier_stage(monkeypatch, teacher):
  stages = (Stage(1), Stage(1, teacher=teacher))
  monkeypatch.setitem(methods.METHODS, 'new', plan(*stages))
  with pytest.raises(ConfigError, match='teacher of stage 2 must come before'):
    create('new', 2)


def test_an_unknown_start_is_an_error(monkeypatch):
  stages = (Stage(1), Stage(1, start='warm'))
  monkeypatch.setitem(methods.METHODS, 'new', plan(*stages))
  with pytest.raises(ConfigError, match="'warm'"):
    create('new', 2)


def test_sources_with_a_teacher_are_those_whose_fields_are_known():
  taught = {name for name, kind in targets.SOURCES.items() if kind.teacher}
  assert methods._TAUGHT.keys() == taught


@pytest.mark.parametrize(
  ('stage', 'has'),
  [
    (Stage(1, teacher=1, source='ema'), "'ema', but a teacher"),
    (Stage(1, source='online'), "'online', but no teacher"),
    (Stage(1, source='top_two'), "'top_two', but no teacher"),
  ],
)
def test_a_source_has_a_teacher_or_none(monkeypatch, stage, has):
  monkeypatch.setitem(methods.METHODS, 'new', plan(Stage(1), stage))
  with pytest.raises(ConfigError, match=has):
    create('new', 2)


def test_an_imported_teacher_must_be_named(monkeypatch):
  new = plan(Stage(1, teacher=methods.IMPORTED))
  monkeypatch.setitem(methods.METHODS, 'new', new)
  with pytest.raises(ConfigError, match='teacher of stage 1 must come before'):
    create('new', 1)


def test_kd_is_a_teacher_of_its_own_epochs_and_a_student_of_m():
  fields = {
    'model.name': 'resnet32',
    'teacher.model': 'resnet110',
    'teacher.epochs': 90,
  }
  assert create('kd', 200, **fields) == (
    Stage(90, model='resnet110'),
    taught(200, 1, model='resnet32'),
  )


def test_a_teacher_has_as_many_epochs_as_the_student_unless_told():
  teacher, student = create('kd', 7, **{'teacher.model': 'resnet110'})
  assert teacher.epochs == student.epochs == 7


def test_kd_needs_a_teacher():
  with pytest.raises(ConfigError, match='needs a teacher.*teacher.model'):
    create('kd', 2)


@pytest.mark.parametrize('method', ['vanilla', 'srdl'])
@pytest.mark.parametrize(
  'teacher',
  [
    {'teacher.model': 'resnet110'},
    {'teacher.epochs': 3},
    {'teacher.workdir': 'runs/teacher'},
  ],
)
def test_a_teacher_that_nothing_uses_is_an_error(method, teacher):
  ((name, value),) = teacher.items()
  told = f'{method!r} has no use for {name} = {value!r}: leave'
  with pytest.raises(ConfigError, match=told):
    create(method, 2, **teacher)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('srdl.split', (1, 1, 1)),
    ('srdl.complete', (False, True)),
    ('srdl.start', 'same'),
    ('srdl.keep_optimiser', True),
    ('born_again.generations', 2),
    ('label_smoothing', 0.2),
    ('distillation.online', True),
    ('distillation.views', 2),
  ],
)
def test_what_a_method_does_not_read_is_an_error(field, value):
  with pytest.raises(ConfigError, match=f"'vanilla' has no use for {field} = "):
    create('vanilla', 2, **{field: value})


@pytest.mark.parametrize('method', ['cs_kd', 'ema', 'pll'])
@pytest.mark.parametrize('field', methods._OF_DISTILLATION)
def test_methods_with_settings_of_their_own_have_no_use_for_others(
  method, field
):
  with pytest.raises(
    ConfigError, match=f'{method!r} has no use for {field} = '
  ):
    create(method, 2, **{field: 2.0})


class Reading:
  """A configuration that notes the names of the fields that are read."""

  def __init__(self, config, read, prefix=''):
    self._config, self._read, self._prefix = config, read, prefix

  def __getattr__(self, name):
    value, name = getattr(self._config, name), self._prefix + name
    if hasattr(value, 'to_dict'):
      return Reading(value, self._read, f'{name}.')
    self._read.add(name)
    return value


@pytest.mark.parametrize('name', methods.SOURCES)
def test_a_method_that_is_a_source_has_its_name(name):
  assert targets.SOURCES[name].section == name


@pytest.mark.parametrize('method', methods.METHODS)
def test_a_method_reads_what_it_declares(method):
  given = {'teacher.model': 'resnet8', 'epochs': 4}
  read = set()
  for workdir in ('', 'runs/teacher'):
    config = config_lib.defaults()
    config.update_from_flattened_dict({**given, 'teacher.workdir': workdir})
    methods.METHODS[method].plan(Reading(config, read))
  # A source's fields are read where a run is built.
  kind = targets.SOURCES.get(method)
  of_source = {
    name
    for name in config_lib.FIELDS
    if kind and name.rpartition('.')[0] == kind.section
  }
  if kind:
    own = {field.name for field in dataclasses.fields(kind)}
    assert {name.rpartition('.')[2] for name in of_source} <= own
  assert read | of_source == {'epochs', *methods.METHODS[method].reads}


def test_what_a_method_reads_must_be_a_field():
  with pytest.raises(ValueError, match="reads {'srdl.spilt'}, which is no"):

    @methods.reads('srdl.spilt')
    def new(config):
      return (Stage(config.epochs),)

  assert 'new' not in methods.METHODS


def test_srdl_takes_any_number_of_stages_and_any_split():
  fields = {'srdl.split': (1, 1, 3), 'srdl.complete': (True, False, True)}
  assert create('srdl', 10, **fields) == (
    Stage(2),
    taught(2, 1, complete=False),
    taught(6, 2),
  )


@pytest.mark.parametrize('epochs', [3, 7, 11, 100])
@pytest.mark.parametrize('split', [(1, 1), (0.3, 0.7), (2, 1, 1), (1,) * 3])
def test_the_parts_of_a_split_are_the_whole_budget(epochs, split):
  fields = {'srdl.split': split, 'srdl.complete': (True,) * len(split)}
  try:
    stages = create('srdl', epochs, **fields)
  except ConfigError as error:
    assert 'without an epoch' in str(error)
    assert any(epochs * part < sum(split) for part in split)
  else:
    assert sum(stage.epochs for stage in stages) == epochs
    for stage, part in zip(stages, split, strict=True):
      assert abs(stage.epochs - epochs * part / sum(split)) < 1


@pytest.mark.parametrize(
  ('split', 'complete'),
  [
    ((1, 1, 1), (True, True)),
    ((1,), (True,)),
    ((1, 0), (True, True)),
  ],
)
def test_a_split_that_does_not_fit_is_an_error(split, complete):
  fields = {'srdl.split': split, 'srdl.complete': complete}
  with pytest.raises(ConfigError, match='srdl.split = .* srdl.complete'):
    create('srdl', 10, **fields)


def test_born_again_students_have_the_full_budget_each():
  assert create('born_again', 5, **{'born_again.generations': 2}) == (
    Stage(5),
    taught(5, 1),
    taught(5, 2),
  )


def test_self_distillation_is_born_again_with_one_student():
  assert create('self_kd', 5) == create('born_again', 5)
  with pytest.raises(ConfigError, match='no use for born_again.gen'):
    create('self_kd', 5, **{'born_again.generations': 2})


def test_born_again_at_an_equal_budget_is_srdl_of_more_stages():
  fields = {'srdl.split': (1, 1, 1), 'srdl.complete': (True,) * 3}
  equal = create('born_again_equal_budget', 10, **{'born_again.generations': 2})
  assert equal == create('srdl', 10, **fields)
  assert [stage.epochs for stage in equal] == [3, 3, 4]


def test_label_smoothing_is_one_stage_on_smoothed_labels():
  assert create('label_smoothing', 5, label_smoothing=0.2) == (
    Stage(5, label_smoothing=0.2),
  )


IMPORTED = {'teacher.model': 'resnet110', 'teacher.workdir': 'runs/teacher'}


def test_an_imported_teacher_costs_no_stage():
  assert create('kd', 5, **IMPORTED) == (taught(5, methods.IMPORTED),)


def test_an_imported_teacher_has_been_trained():
  with pytest.raises(ConfigError, match='teacher.epochs is 0'):
    create('kd', 5, **IMPORTED, **{'teacher.epochs': 2})


def test_only_what_is_taught_is_taught_online():
  first, second = create('srdl', 4, **{'distillation.online': True})
  assert (first.source, second.source) == ('', 'online')


def test_stage_one_has_no_momentum_to_keep(monkeypatch):
  stages = (Stage(1, keep_optimiser=True),)
  monkeypatch.setitem(methods.METHODS, 'new', plan(*stages))
  with pytest.raises(ConfigError, match='Stage 1 can only start fresh, with a'):
    create('new', 1)


def test_momentum_is_kept_by_the_same_kind_of_network(monkeypatch):
  stages = (Stage(1, model='resnet8'), Stage(1, keep_optimiser=True))
  monkeypatch.setitem(methods.METHODS, 'new', plan(*stages))
  with pytest.raises(ConfigError, match='Stage 2 starts from a resnet8'):
    create('new', 2, **{'model.name': 'resnet32'})


def test_table6_control_is_two_independent_halves():
  assert create('vanilla_ensemble', 5) == (Stage(2), Stage(3))


def test_every_stage_names_its_network():
  for stage in create('srdl', 2, **{'model.name': 'resnet32'}):
    assert stage.model == 'resnet32'


@pytest.mark.parametrize('start', ['previous', 'same'])
def test_a_stage_goes_on_from_its_own_kind_of_network(monkeypatch, start):
  stages = (Stage(1, model='resnet8'), Stage(1, start=start))
  monkeypatch.setitem(methods.METHODS, 'new', plan(*stages))
  with pytest.raises(ConfigError, match='Stage 2 starts from a resnet8'):
    create('new', 2, **{'model.name': 'resnet32'})


def test_stage_one_has_nothing_to_go_on_from(monkeypatch):
  stages = (Stage(1, start='previous'),)
  monkeypatch.setitem(methods.METHODS, 'new', plan(*stages))
  with pytest.raises(ConfigError, match='Stage 1 can only start fresh'):
    create('new', 1)
