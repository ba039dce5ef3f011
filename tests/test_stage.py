# SPDX-License-Identifier: Apache-2.0
"""What a stage saves and when, in turn or while the next epoch is trained."""

import functools
import itertools
import types

import numpy as np
import pytest
import tiny
from orbax.checkpoint import v1 as ocp

from srdl_jax import parallel, srdl, stage
from srdl_jax.errors import NonFiniteLossError
from srdl_jax.evaluate import beside as beside_lib
from srdl_jax.runs import checkpoint, saver, stop_request
from srdl_jax.runs import directory as run_directory

FIELDS = {
  'method': 'vanilla',
  'log.tensorboard': False,
  'checkpoint.every_seconds': 0,
  'checkpoint.every_epochs': 0,
  'checkpoint.every_steps': 0,
}


def run(directory, **fields):
  return srdl.run(
    tiny.config(**{**FIELDS, **fields}),
    str(directory),
    stop_request.StopRequest(),
  )


def checkpoints(directory):
  """Returns the digest of each checkpoint of stage 1."""
  folder = run_directory.checkpoints(directory, 1)
  kept = checkpoint.Checkpoints(folder, read_only=True)
  return {step: kept.digest(step) for step in kept.steps()}


@pytest.fixture
def beside(monkeypatch):
  """Epochs are evaluated while the next one is trained."""
  monkeypatch.setattr(beside_lib, 'HOST', '')


@pytest.fixture
def saved(monkeypatch):
  """Steps of the checkpoints that are written."""
  steps, save = [], checkpoint.Checkpoints.save

  def noted(self, moment, *, score):
    steps.append((moment.step, score is not None))
    save(self, moment, score=score)

  monkeypatch.setattr(checkpoint.Checkpoints, 'save', noted)
  return steps


@pytest.fixture
def better_and_better(monkeypatch):
  """Each of four evaluations is the best yet."""
  scores = itertools.cycle([0.5, 0.6, 0.7, 0.8])
  for owner, name in ((stage, 'evaluate'), (beside_lib.Begun, 'metrics')):
    of_the_stage = getattr(owner, name)

    def better(*args, of_the_stage=of_the_stage, **options):
      return {**of_the_stage(*args, **options), 'accuracy': next(scores)}

    monkeypatch.setattr(owner, name, better)


@pytest.fixture
def ends(monkeypatch):
  """Step of each epoch's end that is read, and the state's by then."""
  found, finish = [], stage._Loop._finish_epoch

  def noted(loop):
    found.append((loop.end.step, int(loop.state.step)))
    return finish(loop)

  monkeypatch.setattr(stage._Loop, '_finish_epoch', noted)
  return found


def left_by(directory):
  return (directory / 'metrics.jsonl').read_text(), checkpoints(directory)


@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'devices': 4, 'data.holdout': 30},
    {'method': 'mean_teacher'},
    {'method': 'ema', 'model.dtype': 'float64'},
    {'steps_per_dispatch': 3, 'eval.every_epochs': 2, 'epochs': 8},
  ],
)
def test_reading_an_epoch_beside_the_next_changes_no_bit(
  tmp_path, request, monkeypatch, better_and_better, ends, fields
):
  fields = {**fields, 'checkpoint.every_epochs': 1}
  run(tmp_path / 'in turn', **fields)
  steps = list(range(5, 5 * fields.get('epochs', 4) + 1, 5))
  assert ends == [(step, step) for step in steps]
  ends.clear()
  request.getfixturevalue('beside')
  if 'devices' in fields:
    # Images lie in long rows there, with the same bits.
    monkeypatch.setattr(beside_lib, 'TPU', 'cpu')
  run(tmp_path / 'beside', **fields)
  # The last one's has none beside it.
  assert [step for step, _ in ends] == steps
  assert all(later > step for step, later in ends[:-1])
  assert left_by(tmp_path / 'beside') == left_by(tmp_path / 'in turn')
  for name in ('in turn', 'beside'):
    assert tiny.end_of(tmp_path / name, 1, steps[-1]).record.epoch[1] == 5


@pytest.mark.parametrize('how', ['in turn', 'beside'])
@pytest.mark.parametrize('at', [1, 2, 5])
def test_a_stage_that_diverges_keeps_what_was_before(
  tmp_path, monkeypatch, request, better_and_better, how, at
):
  """In the epoch that is trained beside the end of the one before."""
  if how == 'beside':
    request.getfixturevalue('beside')
  read = parallel.to_host

  def spoilt(tree):
    found = read(tree)
    # Of step 5 + at, the metrics that are read after those of five others.
    if isinstance(found, dict) and 'loss' in found:
      spoilt.steps += 1
      if spoilt.steps == 5 + at:
        found['loss'][0] = np.nan
    return found

  spoilt.steps = 0
  monkeypatch.setattr(parallel, 'to_host', spoilt)
  with pytest.raises(NonFiniteLossError, match=f'epoch 2 .* step {5 + at}'):
    run(tmp_path)
  assert list(checkpoints(tmp_path)) == [5]
  steps = [line['step'] for line in tiny.lines(tmp_path, 'train')]
  assert steps == list(range(1, 5 + at))


@pytest.mark.parametrize('how', ['in turn', 'beside'])
def test_the_best_is_written_before_any_later_checkpoint(
  tmp_path, request, better_and_better, saved, how
):
  if how == 'beside':
    request.getfixturevalue('beside')
  run(tmp_path, **{'checkpoint.every_steps': 4, 'epochs': 5})
  # Evaluated at 5, 10, 15 and 20, each the best, and at 25, the end; due at 4
  # and 9 of each epoch's five steps, so at 4, 9, 14, ...
  assert saved == [
    (4, False),
    (5, True),
    (9, False),
    (10, True),
    (14, False),
    (15, True),
    (19, False),
    (20, True),
    (24, False),
    (25, True),
  ]
  assert list(checkpoints(tmp_path)) == [20, 24, 25]


@pytest.mark.parametrize(
  ('how', 'size', 'expected'),
  [
    # An epoch has two chunks; its end is read behind the next one's first.
    ('beside', 3, 'epoch read epoch read hash read write read hash write'),
    # Behind an only chunk, for the write is waited for before the next save.
    ('beside', 5, 'epoch epoch read hash write read hash write'),
    # No time of training.
    ('in turn', 5, 'epoch read hash write epoch read hash write'),
  ],
)
def test_orbax_is_given_a_moment_behind_the_next_chunk(
  tmp_path, monkeypatch, request, how, size, expected
):
  if how == 'beside':
    request.getfixturevalue('beside')
  order = []
  asked = {
    'epoch': (stage._Loop, '_epoch'),
    'hash': (checkpoint.Checkpoints, 'save'),
    'write': (ocp.training.Checkpointer, 'save_async'),
    'read': (stage._Loop, '_read'),
  }
  for what, (owner, name) in asked.items():
    called = getattr(owner, name)

    def noted(*args, called=called, what=what, **options):
      # Of a stage's first chunk, there is none before it to be read.
      if what != 'read' or args[-1] is not None:
        order.append(what)
      return called(*args, **options)

    monkeypatch.setattr(owner, name, noted)
  every = {'checkpoint.every_epochs': 1, 'epochs': 2}
  run(tmp_path, steps_per_dispatch=size, **every)
  assert order == expected.split()


@pytest.mark.parametrize('how', ['in turn', 'beside'])
def test_a_checkpoint_is_due_by_the_clock(
  tmp_path, monkeypatch, request, saved, how
):
  if how == 'beside':
    request.getfixturevalue('beside')
  # A second for each look at it.
  clock = functools.partial(next, itertools.count())
  monkeypatch.setattr(saver, 'time', types.SimpleNamespace(monotonic=clock))
  run(tmp_path, **{'checkpoint.every_seconds': 1000, 'epochs': 2})
  assert saved == [(10, True)]
  saved.clear()
  run(tmp_path / 'often', **{'checkpoint.every_seconds': 1, 'epochs': 2})
  # Known with a step's metrics, which are read once the next has begun. Beside
  # training no epoch is broken off for it.
  in_turn, at_ends = [2, 4, 5, 7, 9, 10], [5, 10]
  expected = in_turn if how == 'in turn' else at_ends
  assert [step for step, _ in saved] == expected


def test_compiling_an_evaluation_is_no_time_of_training(
  tmp_path, monkeypatch, beside
):
  order = []
  for owner, name in ((beside_lib.Beside, 'begin'), (stage._Loop, '_epoch')):
    called = getattr(owner, name)

    def noted(*args, called=called, name=name):
      order.append(name)
      return called(*args)

    monkeypatch.setattr(owner, name, noted)
  run(tmp_path, epochs=2)
  # Before the watch is started; then with each epoch's end.
  assert order == ['begin', '_epoch', 'begin', '_epoch', 'begin']
