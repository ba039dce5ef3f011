# SPDX-License-Identifier: Apache-2.0
"""Runs and data at gs://, through the real clients, from a bucket in memory."""

import importlib
import json
import logging
import pathlib
import re
import shutil
import signal
import sys
import threading

import fake_gcs
import numpy as np
import pytest
import started
import tensorflow_datasets as tfds
import tiny
from PIL import Image

from srdl_jax import config as config_lib
from srdl_jax import (
  data,
  evaluate,
  imported,
  soft_targets,
  srdl,
  storage,
  trained,
)
from srdl_jax.data import fetching
from srdl_jax.errors import (
  CheckpointError,
  ConfigError,
  DataError,
  SoftTargetsError,
  WorkdirError,
)
from srdl_jax.report import rows
from srdl_jax.runs import bank as bank_files
from srdl_jax.runs import checkpoint, environment, stop_request
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs.log import RunLog
from srdl_jax.storage import bucket, uploads

# On Python 3.13 a buffer of gcsfs may be freed before what looks into it; what
# it held has been sent.
pytestmark = pytest.mark.filterwarnings(
  'ignore:Exception ignored in. <_io.BytesIO:'
  'pytest.PytestUnraisableExceptionWarning',
  # It hands more than 1 MB to aiohttp at once, as a long trace is.
  'ignore:Sending a large body directly:ResourceWarning',
)

ROOT = pathlib.Path(__file__).parents[2]
# One epoch a stage: steps 1 to 5, and 6 to 10.
SHORT = {'epochs': 2, 'checkpoint.every_steps': 0}


@pytest.fixture(scope='module')
def service():
  """The bucket gs://bucket, where all clients of this process find it."""
  if sys.version_info[:3] in bucket._CRASHING:
    pytest.skip('this Python would crash')
  with fake_gcs.serve() as served, pytest.MonkeyPatch.context() as patch:
    for name, value in served.environment.items():
      patch.setenv(name, value)
    # It reads its environment when it is imported, maybe before this.
    fsspec = importlib.import_module('fsspec')
    patch.setitem(fsspec.config.conf, 'gcs', {'token': 'anon'})
    bucket._prepare.cache_clear()
    yield served


@pytest.fixture
def place(service, request):
  """An empty folder of the bucket, of the test's own."""
  name = re.sub(r'\W+', '_', request.node.name)
  return storage.path_of(f'gs://bucket/{name}')


def refusal(kind, call, *args, **options):
  with pytest.raises(kind) as caught:
    call(*args, **options)
  assert type(caught.value) is kind
  assert '\n' not in str(caught.value)
  return str(caught.value)


# ---- Paths.


def test_a_bucket_is_named_by_its_scheme(monkeypatch):
  monkeypatch.setattr(bucket, '_CRASHING', ())
  path = run_directory.resolve('gs://bucket/runs/a/')
  assert str(path) == 'gs://bucket/runs/a'
  assert storage.absolute(path) == path
  checkpoints = run_directory.checkpoints(path, 2)
  assert str(checkpoints) == 'gs://bucket/runs/a/stage_2/checkpoints'
  assert run_directory.resolve('runs/a') == pathlib.Path('runs/a')
  assert storage.absolute('a') == pathlib.Path('a').absolute()
  assert bucket.kvstore(path / 'x') == {
    'driver': 'gcs',
    'bucket': 'bucket',
    'path': 'runs/a/x/',
  }


@pytest.mark.parametrize(
  'name',
  [
    's3://bucket/run',
    'gs://',
    'gs://bucket',
    'gs://b/../a',
    'gs://b//a',
    'gs://b/a*',
  ],
)
def test_other_addresses_are_refused_by_name(name):
  assert name in refusal(WorkdirError, run_directory.resolve, name)


def test_missing_gcsfs_names_the_extra(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  bucket._prepare.cache_clear()
  for call in (
    lambda: run_directory.resolve('gs://bucket/run'),
    lambda: data.load('cifar10', data_dir='gs://bucket/data'),
  ):
    assert "pip install -e '.[gcs]'" in refusal(ConfigError, call)
  bucket._prepare.cache_clear()


def test_a_python_that_would_crash_is_refused(monkeypatch):
  bucket._prepare.cache_clear()
  monkeypatch.setattr(bucket.sys, 'version_info', (3, 12, 1, 'final', 0))
  told = refusal(ConfigError, run_directory.resolve, 'gs://bucket/run')
  assert 'may crash' in told


@pytest.mark.parametrize(
  'name', ['data.manual_dir', 'data.path', 'init.from_path', 'teacher.workdir']
)
def test_paths_that_must_be_of_this_machine(name):
  config = tiny.config(**{name: 'gs://bucket/x'})
  told = refusal(ConfigError, config_lib.validate, config)
  assert name in told and 'mount the bucket, or copy' in told


def test_commands_that_read_no_bucket_say_so():
  config = tiny.config(**{'teacher.workdir': 'gs://bucket/x'})
  told = refusal(WorkdirError, imported.name_network, config)
  assert 'mount the bucket, or copy' in told
  (told,) = rows.read(['gs://bucket/x']).left_out
  assert 'mount the bucket, or copy' in told


# ---- Small files.


def test_json_is_an_object_replaced_whole(service, place):
  storage.write_json(place / 'x.json', {'a': 1})
  storage.write_json(place / 'x.json', {'a': 2})
  assert service.names(place.name) == [f'{place.name}/x.json']
  assert storage.read_json(place / 'x.json') == {'a': 2}
  assert storage.read_json(str(place / 'x.json')) == {'a': 2}
  service.put(f'{place.name}/x.json', b'{"a"')
  with pytest.raises(WorkdirError, match='is damaged'):
    storage.read_json(place / 'x.json')


def test_what_fails_in_a_bucket_is_one_line(service, place, monkeypatch):
  path = place / 'x.json'
  told = refusal(WorkdirError, storage.read_json, path)
  assert told == f'{path} cannot be read: there is no such object or bucket'
  storage.write_json(path, 'old')
  monkeypatch.setattr(service, 'refused', place.name)
  told = refusal(WorkdirError, storage.write_json, path, 'new')
  assert f'{path} cannot be written: Forbidden' in told
  assert storage.read_json(path) == 'old'


def test_what_others_write_is_seen_at_once(service, place):
  (place / 'a').write_bytes(b'')
  assert [path.name for path in place.iterdir()] == ['a']
  assert not (place / 'b').exists()
  service.put(f'{place.name}/b', b'')
  assert (place / 'b').exists()
  assert [path.name for path in place.iterdir()] == ['a', 'b']
  del service.objects[f'{place.name}/a']
  assert not (place / 'a').exists()


def test_a_bucket_has_no_lock_and_a_line_says_so(service, place, caplog):
  with storage.lock(place) as held, storage.lock(place):
    assert held == place
    assert not storage.is_held(place)
  assert service.names(place.name) == []
  (record, _) = caplog.records
  assert record.levelno == logging.WARNING
  assert f'{place}: a bucket has no locks' in record.getMessage()


# ---- The log.


def train(log, first, last):
  metrics = {'loss': 1.0 / np.arange(first, last + 1)}
  log.train_steps(stage=1, epoch=1, first_step=first, metrics=metrics)


def recorded(service, place):
  content = service.objects[f'{place.name}/metrics.jsonl'].content
  return [json.loads(line)['step'] for line in content.splitlines()]


@pytest.fixture
def sink(tmp_path):
  with (tmp_path / 'told').open('w') as stream:
    yield stream


def test_log_reaches_the_bucket_before_a_checkpoint(service, place, sink):
  with RunLog(place, total_epochs=1, stream=sink) as log:
    train(log, 1, 3)
    assert service.names(place.name) == []
    log.settle()
    assert recorded(service, place) == [1, 2, 3]
    events = service.names(f'{place.name}/tensorboard/events')
    assert len(events) == 1
    count = len(service.requests)
    log.settle()
    assert len(service.requests) == count
    train(log, 4, 5)
  assert recorded(service, place) == [1, 2, 3, 4, 5]
  assert not log._mirror.folder.exists()


def test_log_reaches_the_bucket_now_and_then(service, place, sink, monkeypatch):
  with RunLog(place, total_epochs=1, stream=sink, tensorboard=False) as log:
    monkeypatch.setattr(uploads, 'SECONDS_BETWEEN_UPLOADS', 0.0)
    train(log, 1, 3)
    assert recorded(service, place) == [1, 2, 3]
    monkeypatch.setattr(uploads, 'SECONDS_BETWEEN_UPLOADS', 60.0)
    train(log, 4, 5)
    assert recorded(service, place) == [1, 2, 3]


def test_log_in_a_bucket_is_rewound(service, place, sink):
  # A killed process's, which had got further than its checkpoint.
  lines = [
    {'stage': 1, 'epoch': 1, 'step': step, 'split': 'train', 'loss': 1.0}
    for step in (1, 2, 3)
  ]
  content = ''.join(json.dumps(line) + '\n' for line in lines) + '{"sta'
  service.put(f'{place.name}/metrics.jsonl', content.encode())
  service.put(f'{place.name}/tensorboard/events.1', b'theirs')
  with RunLog(place, total_epochs=1, stream=sink) as log:
    with pytest.raises(ValueError, match='is recorded'):
      train(log, 3, 3)
    log.rewind(1, 2)
    train(log, 3, 4)
  assert recorded(service, place) == [1, 2, 3, 4]
  theirs, ours = service.names(f'{place.name}/tensorboard/events')
  assert service.objects[theirs].content == b'theirs'
  # TensorBoard is told where the new points begin.
  assert b'events' in ours.encode() and len(service.objects[ours].content) > 99


def test_log_that_cannot_be_uploaded_is_one_line(
  service, place, sink, monkeypatch
):
  log = RunLog(place, total_epochs=1, stream=sink, tensorboard=False)
  train(log, 1, 2)
  monkeypatch.setattr(service, 'refused', place.name)
  assert 'metrics.jsonl cannot be written' in refusal(WorkdirError, log.settle)
  monkeypatch.setattr(service, 'refused', '')
  log.close()
  log.close()
  assert recorded(service, place) == [1, 2]


def test_profile_is_uploaded(service, place):
  with environment.a_few_steps(place / 'profile') as tick:
    for _ in range(environment.LAST):
      tick()
  names = service.names(f'{place.name}/profile/plugins/profile/')
  assert any(name.endswith('.xplane.pb') for name in names)


# ---- Soft targets.

SIZE = {'num_examples': 10, 'num_classes': 3}
LOGITS = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


@pytest.fixture
def bank(place, monkeypatch):
  """The place of a bank of three chunks."""
  monkeypatch.setattr(bank_files, '_CHUNK_ROWS', 4)
  return place / 'soft_targets'


def save(bank, temperature=3.0, made='here'):
  soft_targets.save(
    bank,
    [(np.arange(10), LOGITS)],
    **SIZE,
    temperature=temperature,
    provenance={'made': made},
    expected_rows=np.arange(10),
  )


def load(bank, made='here'):
  return soft_targets.load(bank, provenance={'made': made}, **SIZE)


def test_bank_round_trip_and_replacement(service, bank):
  assert not soft_targets.is_complete(bank)
  save(bank)
  assert load(bank).temperature == 3.0
  assert soft_targets.is_complete(str(bank))
  save(bank, temperature=1.0, made='there')
  found = load(bank, made='there').log_probs_NxK
  np.testing.assert_array_equal(found, soft_targets.soften(LOGITS, 1.0))
  assert [name.partition('soft_targets/')[2] for name in service.names()
          if name.startswith(bank.parent.name)] == [
    'COMPLETE',
    *(f'log_probs/c/{chunk}/0' for chunk in range(3)),
    'log_probs/zarr.json',
  ]  # fmt: skip


def test_bank_begun_anew_is_no_bank(service, bank, monkeypatch):
  save(bank)
  monkeypatch.setattr(service, 'refused', 'c/1/0')
  told = refusal(SoftTargetsError, save, bank, made='there')
  assert f'soft targets {bank}: cannot be written' in told
  monkeypatch.setattr(service, 'refused', '')
  # What is left must not pass for the earlier one.
  assert not soft_targets.is_complete(bank)
  assert 'unfinished' in refusal(SoftTargetsError, load, bank)
  save(bank)
  assert load(bank).temperature == 3.0


@pytest.mark.parametrize('harm', ['flip', 'lose', 'foreign file'])
def test_damaged_bank_is_refused(service, bank, harm):
  save(bank)
  chunk = next(name for name in service.names() if name.endswith('c/1/0')
               and name.startswith(bank.parent.name))  # fmt: skip
  content = service.objects[chunk].content
  if harm == 'flip':
    service.put(chunk, bytes([content[0] ^ 1]) + content[1:])
  elif harm == 'lose':
    del service.objects[chunk]
  else:
    (bank / 'mine.txt').write_bytes(b'mine')
    assert 'mine.txt' in refusal(SoftTargetsError, save, bank, made='there')
    return
  assert 'it is made anew' in refusal(soft_targets.Damaged, load, bank)


# ---- Checkpoints.


def moment(step):
  state = {'params': {'w': np.full(3, step, np.float32)}, 'batch_stats': {}}
  return checkpoint.Moment(step, state, {'epoch': step})


def test_unfinished_checkpoints_are_none(service, place):
  with checkpoint.Checkpoints(place) as checkpoints:
    assert checkpoints.steps() == []
    for step, score in ((1, 0.9), (2, 0.1), (3, 0.2), (4, 0.3)):
      checkpoints.save(moment(step), score=score)
    assert checkpoints.steps() == [1, 3, 4]
    assert checkpoints.load_best().step == 1
  # As a kill in the middle of a save leaves it.
  finished = f'{place.name}/4/'
  for name in service.names(finished):
    if name != f'{finished}commit_success.txt':
      half = name.replace(finished, f'{place.name}/6/')
      service.put(half, service.objects[name].content)
  with checkpoint.Checkpoints(place) as checkpoints:
    assert checkpoints.steps() == [1, 3, 4]
    latest = checkpoints.load_latest(on_damaged=pytest.fail)
    assert latest.step == 4 and latest.state['params']['w'][0] == 4
    checkpoints.save(moment(5), score=None)
    assert checkpoints.steps() == [1, 4, 5]
  assert not service.names(f'{place.name}/6/')


def test_damaged_checkpoint_of_a_bucket_is_reported(service, place):
  with checkpoint.Checkpoints(place) as checkpoints:
    for step in (1, 2):
      checkpoints.save(moment(step), score=None)
  name = max(
    service.names(f'{place.name}/2/'),
    key=lambda name: len(service.objects[name].content),
  )
  del service.objects[name]
  told = []
  with checkpoint.Checkpoints(place, read_only=True) as checkpoints:
    assert checkpoints.load_latest(on_damaged=told.append).step == 1
  (error,) = told
  assert isinstance(error, CheckpointError) and 'checkpoint 2' in str(error)
  with checkpoint.Checkpoints(place) as checkpoints:
    checkpoints.save(moment(2), score=None)
    assert checkpoints.load_latest(on_damaged=pytest.fail).step == 2


# ---- Whole runs.


def run(where, **fields):
  return srdl.run(
    tiny.config(**SHORT | fields), str(where), stop_request.StopRequest()
  )


@pytest.fixture(scope='module')
def killed(service):
  """A run of the bucket that died before its bank was complete."""
  fields = [f'{name}={json.dumps(value)}' for name, value in SHORT.items()]
  done = started.python(
    ROOT / 'tests/tiny.py', 'gs://bucket/run', 'half_bank', *fields
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  assert 'gs://bucket/run: a bucket has no locks' in done.stderr
  return service


def test_killed_run_goes_on_to_the_same_bits(killed, tmp_path, capsys):
  bank = 'run/stage_1/soft_targets'
  assert killed.names(f'{bank}/log_probs/')
  assert f'{bank}/COMPLETE' not in killed.names()
  assert 'run/result.json' not in killed.names()
  found = run('gs://bucket/run')
  assert 'Stage 1 is finished' in capsys.readouterr().err
  expected = run(tmp_path / 'run')
  for name in ('final', 'best', 'ensemble', 'config', 'data'):
    assert found[name] == expected[name]
  there = storage.path_of('gs://bucket/run')
  for number, step in ((1, 5), (2, 10)):
    assert checkpoint.digest(tiny.end_of(there, number, step).state) == (
      checkpoint.digest(tiny.end_of(tmp_path / 'run', number, step).state)
    )
  assert killed.objects['run/metrics.jsonl'].content == (
    (tmp_path / 'run/metrics.jsonl').read_bytes()
  )
  assert json.loads(killed.objects['run/result.json'].content) == found
  assert {name.split('/')[1] for name in killed.names('run/')} == {
    path.name for path in (tmp_path / 'run').iterdir()
  } - {'.lock'}
  # Evaluated from what is there, and not trained again.
  experiment = trained.open_run(there, None)
  members = trained.load_members(there, 'ensemble', experiment)
  again = evaluate.evaluate([(experiment, members)], 'test')
  assert again == found['ensemble']['test']
  before = {n: o for n, o in killed.objects.items() if 'stage' in n}
  assert run('gs://bucket/run') == found
  assert {n: killed.objects[n] for n in before} == before
  told = refusal(WorkdirError, run, 'gs://bucket/run', seed=1)
  assert 'seed (0 there, 1 here)' in told


def test_stages_without_a_record_in_a_bucket(service, place):
  service.put(f'{place.name}/stage_1/extraction.json', b'{}')
  assert 'config.json is missing' in refusal(WorkdirError, run, place)


# ---- Data.


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A CIFAR-10 of twelve images."""

  name = 'cifar10'
  VERSION = tfds.core.Version('3.0.2')

  def _info(self):
    features = {
      'id': tfds.features.Text(),
      'image': tfds.features.Image(shape=(32, 32, 3)),
      'label': tfds.features.ClassLabel(names=[*'abcdefghij']),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {name: self._generate_examples(name) for name in ('train', 'test')}

  def _generate_examples(self, split):
    for row in range(6):
      image = Image.new('RGB', (32, 32), (row, 2 * row, 3 * row))
      yield row, {'id': f'{split}_{row}', 'image': image, 'label': row}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A TFDS directory with the data set."""
  folder = tmp_path_factory.mktemp('made')
  Builder(data_dir=folder).download_and_prepare(file_format='array_record')
  return folder


@pytest.fixture
def stored(service, place, made, tmp_path, monkeypatch):
  """The data set in the bucket; this machine's cache is empty."""
  bucket.upload(made / 'cifar10', place / 'cifar10')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return place


@pytest.fixture
def pulled(place, tmp_path):
  """Where the data set's copy goes."""
  return tmp_path / 'cache/srdl_jax/data/bucket' / place.name / 'cifar10/3.0.2'


def read(service):
  """Returns the names of the files whose content was asked for since."""
  found = [
    name.rpartition('/')[2]
    for method, name, status in service.requests
    if method == 'READ' and status in (200, 206)
  ]
  service.requests.clear()
  return found


def test_data_set_of_a_bucket_is_read(stored, pulled, made, capsys):
  found = data.load('cifar10', data_dir=str(stored), download=False)
  expected = data.load('cifar10', data_dir=str(made))
  assert found.train.fingerprint == expected.train.fingerprint
  np.testing.assert_array_equal(found.test.images, expected.test.images)
  sizes = [
    {path.name: path.stat().st_size for path in folder.iterdir()}
    for folder in (pulled, made / 'cifar10/3.0.2')
  ]
  assert sizes[0] == sizes[1]
  told = capsys.readouterr().err
  assert f'copying {len(sizes[0])} files' in told
  assert f'{len(sizes[0])} of {len(sizes[0])} files' in told


def test_only_what_is_missing_is_copied(service, stored, pulled, capsys):
  fetch = fetching.copy_from_bucket
  assert fetch(str(stored), 'cifar10', '3.0.2') == pulled
  names = sorted(path.name for path in pulled.iterdir())
  service.requests.clear()
  capsys.readouterr()
  fetch(str(stored), 'cifar10', '3.0.2')
  assert not read(service) and not capsys.readouterr().err
  (pulled / 'features.json').unlink()
  (pulled / 'dataset_info.json').write_bytes(b'half')
  (pulled / '.features.json.tmp').write_bytes(b'of a killed process')
  (pulled / 'srdl_index.npz').write_bytes(b'made here')
  fetch(str(stored), 'cifar10', '3.0.2')
  assert set(read(service)) == {'features.json', 'dataset_info.json'}
  found = sorted(path.name for path in pulled.iterdir())
  assert found == sorted([*names, 'srdl_index.npz'])
  assert (pulled / 'dataset_info.json').read_bytes() != b'half'


def test_of_two_processes_one_copies(service, stored, pulled):
  service.requests.clear()
  threads = [
    threading.Thread(
      target=fetching.copy_from_bucket, args=(str(stored), 'cifar10', '3.0.2')
    )
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  asked = read(service)
  assert len(asked) == len(set(asked)) == len(list(pulled.iterdir()))


def test_data_set_that_is_not_in_the_bucket(stored, tmp_path):
  told = refusal(DataError, data.load, 'cifar100', data_dir=str(stored))
  assert f'cifar100/3.0.2 is not in {stored}: prepare it' in told
  assert not (tmp_path / 'cache').exists()
  told = refusal(DataError, data.load, 'cifar10', data_dir='gs://bucket')
  assert 'give gs://BUCKET/FOLDER' in told
  told = refusal(DataError, data.load, 'cifar10', data_dir='s3://bucket/x')
  assert 'not a local directory' in told


def test_copy_that_fails_is_one_line(stored, pulled, tmp_path, monkeypatch):
  fetch = fetching.copy_from_bucket
  # An object that is replaced after it was listed.
  sizes = fetching._sizes

  def other(source):
    return {name: size + 1 for name, size in sizes(source).items()}

  with monkeypatch.context() as patch:
    patch.setattr(fetching, '_sizes', other)
    told = refusal(DataError, fetch, str(stored), 'cifar10', '3.0.2')
  assert f'cannot copy {stored}/cifar10/3.0.2 to {pulled}' in told
  assert 'arrived with' in told
  assert not list(pulled.iterdir())
  with monkeypatch.context() as patch:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    patch.setattr(shutil, 'disk_usage', lambda path: usage)
    told = refusal(DataError, fetch, str(stored), 'cifar10', '3.0.2')
  assert 'no room for' in told and 'XDG_CACHE_HOME' in told
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  told = refusal(DataError, fetch, str(stored), 'cifar10', '3.0.2')
  assert 'Not a directory' in told


# ---- Compiled programs.

COMPILES = """
import sys
import jax
from srdl_jax.runs import environment

hits = []
jax.monitoring.register_event_listener(lambda name: hits.append(name))
jax.default_backend = lambda: 'tpu'
environment.use_compilation_cache(sys.argv[1])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
print(float(jax.jit(lambda x: x * 3 + 1)(2.0)))
print(hits.count('/jax/compilation_cache/cache_hits'))
"""


def test_a_new_machine_finds_in_the_bucket_what_was_compiled(service, place):
  found = []
  for _ in range(2):
    ended = started.run(
      [sys.executable, '-c', COMPILES, str(place / 'run')],
      env={'PATH': '', 'JAX_PLATFORMS': 'cpu', **service.environment},
      cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
    assert 'Error' not in ended.stderr, ended.stderr
    found.append(ended.stdout.split())
  assert found[0] == ['7.0', '0'] and found[1][0] == '7.0'
  assert int(found[1][1]) > 0
  assert [p.name for p in place.iterdir()] == ['.compiled']
