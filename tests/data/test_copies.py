# SPDX-License-Identifier: Apache-2.0
"""Copies of data sets as others leave them: unpacked, pickled, sorted."""

import dataclasses
import functools
import hashlib
import logging
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from made_cifar import (
  BINARY,
  NAMES,
  PICKLED,
  SPECS,
  binary_files,
  pack,
  pickled_files,
  spec_of,
  write,
)

from srdl_jax import data
from srdl_jax.data import cifar, pickles, tfds_reader
from srdl_jax.data.cifar_files import PIXELS
from srdl_jax.errors import DataError

REAL = pathlib.Path(__file__).resolve().parents[3] / 'shared/tfds'
FORMS = {
  'python2': pickled_files,
  'python3': functools.partial(
    pickled_files, dumps=pickle.dumps, as_bytes=True
  ),
  'old': functools.partial(
    pickled_files, dumps=functools.partial(pickle.dumps, protocol=2)
  ),
  'binary': binary_files,
}
# Which no release may change: they are in fingerprints.
DIGESTS = {
  'cifar10': '7e3a55e5596208a0b16fd031fa2999a35ce9b079418b11d122dfbd9258323282',
  'cifar100': (
    '90ead22bd931caea721713a7ecf68652b683eb98ee0e31058ab0dbf4c3a99dcd'
  ),
}


# CIFAR.


def source(data_dir, path='', **rest):
  return data.Location(str(data_dir), download=False, path=str(path), **rest)


@pytest.fixture(params=SPECS)
def name(request):
  return request.param


@pytest.fixture
def expected(name, tmp_path):
  """What is loaded of the official archive."""
  spec = spec_of(name)
  path = tmp_path / 'official' / spec.file
  pack(path, binary_files(name))
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  official = dataclasses.replace(spec, sha256=digest)
  place = data.Location(str(tmp_path / 'a'), str(path.parent), download=False)
  return official.load(place)


def same(loaded, expected, *, fingerprint):
  for split in ('train', 'test'):
    ours, theirs = getattr(loaded, split), getattr(expected, split)
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert (ours.fingerprint == theirs.fingerprint) == fingerprint
  assert loaded.classes == expected.classes == tuple(NAMES)


@pytest.mark.parametrize(
  ('form', 'where'),
  [
    ('python2', 'root'),
    ('python2', 'above'),
    ('python3', 'manual'),
    ('python3', 'manual itself'),
    ('old', 'path'),
    ('binary', 'root'),
    ('packed', 'root'),
    ('packed', 'path'),
  ],
)
def test_a_copy_has_the_rows_of_the_archive_and_is_marked(
  name, expected, form, where, tmp_path, caplog
):
  root = tmp_path / 'tfds'
  place = root if where == 'root' else tmp_path / 'elsewhere'
  copy = place / (BINARY if form == 'binary' else PICKLED)[name]
  if form == 'packed':
    copy = place / SPECS[name].copies[-1]
    pack(copy, pickled_files(name))
  else:
    write(copy, FORMS[form](name))
  given = {
    'path': {'path': str(copy)},
    'above': {'path': str(place)},
    'manual': {'manual_dir': str(place)},
    'manual itself': {'manual_dir': str(copy)},
  }.get(where, {})
  with caplog.at_level(logging.INFO):
    loaded = spec_of(name).load(source(root, **given))
  same(loaded, expected, fingerprint=False)
  told = f'{copy} is not shown to be the official archive: its fingerprint is'
  assert f'{told} that of a copy, {DIGESTS[name]}' in caplog.text
  stock = tfds.data_source(name, data_dir=root, split='train')
  assert loaded.train.fingerprint == data.fingerprint(
    f'{name}/3.0.2+copy {DIGESTS[name]}',
    'train',
    [example['id'].decode() for example in stock],
    loaded.train.labels,
  )


@pytest.mark.parametrize('form', ['pickled', 'packed'])
def test_known_pickles_are_official(name, expected, form, tmp_path):
  files = pickled_files(name)
  known = {f: hashlib.md5(c).hexdigest() for f, c in files.items()}
  if form == 'packed':
    copy = tmp_path / 'b' / SPECS[name].copies[-1]
    pack(copy, files)
  else:
    copy = tmp_path / 'b' / PICKLED[name]
    write(copy, files)
  loaded = spec_of(name, official=known).load(source(tmp_path / 'b'))
  same(loaded, expected, fingerprint=True)
  assert not list(tmp_path.rglob('copy.txt'))
  first = min(known)
  other = spec_of(name, official={**known, first: '0' * 32})
  other.prepare(source(tmp_path / 'c', copy))
  assert list(tmp_path.rglob('copy.txt'))


@pytest.mark.parametrize('form', FORMS)
def test_known_contents_are_official_in_every_form(name, form, tmp_path):
  records = binary_files(name)
  text = ''.join(f'{n}\n' for n in NAMES) * len(SPECS[name].files.classes)
  known = {'names': hashlib.sha256(text.encode()).hexdigest()} | {
    split: hashlib.sha256(b''.join(records[f] for f in files)).hexdigest()
    for split, files in SPECS[name].files.records.items()
  }
  write(tmp_path / 'x', FORMS[form](name))
  check = spec_of(name, official=known).check_copy
  assert check(tmp_path / 'x') == ''
  for part in known:
    other = spec_of(name, official={**known, part: '0' * 64})
    assert other.check_copy(tmp_path / 'x') == DIGESTS[name]


def test_the_real_cifar100_is_known(real_records, tmp_path):
  write(tmp_path / BINARY['cifar100'], real_records)
  spec = cifar.CIFAR100
  assert spec.check_copy(tmp_path / BINARY['cifar100']) == ''
  content = bytearray(real_records['test.bin'])
  content[5000] ^= 1
  (tmp_path / BINARY['cifar100'] / 'test.bin').write_bytes(content)
  assert len(spec.check_copy(tmp_path / BINARY['cifar100'])) == 64


@pytest.fixture
def real_records():
  """The files of the official archive, from what TFDS has prepared of it."""
  if not (REAL / 'cifar100').is_dir():
    pytest.skip('needs a prepared CIFAR-100 in ../shared/tfds')
  builder = tfds_reader.open_builder(REAL / 'cifar100' / '3.0.2')
  files = {}
  for split in ('train', 'test'):
    stock = builder.as_data_source(split=split)
    rows = np.empty((len(stock), 2 + PIXELS), np.uint8)
    for first in range(0, len(stock), 1000):
      for example in stock.__getitems__(list(range(first, first + 1000))):
        row = rows[int(example['id'].decode().rpartition('_')[2])]
        row[:2] = example['coarse_label'], example['label']
        row[2:] = example['image'].transpose(2, 0, 1).ravel()
    files[f'{split}.bin'] = rows.tobytes()
  for label, file in cifar.CIFAR100.files.classes.items():
    names = builder.info.features[label].names
    files[file] = ''.join(f'{n}\n' for n in names).encode()
  return files


@pytest.mark.parametrize('asked', ['os.system', 'builtins.eval', 'numpy.load'])
def test_a_pickle_that_calls_something_is_not_called(asked, tmp_path):
  """Of any protocol, and where a known file of a copy is replaced by one."""
  module, _, function = asked.rpartition('.')
  trace = tmp_path / 'trace'
  text = f'touch {trace}' if module == 'os' else f'open({str(trace)!r}, "w")'
  for content in (
    f'c{module}\n{function}\n(S{text!r}\ntR.'.encode(),
    b'\x80\x04'
    + b''.join(
      b'\x8c' + bytes([len(t)]) + t.encode() for t in (module, function)
    )
    + b'\x93\x8c'
    + bytes([len(text)])
    + text.encode()
    + b'\x85R.',
  ):
    with pytest.raises(ValueError, match=f'it asks for {asked}, which is not'):
      pickles.read(content)
    folder = tmp_path / 'cifar-10-batches-py'
    write(folder, pickled_files('cifar10') | {'data_batch_2': content})
    with pytest.raises(DataError, match=f'data_batch_2: it asks for {asked}'):
      spec_of('cifar10').load(source(tmp_path))
    shutil.rmtree(folder)
  assert not trace.exists()


def test_objects_within_arrays_are_not_called_either(tmp_path):
  class Bad:
    def __reduce__(self):
      return open, (str(tmp_path / 'trace'), 'w')

  content = pickle.dumps(np.array([Bad()], dtype=object), protocol=2)
  with pytest.raises(ValueError, match='it asks for io.open'):
    pickles.read(content)
  assert not (tmp_path / 'trace').exists()


def test_a_copy_needs_a_directory_that_can_be_written(tmp_path):
  write(tmp_path / 'cifar-100-python', pickled_files('cifar100'))
  (tmp_path / 'file').write_text('')
  with pytest.raises(DataError, match=f'cannot prepare {tmp_path}/file'):
    spec_of('cifar100').load(
      source(tmp_path / 'file', tmp_path / 'cifar-100-python')
    )


def test_a_path_beside_what_was_prepared_is_told(tmp_path, caplog):
  write(tmp_path / 'cifar-100-python', pickled_files('cifar100'))
  spec_of('cifar100').load(source(tmp_path))
  with caplog.at_level(logging.INFO):
    spec_of('cifar100').load(source(tmp_path, tmp_path / 'another'))
  assert f'data.path, {tmp_path}/another, is not read' in caplog.text
