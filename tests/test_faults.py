# SPDX-License-Identifier: Apache-2.0
"""Killed, or on a disk that fails, at any operation, a run ends in its bits."""

import itertools
import json
import pathlib
import random
import signal

import pytest
import started
from test_resume import digests

PROGRAM = pathlib.Path(__file__).with_name('faults.py')
pytestmark = pytest.mark.slow
SAME = ('final', 'best', 'ensemble', 'config', 'data')
ERRORS = ('ENOSPC', 'EIO', 'EROFS')
# Faults that meet one run, one after another.
EACH = 5
KNOWN = {0, 4, -signal.SIGKILL}


def run(directory, operation='none', number=0, what='none'):
  return started.python(PROGRAM, directory, operation, number, what)


def counts(directory):
  return json.loads(pathlib.Path(f'{directory}.counts').read_text())


def left(directory):
  """Returns what a run has left, but for times and for what libraries write."""
  return sorted(
    str(path.relative_to(directory))
    for path in directory.rglob('*')
    if not {'state', 'tensorboard'} & set(path.relative_to(directory).parts)
  )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  directory = tmp_path_factory.mktemp('whole') / 'run'
  done = run(directory)
  assert done.returncode == 0, done.stderr
  return directory


def assert_same(directory, whole):
  assert digests(directory) == digests(whole)
  lines = [(d / 'metrics.jsonl').read_bytes() for d in (directory, whole)]
  assert lines[0] == lines[1]
  found, expected = (
    json.loads((d / 'result.json').read_text()) for d in (directory, whole)
  )
  assert {n: found[n] for n in SAME} == {n: expected[n] for n in SAME}
  assert left(directory) == left(whole)


@pytest.mark.parametrize('what', [('KILL',), ERRORS], ids=['kill', 'errors'])
@pytest.mark.parametrize('seed', range(4))
def test_a_run_goes_on_after_faults(tmp_path, whole, what, seed):
  draw, often = random.Random(f'{what}{seed}'), counts(whole)
  assert often.keys() == {'write', 'fsync', 'rename', 'mkdir'}
  operations = itertools.cycle(draw.sample(sorted(often), len(often)))
  kinds = itertools.cycle(draw.sample(what, len(what)))
  met, directory = 0, tmp_path / 'run'
  while met < EACH:
    operation, kind = next(operations), next(kinds)
    number = draw.randint(1, 1 + often[operation] // 4)
    done = run(directory, operation, number, kind)
    fault = operation, number, kind
    assert done.returncode in KNOWN, (fault, done.stderr[-3000:])
    killed = done.returncode == -signal.SIGKILL
    met += killed or counts(directory).get(operation, 0) >= number
    if done.returncode == 0:
      assert_same(directory, whole)
      directory = tmp_path / f'run_{met}'
  done = run(directory)
  assert done.returncode == 0, done.stderr
  assert_same(directory, whole)
