# SPDX-License-Identifier: Apache-2.0
"""Python's way in."""

import sys
import tempfile
import threading

import flax.linen as nn
import jax
import numpy as np
import pytest
import started
import tiny

import srdl_jax
from srdl_jax import data, models
from srdl_jax.errors import ConfigError, DataError, WorkdirError

FIELDS = {
  'data': {'name': 'digits', 'examples_per_class': 20},
  'model.name': 'tiny',
  'epochs': 4,
  'batch_size': 40,
  'augment.padding': 1,
  'eval.batch_size': 100,
  'devices': 1,
}


class Own(nn.Module):
  """A network of one's own, without the devices' axis, with dropout."""

  classes: int = 10
  dropped: float = 0.2

  @nn.compact
  def __call__(self, images, train):
    x = nn.Conv(8, (3, 3), 2)(images)
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = nn.relu(x).reshape(len(x), -1)
    x = nn.Dropout(self.dropped, deterministic=not train)(x)
    return nn.Dense(self.classes, name='fc')(x)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return srdl_jax.train(FIELDS, str(tmp_path_factory.mktemp('run')))


@pytest.fixture(scope='module')
def digits():
  return data.load('digits')


def test_a_run_is_that_of_the_command(run, tmp_path):
  fields = {'data.examples_per_class': 20, 'checkpoint.every_steps': 0}
  config = tiny.config(**fields)
  again = srdl_jax.train(config, str(tmp_path))
  jax.tree.map(np.testing.assert_array_equal, run.variables, again.variables)
  assert run.result['final'] == again.result['final']


def test_predictions_are_those_of_the_evaluation(run, digits):
  shares = run.predict(digits.test.images)
  assert shares.shape == (360, 10) and run.classes == tuple('0123456789')
  accuracy = np.mean(shares.argmax(-1) == digits.test.labels)
  test = run.result['final']['test']
  assert accuracy == pytest.approx(test['accuracy'])
  assert run.evaluate() == test
  given = run.evaluate((digits.test.images, digits.test.labels))
  assert given == test
  assert run.predict(digits.test.images[:0]).shape == (0, 10)


def test_logits_are_the_modules_own(run, digits):
  images = run.normalise(digits.test.images[:3])
  logits = run.model.apply(run.variables, images, train=False)
  np.testing.assert_allclose(
    jax.nn.softmax(logits), run.predict(digits.test.images[:3]), rtol=1e-5
  )


def test_features_are_what_the_last_layer_is_given(run, digits):
  images = digits.test.images[:3]
  features = run.features(images)
  last = run.variables['params']['fc']
  logits = features @ last['kernel'] + last['bias']
  np.testing.assert_allclose(
    jax.nn.softmax(logits), run.predict(images), rtol=1e-5
  )


def test_soft_targets_and_history_are_the_runs(run):
  bank = run.soft_targets()
  assert bank.log_probs_NxK.shape == (1437, 10) and bank.temperature == 3
  # Rows that don't train are NaN.
  assert bank.present_N.sum() == 200
  assert bank.provenance['dataset'] == 'digits'
  lines = run.history()
  assert sum(line['split'] == 'train' for line in lines) == 20
  with pytest.raises(WorkdirError, match='no stage has stored'):
    run.soft_targets(stage=2)


def test_an_ensemble_is_loaded_by_its_name(run, digits):
  both = srdl_jax.load(str(run.workdir), 'ensemble')
  images = digits.test.images[:5]
  mean = sum(
    srdl_jax.load(str(run.workdir), name).predict(images)
    for name in ('stage_1', 'stage_2')
  )
  np.testing.assert_allclose(both.predict(images), mean / 2, rtol=1e-6)
  with pytest.raises(ConfigError, match='several networks'):
    both.features(images)


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    (np.zeros((2, 8, 8, 1)), 'float64'),
    (np.zeros((2, 9, 8, 1), np.uint8), '9, 8, 1'),
  ],
)
def test_images_of_another_kind_are_refused(run, images, message):
  with pytest.raises(ConfigError, match=message):
    run.predict(images)


def test_files_that_are_not_there_are_named(run):
  with pytest.raises(DataError, match='none.png'):
    run.predict(['none.png'])


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'epoch': 3}, 'epoch'),
    ({'data': {'nme': 'digits'}}, 'data.nme'),
    ({'epochs': 'many'}, 'epochs'),
    ({'epochs': 0}, 'epochs = 0 is out of range'),
  ],
)
def test_wrong_fields_are_named(fields, message, tmp_path):
  with pytest.raises(ConfigError, match=message):
    srdl_jax.train(FIELDS | fields, str(tmp_path / 'run'))


def test_another_thread_trains_without_signals(tmp_path, run):
  found = []

  def work():
    found.append(srdl_jax.train(FIELDS, str(tmp_path)))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found[0].result['final'] == run.result['final']


def test_double_precision_stays_the_runs_own(tmp_path, digits):
  fields = {'model.dtype': 'float64', 'epochs': 2, 'method': 'vanilla'}
  wide = srdl_jax.train(FIELDS | fields, str(tmp_path))
  leaves = jax.tree.leaves(srdl_jax.load(str(tmp_path)).variables)
  assert {leaf.dtype for leaf in leaves} == {np.dtype('float64')}
  assert wide.predict(digits.test.images[:2]).shape == (2, 10)
  assert jax.numpy.zeros(1).dtype == 'float32'


SETTINGS = {'epochs': 4, 'batch_size': 32, 'augment': {'flip': False}}


def few(split, count=160):
  return split.images[:count], split.labels[:count]


def test_a_module_of_ones_own_is_trained_on_arrays(digits, tmp_path):
  given = few(digits.train)
  test = few(digits.test)
  runs = [
    srdl_jax.fit(
      Own(), *given, test=test, workdir=str(tmp_path / name), **SETTINGS
    )
    for name in ('a', 'b')
  ]
  # Dropout draws the same: nothing random is without a seed.
  jax.tree.map(
    np.testing.assert_array_equal, runs[0].variables, runs[1].variables
  )
  assert runs[0].evaluate(test) == runs[0].result['final']['test']
  assert runs[0].config.devices == 1
  with pytest.raises(ConfigError, match='arrays are not kept'):
    runs[0].evaluate()
  with pytest.raises(ConfigError, match="module of one's own: give it"):
    srdl_jax.load(str(tmp_path / 'a'))
  # Another module neither takes its place nor goes on with it.
  for other in (Own(dropped=0.5), tiny.Tiny(10)):
    with pytest.raises(ConfigError, match='own, not this one: give it'):
      srdl_jax.load(str(tmp_path / 'a'), model=other)
    with pytest.raises(WorkdirError, match='model.name'):
      srdl_jax.fit(
        other, *given, test=test, workdir=str(tmp_path / 'a'), **SETTINGS
      )
  again = srdl_jax.load(str(tmp_path / 'a'), model=Own())
  np.testing.assert_array_equal(
    again.predict(test[0]), runs[0].predict(test[0])
  )
  # Nothing is left behind.
  assert not [n for n in (*models.MODELS, *data.DATASETS) if 'own_' in n]


def test_dropout_has_an_effect_and_goes_on_where_it_was(digits, tmp_path):
  given, test = few(digits.train), few(digits.test)
  plain, dropped = (
    srdl_jax.fit(Own(dropped=share), *given, test=test, **SETTINGS)
    for share in (0.0, 0.5)
  )
  last = [run.history()[-1] for run in (plain, dropped)]
  assert last[0]['nll'] != last[1]['nll']


def test_a_module_with_the_axis_may_use_several_devices(digits):
  run = srdl_jax.fit(
    tiny.Tiny(10),
    *few(digits.train),
    test=few(digits.test),
    devices=2,
    **SETTINGS,
  )
  assert run.result['device']['count'] == 2
  with pytest.raises(ConfigError, match='Own draws random numbers, or has no'):
    srdl_jax.fit(Own(), *few(digits.train), devices=2, **SETTINGS)


def test_without_a_test_a_fifth_of_each_class_is_held_out(digits):
  images, labels = few(digits.train, 100)
  run = srdl_jax.fit(
    tiny.Tiny(10), images, labels, method='vanilla', **SETTINGS
  )
  counts = np.bincount(labels)
  assert run.result['final']['test']['examples'] == sum(counts // 5)
  assert run.result['data']['train_examples'] == 100 - sum(counts // 5)


@pytest.mark.parametrize(
  ('images', 'labels', 'more', 'message'),
  [
    (np.zeros((4, 8, 8, 1)), [0, 1, 0, 1], {}, 'images are float64'),
    (np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], {}, r'uint8 \[4, 8, 8\]'),
    (
      np.zeros((4, 8, 8, 1), np.uint8),
      [0, 1, 0],
      {},
      r'labels are int64 \[3\]',
    ),
    (np.zeros((4, 8, 8, 1), np.uint8), [0, 1, 0, -1], {}, 'from -1 to 1'),
    (np.zeros((4, 8, 8, 1), np.uint8), [0, 1, 0, 1.5], {}, 'float64'),
    (
      np.zeros((4, 8, 8, 1), np.uint8),
      [0, 1, 2, 1],
      {
        'classes': ['a', 'b'],
        'test': (np.zeros((2, 8, 8, 1), np.uint8), [0, 1]),
      },
      '2 different names of 3',
    ),
    (
      np.zeros((4, 8, 8, 1), np.uint8),
      [0, 1, 0, 1],
      {'test': (np.zeros((2, 9, 9, 1), np.uint8), [0, 1])},
      'test images are',
    ),
    (
      np.zeros((4, 8, 8, 1), np.uint8),
      [0, 1, 0, 1],
      {'test': (np.zeros((2, 8, 8, 1), np.uint8), [0, 2])},
      'from 0 to 2',
    ),
  ],
)
def test_arrays_that_do_not_fit_are_refused(images, labels, more, message):
  with pytest.raises(ConfigError, match=message):
    srdl_jax.fit(tiny.Tiny(2), images, labels, **more)


@pytest.mark.parametrize('classes', [9, 11])
def test_logits_of_other_classes_are_refused(digits, classes):
  with pytest.raises(ConfigError, match=r'logits \[1, 10\] belong'):
    srdl_jax.fit(Own(classes), *few(digits.train), **SETTINGS)


def test_what_fails_leaves_nothing_behind(digits, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  with pytest.raises(ConfigError, match='batch_size = 500'):
    srdl_jax.fit(Own(), *few(digits.train), **SETTINGS | {'batch_size': 500})
  assert not list(tmp_path.iterdir())
  assert not [n for n in (*models.MODELS, *data.DATASETS) if 'own_' in n]


def test_two_threads_train_modules_of_their_own(digits):
  found = {}

  def work(dropped):
    found[dropped] = srdl_jax.fit(
      Own(dropped=dropped),
      *few(digits.train),
      test=few(digits.test),
      method='vanilla',
      **SETTINGS,
    )

  shares = 0.0, 0.4
  threads = [threading.Thread(target=work, args=(share,)) for share in shares]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for share in shares:
    both, (images, labels) = found.pop(share), few(digits.test)
    work(share)
    alone = found[share]
    np.testing.assert_array_equal(both.predict(images), alone.predict(images))
    assert both.evaluate((images, labels)) == alone.evaluate((images, labels))


@pytest.mark.parametrize('split', ['tset', 'validation'])
def test_a_split_that_is_not_there_is_refused(run, split):
  with pytest.raises(ConfigError, match='split|no validation set'):
    run.evaluate(split=split)


def test_importing_the_package_imports_little():
  program = 'import srdl_jax, sys; print("jax" in sys.modules)'
  told = started.run([sys.executable, '-c', program], check=True)
  assert told.stdout == 'False\n'
  name = 'nothing'
  with pytest.raises(AttributeError, match=name):
    getattr(srdl_jax, name)
