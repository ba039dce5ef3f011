# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 as a whole, on real images."""

import dataclasses
import functools
import logging
import re

import compiled
import jax
import numpy as np
import pytest
import tiny
from tiny import end_of, lines

from srdl_jax import (
  build,
  evaluate,
  models,
  parallel,
  schedules,
  soft_targets,
  srdl,
  stage,
  storage,
  train_state,
  trained,
)
from srdl_jax import knowledge as knowledge_lib
from srdl_jax.errors import ConfigError, Interrupted
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import log, stop_request


def run(directory, **fields):
  return srdl.run(
    tiny.config(**fields), str(directory), stop_request.StopRequest()
  )


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """A function of a method: the directory of its run, and what it returned."""

  @functools.cache
  def of(method):
    directory = tmp_path_factory.mktemp(method)
    return directory, run(directory, method=method)

  return of


@pytest.fixture(scope='module')
def finished(ran):
  """A whole SRDL run: 10 + 10 steps, and what it returned."""
  return ran('srdl')


def test_alg1_call_sequence(tmp_path, monkeypatch):
  calls = []

  def record(owner, name, label):
    original = getattr(owner, name)

    def wrapped(*args, **kwargs):
      calls.append(label(kwargs))
      return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)

  record(
    stage,
    'train',
    lambda k: 'train' if k['knowledge'] is None else 'train with targets',
  )
  record(train_state, 'fresh', lambda _: 'fresh')
  record(soft_targets, 'save', lambda _: 'save')
  record(parallel, 'predict', lambda _: 'predict')
  run(
    tmp_path,
    **{'eval.every_epochs': 2, 'data.examples_per_class': 4, 'epochs': 2},
  )
  # A prediction closes each stage as its evaluation; the two before 'save'
  # are the warm-up and the extraction, the last three what stage two says of
  # the training images, and the ensemble.
  assert calls == [
    'train',
    'fresh',
    'predict',
    'predict',
    'predict',
    'save',
    'train with targets',
    'fresh',
    'predict',
    'predict',
    'predict',
    'predict',
  ]


def test_stage_two_starts_from_new_parameters(finished):
  directory, _ = finished
  built = build.build(tiny.config())
  first = built.stages[0].initial_state(None)
  second = built.stages[1].initial_state(None)
  for one, two in zip(
    jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True
  ):
    if one.ndim > 1:
      assert not np.allclose(one, two)
  assert int(second.step) == 10
  assert not any(np.any(x) for x in jax.tree.leaves(second.opt_state))
  for mean in jax.tree.leaves(second.batch_stats)[:1]:
    assert not np.any(mean)


@pytest.mark.parametrize(
  ('method', 'same_as'),
  [('same_initialisation', 'stage one'), ('no_restart', 'end of stage one')],
)
def test_table5_starts_of_stage_two(finished, method, same_as):
  directory, _ = finished
  built = build.build(tiny.config(method=method))
  end = end_of(directory, 1, 10)
  begun = built.stages[1].initial_state(end)
  expected = {
    'stage one': built.stages[0].initial_state(None).params,
    'end of stage one': end.state['params'],
  }[same_as]
  jax.tree.map(np.testing.assert_array_equal, begun.params, expected)
  if method == 'no_restart':
    jax.tree.map(
      np.testing.assert_array_equal,
      begun.batch_stats,
      end.state['batch_stats'],
    )
  assert not any(np.any(x) for x in jax.tree.leaves(begun.opt_state))


@pytest.mark.parametrize(
  ('method', 'expected'),
  [
    # 10 + 10 steps; an own decay falls at its steps 5 and 7, the single
    # one of 20 at 10 and 15.
    ('srdl', 2 * (5 * [0.1] + 2 * [0.01] + 3 * [0.001])),
    ('no_restart', 2 * (5 * [0.1] + 2 * [0.01] + 3 * [0.001])),
    ('stage_incomplete', 10 * [0.1] + 5 * [0.01] + 5 * [0.001]),
    ('vanilla', 10 * [0.1] + 5 * [0.01] + 5 * [0.001]),
  ],
)
def test_eq4_rates_that_were_applied(ran, method, expected):
  directory, _ = ran(method)
  applied = [line['learning_rate'] for line in lines(directory, 'train')]
  np.testing.assert_allclose(applied, expected, rtol=1e-6)


def test_eq3_schedule_reads_the_clock_of_the_run():
  schedule = schedules.over_stages(0.1, [10, 10], [True, True])
  built = build.build(tiny.config())
  for step in (0, 5, 7, 9, 10, 15, 19):
    assert float(built.schedule(step)) == float(schedule(step))


def test_eq5_bank_holds_every_training_example_and_no_other(finished):
  directory, found = finished
  built = build.build(tiny.config())
  end = end_of(directory, 1, 10)
  bank = knowledge_lib.induce(
    built, built.teacher(1, end), run_directory.soft_targets(directory, 1)
  ).bank
  present = np.flatnonzero(bank.present_N)
  np.testing.assert_array_equal(present, built.train_rows)
  labels = built.dataset.train.labels
  assert np.bincount(labels[present]).tolist() == 10 * [20]
  direct = evaluate.evaluate([(built, {1: end.variables})], 'train')
  assert found['stages'][0]['train']['accuracy'] == direct['accuracy']
  assert found['stages'][0]['train']['nll'] == pytest.approx(
    direct['nll'], rel=1e-5
  )


def test_an_extraction_ends_when_asked_and_leaves_no_bank(finished, tmp_path):
  directory, _ = finished
  stop = stop_request.StopRequest()
  stop.signal_name = 'SIGTERM'
  end, target = end_of(directory, 1, 10), tmp_path / 'soft_targets'
  with pytest.raises(Interrupted, match='SIGTERM while predicting'):
    built = build.build(tiny.config())
    knowledge_lib.induce(built, built.teacher(1, end), target, stop)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('method', ['srdl', 'vanilla_ensemble'])
def test_table6_ensemble_is_the_mean_of_probabilities(ran, method):
  directory, found = ran(method)
  built = build.build(tiny.config(method=method))
  probabilities = 0.0
  for number, step in ((1, 10), (2, 20)):
    member = end_of(directory, number, step).variables
    logits = np.concatenate(
      [logits for _, logits in tiny.predict(built, number, member, 'test')]
    ).astype(np.float64)
    exps = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = probabilities + exps / exps.sum(1, keepdims=True) / 2
  labels = built.dataset.test.labels
  assert found['ensemble']['test']['examples'] == len(labels) == 360
  assert found['ensemble']['test']['accuracy'] == np.mean(
    probabilities.argmax(1) == labels
  )
  own = probabilities[np.arange(len(labels)), labels]
  assert found['ensemble']['test']['nll'] == pytest.approx(-np.log(own).mean())


def test_an_ensemble_may_be_of_several_runs(finished, tmp_path):
  directory, _ = finished
  run(tmp_path, method='vanilla', seed=1)
  runs, probabilities = [], 0.0
  # Blocks of another size are no obstacle.
  record = storage.read_json(tmp_path / 'config.json')
  record['config']['eval.batch_size'] = 60
  storage.write_json(tmp_path / 'config.json', record)
  for place, number, step in ((directory, 2, 20), (tmp_path, 1, 20)):
    built = trained.open_run(place, None)
    runs.append((built, trained.load_members(place, 'final', built)))
    variables = end_of(place, number, step).variables
    blocks = tiny.predict(built, number, variables, 'test')
    logits = np.concatenate([z for _, z in blocks]).astype(np.float64)
    exps = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = probabilities + exps / exps.sum(1, keepdims=True) / 2
  found = evaluate.evaluate(runs, 'test')
  labels = built.dataset.test.labels
  assert found['accuracy'] == np.mean(probabilities.argmax(1) == labels)
  assert 0 < found['disagreement'] < 1


def test_runs_of_other_classes_make_no_ensemble(finished, tmp_path):
  directory, _ = finished
  run(tmp_path, **{'method': 'vanilla', 'data.classes': 5})
  runs = []
  for place in (directory, tmp_path):
    built = trained.open_run(place, None)
    runs.append((built, trained.load_members(place, 'final', built)))
  with pytest.raises(ConfigError, match='other test examples or classes'):
    evaluate.evaluate(runs, 'test')


def test_several_checkpoints_of_a_run_are_named_with_commas(finished):
  directory, found = finished
  built = trained.open_run(directory, None)
  both = trained.load_members(directory, 'stage_1,final', built)
  again = evaluate.evaluate([(built, both)], 'test')
  assert again['nll'] == pytest.approx(found['ensemble']['test']['nll'])
  with pytest.raises(ConfigError, match='names stage 2 twice'):
    trained.load_members(directory, 'final,stage_2', built)


def test_table6_control_is_two_independent_vanilla_runs_of_half_the_budget(
  finished, ran
):
  srdl_directory, _ = finished
  directory, found = ran('vanilla_ensemble')
  _, vanilla = ran('vanilla')
  assert found['cost']['training_1e16'] == vanilla['cost']['training_1e16']
  assert not list(directory.glob('stage_*/soft_targets'))
  control = lines(directory, 'train')
  srdl_lines = lines(srdl_directory, 'train')
  # Each network is what SRDL's stage one is: half the budget, labels alone,
  # a whole decay; the second differs by its key and its order of examples.
  assert control[:10] == srdl_lines[:10]
  rates = [line['learning_rate'] for line in control]
  assert rates[:10] == rates[10:]
  assert all('imitation' not in line for line in control)
  assert control[10]['cross_entropy'] != control[0]['cross_entropy']


class Teacher(tiny.Tiny):
  """Another network than the student's."""

  width: int = 12


KD = {'method': 'kd', 'teacher.model': 'teacher', 'teacher.epochs': 2}


@pytest.fixture(scope='module')
def distilled(tmp_path_factory):
  """A whole run of KD: 10 + 20 steps, and what it returned."""
  directory = tmp_path_factory.mktemp('distilled')
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.MODELS, 'teacher', Teacher)
    yield directory, run(directory, **KD)


def test_table2_kd_is_srdl_with_another_teacher(finished, distilled):
  _, srdl_found = finished
  directory, found = distilled
  teacher, student = found['stages']
  assert (teacher['model'], student['model']) == ('teacher', 'tiny')
  assert (teacher['epochs'], student['epochs']) == (2, 4)
  built = build.build(tiny.config(**KD))
  end = end_of(directory, 1, 10)
  assert end.state['params']['Conv_0']['kernel'].shape[-1] == 12
  # The cached bank of Eq 5, of the teacher's own predictions.
  bank = knowledge_lib.induce(
    built, built.teacher(1, end), run_directory.soft_targets(directory, 1)
  ).bank
  assert bank.provenance['model'] == 'teacher'
  rows, logits = next(tiny.predict(built, 1, end.variables, 'train'))
  np.testing.assert_array_equal(
    bank.log_probs_NxK[rows], soft_targets.soften(logits, 3.0)
  )
  # Eq 7 with weight 1 and T^2: the loss of the student's every step.
  taught = [line for line in lines(directory, 'train') if line['stage'] == 2]
  assert len(taught) == 20
  for line in taught:
    expected = line['cross_entropy'] + 9 * line['imitation']
    assert line['loss'] == pytest.approx(expected, rel=1e-5)
  # A decay of its own for each, over its own epochs.
  rates = [line['learning_rate'] for line in lines(directory, 'train')]
  np.testing.assert_allclose(
    rates,
    # Of 10 steps at 5 and 7, of 20 at 10 and 15.
    [*(5 * [0.1] + 2 * [0.01] + 3 * [0.001])]
    + [*(10 * [0.1] + 5 * [0.01] + 5 * [0.001])],
    rtol=1e-6,
  )
  # Cost: the teacher's epochs and its pass count with its multiply-adds.
  forward = found['cost']['forward_multiply_adds']
  assert forward['teacher'] > forward['tiny']
  assert found['cost']['training_1e16'] == pytest.approx(
    (3 * forward['teacher'] + 4 * forward['tiny']) * 200 / 1e16
  )
  assert srdl_found['cost']['training_1e16'] == pytest.approx(
    5 * forward['tiny'] * 200 / 1e16
  )


def test_kd_evaluates_each_stage_with_its_own_network(distilled):
  directory, found = distilled
  built = build.build(tiny.config(**KD))
  for name, expected in (
    ('stage_1', found['stages'][0]),
    ('final', found['final']),
    ('ensemble', found['ensemble']),
  ):
    members = trained.load_members(directory, name, built)
    again = evaluate.evaluate([(built, members)], 'test')
    assert again['nll'] == pytest.approx(expected['test']['nll'], rel=1e-5)


@pytest.mark.parametrize('name', ['stage_1', 'stage_2', 'final', 'ensemble'])
def test_checkpoints_evaluate_to_what_the_result_says(finished, name):
  directory, found = finished
  built = build.build(tiny.config(devices=2))
  members = trained.load_members(directory, name, built)
  expected = {
    'stage_1': found['stages'][0],
    'stage_2': found['final'],
    'final': found['final'],
    'ensemble': found['ensemble'],
  }[name]['test']
  again = evaluate.evaluate([(built, members)], 'test')
  assert again['accuracy'] == expected['accuracy']
  assert again['nll'] == pytest.approx(expected['nll'], rel=1e-5)


def test_best_checkpoint_is_the_best_epoch(finished):
  directory, found = finished
  built = build.build(tiny.config())
  best = trained.load_members(directory, 'best', built)
  again = evaluate.evaluate([(built, best)], 'test')
  assert again['accuracy'] == found['best']['accuracy']


def test_last_epoch_is_the_result_and_best_stands_beside(finished):
  directory, found = finished
  evaluations = lines(directory, 'test')
  assert found['final']['test']['accuracy'] == evaluations[-1]['accuracy']
  assert found['best']['accuracy'] == max(
    line['accuracy'] for line in evaluations if line['stage'] == 2
  )


def test_holdout_is_never_trained_on_and_selects_the_best(tmp_path):
  built = build.build(tiny.config(**{'data.holdout': 100}))
  assert len(built.validation_rows) == 100
  assert not set(built.validation_rows) & set(built.train_rows)
  found = run(tmp_path, **{'data.holdout': 100, 'method': 'vanilla'})
  assert found['best']['split'] == 'validation'
  assert found['best']['examples'] == 100
  assert found['final']['test']['examples'] == 360
  assert lines(tmp_path, 'validation') and not lines(tmp_path, 'test')


def test_each_program_is_compiled_once(tmp_path, caplog):
  with (
    compiled.not_shared(),
    jax.log_compiles(),
    caplog.at_level(logging.WARNING, logger='jax'),
  ):
    run(tmp_path, **{'data.holdout': 100, 'eval.batch_size': 60})
  programs = [
    record.getMessage()
    for record in caplog.records
    if record.getMessage().startswith('Finished XLA compilation')
  ]
  mapped = [text for text in programs if re.search('_fun|gathered|chunk', text)]
  # One forward pass serves both stages, every evaluation and the extraction;
  # a train step is compiled without and with soft targets.
  assert len(mapped) == 3
  assert sum('_initialise' in text for text in programs) <= 1


def test_permuted_bank_changes_stage_two(finished, tmp_path, monkeypatch):
  directory, _ = finished
  original = srdl.induce

  def permuted(experiment, *rest):
    knowledge = original(experiment, *rest)
    rows = experiment.train_rows
    log_probs = knowledge.bank.log_probs_NxK.copy()
    log_probs[rows] = log_probs[np.roll(rows, 1)]
    bank = dataclasses.replace(knowledge.bank, log_probs_NxK=log_probs)
    return dataclasses.replace(knowledge, bank=bank)

  monkeypatch.setattr(srdl, 'induce', permuted)
  run(tmp_path)
  right, wrong = lines(directory, 'train'), lines(tmp_path, 'train')
  assert right[:10] == wrong[:10]
  # The first step of stage two: the same network, other targets.
  assert right[10]['cross_entropy'] == wrong[10]['cross_entropy']
  assert right[10]['imitation'] != wrong[10]['imitation']


@pytest.mark.slow
def test_chunks_of_steps_agree_with_single_steps(finished, tmp_path):
  directory, _ = finished
  # 5 steps an epoch: a dispatch of 3 and one of 2.
  run(tmp_path, **{'steps_per_dispatch': 3})
  single, chunks = lines(directory, 'train'), lines(tmp_path, 'train')
  assert [line['step'] for line in chunks] == [line['step'] for line in single]
  for one, other in zip(single[:5], chunks[:5], strict=True):
    assert one['learning_rate'] == other['learning_rate']
    assert other['loss'] == pytest.approx(one['loss'], rel=1e-5)


def test_progress_is_shown_within_an_epoch(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(stage, 'SECONDS_BETWEEN_SHOWS', 0.0)
  shown = []
  monkeypatch.setattr(log.RunLog, 'progress', lambda _, **w: shown.append(w))
  run(tmp_path, **{'method': 'vanilla', 'checkpoint.every_steps': 2})
  # 5 steps an epoch: after the third one, checkpoints being at 2 and 4.
  assert [w['epoch'] for w in shown[:4]] == [0.6, 1.0, 1.6, 2.0]
  assert all(0 < w['images_per_second'] < 1e7 for w in shown)
  assert shown[-1]['seconds_left'] == 0


def test_profile_writes_a_trace(tmp_path):
  run(tmp_path, **{'method': 'vanilla', 'profile': True, 'epochs': 2})
  traces = list((tmp_path / 'profile').rglob('*.xplane.pb'))
  assert len(traces) == 1 and traces[0].stat().st_size


# The usual tests compare single steps on several devices.
@pytest.mark.slow
def test_device_count_does_not_change_a_run_in_double_precision(tmp_path):
  ends = {}
  for devices in (1, 2, 4):
    directory = tmp_path / str(devices)
    run(directory, **{'devices': devices, 'model.dtype': 'float64'})
    ends[devices] = end_of(directory, 2, 20).state['params']
  for devices in (2, 4):
    for one, many in zip(
      jax.tree.leaves(ends[1]), jax.tree.leaves(ends[devices]), strict=True
    ):
      assert one.dtype == np.float64
      np.testing.assert_allclose(many, one, rtol=0, atol=1e-12)
