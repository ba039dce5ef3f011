# SPDX-License-Identifier: Apache-2.0
"""model.json: a run's networks without their data."""

import json
import shutil

import jax
import numpy as np
import photos
import pytest
import tiny

from srdl_jax import artefact, srdl, trained
from srdl_jax.errors import CheckpointError, DataError, WorkdirError
from srdl_jax.runs import formats, stop_request


@pytest.fixture(scope='module')
def trained_on(tmp_path_factory):
  """A folder of photos, and a run on them."""
  place = tmp_path_factory.mktemp('photos')
  photos.write(place / 'images')
  config = photos.config(place / 'images')
  srdl.run(config, str(place / 'run'), stop_request.StopRequest())
  return place


@pytest.fixture
def moved(trained_on, tmp_path):
  """A copy of the run, of which the images are elsewhere."""
  shutil.copytree(trained_on / 'run', tmp_path / 'run')
  path = tmp_path / 'run' / 'config.json'
  record = json.loads(path.read_text())
  record['config']['data.path'] = str(tmp_path / 'gone')
  path.write_text(json.dumps(record))
  return tmp_path / 'run'


def test_it_says_what_networks_see_and_say(trained_on):
  found = artefact.read(trained_on / 'run')
  assert found.classes == photos.CLASSES and found.words == ()
  assert found.image_shape == (photos.SIZE, photos.SIZE, 3)
  # 256 for 224, as is usual.
  assert found.resize == round(photos.SIZE * 256 / 224)
  assert [its['model'] for its in found.networks] == ['tiny', 'tiny']
  built = trained.open_run(trained_on / 'run', None)
  assert found == built.artefact
  assert found.data['train_examples'] == len(built.train_rows)


@pytest.mark.parametrize('name', ['final', 'best', 'stage_1', 'ensemble'])
def test_networks_are_opened_without_the_data(trained_on, moved, name):
  with pytest.raises(DataError, match='there is no folder'):
    trained.open_run(moved, None)
  built = trained.open_run(trained_on / 'run', None)
  expected = trained.load_members(trained_on / 'run', name, built)
  opened = trained.open_networks(moved)
  found = trained.load_members(moved, name, opened)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  images = built.dataset.test.images[:4]
  for number, variables in found.items():
    for one, two in zip(
      opened.stages[number - 1].network.predict(
        variables, images, np.arange(4), 4
      ),
      built.stages[number - 1].network.predict(
        variables, images, np.arange(4), 4
      ),
      strict=True,
    ):
      np.testing.assert_array_equal(one[1], two[1])


def test_a_mean_of_parameters_is_found_without_the_data(tmp_path):
  fields = {'method': 'ema', 'epochs': 2, 'ema.decay': 0.5}
  config = tiny.config(**fields)
  srdl.run(config, str(tmp_path), stop_request.StopRequest())
  opened = trained.open_networks(tmp_path)
  (found,) = trained.load_members(tmp_path, 'final', opened).values()
  end = tiny.end_of(tmp_path, 1, opened.stages[0].end_step)
  difference = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), found['params'], end.state['params']
  )
  assert max(jax.tree.leaves(difference)) > 0
  jax.tree.map(np.testing.assert_array_equal, found, end.state['memory'])


def test_a_teachers_network_is_another(tmp_path):
  fields = {
    'method': 'kd',
    'epochs': 1,
    'teacher.model': 'resnet8',
    'data.classes': 4,
  }
  config = tiny.config(**fields)
  srdl.run(config, str(tmp_path), stop_request.StopRequest())
  opened = trained.open_networks(tmp_path)
  assert [s.network.name for s in opened.stages] == ['resnet8', 'tiny']
  assert opened.artefact.classes == ('0', '1', '2', '3')
  assert trained.load_members(tmp_path, 'ensemble', opened).keys() == {1, 2}


def test_an_older_run_is_told_by_its_data(trained_on, tmp_path):
  shutil.copytree(trained_on / 'run', tmp_path / 'run')
  (tmp_path / 'run' / artefact.FILE).unlink()
  opened = trained.open_networks(tmp_path / 'run')
  assert opened.artefact == artefact.read(trained_on / 'run')


def test_a_damaged_record_is_refused(moved):
  path = moved / artefact.FILE
  path.write_text(path.read_text().replace('grass', 'Gras'))
  with pytest.raises(WorkdirError, match=r'model.json is damaged'):
    trained.open_networks(moved)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    *(('task', 'dream'), ('task', ['classification']), ('resize', None)),
    *(('image_shape', 8), ('image_shape', [8, 8]), ('image_shape', [8, 8, -1])),
    *(('mean', [0.5, 'x', 0.5]), ('mean', [0.5]), ('std', {})),
    *(('classes', []), ('classes', 'abc'), ('words', ['one']), ('words', {})),
    *(('networks', [3]), ('data', []), ('data', {'name': 'x'})),
  ],
)
def test_a_record_of_another_shape_is_refused(moved, name, value):
  record = json.loads((moved / artefact.FILE).read_text()) | {name: value}
  # Sealed as if by the program, or by an earlier one that had no seals.
  for sealed in (True, False):
    bare = {k: v for k, v in record.items() if k not in ('digest', 'format')}
    record = formats.sealed(bare) if sealed else bare
    (moved / artefact.FILE).write_text(json.dumps(record))
    with pytest.raises(WorkdirError, match=f'a network: its {name} can not be'):
      trained.open_networks(moved)


def test_a_directory_wins_over_the_name_of_a_checkpoint(tmp_path):
  for name in ('a', 'b:final', 'c', 'c:best'):
    (tmp_path / name).mkdir()
  given = [f'{tmp_path}/{n}' for n in ('a:stage_1', 'b:final', 'c', 'c:best')]
  assert trained.chosen(given, 'ensemble') == {
    tmp_path / 'a': 'stage_1',
    tmp_path / 'b:final': 'ensemble',
    tmp_path / 'c': 'ensemble',
    tmp_path / 'c:best': 'ensemble',
  }


def test_the_record_of_another_run_is_refused(moved):
  found = artefact.read(moved)
  found.data['fingerprint'] = 'f' * 64
  artefact.write(moved, found)
  with pytest.raises(CheckpointError, match='model.json is of another run'):
    trained.open_networks(moved)


def test_a_half_done_run_has_it(tmp_path):
  """It is written before the first step."""
  stop = stop_request.StopRequest()
  stop.signal_name = 'SIGTERM'
  with pytest.raises(Exception, match='SIGTERM'):
    srdl.run(tiny.config(), str(tmp_path), stop)
  assert artefact.read(tmp_path).classes == tuple('0123456789')
