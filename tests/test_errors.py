# SPDX-License-Identifier: Apache-2.0
"""Bad input: one readable message, an exit code, and nothing lost."""

import errno
import os
import pathlib
import re
import shutil

import pytest
import started
import tensorflow_datasets as tfds
import tiny

from srdl_jax import build, command, srdl, storage, trained, weights
from srdl_jax.errors import EXIT_CODES, SrdlError
from srdl_jax.reproduce import scales
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import stop_request
from srdl_jax.weights import state_dict

ROOT = pathlib.Path(__file__).parent.parent


def run(directory, **fields):
  return srdl.run(
    tiny.config(**fields), str(directory), stop_request.StopRequest()
  )


def snapshot(directory):
  return {
    path.relative_to(directory): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file() and path.name != '.lock'
  }


def assert_known(error: SrdlError, code: int, pattern: str):
  assert error.exit_code == code and code in EXIT_CODES
  assert re.search(pattern, str(error)), str(error)
  assert '\n' not in str(error) and len(str(error)) < 700


LOOKING = {
  'init.from_path': (weights.load, 4),
  'weights': (lambda path: state_dict.read(pathlib.Path(path)), 4),
  'workdir': (run_directory.resolve, 4),
  '--config': (command.bundled.find, 2),
  '--weights': (
    lambda path: scales.possible(scales.rows('table3', 'full'), path),
    2,
  ),
}


@pytest.mark.parametrize('path', ['x' * 5000, 'x/' * 2500])
@pytest.mark.parametrize('name', LOOKING)
def test_a_path_that_is_too_long_is_told(name, path):
  look, code = LOOKING[name]
  with pytest.raises(SrdlError) as caught:
    look(path)
  too_long = os.strerror(errno.ENAMETOOLONG)
  assert_known(caught.value, code, f'^{name} x[x/]+\\.\\.\\. .*{too_long}')


@pytest.mark.parametrize(
  ('fields', 'code', 'pattern'),
  [
    ({'model.name': 'resnet9'}, 2, "'resnet9'; known: .*resnet32"),
    ({'method': 'srld'}, 2, "'srld'; known: .*vanilla.*srdl"),
    ({'data.name': 'cifar'}, 2, "'cifar'.*cifar100"),
    ({'epochs': 1}, 2, 'epochs = 1 leaves stage 1'),
    ({'method': 'kd'}, 2, "'kd' needs a teacher: .*teacher.model"),
    (
      {'method': 'kd', 'teacher.model': 'resnet9'},
      2,
      "'resnet9'; known: .*resnet110",
    ),
    ({'teacher.model': 'resnet8'}, 2, "'srdl' has no use for teacher.model"),
    ({'model.name': 'densenet121'}, 2, 'images are too small'),
    ({'model.name': 'resnet8', 'model.stem': 'small'}, 2, "'small_stem'"),
    ({'batch_size': 42, 'devices': 4}, 2, '42 is not divisible by the 4'),
    ({'devices': 64}, 2, 'devices = 64, but 4 cpu'),
    ({'batch_size': 240}, 2, '240 is larger than the 200'),
    ({'epochs': 0}, 2, 'epochs = 0 is out of range.*at least 1'),
    ({'optimiser.momentum': 1.0}, 2, r'momentum = 1.0 .*\[0, 1\)'),
    ({'augment.mode': 'wrap'}, 2, "'wrap'.*reflect, zero"),
    ({'augment.padding': 8}, 2, 'padding = 8 must be below.*8 x 8'),
    ({'schedule.decay_at': (0.75, 0.5)}, 2, 'decay_at.*ascending'),
    ({'schedule.decay_at': ('a', 'b')}, 2, 'decay_at.*ascending'),
    ({'data.holdout': 1437}, 2, 'holdout'),
    ({'data.examples_per_class': 5000}, 2, '5000'),
    ({'distillation.temperature': 0.0}, 2, 'temperature = 0.0.*above 0'),
    ({'distillation.temperature': float('nan')}, 2, 'temperature = nan'),
    (
      {'data.name': 'cifar100', 'data.download': False},
      3,
      'cifar-100-binary.tar.gz',
    ),
  ],
)
def test_bad_configuration(tmp_path, fields, code, pattern):
  if fields.get('data.name') == 'cifar100':
    fields = {**fields, 'data.data_dir': str(tmp_path / 'absent')}
  with pytest.raises(SrdlError) as caught:
    run(tmp_path / 'run', **fields)
  assert_known(caught.value, code, pattern)
  assert not (tmp_path / 'run').exists()


def test_data_set_in_tfrecord_form(tmp_path):
  folder = tmp_path / 'cifar100' / '3.0.2'
  folder.mkdir(parents=True)
  for split in ('train', 'test'):
    (folder / f'cifar100-{split}.tfrecord-00000-of-00001').write_bytes(b'x')
  info = {
    'name': 'cifar100',
    'version': '3.0.2',
    'fileFormat': 'tfrecord',
    'splits': [],
  }
  storage.write_json(folder / 'dataset_info.json', info)
  features = {
    'image': tfds.features.Image(shape=(32, 32, 3)),
    'label': tfds.features.ClassLabel(num_classes=100),
  }
  tfds.features.FeaturesDict(features).save_config(folder)
  before = snapshot(tmp_path)
  with pytest.raises(SrdlError) as caught:
    run(
      tmp_path / 'run',
      **{
        'data.name': 'cifar100',
        'data.data_dir': str(tmp_path),
        'data.download': False,
      },
    )
  assert_known(caught.value, 3, 'in tfrecord form.*another directory')
  assert snapshot(tmp_path) == before


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  directory = tmp_path_factory.mktemp('finished') / 'run'
  run(directory)
  return directory


@pytest.fixture(scope='module')
def other(tmp_path_factory):
  """A run of another seed."""
  directory = tmp_path_factory.mktemp('other') / 'run'
  run(directory, seed=3)
  return directory


@pytest.fixture
def stage_two_to_do(finished, tmp_path):
  """A run that was killed between its bank and stage two."""
  directory = tmp_path / 'run'
  shutil.copytree(finished, directory)
  shutil.rmtree(directory / 'stage_2')
  (directory / 'result.json').unlink()
  return directory


@pytest.mark.parametrize(
  ('fields', 'pattern'),
  [
    ({'seed': 1}, r'seed \(0 there, 1 here\)'),
    ({'method': 'vanilla'}, r"method \('srdl' there, 'vanilla' here\)"),
    ({'epochs': 6, 'batch_size': 20}, r'epochs \(4.*batch_size \(40'),
  ],
)
def test_workdir_of_another_run(finished, fields, pattern):
  before = snapshot(finished)
  with pytest.raises(SrdlError) as caught:
    run(finished, **fields)
  assert_known(caught.value, 4, pattern)
  assert snapshot(finished) == before


def test_workdir_of_another_data_set(stage_two_to_do):
  path = stage_two_to_do / 'config.json'
  record = storage.read_json(path)
  storage.write_json(path, {**record, 'fingerprint': 'abc'})
  before = snapshot(stage_two_to_do)
  with pytest.raises(SrdlError) as caught:
    run(stage_two_to_do)
  assert_known(caught.value, 4, r"the data \('abc' there")
  assert snapshot(stage_two_to_do) == before


def test_fields_that_change_no_number_may_change(stage_two_to_do):
  run(stage_two_to_do, **{'eval.batch_size': 60, 'log.tensorboard': False})
  record = storage.read_json(stage_two_to_do / 'config.json')
  assert record['config']['eval.batch_size'] == 60


def test_workdir_that_is_a_file(tmp_path):
  (tmp_path / 'run').write_text('mine')
  with pytest.raises(SrdlError) as caught:
    run(tmp_path / 'run')
  assert_known(caught.value, 4, 'is a file|Not a directory|cannot be')
  assert (tmp_path / 'run').read_text() == 'mine'


def test_workdir_in_use(tmp_path, finished):
  with storage.lock(finished), pytest.raises(SrdlError) as caught:
    run(finished)
  assert_known(caught.value, 4, f'in use by pid {os.getpid()}')


def largest(directory, pattern):
  files = [p for p in directory.glob(pattern) if p.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def truncate(path):
  os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize('damage', [flip, truncate, pathlib.Path.unlink])
def test_damaged_bank_is_made_again(stage_two_to_do, damage, capfd):
  bank = run_directory.soft_targets(stage_two_to_do, 1)
  file = largest(bank, '**/*')
  whole = file.read_bytes()
  damage(file)
  run(stage_two_to_do)
  assert f'soft targets {bank}: damaged' in capfd.readouterr().err
  assert largest(bank, '**/*').read_bytes() == whole


def test_half_written_bank_is_written_again(stage_two_to_do, finished):
  bank = run_directory.soft_targets(stage_two_to_do, 1)
  shutil.rmtree(bank)
  shutil.copytree(run_directory.soft_targets(finished, 1), f'{bank}.partial')
  truncate(largest(pathlib.Path(f'{bank}.partial'), '**/*'))
  found = run(stage_two_to_do)
  assert found['final'] == storage.read_json(finished / 'result.json')['final']


def test_bank_of_another_run_is_refused(stage_two_to_do, other):
  bank = run_directory.soft_targets(stage_two_to_do, 1)
  shutil.rmtree(bank)
  shutil.copytree(run_directory.soft_targets(other, 1), bank)
  with pytest.raises(SrdlError) as caught:
    run(stage_two_to_do)
  assert_known(caught.value, 4, 'checkpoint')
  assert bank.exists()


def test_checkpoint_of_another_run_is_refused(stage_two_to_do, other):
  folder = run_directory.checkpoints(stage_two_to_do, 1)
  shutil.rmtree(folder)
  shutil.copytree(run_directory.checkpoints(other, 1), folder)
  before = snapshot(stage_two_to_do)
  with pytest.raises(SrdlError) as caught:
    run(stage_two_to_do)
  assert_known(caught.value, 4, 'another run; it differs in run. Move stage_1')
  assert snapshot(stage_two_to_do) == before


def test_stage_two_of_another_teacher_is_refused(finished, tmp_path):
  directory = tmp_path / 'run'
  shutil.copytree(finished, directory)
  shutil.rmtree(directory / 'stage_1')
  (directory / 'result.json').unlink()
  # Stage one trained anew in other bits, for which 2 devices stand here.
  with pytest.raises(SrdlError) as caught:
    run(directory, devices=2)
  assert_known(caught.value, 4, 'differs in teacher. Move stage_2 away')


@pytest.mark.parametrize(
  'content', ['[]', 'null', '{}', '{"config": {"a": 1}, "fingerprint": "x"}']
)
def test_record_of_another_program(tmp_path, content):
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(SrdlError) as caught:
    run(tmp_path)
  assert_known(caught.value, 4, 'config.json is not the record of a run')
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']


def test_stages_without_a_record(stage_two_to_do):
  (stage_two_to_do / 'config.json').unlink()
  with pytest.raises(SrdlError) as caught:
    run(stage_two_to_do)
  assert_known(caught.value, 4, 'config.json is missing')


@pytest.mark.parametrize(
  'name', ['/proc/run', 's3://bucket/run', 'gs://bucket']
)
def test_workdir_that_cannot_be_written(name):
  with pytest.raises(SrdlError) as caught:
    run(name)
  assert_known(caught.value, 4, re.escape(name))
  assert not pathlib.Path('gs:').exists()


def test_finished_run_keeps_its_result(finished):
  run(finished)
  before = snapshot(finished)
  run(finished)
  assert snapshot(finished) == before


def test_all_checkpoints_damaged(stage_two_to_do):
  folder = run_directory.checkpoints(stage_two_to_do, 1)
  for step in folder.iterdir():
    flip(largest(step, '**/d/*'))
  before = snapshot(stage_two_to_do)
  with pytest.raises(SrdlError) as caught:
    run(stage_two_to_do)
  assert_known(caught.value, 4, 'damaged')
  assert snapshot(stage_two_to_do) == before


def remove(path):
  path.unlink()


def half_written(directory, step):
  # Orbax writes below such a name, and renames when all is there.
  unfinished = directory / f'{step}.orbax-checkpoint-tmp-1'
  (directory / str(step)).rename(unfinished)
  truncate(largest(unfinished, '**/d/*'))


def damaged(by):
  def damage(directory, step):
    by(largest(directory / str(step), '**/d/*'))

  return damage


@pytest.mark.parametrize(
  'damage',
  [damaged(flip), damaged(truncate), damaged(remove), half_written],
  ids=['flipped', 'truncated', 'lost', 'half-written'],
)
# Orbax's reads of a lost file go on after one of them has failed.
@pytest.mark.filterwarnings(
  'ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning'
)
def test_newest_checkpoint_unusable(finished, tmp_path, damage, capfd):
  directory = tmp_path / 'run'
  shutil.copytree(finished, directory)
  (directory / 'result.json').unlink()
  folder = run_directory.checkpoints(directory, 2)
  damage(folder, 20)
  found = run(directory)
  expected = storage.read_json(finished / 'result.json')
  # Trained again from the checkpoint before, to the same bits.
  for name in ('final', 'ensemble', 'best'):
    assert found[name] == expected[name]
  told = capfd.readouterr().err
  assert 'Stage 2 goes on from step 19' in told
  assert ('checkpoint 20 is damaged' in told) == (damage is not half_written)
  assert not list(folder.glob('*tmp*'))
  log = (directory / 'metrics.jsonl').read_bytes()
  assert log == (finished / 'metrics.jsonl').read_bytes()


def test_loss_that_is_not_finite(tmp_path):
  # One huge step makes the weights so large that the next loss overflows.
  with pytest.raises(SrdlError) as caught:
    run(
      tmp_path,
      **{
        'optimiser.learning_rate': 1e38,
        'checkpoint.every_steps': 1,
      },
    )
  assert_known(caught.value, 5, 'stage 1, epoch 1 of the run, step [2-9]')
  assert not (tmp_path / 'result.json').exists()


@pytest.mark.parametrize(
  ('checkpoint', 'code', 'pattern'),
  [
    ('stage_3', 2, "'stage_3'; known: best, stage_1, stage_2, final"),
    ('final', 4, 'stage_2'),
  ],
)
def test_evaluation_of_a_checkpoint_that_is_not_there(
  stage_two_to_do, checkpoint, code, pattern
):
  experiment = build.build(tiny.config())
  with pytest.raises(SrdlError) as caught:
    trained.load_members(stage_two_to_do, checkpoint, experiment)
  assert_known(caught.value, code, pattern)


@pytest.mark.parametrize(
  ('command', 'code', 'pattern'),
  [
    (['main', '--config=configs/digits.py'], 2, '--workdir=DIR is missing'),
    (['main', '--workdir=x'], 2, '--config=FILE is missing'),
    (['main', '--config=configs/none.py', '--workdir=x'], 2, 'none.py'),
    (
      ['main', '--config=configs/digits.py:model=a,modle=b'],
      2,
      "'modle'; known: model, method, teacher, recipe",
    ),
    (
      ['main', '--config=configs/digits.py', '--config.sed=3'],
      2,
      "'sed'; did you mean --config.seed",
    ),
    (
      ['main', '--config=configs/digits.py', '--config.epochs=many'],
      2,
      'epochs.*many|many',
    ),
    (['main', '--config=configs/digits.py', 'surplus'], 2, 'surplus'),
    (
      ['main', '--config=configs/digits.py:method=srld', '--workdir=x'],
      2,
      "'srld'; known: vanilla",
    ),
    (
      [
        'main',
        '--config=configs/digits.py',
        "--config.data={'name':'digits'}",
        '--workdir=x',
      ],
      2,
      'data',
    ),
    (['evaluate'], 2, '--workdir=DIR is missing'),
    (['evaluate', '--workdir=no_such_run'], 4, 'no_such_run/config.json'),
  ],
)
def test_command_line(command, code, pattern):
  module, *arguments = command
  done = started.python('-m', f'srdl_jax.{module}', *arguments)
  assert done.returncode == code, done.stderr
  assert re.search(f'error: .*({pattern})', done.stderr), done.stderr
  assert 'Traceback' not in done.stderr and done.stderr.count('\n') <= 2
  assert not (ROOT / 'x').exists() and not (ROOT / 'no_such_run').exists()
