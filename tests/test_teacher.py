# SPDX-License-Identifier: Apache-2.0
"""A finished run as the teacher of others, and the other target sources."""

import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import end_of, lines

from srdl_jax import (
  build,
  evaluate,
  feed,
  imported,
  knowledge,
  losses,
  soft_targets,
  srdl,
  storage,
  targets,
  trained,
)
from srdl_jax.errors import ConfigError, SoftTargetsError, WorkdirError
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import stop_request

SHORT = {'epochs': 2, 'log.tensorboard': False}


def run(directory, **fields):
  return srdl.run(
    tiny.config(**{**SHORT, **fields}),
    str(directory),
    stop_request.StopRequest(),
  )


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  directory = tmp_path_factory.mktemp('teacher')
  run(directory, method='vanilla')
  return directory


@pytest.fixture
def copied(teacher, tmp_path):
  """The teacher's directory, to be spoilt."""
  return shutil.copytree(teacher, tmp_path / 'teacher')


def kd(teacher, **fields):
  return {'method': 'kd', 'teacher.workdir': str(teacher), **fields}


@pytest.fixture(scope='module')
def taught(teacher, tmp_path_factory):
  """A teacher with its bank, its student's directory, and what that found."""
  folder = tmp_path_factory.mktemp('taught')
  directory = shutil.copytree(teacher, folder / 'teacher')
  return directory, folder / 'student', run(folder / 'student', **kd(directory))


def test_one_bank_serves_every_student(copied, tmp_path, monkeypatch):
  saved = []
  save = soft_targets.save
  monkeypatch.setattr(
    soft_targets, 'save', lambda *a, **k: (saved.append(a[0]), save(*a, **k))
  )
  found = [
    run(tmp_path / str(seed), **kd(copied, seed=seed)) for seed in (0, 1)
  ]
  assert saved == [run_directory.soft_targets(copied, 1)]
  assert found[0]['teacher'] | {'workdir': ''} == found[1]['teacher'] | {
    'workdir': ''
  }
  first = lines(tmp_path / '0', 'train')[0]
  # Eq 7: labels and T^2 times the imitation of the teacher.
  loss = first['cross_entropy'] + 9 * first['imitation']
  assert first['loss'] == pytest.approx(loss, rel=1e-6)


def test_the_bank_is_what_the_teacher_predicts(taught):
  teacher, _, _ = taught
  config = tiny.config(**SHORT, **kd(teacher))
  experiment = build.build(config)
  end = end_of(teacher, 1, 10)
  (known,) = knowledge.induce_imported(experiment, None).values()
  bank = known.bank
  vanilla = build.build(tiny.config(**SHORT, method='vanilla'))
  rows, logits = next(tiny.predict(vanilla, 1, end.variables, 'train'))
  np.testing.assert_array_equal(
    bank.log_probs_NxK[rows], soft_targets.soften(logits, 3.0)
  )


def test_a_student_of_another_temperature_converts_the_bank(taught, tmp_path):
  teacher, _, _ = taught
  run(tmp_path / 'two', **kd(teacher, **{'distillation.temperature': 2.0}))
  config = tiny.config(**SHORT, **kd(teacher))
  bank = knowledge.induce_imported(build.build(config), None)[0].bank
  assert bank.temperature == 3.0
  rows = build.build(config).train_rows
  two = feed.to_learn_from(bank, 2.0)
  again = soft_targets.at_temperature(two[rows], 2.0, 3.0)
  np.testing.assert_allclose(again, bank.log_probs_NxK[rows], atol=1e-5)
  first = lines(tmp_path / 'two', 'train')[0]
  loss = first['cross_entropy'] + 4 * first['imitation']
  assert first['loss'] == pytest.approx(loss, rel=1e-6)


def test_cost_holds_the_teachers(taught):
  directory, _, found = taught
  teacher = storage.read_json(directory / 'result.json')
  forward = found['cost']['forward_multiply_adds']['tiny']
  # 2 epochs, a pass that predicts, and 2 epochs, over 200 images.
  assert found['cost']['training_1e16'] == pytest.approx(
    forward * 5 * 200 / 1e16
  )
  seconds = found['cost']['seconds']
  assert seconds['teacher'] == teacher['cost']['seconds']['train']
  assert seconds['extract'] == found['teacher']['extraction_seconds'] > 0


def test_a_finished_student_is_evaluated_without_its_teacher(taught, tmp_path):
  teacher, student, found = taught
  directory = shutil.copytree(student, tmp_path / 'student')
  # Its result; nothing is trained.
  assert run(directory, **kd(teacher)) == found
  away = teacher.rename(tmp_path / 'away')
  try:
    experiment = trained.open_run(directory, None)
    members = trained.load_members(directory, 'final', experiment)
    again = evaluate.evaluate([(experiment, members)], 'test')
  finally:
    away.rename(teacher)
  assert again['accuracy'] == found['final']['test']['accuracy']


def test_agreement_is_the_share_of_equal_predictions(taught):
  teacher, directory, found = taught
  experiment = build.build(tiny.config(**SHORT, method='vanilla'))

  def top1(end):
    blocks = tiny.predict(experiment, 1, end.variables, 'train')
    return np.concatenate([logits.argmax(-1) for _, logits in blocks])

  same = top1(end_of(teacher, 1, 10)) == top1(end_of(directory, 1, 10))
  assert found['stages'][0]['agreement'] == {
    'agreement': same.mean(),
    'examples': 200,
  }


def test_another_teacher_is_another_run(taught, tmp_path):
  _, student, _ = taught
  directory = shutil.copytree(student, tmp_path / 'student')
  other = tmp_path / 'other'
  run(other, method='vanilla', seed=1)
  with pytest.raises(WorkdirError, match='differs in the imported teacher'):
    run(directory, **kd(other))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'data.examples_per_class': 10}, 'trained on 200 examples that are not'),
    ({'data.classes': 5}, 'knows 10 classes, the student learns 5'),
    ({'data.holdout': 20, 'seed': 1}, '200 examples that are not'),
    ({'teacher.model': 'resnet8'}, "holds a tiny, but .* 'resnet8'"),
    ({'teacher.epochs': 3}, 'teacher.epochs is 0'),
    ({'method': 'srdl'}, "'srdl' has no use for teacher.model"),
  ],
)
def test_a_teacher_that_does_not_fit_is_refused(
  teacher, tmp_path, fields, message
):
  with pytest.raises(ConfigError, match=message):
    run(tmp_path / 'student', **{**kd(teacher), **fields})
  assert not (tmp_path / 'student').exists()


def test_a_teacher_of_other_data_is_refused(copied, tmp_path):
  record = storage.read_json(copied / 'config.json')
  record['fingerprint'] = 'f' * 64
  storage.write_json(copied / 'config.json', record)
  # Its result is of the data that it was trained on.
  with pytest.raises(WorkdirError, match='another run .* differs in the data'):
    run(tmp_path / 'student', **kd(copied))


def test_a_teacher_that_saw_other_data_is_refused(teacher, monkeypatch):
  config = tiny.config(**SHORT, **kd(teacher))
  experiment = build.build(config)
  other = experiment.dataset.train
  object.__setattr__(other, 'fingerprint', 'e' * 64)
  with pytest.raises(ConfigError, match='trained on other data: digits'):
    imported.check(
      experiment.imported, config, experiment.dataset, experiment.train_rows
    )


def test_an_unfinished_teacher_is_refused(copied, tmp_path):
  (copied / 'result.json').unlink()
  with pytest.raises(WorkdirError, match='not finished: run its command'):
    run(tmp_path / 'student', **kd(copied))


def test_no_run_is_no_teacher(tmp_path):
  with pytest.raises(
    WorkdirError, match=r'nothing.config\.json cannot be read'
  ):
    run(tmp_path / 'student', **kd(tmp_path / 'nothing'))


def test_a_bank_of_another_order_is_refused(taught):
  """As if the data had been sorted anew since the bank was made."""
  config = tiny.config(**SHORT, **kd(taught[0]))
  experiment = build.build(config)
  object.__setattr__(experiment.dataset.train, 'fingerprint', 'd' * 64)
  with pytest.raises(SoftTargetsError, match='made of something else.*finger'):
    knowledge.induce_imported(experiment, None)


def test_a_student_waits_for_another_that_makes_the_bank(copied, tmp_path):
  experiment = build.build(tiny.config(**SHORT, **kd(copied)))
  found = {}

  def student():
    found.update(knowledge.induce_imported(experiment, None))

  with storage.lock(copied):
    assert storage.is_held(copied)
    thread = threading.Thread(target=student)
    thread.start()
    time.sleep(0.3)
    assert not found
  thread.join(timeout=600)
  assert found[0].bank is not None and not storage.is_held(copied)


# Other target sources.


def test_an_online_teacher_predicts_the_augmented_images(tmp_path):
  found = run(tmp_path, **{'distillation.online': True})
  assert not run_directory.soft_targets(tmp_path, 1).exists()
  assert found['stages'][0]['soft_targets'] is None
  # As many passes that predict as the student has epochs.
  assert [s['extractions'] for s in found['cost']['stages']] == [1, 0]
  built = build.build(tiny.config(**SHORT, **{'distillation.online': True}))
  model, end = built.stages[0].network.model, end_of(tmp_path, 1, 5)
  images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
  batch = {'teacher': end.variables, 'image': images, 'soft_logits': None}
  logits = model.apply(end.variables, images, train=False)
  np.testing.assert_allclose(
    targets.SOURCES['online'](3.0, apply=model.apply).targets({}, batch, None),
    jax.nn.log_softmax(logits / 3),
    rtol=1e-6,
  )
  taught = [line for line in lines(tmp_path, 'train') if line['stage'] == 2]
  assert all(line['imitation'] > 0 for line in taught)


def test_views_are_averaged_as_probabilities(tmp_path):
  found = run(tmp_path, **{'distillation.views': 3})
  assert found['cost']['stages'][0]['extractions'] == 3
  built = build.build(tiny.config(**SHORT, **{'distillation.views': 3}))
  end = end_of(tmp_path, 1, 5)
  teacher = built.teacher(1, end)
  bank = knowledge.induce(
    built, teacher, run_directory.soft_targets(tmp_path, 1, 3)
  ).bank
  probabilities = 0.0
  for view in range(3):
    images = knowledge._View(built, teacher, view)
    blocks = tiny.predict(built, 1, end.variables, 'train', images)
    logits = np.concatenate([logits for _, logits in blocks])
    probabilities += np.exp(soft_targets.soften(logits, 3.0)) / 3
  stored = bank.log_probs_NxK[built.train_rows]
  np.testing.assert_allclose(np.exp(stored), probabilities, atol=1e-6)
  clean = np.concatenate(
    [z for _, z in tiny.predict(built, 1, end.variables, 'train')]
  )
  assert np.abs(np.exp(soft_targets.soften(clean, 3.0)) - probabilities).max()
  assert run_directory.soft_targets(tmp_path, 1, 3).exists()
  with pytest.raises(SoftTargetsError, match='views have their temperature'):
    feed.to_learn_from(bank, 2.0)
  # Metrics on training images are of clean ones all the same.
  direct = evaluate.evaluate([(built, {1: end.variables})], 'train')
  assert found['stages'][0]['train']['accuracy'] == direct['accuracy']


def test_views_of_other_augmentation_are_other_targets(taught, tmp_path):
  views = {'distillation.views': 2}
  # Beside the bank of clean images.
  teacher = shutil.copytree(taught[0], tmp_path / 'teacher')
  run(tmp_path / 'one', **kd(teacher, **views))
  with pytest.raises(SoftTargetsError, match='made of something else: views'):
    run(tmp_path / 'two', **kd(teacher, **views, **{'augment.padding': 0}))


@pytest.mark.parametrize(
  ('fields', 'field'),
  [
    ({'distillation.views': 2, 'distillation.online': True}, 'views = 2'),
    ({'distillation.views': 2, 'method': 'vanilla'}, 'views = 2'),
    ({'distillation.online': True, 'method': 'vanilla'}, 'online = True'),
  ],
)
def test_target_sources_that_nothing_uses_are_refused(tmp_path, fields, field):
  with pytest.raises(ConfigError, match=f'no use for distillation.{field}'):
    run(tmp_path / 'none', **fields)


def test_a_result_that_is_not_ours_makes_no_teacher(copied, tmp_path):
  (copied / 'result.json').write_text('{}')
  with pytest.raises(WorkdirError, match='is not the result of a run'):
    run(tmp_path / 'student', **kd(copied))


def test_momentum_is_kept_where_asked(tmp_path):
  kept = {'srdl.start': 'previous', 'srdl.keep_optimiser': True}
  config = tiny.config(**SHORT, **kept)
  run(tmp_path, **kept)
  experiment = build.build(config)
  end = end_of(tmp_path, 1, 5)
  state = experiment.stages[1].initial_state(end)
  momenta = jax.tree.leaves(state.opt_state)
  stored = jax.tree.leaves(end.state['opt_state'])
  assert len(momenta) == len(stored) > 0
  for one, other in zip(momenta, stored, strict=True):
    np.testing.assert_array_equal(one, other)
  assert any(np.abs(m).max() > 0 for m in momenta)


def test_smoothed_labels_are_a_mixture_with_the_uniform(x64):
  logits = jax.random.normal(jax.random.key(0), (4, 5), jnp.float64)
  labels = jnp.array([0, 4, 2, 2])
  smooth = losses.cross_entropy(logits, labels, 0.2)
  # -sum_j ((1 - a) [j = y] + a / K) log p_j.
  hard = losses.cross_entropy(logits, labels)
  uniform = -jnp.mean(jax.nn.log_softmax(logits))
  mixture = float(0.8 * hard + 0.2 * uniform)
  assert float(smooth) == pytest.approx(mixture, rel=1e-12)


def test_label_smoothing_reaches_the_step(teacher, tmp_path):
  run(tmp_path, method='label_smoothing', label_smoothing=0.3)
  # The teacher is a run of labels alone.
  smooth, hard = (
    lines(directory, 'train')[0]['loss'] for directory in (tmp_path, teacher)
  )
  assert smooth != hard
