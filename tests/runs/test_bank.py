# SPDX-License-Identifier: Apache-2.0
"""A bank on disk is whole and unchanged, or refused; kills and damage."""

import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
import started

from srdl_jax import errors, soft_targets
from srdl_jax.runs import bank as bank_files

_ROOT = pathlib.Path(__file__).parents[2]
_N, _K, _T = 10, 3, 3.0
_SIZE = {'num_examples': _N, 'num_classes': _K}
# With chunks of four rows one chunk, 4 to 7, has no row at all.
_ROWS = np.array([0, 1, 2, 8, 9])
_MADE = {
  'dataset': 'cifar100',
  'split': 'train',
  'rows': 'sha256:12',
  'step': 7,
  'rate': 0.1,
  'subset': None,
  'name': 'Ünit',
}
_LOGITS = np.random.default_rng(0).normal(size=(_N, _K)).astype(np.float32) * 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The place of a bank, whose chunks are of four rows."""
  monkeypatch.setattr(bank_files, '_CHUNK_ROWS', 4)
  return tmp_path / 'stage_1' / 'soft_targets'


def _blocks(rows=_ROWS, size=2, logits=_LOGITS):
  for start in range(0, len(rows), size):
    part = np.asarray(rows[start : start + size])
    yield part, logits[part]


def _save(folder, blocks=None, **changed):
  options = _SIZE | {
    'temperature': _T,
    'provenance': _MADE,
    'expected_rows': _ROWS,
  }
  blocks = _blocks() if blocks is None else blocks
  soft_targets.save(folder, blocks, **options | changed)


def _load(folder, **changed):
  return soft_targets.load(folder, **_SIZE | {'provenance': _MADE} | changed)


def _refusal(call, *args, **options):
  with pytest.raises(errors.SoftTargetsError) as caught:
    call(*args, **options)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def _files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def _unread():
  raise AssertionError('the blocks were read')
  yield


def test_sound_bank_of_the_same_making_stays(folder):
  _save(folder)

  def files():
    stats = {path: path.stat() for path in folder.rglob('*')}
    return {p: (s.st_ino, s.st_mtime_ns) for p, s in stats.items()}

  before = files()
  _save(folder, _unread())
  assert files() == before


@pytest.mark.parametrize(
  'changed',
  [
    {'provenance': _MADE | {'step': 8}},
    {'provenance': _MADE | {'more': 1}},
    {'temperature': 4.0},
    {'dtype': 'float16'},
    {'expected_rows': _ROWS[:4]},
    {'num_examples': _N + 1},
  ],
  ids=lambda changed: '-'.join(changed),
)
def test_bank_of_another_making_is_replaced(folder, tmp_path, changed):
  rows = changed.get('expected_rows', _ROWS)
  _save(folder)
  _save(folder, _blocks(rows), **changed)
  _save(tmp_path / 'fresh', _blocks(rows), **changed)
  assert _files(folder) == _files(tmp_path / 'fresh')
  assert os.listdir(folder.parent) == [folder.name]


def test_damaged_bank_is_replaced(folder):
  _save(folder)
  whole = _files(folder)
  (folder / 'log_probs' / 'c' / '0' / '0').write_bytes(b'')
  _save(folder)
  assert _files(folder) == whole


def test_other_files_are_left_alone(folder):
  folder.mkdir(parents=True)
  (folder / 'notes.txt').write_text('mine')
  assert "'notes.txt' in it is not ours" in _refusal(_save, folder, _unread())
  assert _files(folder) == {'notes.txt': b'mine'}


def test_place_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('mine')
  told = _refusal(_save, tmp_path / 'file', _unread())
  assert 'cannot be written' in told
  told = _refusal(_save, tmp_path / 'file' / 'bank')
  assert 'cannot be written' in told
  assert _files(tmp_path) == {'file': b'mine'}


_KILLED = """
import os, pathlib, sys
import numpy as np
from srdl_jax import soft_targets
from srdl_jax.runs import bank
from srdl_jax.storage import files
module, name = {
    'values': (bank, '_marker'),
    'marker': (os, 'rename'),
    'rename': (files, 'sync'),
}[sys.argv[2]]
real = getattr(module, name)
def kill(*args):
  # What is in the bank is synchronised before.
  if name != 'sync' or args[0] == pathlib.Path(sys.argv[1]).parent:
    os.kill(os.getpid(), 9)
  real(*args)
setattr(module, name, kill)
soft_targets.save(
    sys.argv[1], [(np.arange(2), np.zeros((2, 3)))], num_examples=2,
    num_classes=3, temperature=3.0, provenance={}, expected_rows=np.arange(2))
"""


@pytest.mark.parametrize(
  ('where', 'complete'),
  [('values', False), ('marker', False), ('rename', True)],
)
def test_kill_leaves_no_bank_or_a_whole_one(folder, where, complete):
  done = started.python('-c', _KILLED, folder, where)
  assert done.returncode == -signal.SIGKILL
  assert soft_targets.is_complete(folder) == complete
  left = {'num_examples': 2, 'num_classes': 3, 'provenance': {}}
  if complete:
    assert _load(folder, **left).present_N.all()
  else:
    assert 'missing' in _refusal(_load, folder, **left)
    assert os.listdir(folder.parent) == [f'{folder.name}.partial']
  _save(folder)
  assert _load(folder).present_N.sum() == len(_ROWS)
  assert os.listdir(folder.parent) == [folder.name]


def test_missing_and_unfinished_banks(folder):
  assert 'missing: extract' in _refusal(_load, folder)
  _save(folder)
  (folder / 'COMPLETE').unlink()
  assert not soft_targets.is_complete(folder)
  assert 'unfinished (no marker): extract' in _refusal(_load, folder)
  _save(folder)
  assert _load(folder).present_N.sum() == len(_ROWS)


def test_every_flipped_byte_is_refused(folder):
  _save(folder)
  files = _files(folder)
  assert sorted(files) == [
    'COMPLETE',
    'log_probs/c/0/0',
    'log_probs/c/1/0',
    'log_probs/c/2/0',
    'log_probs/zarr.json',
  ]
  for name, content in files.items():
    for place in range(len(content)):
      damaged = bytearray(content)
      damaged[place] ^= 1 << place % 8
      (folder / name).write_bytes(damaged)
      _refusal(_load, folder)
    (folder / name).write_bytes(content)
  assert _load(folder).present_N.sum() == len(_ROWS)


def test_every_truncated_file_is_refused(folder):
  _save(folder)
  for name, content in _files(folder).items():
    # Without its last byte, a line's end, the marker says the same.
    longest = len(content) - (2 if name == 'COMPLETE' else 1)
    for length in {*range(0, longest, 5), longest}:
      (folder / name).write_bytes(content[:length])
      _refusal(_load, folder)
    (folder / name).write_bytes(content)
  assert _load(folder).present_N.sum() == len(_ROWS)


def test_every_missing_file_is_refused(folder):
  _save(folder)
  for name, content in _files(folder).items():
    (folder / name).unlink()
    _refusal(_load, folder)
    (folder / name).write_bytes(content)
  shutil.rmtree(folder / 'log_probs')
  _refusal(_load, folder)


@pytest.mark.parametrize('content', [b'', b'[]', b'{}', b'null', b'7', b'\xff'])
def test_marker_of_something_else_is_refused(folder, content):
  _save(folder)
  (folder / 'COMPLETE').write_bytes(content)
  assert 'damaged' in _refusal(_load, folder)


def test_marker_of_another_format_says_so(folder):
  _save(folder)
  text = (folder / 'COMPLETE').read_text()
  (folder / 'COMPLETE').write_text(text.replace('"format": 1', '"format": 2'))
  assert 'format 2, of a later version' in _refusal(_load, folder)


def test_chunks_with_right_checksums_in_wrong_places_are_refused(folder):
  _save(folder)
  chunks = folder / 'log_probs' / 'c'
  first, last = (chunks / n / '0' for n in '02')
  content = first.read_bytes(), last.read_bytes()
  first.write_bytes(content[1])
  last.write_bytes(content[0])
  assert 'not those that were written' in _refusal(_load, folder)


def test_array_of_another_network_under_this_marker_is_refused(
  folder, tmp_path
):
  _save(folder)
  _save(tmp_path / 'other', _blocks(logits=_LOGITS + np.eye(_N, _K)))
  shutil.copytree(
    tmp_path / 'other' / 'log_probs',
    folder / 'log_probs',
    dirs_exist_ok=True,
  )
  # Same making, same metadata, right checksums: only the values differ.
  assert 'not those that were written' in _refusal(_load, folder)
