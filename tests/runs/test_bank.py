# SPDX-License-Identifier: Apache-2.0
"""A bank on disk is whole and unchanged, or refused; kills and damage."""

import hashlib
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
import started
from made_bank import (
  LOGITS,
  MADE,
  ROWS,
  K,
  N,
  blocks_of,
  files_of,
  load,
  refusal,
  save,
)

from srdl_jax import soft_targets, storage
from srdl_jax.runs import bank as bank_files

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The place of a bank, whose chunks are of four rows."""
  monkeypatch.setattr(bank_files, '_CHUNK_ROWS', 4)
  return tmp_path / 'stage_1' / 'soft_targets'


def _unread():
  raise AssertionError('the blocks were read')
  yield


@pytest.mark.parametrize(
  'changed',
  [
    {'provenance': MADE | {'step': 8}},
    {'provenance': MADE | {'more': 1}},
    {'temperature': 4.0},
    {'dtype': 'float16'},
    {'expected_rows': ROWS[:4]},
    {'num_examples': N + 1},
  ],
  ids=lambda changed: '-'.join(changed),
)
def test_bank_of_another_making_is_replaced(folder, tmp_path, changed):
  rows = changed.get('expected_rows', ROWS)
  save(folder)
  save(folder, blocks_of(rows), **changed)
  save(tmp_path / 'fresh', blocks_of(rows), **changed)
  assert files_of(folder) == files_of(tmp_path / 'fresh')
  assert os.listdir(folder.parent) == [folder.name]


def test_damaged_bank_is_replaced(folder):
  save(folder)
  whole = files_of(folder)
  (folder / 'log_probs' / 'c' / '0' / '0').write_bytes(b'')
  save(folder)
  assert files_of(folder) == whole


def test_other_files_are_left_alone(folder):
  folder.mkdir(parents=True)
  (folder / 'notes.txt').write_text('mine')
  assert "'notes.txt' in it is not ours" in refusal(save, folder, _unread())
  assert files_of(folder) == {'notes.txt': b'mine'}


def test_place_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('mine')
  told = refusal(save, tmp_path / 'file', _unread())
  assert 'cannot be written' in told
  told = refusal(save, tmp_path / 'file' / 'bank')
  assert 'cannot be written' in told
  assert files_of(tmp_path) == {'file': b'mine'}


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
    assert load(folder, **left).present_N.all()
  else:
    assert 'missing' in refusal(load, folder, **left)
    assert os.listdir(folder.parent) == [f'{folder.name}.partial']
  save(folder)
  assert load(folder).present_N.sum() == len(ROWS)
  assert os.listdir(folder.parent) == [folder.name]


def test_missing_and_unfinished_banks(folder):
  assert 'missing: extract' in refusal(load, folder)
  save(folder)
  (folder / 'COMPLETE').unlink()
  assert not soft_targets.is_complete(folder)
  assert 'unfinished (no marker): extract' in refusal(load, folder)
  save(folder)
  assert load(folder).present_N.sum() == len(ROWS)


def test_every_flipped_byte_is_refused(folder):
  save(folder)
  files = files_of(folder)
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
      refusal(load, folder)
    (folder / name).write_bytes(content)
  assert load(folder).present_N.sum() == len(ROWS)


def test_every_truncated_file_is_refused(folder):
  save(folder)
  for name, content in files_of(folder).items():
    # Without its last byte, a line's end, the marker says the same.
    longest = len(content) - (2 if name == 'COMPLETE' else 1)
    for length in {*range(0, longest, 5), longest}:
      (folder / name).write_bytes(content[:length])
      refusal(load, folder)
    (folder / name).write_bytes(content)
  assert load(folder).present_N.sum() == len(ROWS)


def test_every_missing_file_is_refused(folder):
  save(folder)
  for name, content in files_of(folder).items():
    (folder / name).unlink()
    refusal(load, folder)
    (folder / name).write_bytes(content)
  shutil.rmtree(folder / 'log_probs')
  refusal(load, folder)


@pytest.mark.parametrize('content', [b'', b'[]', b'{}', b'null', b'7', b'\xff'])
def test_marker_of_something_else_is_refused(folder, content):
  save(folder)
  (folder / 'COMPLETE').write_bytes(content)
  assert 'damaged' in refusal(load, folder)


@pytest.mark.parametrize(
  'content', [b'x', b'[1]', b'{}', b'{"attributes": 3}', b'[' * 10**5]
)
def test_metadata_of_something_else_are_refused(folder, content):
  save(folder)
  (folder / 'log_probs' / 'zarr.json').write_bytes(content)
  marker = storage.read_json(folder / 'COMPLETE')
  # As if it had been written so.
  marker['metadata'] = hashlib.sha256(content).hexdigest()
  storage.write_json(folder / 'COMPLETE', marker)
  assert 'damaged' in refusal(load, folder)


def test_marker_of_another_format_says_so(folder):
  save(folder)
  text = (folder / 'COMPLETE').read_text()
  (folder / 'COMPLETE').write_text(text.replace('"format": 1', '"format": 2'))
  assert 'format 2, of a later version' in refusal(load, folder)


def test_chunks_with_right_checksums_in_wrong_places_are_refused(folder):
  save(folder)
  chunks = folder / 'log_probs' / 'c'
  first, last = (chunks / n / '0' for n in '02')
  content = first.read_bytes(), last.read_bytes()
  first.write_bytes(content[1])
  last.write_bytes(content[0])
  assert 'not those that were written' in refusal(load, folder)


def test_array_of_another_network_under_this_marker_is_refused(
  folder, tmp_path
):
  save(folder)
  save(tmp_path / 'other', blocks_of(logits=LOGITS + np.eye(N, K)))
  shutil.copytree(
    tmp_path / 'other' / 'log_probs',
    folder / 'log_probs',
    dirs_exist_ok=True,
  )
  # Same making, same metadata, right checksums: only the values differ.
  assert 'not those that were written' in refusal(load, folder)
