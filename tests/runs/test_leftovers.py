# SPDX-License-Identifier: Apache-2.0
"""What kills leave goes; what is someone else's stays, and whole banks do."""

import os
import signal
import stat

import made_bank
import pytest
import started

from srdl_jax import errors, storage
from srdl_jax.runs import leftovers
from srdl_jax.storage import locks

TOKEN = f'.shared_{"0af7" * 8}'
LEFT = (
  *(TOKEN, f'.{TOKEN}.host.12.{"0a" * 8}.tmp', '.result.json.host.a.12.tmp'),
  *('.config.json.host.12.tmp', f'.metrics.jsonl.host.12.{"0a" * 8}.tmp'),
  *('stage_1/.extraction_2_views.json.h.3.tmp',),
)
OWN = (
  *('.shared_notes', '.shared_0af7', '.notes.tmp', '.draft.host.12.tmp'),
  *('result.json.host.12.tmp', '.result.json.tmp', '.result.json.bak'),
  *('stage_1/mine.partial', 'stage_1/soft_targets.partial.txt'),
  *('mine/.result.json.host.12.tmp', 'soft_targets.earlier/notes.txt'),
)


def test_what_is_ours_goes_and_what_is_not_stays(tmp_path):
  for name in (*LEFT, *OWN):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('x')
  (tmp_path / 'stage_1/soft_targets.partial/log_probs').mkdir(parents=True)
  (tmp_path / 'stage_1/soft_targets.partial/.COMPLETE.host.12.tmp').touch()
  leftovers.clear(tmp_path)
  found = [p for p in tmp_path.rglob('*') if p.is_file()]
  assert {str(p.relative_to(tmp_path)) for p in found} == {*OWN}
  assert not (tmp_path / 'stage_1/soft_targets.partial').exists()


KILLED = """
import os, sys
sys.path.insert(0, 'tests')
import made_bank, pathlib
from srdl_jax.storage import files
folder = pathlib.Path(sys.argv[1])
made_bank.save(folder)
rename, count = os.rename, [0]
def kill(*args):
  count[0] += 1
  if count[0] == int(sys.argv[2]):
    os.kill(os.getpid(), 9)
  rename(*args)
os.rename = kill
made_bank.save(folder)
"""


@pytest.mark.parametrize('number', [1, 2])
def test_a_bank_that_was_being_replaced_is_there_again(tmp_path, number):
  folder = tmp_path / 'stage_1' / 'soft_targets'
  done = started.python('-c', KILLED, folder, number)
  assert done.returncode == -signal.SIGKILL, done.stderr
  leftovers.clear(tmp_path)
  assert os.listdir(folder.parent) == ['soft_targets']
  assert made_bank.load(folder).present_N.any()


def test_of_two_whole_banks_the_newer_stays(tmp_path):
  folder = tmp_path / 'stage_1' / 'soft_targets'
  made_bank.save(folder)
  made_bank.save(folder.with_name('soft_targets.earlier'))
  (folder.with_name('soft_targets.earlier') / 'COMPLETE').unlink()
  leftovers.clear(tmp_path)
  assert os.listdir(folder.parent) == ['soft_targets']
  assert made_bank.load(folder).present_N.any()


# Links, as someone may have put who shares the folder.


@pytest.fixture
def victim(tmp_path):
  (tmp_path / 'victim').write_text('precious')
  yield tmp_path / 'victim'
  assert (tmp_path / 'victim').read_text() == 'precious'


def test_locks_follow_no_link(tmp_path, victim):
  folder = tmp_path / 'run'
  folder.mkdir()
  for name in ('.lock', '.srdl_jax.lock'):
    (folder / name).symlink_to(victim)
  with pytest.raises(errors.WorkdirError, match='symbolic'):
    storage.lock(folder).__enter__()
  with pytest.raises(OSError, match='symbolic'):
    locks.taking_turns(folder).__enter__()
  assert not storage.is_held(folder)


def test_drafts_follow_no_link_and_take_the_ordinary_mode(
  tmp_path, victim, monkeypatch
):
  path = tmp_path / 'x.json'
  monkeypatch.setattr(storage.files.secrets, 'token_hex', lambda _: '0a')
  draft = storage.files._draft_of(path)
  draft.symlink_to(victim)
  with pytest.raises(errors.WorkdirError, match='File exists'):
    storage.write_json(path, {})
  monkeypatch.undo()
  storage.write_json(path, {})
  mask = os.umask(0)
  os.umask(mask)
  assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
  assert storage.files._draft_of(path) != storage.files._draft_of(path)
