# SPDX-License-Identifier: Apache-2.0
"""Checkpoints come back to the bit, or are reported: never silently wrong."""

import contextlib
import errno
import gc
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import threading
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import started
from flax import serialization
from flax.training import train_state
from orbax.checkpoint import v1 as ocp

from srdl_jax.errors import CheckpointError
from srdl_jax.runs import checkpoint, processes
from srdl_jax.runs.checkpoint import Checkpoints, Moment, digest

# Every kind of file in a checkpoint; hex names are Orbax's random ones.
ROLES = (
  '_CHECKPOINT_METADATA',
  'commit_success.txt',
  'state/_METADATA',
  'state/commit_success.txt',
  'state/manifest.ocdbt',
  'state/d/HEX',
  'state/ocdbt.process_0/manifest.ocdbt',
  'state/ocdbt.process_0/d/HEX',
)
FLIPS_PER_FILE = 8

# Where one array cannot be read, Orbax closes its event loop while TensorStore
# still reads the others, whose threads then complain of the closed loop.
pytestmark = pytest.mark.filterwarnings(
  'ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning'
)


def make_state(seed):
  draw = np.random.default_rng(seed).normal
  return {
    'params': {
      'kernel': draw(size=(30, 40)).astype(np.float32),
      'half': draw(size=5).astype(ml_dtypes.bfloat16),
      'no_parameters': {},
    },
    'opt_state': {'0': {}, '1': {'trace': draw(size=(2, 3))}, '2': None},
    'step': np.array(seed, np.int32),
  }


def make_moment(step):
  return Moment(step, make_state(step), {'epoch': step, 'best': step / 7})


def refuse(error):
  raise AssertionError(f'reported without damage: {error}')


def assert_same(moment, step):
  assert moment.step == step
  assert digest(moment.state) == digest(make_state(step))
  assert moment.progress == {'epoch': step, 'best': step / 7}


@pytest.fixture(scope='module')
def two_saved(tmp_path_factory):
  directory = tmp_path_factory.mktemp('two') / 'checkpoints'
  with Checkpoints(directory) as checkpoints:
    for step in (1, 2):
      checkpoints.save(make_moment(step), score=step / 10)
  return directory


@pytest.fixture
def two(two_saved, tmp_path):
  yield pathlib.Path(shutil.copytree(two_saved, tmp_path / 'two'))
  # Those threads are to complain here, and not in another file's test.
  gc.collect()
  time.sleep(0.05)


def role_of(path, folder):
  name = path.relative_to(folder).as_posix()
  return re.sub('/d/[0-9a-f]{32}$', '/d/HEX', name)


def files_of(folder, role):
  files = [path for path in sorted(folder.rglob('*')) if path.is_file()]
  return [path for path in files if role_of(path, folder) == role]


# Round trips.

ARRAYS = {
  'float32': np.array([1.5, -0.0, np.nan, np.inf, 1e-45], np.float32),
  'float64': np.array([[np.pi, 5e-324], [-np.inf, 1 / 3]]),
  'float16': np.array([65504, 6e-8], np.float16),
  'bfloat16': np.array([1 / 3, -0.0, np.nan, 1e38], ml_dtypes.bfloat16),
  'int8': np.array([-128, 127], np.int8),
  'int64': np.array([2**63 - 1, -(2**63)]),
  'uint32': np.array([2**32 - 1], np.uint32),
  'bool': np.array([True, False]),
  'scalar': np.array(3, np.int32),
  'bfloat16_scalar': np.array(1 / 3, ml_dtypes.bfloat16),
  'fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  'strided': np.arange(10.0)[::3],
}


def test_arrays_come_back_to_the_bit(tmp_path):
  state = {'arrays': ARRAYS, 'empty': {}, 'none': None, 'deep': {'er': {}}}
  progress = {'inf': float('inf'), 'list': [1, None, 'ü'], 'third': 1 / 3}
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(Moment(0, state, progress), score=None)
    loaded = checkpoints.load(0)
    assert checkpoints.digest(0) == digest(state) == digest(loaded.state)
  assert loaded.progress == progress
  assert loaded.state.keys() == state.keys()
  assert loaded.state['deep'] == {'er': {}}
  assert loaded.state['empty'] == {} and loaded.state['none'] is None
  for name, array in ARRAYS.items():
    back = loaded.state['arrays'][name]
    assert (type(back), back.dtype, back.shape) == (
      np.ndarray,
      array.dtype,
      array.shape,
    )
    assert back.tobytes() == array.tobytes(), name


def test_a_train_state_comes_back_without_a_template(tmp_path):
  model = nn.Sequential([nn.Dense(4), nn.Dense(2)])
  state = train_state.TrainState.create(
    apply_fn=model.apply,
    params=model.init(jax.random.key(0), jnp.ones((1, 3)))['params'],
    tx=optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, 0.9)),
  ).replace(step=jnp.int32(7))
  state = state.apply_gradients(grads=state.params)
  host = jax.device_get(serialization.to_state_dict(state))
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(Moment(8, host, {}), score=0.5)
  loaded = Checkpoints(tmp_path, read_only=True).load(8).state
  assert digest(loaded) == digest(host)
  restored = serialization.from_state_dict(state, loaded)
  jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_the_arrays_may_change_once_it_has_gone_on(tmp_path):
  state = {'large': np.random.default_rng(0).normal(size=500_000)}
  before = digest(state)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(Moment(1, state, {}), score=None)
    checkpoints.go_on()
    state['large'][:] = 0
    assert digest(checkpoints.load(1).state) == before


def test_a_thread_hashes_while_the_caller_does_something_else(
  tmp_path, monkeypatch
):
  free, digests, threads = threading.Event(), checkpoint._digests, []

  def hashed(state):
    threads.append(threading.current_thread())
    assert free.wait(60)
    return digests(state)

  monkeypatch.setattr(checkpoint, '_digests', hashed)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(make_moment(1), score=None)
    assert not list(tmp_path.iterdir())
    free.set()
    checkpoints.go_on()
  assert len(threads) == 1 and threads != [threading.main_thread()]
  monkeypatch.undo()
  assert_same(Checkpoints(tmp_path).load(1), 1)


@pytest.mark.parametrize(
  ('several', 'error', 'kept'),
  [(False, KeyError, [1, 2]), (True, KeyError, [1]), (True, None, [1, 2])],
)
def test_what_has_begun_is_saved_unless_a_stage_of_several_processes_failed(
  tmp_path, monkeypatch, several, error, kept
):
  expected = pytest.raises(error) if error else contextlib.nullcontext()
  with expected, Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(make_moment(1), score=None)
    checkpoints.save(make_moment(2), score=None)
    monkeypatch.setattr(processes, 'several', lambda: several)
    if error:
      raise error
  monkeypatch.undo()
  assert Checkpoints(tmp_path).steps() == kept


@pytest.mark.parametrize(
  'change',
  [
    lambda s: s.update(step=s['step'].view(np.uint32)),
    lambda s: s.update(step=np.array([1], np.int32)),
    lambda s: s['params'].update(no_parameters=None),
    lambda s: s['opt_state'].pop('2'),
    lambda s: s['params'].update(other=s['params'].pop('half')),
    lambda s: s['params']['kernel'].view(np.uint8).__setitem__((0, 0), 9),
  ],
  ids=['dtype', 'shape', 'empty or None', 'missing', 'name', 'byte'],
)
def test_the_digest_sees(change):
  state = make_state(1)
  change(state)
  assert digest(state) != digest(make_state(1))


def test_the_digest_does_not_depend_on_the_order_of_keys():
  state = make_state(1)
  assert digest(dict(reversed(state.items()))) == digest(state)


@pytest.mark.parametrize(
  ('state', 'name'),
  [
    ({'a': {'step': 3}}, 'a/step cannot be saved: 3'),
    ({'a': np.float32(3)}, 'a cannot be saved: np.float32(3'),
    ({'a': jnp.ones(2)}, 'a cannot be saved: Array('),
    ({'a': np.ones((0, 2))}, 'a cannot be saved: array([]'),
    ({'a': np.arange(3, dtype='>f4')}, 'a cannot be saved: array('),
    ({}, 'the state cannot be saved: {}'),
    ({'a': {'b/c': np.ones(2)}}, "a has the key 'b/c'"),
    ({1: np.ones(2)}, 'the state has the key 1'),
  ],
)
def test_other_leaves_and_keys_are_refused_before_saving(tmp_path, state, name):
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(TypeError, match=re.escape(name)):
      checkpoints.save(Moment(1, state, {}), score=None)
    assert checkpoints.steps() == []


def test_progress_that_json_does_not_hold_is_refused(tmp_path):
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(TypeError):
    checkpoints.save(Moment(1, make_state(1), {'x': np.int32(1)}), score=None)


def test_progress_comes_back_as_json_holds_it(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    progress = {10: (1, 2), 9: 0.1}
    checkpoints.save(Moment(1, make_state(1), progress), score=None)
    assert checkpoints.load(1).progress == {'10': [1, 2], '9': 0.1}


# What is kept.


@pytest.mark.parametrize(
  ('scores', 'kept', 'best'),
  [
    ([0.1, 0.2, 0.3, 0.4], [3, 4], 4),
    ([0.9, 0.2, 0.3, 0.4], [1, 3, 4], 1),
    ([0.1, 0.9, 0.3, None, 0.4, 0.2], [2, 5, 6], 2),
    ([0.5, 0.5, 0.5, 0.5], [1, 3, 4], 1),
    ([float('-inf'), None, None, None], [1, 3, 4], 1),
    ([float('nan'), 0.1, None, None], [2, 3, 4], 2),
    ([None, None, None], [2, 3], None),
  ],
)
def test_the_two_latest_and_the_best_are_kept(tmp_path, scores, kept, best):
  for step, score in enumerate(scores, 1):
    # A new object each time: scores are read back from the directory.
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(make_moment(step), score=score)
  checkpoints = Checkpoints(tmp_path, read_only=True)
  assert checkpoints.steps() == kept
  assert_same(checkpoints.load_latest(on_damaged=refuse), len(scores))
  if best is None:
    with pytest.raises(CheckpointError, match='no score in'):
      checkpoints.load_best()
  else:
    assert_same(checkpoints.load_best(), best)


def test_one_object_keeps_the_same_as_many(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    for step, score in enumerate([0.1, 0.9, 0.3, None, 0.4, 0.2], 1):
      checkpoints.save(make_moment(step), score=score)
    assert checkpoints.steps() == [2, 5, 6]


def test_an_intact_step_stays_as_it_is(two):
  before = snapshot(two)
  with Checkpoints(two) as checkpoints:
    checkpoints.save(make_moment(2), score=None)
    checkpoints.save(make_moment(2), score=0.9)
  assert snapshot(two) == before


def test_a_step_without_a_score_takes_its_first(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(make_moment(1), score=0.1)
    checkpoints.save(make_moment(2), score=None)
    assert_same(checkpoints.load_best(), 1)
    checkpoints.save(make_moment(2), score=0.2)
    assert_same(checkpoints.load_best(), 2)
    assert checkpoints.steps() == [1, 2]


# Damage.


def damages(file):
  """Yields each damaged form of a file's content; None is its absence."""
  content = file.read_bytes()
  yield None
  yield b''
  yield content[: len(content) // 2]
  for bit in np.linspace(0, 8 * len(content) - 1, FLIPS_PER_FILE).astype(int):
    flipped = bytearray(content)
    if flipped:
      flipped[bit // 8] ^= 1 << (bit % 8)
      yield bytes(flipped)


def load_despite(directory):
  """Returns the step that was used, and what was reported."""
  reports = []
  checkpoints = Checkpoints(directory, read_only=True)
  moment = checkpoints.load_latest(on_damaged=reports.append)
  assert_same(moment, moment.step)
  assert [2] * len(reports) == [2][: 2 - moment.step]
  for report in reports:
    assert f'{directory}: checkpoint 2 is damaged: ' in str(report)
    assert '\n' not in str(report)
  return moment.step, reports


def test_every_kind_of_file_is_in_the_table(two):
  files = [path for path in (two / '2').rglob('*') if path.is_file()]
  assert {role_of(path, two / '2') for path in files} == set(ROLES)


@pytest.mark.parametrize('role', ROLES)
def test_a_damaged_file_is_harmless_or_reported(two, role):
  for file in files_of(two / '2', role):
    content = file.read_bytes()
    for damaged in damages(file):
      file.unlink()
      if damaged is not None:
        file.write_bytes(damaged)
      load_despite(two)
      file.write_bytes(content)
  assert load_despite(two) == (2, [])


def test_a_bit_of_an_array_is_reported_by_the_arrays_name(two):
  files = [path for path in (two / '2').rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  step, (report,) = load_despite(two)
  assert step == 1
  assert 'arrays differ: params/kernel' in str(report)


def test_another_checkpoints_arrays_are_reported(two):
  shutil.rmtree(two / '2/state')
  shutil.copytree(two / '1/state', two / '2/state')
  step, (report,) = load_despite(two)
  assert step == 1
  assert '4 of 7 arrays differ: opt_state/1/trace' in str(report)


def test_another_checkpoint_under_this_steps_name_is_reported(two):
  shutil.rmtree(two / '2')
  shutil.copytree(two / '1', two / '2')
  assert load_despite(two)[0] == 1


@pytest.mark.parametrize('part', ['progress', 'score', 'arrays'])
def test_a_changed_record_is_reported(two, part):
  file = two / '2/_CHECKPOINT_METADATA'
  stored = json.loads(file.read_text())
  record = stored['custom_metadata']['record']
  record[part] = {'progress': {}, 'score': 0.9, 'arrays': {}}[part]
  file.write_text(json.dumps(stored))
  step, (report,) = load_despite(two)
  assert step == 1
  assert '_CHECKPOINT_METADATA' in str(report)


@pytest.mark.parametrize('part', ['2', '2/state', '2/state/d'])
@pytest.mark.parametrize('emptied', [True, False])
def test_a_lost_folder_is_reported(two, part, emptied):
  shutil.rmtree(two / part)
  if emptied:
    (two / part).mkdir()
  if (two / '2').exists():
    assert load_despite(two)[0] == 1
  else:
    assert_same(Checkpoints(two).load_latest(on_damaged=refuse), 1)


def break_checkpoint(directory, step):
  (directory / f'{step}/state/manifest.ocdbt').write_bytes(b'')


def test_load_says_what_is_missing_or_damaged(two):
  break_checkpoint(two, 2)
  with Checkpoints(two) as checkpoints:
    with pytest.raises(CheckpointError, match='checkpoint 2 is damaged: '):
      checkpoints.load(2)
    with pytest.raises(CheckpointError, match=r'no checkpoint 7, .* \[1, 2\]'):
      checkpoints.load(7)
    with pytest.raises(CheckpointError, match=r'no checkpoint 7, .* \[1, 2\]'):
      checkpoints.digest(7)
    assert_same(checkpoints.load(1), 1)


def test_no_checkpoint_is_none_and_only_damaged_ones_an_error(two, tmp_path):
  assert Checkpoints(tmp_path / 'x').load_latest(on_damaged=refuse) is None
  for step in (1, 2):
    break_checkpoint(two, step)
  reports = []
  with pytest.raises(CheckpointError, match=r'every .* damaged \(\[1, 2\]\)'):
    Checkpoints(two).load_latest(on_damaged=reports.append)
  second, first = map(str, reports)
  assert 'checkpoint 2 is damaged' in second
  assert 'checkpoint 1 is damaged' in first


def test_a_damaged_best_is_an_error_and_not_the_second_best(two):
  (two / '2/_CHECKPOINT_METADATA').write_bytes(b'{')
  with pytest.raises(CheckpointError, match='checkpoint 2 is damaged'):
    Checkpoints(two).load_best()


@pytest.mark.parametrize('role', ROLES)
def test_a_run_goes_on_after_damage(two, role):
  for file in files_of(two / '2', role):
    file.write_bytes(b'{"damaged": 1}')
  damaged = load_despite(two)[0] == 1
  with Checkpoints(two) as checkpoints:
    checkpoints.load_latest(on_damaged=lambda report: None)
    checkpoints.save(make_moment(2), score=0.3)
    assert_same(checkpoints.load_latest(on_damaged=refuse), 2)
    checkpoints.save(make_moment(3), score=0.2)
    assert checkpoints.steps() == [2, 3]
    # The first score stands, unless the checkpoint had to be replaced.
    record = json.loads((two / '2/_CHECKPOINT_METADATA').read_text())
    score = record['custom_metadata']['record']['score']
    assert score == (0.3 if damaged else 0.2)


def test_damaged_checkpoints_take_no_place_among_the_two_latest(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    for step in (10, 20, 30):
      checkpoints.save(make_moment(step), score=None)
  break_checkpoint(tmp_path, 30)
  reports = []
  with Checkpoints(tmp_path) as checkpoints:
    assert_same(checkpoints.load_latest(on_damaged=reports.append), 20)
    assert len(reports) == 1
    checkpoints.save(make_moment(25), score=None)
    # 30 may be readable again one day, and nothing intact is later yet.
    assert checkpoints.steps() == [20, 25, 30]
    checkpoints.save(make_moment(40), score=None)
    assert checkpoints.steps() == [25, 40]


def test_a_replaced_checkpoint_takes_its_place_again(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    for step in (10, 20, 30):
      checkpoints.save(make_moment(step), score=None)
    checkpoints.wait()
    break_checkpoint(tmp_path, 30)
    for step in (25, 30):
      checkpoints.load_latest(on_damaged=lambda report: None)
      checkpoints.save(make_moment(step), score=None)
    assert checkpoints.steps() == [25, 30]


def test_a_checkpoint_that_can_be_read_again_takes_its_place_again(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    for step in (10, 20):
      checkpoints.save(make_moment(step), score=None)
    checkpoints.wait()
    content = (tmp_path / '20/state/manifest.ocdbt').read_bytes()
    break_checkpoint(tmp_path, 20)
    checkpoints.load_latest(on_damaged=lambda report: None)
    (tmp_path / '20/state/manifest.ocdbt').write_bytes(content)
    assert_same(checkpoints.load_latest(on_damaged=refuse), 20)
    checkpoints.save(make_moment(30), score=None)
    assert checkpoints.steps() == [20, 30]


def test_metadata_that_stops_orbax_stops_no_save(two):
  file = two / '2/_CHECKPOINT_METADATA'
  file.write_text(file.read_text().replace('"item_handlers"', '"handlers"'))
  with pytest.raises(ValueError, match='unknown key handlers'):
    ocp.training.Checkpointer(two)
  # Orbax may fail to read it; what we stored there is as it was.
  with Checkpoints(two) as checkpoints:
    checkpoints.save(make_moment(3), score=0.1)
    assert checkpoints.steps() == [2, 3]


# Failing, dying and reading only.


LARGE = {'large': np.random.default_rng(0).normal(size=500_000)}


@contextlib.contextmanager
def full_disk():
  """No file can grow beyond 1 MiB; LARGE needs 4."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
  'call',
  [
    lambda checkpoints: checkpoints.save(make_moment(3), score=None),
    lambda checkpoints: checkpoints.load_latest(on_damaged=refuse),
    Checkpoints.wait,
    Checkpoints.close,
    Checkpoints.steps,
  ],
  ids=['save', 'load_latest', 'wait', 'close', 'steps'],
)
def test_a_save_that_failed_is_raised_by_the_next_call(tmp_path, call):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(make_moment(1), score=0.1)
    checkpoints.wait()
    with full_disk():
      checkpoints.save(Moment(2, LARGE, {}), score=0.2)
      with pytest.raises(CheckpointError, match='save failed: .*too large$'):
        call(checkpoints)
    assert_same(checkpoints.load_latest(on_damaged=refuse), 1)
    checkpoints.save(make_moment(2), score=0.2)
    assert_same(checkpoints.load_best(), 2)


def test_a_file_in_the_directorys_place_is_an_error(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(CheckpointError, match='NotADirectoryError'):
    Checkpoints(tmp_path / 'file').save(make_moment(1), score=None)


# The kernel kills it, as by kill -9, but surely in the midst of writing: at the
# byte that is beyond the limit.
KILLED = """
import resource, signal, sys
import numpy as np
from srdl_jax.runs.checkpoint import Checkpoints, Moment
checkpoints = Checkpoints(sys.argv[1])
state = {'large': np.random.default_rng(0).normal(size=500_000)}
checkpoints.save(Moment(1, state, {}), score=0.1)
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
checkpoints.save(Moment(2, state, {}), score=0.2)
checkpoints.wait()
"""


def test_a_run_killed_in_a_save_goes_on_from_the_one_before(tmp_path):
  done = started.python('-c', KILLED, tmp_path)
  assert done.returncode == -signal.SIGXFSZ, done.stderr
  left = sorted(path.name for path in tmp_path.iterdir())
  assert left == ['1', '2.orbax-checkpoint-tmp']
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps() == [1]
    moment = checkpoints.load_latest(on_damaged=refuse)
    assert digest(moment.state) == digest(LARGE)
    checkpoints.save(make_moment(3), score=0.2)
    assert_same(checkpoints.load_best(), 3)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['1', '3']


def test_a_save_is_on_the_disk_once_it_has_been_waited_for(
  tmp_path, monkeypatch
):
  synced, real = {}, os.fsync

  def fsync(descriptor):
    real(descriptor)
    path = pathlib.Path(os.readlink(f'/proc/self/fd/{descriptor}'))
    synced[path] = threading.current_thread()

  monkeypatch.setattr(os, 'fsync', fsync)
  folder = tmp_path / 'stage_1' / 'checkpoints'
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(make_moment(1), score=0.1)
    checkpoints.wait()
    parts = {*(folder / '1').rglob('*'), folder / '1', folder}
    assert synced.keys() >= {*parts, folder.parent, tmp_path}
    # Training goes on meanwhile.
    assert threading.main_thread() not in {synced[part] for part in parts}


def test_what_does_not_get_onto_the_disk_is_a_failed_save(
  tmp_path, monkeypatch
):
  def fsync(_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  with Checkpoints(tmp_path) as checkpoints:
    monkeypatch.setattr(os, 'fsync', fsync)
    checkpoints.save(make_moment(1), score=0.1)
    with pytest.raises(CheckpointError, match='save failed: OSError: .*Input'):
      checkpoints.wait()
    monkeypatch.undo()
    checkpoints.wait()


def test_why_a_stage_ends_is_told_before_a_save_that_failed(tmp_path):
  with (
    pytest.raises(KeyError),
    full_disk(),
    Checkpoints(tmp_path) as checkpoints,
  ):
    checkpoints.save(Moment(2, LARGE, {}), score=0.2)
    raise KeyError


def test_what_cannot_be_hashed_is_a_failed_save(tmp_path, monkeypatch):
  def hashed(_):
    raise MemoryError

  monkeypatch.setattr(checkpoint, '_digests', hashed)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(make_moment(1), score=None)
    with pytest.raises(CheckpointError, match='checkpoint 1 failed: MemoryErr'):
      checkpoints.go_on()
  with pytest.raises(KeyError), Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(make_moment(1), score=None)
    raise KeyError


def snapshot(directory):
  return {
    path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
    for path in (directory, *directory.rglob('*'))
  }


def test_reading_only_writes_nothing(two, tmp_path):
  (two / '3.orbax-checkpoint-tmp').mkdir()
  break_checkpoint(two, 2)
  before = snapshot(two)
  with Checkpoints(two, read_only=True) as checkpoints:
    assert checkpoints.steps() == [1, 2]
    checkpoints.load_latest(on_damaged=lambda report: None)
    checkpoints.digest(1)
    with pytest.raises(ValueError, match='read-only'):
      checkpoints.save(make_moment(3), score=None)
  assert snapshot(two) == before
  Checkpoints(tmp_path / 'none', read_only=True).steps()
  assert not (tmp_path / 'none').exists()


def test_a_relative_directory_stays_where_it_was(two, monkeypatch, tmp_path):
  monkeypatch.chdir(two.parent)
  checkpoints = Checkpoints(two.name)
  monkeypatch.chdir('/')
  assert_same(checkpoints.load(2), 2)
