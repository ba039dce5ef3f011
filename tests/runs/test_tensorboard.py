# SPDX-License-Identifier: Apache-2.0
"""TensorBoard shows each step of the record once, after resumes too."""

import json
import os
import pathlib
import signal

import numpy as np
import pytest
import started
from shown_curves import points

from srdl_jax import errors
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
