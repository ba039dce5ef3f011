# SPDX-License-Identifier: Apache-2.0
"""One process holds a run directory; its JSON files are never half there."""

import contextlib
import errno
import io
import json
import os
import pathlib
import pwd
import signal
import socket
import sys

import pytest
import started
from clock import Clock

from srdl_jax import api, data, errors, predict, storage, weights
from srdl_jax.command import bundled
from srdl_jax.data import labelled, tfds_reader
from srdl_jax.runs import directory as run_directory
from srdl_jax.storage import locks

_ROOT = pathlib.Path(__file__).parents[2]
_HOLD = """
import sys, time
from srdl_jax import storage
with storage.lock(sys.argv[1]):
  print('held', flush=True)
  time.sleep(600)
"""
# The child outlives the parent's hold, as a data worker may.
_FORK = """
import os, sys, time
from srdl_jax import storage
with storage.lock(sys.argv[1]):
  child = os.fork()
  if child == 0:
    time.sleep(600)
    os._exit(0)
with storage.lock(sys.argv[1]):
  print('held again', flush=True)
os.kill(child, 9)
os.waitpid(child, 0)
"""
_DIE_BEFORE_RENAME = """
import os, sys
from srdl_jax import storage
os.replace = lambda *_: os.kill(os.getpid(), 9)
storage.write_json(sys.argv[1], {'new': list(range(1000))})
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that holds `tmp_path / 'run'`."""
  process = started.start(
    [sys.executable, '-c', _HOLD, tmp_path / 'run'],
    cwd=_ROOT,
    stdout=started.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'held\n'
  return process


def _refusal(path, **options):
  with (
    pytest.raises(errors.WorkdirError) as caught,
    storage.lock(path, **options),
  ):
    pass
  assert '\n' not in str(caught.value)
  return str(caught.value)


def test_lock_creates_the_workdir_and_names_the_holder(tmp_path):
  path = tmp_path / 'deep' / 'run'
  with storage.lock(str(path)) as locked:
    assert locked == path
    text = (path / '.lock').read_text()
  assert text.startswith(f'pid {os.getpid()} on {socket.gethostname()} since 2')


def test_second_process_is_told_who_holds_it(tmp_path, holder):
  told = _refusal(tmp_path / 'run')
  assert f'in use by pid {holder.pid} on {socket.gethostname()}' in told


def test_refused_process_leaves_the_holders_name(tmp_path, holder):
  before = (tmp_path / 'run' / '.lock').read_text()
  _refusal(tmp_path / 'run')
  assert (tmp_path / 'run' / '.lock').read_text() == before
  assert f'pid {holder.pid} ' in before


def test_hold_that_ends_soon_is_waited_for(tmp_path, holder, monkeypatch):
  clock = Clock()
  monkeypatch.setattr(locks, 'time', clock)
  told = _refusal(tmp_path / 'run', patience=0.5)
  assert f'pid {holder.pid} ' in told
  assert clock.now >= 0.5

  def end(now):
    if now > 30:
      holder.kill()
      holder.wait()

  clock.sleeping = end
  with storage.lock(tmp_path / 'run', patience=60):
    assert holder.returncode == -signal.SIGKILL


def test_killed_holder_holds_nothing(tmp_path, holder):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with storage.lock(tmp_path / 'run'):
    told = (tmp_path / 'run' / '.lock').read_text()
    assert told.startswith(f'pid {os.getpid()} ')
    assert f'pid {os.getpid()} ' in _refusal(tmp_path / 'run')


def test_lock_file_stays_and_can_be_taken_again(tmp_path):
  with storage.lock(tmp_path):
    number = (tmp_path / '.lock').stat().st_ino
  assert (tmp_path / '.lock').read_text() == ''
  with storage.lock(tmp_path):
    assert (tmp_path / '.lock').stat().st_ino == number


def test_longer_name_of_a_killed_holder_is_gone(tmp_path):
  (tmp_path / '.lock').write_text('pid 1 on another since yesterday' * 9)
  with storage.lock(tmp_path):
    assert 'another' not in (tmp_path / '.lock').read_text()


def test_lock_ends_with_an_exception(tmp_path):
  with pytest.raises(KeyError), storage.lock(tmp_path):
    raise KeyError
  with storage.lock(tmp_path):
    pass


@pytest.mark.parametrize('name', ['ftruncate', 'close'])
def test_leaving_a_lock_hides_no_reason(tmp_path, monkeypatch, name):
  real = getattr(os, name)

  def fail(*args):
    if name == 'close':
      real(*args)
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  # A run that has ended well has ended well.
  for error in (KeyError, None):
    raised = pytest.raises(error) if error else contextlib.nullcontext()
    with raised, storage.lock(tmp_path):
      monkeypatch.setattr(os, name, fail)
      if error:
        raise error
    monkeypatch.undo()
  with storage.lock(tmp_path):
    pass


def test_forked_child_does_not_keep_the_lock(tmp_path):
  done = started.run(
    [sys.executable, '-W', 'error', '-c', _FORK, tmp_path], cwd=_ROOT
  )
  assert (done.stdout, done.stderr) == ('held again\n', '')


@pytest.mark.parametrize(
  ('prepare', 'reason'),
  [
    (lambda p: p.write_text('mine'), 'is a file'),
    (lambda p: p.parent.joinpath('f').write_text('mine'), None),
    (lambda p: (p / '.lock').mkdir(parents=True), 'Is a directory'),
  ],
  ids=['file', 'below a file', 'lock is a folder'],
)
def test_place_that_cannot_be_a_workdir(tmp_path, prepare, reason):
  path = tmp_path / 'run'
  prepare(path)
  if reason is None:
    path, reason = tmp_path / 'f' / 'run', 'Not a directory'
  told = _refusal(path)
  assert str(path) in told and reason in told


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs /proc')
def test_unwritable_place_gives_the_reason():
  # /proc takes no new names from anyone, root included.
  assert '/proc/run cannot be written: ' in _refusal('/proc/run')


def test_json_round_trip(tmp_path):
  obj = {'a': [1, 2.5, None, True], 'ü': {'loss': 0.1}}
  storage.write_json(tmp_path / 'x.json', obj)
  assert storage.read_json(tmp_path / 'x.json') == obj
  storage.write_json(tmp_path / 'x.json', {})
  assert storage.read_json(tmp_path / 'x.json') == {}
  assert os.listdir(tmp_path) == ['x.json']


@pytest.mark.parametrize(
  ('obj', 'error'),
  [
    ({'a': object()}, TypeError),
    ({'a': float('nan')}, ValueError),
    ({'a': float('inf')}, ValueError),
  ],
)
def test_what_is_not_json_leaves_the_old_file(tmp_path, obj, error):
  storage.write_json(tmp_path / 'x.json', 'old')
  with pytest.raises(error):
    storage.write_json(tmp_path / 'x.json', obj)
  assert storage.read_json(tmp_path / 'x.json') == 'old'
  assert os.listdir(tmp_path) == ['x.json']


def test_kill_during_a_write_leaves_the_old_file(tmp_path):
  storage.write_json(tmp_path / 'x.json', 'old')
  done = started.run(
    [sys.executable, '-c', _DIE_BEFORE_RENAME, tmp_path / 'x.json'], cwd=_ROOT
  )
  assert done.returncode == -signal.SIGKILL
  assert storage.read_json(tmp_path / 'x.json') == 'old'


def test_unwritable_json_is_one_line(tmp_path):
  (tmp_path / 'x.json').mkdir()
  with pytest.raises(errors.WorkdirError, match=r'x\.json cannot be written: '):
    storage.write_json(tmp_path / 'x.json', 1)
  assert os.listdir(tmp_path) == ['x.json']
  with pytest.raises(errors.WorkdirError, match='No such file'):
    storage.write_json(tmp_path / 'no' / 'x.json', 1)


@pytest.mark.parametrize(
  'content', [b'', b'{"a": 1', b'{"a": 1}}', b'\xff\xfe\x00', b'nothing']
)
def test_damaged_json_is_refused(tmp_path, content):
  (tmp_path / 'x.json').write_bytes(content)
  with pytest.raises(errors.WorkdirError, match=r'x\.json is damaged'):
    storage.read_json(tmp_path / 'x.json')


@pytest.mark.parametrize(
  'content',
  [
    *('NaN', '{"a": [-Infinity]}', '[1e999]', '-1e400', '9' * 5000),
    *('{"a": 1, "a": 1}', '[{"b": {"c": 1, "c": 2}}]', '[' * 10**5),
  ],
)
def test_json_that_python_would_take_is_refused(tmp_path, content):
  (tmp_path / 'x.json').write_text(content)
  with pytest.raises(errors.WorkdirError, match=r'damaged \(not JSON') as told:
    storage.read_json(tmp_path / 'x.json')
  assert '\n' not in str(told.value) and len(str(told.value)) < 400


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32-le'])
def test_json_of_other_editors_is_read(tmp_path, encoding):
  obj = {'ü': [1e300, -2]}
  text = json.dumps(obj, ensure_ascii=False)
  (tmp_path / 'x.json').write_bytes(text.encode(encoding))
  assert storage.read_json(tmp_path / 'x.json') == obj


@pytest.mark.parametrize('found', [[], 3, None, 'a', {}, {'a': '1'}, {'b': 1}])
def test_json_of_another_shape_is_refused(tmp_path, found):
  storage.write_json(tmp_path / 'x.json', found)
  assert storage.read_json(tmp_path / 'x.json') == found
  with pytest.raises(errors.WorkdirError, match=r'damaged \(it has no a\)'):
    storage.read_json(tmp_path / 'x.json', a=int)


def test_every_truncation_of_an_object_is_refused(tmp_path):
  path = tmp_path / 'x.json'
  storage.write_json(path, {'a': [1, 2], 'b': 'text'})
  whole = path.read_bytes()
  for length in range(len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(errors.WorkdirError):
      storage.read_json(path)
  # Only the line's end is missing: the object is whole.
  path.write_bytes(whole[:-1])
  assert storage.read_json(path) == json.loads(whole)


def test_missing_json_is_refused(tmp_path):
  with pytest.raises(errors.WorkdirError, match='cannot be read: No such file'):
    storage.read_json(tmp_path / 'x.json')
  with pytest.raises(errors.WorkdirError, match='Is a directory'):
    storage.read_json(tmp_path)


# --- Folders


def names_in(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))


def test_a_folder_gets_its_name_at_the_end(tmp_path):
  path = tmp_path / 'deep' / 'a'
  with storage.new_folder(path) as draft:
    (draft / 'x').write_text('new')
    assert not path.exists()
  assert names_in(tmp_path) == ['deep', 'deep/a', 'deep/a/x']


def test_nothing_is_left_of_a_folder_that_fails(tmp_path):
  with pytest.raises(KeyError), storage.new_folder(tmp_path / 'a') as draft:
    (draft / 'x').write_text('half')
    raise KeyError
  assert names_in(tmp_path) == []


def test_a_folder_with_something_in_it_stays_unless_replaced(tmp_path):
  path = tmp_path / 'a'
  path.mkdir()
  with storage.new_folder(path) as draft:
    (draft / 'x').write_text('old')
  with (
    pytest.raises(OSError, match='not empty'),
    storage.new_folder(path) as draft,
  ):
    (draft / 'y').write_text('new')
  assert names_in(tmp_path) == ['a', 'a/x']
  with storage.new_folder(path, replace=True) as draft:
    (draft / 'y').write_text('new')
  assert names_in(tmp_path) == ['a', 'a/y']


def test_a_draft_that_was_left_is_written_anew(tmp_path):
  (tmp_path / 'draft').mkdir()
  (tmp_path / 'draft' / 'half').write_text('of a killed process')
  with storage.new_folder(tmp_path / 'a', tmp_path / 'draft') as draft:
    (draft / 'x').write_text('new')
  assert names_in(tmp_path) == ['a', 'a/x']


# --- Progress


def lines_of(told, stream, now, **each):
  """Returns what is said of eight counts, two seconds apart."""
  for _ in range(8):
    now[0] += 2.0
    told.add(**each)
  told.close()
  return stream.getvalue().splitlines()


@pytest.fixture
def seen():
  now, stream = [0.0], io.StringIO()
  return now, stream, {'stream': stream, 'clock': lambda: now[0]}


def test_counts_are_told_with_rate_and_time_left(seen):
  now, stream, how = seen
  told = storage.Told('train', 'images', size=10**8, done=2 * 10**7, **how)
  # 15 MB in 6 s leave 65 MB, 30 MB in 12 s leave 50 MB.
  assert lines_of(told, stream, now, size=5_000_000) == [
    'train: 3 images, 0.04 of 0.10 GB, 2.5 MB/s, 0 min 26 s left',
    'train: 6 images, 0.05 of 0.10 GB, 2.5 MB/s, 0 min 20 s left',
    'train: 8 images, 0.06 of 0.10 GB, 2.5 MB/s, done',
  ]


def test_counts_without_bytes_are_told_by_their_number(seen):
  now, stream, how = seen
  told = storage.Told('losses', 'directions', 100, **how)
  assert lines_of(told, stream, now) == [
    'losses: 3 of 100 directions, 3 min 14 s left',
    'losses: 6 of 100 directions, 3 min 08 s left',
    'losses: 8 of 100 directions, done',
  ]


def test_bytes_of_an_unknown_number_are_told(seen):
  now, stream, how = seen
  told = storage.Told('f.zip', **how)
  assert lines_of(told, stream, now, size=10**8) == [
    'f.zip: 0.30 GB, 50.0 MB/s',
    'f.zip: 0.60 GB, 50.0 MB/s',
    'f.zip: 0.80 GB, 50.0 MB/s, done',
  ]


# A user that /etc/passwd lacks; without HOME the own one may be such, too.
NO_HOME = '~no_such_user/x'


@pytest.mark.parametrize(
  'use',
  [
    lambda: run_directory.resolve(NO_HOME),
    lambda: run_directory.local(NO_HOME, '--out'),
    lambda: bundled.find(NO_HOME),
    lambda: weights.load(NO_HOME),
    lambda: predict.find([NO_HOME]),
    lambda: labelled.read(NO_HOME, ['a'], ''),
    lambda: tfds_reader.root(NO_HOME),
    lambda: data.load('folder', path=NO_HOME),
    lambda: data.load('reid_folder', path=NO_HOME),
    lambda: data.load('cifar10', manual_dir=NO_HOME, data_dir='/none'),
  ],
)
def test_a_home_that_is_not_there_is_told(use):
  with pytest.raises(errors.ConfigError, match='no such home directory'):
    use()


def test_a_user_without_a_home_is_told_which_path_to_give(monkeypatch):
  monkeypatch.delenv('HOME')
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)
  with pytest.raises(errors.ConfigError, match='^data_dir ~/tensorflow_data'):
    tfds_reader.root('')


def test_an_empty_path_is_not_the_current_directory():
  # As an unset variable of a shell is.
  with pytest.raises(
    errors.ConfigError, match='^workdir is empty: give a path'
  ):
    run_directory.local('')
  with pytest.raises(errors.ConfigError, match='^image is empty'):
    predict.find([''])


def test_the_home_is_found_in_one_place():
  package = _ROOT / 'srdl_jax'
  files = [f for f in package.rglob('*.py') if 'expanduser(' in f.read_text()]
  names = {str(file.relative_to(package)) for file in files}
  # The compiled programs of who has none are not kept.
  assert names == {'storage/files.py', 'runs/environment.py'}


@pytest.mark.parametrize(
  'use',
  [
    run_directory.resolve,
    lambda path: run_directory.local(path, '--out'),
    tfds_reader.root,
    weights.load,
    api.load,
    lambda path: api.train({'data.name': 'digits'}, path),
  ],
)
@pytest.mark.parametrize('below', ['', '/run'])
def test_names_that_are_not_utf8_are_refused(tmp_path, use, below):
  path = os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9')
  with pytest.raises(errors.ConfigError, match=r'/caf\\xe9\S* is not UTF-8'):
    use(path + below)
  assert not os.listdir(tmp_path)


def test_names_count_from_the_root_on(tmp_path, monkeypatch):
  folder = tmp_path / os.fsdecode(b'caf\xe9')
  folder.mkdir()
  monkeypatch.chdir(folder)
  with pytest.raises(errors.ConfigError, match='is not UTF-8'):
    run_directory.resolve('run')
  folder.rmdir()
  with pytest.raises(errors.ConfigError, match='directory was removed'):
    run_directory.resolve('run')
