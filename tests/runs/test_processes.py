# SPDX-License-Identifier: Apache-2.0
"""Several processes make the run of one, killed and gone on with."""

import json
import os
import pathlib
import re
import signal
import sys

import jax
import numpy as np
import pytest
import started
import tiny
from clock import Clock
from PIL import Image
from sklearn import datasets

from srdl_jax import evaluate, srdl, trained
from srdl_jax.errors import ConfigError
from srdl_jax.runs import hold, processes, stop_request

ROOT = pathlib.Path(__file__).parents[2]
AGAIN = 75
# In float32 training is chaotic; here it is exact but for the order of sums.
EXACT = {'model.dtype': 'float64', 'log.tensorboard': False}
RESIDENT = {**EXACT, 'data.holdout': 20}


@pytest.fixture(scope='session')
def streamed(tmp_path_factory):
  """Fields of a run on 240 digits, as files in folders."""
  root = tmp_path_factory.mktemp('images')
  digits = datasets.load_digits()
  for label in range(10):
    images = digits.images[digits.target == label][:30]
    for number, image in enumerate(images):
      folder = root / ('train' if number < 24 else 'val') / str(label)
      folder.mkdir(parents=True, exist_ok=True)
      pixels = np.rint(image * (255 / 16)).astype(np.uint8)
      large = Image.fromarray(np.kron(pixels, np.ones((3, 3), np.uint8)))
      large.save(folder / f'{number:02d}.png')
  return {
    **EXACT,
    'data.name': 'folder',
    'data.path': str(root),
    'data.image_size': 16,
    'data.examples_per_class': 0,
    'augment.padding': 0,
  }


def launch(directory, event='none', *, own=(), **fields):
  """Runs two processes with two devices each; `own`: of one of them."""
  words = [f'{name}={json.dumps(value)}' for name, value in fields.items()]
  program = [sys.executable, str(ROOT / 'tests/several.py')]
  done = started.run(
    [
      sys.executable,
      str(ROOT / 'launch/local.py'),
      '--processes=2',
      '--devices=2',
      '--grace=120',
      '--',
      *program,
      str(directory),
      event,
      'devices=0',
      *words,
      *own,
    ],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  return done.returncode, done.stdout + done.stderr


def alone(directory, **fields):
  return srdl.run(
    tiny.config(**{**fields, 'devices': 4}),
    str(directory),
    stop_request.StopRequest(),
  )


def assert_same_run(directory, other, steps):
  for number, step in enumerate(steps, start=1):
    one, two = (tiny.end_of(d, number, step) for d in (directory, other))
    assert jax.tree.structure(one.state) == jax.tree.structure(two.state)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
      one.state,
      two.state,
    )
  for split in ('train', 'test', 'validation'):
    place = ('stage', 'epoch', 'step')
    found = [
      [tuple(line[name] for name in place) for line in tiny.lines(d, split)]
      for d in (directory, other)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
  ('text', 'code'),
  [
    ('UNAVAILABLE: Socket closed', AGAIN),
    ('ABORTED: The TPU slice health check failed', AGAIN),
    ('DEADLINE_EXCEEDED: Barrier timed out', AGAIN),
    # A program's own fault may halt a core, each time again.
    ('INTERNAL: Core halted unexpectedly', 1),
    ('INTERNAL: the step was aborted', 1),
    ('RESOURCE_EXHAUSTED: Out of memory', 2),
    ('INVALID_ARGUMENT: shapes differ', 1),
  ],
)
def test_what_a_runtime_says_of_a_lost_process(text, code, monkeypatch):
  def end(_, code):
    raise SystemExit(code)

  monkeypatch.setattr(processes, 'several', lambda: True)
  monkeypatch.setattr(processes, '_end', end)
  with pytest.raises(SystemExit) as ended, processes.failing_at_once():
    raise jax.errors.JaxRuntimeError(text)
  assert ended.value.code == code
  # A program's own words are not the runtime's.
  with pytest.raises(SystemExit) as ended, processes.failing_at_once():
    raise ValueError(text)
  assert ended.value.code == 1


@pytest.mark.slow
def test_a_lost_process_and_a_restart_change_nothing(streamed, tmp_path):
  # Process 1 dies in stage two, after the bank was written by both.
  code, text = launch(tmp_path / 'two', 'kill:18', **streamed)
  assert code == AGAIN, text
  assert not (tmp_path / 'two/result.json').exists()
  code, text = launch(tmp_path / 'two', **streamed, **{'data.workers': 1})
  assert code == 0, text
  # One of them speaks.
  for said in ('Stage 1 is finished', 'Stage 2 goes on'):
    assert text.count(said) == 1
  found = alone(tmp_path / 'one', **streamed)
  assert_same_run(tmp_path / 'two', tmp_path / 'one', (12, 24))
  two = json.loads((tmp_path / 'two/result.json').read_text())
  assert two['final']['test'] == pytest.approx(found['final']['test'])
  assert two['device']['count'] == found['device']['count'] == 4
  # What many have written, one reads.
  with trained.precision([tmp_path / 'two']):
    experiment = trained.open_run(tmp_path / 'two', None)
    members = trained.load_members(tmp_path / 'two', 'ensemble', experiment)
    metrics = evaluate.evaluate([(experiment, members)], 'test')
  assert metrics['accuracy'] == two['ensemble']['test']['accuracy']


@pytest.mark.slow
@pytest.mark.parametrize('method', ['ps_kd', 'dlb', 'mean_teacher'])
def test_what_a_source_remembers_is_the_same_in_all(streamed, tmp_path, method):
  """Of streamed images; dlb has second views of them and remembers a batch."""
  fields = {**streamed, 'method': method, 'epochs': 3}
  code, text = launch(tmp_path / 'two', 'kill:9', **fields)
  assert code == AGAIN, text
  code, text = launch(tmp_path / 'two', **fields)
  assert code == 0, text
  alone(tmp_path / 'one', **fields)
  state = tiny.end_of(tmp_path / 'one', 1, 18).state
  assert jax.tree.leaves(state['memory'])
  assert_same_run(tmp_path / 'two', tmp_path / 'one', (18,))


@pytest.mark.slow
@pytest.mark.parametrize('how', ['in turn', 'beside'])
def test_one_process_asked_to_end_ends_all_and_they_go_on(tmp_path, how):
  two = tmp_path / 'two'
  code, text = launch(two, 'term:7', own=[how], **RESIDENT)
  assert code == AGAIN, text
  ended = re.findall(r'\[(\d)\] error: (.*) in stage 1, step (\d+)', text)
  assert {who for who, _, _ in ended} == {'0', '1'}
  assert dict((who, why) for who, why, _ in ended) == {
    '0': 'Another process was asked to end',
    '1': signal.SIGTERM.name,
  }
  (step,) = {int(step) for _, _, step in ended}
  assert 7 <= step < 10
  assert (two / f'stage_1/checkpoints/{step}').is_dir()
  code, text = launch(two, 'kill:15', own=[how], **RESIDENT)
  assert code == AGAIN, text
  assert f'Stage 1 goes on from step {step}' in text, text
  code, text = launch(two, own=[how], **RESIDENT)
  assert code == 0 and 'Stage 2 goes on from step' in text, text
  alone(tmp_path / 'one', **RESIDENT)
  assert_same_run(two, tmp_path / 'one', (10, 20))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('seconds', 'how'), [(0, 'in turn'), (1e-9, 'in turn'), (1e-9, 'beside')]
)
def test_the_first_process_says_when_a_checkpoint_is_due(
  tmp_path, seconds, how
):
  """Another's clock doesn't: all save together, or they wait without end."""
  fields = {'checkpoint.every_steps': 0, 'checkpoint.every_epochs': 0}
  fields |= {'method': 'vanilla', 'epochs': 2, **RESIDENT}
  fields['checkpoint.every_seconds'] = seconds
  code, text = launch(
    tmp_path / 'two', 'kill:9', own=['1:early', how], **fields
  )
  assert code == AGAIN, text
  there = list((tmp_path / 'two').glob('stage_1/checkpoints/[0-9]*'))
  assert bool(there) is bool(seconds)


def test_a_workdir_that_is_not_shared_is_noticed(tmp_path):
  code, text = launch(tmp_path / 'shared', own=['1:elsewhere'], **RESIDENT)
  assert code == 4, text
  assert text.count('is not the same directory for all processes') == 2


def test_other_data_in_one_process_are_noticed(streamed, tmp_path):
  other = f'1:data.path={json.dumps(streamed["data.path"] + "/train")}'
  code, text = launch(tmp_path / 'shared', own=[other], **streamed)
  assert code == 3, text
  assert text.count('The processes have read different data') == 2


def test_other_fields_in_one_process_are_noticed(tmp_path):
  own = ['1:eval.batch_size=50']
  code, text = launch(tmp_path / 'shared', own=own, **RESIDENT)
  assert code == 2, text
  assert text.count('have different configurations') == 2
  assert not (tmp_path / 'shared').exists()


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'coordinator': 'localhost:1'}, 'belong together'),
    ({'count': 2, 'index': 0}, 'belong together'),
    ({'automatic': True, 'count': 2}, 'not both'),
  ],
)
def test_half_a_description_of_the_processes_is_refused(given, message):
  arguments = {
    'automatic': False,
    'coordinator': None,
    'count': None,
    'index': None,
    'heartbeat_seconds': 10,
  }
  with pytest.raises(ConfigError, match=message):
    processes.initialise(**{**arguments, **given})


def test_no_other_processes_to_be_found_is_one_line(tmp_path):
  done = started.run(
    [
      sys.executable,
      '-m',
      'srdl_jax.main',
      '--config=configs/digits.py',
      f'--workdir={tmp_path}/none',
      '--distributed',
    ],
    cwd=ROOT,
  )
  assert done.returncode == 2
  assert re.match('error: The processes .* do not find each other', done.stderr)
  assert done.stderr.count('\n') == 1 and not (tmp_path / 'none').exists()


def test_alone_nothing_is_asked_of_others():
  arguments = dict.fromkeys(('coordinator', 'count', 'index'))
  processes.initialise(automatic=False, heartbeat_seconds=10, **arguments)
  assert not processes.several() and processes.is_first()
  for flag in (False, True):
    assert processes.any_says(flag) is processes.first_says(flag) is flag
  assert processes.all_have('x') and processes.first_ones(b'ab') == b'ab'


@pytest.mark.parametrize('count', [1, 999, 1000, 1001, 3456])
@pytest.mark.parametrize('ways', [1, 2, 3, 7])
def test_parts_are_whole_units_and_cover_all(monkeypatch, count, ways):
  monkeypatch.setattr(jax, 'process_count', lambda: ways)
  parts = []
  for index in range(ways):
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    parts.append(processes.own_range(count, 1000))
  assert [n for part in parts for n in range(count)[part]] == list(range(count))
  assert all(part.start % 1000 == 0 or part.start == count for part in parts)


def test_a_file_that_is_seen_late_is_there(tmp_path, monkeypatch):
  clock = Clock()
  monkeypatch.setattr(hold, 'time', clock)
  assert not hold._appears(tmp_path / 'token', 0.3)
  assert clock.now >= 0.3
  assert not hold._appears(tmp_path / 'no' / 'token', 0.0)
  clock.sleeping = lambda now: now > 30 and (tmp_path / 'token').touch()
  assert hold._appears(tmp_path / 'token', 60.0)
  assert 30 < clock.now < 60
