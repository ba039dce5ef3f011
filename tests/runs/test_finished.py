# SPDX-License-Identifier: Apache-2.0
"""The reader of result.json: what it says, what it refuses, in which words."""

import pathlib

import made_runs
import pytest

from srdl_jax import main
from srdl_jax.errors import WorkdirError
from srdl_jax.runs import finished

OLD = pathlib.Path(__file__).parents[1] / 'references/runs_format_1/finished'


def test_a_run_of_the_first_version_is_read_whole():
  run = finished.read_teacher(OLD)
  assert (run.seed, run.metric, run.best_split) == (3, 'accuracy', 'validation')
  assert [stage.steps for stage in run.stages] == [10, 10]
  assert run.last_teacher is run.stages[0]
  assert run.final == run.stages[-1].test
  assert [stage['model'] for stage in run.cost.stages] == ['tiny', 'tiny']
  own = run.cost.train_seconds + run.cost.extract_seconds
  assert run.device_seconds == own > 0


def test_an_imported_teacher_is_the_same_wherever_it_lies():
  found = made_runs.result('kd')
  one = finished.parse(found).last_teacher
  found['teacher'] |= {'workdir': '/elsewhere', 'train_epoch': {}}
  other = finished.parse(found).last_teacher
  assert one == other and other.workdir == '/elsewhere'
  found['teacher']['checkpoint'] = 'd2'
  assert finished.parse(found).last_teacher != one


def test_what_tells_no_cost_of_its_stages_is_reported_but_does_not_teach(
  tmp_path,
):
  directory = tmp_path / 'run'
  made_runs.write(directory, made_runs.result())
  assert finished.read(directory).cost.stages == ()
  with pytest.raises(WorkdirError, match='not the result of a run of this'):
    finished.read_teacher(directory)


def test_a_summary_names_every_accuracy_of_a_run():
  found = made_runs.result('srdl', 7, 0.6, **{'model.name': 'tiny'})
  found['cost'] |= {'extraction_epochs': [0.5], 'extraction_share': 0.01}
  assert main.summary(found) == (
    'cifar100, tiny, srdl, seed 7: test accuracy stage 1 57.00%, final 60.00%, '
    'ensemble 62.00% (last epoch, 100 images)\n'
    'extraction of the soft targets: 1.00% of the time'
  )
