# SPDX-License-Identifier: Apache-2.0
"""From ImageNet's archives, or a folder of images, to an evaluated network."""

import json
import pathlib
import sys

import made_imagenet
import pytest
import started
import tiny

from srdl_jax import evaluate, srdl, trained
from srdl_jax.errors import ConfigError
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished, stop_request

ROOT = pathlib.Path(__file__).parents[2]
LARGE = {
  'data.examples_per_class': 0,
  'data.image_size': 32,
  'augment.padding': 0,
  'optimiser.learning_rate': 0.02,
  'log.tensorboard': False,
}


def run(directory, **fields):
  return srdl.run(
    tiny.config(**{**LARGE, **fields}),
    str(directory),
    stop_request.StopRequest(),
  )


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A TFDS directory of 240 and 40 real images in four classes."""
  root = tmp_path_factory.mktemp('imagenet')
  made_imagenet.make(root)
  command = [sys.executable, '-m', 'srdl_jax.data.prepare', 'imagenet2012']
  started.run(
    [
      *command,
      f'--manual_dir={root}',
      f'--data_dir={root}/tfds',
      '--allow_other_counts',
    ],
    cwd=ROOT,
    check=True,
  )
  return {'data.name': 'imagenet', 'data.data_dir': str(root / 'tfds')}


@pytest.mark.slow
def test_archives_to_an_evaluated_network(prepared, tmp_path, capsys):
  found = run(tmp_path, **prepared, epochs=24)
  # A quarter is chance. What is said at the end is what was found.
  assert found['final']['test']['accuracy'] > 0.5
  assert found['final']['test']['examples'] == 40
  accuracy = found['final']['test']['accuracy']
  assert f'{accuracy:.2%}' in finished.parse(found).summary
  assert run_directory.soft_targets(tmp_path, 1).is_dir()
  # Stage two learnt from the targets of its own images: it nears them.
  imitation = [
    line['imitation']
    for line in tiny.lines(tmp_path, 'train')
    if line['stage'] == 2
  ]
  assert imitation[-1] < 0.5 * imitation[0]
  experiment = trained.open_run(tmp_path, None)
  for name in ('final', 'ensemble'):
    members = trained.load_members(tmp_path, name, experiment)
    metrics = evaluate.evaluate([(experiment, members)], 'test')
    assert metrics['accuracy'] == found[name]['test']['accuracy']


@pytest.mark.slow
def test_views_of_streamed_images_make_their_own_bank(prepared, tmp_path):
  found = run(tmp_path, **prepared, epochs=2, **{'distillation.views': 2})
  bank = run_directory.soft_targets(tmp_path, 1, 2)
  attributes = json.loads((bank / 'log_probs/zarr.json').read_text())
  views = attributes['attributes']['provenance']['views']
  assert views['count'] == 2 and views['least_area'] == 0.08
  assert found['stages'][0]['soft_targets']['entropy'] > 0


def test_an_online_teacher_sees_the_streamed_crops(prepared, tmp_path):
  found = run(tmp_path, **prepared, epochs=2, **{'distillation.online': True})
  assert not run_directory.soft_targets(tmp_path, 1).exists()
  assert found['stages'][1]['train_epoch']['imitation'] > 0


@pytest.mark.slow
def test_several_steps_a_dispatch_are_as_many_steps(prepared, tmp_path):
  one = run(tmp_path / 'one', **prepared, epochs=2)
  two = run(tmp_path / 'two', **prepared, epochs=2, steps_per_dispatch=4)
  losses = [
    [line['loss'] for line in tiny.lines(tmp_path / name, 'train')]
    for name in ('one', 'two')
  ]
  assert len(losses[0]) == 12
  assert losses[1][:6] == pytest.approx(losses[0][:6], rel=1e-4)
  assert one['stages'][0]['steps'] == two['stages'][0]['steps'] == 6


def test_padding_is_refused_where_images_are_cropped(prepared, tmp_path):
  with pytest.raises(ConfigError, match='augment.padding = 1, but images of'):
    run(tmp_path, **prepared, **{'augment.padding': 1})


def test_a_size_is_refused_where_images_have_their_own(tmp_path):
  with pytest.raises(ConfigError, match='data.image_size = 32, but images of'):
    run(tmp_path)
