# SPDX-License-Identifier: Apache-2.0
"""Fields: each declared, read, in range; arguments, records, identity."""

import ast
import dataclasses
import json
import math
import pathlib
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax import targets
from srdl_jax.config import FIELDS
from srdl_jax.errors import ConfigError

PACKAGE = pathlib.Path(config_lib.__file__).parent


# Declared and read.


def _fields_read(source):
  """Names that follow `config.` or `<object>.config.` where they are read."""
  tree = ast.parse(source)
  inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
  for node in ast.walk(tree):
    if not isinstance(node, ast.Attribute) or id(node) in inner:
      continue
    if not isinstance(node.ctx, ast.Load):
      continue
    names = []
    while isinstance(node, ast.Attribute) and node.attr != 'config':
      names.insert(0, node.attr)
      node = node.value
    owner = node.value if isinstance(node, ast.Attribute) else None
    # jax.config holds the options of JAX.
    of_jax = isinstance(owner, ast.Name) and owner.id == 'jax'
    is_config = owner is not None or getattr(node, 'id', None) == 'config'
    if is_config and not of_jax and names and not hasattr(ConfigDict, names[0]):
      yield '.'.join(names)


def _all_fields_read():
  # Of a source's own section by its class's fields: `targets.create`.
  of_sources = {
    f'{kind.section}.{field.name}'
    for kind in targets.SOURCES.values()
    if kind.section
    for field in dataclasses.fields(kind)
  }
  return of_sources & set(FIELDS) | {
    name
    for path in PACKAGE.rglob('*.py')
    for name in _fields_read(path.read_text())
  }


def test_the_reader_of_sources_finds_what_it_should():
  source = (
    'config.seed = 1\n'
    'a = config.model.name + self.experiment.config.eval.batch_size\n'
    'jax.config.update("x", config.to_dict())\n'
    'run(config, other.thing, config.data.name.upper)\n'
  )
  assert set(_fields_read(source)) == {
    'model.name',
    'eval.batch_size',
    'data.name.upper',
  }


def test_every_declared_field_is_read():
  assert set(FIELDS) - _all_fields_read() == set()


def test_every_field_that_is_read_is_declared():
  assert _all_fields_read() - set(FIELDS) == set()


def test_every_field_has_a_meaning_and_a_default_in_range():
  config_lib.validate(config_lib.defaults())
  for name, field in FIELDS.items():
    assert field.meaning, name
    assert field.valid(field.default), name


def test_no_other_field_can_be_set():
  config = config_lib.defaults()
  for node in (config, config.model, config.optimiser):
    with pytest.raises(AttributeError):
      node.sede = 1


def test_defaults_are_the_papers():
  # Rows 2, 8, 14, 15 and 16.
  flat = config_lib.flatten(config_lib.defaults())
  papers = {
    'epochs': 200,
    'batch_size': 128,
    'optimiser.learning_rate': 0.1,
    'optimiser.momentum': 0.9,
    'optimiser.weight_decay': 2e-4,
    'schedule.decay_at': [0.5, 0.75],
    'schedule.decay_factor': 0.1,
    'distillation.temperature': 3.0,
    'distillation.label_weight': 1.0,
    'distillation.imitation_weight': 1.0,
    'augment.flip': True,
    'augment.padding': 4,
    'augment.mode': 'reflect',
    'method': 'srdl',
  }
  assert {name: flat[name] for name in papers} == papers


# Records.


def test_a_record_reads_back_through_json():
  config = config_lib.defaults()
  config.seed = 7
  config.schedule.decay_at = (0.3, 0.6, 0.9)
  config.distillation.label_weight = 0.1
  config.data.name = 'digits'
  config.log.tensorboard = False
  flat = config_lib.flatten(config)
  again = config_lib.from_flat(json.loads(json.dumps(flat)))
  assert again.to_dict() == config.to_dict()
  assert config_lib.flatten(again) == flat
  assert list(flat) == list(FIELDS)


def test_an_older_record_gets_defaults():
  config = config_lib.from_flat({'seed': 3})
  expected = config_lib.defaults()
  expected.seed = 3
  assert config.to_dict() == expected.to_dict()


def test_a_record_of_unknown_fields_is_refused():
  flat = config_lib.flatten(config_lib.defaults())
  with pytest.raises(ConfigError, match='field.*: model.depth, sede'):
    config_lib.from_flat({**flat, 'sede': 1, 'model.depth': 3})


def test_changing_a_record_does_not_change_the_defaults():
  config_lib.flatten(config_lib.defaults())['schedule.decay_at'].append(0.9)
  config_lib.defaults().model.name = 'other'
  assert config_lib.defaults().schedule.decay_at == (0.5, 0.75)
  assert config_lib.defaults().model.name == 'resnet32'


# Arguments.


@pytest.mark.parametrize('text', [None, ''])
def test_no_arguments_change_nothing(text):
  config = config_lib.apply_arguments(config_lib.defaults(), text)
  assert config.to_dict() == config_lib.defaults().to_dict()


def test_arguments_set_model_method_and_recipe():
  config = config_lib.defaults()
  returned = config_lib.apply_arguments(
    config, 'model=resnet110,recipe=strong,method=vanilla'
  )
  assert returned is config
  flat = config_lib.flatten(config)
  changed = {k: v for k, v in flat.items() if v != FIELDS[k].default}
  for name in ('schedule.decay_at', 'srdl.split', 'srdl.complete'):
    assert tuple(changed.pop(name)) == FIELDS[name].default
  assert changed == {
    'model.name': 'resnet110',
    'method': 'vanilla',
    'optimiser.weight_decay': 5e-4,
  }


def test_the_recipe_of_the_paper_is_the_default():
  config = config_lib.apply_arguments(config_lib.defaults(), 'recipe=paper')
  assert config.to_dict() == config_lib.defaults().to_dict()


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('model', "'model' is not of the form a=b"),
    ('model=', "'model=' is not of the form a=b"),
    ('method=srdl,resnet32', "'resnet32' is not of the form"),
    ('network=resnet8', "'network'; known: model, method, teacher, recipe"),
    ('=resnet8', "''; known: model"),
    ('model=resnet8,model=resnet20', "'model' is given twice"),
    ('recipe=weak', "recipe 'weak'; known: paper, strong"),
  ],
)
def test_wrong_arguments_are_named(text, message):
  with pytest.raises(ConfigError, match=message):
    config_lib.apply_arguments(config_lib.defaults(), text)


# Ranges: the values around each boundary.

OF_PAIRS = ('cs_kd', 'dlb', 'ddgsd')
RANGES = {
  'seed': ([0, 2**32 - 1], [-1, 2**32]),
  'epochs': ([1, 300], [0, -1]),
  'batch_size': ([1, 4096], [0]),
  'data.holdout': ([0, 5000], [-1]),
  'teacher.epochs': ([0, 90], [-1]),
  'data.examples_per_class': ([0, 1], [-1]),
  'data.classes': ([0, 100], [-1]),
  'retrieval.pooling': (['average', 'max'], ['median', '']),
  'optimiser.backbone_share': ([0.1, 1.0, 2.0], [0.0, -0.1, math.inf]),
  'data.image_size': ([0, 224], [-1]),
  'data.workers': ([0, 16], [-1]),
  'augment.least_area': ([0.08, 1.0], [0.0, -0.1, 1.1, math.nan]),
  'srdl.split': (
    [(1, 1), (0.5, 0.2, 0.3)],
    [(1.0,), (1, 0), (1, -1), (True, True), ()],
  ),
  'srdl.complete': ([(True, False), (False,) * 3], [(1, 0), (True, 'no')]),
  'srdl.start': (['fresh', 'previous', 'same'], ['warm', '']),
  'born_again.generations': ([1, 5], [0]),
  'label_smoothing': ([0.0, 0.1, 0.999], [1.0, -0.1, math.nan]),
  'distillation.views': ([0, 4], [-1]),
  'model.stem': (['', 'small', 'large'], ['none']),
  'model.shortcut': (['', 'projection', 'identity'], ['none']),
  'model.dtype': (['float32', 'bfloat16', 'float64'], ['float16', 'int8']),
  'augment.padding': ([0, 4], [-1]),
  'augment.mode': (['reflect', 'zero'], ['constant', '']),
  'optimiser.learning_rate': ([1e-12, 10.0], [0.0, -0.1, math.nan, math.inf]),
  'optimiser.momentum': ([0.0, 0.999], [1.0, -1e-9, math.nan]),
  'optimiser.weight_decay': ([0.0, 5e-4], [-1e-9, math.nan, math.inf]),
  'schedule.decay_at': (
    [(), (0.5,), (0.001, 0.999)],
    [(0.0,), (1.0,), (0.75, 0.5), (-0.1, 0.5), (math.nan,)],
  ),
  'schedule.decay_factor': ([1e-3, 1.0], [0.0, -0.1, math.nan, math.inf]),
  'distillation.temperature': ([0.1, 20.0], [0.0, -3.0, math.nan, math.inf]),
  'distillation.label_weight': ([0.0, 1.0], [-0.1, math.nan, math.inf]),
  'distillation.imitation_weight': ([0.0, 1.0], [-0.1, math.nan, math.inf]),
  'data.label_noise': ([0.0, 0.3, 0.999], [1.0, -0.1, math.nan]),
  'data.label_noise_seed': ([0, 7], [-1]),
  'ols.imitation_weight': ([0.0, 1.0], [1.1, -0.1, math.nan]),
  'ps_kd.alpha': ([0.0, 1.0], [1.1, -0.1]),
  'tf_kd.alpha': ([0.0, 1.0], [1.1, -0.1]),
  'tf_kd.correct': ([0.5, 0.99], [0.0, 1.0, math.nan]),
  'mean_teacher.rise': ([0.0, 1.0], [1.1, -0.1]),
  **dict.fromkeys(
    ('mean_teacher.decay', 'ema.decay'), ([0.0, 0.999], [1.0, -0.1])
  ),
  **dict.fromkeys(
    [f'{m}.temperature' for m in ('tf_kd', *OF_PAIRS, 'mean_teacher')],
    ([0.1, 20.0], [0.0, -3.0, math.nan]),
  ),
  **dict.fromkeys(
    [f'{m}.imitation_weight' for m in (*OF_PAIRS, 'mean_teacher')],
    ([0.0, 2.0], [-0.1, math.nan]),
  ),
  'eval.every_epochs': ([1, 5], [0]),
  'eval.batch_size': ([1, 500], [0]),
  'checkpoint.every_seconds': ([0.0, 0.5], [-1.0, math.nan]),
  'checkpoint.every_epochs': ([0, 1, 5], [-1]),
  'checkpoint.every_steps': ([0, 1], [-1]),
  'log.every_steps': ([1, 50], [0]),
  'steps_per_dispatch': ([0, 1, 390], [-1]),
  'devices': ([0, 4], [-1]),
  **dict.fromkeys(
    ('data.manual_dir', 'data.path', 'init.from_path', 'teacher.workdir'),
    (['', 'a/b', '/a'], ['gs://bucket/x', 's3://bucket/x']),
  ),
}


def _with(name, value):
  config = config_lib.defaults()
  config.update_from_flattened_dict({name: value})
  return config


def test_every_range_is_tested():
  assert set(RANGES) == {name for name, field in FIELDS.items() if field.range}


@pytest.mark.parametrize('name', RANGES)
def test_values_within_the_range_are_accepted(name):
  for value in RANGES[name][0]:
    config_lib.validate(_with(name, value))


@pytest.mark.parametrize('name', RANGES)
def test_values_outside_are_refused_by_name_and_range(name):
  for value in RANGES[name][1]:
    with pytest.raises(ConfigError) as caught:
      config_lib.validate(_with(name, value))
    message = str(caught.value)
    assert message.startswith(f'{name} = {value!r} is out of range')
    assert FIELDS[name].range in message
    assert FIELDS[name].meaning in message


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    (name, value)
    for name, field in FIELDS.items()
    for value in ([None] if isinstance(field.default, bool) else [None, True])
  ],
)
def test_values_of_another_kind_are_refused(name, value):
  with pytest.raises(ConfigError, match=f'^{re.escape(name)} = {value}'):
    config_lib.validate(config_lib.changed({name: value}))


def test_numbers_of_numpy_are_numbers():
  config = config_lib.changed(
    {
      'epochs': np.int64(3),
      'optimiser.momentum': np.float32(0.5),
      'augment.flip': np.bool_(False),
      'srdl.split': np.array([1, 2]),
    }
  )
  config_lib.validate(config)
  found = config.epochs, config.augment.flip, config.srdl.split
  assert found == (3, False, (1, 2)) and config.optimiser.momentum == 0.5
  assert [type(value) for value in found] == [int, bool, tuple]


# Identity.


def test_identity_leaves_out_what_does_not_change_numbers():
  flat = config_lib.flatten(config_lib.defaults())
  assert set(flat) - set(config_lib.identity(flat)) == {
    'data.data_dir',
    'data.manual_dir',
    'data.download',
    # The data's fingerprint tells these.
    'data.path',
    'data.skip_unreadable',
    'data.allow_differences',
    'data.workers',
    # The run's checkpoints hold the digest of the weights instead.
    'init.from_path',
    # Likewise the digest of the teacher's network.
    'teacher.workdir',
    'eval.every_epochs',
    'eval.batch_size',
    'checkpoint.every_seconds',
    'checkpoint.every_epochs',
    'checkpoint.every_steps',
    'log.every_steps',
    'log.tensorboard',
    'steps_per_dispatch',
    'devices',
    'profile',
  }


def test_a_field_that_comes_later_leaves_runs_what_they_were(monkeypatch):
  before = config_lib.digest(_with('epochs', 7))
  extra = config_lib.FIELDS | {'later': config_lib.FIELDS['model.remat']}
  monkeypatch.setattr(config_lib, 'FIELDS', extra)
  assert config_lib.digest(_with('epochs', 7)) == before
  changed = _with('epochs', 7)
  changed.later = True
  assert config_lib.digest(changed) != before


def test_a_digest_is_of_what_changes_numbers():
  base = config_lib.digest(config_lib.defaults())
  for name, value in (('seed', 1), ('srdl.split', (1, 2)), ('epochs', 7)):
    assert config_lib.digest(_with(name, value)) != base
  assert config_lib.digest(_with('data.data_dir', '/elsewhere')) == base


def test_identity_tells_runs_apart():
  base = config_lib.identity(config_lib.flatten(config_lib.defaults()))
  for name, value in (('seed', 1), ('data.holdout', 10), ('method', 'vanilla')):
    other = config_lib.flatten(_with(name, value))
    assert config_lib.identity(other) != base
  moved = config_lib.flatten(_with('data.data_dir', '/elsewhere'))
  assert config_lib.identity(moved) == base


def test_a_number_beyond_all_floats_is_named_in_short():
  flat = {**config_lib.flatten(config_lib.defaults())}
  with pytest.raises(ConfigError, match=r'decay_factor = 10{50,99}: ') as told:
    config_lib.from_flat(flat | {'schedule.decay_factor': 10**400})
  assert len(str(told.value)) < 300
