# SPDX-License-Identifier: Apache-2.0
"""Tests of ImageNet: from made archives of the official form to batches."""

import dataclasses
import functools
import importlib.util
import io
import multiprocessing
import pathlib
import pickle
import re
import shutil
import signal
import sys
import tarfile

import made_imagenet
import numpy as np
import odd_arrays
import pytest
import started
import tensorflow_datasets as tfds
from made_imagenet import DEVKIT, TRAIN, VALIDATION
from PIL import Image

from srdl_jax import data, storage
from srdl_jax.data import decoding, imagenet
from srdl_jax.data import records as records_lib
from srdl_jax.data.imagenet import archives as imagenet_archives
from srdl_jax.data.imagenet import folder as imagenet_folder
from srdl_jax.data.imagenet import index as imagenet_index
from srdl_jax.data.imagenet import preparation as imagenet_preparation
from srdl_jax.data.imagenet.archives import Counts
from srdl_jax.errors import ConfigError, DataError

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPLITS = ('train', 'validation')
COUNTS = Counts(classes=4, train=240, validation=40)
SHARD = 50
FOLDER = pathlib.Path('imagenet2012/5.1.0')
STAGING = pathlib.Path('imagenet2012/incomplete.srdl_5.1.0')

# The command itself, on a machine where something happens to it: its arguments
# are what happens, at the how many-th call, and then the command's own.
COMMAND = """
import os, resource, runpy, signal, sys
trouble, number, *sys.argv = sys.argv[1:]
left = int(number)
def at_last(do, happen):
  def done(*args):
    global left
    left -= 1
    if not left:
      happen()
    return do(*args)
  return done
def die():
  os.kill(os.getpid(), signal.SIGKILL)
def fill_disk():
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
if trouble in ('fsync', 'replace', 'rename'):
  setattr(os, trouble, at_last(getattr(os, trouble), die))
elif trouble == 'full disk':
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  os.replace = at_last(os.replace, fill_disk)
runpy.run_module('srdl_jax.data.prepare', run_name='__main__')
"""


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Archives, never to be changed."""
  return made_imagenet.make(tmp_path_factory.mktemp('archives'))


@pytest.fixture(scope='module')
def prepared(made, tmp_path_factory):
  """A TFDS directory with them, never to be changed."""
  data_dir = tmp_path_factory.mktemp('tfds')
  prepare(made.folder, data_dir)
  return data_dir


@pytest.fixture
def copied(made, tmp_path):
  """Archives that may be changed."""
  folder = tmp_path / 'archives'
  shutil.copytree(made.folder, folder)
  return dataclasses.replace(made, folder=folder)


@pytest.fixture
def copied_tfds(prepared, tmp_path):
  """A TFDS directory that may be changed."""
  return pathlib.Path(shutil.copytree(prepared, tmp_path / 'tfds'))


def prepare(manual_dir, data_dir, counts=COUNTS, shard_examples=SHARD):
  source = data.Location(str(data_dir), str(manual_dir), download=False)
  return imagenet_preparation.prepare(source, counts, shard_examples)


def load(data_dir, size=32):
  return imagenet.load(data.Location(str(data_dir), image_size=size))


def start(made, data_dir, trouble='none', number=0, shard_examples=SHARD):
  return started.start(
    [
      *(sys.executable, '-c', COMMAND, trouble, str(number)),
      *('prepare', 'imagenet2012', f'--manual_dir={made.folder}'),
      *(f'--data_dir={data_dir}', f'--shard_examples={shard_examples}'),
      '--allow_other_counts',
    ],
    cwd=ROOT,
    text=True,
    stdout=started.PIPE,
    stderr=started.PIPE,
  )


def contents(folder):
  """All files below a folder, by name."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def check(made, split, examples):
  names = list(made.files[split])
  assert [example.name for example in examples] == names
  for example in examples:
    assert example.label == made.labels[split][example.name]
    assert example.content == made.files[split][example.name]


def records(data_dir, split):
  dataset = load(data_dir)
  chosen = dataset.train if split == 'train' else dataset.test
  return chosen.images.records


def examples(data_dir, split):
  chosen = records(data_dir, split)
  return [chosen.example(row) for row in range(len(chosen))]


# --- What is prepared


@pytest.mark.parametrize('split', SPLITS)
def test_examples_are_in_the_order_of_their_names(made, prepared, split):
  check(made, split, examples(prepared, split))


def test_classes_have_names_and_words(copied_tfds, prepared):
  loaded = load(prepared)
  assert loaded.words == tuple(f'words of {n}' for n in loaded.classes)
  (copied_tfds / 'imagenet2012' / '5.1.0' / 'words.txt').unlink()
  assert load(copied_tfds).words == ()
  (copied_tfds / 'imagenet2012' / '5.1.0' / 'words.txt').write_bytes(b'\xff')
  with pytest.raises(DataError, match='words.txt'):
    load(copied_tfds)


def test_class_numbers_are_those_of_tfds(prepared):
  folder = pathlib.Path(tfds.core.tfds_path('datasets/imagenet2012'))
  names = (folder / 'labels.txt').read_text().split()
  assert names == sorted(set(names)) and len(names) == 1000
  builder = imagenet.open_builder(prepared / FOLDER)
  written = builder.info.features['label'].names
  assert written == sorted(made_imagenet.WORDNET_IDS[:4])


@pytest.mark.parametrize('split', SPLITS)
def test_tfds_reads_it_under_its_own_name(made, prepared, split):
  source = tfds.data_source(
    'imagenet2012',
    split=split,
    data_dir=prepared,
    decoders={'image': tfds.decode.SkipDecoding()},
  )
  read = [source[row] for row in range(len(source))]
  check(
    made,
    split,
    [
      records_lib.Example(e['file_name'].decode(), e['label'], e['image'])
      for e in read
    ],
  )


def test_shards_hold_as_many_images_as_asked_for(prepared):
  names = sorted(path.name for path in (prepared / FOLDER).iterdir())
  assert names == [
    'dataset_info.json',
    'features.json',
    *(f'imagenet2012-train.array_record-0000{i}' for i in range(5)),
    'imagenet2012-validation.array_record-00000',
    'label.labels.txt',
    'srdl_index.npz',
    'words.txt',
  ]
  splits = imagenet.open_builder(prepared / FOLDER).info.splits
  assert splits['train'].shard_lengths == [50, 50, 50, 50, 40]
  assert not (prepared / STAGING).exists()


def test_rows_do_not_depend_on_how_tars_were_packed(copied, prepared, tmp_path):
  tars = made_imagenet.class_tars(copied)
  made_imagenet.write_tar(copied.folder / TRAIN, tars)
  images = {
    f'./val/{name}': content
    for name, content in copied.files['validation'].items()
  }
  made_imagenet.write_tar(copied.folder / VALIDATION, images)
  again = prepare(copied.folder, tmp_path / 'again')
  assert contents(again) == contents(prepared / FOLDER)


def test_what_is_prepared_stays_as_it_is(copied_tfds, tmp_path):
  before = contents(copied_tfds)
  prepare(tmp_path / 'no archives', copied_tfds)
  assert contents(copied_tfds) == before


def test_two_commands_at_once_prepare_it_once(made, prepared, tmp_path):
  commands = [start(made, tmp_path) for _ in range(2)]
  outputs = [
    command.communicate(timeout=started.SECONDS) for command in commands
  ]
  assert [command.returncode for command in commands] == [0, 0], outputs
  for told, _ in outputs:
    assert told == 'imagenet2012 is prepared: 240 train, 40 validation images\n'
  # One of them has said how far it is; the other may say that it waits.
  assert sorted('MB/s' in errors for _, errors in outputs) == [False, True]
  assert contents(tmp_path / FOLDER) == contents(prepared / FOLDER)


# --- Going on


@pytest.mark.parametrize(
  ('call', 'number', 'finished'),
  # Of each shard, two files are waited for, its own and the note about it, and
  # the note's folder. The plan and its folder come first.
  [
    ('fsync', 1, 0),
    ('fsync', 6, 1),
    ('replace', 4, 2),
    ('replace', 8, 6),
    ('rename', 1, 6),
  ],
)
def test_killed_at_any_moment_it_goes_on(
  made, prepared, tmp_path, call, number, finished
):
  killed = start(made, tmp_path, call, number)
  killed.communicate(timeout=started.SECONDS)
  assert killed.returncode == -signal.SIGKILL
  assert not (tmp_path / FOLDER).exists()
  kept = sorted((tmp_path / STAGING).glob('finished/imagenet2012-*'))
  assert len(kept) == finished
  paths = [tmp_path / STAGING / '5.1.0' / path.stem for path in kept]
  before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths]
  directory = prepare(made.folder, tmp_path, None)
  paths = [directory / path.name for path in paths]
  after = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths]
  assert after == before
  assert contents(directory) == contents(prepared / FOLDER)
  assert not (tmp_path / STAGING).exists()


def test_damaged_leftovers_are_written_again(made, prepared, tmp_path):
  killed = start(made, tmp_path, 'rename', 1)
  killed.communicate(timeout=started.SECONDS)
  folder = tmp_path / STAGING
  shard = folder / '5.1.0/imagenet2012-train.array_record-00001'
  shard.write_bytes(shard.read_bytes()[:-1])
  note = folder / 'finished/imagenet2012-validation.array_record-00000.npz'
  note.write_bytes(b'no note')
  directory = prepare(made.folder, tmp_path)
  assert contents(directory) == contents(prepared / FOLDER)


def test_leftovers_of_a_finished_preparation_go(made, copied_tfds):
  (copied_tfds / STAGING / 'finished').mkdir(parents=True)
  prepare(made.folder, copied_tfds)
  assert not (copied_tfds / STAGING).exists()


def test_a_full_disk_is_told_and_what_is_finished_kept(
  made, prepared, tmp_path
):
  # The notes about the second shard are the last file that it has room for.
  full = start(made, tmp_path, 'full disk', 3)
  _, errors = full.communicate(timeout=started.SECONDS)
  assert full.returncode == 3, errors
  lines = [line for line in errors.splitlines() if line.startswith('error:')]
  assert errors.splitlines()[-1:] == lines
  assert 'File too large' in lines[0] and 'run the same command' in lines[0]
  assert not (tmp_path / FOLDER).exists()
  kept = list((tmp_path / STAGING).glob('finished/*'))
  assert len(kept) == 2
  directory = prepare(made.folder, tmp_path)
  assert contents(directory) == contents(prepared / FOLDER)


def test_another_preparation_does_not_go_on(copied, tmp_path):
  start(copied, tmp_path, 'fsync', 6).communicate(timeout=started.SECONDS)
  before = contents(tmp_path / STAGING)
  with pytest.raises(DataError, match=r'another shard_examples .*=50\)'):
    prepare(copied.folder, tmp_path, shard_examples=49)
  with (copied.folder / VALIDATION).open('ab') as tar:
    tar.write(bytes(512))
  with pytest.raises(DataError, match=f'another {VALIDATION} '):
    prepare(copied.folder, tmp_path)
  assert contents(tmp_path / STAGING) == before
  for odd in ('[3]', '{"shard', '{"shard_examples": NaN}'):
    (tmp_path / STAGING / 'plan.json').write_text(odd)
    with pytest.raises(DataError, match='another shard.*remove that folder'):
      prepare(copied.folder, tmp_path)


def test_finished_classes_are_not_read_again(copied):
  archives = imagenet_archives.open_archives(copied.folder, COUNTS)
  damaged = archives.class_tars[0]
  with (copied.folder / TRAIN).open('r+b') as file:
    file.seek(damaged.offset)
    file.write(bytes(damaged.size))
  names = list(copied.files['train'])
  read = archives.images('train', after=names[99])
  assert [image.name for image in read] == names[100:]


# --- Archives that are missing, damaged, or of another kind


def refused(folder, tmp_path, counts=COUNTS):
  """The one line that a preparation ends with, having made nothing."""
  with pytest.raises(DataError) as caught:
    prepare(folder, tmp_path / 'tfds', counts)
  assert not (tmp_path / 'tfds' / FOLDER).exists()
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('name', [TRAIN, VALIDATION, DEVKIT])
def test_a_missing_archive_is_named(copied, tmp_path, name):
  (copied.folder / name).unlink()
  text = refused(copied.folder, tmp_path)
  assert text.startswith(f'{name} is not in {copied.folder}')
  assert not (tmp_path / 'tfds').exists()


def test_official_labels_need_no_development_kit(tmp_path):
  known, truth = imagenet_archives.read_labels(tmp_path, 50_000)
  assert len(known) == 1000 and set(truth) == set(known)
  assert truth[:3] == ['n01751748', 'n09193705', 'n02105855']


@pytest.mark.parametrize('name', [TRAIN, VALIDATION, DEVKIT])
@pytest.mark.parametrize('part', [0, 0.4, 0.7])
def test_an_archive_cut_short_is_named(copied, tmp_path, name, part):
  path = copied.folder / name
  content = path.read_bytes()
  path.write_bytes(content[: int(part * len(content))])
  assert str(path) in refused(copied.folder, tmp_path)


@pytest.mark.parametrize('name', [TRAIN, VALIDATION])
def test_an_archive_cut_between_members_is_named(copied, tmp_path, name):
  path = copied.folder / name
  with tarfile.open(path) as tar:
    offset = tar.getmembers()[-1].offset
  path.write_bytes(path.read_bytes()[:offset])
  text = refused(copied.folder, tmp_path, None)
  assert text.startswith(f'{path} is cut short or damaged at byte {offset:,}')


def test_a_damaged_header_is_not_taken_for_the_end(copied, tmp_path):
  path = copied.folder / VALIDATION
  with tarfile.open(path) as tar:
    offset = tar.getmembers()[20].offset
  content = bytearray(path.read_bytes())
  content[offset + 150] ^= 1
  path.write_bytes(content)
  text = refused(copied.folder, tmp_path, None)
  assert text.startswith(f'{path} is cut short or damaged at byte {offset:,}')


@pytest.mark.parametrize('part', [0.3, 0.6])
def test_a_class_cut_short_is_named(copied, tmp_path, part):
  tars = made_imagenet.class_tars(copied)
  name = 'n02099601.tar'
  tars[name] = tars[name][: int(part * len(tars[name]))]
  made_imagenet.write_tar(copied.folder / TRAIN, tars)
  text = refused(copied.folder, tmp_path)
  assert text.startswith(f'{name} in {copied.folder / TRAIN}')


def test_archives_of_another_kind_are_refused(copied, tmp_path):
  train, validation = copied.folder / TRAIN, copied.folder / VALIDATION
  kept = train.read_bytes()
  shutil.copy(validation, train)
  assert 'instead of tars such as n01440764.tar' in refused(
    copied.folder, tmp_path
  )
  train.write_bytes(kept)
  shutil.copy(train, validation)
  assert 'it holds n01440764.tar instead of images' in refused(
    copied.folder, tmp_path
  )
  shutil.copy(copied.folder / DEVKIT, train)
  assert f'{train} is no tar' in refused(copied.folder, tmp_path)
  made_imagenet.write_tar(train, {})
  assert f'{train} is no' in refused(copied.folder, tmp_path)


@pytest.mark.parametrize(
  ('files', 'text'),
  [
    ({'readme': b''}, 'KeyError'),
    ({'x/data/meta.mat': b'nothing'}, 'damaged or another file'),
  ],
)
def test_another_development_kit_is_refused(copied, tmp_path, files, text):
  made_imagenet.write_tar(copied.folder / DEVKIT, files, 'w:gz')
  message = refused(copied.folder, tmp_path)
  assert message.startswith(str(copied.folder / DEVKIT)) and text in message


def test_a_development_kit_of_other_images_is_refused(copied, tmp_path):
  truth = [copied.classes[0]] * 39
  kit = made_imagenet.devkit(copied.classes, truth)
  made_imagenet.write_tar(copied.folder / DEVKIT, kit, 'w:gz')
  text = refused(copied.folder, tmp_path, None)
  assert 'classes of 39 validation images, but there are 40' in text


def test_a_missing_class_is_named(copied, tmp_path):
  tars = made_imagenet.class_tars(copied)
  del tars['n02504458.tar']
  made_imagenet.write_tar(copied.folder / TRAIN, tars)
  text = refused(copied.folder, tmp_path)
  assert 'it has 3 classes, without n02504458, expected 4' in text
  # Its validation images have no class then.
  text = refused(copied.folder, tmp_path, None)
  assert 'of class n02504458, of which' in text


def test_a_strange_class_is_named(copied, tmp_path):
  tars = made_imagenet.class_tars(copied)
  tars['n99999999.tar'] = tars.pop('n02504458.tar')
  made_imagenet.write_tar(copied.folder / TRAIN, tars)
  for counts in (COUNTS, None):
    text = refused(copied.folder, tmp_path, counts)
    assert 'n99999999 is no class of the challenge' in text


def test_an_empty_class_is_named(copied, tmp_path):
  tars = made_imagenet.class_tars(copied)
  tars['n02504458.tar'] = made_imagenet.class_tar({})
  made_imagenet.write_tar(copied.folder / TRAIN, tars)
  for counts in (COUNTS, None):
    text = refused(copied.folder, tmp_path, counts)
    assert text.startswith('n02504458.tar in') and text.endswith('it is empty')


def test_images_of_another_class_or_twice_are_named(copied, tmp_path):
  tars = made_imagenet.class_tars(copied)
  image = next(iter(copied.files['train'].values()))
  name = 'n02504458_1.JPEG'
  tars['n02099601.tar'] = made_imagenet.class_tar({name: image})
  made_imagenet.write_tar(copied.folder / TRAIN, tars)
  assert f'it holds {name}, of another class' in refused(
    copied.folder, tmp_path
  )
  tars['n02099601.tar'] = made_imagenet.class_tar(
    {'n02099601_1.JPEG': image, './n02099601_1.JPEG': image}
  )
  made_imagenet.write_tar(copied.folder / TRAIN, tars)
  assert 'it has n02099601_1.JPEG twice' in refused(
    copied.folder, tmp_path / 'second'
  )


@pytest.mark.parametrize(
  ('counts', 'text'),
  [
    (Counts(5, 240, 40), f'{TRAIN} .*has 4 classes, expected 5'),
    (Counts(4, 1240, 40), f'{TRAIN} .*has 240 images, expected 1,240'),
    (Counts(4, 240, 41), f'{VALIDATION} .*has 40 images, expected 41'),
    (imagenet_archives.OFFICIAL, 'has 40 images, expected 50,000'),
  ],
)
def test_other_counts_are_told(made, tmp_path, counts, text):
  message = refused(made.folder, tmp_path, counts)
  assert re.search(text, message) and '--allow_other_counts' in message


def test_subsets_can_be_prepared(copied, tmp_path):
  tars = made_imagenet.class_tars(copied)
  del tars['n02504458.tar']
  made_imagenet.write_tar(copied.folder / TRAIN, tars)
  kept = {
    name: content
    for name, content in copied.files['validation'].items()
    if copied.labels['validation'][name] != 2
  }
  made_imagenet.write_tar(copied.folder / VALIDATION, kept)
  truth = [copied.classes[copied.labels['validation'][name]] for name in kept]
  kit = made_imagenet.devkit(copied.classes, truth)
  made_imagenet.write_tar(copied.folder / DEVKIT, kit, 'w:gz')
  prepare(copied.folder, tmp_path, None)
  dataset = load(tmp_path)
  assert dataset.num_classes == 3
  assert np.bincount(dataset.train.labels).tolist() == [60, 60, 60]


@pytest.mark.parametrize(
  'arguments',
  [[], ['imagenet'], ['cifar10', 'x'], ['imagenet2012', '--shard_examples=0']],
)
def test_a_wrong_command_line_is_told(arguments):
  command = [sys.executable, '-m', 'srdl_jax.data.prepare', *arguments]
  done = started.run(command, cwd=ROOT)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1


# --- What is loaded


def test_loaded_is_imagenet(made, prepared):
  dataset = load(prepared, size=0)
  assert (dataset.name, dataset.version) == ('imagenet', '5.1.0')
  assert dataset.num_classes == 4
  assert dataset.mean == (0.485, 0.456, 0.406)
  assert dataset.std == (0.229, 0.224, 0.225)
  assert (dataset.train.name, dataset.test.name) == ('train', 'test')
  for split, name in ((dataset.train, 'train'), (dataset.test, 'validation')):
    labels = made.labels[name]
    names = list(made.files[name])
    assert split.labels.dtype == np.int32
    assert split.labels.tolist() == [labels[n] for n in names]
    assert split.fingerprint == data.fingerprint(
      'imagenet2012/5.1.0', name, names, split.labels
    )
    images = split.images
    assert images.shape == (len(names), 224, 224, 3)
    assert (images.resize, images.least_area, images.orient) == (
      256,
      0.08,
      False,
    )


def test_views_are_of_the_rows_own_images(made, prepared):
  images = load(prepared).test.images
  assert (images.size, images.resize) == (32, 37)
  contents = list(made.files['validation'].values())
  rows = np.array([39, 0, 7])
  views = images[rows]
  for view, row in zip(views, rows, strict=True):
    expected = decoding.evaluation_view(contents[row], resize=37, size=32)
    np.testing.assert_array_equal(view, expected)


def test_every_kind_of_file_is_seen_in_rgb(made, prepared):
  images = load(prepared).train.images
  kinds = {}
  for row, content in enumerate(made.files['train'].values()):
    with Image.open(io.BytesIO(content)) as image:
      kinds.setdefault((image.format, image.mode), row)
  assert set(kinds) == {
    ('JPEG', 'RGB'),
    ('JPEG', 'CMYK'),
    ('PNG', 'RGB'),
    ('JPEG', 'L'),
  }
  views = images[np.array(list(kinds.values()))]
  # The classes' own colours: no channel is another's negative.
  means = dict(zip(kinds, views.mean((1, 2)), strict=True))
  same_class = images[np.arange(10)].mean((0, 1, 2))
  assert np.abs(means['JPEG', 'CMYK'] - same_class).max() < 60
  grey = views[list(kinds).index(('JPEG', 'L'))]
  np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


def test_records_travel_to_other_processes(made, prepared):
  chosen = records(prepared, 'train')
  expected = list(made.files['train'].values())
  assert chosen[120] == expected[120]
  assert pickle.loads(pickle.dumps(chosen))[120] == expected[120]
  assert len(pickle.dumps(chosen)) < 2000
  with multiprocessing.get_context('spawn').Pool(1) as pool:
    assert pool.apply(chosen.__getitem__, (130,)) == expected[130]


def test_rows_out_of_range_are_refused(prepared):
  chosen = records(prepared, 'validation')
  for row in (-1, 40):
    with pytest.raises(IndexError, match=f'row {row} of 40'):
      chosen[row]


def test_a_missing_directory_says_how_to_prepare_it(tmp_path):
  with pytest.raises(DataError, match='srdl_jax.data.prepare imagenet2012'):
    load(tmp_path)


def test_a_missing_shard_is_named(copied_tfds):
  name = 'imagenet2012-train.array_record-00002'
  (copied_tfds / FOLDER / name).unlink()
  with pytest.raises(DataError, match=f'{name} is missing'):
    load(copied_tfds)


def test_a_damaged_shard_is_named_with_its_row(copied_tfds):
  name = 'imagenet2012-train.array_record-00002'
  path = copied_tfds / FOLDER / name
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  images = load(copied_tfds).train.images
  text = rf'image 1[0-4]\d, in .*{name}: .*{name} is damaged'
  with pytest.raises(DataError, match=text):
    images[np.arange(100, 150)]
  assert images[np.arange(100)].shape == (100, 32, 32, 3)


def test_a_corrupt_image_is_named(copied, tmp_path):
  tars = made_imagenet.class_tars(copied)
  files = {
    name: content
    for name, content in copied.files['train'].items()
    if name.startswith('n02099601')
  }
  name = list(files)[30]
  files[name] = files[name][: len(files[name]) // 2]
  tars['n02099601.tar'] = made_imagenet.class_tar(files)
  made_imagenet.write_tar(copied.folder / TRAIN, tars)
  prepare(copied.folder, tmp_path)
  images = load(tmp_path).train.images
  with pytest.raises(DataError, match=f'image 90, {name} in '):
    images[np.array([90])]
  with pytest.raises(DataError, match=f'image 90, {name} in '):
    images.training_view(90, np.random.default_rng(0))


# --- The index


def test_the_index_saves_reading_images(copied_tfds):
  for path in (copied_tfds / FOLDER).glob('*array_record-*'):
    path.write_bytes(bytes(path.stat().st_size))
  assert len(load(copied_tfds).train.labels) == 240


@pytest.mark.parametrize('how', ['missing', 'damaged', 'of other shards'])
def test_an_index_is_made_again(prepared, copied_tfds, capsys, how):
  path = copied_tfds / FOLDER / imagenet_index.FILE
  before = path.read_bytes()
  if how == 'missing':
    path.unlink()
  elif how == 'damaged':
    path.write_bytes(before[:-50])
  else:
    indices = imagenet_index.read(path.parent, SPLITS)
    wrong = np.zeros(240, np.int32)
    shards = indices['train'].shards + [0, 1]
    indices['train'] = imagenet_index.Index(wrong, 'f', shards)
    imagenet_index.write(path.parent, indices)
  dataset, expected = load(copied_tfds), load(prepared)
  assert dataset.train.fingerprint == expected.train.fingerprint
  assert dataset.test.labels.tolist() == expected.test.labels.tolist()
  assert path.read_bytes() == before
  assert 'index of train: 240 of 240 images' in capsys.readouterr().err


@pytest.mark.parametrize('kind', [*odd_arrays.DAMAGES, *odd_arrays.SHAPES])
def test_an_odd_index_or_note_is_none(tmp_path, caplog, kind):
  shards = records_lib.Shards(tmp_path, tmp_path, 'train')
  examples = [records_lib.Example(f'{n}.jpg', n, b'x') for n in range(3)]
  shards.append(examples, storage.Told('train', 'images', 3))
  index = imagenet_index.Index(np.arange(3), 'f', np.array([[3, 9]]))
  imagenet_index.write(tmp_path, {'train': index})
  assert records_lib.Shards(tmp_path, tmp_path, 'train').names == shards.names
  assert imagenet_index.read(tmp_path, ['train']).keys() == {'train'}
  for path in tmp_path.glob('*.npz'):
    change = odd_arrays.DAMAGES.get(kind) or functools.partial(
      odd_arrays.shaped, value=odd_arrays.SHAPES.get(kind)
    )
    path.write_bytes(change(path.read_bytes()))
  assert imagenet_index.read(tmp_path, ['train']) == {}
  assert f'{imagenet_index.FILE} is damaged (' in caplog.text
  assert '\n' not in caplog.text.strip()
  assert not records_lib.Shards(tmp_path, tmp_path, 'train').finished


def test_an_index_of_too_few_labels_is_none(tmp_path):
  for count in (3, 2):
    index = imagenet_index.Index(np.arange(count), 'f', np.array([[3, 9]]))
    imagenet_index.write(tmp_path, {'train': index})
    assert (imagenet_index.read(tmp_path, ['train']) == {}) == (count == 2)


def test_an_index_that_cannot_be_kept_is_used(copied_tfds, prepared, caplog):
  path = copied_tfds / FOLDER / imagenet_index.FILE
  path.unlink()
  path.mkdir()
  dataset = load(copied_tfds)
  assert dataset.train.fingerprint == load(prepared).train.fingerprint
  assert 'cannot keep the labels' in caplog.text


def test_labels_beyond_the_classes_are_refused(copied_tfds):
  path = copied_tfds / FOLDER / imagenet_index.FILE
  indices = imagenet_index.read(path.parent, SPLITS)
  indices['train'].labels[7] = 4
  imagenet_index.write(path.parent, indices)
  with pytest.raises(DataError, match='labels from 0 to 4, expected 0 to 3'):
    load(copied_tfds)


def test_a_directory_that_tfds_prepared_reads_the_same(made, tmp_path, capsys):
  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS's own builder, as far as it does without TensorFlow."""

    name = 'imagenet2012'
    VERSION = tfds.core.Version('5.1.0')

    def _info(self):
      features = {
        'image': tfds.features.Image(encoding_format='jpeg'),
        'label': tfds.features.ClassLabel(names=made.classes),
        'file_name': tfds.features.Text(),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
      for name, content in made.files[split].items():
        label = made.labels[split][name]
        yield name, {'image': content, 'label': label, 'file_name': name}

  builder = Builder(data_dir=tmp_path)
  builder.download_and_prepare(file_format='array_record')
  capsys.readouterr()
  dataset = load(tmp_path)
  assert 'index of validation: 40 of 40 images' in capsys.readouterr().err
  read = examples(tmp_path, 'train')
  assert capsys.readouterr().err == ''
  # Its order is another: a hash of the names.
  names = [example.name for example in read]
  assert names != sorted(names)
  check(made, 'train', sorted(read, key=lambda example: example.name))
  assert dataset.train.labels.tolist() == [example.label for example in read]
  assert dataset.train.fingerprint == data.fingerprint(
    'imagenet2012/5.1.0', 'train', names, dataset.train.labels
  )


def test_what_is_no_image_is_counted_and_named(made, tmp_path, caplog):
  """In one line, though the preparation may have been ended between them."""
  names = list(made.files['train'])
  content = {names[n]: b'x' * n for n in (0, 1, 2, 70, 120, 230)}
  spoilt = dataclasses.replace(
    made,
    folder=tmp_path,
    files={**made.files, 'train': {**made.files['train'], **content}},
  )
  for name in (VALIDATION, DEVKIT):
    shutil.copy(made.folder / name, tmp_path)
  made_imagenet.write_tar(tmp_path / TRAIN, made_imagenet.class_tars(spoilt))
  notes = tmp_path / STAGING / 'finished'
  process = start(spoilt, tmp_path, 'replace', 4)
  ended = process.communicate(timeout=started.SECONDS)
  assert len(list(notes.glob('*train*.npz'))) > 1, ended
  prepare(tmp_path, tmp_path)
  (told,) = (r.getMessage() for r in caplog.records if 'no images' in r.msg)
  assert told.startswith(
    f'{tmp_path / TRAIN}: 6 file(s) are empty or no images'
  )
  assert f'{names[0]} (the file is empty), {names[1]} (not an image' in told
  assert 'and 1 more; training ends where it needs one' in told
  caplog.clear()
  prepare(made.folder, tmp_path / 'good')
  assert 'no images' not in caplog.text


# --- Folders of classes


@pytest.fixture
def folders(made, tmp_path):
  """Folders of the classes, which may be changed."""
  made_imagenet.write_folders(made, tmp_path / 'folders')
  return tmp_path / 'folders'


def load_folders(root, counts=COUNTS, **changes):
  source = data.Location(path=str(root), **{'image_size': 32, **changes})
  return imagenet_folder.load(source, counts)


def test_folders_have_the_rows_of_what_is_prepared(prepared, folders):
  ours, theirs = load_folders(folders), load(prepared)
  assert (ours.name, ours.classes) == ('imagenet', theirs.classes)
  for split in ('train', 'test'):
    read, expected = getattr(ours, split), getattr(theirs, split)
    np.testing.assert_array_equal(read.images[:], expected.images[:])
    np.testing.assert_array_equal(read.labels, expected.labels)
    assert read.labels.dtype == np.int32
    name = 'validation' if split == 'test' else split
    ids = [
      f'{pathlib.Path(path).name}\t{(folders / path).stat().st_size}'
      for path in read.images.records.paths
    ]
    assert read.fingerprint == data.fingerprint(
      'imagenet2012/5.1.0+copy', name, ids, read.labels
    )


@pytest.mark.parametrize('below', ['Data/CLS-LOC', 'ILSVRC/Data/CLS-LOC'])
def test_folders_are_found_below(folders, tmp_path, below):
  (tmp_path / 'x' / below).parent.mkdir(parents=True)
  (folders / 'val').rename(folders / 'validation')
  folders.rename(tmp_path / 'x' / below)
  assert len(load_folders(tmp_path / 'x').test.labels) == 40


def test_no_image_is_opened_before_it_is_needed(folders):
  first = min(folders.glob('train/*/*.JPEG'))
  first.write_bytes(b'no image')
  train = load_folders(folders).train
  with pytest.raises(DataError, match=first.name):
    train.images[0]


def test_a_flat_validation_folder_is_labelled_by_the_kit(
  made, folders, tmp_path
):
  expected = load_folders(folders)
  root = tmp_path / 'flat'
  made_imagenet.write_folders(made, root, flat=True)
  shutil.copy(made.folder / DEVKIT, root)
  flat = load_folders(root)
  assert flat.test.fingerprint == expected.test.fingerprint
  np.testing.assert_array_equal(flat.test.images[:], expected.test.images[:])
  assert flat.words == tuple(f'words of {n}' for n in flat.classes)


def test_words_may_lie_beside_folders(folders):
  assert load_folders(folders).words == ()
  (folders / 'words.txt').write_text('n01440764\ttench\n')
  assert load_folders(folders).words == ('tench', '', '', '')


def test_another_size_of_a_file_is_another_copy(folders):
  before = load_folders(folders)
  path = min(folders.glob('train/*/*.JPEG'))
  path.write_bytes(path.read_bytes() + b'x')
  after = load_folders(folders)
  assert after.train.fingerprint != before.train.fingerprint
  assert after.test.fingerprint == before.test.fingerprint


def test_what_is_left_out_of_folders_is_said(folders, caplog):
  first, second = sorted(folders.glob('train/*/*.JPEG'))[:2]
  first.write_bytes(b'')
  second.unlink()
  second.symlink_to('nowhere')
  with pytest.raises(DataError, match='238 training images instead of 240'):
    load_folders(folders, skip_unreadable=True)
  loaded = load_folders(folders, skip_unreadable=True, allow_differences=True)
  assert len(loaded.train.labels) == 238
  assert (
    f'2 file(s) cannot be used: train/n01440764/{first.name}' in caplog.text
  )
  assert 'training images instead of 240; going on' in caplog.text


def test_with_skip_unreadable_every_image_is_decoded(folders, caplog):
  first, second, third = sorted(folders.glob('train/*/*.JPEG'))[:3]
  tested = min(folders.glob('val/*/*.JPEG'))
  first.write_bytes(b'<html>404</html>')
  second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
  tested.write_bytes(b'no image')
  # Which only who decodes it sees.
  noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype='u1')
  Image.fromarray(noise).save(third, 'PNG')
  content = bytearray(third.read_bytes())
  content[len(content) // 3] ^= 255
  third.write_bytes(content)
  skipping = {'skip_unreadable': True, 'allow_differences': True}
  loaded = load_folders(folders, **skipping)
  assert (len(loaded.train.labels), len(loaded.test.labels)) == (237, 39)
  for part in (loaded.train, loaded.test):
    assert part.images[:].any()
  assert '4 file(s) cannot be used' in caplog.text
  for path in (first, second, third, tested):
    assert f'{path.relative_to(folders)} (' in caplog.text
  with pytest.raises(DataError, match='237 training images instead of 240'):
    load_folders(folders, skip_unreadable=True)


@pytest.mark.parametrize(
  ('train', 'val'), [('Train', 'VAL'), ('TRAIN', 'Validation')]
)
@pytest.mark.parametrize('below', ['.', 'ILSVRC/Data/CLS-LOC'])
def test_letter_case_of_folders_does_not_count(folders, below, train, val):
  """Nor the order of what is trained on: the same copy has the same name."""
  expected = load_folders(folders)
  root = folders.parent / 'x' / below
  root.mkdir(parents=True)
  (folders / 'train').rename(root / train)
  (folders / 'val').rename(root / val)
  loaded = load_folders(folders.parent / 'x')
  assert loaded.train.fingerprint == expected.train.fingerprint
  assert loaded.test.fingerprint == expected.test.fingerprint


def test_a_second_validation_folder_is_said(folders, caplog):
  shutil.copytree(folders / 'val', folders / 'validation')
  load_folders(folders)
  assert f'in {folders}, not read: validation' in caplog.text
  shutil.rmtree(folders / 'val')
  (folders / 'val').symlink_to('unmounted')
  with pytest.raises(DataError, match='val is a broken link to unmounted'):
    load_folders(folders)


def test_official_folders_have_official_counts(folders):
  with pytest.raises(DataError, match='240 training .* instead of 1,281,167'):
    data.load('imagenet', path=str(folders))
  loaded = data.load('imagenet', path=str(folders), allow_differences=True)
  assert loaded.train.images.shape == (240, 224, 224, 3)


def config_of(text):
  path = ROOT / 'configs' / 'imagenet.py'
  spec = importlib.util.spec_from_file_location('imagenet_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(text)


@pytest.mark.parametrize('text', ['path=a/b,model=resnet50', 'path=a/b', None])
def test_the_config_takes_a_path(text):
  config = config_of(text)
  assert config.data.path == ('a/b' if text else '')
  model = 'resnet50' if text and 'model' in text else 'densenet201'
  assert config.model.name == model


def test_the_config_takes_one_path():
  with pytest.raises(ConfigError, match="'path' is given twice"):
    config_of('path=a,path=b')
  with pytest.raises(ConfigError, match="'size'; known: model.*recipe, path"):
    config_of('path=a,size=8')
