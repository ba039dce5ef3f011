# SPDX-License-Identifier: Apache-2.0
"""Runs of sources: on more devices, gone on with, of other fields, refused."""

import dataclasses
import json
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import source_runs
import started
import tiny

from srdl_jax import (
  build,
  evaluate,
  feed,
  knowledge,
  parallel,
  soft_targets,
  srdl,
  targets,
  trained,
)
from srdl_jax import config as config_lib
from srdl_jax import stage as stage_lib
from srdl_jax.errors import ConfigError, Interrupted, WorkdirError
from srdl_jax.experiment import Purpose
from srdl_jax.runs import checkpoint, stop_request

TINY = pathlib.Path(tiny.__file__)
FAST = 'ols', 'ps_kd', 'dlb', 'mean_teacher'
REMEMBER = {'ols', 'ps_kd', 'dlb', 'mean_teacher', 'ema'}
STAGES = {'pll': 2, 'srdl': 2}
ALL = [
  pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
  for name in source_runs.NAMES
]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  return source_runs.remembering(tmp_path_factory)


def ends(directory, method):
  """Returns the moments at which a run's stages end."""
  stages = STAGES.get(method, 1)
  return [
    source_runs.end_of(directory, number, stages)
    for number in range(1, stages + 1)
  ]


def assert_same_bits(directory, expected, method):
  for one, other in zip(
    ends(directory, method), ends(expected, method), strict=True
  ):
    assert ('memory' in one.state) == (method in REMEMBER)
    assert checkpoint.digest(one.state) == checkpoint.digest(other.state)
  assert tiny.lines(directory, 'train') == tiny.lines(expected, 'train')


@pytest.mark.parametrize('method', ALL)
def test_one_and_four_devices_agree(made, method):
  pairs = zip(
    ends(made(method), method), ends(made(method, devices=4), method),
    strict=True,
  )  # fmt: skip
  # The soft targets of srdl are kept in single precision.
  most = 1e-12 if method != 'srdl' else 1e-6
  for one, four in pairs:
    one, four = source_runs.leaves(one), source_runs.leaves(four)
    assert one.keys() == four.keys()
    for name, value in one.items():
      scale = np.nanmax(np.abs(value), initial=1e-300)
      np.testing.assert_allclose(
        four[name] / scale, value / scale, rtol=0, atol=most, err_msg=name
      )


@pytest.mark.parametrize('method', ALL)
def test_a_run_that_was_ended_within_an_epoch_ends_in_the_same_bits(
  made, method, tmp_path, monkeypatch
):
  read = stage_lib._Loop._read

  def asked_within(loop, epoch, pending):
    if pending is not None and pending[0] + 1 == 4:
      loop.stop.signal_name = 'SIGTERM'
    return read(loop, epoch, pending)

  with monkeypatch.context() as patch:
    patch.setattr(stage_lib._Loop, '_read', asked_within)
    with pytest.raises(Interrupted, match='stage 1, step 5'):
      source_runs.run(tmp_path, method)
  source_runs.run(tmp_path, method)
  assert_same_bits(tmp_path, made(method), method)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['ols', 'ps_kd', 'dlb', 'mean_teacher'])
def test_a_run_on_four_devices_that_was_killed_ends_in_the_same_bits(
  made, method, tmp_path
):
  # What is gone on from is step 5, the second of three of its epoch.
  some = {'devices': 4, 'checkpoint.every_steps': 2}
  fields = source_runs.fields_of(method, **some)
  told = [f'{name}={json.dumps(value)}' for name, value in fields.items()]
  for event, code in {'kill:6': -signal.SIGKILL, 'none': 0}.items():
    run = started.python(TINY, tmp_path, event, *told)
    assert run.returncode == code, run.stderr
  assert_same_bits(tmp_path, made(method, **some), method)


OTHER = {
  'ols.imitation_weight': 0.5,
  'ps_kd.alpha': 0.9,
  'tf_kd.temperature': 9.0,
  'tf_kd.alpha': 0.2,
  'tf_kd.correct': 0.9,
  'mean_teacher.rise': 0.9,
  'mean_teacher.decay': 0.9,
  'ema.decay': 0.6,
}
_SECTIONS = {f'{name}.' for name in source_runs.NAMES} - {'srdl.'}
OWN = [n for n in config_lib.FIELDS if n[: n.find('.') + 1] in _SECTIONS]


@pytest.mark.parametrize('field', OWN)
def test_each_field_of_a_source_has_an_effect(made, field):
  method = field.partition('.')[0]
  value = OTHER.get(field, 3.0)
  assert value != source_runs.OWN[field]
  one, other = made(method), made(method, **{field: value})
  before, after = (tiny.lines(d, 'train') for d in (one, other))
  evaluated = [tiny.lines(d, 'test') for d in (one, other)]
  if method == 'ema':
    assert before == after
  else:
    assert before[-1]['loss'] != pytest.approx(after[-1]['loss'], rel=1e-5)
  nll = [lines[-1]['nll'] for lines in evaluated]
  assert nll[0] != pytest.approx(nll[1], rel=1e-5)


@pytest.mark.parametrize('method', ['ema', 'mean_teacher'])
def test_what_is_evaluated_is_what_a_checkpoint_gives(made, method):
  moment = source_runs.end_of(made(method))
  with jax.enable_x64(True):
    built = build.build(tiny.config(**source_runs.fields_of(method)))
    result = built.stages[0].result(moment)
  wanted = moment.state['memory'] if method == 'ema' else moment.variables
  for name in ('params', 'batch_stats'):
    jax.tree.map(np.testing.assert_array_equal, result[name], wanted[name])


def test_the_mean_is_what_is_loaded_and_what_teaches(made, x64):
  directory = made('ema')
  wanted = source_runs.end_of(directory).state['memory']
  opened = trained.open_run(directory, None)
  (loaded,) = trained.load_members(directory, 'final', opened).values()
  student = tiny.config(
    **{
      **source_runs.FIELDS,
      'method': 'kd',
      'teacher.workdir': str(directory),
      'teacher.model': 'tiny',
    }
  )
  teacher = build.build(student).imported_teacher.variables
  for found in (loaded, teacher):
    for name in ('params', 'batch_stats'):
      jax.tree.map(np.testing.assert_array_equal, found[name], wanted[name])


def test_what_is_said_of_a_finished_run_is_said_of_the_mean(tmp_path, x64):
  # With images held out, the test is made at the end.
  result = source_runs.run(tmp_path, 'ema', **{'data.holdout': 30})
  (stage,) = result['stages']
  opened = trained.open_run(tmp_path, None)
  members = trained.load_members(tmp_path, 'final', opened)
  for split in ('train', 'test'):
    found = evaluate.evaluate([(opened, members)], split)
    assert stage[split]['nll'] == pytest.approx(found['nll'], rel=1e-9)


# What is remembered belongs to its image or class.


def losses(method, changes, *, epoch, number=1, bank=None):
  """Returns metrics of an epoch's first step, one for each change.

  Args:
    changes: functions of the bank or, without one, of the memory that a stage
      begins with, which return what is there in its place.
    epoch: of the stage, from 0.
    number: of the stage.
  """
  built = build.build(tiny.config(**source_runs.fields_of(method)))
  stage = built.stages[number - 1]
  begin = stage.initial_state(None)
  step = np.int32(stage.first_step + epoch * stage.drawn.steps)
  key = parallel.replicate(stage.key(Purpose.AUGMENT, epoch), built.devices)
  found = []
  for change in changes:
    taught, memory = None, begin.memory
    if bank is None:
      memory = change(memory)
    else:
      taught = knowledge.Knowledge(None, change(bank), None)
    # Copies, as a step is given its state for good.
    state = jax.tree.map(np.array, begin.replace(step=step, memory=memory))
    with feed.open_feed(built, stage, taught, 0) as opened:
      _, metrics = stage.train_chunk(
        parallel.replicate(state, built.devices),
        opened.resident,
        opened.examples(epoch, 0, 1),
        key,
      )
    found.append({n: float(x[0]) for n, x in metrics.items()})
  return found


def assert_noticed(first, *others):
  for other in others:
    assert other['cross_entropy'] == pytest.approx(first['cross_entropy'])
    assert other['imitation'] != pytest.approx(first['imitation'], rel=1e-4)
    assert other['loss'] != pytest.approx(first['loss'], rel=1e-4)


def shuffled(x):
  return np.random.default_rng(0).permutation(x)


def shuffled_elsewhere(method, epoch, number=1):
  """Returns `shuffled` for all rows but those of an epoch's first batch."""
  built = build.build(tiny.config(**source_runs.fields_of(method)))
  first = built.stages[number - 1].drawn.epoch(epoch)[:48]

  def changed(x):
    other = shuffled(x)
    other[first] = x[first]
    return other

  return changed


@pytest.mark.parametrize(
  ('method', 'name'), [('ps_kd', 'said'), ('ols', 'log_S')]
)
def test_rows_that_stand_elsewhere_are_noticed(made, method, name, x64):
  memory = source_runs.end_of(made(method)).state['memory']
  table = memory[name]
  if method == 'ps_kd':
    rng = np.random.default_rng(1)
    table = np.where(np.isnan(table), rng.normal(size=table.shape), table)

  def changed(by):
    return lambda _: {**memory, name: by(table)}

  changes = [lambda x: x, lambda x: np.roll(x, 1, 0), shuffled]
  assert_noticed(*losses(method, map(changed, changes), epoch=2))


def test_the_last_batch_teaches_its_own_images_alone(made, x64):
  memory = source_runs.end_of(made('dlb')).state['memory']
  assert (memory['index'] >= 0).all()

  def none_same(_):
    return {**memory, 'index': np.full_like(memory['index'], -1)}

  def rolled(_):
    return {name: np.roll(x, 1, 0) for name, x in memory.items()}

  def other_said(_):
    return {**memory, 'said': np.roll(memory['said'], 1, 0)}

  right, other, none, place = losses(
    'dlb', [lambda _: memory, other_said, none_same, rolled], epoch=4
  )
  assert_noticed(right, other)
  for found in (none, place):
    assert found['imitation'] == 0
    assert found['loss'] == pytest.approx(right['cross_entropy'])


def test_a_row_of_another_image_in_the_last_batch_is_no_target(made, x64):
  memory = source_runs.end_of(made('dlb')).state['memory']
  (found,) = losses('dlb', [lambda _: memory], epoch=2)
  assert found['imitation'] == 0
  assert found['loss'] == found['cross_entropy']


@pytest.mark.parametrize('method', ['pll', 'srdl'])
def test_a_bank_of_other_rows_is_noticed(method, x64):
  labels = 1437
  logits = np.float32(np.random.default_rng(0).normal(size=(labels, 10)))
  softened = soft_targets.soften(3 * logits, 3.0)
  bank = soft_targets.Bank(softened, 3.0, {'views': 0})

  def changed(by):
    return lambda bank: dataclasses.replace(
      bank, log_probs_NxK=by(bank.log_probs_NxK)
    )

  elsewhere = shuffled_elsewhere(method, 0, 2)
  changes = [lambda x: x, lambda x: np.roll(x, 1, 0), shuffled, elsewhere]
  *found, same = losses(
    method, map(changed, changes), epoch=0, number=2, bank=bank
  )
  assert_noticed(*found)
  assert same == found[0]


def test_what_was_said_of_other_images_is_not_read(x64):
  table = np.random.default_rng(1).normal(size=(1437, 10))
  changes = [lambda x: x, shuffled_elsewhere('ps_kd', 2)]
  one, same = losses(
    'ps_kd', [lambda _, by=by: {'said': by(table)} for by in changes], epoch=2
  )
  assert one['imitation'] > 0 and one == same


# What can't be trained is refused before it is.


@pytest.mark.parametrize(
  ('method', 'fields', 'told'),
  [
    ('cs_kd', {'batch_size': 45}, '45 is not divisible by the 1 devices into'),
    ('ddgsd', {'batch_size': 45}, '45 is not divisible by the 1 devices into'),
    (
      'dlb',
      {'batch_size': 36, 'devices': 4},
      '36 is not divisible by the 4 devices into pairs',
    ),
    (
      'cs_kd',
      {
        'data.examples_per_class': 1,
        'batch_size': 4,
        'data.label_noise': 0.0,
      },
      'has one training image, but images come in pairs',
    ),
    (
      'pll',
      {'data.classes': 2, 'batch_size': 8},
      'Top-2 targets of 2 classes are the same for every image',
    ),
    ('ols', {'data.label_noise': 1.0}, r'data.label_noise = 1.0 is out of'),
    ('ols', {'data.label_noise': -0.1}, r'data.label_noise = -0.1 is out of'),
  ],
)
def test_what_does_not_fit_a_source_is_refused(method, fields, told, tmp_path):
  with pytest.raises(ConfigError, match=told):
    source_runs.run(tmp_path / 'run', method, **fields)
  assert not list(tmp_path.glob('run/**/*.jsonl'))


def test_a_table_that_no_device_would_hold_is_refused():
  source = targets.SOURCES['ps_kd'](alpha=0.8)
  source.refuse(examples=1_281_167, classes=780)
  with pytest.raises(
    ConfigError, match='5.12 GB on every device, more than 4 GB'
  ):
    source.refuse(examples=1_281_167, classes=1000)


@pytest.mark.parametrize('method', ['cs_kd', 'ddgsd', 'dlb'])
def test_an_even_batch_of_each_device_is_taken(method):
  fields = {'batch_size': 40, 'devices': 4, 'model.dtype': 'float32'}
  build.build(tiny.config(**source_runs.fields_of(method, **fields)))


def test_a_run_in_pairs_is_evaluated_on_any_number_of_devices(made):
  config = source_runs.fields_of('cs_kd', devices=4, batch_size=36)
  with pytest.raises(ConfigError, match='into pairs'):
    build.build(tiny.config(**config | {'model.dtype': 'float32'}))
  config = tiny.config(**config | {'model.dtype': 'float32'})
  assert len(build.build(config, to_train=False).devices) == 4


@pytest.mark.parametrize(
  'change', [{'method': 'ols'}, {'data.label_noise_seed': 6}]
)
def test_another_source_or_other_noise_is_another_run(made, change):
  fields = source_runs.fields_of('ps_kd') | change
  with pytest.raises(WorkdirError, match=f'{next(iter(change))}'):
    srdl.run(
      tiny.config(**{n: v for n, v in fields.items() if n != 'ps_kd.alpha'}),
      str(made('ps_kd')),
      stop_request.StopRequest(),
    )


def test_without_a_rise_the_mean_teaches_from_the_first_step_on():
  source = targets.SOURCES['mean_teacher'](
    clock=targets.Clock(0, 5, 4), imitation_weight=2.0, rise=0.0, decay=0.9
  )
  assert source.weights(jnp.int32(0)) == (1.0, 2.0)
