# SPDX-License-Identifier: Apache-2.0
"""Copies of data sets as others leave them: unpacked, pickled, sorted."""

import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
import pickle
import re
import shutil
import tarfile

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
  with pytest.raises(ValueError, match="it holds an array of 'O8'"):
    pickles.read(content)
  assert not (tmp_path / 'trace').exists()


def test_a_copy_needs_a_directory_that_can_be_written(tmp_path):
  write(tmp_path / 'cifar-100-python', pickled_files('cifar100'))
  (tmp_path / 'file').write_text('')
  with pytest.raises(DataError, match=f'cannot prepare {tmp_path}/file'):
    spec_of('cifar100').load(
      source(tmp_path / 'file', tmp_path / 'cifar-100-python')
    )


# A path beside what is prepared.


@pytest.fixture
def beside(tmp_path):
  """What is prepared of a copy, and that copy."""
  write(tmp_path / 'copy', pickled_files('cifar100'))
  spec = spec_of('cifar100')
  spec.load(source(tmp_path / 'tfds', tmp_path / 'copy'))
  return spec, tmp_path / 'tfds', tmp_path / 'copy'


def another(folder):
  """Writes a copy of which one pixel differs; returns its digest."""
  files = binary_files('cifar100')
  last = files['test.bin'][-1] ^ 1
  write(folder, files | {'test.bin': files['test.bin'][:-1] + bytes([last])})
  return spec_of('cifar100').check_copy(folder)


def test_a_path_that_holds_no_copy_is_refused(beside, tmp_path):
  spec, root, _ = beside
  with pytest.raises(DataError, match='another, is not there: name a copy'):
    spec.load(source(root, tmp_path / 'another'))
  with pytest.raises(DataError, match='is no copy of cifar100 and holds none'):
    spec.load(source(root, tmp_path))


def test_another_copy_than_what_is_prepared_is_refused(beside, tmp_path):
  spec, root, _ = beside
  digest = another(tmp_path / 'b')
  told = (
    f'data.path, {tmp_path}/b, is a copy ({digest}), but {root}/cifar100/3.0.2 '
    f'was prepared from a copy ({DIGESTS["cifar100"]}): leave data.path out'
  )
  with pytest.raises(DataError, match=f'^{re.escape(told)}'):
    spec.load(source(root, tmp_path / 'b'))
  # Who compares the fingerprint needs no copy.
  for path in ('b', 'none'):
    spec.load(source(root, tmp_path / path, compared=False))


def test_a_copy_is_not_the_official_archive(beside, tmp_path):
  spec, _, copy = beside
  path = tmp_path / 'official' / spec.file
  pack(path, binary_files('cifar100'))
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  official = dataclasses.replace(spec, sha256=digest)
  for _ in range(2):
    official.load(source(tmp_path / 'a', path))
  with pytest.raises(DataError, match='from the official data set: leave'):
    official.load(source(tmp_path / 'a', copy))
  with pytest.raises(DataError, match='is the official data set, but'):
    official.load(source(tmp_path / 'tfds', path.parent))


def test_a_known_copy_is_read_again_where_it_changed(
  beside, tmp_path, monkeypatch
):
  """Also the same contents elsewhere, and what an earlier version prepared."""
  spec, root, copy = beside
  read = []
  check = cifar.Cifar.check_copy
  monkeypatch.setattr(
    cifar.Cifar, 'check_copy', lambda s, p: read.append(p) or check(s, p)
  )

  def load(path):
    read.clear()
    for _ in range(2):
      spec.load(source(root, path))
    return list(read)

  assert load(copy) == []
  spec.load(source(tmp_path / 'anew', copy))
  assert read == [copy]
  os.utime(copy / 'test', (1, 1))
  assert load(copy) == [copy]
  copy.rename(tmp_path / 'moved')
  assert load(tmp_path / 'moved') == [tmp_path / 'moved']
  (root / 'cifar100/3.0.2/source.txt').unlink()
  assert load(tmp_path / 'moved') == [tmp_path / 'moved']
  shutil.rmtree(tmp_path / 'moved')
  another(tmp_path / 'moved')
  with pytest.raises(DataError, match='leave data.path out'):
    load(tmp_path / 'moved')


def test_what_another_process_prepares_meanwhile_is_compared(
  tmp_path, monkeypatch
):
  write(tmp_path / 'a', pickled_files('cifar100'))
  another(tmp_path / 'b')
  spec, prepare = spec_of('cifar100'), cifar.Cifar.prepare

  def late(self, place):
    prepare(self, source(tmp_path, tmp_path / 'a'))
    prepare(self, place)

  monkeypatch.setattr(cifar.Cifar, 'prepare', late)
  with pytest.raises(DataError, match='leave data.path out'):
    spec.load(source(tmp_path, tmp_path / 'b'))


# What looks like a copy.


@pytest.mark.parametrize('name', ['notes.txt', 'x.tsv', 'cifar.torrent'])
def test_only_tars_are_taken_for_copies(name, tmp_path):
  (tmp_path / name).write_text('no tar')
  with pytest.raises(DataError, match=f'{name}, is no copy of cifar10 and'):
    spec_of('cifar10').load(source(tmp_path, tmp_path / name))


@pytest.mark.parametrize(
  ('suffix', 'mode'),
  [
    *(('.tar', 'w'), ('.TAR.GZ', 'w:gz'), ('.tgz', 'w:gz')),
    *(('.tar.xz', 'w:xz'), ('.txz', 'w:xz'), ('.tar.bz2', 'w:bz2')),
  ],
)
def test_a_tar_may_have_any_name_and_compression(suffix, mode, tmp_path):
  """And where it is damaged, that is told in one line."""
  path = tmp_path / f'mine{suffix}'
  write(tmp_path / 'x', pickled_files('cifar10'))
  with tarfile.open(path, mode) as tar:
    tar.add(tmp_path / 'x', 'x')
  spec_of('cifar10').load(source(tmp_path / 'a', path))
  content = path.read_bytes()
  rng = np.random.default_rng(0)
  for first in (8, 100, len(content) // 2):
    noise = rng.bytes(len(content) - first)
    path.write_bytes(content[:first] + noise)
    with pytest.raises(DataError, match=f'^(cannot read )?{path}.*replace it'):
      spec_of('cifar10').load(source(tmp_path / 'b', path))
  path.write_bytes(b'<html>')
  with pytest.raises(DataError, match=f'cannot read {path}: it is no tar; rep'):
    spec_of('cifar10').load(source(tmp_path / 'b', path))


@pytest.mark.parametrize('given', [False, True])
def test_a_folder_may_be_called_as_an_archive(given, tmp_path):
  for name in ('cifar-10-binary.tar.gz', 'cifar-10-python.tar.gz'):
    (tmp_path / name).mkdir()
  copy = tmp_path / 'cifar-10-binary.tar.gz'
  copy = copy if given else tmp_path / 'cifar-10-batches-bin'
  write(copy / 'x' if given else copy, binary_files('cifar10'))
  if given:
    (copy / 'x').rename(copy / 'cifar-10-batches-bin')
  spec_of('cifar10').load(source(tmp_path, copy if given else ''))


@pytest.mark.parametrize(
  'content',
  [
    b"cnumpy\ndtype\n(S'(1,2'\ntR.",
    b"cnumpy\ndtype\n(S'(1'\ntR.",
    b"cnumpy\nndarray\n((L-1L\ntS'O'\ntR.",
    b"c_codecs\nencode\n(S'a'\nS'none'\ntR.",
    b"cnumpy\ndtype\n(S'" + b'(' * 5000 + b"'\ntR.",
    b'(I1\nI2\ntb.',
  ],
)
def test_whatever_a_pickle_makes_numpy_raise_is_damage(content):
  with pytest.raises(ValueError, match=r'^[^\n]+$'):
    pickles.read(content)


def damaged(rng, content):
  """Changes a few bytes."""
  content = bytearray(content)
  for place in rng.integers(len(content), size=rng.integers(1, 5)):
    content[place] = rng.integers(256)
  return bytes(content)


@pytest.mark.parametrize('protocol', range(6))
def test_every_damage_to_a_pickle_is_a_value_error(protocol):
  """NumPy's own types took states that raised SystemError, or ended it all."""
  batch = {b'data': np.zeros((2, 8), np.uint8), b'labels': [1, 2], 'f': ['a']}
  content = pickle.dumps(batch, protocol)
  np.testing.assert_array_equal(pickles.read(content)[b'data'], batch[b'data'])
  rng = np.random.default_rng(protocol)
  refused = 0
  for _ in range(1000):
    try:
      pickles.read(damaged(rng, content))
    except ValueError as error:
      refused += 1
      assert str(error) and '\n' not in str(error)
  assert refused > 300


@pytest.mark.parametrize(
  ('content', 'told'),
  [
    (b'})' + b'\x85' * 400_000 + b'K\x01s.', 'unhashable'),
    (b'}(' + b'(' * 9 + b't' * 9 + b'K\x01u.', 'unhashable'),
    (b'}\x8f(K\x01\x90\x91K\x01s.', 'invalid load key'),
    (b'cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R(K\x03X\x01\x00\x00\x00|NNN'
     b'J\xff\xff\xff\xffJ\xff\xff\xff\xffKStb.', 'other than numbers'),
    (b'cnumpy\ndtype\n}b.', 'sets the state of what is no array'),
    (b'\x80\x05\x96' + b'\xff' * 7 + b'\x0f.', 'truncated'),
  ],
)  # fmt: skip
def test_states_that_would_end_the_process_are_refused(content, told):
  with pytest.raises(ValueError, match=told):
    pickles.read(content)


@pytest.mark.parametrize('protocol', [2, 5])
def test_arrays_in_the_order_of_fortran_are_taken(protocol, tmp_path):
  def dumps(batch):
    arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
    arrays = {key: np.asfortranarray(value) for key, value in arrays.items()}
    return pickle.dumps(batch | arrays, protocol)

  write(tmp_path / 'c', pickled_files('cifar10'))
  write(tmp_path / 'fortran', pickled_files('cifar10', dumps))
  check = spec_of('cifar10').check_copy
  assert check(tmp_path / 'fortran') == check(tmp_path / 'c')


@pytest.mark.parametrize('suffix', ['gz', 'xz', 'bz2'])
def test_the_checksum_behind_a_tar_is_read(suffix, tmp_path):
  """Tar's reader stops before it."""
  path = tmp_path / f'mine.tar.{suffix}'
  write(tmp_path / 'x', pickled_files('cifar10'))
  with tarfile.open(path, f'w:{suffix}') as tar:
    tar.add(tmp_path / 'x', 'x')
  content = bytearray(path.read_bytes())
  content[-8] ^= 1
  path.write_bytes(content)
  with pytest.raises(DataError, match=f'^cannot read {path}: .*; replace it'):
    spec_of('cifar10').check_copy(path)


# Folders as unpackers leave them.


@pytest.mark.parametrize('given', ['above', 'outer', ''])
def test_a_copy_may_be_in_a_folder_of_its_name(given, tmp_path):
  copy = tmp_path / 'cifar-10-batches-py'
  write(copy / copy.name, pickled_files('cifar10'))
  path = {'above': tmp_path, 'outer': copy}.get(given, '')
  spec_of('cifar10').load(source(tmp_path, path))


def test_an_empty_folder_hides_no_copy(tmp_path):
  (tmp_path / 'cifar-10-batches-py').mkdir()
  with pytest.raises(DataError, match='-py is not .*: it has neither data_bat'):
    spec_of('cifar10').load(source(tmp_path))
  write(tmp_path / 'cifar-10-batches-bin', binary_files('cifar10'))
  spec_of('cifar10').load(source(tmp_path))


def test_a_file_is_told_by_its_own_name(tmp_path):
  files = pickled_files('cifar10')
  half = {k: v[:3] for k, v in pickles.read(files['data_batch_1']).items()}
  write(tmp_path / 'x', files | {'data_batch_1': pickle.dumps(half)})
  with pytest.raises(DataError, match=' data_batch_1 has 3 images, expected 6'):
    spec_of('cifar10').check_copy(tmp_path / 'x')


@pytest.mark.parametrize('names', [[], NAMES[:2], [*NAMES, 'more']])
def test_prepared_names_of_classes_are_all_there(names, beside):
  spec, root, _ = beside
  path = root / 'cifar100/3.0.2/label.labels.txt'
  path.write_text('\n'.join(names)) if names else path.unlink()
  told = f'^{path} names {len(names)} of 3 classes: restore it'
  with pytest.raises(DataError, match=told):
    spec.load(source(root))


def test_names_may_begin_with_a_mark(tmp_path):
  files = binary_files('cifar10')
  marked = {'batches.meta.txt': b'\xef\xbb\xbf' + files['batches.meta.txt']}
  write(tmp_path / 'a', files)
  write(tmp_path / 'b', files | marked)
  check = spec_of('cifar10').check_copy
  assert check(tmp_path / 'a') == check(tmp_path / 'b')
