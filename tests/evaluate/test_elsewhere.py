# SPDX-License-Identifier: Apache-2.0
"""Evaluation on other images than a run's, and what is behind its metrics."""

import csv
import functools
import json
import pathlib
import shutil

import numpy as np
import photos
import pytest
import started
from PIL import Image

from srdl_jax import data, evaluate, srdl, trained
from srdl_jax.data import labelled
from srdl_jax.errors import DataError
from srdl_jax.evaluate import details
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import stop_request


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """new/<class>/<n>.png, and a run whose images are gone."""
  return photos.train_and_remove(tmp_path_factory.mktemp('elsewhere'))


def _metrics(place, folder):
  opened = trained.open_networks(place / 'run')
  found = labelled.read(str(folder), opened.artefact.classes)
  variables = trained.load_members(place / 'run', 'final', opened)
  members = opened.members(variables, found.records, found.labels)
  return evaluate.classify(members)


def test_labels_are_found_by_the_names_of_classes(place, tmp_path):
  """Not by the order of the folders that happen to be there."""
  alone = tmp_path / 'alone'
  shutil.copytree(place / 'new' / 'sky', alone / 'sky')
  found = labelled.read(str(alone), photos.CLASSES)
  assert set(found.labels) == {2} and len(found.records) == 4
  shares = [
    _metrics(place, _only(place, tmp_path / name, name))['accuracy']
    for name in photos.CLASSES
  ]
  whole = _metrics(place, place / 'new')
  assert whole['examples'] == 12
  np.testing.assert_allclose(whole['accuracy'], np.mean(shares))
  assert whole['accuracy'] > 0.6


def _only(place, folder, name):
  shutil.copytree(place / 'new' / name, folder / name)
  return folder


@pytest.mark.parametrize('name', ['test', 'val', 'Valid', 'dev'])
def test_a_folder_of_splits_is_tested_on_its_test(place, tmp_path, name):
  shutil.copytree(place / 'new', tmp_path / name)
  (tmp_path / 'train' / 'sky').mkdir(parents=True)
  assert _metrics(place, tmp_path) == _metrics(place, place / 'new')


def test_what_is_wrong_with_a_folder_is_told(place, tmp_path):
  for none in ('none', 'a' * 300):
    with pytest.raises(DataError, match='there is no such folder'):
      labelled.read(str(tmp_path / none), photos.CLASSES)
  with pytest.raises(DataError, match='there are no images'):
    labelled.read(str(tmp_path), photos.CLASSES)
  _only(place, tmp_path / 'a', 'sky')
  (tmp_path / 'a' / 'sky').rename(tmp_path / 'a' / 'Sky')
  with pytest.raises(DataError, match='no class Sky; it knows brick, grass'):
    labelled.read(str(tmp_path / 'a'), photos.CLASSES)
  _only(place, tmp_path / 'b', 'sky')
  (tmp_path / 'b' / 'sky' / 'bad.png').write_bytes(b'')
  with pytest.raises(DataError, match='sky/bad.png'):
    labelled.read(str(tmp_path / 'b'), photos.CLASSES)
  (tmp_path / 'b' / 'grass').symlink_to('/nowhere')
  with pytest.raises(DataError, match='grass .a broken link to /nowhere'):
    labelled.read(str(tmp_path / 'b'), photos.CLASSES)


def test_details_agree_with_the_metrics(place, tmp_path):
  call = ['-m', 'srdl_jax.evaluate', f'--workdir={place / "run"}']
  call.append('--import=tiny')
  # One of them is called what it isn't.
  images = pathlib.Path(shutil.copytree(place / 'new', tmp_path / 'new'))
  (images / 'sky' / '0.png').rename(images / 'brick' / 'sky.png')
  call += [f'--data={images}', f'--details={tmp_path / "details"}']
  told = started.python(*call, check=True, cwd=started.ROOT / 'tests')
  found = json.loads(told.stdout)
  assert found['data'] == str(images) and found['examples'] == 12

  def lines(name):
    text = (tmp_path / 'details' / name).read_text()
    return list(csv.DictReader(text.splitlines()))

  predictions = lines('predictions.csv')
  right = [line['label'] == line['predicted'] for line in predictions]
  assert np.mean(right) == pytest.approx(found['accuracy'])
  own = [float(line['of_label']) for line in predictions]
  assert -np.mean(np.log(own)) == pytest.approx(found['nll'], rel=1e-4)
  # An image's name leads to its label.
  assert all(p['image'].split('/')[-2] == p['label'] for p in predictions)
  confusion = lines('confusion.csv')
  for line in confusion:
    named = [p['predicted'] for p in predictions if p['label'] == line['label']]
    assert all(int(line[n]) == named.count(n) for n in photos.CLASSES)
  # Else rows and columns could be one for the other.
  assert not all(right)
  for line in lines('per_class.csv'):
    named = [p for p in predictions if p['label'] == line['class']]
    assert int(line['images']) == len(named)
    share = np.mean([p['predicted'] == p['label'] for p in named])
    assert float(line['accuracy']) == pytest.approx(share)
  for name in ('confusion', 'reliability', 'worst'):
    with Image.open(tmp_path / 'details' / f'{name}.png') as picture:
      assert min(picture.size) > 300


def test_the_worst_images_are_those_of_least_probability():
  pixels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
  split = data.Split('test', pixels, np.array([0, 1, 0, 1]), '')
  found = details.Details(split, ['a', 'b'])
  shares = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
  found.add(np.arange(4), np.log(shares))
  rows, labels, said, confidence, own = found.worst(2)
  assert rows.tolist() == [2, 1] and labels.tolist() == [0, 1]
  assert said.tolist() == [1, 0]
  np.testing.assert_allclose(confidence, [0.8, 0.6], rtol=1e-6)
  np.testing.assert_allclose(own, [0.2, 0.4], rtol=1e-6)


def test_a_table_is_for_terminals(place):
  from srdl_jax.evaluate import __main__ as command

  text = command.table({'accuracy': 0.5, 'nll': 1.25, 'examples': 1200})
  assert text.split('\n') == [
    'accuracy                      50.00%',
    'negative log-likelihood       1.2500 nats',
    'images                        1,200',
  ]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--data=none'], 'there is no such folder'),
    (['--data=x', '--split=train'], '--data goes without --split'),
    (['--data=x', '--re_rank'], '--data goes without --re_rank'),
    (['--data=tfds:nothing', '--data_dir=none'], 'nothing is not in none'),
  ],
)
def test_bad_command_lines_are_one_line(place, arguments, message):
  call = ['-m', 'srdl_jax.evaluate', f'--workdir={place / "run"}']
  call.append('--import=tiny')
  told = started.python(*call, *arguments, cwd=started.ROOT / 'tests')
  assert told.returncode in (2, 3) and message in told.stderr
  assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize(
  ('name', 'below', 'test'),
  [
    ('folder', '', 'Val'),
    ('imagenet', 'ILSVRC/Data/CLS-LOC', 'validation'),
  ],
)
def test_a_test_is_evaluated_when_what_trained_is_gone(
  tmp_path, name, below, test
):
  root = tmp_path / 'images' / below
  photos.write(root / 'train')
  photos.write(root / test, count=4, seed=1)
  config = photos.config(tmp_path / 'images', epochs=2)
  config.data.name = name
  # Of ImageNet's counts.
  config.data.allow_differences = True
  run = str(tmp_path / 'run')
  result = srdl.run(config, run, stop_request.StopRequest())
  call = ['-m', 'srdl_jax.evaluate', f'--workdir={run}', '--import=tiny']
  ask = functools.partial(started.python, *call, cwd=started.ROOT / 'tests')
  shutil.rmtree(root / 'train')
  told = ask()
  found = json.loads(told.stdout)
  assert found.pop('data') == str(root / test)
  assert 'the test was read alone' in told.stderr
  for name, value in result['final']['test'].items():
    assert found[name] == pytest.approx(value, rel=1e-5)
  told = ask('--re_rank')
  assert told.returncode == 2 and 'rank a gallery' in told.stderr
  told = ask('--split=train')
  assert told.returncode == 3 and '--data=FOLDER' in told.stderr
  # Without folders they aren't labelled; what is wrong with the run's data is.
  for path in root.glob(f'{test}/*/*'):
    path.rename(root / test / f'{path.parent.name}_{path.name}')
    if not any(path.parent.iterdir()):
      path.parent.rmdir()
  told = ask()
  assert told.returncode == 3 and '--data=FOLDER' in told.stderr


@pytest.mark.parametrize(
  ('name', 'field'), [('cifar10', 'data_dir'), ('imagenet', 'path')]
)
def test_data_dir_says_where_the_data_of_a_run_is_now(
  place, monkeypatch, name, field
):
  """What is prepared isn't looked for in the place of a copy."""
  identity = run_directory.load_identity(place / 'run')
  identity.config.data.update(name=name, path='copy', data_dir='tfds')
  monkeypatch.setattr(run_directory, 'load_identity', lambda _: identity)
  asked = []

  def build_(config, **_):
    asked.append(config.data)
    raise DataError('enough')

  monkeypatch.setattr(trained.build, 'build', build_)
  with pytest.raises(DataError, match='enough'):
    trained.open_run(place / 'run', 'there')
  (found,) = asked
  expected = {'path': 'copy', 'data_dir': 'tfds', field: 'there'}
  assert {name: found[name] for name in expected} == expected
