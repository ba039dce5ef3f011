# SPDX-License-Identifier: Apache-2.0
"""Interrupted anywhere, a run goes on and ends in the same bits."""

import json
import pathlib
import re
import shutil
import signal

import pytest
import started
from shown_curves import points

from srdl_jax.runs import checkpoint
from srdl_jax.runs import directory as run_directory

TINY = pathlib.Path(__file__).with_name('tiny.py')

# Steps 1 to 10 are stage one, 11 to 20 stage two; an epoch has 5, and
# checkpoints fall on steps 2, 4, 5, 7, 9, 10, ...
EVENTS = {
  'kill:1': -signal.SIGKILL,
  'term:4': 75,
  'in_save:5': -signal.SIGKILL,
  'kill:9': -signal.SIGKILL,
  'half_bank': -signal.SIGKILL,
  'after_bank': -signal.SIGKILL,
  'kill:13': -signal.SIGKILL,
  'term:15': 75,
  'in_save:20': -signal.SIGKILL,
  'before_result': -signal.SIGKILL,
  'none': 0,
}


def tiny_run(directory, event='none', *fields):
  return started.python(TINY, directory, event, *fields)


def lines(directory):
  text = (directory / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def curves(directory):
  """Returns what TensorBoard shows of the record, and of the result."""
  shown = points(directory / 'tensorboard')
  speeds = [step for tag, step, _ in shown if tag.startswith('speed/')]
  assert len(set(speeds)) == len(speeds)
  return sorted(repr(one) for one in shown if 'speed/' not in one[0])


def beside_curves(directory):
  """Returns what else it shows: texts, images, histograms."""
  shown = points(directory / 'tensorboard', ('image', 'histo', 'tensor', None))
  return sorted(map(repr, shown))


def digests(directory):
  return [
    checkpoint.Checkpoints(
      run_directory.checkpoints(directory, stage), read_only=True
    ).digest(step)
    for stage, step in ((1, 10), (2, 20))
  ]


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  directory = tmp_path_factory.mktemp('uninterrupted')
  run = tiny_run(directory)
  assert run.returncode == 0, run.stderr
  return directory


@pytest.fixture(scope='module', params=['in turn', 'beside'])
def interrupted(tmp_path_factory, request):
  """One run that meets every event in turn, and is started again each time.

  It reads what an epoch leaves before the next one, or while that is trained.
  """
  directory = tmp_path_factory.mktemp('interrupted')
  for event, code in EVENTS.items():
    run = tiny_run(directory, event, request.param)
    assert run.returncode == code, (event, run.returncode, run.stderr)
  return directory


def test_interrupted_run_ends_in_the_same_bits(uninterrupted, interrupted):
  assert digests(interrupted) == digests(uninterrupted)


def test_interrupted_log_holds_every_step_once(uninterrupted, interrupted):
  there = lines(interrupted)
  assert there == lines(uninterrupted)
  steps = [line['step'] for line in there if line['split'] == 'train']
  assert steps == list(range(1, 21))


def test_interrupted_run_shows_everything_once(uninterrupted, interrupted):
  assert curves(interrupted) == curves(uninterrupted)
  assert beside_curves(interrupted) == beside_curves(uninterrupted)
  speeds = points(interrupted / 'tensorboard')
  assert [s for tag, s, _ in speeds if tag.startswith('speed/')]


def test_interrupted_result_is_the_same(uninterrupted, interrupted):
  found, expected = (
    json.loads((directory / 'result.json').read_text())
    for directory in (interrupted, uninterrupted)
  )
  for name in ('final', 'best', 'ensemble', 'config', 'data'):
    assert found[name] == expected[name]


def test_finished_run_is_not_trained_again(uninterrupted):
  before = {
    path: path.stat().st_mtime_ns for path in uninterrupted.glob('stage_*/**/*')
  }
  run = tiny_run(uninterrupted, 'kill:1')
  assert run.returncode == 0, run.stderr
  for path, modified in before.items():
    assert path.stat().st_mtime_ns == modified


def test_damaged_end_of_stage_one_leaves_the_log_of_stage_two(
  tmp_path, uninterrupted
):
  directory = tmp_path / 'run'
  assert tiny_run(directory, 'kill:18').returncode == -signal.SIGKILL
  flip_a_bit(run_directory.checkpoints(directory, 1) / '10')
  run = tiny_run(directory)
  assert run.returncode == 0, run.stderr
  assert digests(directory) == digests(uninterrupted)
  # Step 10 is trained again, and its lines find their place.
  assert lines(directory) == lines(uninterrupted)
  assert curves(directory) == curves(uninterrupted)
  assert beside_curves(directory) == beside_curves(uninterrupted)


@pytest.fixture(scope='module')
def half_done(tmp_path_factory):
  """A run that was ended in stage two, at step 15."""
  directory = tmp_path_factory.mktemp('half_done') / 'run'
  assert tiny_run(directory, 'term:15').returncode == 75
  return directory


def flipped_digit(text):
  """The record with another loss in one of its first lines."""
  place = text.index('"loss": ') + len('"loss": ') + 3
  return text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]


@pytest.mark.parametrize(
  ('spoil', 'told'),
  [
    (
      lambda text: None,
      r'has 0 lines up to step 15, where \d+ were recorded\.',
    ),
    (lambda text: '', 'has 0 lines up to step 15, where .* is metrics.jsonl.f'),
    (lambda text: text[text.index('\n') + 1 :], 'lines up to step 15, where'),
    (flipped_digit, "lines up to step 15 that are not this run's: it is"),
    (lambda text: text.replace('"loss": ', '"loss": 1'), 'are not this run'),
  ],
  ids=['deleted', 'emptied', 'a line less', 'a digit', 'another run'],
)
def test_a_record_that_is_not_this_runs_is_set_aside(
  half_done, uninterrupted, tmp_path, spoil, told
):
  directory = shutil.copytree(half_done, tmp_path / 'run')
  file = directory / 'metrics.jsonl'
  whole = file.read_text()
  spoilt = spoil(whole)
  file.unlink() if spoilt is None else file.write_text(spoilt)
  run = tiny_run(directory, 'term:17')
  assert run.returncode == 75
  assert re.search(told, run.stderr), run.stderr
  run = tiny_run(directory)
  assert run.returncode == 0, run.stderr
  # It is told once, and the record is that of the steps since.
  assert 'metrics.jsonl' not in run.stderr
  assert digests(directory) == digests(uninterrupted)
  since = [line for line in lines(uninterrupted) if line['step'] > 15]
  assert lines(directory) == since
  aside = directory / 'metrics.jsonl.foreign'
  assert (aside.read_text() if aside.exists() else None) == spoilt
  assert not directory.joinpath('metrics.jsonl.foreign_2').exists()


@pytest.mark.slow
def test_run_in_chunks_resumes_on_the_same_grid(tmp_path):
  # Chunks of 3 and 2 steps; a checkpoint stands between them.
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  assert tiny_run(whole, 'none', 'steps_per_dispatch=3').returncode == 0
  run = tiny_run(killed, 'term:6', 'steps_per_dispatch=3')
  assert run.returncode == 75, run.stderr
  run = tiny_run(killed, 'none', 'steps_per_dispatch=3')
  assert run.returncode == 0, run.stderr
  assert digests(killed) == digests(whole)
  assert lines(killed) == lines(whole)


@pytest.mark.slow
def test_resume_under_another_environment_says_so(tmp_path):
  directory = tmp_path / 'run'
  assert tiny_run(directory, 'term:4').returncode == 75
  run = tiny_run(directory, 'none', 'steps_per_dispatch=3')
  assert run.returncode == 0, run.stderr
  assert 'Changed since the last session: steps_per_dispatch.' in run.stderr


def flip_a_bit(step):
  data = max(
    (p for p in step.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size
  )
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)


def test_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
  tmp_path, uninterrupted
):
  directory = tmp_path / 'run'
  assert tiny_run(directory, 'kill:18').returncode == -signal.SIGKILL
  folder = run_directory.checkpoints(directory, 2)
  newest = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
  flip_a_bit(folder / str(newest))
  run = tiny_run(directory)
  assert run.returncode == 0, run.stderr
  assert str(newest) in run.stderr and 'damaged' in run.stderr
  assert digests(directory) == digests(uninterrupted)
  assert lines(directory) == lines(uninterrupted)
