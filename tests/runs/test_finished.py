# SPDX-License-Identifier: Apache-2.0
"""The reader of result.json: what it says, what it refuses, in which words."""

import pathlib
import shutil

import made_runs
import numpy as np
import pytest
import tiny

from srdl_jax import srdl, storage
from srdl_jax.errors import WorkdirError
from srdl_jax.runs import finished as finished_lib
from srdl_jax.runs import formats
from srdl_jax.runs.stop_request import StopRequest

OLD = pathlib.Path(__file__).parents[1] / 'references/runs_format_1/finished'
SHORT = {'method': 'vanilla', 'epochs': 2, 'log.tensorboard': False}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The directory of a finished run."""
  directory = tmp_path_factory.mktemp('finished') / 'run'
  srdl.run(tiny.config(**SHORT), str(directory), StopRequest())
  return directory


def test_a_run_of_the_first_version_is_read_whole():
  run = finished_lib.read_teacher(OLD)
  assert (run.seed, run.metric, run.best_split) == (3, 'accuracy', 'validation')
  assert [stage.steps for stage in run.stages] == [10, 10]
  assert run.last_teacher is run.stages[0]
  assert run.final == run.stages[-1].test
  assert [stage['model'] for stage in run.cost.stages] == ['tiny', 'tiny']
  own = run.cost.train_seconds + run.cost.extract_seconds
  assert run.device_seconds == own > 0


def test_an_imported_teacher_is_the_same_wherever_it_lies():
  found = made_runs.result('kd')
  one = finished_lib.parse(found).last_teacher
  found['teacher'] |= {'workdir': '/elsewhere', 'train_epoch': {}}
  other = finished_lib.parse(found).last_teacher
  assert one == other and other.workdir == '/elsewhere'
  found['teacher']['checkpoint'] = 'd2'
  assert finished_lib.parse(found).last_teacher != one


def test_what_tells_no_cost_of_its_stages_is_reported_but_does_not_teach(
  tmp_path,
):
  directory = tmp_path / 'run'
  made_runs.write(directory, made_runs.result())
  assert finished_lib.read(directory).cost.stages == ()
  with pytest.raises(WorkdirError, match='not the result of a run of this'):
    finished_lib.read_teacher(directory)


def test_a_summary_names_every_accuracy_of_a_run():
  found = made_runs.result('srdl', 7, 0.6, **{'model.name': 'tiny'})
  found['cost'] |= {'extraction_epochs': [0.5], 'extraction_share': 0.01}
  assert finished_lib.parse(found).summary == (
    'cifar100, tiny, srdl, seed 7: test accuracy stage 1 57.00%, final 60.00%, '
    'ensemble 62.00% (last epoch, 100 images)\n'
    'extraction of the soft targets: 1.00% of the time'
  )


def test_a_result_belongs_to_its_directory(finished, tmp_path):
  directory = shutil.copytree(finished, tmp_path / 'run')
  assert finished_lib.read(directory).seed == 0
  other = storage.read_json(directory / 'config.json')
  other['config']['epochs'] = 9
  storage.write_json(directory / 'config.json', other)
  with pytest.raises(WorkdirError, match='another run .* differs in epochs'):
    finished_lib.load(directory)
  other['config']['epochs'] = 2
  other['fingerprint'] = 'f' * 64
  storage.write_json(directory / 'config.json', other)
  with pytest.raises(WorkdirError, match='it differs in the data'):
    finished_lib.load(directory)
  # What leaves the numbers alone may differ.
  shutil.copy(finished / 'config.json', directory)
  other = storage.read_json(directory / 'config.json')
  other['config']['eval.batch_size'] = 7
  storage.write_json(directory / 'config.json', other)
  assert finished_lib.load(directory)


def test_no_flipped_bit_of_a_result_is_read(finished, tmp_path):
  directory = shutil.copytree(finished, tmp_path / 'run')
  path = directory / 'result.json'
  whole, expected = path.read_bytes(), finished_lib.load(finished)
  rng = np.random.default_rng(0)
  for place in rng.integers(len(whole) * 8, size=300).tolist():
    flipped = bytearray(whole)
    flipped[place // 8] ^= 1 << place % 8
    path.write_bytes(flipped)
    try:
      # A blank may have become another one.
      assert finished_lib.load(directory) == expected
    except WorkdirError as error:
      assert '\n' not in str(error)


def test_a_result_without_its_seal_is_refused(finished, tmp_path):
  directory = shutil.copytree(finished, tmp_path / 'run')
  found = storage.read_json(directory / 'result.json')
  assert found.pop('digest') and found['format'] == formats.FORMAT
  storage.write_json(directory / 'result.json', found)
  with pytest.raises(WorkdirError, match='is damaged: its content is not'):
    finished_lib.load(directory)


def test_repeating_the_command_prints_no_other_runs_result(finished, tmp_path):
  one = shutil.copytree(finished, tmp_path / 'one')
  two = tmp_path / 'two'
  srdl.run(tiny.config(**SHORT, seed=1), str(two), StopRequest())
  shutil.copy(two / 'result.json', one)
  with pytest.raises(WorkdirError, match='another run .* it differs in seed'):
    srdl.run(tiny.config(**SHORT), str(one), StopRequest())
