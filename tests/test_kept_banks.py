# SPDX-License-Identifier: Apache-2.0
"""Banks on disk: read-only, damaged, and not in memory when nobody learns."""

import errno
import gc
import os
import shutil

import pytest
import tiny

from srdl_jax import knowledge, soft_targets, srdl, stage, storage
from srdl_jax.errors import SoftTargetsError
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs.stop_request import StopRequest

SHORT = {'epochs': 2, 'data.examples_per_class': 10, 'log.tensorboard': False}


def run(directory, **fields):
  config = tiny.config(**{**SHORT, **fields})
  return srdl.run(config, str(directory), StopRequest())


def kd(teacher):
  return {
    'method': 'kd',
    'teacher.model': 'tiny',
    'teacher.workdir': str(teacher),
  }


def lines(directory):
  return (directory / 'metrics.jsonl').read_bytes()


def damage(bank):
  file = max(bank.rglob('*'), key=lambda path: path.stat().st_size)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 4
  file.write_bytes(content)


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
  """A teacher with its bank, and a student's directory."""
  folder = tmp_path_factory.mktemp('taught')
  run(folder / 'teacher', method='vanilla')
  run(folder / 'student', **kd(folder / 'teacher'))
  return folder


@pytest.fixture
def read_only(taught, tmp_path, monkeypatch):
  """A copy of the teacher, as on a disk that takes nothing."""
  place = tmp_path / 'teacher'
  shutil.copytree(taught / 'teacher', place)
  asked, opened, made = os.access, os.open, os.mkdir

  def refuse(path):
    if str(path).startswith(str(place)):
      raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

  def open_(path, flags, *rest, **more):
    if flags & (os.O_WRONLY | os.O_RDWR):
      refuse(path)
    return opened(path, flags, *rest, **more)

  def access(path, mode, **more):
    inside = str(path).startswith(str(place))
    return asked(path, mode, **more) and not (inside and mode & os.W_OK)

  def mkdir(path, *rest, **more):
    refuse(path)
    return made(path, *rest, **more)

  monkeypatch.setattr(os, 'access', access)
  monkeypatch.setattr(os, 'open', open_)
  monkeypatch.setattr(os, 'mkdir', mkdir)
  return place


@pytest.mark.parametrize('bank', ['none', 'damaged', 'whole', 'untimed'])
def test_a_teacher_that_takes_nothing_teaches(
  taught, read_only, tmp_path, bank, capfd
):
  theirs = run_directory.soft_targets(read_only, 1)
  if bank == 'none':
    shutil.rmtree(theirs)
  elif bank == 'damaged':
    damage(theirs)
  elif bank == 'untimed':
    (theirs.parent / 'extraction.json').unlink()
  before = sorted(read_only.rglob('*'))
  found = run(tmp_path / 'student', **kd(read_only))
  assert lines(tmp_path / 'student') == lines(taught / 'student')
  ours = run_directory.soft_targets(tmp_path / 'student', 0)
  assert ours.exists() == (bank in ('none', 'damaged'))
  assert ('damaged' in capfd.readouterr().err) == (bank == 'damaged')
  assert sorted(read_only.rglob('*')) == before
  # It goes on with its own.
  (tmp_path / 'student' / 'result.json').unlink()
  again = run(tmp_path / 'student', **kd(read_only))
  assert again['final'] == found['final']


@pytest.mark.parametrize('file', ['values', 'marker', 'lost'])
def test_a_damaged_bank_is_made_again_and_told(taught, tmp_path, capfd, file):
  teacher = shutil.copytree(taught / 'teacher', tmp_path / 'teacher')
  bank = run_directory.soft_targets(teacher, 1)
  whole = {p: p.read_bytes() for p in bank.rglob('*') if p.is_file()}
  if file == 'values':
    damage(bank)
  elif file == 'marker':
    (bank / 'COMPLETE').write_text('[' * 200_000)
  else:
    (bank / 'log_probs' / 'zarr.json').unlink()
  run(tmp_path / 'student', **kd(teacher))
  told = capfd.readouterr().err
  assert f'soft targets {bank}: damaged' in told
  assert lines(tmp_path / 'student') == lines(taught / 'student')
  assert {p: p.read_bytes() for p in bank.rglob('*') if p.is_file()} == whole


def test_a_bank_that_cannot_be_read_back_ends_the_run(tmp_path, monkeypatch):
  def save(directory, *rest, **more):
    original(directory, *rest, **more)
    damage(storage.path_of(directory))

  original = soft_targets.save
  monkeypatch.setattr(soft_targets, 'save', save)
  with pytest.raises(SoftTargetsError, match='damaged'):
    run(tmp_path / 'run', method='srdl')


def test_banks_and_optimisers_that_nobody_needs_are_not_in_memory(
  tmp_path, monkeypatch
):
  banks, states, train = [], [], stage.train

  def counting(experiment, bound, *, previous, **rest):
    end = train(experiment, bound, previous=previous, **rest)
    gc.collect()
    found = [o for o in gc.get_objects() if type(o) is soft_targets.Bank]
    banks.append(len(found))
    return end

  def assemble(experiment, ends, knowledge):
    states.extend('opt_state' in end.state for end in ends)
    assert all(its.bank is None for its in knowledge.values())
    return original(experiment, ends, knowledge)

  original = srdl.result.assemble
  monkeypatch.setattr(stage, 'train', counting)
  monkeypatch.setattr(srdl.result, 'assemble', assemble)
  fields = {'method': 'born_again', 'born_again.generations': 2, 'epochs': 3}
  found = run(tmp_path, **fields)
  assert banks == [0, 1, 1]
  assert states == [False, False, True]
  assert [bool(s.get('soft_targets')) for s in found['stages']] == [1, 1, 0]


def test_knowledge_without_a_bank_is_left_alone():
  its = {1: knowledge.Knowledge(None, None, 0.0)}
  assert knowledge.still_needed(its, ()) == its
