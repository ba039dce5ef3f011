# SPDX-License-Identifier: Apache-2.0
"""TensorBoard shows each step of the record once, after resumes too."""

import io
import json
import os
import pathlib
import signal

import jax
import numpy as np
import photos
import pytest
import started
import tiny
from PIL import Image
from shown_curves import points
from tensorboardX.proto import plugin_hparams_pb2

from srdl_jax import board, errors, soft_targets, srdl, steps
from srdl_jax.build import build
from srdl_jax.experiment import Purpose
from srdl_jax.feed import open_feed
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import stop_request
from srdl_jax.runs.log import RunLog
from srdl_jax.runs.tensorboard import Curves

_ROOT = pathlib.Path(__file__).parents[2]
_KILLED = """
import os, sys
from srdl_jax.runs.tensorboard import Curves
curves = Curves(sys.argv[1])
for step in range(1, 51):
  curves.add(step, {'train/loss': 1.0})
curves.flush()
os.kill(os.getpid(), 9)
"""


def _run(log, after):
  """A run from a checkpoint on; each evaluation is saved."""
  for step in (2, 4):
    if step > after:
      loss = {'loss': np.array([1 / step, 1 / (step + 1)], np.float32)}
      log.train_steps(stage=1, epoch=1, first_step=step - 1, metrics=loss)
      accuracy = {'accuracy': step / 7}
      log.evaluation(
        stage=1, epoch=1, step=step, split='test', metrics=accuracy
      )


def test_points_are_as_given(tmp_path):
  curves = Curves(tmp_path / 'tensorboard')
  curves.add(1, {'train/loss': 0.1, 'train/accuracy': 0.5})
  curves.add(2, {'test/nll': float('nan')})
  curves.close()
  *shown, last = points(tmp_path / 'tensorboard')
  assert shown == [
    ('train/loss', 1, np.float32(0.1)),
    ('train/accuracy', 1, 0.5),
  ]
  assert last[:2] == ('test/nll', 2) and np.isnan(last[2])


def test_curves_do_not_double_after_a_rewind(tmp_path):
  # Opened within one second, as a run that fails at once and is run again.
  for restored in (0, 2, 2, 4):
    with RunLog(tmp_path, total_epochs=1) as log:
      log.rewind(1, restored)
      _run(log, restored)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  record = [
    (f'{line["split"]}/{name}', line['step'], np.float32(line[name]))
    for line in map(json.loads, lines)
    for name in list(line)[4:]
  ]
  folder = tmp_path / 'tensorboard'
  assert len(os.listdir(folder)) == 3
  assert points(folder) == record and len(record) == 6


def test_evaluation_flushes(tmp_path):
  with RunLog(tmp_path, total_epochs=1) as log:
    _run(log, 2)
    assert len(points(tmp_path / 'tensorboard')) == 3


def test_kill_after_a_flush_loses_no_point(tmp_path):
  done = started.python('-c', _KILLED, tmp_path)
  assert done.returncode == -signal.SIGKILL
  assert [step for _, step, _ in points(tmp_path)] == list(range(1, 51))


def test_no_files_where_not_wanted(tmp_path):
  with RunLog(tmp_path, total_epochs=1, tensorboard=False) as log:
    log.rewind(1, 0)
    _run(log, 0)
  assert os.listdir(tmp_path) == ['metrics.jsonl']


def test_unwritable_folder_is_one_line(tmp_path):
  (tmp_path / 'tensorboard').write_text('mine')
  curves = Curves(tmp_path / 'tensorboard')
  with pytest.raises(errors.WorkdirError, match='board cannot be written'):
    curves.add(1, {'train/loss': 0.1})


# Beside the curves.


@pytest.fixture(scope='module')
def finished_run(tmp_path_factory):
  """A run of two stages, one taught by the other."""
  place = tmp_path_factory.mktemp('shown') / 'run'
  srdl.run(tiny.config(seed=3), str(place), stop_request.StopRequest())
  return place


def _shown(place, *kinds):
  return {
    tag: (step, value)
    for tag, step, value in points(place / 'tensorboard', kinds)
  }


def test_configuration_is_a_text_of_the_first_step(finished_run):
  shown = _shown(finished_run, 'tensor')
  assert set(shown) == {'configuration/text_summary'}
  step, text = shown['configuration/text_summary']
  assert step == 1
  lines = text.string_val[0].decode().splitlines()
  assert lines[0].startswith('tiny on 200 images of digits, srdl: 2 stage(s)')
  assert '| seed | `3` |' in lines and "| model.name | `'tiny'` |" in lines


def test_runs_are_compared_by_fields_and_final_accuracy(finished_run):
  told = {
    tag: plugin_hparams_pb2.HParamsPluginData.FromString(
      value.plugin_data.content
    )
    for tag, (_, value) in _shown(finished_run, None).items()
  }
  assert len(told) == 3
  begun = told['_hparams_/session_start_info'].session_start_info.hparams
  assert set(begun) == set(board.COMPARED)
  assert begun['method'].string_value == 'srdl'
  assert begun['seed'].number_value == 3
  assert begun['srdl.split'].string_value == '[1.0, 1.0]'
  experiment = told['_hparams_/experiment'].experiment
  assert [info.name.tag for info in experiment.metric_infos] == [
    'final/accuracy',
    'test/accuracy',
  ]
  result = json.loads((finished_run / 'result.json').read_text())
  curves = _shown(finished_run, 'simple_value')
  assert curves['final/accuracy'] == (
    21,
    np.float32(result['final']['test']['accuracy']),
  )
  assert curves['ensemble/accuracy'][1] == np.float32(
    result['ensemble']['test']['accuracy']
  )


def test_speed_is_a_curve_of_whole_epochs(finished_run):
  speeds = {
    step: value
    for tag, step, value in points(finished_run / 'tensorboard')
    if tag == 'speed/images_per_second'
  }
  assert set(speeds) <= {5, 10, 15, 20} and {15, 20} <= set(speeds)
  assert min(speeds.values()) > 0


@pytest.mark.parametrize('streamed', [False, True])
def test_images_are_those_of_the_first_step(tmp_path, streamed):
  # Of a second stage: its orders and keys are its own.
  config = tiny.config(method='vanilla_ensemble')
  if streamed:
    photos.write(tmp_path / 'images')
    config = photos.config(tmp_path / 'images', method='vanilla_ensemble')
  experiment = build(config)
  _, stage = experiment.stages
  shown = board.first_images(experiment, stage)
  with open_feed(experiment, stage, None, 0) as feed:
    examples = jax.tree.map(lambda x: x[0], feed.examples(0, 0, 1))
    batch = steps.gather(feed.resident, examples)
  key = stage.key(Purpose.AUGMENT, 0)
  seen = experiment.flip_and_crop(key, batch['image'], batch['view'])
  assert len(shown) == 8 and shown.dtype == np.uint8
  np.testing.assert_array_equal(shown, seen[:8])


def test_images_stand_in_a_grid(finished_run):
  shown = _shown(finished_run, 'image')
  assert {tag: step for tag, (step, _) in shown.items()} == {
    'stage_1/training_images': 1,
    'stage_2/training_images': 11,
  }
  experiment = build(tiny.config(seed=3))
  for stage in experiment.stages:
    _, image = shown[f'stage_{stage.number}/training_images']
    pixels = Image.open(io.BytesIO(image.encoded_image_string))
    grid = np.asarray(pixels.convert('L'))
    images = board.first_images(experiment, stage)[..., 0]
    height, width = images.shape[1:]
    assert grid.shape == (2 * height, 4 * width)
    np.testing.assert_array_equal(grid[:height, :width], images[0])
    np.testing.assert_array_equal(grid[height:, width : 2 * width], images[5])


def test_entropy_of_a_bank_is_a_histogram(finished_run):
  shown = _shown(finished_run, 'histo')
  assert list(shown) == ['stage_2/soft_target_entropy']
  step, found = shown['stage_2/soft_target_entropy']
  assert step == 11 and found.num == sum(found.bucket) == 200
  result = json.loads((finished_run / 'result.json').read_text())
  mean = result['stages'][0]['soft_targets']['entropy']
  assert found.sum / found.num == pytest.approx(mean, rel=1e-5)
  assert found.bucket_limit[-1] == pytest.approx(found.max)
  assert len(found.bucket) == 51 and found.max <= np.log(10) * (1 + 1e-6)


def test_entropies_of_rows_that_are_there(monkeypatch):
  uniform, sure = np.full(4, np.log(0.25)), np.log([0.97, 0.01, 0.01, 0.01])
  absent = np.full(4, np.nan)
  rows = np.stack([uniform, absent, sure, uniform]).astype(np.float16)
  bank = soft_targets.Bank(rows, 3.0, {})
  least = -(0.97 * np.log(0.97) + 0.03 * np.log(0.01))
  expected = [np.log(4), least, np.log(4)]
  np.testing.assert_allclose(board.entropies(bank), expected, rtol=1e-2)
  # Of a large one, two in three.
  monkeypatch.setattr(board, '_MOST_PROBABILITIES', 8)
  np.testing.assert_allclose(board.entropies(bank), expected[::2], rtol=1e-2)


def test_a_run_without_curves_shows_nothing(tmp_path):
  config = tiny.config(**{'log.tensorboard': False, 'method': 'vanilla'})
  srdl.run(config, str(tmp_path / 'run'), stop_request.StopRequest())
  assert not (tmp_path / 'run' / 'tensorboard').exists()
  assert (tmp_path / 'run' / run_directory.RESULT).exists()


def test_what_stays_is_not_shown_again(tmp_path):
  for restored, new in ((0, True), (0, True), (4, False)):
    with RunLog(tmp_path, total_epochs=1) as log:
      log.rewind(1, restored)
      shown = log.board(1)
      assert (shown is not None) == new
      if new:
        shown.text(1, 'a text', 'words')
      _run(log, restored)
      # A later stage's first step is still to come.
      assert log.board(5) is not None
  (kept,) = points(tmp_path / 'tensorboard', ('tensor',))
  assert kept[:2] == ('a text/text_summary', 1)
