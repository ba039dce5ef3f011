# SPDX-License-Identifier: Apache-2.0
"""Tests of the data sets: digits, and CIFAR from archive to arrays."""

import collections
import dataclasses
import errno
import functools
import hashlib
import http.server
import importlib.util
import io
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import socket
import sys
import tarfile
import threading

import numpy as np
import pytest
import started
import tensorflow_datasets as tfds
from sklearn import datasets as sklearn_datasets

from srdl_jax import data
from srdl_jax.data import cifar, images, labelled, preparation, tfds_reader
from srdl_jax.errors import ConfigError, DataError

ROOT = pathlib.Path(__file__).resolve().parents[2]
REAL = ROOT / '../shared/tfds'
SPECS = {'cifar10': cifar.CIFAR10, 'cifar100': cifar.CIFAR100}
COUNTS = {'train': 40, 'test': 20}
# In which order the real CIFAR-100 has the examples of these splits with ids
# below 20. The order is a hash of split and id, so that any subset keeps it.
REAL_ORDER = {
    'train': [6, 16, 19, 12, 14, 18, 5, 13, 15, 4,
              10, 17, 0, 8, 3, 1, 9, 7, 11, 2],
    'test': [16, 13, 19, 15, 6, 1, 8, 12, 9, 4,
             3, 2, 7, 14, 10, 18, 5, 11, 0, 17],
}  # fmt: skip

# Prepares the made-up data set on a machine where something may be wrong.
PREPARE = """
import dataclasses, fcntl, os, signal, sys
from PIL import Image
from srdl_jax import data
from srdl_jax.data import cifar
name, sha256, data_dir, manual_dir, trouble = sys.argv[1:]
def no_locks(*args):
  raise OSError('no locks here')
def die(*args):
  os.kill(os.getpid(), signal.SIGKILL)
if trouble == 'no locks':
  fcntl.flock = no_locks
elif trouble == 'killed at an image':
  Image.fromarray = die
elif trouble == 'killed at the end':
  os.rename = die
spec = getattr(cifar, name.upper())
spec = dataclasses.replace(spec, sha256=sha256)
print('ready', flush=True)
sys.stdin.readline()
spec.prepare(data.Location(data_dir, manual_dir, download=False))
"""


@dataclasses.dataclass(frozen=True)
class Tiny:
  """A made-up archive of 40 and 20 examples, and what is in it by id."""

  spec: cifar.Cifar
  folder: pathlib.Path
  images: dict[str, np.ndarray]
  labels: dict[str, np.ndarray]

  def source(self, data_dir):
    return data.Location(str(data_dir), str(self.folder), download=False)


@functools.cache
def _contents(name):
  """Per split, records uint8 [N, L + 3072], with labels in the first bytes."""
  spec = SPECS[name]
  classes = {'coarse_label': 20, 'label': spec.num_classes}
  rng = np.random.default_rng(0)
  records = {}
  for split, count in COUNTS.items():
    labels = [rng.integers(classes[k], size=count) for k in spec.files.classes]
    pixels = rng.integers(256, size=(count, 3072))
    records[split] = np.c_[(*labels, pixels)].astype(np.uint8)
  return records


def _make(name, folder):
  spec, records = SPECS[name], _contents(name)
  members = {}
  for split, files in spec.files.records.items():
    parts = np.array_split(records[split], len(files))
    members |= {f: p.tobytes() for f, p in zip(files, parts, strict=True)}
  for label, file in spec.files.classes.items():
    count = 20 if label == 'coarse_label' else spec.num_classes
    names = ''.join(f'{label}_{i}\n' for i in range(count))
    # The real CIFAR-10 has an empty line at the end.
    members[file] = (names + '\n').encode()
  path = folder / spec.file
  with tarfile.open(path, 'w:gz') as tar:
    for member, content in members.items():
      header = tarfile.TarInfo(f'folder/{member}')
      header.size = len(content)
      tar.addfile(header, io.BytesIO(content))
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  pixels = {s: r[:, -3072:].reshape(-1, 3, 32, 32) for s, r in records.items()}
  return Tiny(
    spec=dataclasses.replace(spec, sha256=sha256),
    folder=folder,
    images={s: p.transpose(0, 2, 3, 1) for s, p in pixels.items()},
    labels={s: r[:, -3073].astype(int) for s, r in records.items()},
  )


@pytest.fixture(scope='session', params=['cifar10', 'cifar100'])
def tiny(request, tmp_path_factory):
  return _make(request.param, tmp_path_factory.mktemp('archive'))


@pytest.fixture(scope='session')
def tiny100(tmp_path_factory):
  return _make('cifar100', tmp_path_factory.mktemp('archive'))


@pytest.fixture(scope='session')
def prepared(tiny100, tmp_path_factory):
  """A TFDS directory with the made-up CIFAR-100; never to be changed."""
  data_dir = tmp_path_factory.mktemp('tfds')
  tiny100.spec.prepare(tiny100.source(data_dir))
  return data_dir


@pytest.fixture
def copied(prepared, tmp_path):
  """A copy of it to damage, as <data_dir>/cifar100/3.0.2."""
  shutil.copytree(prepared, tmp_path / 'tfds')
  return tmp_path / 'tfds' / 'cifar100' / '3.0.2'


@pytest.fixture(scope='session')
def real():
  if not (REAL / 'cifar100').is_dir():
    pytest.skip('needs a prepared CIFAR-100 in ../shared/tfds')
  return tfds_reader.open_builder(REAL / 'cifar100' / '3.0.2')


def _stock(name, data_dir, split):
  """The examples as TFDS itself reads them."""
  return tfds.data_source(name, data_dir=data_dir, split=split, download=False)


def _row(example):
  return int(example['id'].decode().rpartition('_')[2])


def _files(folder):
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


# Digits.


@pytest.mark.parametrize('from_file', [True, False])
def test_digits_are_those_of_scikit_learn(from_file, monkeypatch):
  if not from_file:
    # As in a version that keeps them elsewhere.
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  digits = data.load('digits')
  bunch = sklearn_datasets.load_digits()
  assert digits.train.images.shape == (1437, 8, 8, 1)
  assert digits.test.images.shape == (360, 8, 8, 1)
  assert (digits.num_classes, digits.name) == (10, 'digits')
  for split, part in (
    (digits.train, slice(0, 1437)),
    (digits.test, slice(1437, 1797)),
  ):
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == np.int32
    np.testing.assert_array_equal(split.labels, bunch.target[part])
    # 16 counts over 255 levels: a rounding error of at most half a level.
    scaled = bunch.images[part, ..., None] * 255 / 16
    assert np.abs(split.images - scaled).max() <= 0.5


def test_digits_statistics_are_those_of_the_training_pixels():
  digits = data.load('digits')
  pixels = digits.train.images / 255
  assert digits.mean == (round(pixels.mean(), 4),)
  assert digits.std == (round(pixels.std(), 4),)


# Names and identity.


def test_an_unknown_name_lists_the_known_ones():
  with pytest.raises(ConfigError, match="'mnist'.*cifar10, cifar100, digits"):
    data.load('mnist')


def test_a_fingerprint_changes_with_everything_it_covers():
  base = ('x/1', 'train', ['a', 'b'], [0, 1])
  others = [
    ('x/2', 'train', ['a', 'b'], [0, 1]),
    ('x/1', 'test', ['a', 'b'], [0, 1]),
    ('x/1', 'train', ['b', 'a'], [0, 1]),
    ('x/1', 'train', ['a', 'b'], [1, 0]),
    ('x/1', 'train', ['a'], [0]),
  ]
  prints = {data.fingerprint(*arguments) for arguments in [base, *others]}
  assert len(prints) == 6
  same = data.fingerprint('x/1', 'train', iter('ab'), np.array([0, 1]))
  assert same == data.fingerprint(*base)


def test_the_splits_of_digits_have_their_own_fingerprints():
  digits, again = data.load('digits'), data.load('digits')
  assert digits.train.fingerprint == again.train.fingerprint
  assert digits.train.fingerprint != digits.test.fingerprint


def test_nothing_here_imports_jax_or_tensorflow(prepared):
  program = (
    'import sys; from srdl_jax import data; data.load("digits")\n'
    'from srdl_jax.data import cifar, sampling\n'
    f'cifar.CIFAR100.load(data.Location({str(prepared)!r}))\n'
    'print([m for m in ("jax", "tensorflow") if m in sys.modules])'
  )
  done = started.run([sys.executable, '-c', program], cwd=ROOT, check=True)
  assert done.stdout.strip() == '[]'


# CIFAR: constants, preparation, order.


@pytest.mark.parametrize('name', SPECS)
def test_archives_and_checksums_are_those_of_tfds(name):
  recorded = tfds.core.tfds_path('url_checksums') / f'{name}.txt'
  rows = [line.split('\t') for line in recorded.read_text().splitlines()]
  spec = SPECS[name]
  assert [spec.url, spec.sha256, spec.file] in [[r[0], *r[2:]] for r in rows]


def test_the_loaded_arrays_are_those_of_the_archive(tiny, tmp_path):
  loaded = tiny.spec.load(tiny.source(tmp_path))
  assert loaded.num_classes == tiny.spec.num_classes
  for split in (loaded.train, loaded.test):
    rows = [_row(e) for e in _stock(tiny.spec.name, tmp_path, split.name)]
    assert sorted(rows) == list(range(COUNTS[split.name]))
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(split.images, tiny.images[split.name][rows])
    np.testing.assert_array_equal(split.labels, tiny.labels[split.name][rows])


def test_row_i_is_example_i_of_tfds(tiny100, prepared):
  loaded = tiny100.spec.load(data.Location(str(prepared)))
  for split in (loaded.train, loaded.test):
    stock = _stock('cifar100', prepared, split.name)
    assert len(stock) == len(split.labels)
    for i, example in enumerate(stock):
      np.testing.assert_array_equal(split.images[i], example['image'])
      assert split.labels[i] == example['label']
    ids = [example['id'].decode() for example in stock]
    assert split.fingerprint == data.fingerprint(
      'cifar100/3.0.2', split.name, ids, split.labels
    )


@pytest.mark.parametrize('split', COUNTS)
def test_the_prepared_order_is_that_of_the_real_data(prepared, split):
  rows = [_row(e) for e in _stock('cifar100', prepared, split)]
  assert [row for row in rows if row < 20] == REAL_ORDER[split]


def test_class_names_and_coarse_labels_are_kept(prepared):
  info = tfds.builder('cifar100', data_dir=prepared).info
  assert info.features['label'].names[:2] == ['label_0', 'label_1']
  assert info.features['coarse_label'].num_classes == 20
  stock = _stock('cifar100', prepared, 'train')
  coarse = _contents('cifar100')['train'][:, 0]
  assert [e['coarse_label'] for e in stock] == [coarse[_row(e)] for e in stock]


def test_shards_do_not_change_rows_or_fingerprint(tiny100, prepared, tmp_path):
  archive = tiny100.folder / tiny100.spec.file
  preparation.builder_of(tiny100.spec, archive, tmp_path).download_and_prepare(
    file_format='array_record',
    download_config=tfds.download.DownloadConfig(num_shards=3),
  )
  directory = tmp_path / 'cifar100' / '3.0.2'
  assert len(list(directory.glob('*-of-00003'))) == 6
  one = tiny100.spec.load(data.Location(str(prepared))).train
  three = tiny100.spec.load(data.Location(str(tmp_path))).train
  np.testing.assert_array_equal(one.images, three.images)
  assert one.fingerprint == three.fingerprint


def test_the_default_directory_is_that_of_tfds(prepared, tiny100, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(prepared))
  assert len(data.load('cifar100', download=False).train.labels) == 40
  monkeypatch.delenv('TFDS_DATA_DIR')
  assert tfds_reader.root('') == pathlib.Path.home() / 'tensorflow_datasets'


# Directories that are named too deep.


@pytest.mark.parametrize('inner', ['cifar100', 'cifar100/3.0.2', 'cifar100/'])
def test_a_data_sets_own_folder_stands_for_what_is_above(
  tiny100, prepared, inner, caplog, monkeypatch
):
  expected = tiny100.spec.load(data.Location(str(prepared)))
  with caplog.at_level(logging.INFO):
    loaded = tiny100.spec.load(data.Location(f'{prepared}/{inner}'))
  assert loaded.train.fingerprint == expected.train.fingerprint
  assert f'is a folder of cifar100 itself: taking {prepared}' in caplog.text
  assert not (prepared / inner / 'cifar100').exists()
  found = labelled.read('tfds:cifar100', loaded.classes, f'{prepared}/{inner}')
  assert len(found.labels) == 20
  monkeypatch.chdir(prepared)
  monkeypatch.setenv('TFDS_DATA_DIR', inner)
  assert tfds_reader.directory('', 'cifar100', '3.0.2') == (
    prepared / 'cifar100' / '3.0.2'
  )


def test_nothing_is_prepared_within_a_version(tiny100, tmp_path):
  tiny100.spec.load(tiny100.source(tmp_path / 'cifar100' / '3.0.2'))
  assert sorted(p.name for p in tmp_path.iterdir()) == ['cifar100']
  assert (tmp_path / 'cifar100' / '3.0.2' / 'dataset_info.json').is_file()
  assert not list((tmp_path / 'cifar100' / '3.0.2').glob('cifar100/'))


@pytest.mark.parametrize('name', ['cifar100', 'cifar100/3.0.2'])
def test_a_directory_may_be_called_as_a_data_set(copied, tmp_path, name):
  inside = tmp_path / name / 'cifar100' / '3.0.2'
  inside.parent.mkdir(parents=True)
  copied.rename(inside)
  found = tfds_reader.directory(str(tmp_path / name), 'cifar100', '3.0.2')
  assert found == inside
  empty = tmp_path / 'new' / 'cifar100'
  empty.mkdir(parents=True)
  found = tfds_reader.directory(str(empty), 'cifar100', '3.0.2')
  assert found == empty / 'cifar100' / '3.0.2'


def test_of_several_versions_the_right_one_is_read(tiny100, copied):
  for other in ('3.0.1', '10.0.0'):
    shutil.copytree(copied, copied.with_name(other))
  for deep in ('', 'cifar100', 'cifar100/3.0.1'):
    source = data.Location(str(copied.parents[1] / deep), download=False)
    assert tiny100.spec.load(source).version == '3.0.2'


def test_preparing_twice_changes_nothing(tiny100, copied):
  before = _files(copied)
  tiny100.spec.prepare(tiny100.source(copied.parents[1]))
  assert _files(copied) == before


# CIFAR: several processes, kills, downloads.


def _start(tiny, data_dir, trouble):
  arguments = (tiny.spec.name, tiny.spec.sha256, data_dir, tiny.folder, trouble)
  process = started.start(
    [sys.executable, '-c', PREPARE, *map(str, arguments)],
    cwd=ROOT,
    stdin=started.PIPE,
    stdout=started.PIPE,
    stderr=started.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n'
  return process


@pytest.mark.parametrize('trouble', ['none', 'no locks'])
def test_two_processes_may_prepare_at_once(
  tiny100, prepared, tmp_path, trouble
):
  processes = [_start(tiny100, tmp_path, trouble) for _ in range(2)]
  for process in processes:
    process.stdin.write('go\n')
    process.stdin.flush()
  ends = [process.communicate(timeout=started.SECONDS) for process in processes]
  assert [p.returncode for p in processes] == [0, 0], ends
  ours = tiny100.spec.load(data.Location(str(tmp_path)))
  expected = tiny100.spec.load(data.Location(str(prepared)))
  assert ours.train.fingerprint == expected.train.fingerprint
  assert not list(tmp_path.rglob('incomplete.*'))


@pytest.mark.parametrize('trouble', ['killed at an image', 'killed at the end'])
def test_a_killed_preparation_is_not_read_and_is_cleaned_up(
  tiny100, tmp_path, trouble
):
  process = _start(tiny100, tmp_path, trouble)
  process.communicate('go\n', timeout=started.SECONDS)
  assert process.returncode == -signal.SIGKILL
  assert list(tmp_path.rglob('incomplete.*'))
  assert not (tmp_path / 'cifar100' / '3.0.2').exists()
  loaded = tiny100.spec.load(tiny100.source(tmp_path))
  assert len(loaded.train.labels) == 40
  assert not list(tmp_path.rglob('incomplete.*'))


def test_another_machines_unfinished_work_is_left_alone(tiny100, tmp_path):
  other = tmp_path / 'cifar100' / 'incomplete.srdl_another-machine_x'
  other.mkdir(parents=True)
  tiny100.spec.load(tiny100.source(tmp_path))
  assert other.is_dir()


@pytest.fixture
def served(tiny100):
  """The made-up CIFAR-100 with the address of a server on this machine."""

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      del args

  handler = functools.partial(Handler, directory=tiny100.folder)
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  url = f'http://127.0.0.1:{server.server_address[1]}/{tiny100.spec.file}'
  yield dataclasses.replace(tiny100.spec, url=url)
  server.shutdown()
  server.server_close()
  thread.join()


def test_a_prepared_set_is_labelled_by_names_of_classes(prepared, monkeypatch):
  builder = tfds_reader.open_builder(prepared / 'cifar100' / '3.0.2')
  names = tfds_reader.class_names(builder)
  loaded = cifar.CIFAR100.load(data.Location(str(prepared)))
  assert loaded.classes == names
  # Another network's order of the same classes.
  other = names[::-1]
  found = labelled.read('tfds:cifar100', other, str(prepared))
  told = [other[label] for label in found.labels]
  assert told == [names[label] for label in loaded.test.labels]
  seen = images.NewImages(found.records, (32, 32, 3), 32)
  np.testing.assert_array_equal(seen[:], loaded.test.images)
  assert found.records.name(3) == 'cifar100/3.0.2, test, row 3'
  train = labelled.read('tfds:cifar100/train', names, str(prepared))
  np.testing.assert_array_equal(train.labels, loaded.train.labels)
  few = [name for name in names if name != names[loaded.test.labels[0]]]
  with pytest.raises(DataError, match='the network has no class'):
    labelled.read('tfds:cifar100', few, str(prepared))
  with monkeypatch.context() as patched:
    patched.setattr(labelled._TfdsImages, 'label', lambda self, row: -1)
    with pytest.raises(DataError, match='labels from -1 to -1'):
      labelled.read('tfds:cifar100', names, str(prepared))
  with pytest.raises(DataError, match="no split 'val'"):
    labelled.read('tfds:cifar100/val', names, str(prepared))


def test_the_archive_is_downloaded_where_it_is_missing(served, tmp_path):
  loaded = served.load(data.Location(str(tmp_path)))
  assert len(loaded.test.labels) == 20
  assert (tmp_path / 'downloads' / served.file).is_file()


def test_missing_data_without_download_says_what_to_put_where(tmp_path):
  with pytest.raises(DataError) as caught:
    data.load('cifar10', data_dir=str(tmp_path / 'd'), download=False)
  message = str(caught.value)
  for part in (
    'cifar10/3.0.2',
    cifar.CIFAR10.url,
    cifar.CIFAR10.sha256,
    str(tmp_path / 'd' / 'downloads' / 'manual'),
  ):
    assert part in message
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(DataError, match=str(tmp_path / 'mine')):
    data.load(
      'cifar10',
      data_dir=str(tmp_path / 'd'),
      manual_dir=str(tmp_path / 'mine'),
      download=False,
    )


def test_missing_data_without_network_says_why_and_what_to_do(tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  url = f'http://127.0.0.1:{port}/cifar-100-binary.tar.gz'
  spec = dataclasses.replace(cifar.CIFAR100, url=url)
  with pytest.raises(DataError) as caught:
    spec.load(data.Location(str(tmp_path)))
  for part in ('refused', url, spec.sha256, str(tmp_path)):
    assert part in str(caught.value)
  assert list(tmp_path.iterdir()) == []


def test_a_wrong_archive_is_named_and_kept(tiny100, tmp_path):
  spec = cifar.CIFAR100
  archive = tiny100.folder / spec.file
  with pytest.raises(
    DataError,
    match=f'{archive}.*{spec.sha256}.*{tiny100.spec.sha256}',
  ):
    spec.load(tiny100.source(tmp_path))
  assert archive.is_file()
  assert not (tmp_path / 'cifar100' / '3.0.2').exists()


def test_a_place_that_cannot_be_written_is_named(tiny100, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(DataError, match=f'cannot prepare {tmp_path}.*data_dir'):
    tiny100.spec.load(tiny100.source(tmp_path / 'file'))


def test_a_bucket_is_refused():
  with pytest.raises(DataError, match='s3://bucket/x.*local'):
    data.load('cifar10', data_dir='s3://bucket/x')


# CIFAR: other forms and damage.


# What one may not look into.


@pytest.fixture
def close(monkeypatch):
  """Closes folders, also to an administrator."""
  closed = []
  stat, scandir = os.stat, os.scandir

  def refuse(path):
    if any(f'{path}'.startswith(f'{folder}/') for folder in closed):
      raise PermissionError(errno.EACCES, 'Permission denied', f'{path}')

  monkeypatch.setattr(os, 'stat', lambda p, **k: refuse(p) or stat(p, **k))
  monkeypatch.setattr(
    os, 'scandir', lambda p='.': refuse(f'{p}/') or scandir(p)
  )
  return closed.append


NAMES = ('cifar10', 'cifar100', 'tiny_imagenet', 'market1501')
FIELDS = [
  *((name, f) for name in NAMES for f in ('path', 'manual_dir', 'data_dir')),
  *(('imagenet', 'path'), ('imagenet', 'data_dir'), ('folder', 'path')),
]


@pytest.mark.parametrize('inner', ['', 'inner', 'x' * 5000, 'x/' * 2500])
@pytest.mark.parametrize(('name', 'field'), FIELDS)
def test_what_cannot_be_looked_into_is_told(
  name, field, inner, close, tmp_path
):
  (tmp_path / 'a').mkdir()
  if len(inner) < 9:
    close(tmp_path / 'a')
  place = {'data_dir': str(tmp_path / 'tfds'), 'download': False}
  place[field] = str(tmp_path / 'a' / inner)
  with pytest.raises(DataError) as caught:
    data.load(name, **place)
  text = str(caught.value)
  assert f'{tmp_path}/a' in text and '\n' not in text
  reason = errno.EACCES if len(inner) < 9 else errno.ENAMETOOLONG
  assert os.strerror(reason) in text
  assert name == 'folder' or (field in text and len(text) < 500)


@pytest.mark.parametrize('part', ['', 'cifar100', 'cifar100/3.0.2'])
def test_closed_is_not_missing(tiny100, copied, close, part):
  close(copied.parents[1] / part)
  for root in (copied.parents[1], copied.parent, copied):
    with pytest.raises(DataError, match='data_dir .*Permission denied'):
      tiny100.spec.load(data.Location(str(root), download=False))


def test_archives_in_a_closed_folder_are_told(tiny100, close, tmp_path):
  (tmp_path / 'downloads').mkdir()
  close(tmp_path / 'downloads')
  with pytest.raises(DataError, match='manual_dir .*Permission denied'):
    tiny100.spec.load(data.Location(str(tmp_path), download=False))


def _edit_info(directory, **fields):
  path = directory / 'dataset_info.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _load_fails(spec, directory, pattern):
  before = _files(directory)
  with pytest.raises(DataError, match=pattern):
    spec.load(data.Location(str(directory.parents[1]), download=False))
  assert _files(directory) == before


def test_tfrecord_form_is_recognised_and_left_alone(tiny100, copied):
  for path in list(copied.glob('*.array_record-*')):
    path.rename(str(path).replace('array_record', 'tfrecord'))
  _edit_info(copied, fileFormat='tfrecord')
  _load_fails(
    tiny100.spec, copied, f'{copied}.*in tfrecord form.*another directory'
  )


def test_array_record_beside_tfrecord_is_read(tiny100, copied):
  _edit_info(
    copied, fileFormat='tfrecord', alternativeFileFormats=['array_record']
  )
  loaded = tiny100.spec.load(data.Location(str(copied.parents[1])))
  assert len(loaded.train.labels) == 40


@pytest.mark.parametrize(
  'name',
  [
    'dataset_info.json',
    'features.json',
    'cifar100-train.array_record-00000-of-00001',
    'cifar100-test.array_record-00000-of-00001',
  ],
)
def test_a_missing_file_is_named(tiny100, copied, name):
  (copied / name).unlink()
  _load_fails(tiny100.spec, copied, f'{copied} is incomplete.*{name}')


@pytest.mark.parametrize('text', ['', '{"name": ', '[]'])
def test_damaged_metadata_is_named(tiny100, copied, text):
  (copied / 'dataset_info.json').write_text(text)
  _load_fails(tiny100.spec, copied, str(copied))


@pytest.mark.parametrize(
  ('file', 'change'),
  [
    ('features.json', lambda found: found.update(featuresDict=None)),
    ('features.json', lambda found: found.update(featuresDict={})),
    *(
      ('features.json', lambda found, its=its: its(found['featuresDict']))
      for its in (
        lambda features: features['features']['image'].update(image=None),
        lambda features: features['features']['image'].update(image={}),
        lambda features: features['features'].pop('label'),
      )
    ),
    ('dataset_info.json', lambda found: found.update(name=None)),
    ('dataset_info.json', lambda found: found.update(splits=[{}])),
  ],
)
def test_odd_metadata_is_named(tiny100, copied, file, change):
  found = json.loads((copied / file).read_text())
  change(found)
  (copied / file).write_text(json.dumps(found))
  _load_fails(tiny100.spec, copied, f'cannot read the metadata in {copied}')


def test_a_missing_split_is_named(tiny100, copied):
  info = json.loads((copied / 'dataset_info.json').read_text())
  _edit_info(copied, splits=[s for s in info['splits'] if s['name'] != 'test'])
  _load_fails(tiny100.spec, copied, "no split 'test'")


@pytest.mark.parametrize('kept', [0, 1, 100, 20_000, -100, -1])
def test_a_truncated_file_is_named(tiny100, copied, kept):
  path = copied / 'cifar100-train.array_record-00000-of-00001'
  path.write_bytes(path.read_bytes()[:kept])
  _load_fails(tiny100.spec, copied, f'{path} is damaged')


@pytest.mark.parametrize('share', [0.05, 0.3, 0.6])
def test_a_flipped_byte_is_named(tiny100, copied, share):
  path = copied / 'cifar100-train.array_record-00000-of-00001'
  content = bytearray(path.read_bytes())
  # An array_record's blocks are padded with zeros, which nothing reads.
  used = np.flatnonzero(np.frombuffer(content, np.uint8))
  content[used[int(share * len(used))]] ^= 0xFF
  path.write_bytes(content)
  _load_fails(tiny100.spec, copied, f'{path} is damaged')


def test_more_examples_than_the_file_holds_are_an_error(tiny100, copied):
  info = json.loads((copied / 'dataset_info.json').read_text())
  info['splits'][0]['shardLengths'] = ['45']
  _edit_info(copied, splits=info['splits'])
  _load_fails(tiny100.spec, copied, f'{copied}.*is damaged between rows')


def test_labels_of_another_data_set_are_refused(tiny100, prepared):
  builder = tfds_reader.open_builder(prepared / 'cifar100' / '3.0.2')
  with pytest.raises(DataError, match='labels from .* expected 0 to 9'):
    tfds_reader.read_split(builder, 'train', num_classes=10)


# The real CIFAR-100.


def test_the_real_test_split_is_complete(real):
  test = tfds_reader.read_split(real, 'test', 100)
  assert test.images.shape == (10_000, 32, 32, 3)
  assert set(collections.Counter(test.labels.tolist()).values()) == {100}
  stock = _stock('cifar100', REAL, 'test')
  for i in (0, 1, 1023, 1024, 9999):
    np.testing.assert_array_equal(test.images[i], stock[i]['image'])
    assert test.labels[i] == stock[i]['label']


def test_the_listed_order_is_the_real_one(real):
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  for split, order in REAL_ORDER.items():
    stock = real.as_data_source(split=split, deserialize_method=raw)
    records = stock.__getitems__(list(range(len(stock))))
    # Parsing all of them would take seconds; the ids lie open in the bytes.
    found = [re.search(rb't(?:rain|est)_000([01]\d)', r) for r in records]
    assert [int(match[1]) for match in found if match] == order


def test_cifar100_statistics_are_near_those_of_real_training_images(real):
  stock = real.as_data_source(split='train')
  images = np.stack([e['image'] for e in stock.__getitems__(list(range(2000)))])
  pixels = images / 255
  # Means of 2,000 images scatter by 0.15 / sqrt(2000) = 0.0034.
  np.testing.assert_allclose(
    pixels.mean((0, 1, 2)), cifar.CIFAR100.mean, atol=0.015
  )
  np.testing.assert_allclose(
    pixels.std((0, 1, 2)), cifar.CIFAR100.std, atol=0.01
  )
