# SPDX-License-Identifier: Apache-2.0
"""Runs that earlier versions left: see references/runs_format_1/make.sh."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tiny

from srdl_jax import evaluate, report, srdl, storage, trained
from srdl_jax.errors import WorkdirError
from srdl_jax.report import rows
from srdl_jax.runs import stop_request

RUNS = pathlib.Path(__file__).parents[1] / 'references' / 'runs_format_1'
# What make.sh gives.
FIELDS = {
  'seed': 3,
  'distillation.temperature': 2.0,
  'optimiser.weight_decay': 5e-4,
  'data.holdout': 100,
  'log.tensorboard': False,
}


def run(directory, **fields):
  return srdl.run(
    tiny.config(**{**FIELDS, **fields}),
    str(directory),
    stop_request.StopRequest(),
  )


@pytest.fixture
def copy_of(tmp_path):
  def copied(name: str) -> pathlib.Path:
    shutil.copytree(RUNS / name, tmp_path / name)
    return tmp_path / name

  return copied


def content(directory):
  return {
    path.relative_to(directory): path.read_bytes()
    for path in directory.rglob('*')
    if path.is_file() and path.name != '.lock'
  }


def assert_close(found, expected):
  """Compares metrics by name, across versions of the libraries."""
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    if isinstance(value, str):
      assert found[name] == value
    else:
      np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


def _saved_steps(folder):
  return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


@pytest.mark.parametrize('checkpoint', ['stage_1', 'final', 'best'])
def test_a_finished_run_evaluates_to_what_it_found(copy_of, checkpoint):
  directory = copy_of('finished')
  experiment = trained.open_run(directory, None)
  members = trained.load_members(directory, checkpoint, experiment)
  result = storage.read_json(directory / 'result.json')
  if checkpoint == 'best':
    found = evaluate.evaluate([(experiment, members)], 'validation')
    best = result['best']
    place = ('split', 'stage', 'epoch', 'step')
    expected = {n: v for n, v in best.items() if n not in place}
  else:
    found = evaluate.evaluate([(experiment, members)], 'test')
    number = {'stage_1': 0, 'final': 1}[checkpoint]
    expected = result['stages'][number]['test']
  assert_close(found, expected)


def test_a_finished_run_is_left_as_it_is(copy_of):
  directory = copy_of('finished')
  before = content(directory)
  result = run(directory)
  assert result == json.loads(before[pathlib.Path('result.json')])
  assert content(directory) == before


def test_a_finished_run_is_reported(copy_of, tmp_path):
  found = rows.read([str(copy_of('finished'))])
  (row,) = found.rows
  assert not found.left_out
  result = storage.read_json(RUNS / 'finished' / 'result.json')
  accuracy = result['final']['test']['accuracy']
  assert row.values('accuracy') == {3: accuracy}
  out = tmp_path / 'report.md'
  report.write(str(out), found)
  assert f'{100 * accuracy:.2f}' in out.read_text()


def test_a_finished_run_teaches(copy_of, tmp_path):
  directory = copy_of('finished')
  fields = {'method': 'kd', 'teacher.workdir': str(directory), 'epochs': 1}
  result = run(tmp_path / 'student', **fields)
  assert result['teacher']['seed'] == 3
  assert result['teacher']['train']['accuracy'] > 0.2
  assert result['stages'][0]['train_epoch']['imitation'] > 0
  assert (directory / 'stage_2' / 'soft_targets' / 'COMPLETE').exists()


def test_a_half_done_run_goes_on_to_its_end(copy_of, capfd):
  directory = copy_of('half_done')
  before = content(directory)
  result = run(directory)
  told = capfd.readouterr().err
  assert 'Stage 1 is finished.' in told
  newest = max(_saved_steps(RUNS / 'half_done' / 'stage_2' / 'checkpoints'))
  assert 10 < newest < 20 and f'Stage 2 goes on from step {newest}.' in told
  finished = RUNS / 'finished'
  expected = [
    json.loads(line)
    for line in (finished / 'metrics.jsonl').read_text().splitlines()
  ]
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == len(expected)
  for line, theirs in zip(lines, expected, strict=True):
    assert_close(json.loads(line), theirs)
  known = storage.read_json(finished / 'result.json')
  assert_close(result['final']['test'], known['final']['test'])
  # What stage one left is read, not made again.
  for path, old in before.items():
    if path.parts[0] == 'stage_1':
      assert (directory / path).read_bytes() == old


def test_a_half_done_run_of_other_numbers_is_refused(copy_of):
  directory = copy_of('half_done')
  before = content(directory)
  with pytest.raises(
    WorkdirError, match=r'distillation.temperature \(2.0 there'
  ):
    run(directory, **{'distillation.temperature': 3.0})
  assert content(directory) == before
