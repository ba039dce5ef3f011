# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl holds every step once; the bar and TensorBoard follow it."""

import io
import json
import os
import pathlib
import signal

import jax
import numpy as np
import pytest
import started

from srdl_jax import errors
from srdl_jax.runs.log import RunLog

_ROOT = pathlib.Path(__file__).parents[2]
_KILLED = """
import os, sys
import numpy as np
from srdl_jax.runs.log import RunLog
log = RunLog(sys.argv[1], total_epochs=1)
log.train_steps(stage=1, epoch=1, first_step=1, metrics={'loss': np.ones(50)})
log.evaluation(stage=1, epoch=1, step=50, split='test', metrics={'a': 1})
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def open_log(tmp_path):
  """Opens logs of one run directory, without TensorBoard unless told so."""
  logs = []

  def opened(**options):
    defaults = {
      'total_epochs': 4,
      'tensorboard': False,
      'stream': io.StringIO(),
    }
    logs.append(RunLog(tmp_path, **defaults | options))
    return logs[-1]

  yield opened
  for log in logs:
    log.close()


def _lines(folder):
  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  text = (folder / 'metrics.jsonl').read_text()
  assert text == '' or text.endswith('\n')
  return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def _train(log, first, last, stage=1):
  steps = np.arange(first, last + 1)
  metrics = {'loss': np.reciprocal(1.0 + steps).astype(np.float32)}
  log.train_steps(stage=stage, epoch=1, first_step=first, metrics=metrics)


def _evaluate(log, step, stage=1, split='test', **metrics):
  metrics = metrics or {'accuracy': step / 7}
  log.evaluation(stage=stage, epoch=1, step=step, split=split, metrics=metrics)


def test_one_line_a_step_with_keys_in_order(tmp_path, open_log):
  log = open_log()
  metrics = {
    'loss': np.array([0.5, 0.25], np.float32),
    'correct': np.array([3, 4], np.int32),
  }
  log.train_steps(stage=1, epoch=2, first_step=7, metrics=metrics)
  log.evaluation(
    stage=1, epoch=2, step=8, split='test', metrics={'z': 1, 'a': 0.5}
  )
  assert (tmp_path / 'metrics.jsonl').read_text() == (
    '{"stage": 1, "epoch": 2, "step": 7, "split": "train",'
    ' "loss": 0.5, "correct": 3}\n'
    '{"stage": 1, "epoch": 2, "step": 8, "split": "train",'
    ' "loss": 0.25, "correct": 4}\n'
    '{"stage": 1, "epoch": 2, "step": 8, "split": "test",'
    ' "z": 1, "a": 0.5}\n'
  )


def test_float32_values_round_trip(tmp_path, open_log):
  bits = np.random.default_rng(0).integers(0, 2**32, 3000, np.uint32)
  values = bits.view(np.float32)
  values = np.where(np.isfinite(values), values, np.float32(0.1))
  open_log().train_steps(
    stage=1, epoch=1, first_step=1, metrics={'loss': values}
  )
  read = np.array([line['loss'] for line in _lines(tmp_path)], np.float32)
  np.testing.assert_array_equal(read.view(np.uint32), values.view(np.uint32))


def test_what_is_not_finite_is_a_string(tmp_path, open_log):
  log = open_log()
  values = np.array([np.nan, np.inf, -np.inf], np.float32)
  log.train_steps(stage=1, epoch=1, first_step=1, metrics={'loss': values})
  _evaluate(log, 3, nll=float('nan'), n=np.int64(4), a=np.float32(0.1))
  *train, test = _lines(tmp_path)
  assert [line['loss'] for line in train] == ['nan', 'inf', '-inf']
  assert (test['nll'], test['n']) == ('nan', 4)
  assert np.float32(test['a']) == np.float32(0.1)


def test_jax_scalars_and_arrays_are_taken(tmp_path, open_log):
  log = open_log()
  values = jax.numpy.arange(2, dtype=jax.numpy.bfloat16)
  log.train_steps(stage=1, epoch=1, first_step=1, metrics={'loss': values})
  _evaluate(log, 2, loss=jax.numpy.float32(0.1))
  assert [line['loss'] for line in _lines(tmp_path)] == [
    0.0,
    1.0,
    float(np.float32(0.1)),
  ]


@pytest.mark.parametrize(
  ('every', 'recorded'),
  [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6]), (7, [7]), (8, [])],
)
def test_every_steps_goes_by_the_global_step(
  tmp_path, open_log, every, recorded
):
  log = open_log(every_steps=every)
  _train(log, 1, 4)
  _train(log, 5, 7)
  _evaluate(log, 7)
  lines = _lines(tmp_path)
  assert [line['step'] for line in lines[:-1]] == recorded
  assert lines[-1]['split'] == 'test'


@pytest.mark.parametrize(
  ('stage', 'step', 'gone'),
  [
    (1, 0, slice(0, 6)),
    (1, 1, slice(1, 6)),
    (1, 2, slice(3, 6)),
    (1, 4, slice(0, 0)),
    (2, 3, slice(6, 10)),
    (2, 4, slice(7, 10)),
    (2, 5, slice(8, 10)),
    (2, 6, slice(0, 0)),
    (2, 99, slice(0, 0)),
  ],
)
def test_rewind_keeps_what_the_checkpoint_knew(
  tmp_path, open_log, stage, step, gone
):
  log = open_log()
  for first in (1, 3):
    _train(log, first, first + 1)
    _evaluate(log, first + 1)
  # The second stage's fresh network, before its first step.
  _evaluate(log, 4, stage=2)
  _train(log, 5, 6, stage=2)
  _evaluate(log, 6, stage=2)
  places = [(n['stage'], n['step'], n['split']) for n in _lines(tmp_path)]
  assert len(places) == 10
  open_log().rewind(stage, step)
  found = [(n['stage'], n['step'], n['split']) for n in _lines(tmp_path)]
  del places[gone]
  assert found == places


def _run(log, after):
  """A run of two stages from a checkpoint on; each evaluation is saved."""
  for stage, steps in ((1, (2, 4)), (2, (6, 8))):
    for step in steps:
      if step > after:
        _train(log, step - 1, step, stage)
        _evaluate(log, step, stage)


def test_every_kill_leaves_the_record_of_an_uninterrupted_run(
  tmp_path, open_log
):
  path = tmp_path / 'metrics.jsonl'
  _run(open_log(), 0)
  whole = path.read_bytes()
  ends = [i for i, byte in enumerate(whole) if byte == ord('\n')]
  beside = {end + shift for end in ends for shift in (-1, 0, 1)}
  for length in sorted(beside | {*range(0, len(whole), 7)}):
    path.write_bytes(whole[:length])
    # A checkpoint follows its evaluation, and there are 3 lines to 2 steps.
    after = whole[:length].count(b'\n') // 3 * 2
    log = open_log()
    log.rewind(1, min(after, 4))
    log.rewind(2, max(after, 4))
    _run(log, after)
    assert path.read_bytes() == whole, length


@pytest.mark.parametrize('cut', [1, 2, 20, 60])
def test_half_line_is_dropped_without_a_rewind_too(tmp_path, open_log, cut):
  path = tmp_path / 'metrics.jsonl'
  _train(open_log(), 1, 2)
  whole = path.read_bytes()
  path.write_bytes(whole[:-cut])
  _evaluate(open_log(), 2)
  # A line that lacks nothing but its end is whole.
  train = [1, 2] if cut == 1 else [1]
  assert [line['step'] for line in _lines(tmp_path)] == [*train, 2]


def test_evaluation_at_the_restored_step_is_not_doubled(tmp_path, open_log):
  log = open_log()
  _train(log, 1, 2)
  _evaluate(log, 2)
  again = open_log()
  again.rewind(1, 2)
  _evaluate(again, 2)
  _evaluate(again, 2, split='train_clean')
  _evaluate(again, 2, ece=0.5)
  assert [tuple(line)[-1] for line in _lines(tmp_path)] == [
    'loss',
    'loss',
    'accuracy',
    'accuracy',
    'ece',
  ]


def test_rewind_leaves_a_right_record_untouched(tmp_path, open_log):
  _train(open_log(), 1, 2)
  before = (tmp_path / 'metrics.jsonl').stat()
  open_log().rewind(1, 2)
  assert (tmp_path / 'metrics.jsonl').stat() == before
  open_log().rewind(1, 1)
  assert (tmp_path / 'metrics.jsonl').stat().st_ino != before.st_ino
  assert os.listdir(tmp_path) == ['metrics.jsonl']


def test_rewind_before_the_first_line(tmp_path, open_log):
  log = open_log()
  log.rewind(1, 0)
  _train(log, 1, 1)
  assert [line['step'] for line in _lines(tmp_path)] == [1]


@pytest.mark.parametrize(
  'bad', [b'{"stage": 1, "st\n', b'\n', b'[1]\n', b'{"stage": 1}\n', b'\0\n']
)
def test_damage_before_the_last_line_is_refused(tmp_path, open_log, bad):
  path = tmp_path / 'metrics.jsonl'
  _train(open_log(), 1, 3)
  lines = path.read_bytes().splitlines(keepends=True)
  lines[1] = bad
  path.write_bytes(b''.join(lines))
  with pytest.raises(errors.WorkdirError, match='damaged in line 2'):
    open_log().rewind(1, 1)
  assert path.read_bytes() == b''.join(lines)


def test_recorded_step_is_refused(tmp_path, open_log):
  _train(open_log(), 1, 3)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  for first in (0, 1, 3):
    with pytest.raises(ValueError, match=f'step {first} is recorded'):
      _train(open_log(), first, 5)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  log = open_log()
  log.rewind(1, 2)
  with pytest.raises(ValueError, match='the last one is 2'):
    _train(log, 2, 3)
  _train(log, 3, 3)
  with pytest.raises(ValueError, match='the last one is 3'):
    _train(log, 3, 3)


@pytest.mark.parametrize(
  'metrics',
  [
    {},
    {'loss': np.float32(1)},
    {'loss': np.ones((2, 2))},
    {'loss': np.ones(2), 'accuracy': np.ones(3)},
    {'loss': np.ones(2), 'step': np.ones(2)},
  ],
  ids=['none', 'scalar', 'two axes', 'two lengths', 'name of a column'],
)
def test_wrong_train_metrics_write_nothing(tmp_path, open_log, metrics):
  with pytest.raises(ValueError):
    open_log().train_steps(stage=1, epoch=1, first_step=1, metrics=metrics)
  assert os.listdir(tmp_path) == []


def test_unwritable_record_is_one_line(tmp_path, open_log):
  (tmp_path / 'metrics.jsonl').mkdir()
  with pytest.raises(errors.WorkdirError, match=r'jsonl cannot be .*directory'):
    _train(open_log(), 1, 1)


def test_kill_loses_no_line(tmp_path):
  done = started.python('-c', _KILLED, tmp_path)
  assert done.returncode == -signal.SIGKILL
  assert [line['step'] for line in _lines(tmp_path)] == [*range(1, 51), 50]


def test_other_processes_write_and_say_nothing(tmp_path, open_log, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  stream = io.StringIO()
  log = open_log(stream=stream, tensorboard=True)
  log.rewind(1, 0)
  _train(log, 1, 2)
  _evaluate(log, 2)
  log.event('hello')
  log.progress(
    stage=1,
    stages=1,
    epoch=1,
    epochs=4,
    images_per_second=1.0,
    seconds_left=1.0,
  )
  assert log.board(1) is None and log.finished({}) == {}
  log.close()
  assert (os.listdir(tmp_path), stream.getvalue()) == ([], '')


def test_progress_and_events_reach_the_stream(open_log):
  stream = io.StringIO()
  with open_log(stream=stream) as log:
    log.event('begun')
    log.progress(
      stage=1,
      stages=2,
      epoch=1,
      epochs=4,
      images_per_second=1000.0,
      seconds_left=61.0,
      loss=0.5,
    )
  told = [line.split(' ', 1) for line in stream.getvalue().splitlines()]
  assert [line for _, line in told] == [
    'begun',
    'stage 1/2, epoch 1/4, loss 0.5000, 1,000 images/s, 1 min 01 s left',
  ]
