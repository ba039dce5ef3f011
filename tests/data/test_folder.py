# SPDX-License-Identifier: Apache-2.0
"""Own folders of images: layouts, order, identity, and what is refused."""

import collections
import importlib.util
import io
import logging
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from srdl_jax import config as config_lib
from srdl_jax import data
from srdl_jax.data import (
  decoding,
  folder,
  folder_files,
  image_files,
  labelled,
)
from srdl_jax.data.imagenet import folder as imagenet_folder
from srdl_jax.errors import ConfigError, DataError

CONFIG = pathlib.Path(__file__).resolve().parents[2] / 'configs' / 'folder.py'


def source(path, **fields):
  return data.Location(path=str(path), **fields)


def encoded(image, kind='JPEG', **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def photograph(seed=0, size=(60, 45)):
  """Some part of one of scikit-learn's two photographs."""
  name = ('china.jpg', 'flower.jpg')[seed % 2]
  image = Image.fromarray(datasets.load_sample_image(name))
  left, top = 17 * seed % 500, 13 * seed % 350
  return image.crop((left, top, left + size[0], top + size[1]))


@pytest.fixture(scope='session')
def some():
  """Eight different JPEGs."""
  return [encoded(photograph(seed)) for seed in range(8)]


def write(root, files):
  for path, content in files.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


@pytest.fixture
def two(tmp_path, some):
  """A folder with both splits of two classes."""
  paths = (
    'train/cat/b.jpg train/cat/a.jpg train/dog/z.JPEG train/dog/y.jpg '
    'val/dog/c.jpg val/cat/d.jpg val/dog/C.jpg'
  )
  write(tmp_path, dict(zip(paths.split(), some, strict=False)))
  return tmp_path


@pytest.fixture
def one(tmp_path, some):
  """A folder of classes, of 60, 8 and 2 images."""
  counts = {'cat': 60, 'dog': 8, 'eel': 2}
  for name, count in counts.items():
    write(tmp_path, {f'{name}/{i:03}.jpg': some[i % 8] for i in range(count)})
  return tmp_path


def paths(split):
  return split.images.records.paths


def refused(root, pattern, **fields):
  with pytest.raises(DataError, match=pattern) as caught:
    folder.load(source(root, **fields))
  assert '\n' not in str(caught.value)
  return str(caught.value)


# Both splits.


def test_rows_are_ordered_by_class_and_name(two, some):
  loaded = folder.load(source(two))
  assert (loaded.name, loaded.version) == ('folder', '1.0.0')
  assert loaded.num_classes == 2
  assert (loaded.train.name, loaded.test.name) == ('train', 'test')
  assert paths(loaded.train) == (
    'train/cat/a.jpg',
    'train/cat/b.jpg',
    'train/dog/y.jpg',
    'train/dog/z.JPEG',
  )
  # Capitals come first, on every machine.
  assert paths(loaded.test) == (
    'val/cat/d.jpg',
    'val/dog/C.jpg',
    'val/dog/c.jpg',
  )
  for split, labels in ((loaded.train, [0, 0, 1, 1]), (loaded.test, [0, 1, 1])):
    assert split.labels.dtype == np.int32
    np.testing.assert_array_equal(split.labels, labels)
    assert split.images.shape == (len(labels), 224, 224, 3)
  assert loaded.train.images.records[1] == some[0]


def test_statistics_are_those_of_imagenet(two):
  loaded = folder.load(source(two))
  assert loaded.mean == (0.485, 0.456, 0.406)
  assert loaded.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(('wanted', 'size', 'resize'), [
  (0, 224, 256), (64, 64, 73), (32, 32, 37), (299, 299, 342),
])  # fmt: skip
def test_images_get_the_wished_size(two, some, wanted, size, resize):
  images = folder.load(source(two, image_size=wanted)).train.images
  assert (images.size, images.resize, images.least_area) == (size, resize, 0.08)
  np.testing.assert_array_equal(
    images[[1]][0],
    decoding.evaluation_view(some[0], resize=resize, size=size),
  )
  view = images.training_view(1, np.random.default_rng(0))
  np.testing.assert_array_equal(
    view,
    decoding.training_view(some[0], np.random.default_rng(0), size=size),
  )


def test_images_are_turned_as_their_exif_says(two):
  upright = photograph(size=(60, 20))
  exif = Image.Exif()
  exif[0x0112] = 6
  stored = upright.transpose(Image.Transpose.ROTATE_90)
  (two / 'train/cat/a.jpg').unlink()
  write(two, {'train/cat/a.png': encoded(stored, 'PNG', exif=exif)})
  view = folder.load(source(two, image_size=16)).train.images[[0]][0]
  expected = decoding.evaluation_view(
    encoded(upright, 'PNG'), resize=18, size=16
  )
  assert np.abs(view.astype(int) - expected).max() <= 1


def test_test_serves_where_there_is_no_val_and_else_val_does(two, caplog):
  with_val = folder.load(source(two))
  (two / 'val').rename(two / 'test')
  loaded = folder.load(source(two))
  assert paths(loaded.test)[0] == 'test/cat/d.jpg'
  np.testing.assert_array_equal(loaded.test.labels, with_val.test.labels)
  (two / 'val').symlink_to(two / 'test')
  with caplog.at_level(logging.INFO):
    assert paths(folder.load(source(two)).test)[0] == 'val/cat/d.jpg'
  assert f'in {two}, not read: test' in caplog.text


@pytest.mark.parametrize('name', ['valid', 'validation', 'dev', 'Test', 'VAL'])
def test_other_names_of_the_test_are_known(two, name, caplog):
  labels = folder.load(source(two)).test.labels
  (two / 'val').rename(two / name)
  write(two, {'README.md': b'x', '.git/config': b'x'})
  with caplog.at_level(logging.INFO):
    loaded = folder.load(source(two))
  assert paths(loaded.test)[0] == f'{name}/cat/d.jpg'
  np.testing.assert_array_equal(loaded.test.labels, labels)
  assert [record.getMessage() for record in caplog.records] == [
    f'for training 4 images of 2 classes in {two}/train, for testing 3 in '
    f'{two}/{name}'
  ]


def test_of_two_candidates_it_is_said_which_is_read(two, caplog):
  (two / 'val').rename(two / 'valid')
  for name in ('dev', 'Valid', 'bird'):
    (two / name).mkdir()
  (two / 'gone').symlink_to(two / 'nowhere')
  loaded = folder.load(source(two))
  assert paths(loaded.test)[0] == 'valid/cat/d.jpg'
  assert f'in {two}, not read: Valid, bird, dev, gone' in caplog.text


def test_a_test_alone_is_found_where_it_has_classes(two, some):
  assert folder_files.test_folder(two / 'none') is None
  (two / 'val').rename(two / 'Val')
  assert folder_files.test_folder(two) == two / 'Val'
  assert imagenet_folder.test_folder(str(two)) == two / 'Val'
  # Flat, empty, or a class of that name.
  write(two, {'test/a.jpg': some[0]})
  assert folder_files.test_folder(two) == two / 'Val'
  (two / 'val').mkdir()
  assert folder_files.test_folder(two) is None
  assert imagenet_folder.test_folder(str(two)) is None
  write(two, {'boats/test/a.jpg': some[0], 'boats/val/a.jpg': some[0]})
  assert folder_files.test_folder(two / 'boats') is None


def test_names_that_earlier_versions_knew_come_first(two, caplog):
  (two / 'val').rename(two / 'test')
  before = _prints(two)
  others = ['valid', 'validation', 'dev']
  for name in others:
    shutil.copytree(two / 'train', two / name)
  assert _prints(two) == before
  assert f'in {two}, not read: dev, valid, validation' in caplog.text
  known = labelled.read(str(two), ['cat', 'dog'])
  assert known.records.paths[0] == 'test/cat/d.jpg'
  # Then in this order.
  shutil.rmtree(two / 'test')
  for name in others:
    found = folder.load(source(two)).test
    known = labelled.read(str(two), ['cat', 'dog'])
    assert paths(found) == known.records.paths
    assert paths(found)[0] == f'{name}/cat/a.jpg'
    shutil.rmtree(two / name)


def test_a_test_that_is_what_was_trained_on_is_refused(two):
  (two / 'val').rename(two.parent / f'{two.name}-val')
  (two / 'val').symlink_to('train')
  refused(two, f'{two}/val is the folder {two}/train itself')


@pytest.mark.parametrize(('spoil', 'reason'), [
  (lambda path: path.mkdir(), 'a folder without any'),
  (lambda path: path.write_text('../val'), 'a file'),
  (lambda path: path.symlink_to('/nowhere/val'), 'a broken link to /nowhere'),
  (lambda path: path.symlink_to(path), 'Too many levels of symbolic links'),
])  # fmt: skip
@pytest.mark.parametrize('name', ['val', 'Train'])
def test_a_broken_split_is_not_passed_over_for_another(
  two, spoil, reason, name
):
  old = two / name.lower()
  old.rename(two / 'test' if name == 'val' else two.parent / f'{two.name}-old')
  spoil(two / name)
  refused(two, f'{two}/{name} has no class folders: it is {reason}.*; mend')


def test_digits_of_every_format_are_read(tmp_path):
  digits = data.load('digits').test
  kinds = {
    'jpg': 'JPEG', 'jpeg': 'JPEG', 'PNG': 'PNG', 'bmp': 'BMP', 'gif': 'GIF',
    'webp': 'WEBP', 'tif': 'TIFF', 'tiff': 'TIFF', 'ppm': 'PPM', 'pgm': 'PPM',
  }  # fmt: skip
  for row, (suffix, kind) in enumerate(kinds.items()):
    image = Image.fromarray(digits.images[row, ..., 0])
    for split, label in (('train', 'a'), ('val', 'a'), ('val', 'b')):
      write(
        tmp_path, {f'{split}/{label}/{row:02}.{suffix}': encoded(image, kind)}
      )
  # A name that lies: the content decides.
  write(tmp_path, {'train/b/x.jpg': encoded(image, 'PNG')})
  loaded = folder.load(source(tmp_path, image_size=8))
  assert len(loaded.test.labels) == 20
  views = loaded.train.images[:]
  assert views.shape == (11, 8, 8, 3)
  for row in range(10):
    content = loaded.train.images.records[row]
    error = np.asarray(decoding.decode(content), int) - digits.images[row]
    assert np.abs(error).mean() < 8
    np.testing.assert_array_equal(
      views[row], decoding.evaluation_view(content, resize=9, size=8)
    )


def test_worker_processes_get_the_images_by_pickle(two):
  images = folder.load(source(two, image_size=16)).train.images
  copy = pickle.loads(pickle.dumps(images))
  assert copy == images
  np.testing.assert_array_equal(copy[:], images[:])


def test_a_relative_path_and_a_home_are_followed(two, monkeypatch):
  expected = folder.load(source(two))
  monkeypatch.chdir(two.parent)
  relative = folder.load(source(two.name))
  monkeypatch.setenv('HOME', str(two.parent))
  home = folder.load(source(f'~/{two.name}'))
  monkeypatch.chdir('/')
  for loaded in (relative, home):
    assert loaded.train.fingerprint == expected.train.fingerprint
    assert loaded.train.images.records[0] == expected.train.images.records[0]


def test_links_are_followed(two, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp('elsewhere')
  expected = folder.load(source(two))
  (two / 'train/cat').rename(elsewhere / 'cat')
  (two / 'train/cat').symlink_to(elsewhere / 'cat')
  (two / 'val/dog/c.jpg').rename(elsewhere / 'moved')
  (two / 'val/dog/c.jpg').symlink_to(elsewhere / 'moved')
  loaded = folder.load(source(two))
  assert loaded.train.fingerprint == expected.train.fingerprint
  assert loaded.test.fingerprint == expected.test.fingerprint


# One folder of classes.


def test_about_a_fifth_is_held_out_and_at_least_one_of_each_class(one):
  loaded = folder.load(source(one))
  train, test = paths(loaded.train), paths(loaded.test)
  every = sorted(p.relative_to(one).as_posix() for p in one.rglob('*.jpg'))
  assert sorted(train + test) == every
  assert list(train) == sorted(train) and list(test) == sorted(test)
  held = collections.Counter(loaded.test.labels.tolist())
  # Of 60, 12 with a standard deviation of 3; of 2, one.
  assert 3 <= held[0] <= 21 and 1 <= held[1] <= 7 and held[2] == 1
  for split in (loaded.train, loaded.test):
    names = [p.split('/')[0] for p in paths(split)]
    assert [('cat', 'dog', 'eel')[k] for k in split.labels] == names


def test_images_that_come_later_move_no_others(one, some):
  before = folder.load(source(one))
  write(one, {f'cat/{i:03}x.jpg': some[0] for i in range(60)})
  after = folder.load(source(one))
  assert set(paths(before.train)) <= set(paths(after.train))
  assert set(paths(before.test)) <= set(paths(after.test))
  assert 6 <= len(paths(after.test)) - len(paths(before.test)) + 3 <= 25
  assert before.train.fingerprint != after.train.fingerprint


def test_the_choice_is_the_same_elsewhere(one, tmp_path_factory):
  other = tmp_path_factory.mktemp('other') / 'deeper'
  expected = folder.load(source(one))
  one.rename(other)
  loaded = folder.load(source(other))
  for split in ('train', 'test'):
    a, b = getattr(loaded, split), getattr(expected, split)
    assert (paths(a), a.fingerprint) == (paths(b), b.fingerprint)


def test_the_choice_stays_what_it_was_in_earlier_versions():
  names = [f'cat/{i:03}.jpg' for i in range(10)]
  assert folder._held_out(names) == ['cat/007.jpg', 'cat/009.jpg']


def test_never_all_images_of_a_class_are_held_out(some, tmp_path):
  # Of many pairs, some have both hashes in the lowest fifth.
  for label in range(60):
    write(tmp_path, {f'{label:02}/{i}.jpg': some[i] for i in range(2)})
  loaded = folder.load(source(tmp_path))
  np.testing.assert_array_equal(loaded.train.labels, range(60))
  np.testing.assert_array_equal(loaded.test.labels, range(60))
  both = [
    max(folder._share(f'{k:02}/{i}.jpg') for i in range(2)) < 0.2
    for k in range(60)
  ]
  assert any(both)


def test_a_class_may_be_called_train(some, tmp_path):
  files = [f'{c}/{i}.jpg' for c in ('boat', 'train', 'test') for i in range(2)]
  write(tmp_path, dict(zip(files, some, strict=False)))
  loaded = folder.load(source(tmp_path))
  assert loaded.num_classes == 3
  assert len(loaded.train.labels) == len(loaded.test.labels) == 3


def test_one_image_is_too_few_to_hold_out(one, some):
  write(one, {'fox/a.jpg': some[0]})
  refused(one, f'one image only of fox in {one}')


# Identity.


def _prints(root, **fields):
  loaded = folder.load(source(root, **fields))
  return loaded.train.fingerprint, loaded.test.fingerprint


def test_a_fingerprint_is_of_names_classes_and_contents(two, some):
  before = _prints(two)
  assert before[0] != before[1]
  assert _prints(two) == before == _prints(two, image_size=32)
  seen = {before[0]}
  path = two / 'train/cat/a.jpg'
  original = path.read_bytes()
  changes = {
    'another image': lambda: path.write_bytes(some[7]),
    'another name': lambda: path.rename(two / 'train/cat/aa.jpg'),
    'another class': lambda: path.rename(two / 'train/dog/a.jpg'),
    'one more': lambda: write(two, {'train/cat/n.jpg': some[7]}),
  }
  for change in changes.values():
    change()
    seen.add(_prints(two)[0])
    assert _prints(two)[1] == before[1]
    for left in ('train/cat/aa.jpg', 'train/dog/a.jpg', 'train/cat/n.jpg'):
      (two / left).unlink(missing_ok=True)
    path.write_bytes(original)
    assert _prints(two) == before
  assert len(seen) == 5


@pytest.mark.parametrize('place', [0.01, 0.5, 0.99])
@pytest.mark.parametrize('side', [20, 120, 400])
def test_other_pixels_in_a_file_of_the_same_size_are_noticed(two, side, place):
  image = np.asarray(photograph(size=(50, 50)).resize((side, side))).copy()
  # Large files are looked at near their ends; their middles may differ.
  far = side == 400 and place == 0.5
  (two / 'train/cat/a.jpg').unlink()
  write(two, {'train/cat/a.bmp': encoded(Image.fromarray(image), 'BMP')})
  before = _prints(two)
  image[int(place * side), side // 2] ^= 255
  write(two, {'train/cat/a.bmp': encoded(Image.fromarray(image), 'BMP')})
  assert (_prints(two) == before) == far


def test_metadata_of_the_file_system_do_not_count(two):
  before = _prints(two)
  for path in two.rglob('*.jpg'):
    os.utime(path, (1, 1))
    path.chmod(0o400)
  assert _prints(two) == before


def test_a_file_name_may_be_any_bytes(two, some):
  before = _prints(two)
  name = os.fsencode(two / 'train/cat') + b'/\xff\xe4.jpg'
  try:
    with open(name, 'wb') as file:
      file.write(some[5])
  except OSError:
    pytest.skip('the file system wants names in UTF-8')
  loaded = folder.load(source(two))
  assert loaded.train.fingerprint != before[0]
  # Its hash, too, is of its bytes.
  divided = folder.load(source(two / 'train'))
  assert len(divided.train.labels) + len(divided.test.labels) == 5
  images = loaded.train.images
  row = [str(p).endswith('.jpg') and '\udcff' in p for p in paths(loaded.train)]
  assert images.records[row.index(True)] == some[5]
  os.truncate(name, len(some[5]) // 2)
  assert r'train/cat/\xff\xe4.jpg (' in refused(two, '1 file')
  with pytest.raises(DataError, match=r'cat/\\xff\\xe4.jpg: .*[Tt]runcated'):
    images[[row.index(True)]]


# What is refused.


def test_no_path_is_told_what_to_write():
  with pytest.raises(ConfigError, match='path is empty.*folder.py:path=DIR'):
    folder.load(source(''))


def test_a_missing_folder_a_file_and_a_bucket_are_named(tmp_path):
  refused(tmp_path / 'none', f'there is no folder {tmp_path}/none')
  (tmp_path / 'file').write_text('')
  refused(tmp_path / 'file', f'{tmp_path}/file is not a folder')
  refused('gs://bucket/x', 'gs://bucket/x is not a local folder')


def test_a_folder_of_no_classes_is_told_the_layouts(tmp_path, some):
  pattern = 'has images of 0 class.*train/<class>/ and val/<class>/'
  refused(tmp_path, pattern)
  write(tmp_path, {'a.jpg': some[0], 'b.jpg': some[1]})
  refused(tmp_path, pattern)
  write(tmp_path, {'cat/a.jpg': some[0]})
  refused(tmp_path, 'has images of 1 class')


@pytest.mark.parametrize(
  ('gone', 'pattern'),
  [
    ('val', r'in train but not in val or test.*path=\S+/train'),
    ('train', r'in val but not in train; .*path=\S+/val'),
  ],
)
def test_a_missing_split_is_named(two, gone, pattern):
  (two / gone).rename(two.parent / f'{two.name}-{gone}')
  refused(two, pattern)


def test_classes_of_one_split_only_are_named(two, some):
  write(
    two,
    {'train/ape/1.jpg': some[0], 'train/bee/1.jpg': some[0]}
    | {f'val/x{i:02}/1.jpg': some[1] for i in range(12)},
  )
  message = refused(two, f'{two} differ between the splits')
  assert 'ape, bee for training only' in message
  assert 'x00, x01' in message and 'x09 and 2 more for testing only' in message


def test_an_empty_class_is_named(two):
  (two / 'train/cat/a.jpg').unlink()
  (two / 'train/cat/b.jpg').rename(two / 'train/cat/._b.jpg')
  refused(two, f'no usable images of cat in {two}/train; add')


@pytest.fixture
def spoilt(two, some):
  """The folder with files that can't be used, and why, by path."""
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  whole = encoded(Image.fromarray(noise), 'PNG')
  write(
    two,
    {
      'train/cat/cut.jpg': some[0][: len(some[0]) // 2],
      'train/cat/cut.png': whole[: len(whole) // 2],
      'train/dog/empty.jpg': b'',
      'train/dog/notes.txt': b'text',
      'train/dog/page.jpg': b'<html></html>',
      'train/dog/deeper/a.jpg': some[0],
      'val/loose.jpg': some[0],
    },
  )
  (two / 'val/cat/link.jpg').symlink_to(two / 'nowhere')
  return two, {
    'train/cat/cut.jpg': 'Truncated',
    'train/cat/cut.png': 'truncated',
    'train/dog/empty.jpg': 'empty',
    'train/dog/notes.txt': 'not named like an image',
    'train/dog/page.jpg': 'not an image of a known format',
    'train/dog/deeper': 'a folder in a class folder',
    'val/loose.jpg': 'in no class folder',
    'val/cat/link.jpg': 'a broken link',
  }


def test_files_that_cannot_be_used_are_listed_and_refused(spoilt):
  root, reasons = spoilt
  message = refused(root, f'in {root}, 8 file.*data.skip_unreadable=True')
  for path, reason in reasons.items():
    assert f'{path} (' in message
    assert reason in message.partition(f'{path} (')[2].partition(')')[0]


def test_of_many_such_files_ten_are_listed_and_all_counted(two):
  write(two, {f'train/cat/{i:02}.jpg': b'text' for i in range(23)})
  message = refused(two, '23 file.* and 13 more; mend')
  assert 'train/cat/09.jpg' in message and 'train/cat/10.jpg' not in message


def test_they_are_skipped_on_request_and_counted(spoilt, caplog):
  root, reasons = spoilt
  with caplog.at_level(logging.WARNING):
    loaded = folder.load(source(root, skip_unreadable=True))
  assert (
    f'in {root}, 8 file(s) cannot be used: train/cat/cut.jpg' in caplog.text
  )
  assert '; they are skipped' in caplog.text
  for path in reasons:
    (root / path).unlink() if not (root / path).is_dir() else None
  (root / 'train/dog/deeper/a.jpg').unlink()
  (root / 'train/dog/deeper').rmdir()
  clean = folder.load(source(root))
  for split in ('train', 'test'):
    a, b = getattr(loaded, split), getattr(clean, split)
    assert (paths(a), a.fingerprint) == (paths(b), b.fingerprint)
    np.testing.assert_array_equal(a.labels, b.labels)


def test_a_class_of_which_all_is_skipped_is_an_error(two):
  for path in (two / 'val/cat').iterdir():
    path.write_bytes(b'text')
  refused(two, f'no usable images of cat in {two}/val', skip_unreadable=True)


def test_what_systems_leave_everywhere_is_passed_over(two):
  before = _prints(two)
  for name in ('.DS_Store', 'Thumbs.db', 'desktop.ini', '._a.jpg', '.gitkeep'):
    write(two, {f'train/cat/{name}': b'x', f'train/{name}': b'x', name: b'x'})
  for name in ('Icon\r', '.apdisk', '.VolumeIcon.icns', '.hidden.jpg'):
    write(two, {f'train/cat/{name}': b'x', f'val/{name}': b'x', name: b'x'})
  for name in (
    '.ipynb_checkpoints', '@eaDir', '__MACOSX', '.Trash-1000', '.stfolder',
    '#recycle', '@tmp', '.snapshots', '.dropbox.cache', '.idea', '.vscode',
  ):  # fmt: skip
    write(two, {f'train/cat/{name}/a.jpg': b'x', f'train/{name}/b.jpg': b'x'})
  # Beside the splits other files are no mistake.
  write(two, {'README.md': b'x', 'LICENSE': b'x', 'labels.csv': b'x'})
  assert _prints(two) == before


STRAYS = {
  'a file': lambda path: path.write_text('../../store/bird'),
  'a broken link to /nowhere/bird': lambda p: p.symlink_to('/nowhere/bird'),
  'Too many levels of symbolic links': lambda path: path.symlink_to(path),
  'no file': os.mkfifo,
}


@pytest.mark.parametrize('skip', [False, True])
@pytest.mark.parametrize('reason', STRAYS)
def test_what_may_have_been_a_class_is_refused(two, reason, skip):
  for split in ('train', 'val'):
    STRAYS[reason](two / split / 'bird')
  both = f'beside the class folders: train/bird .{reason}.*, val/bird .{reason}'
  refused(two, both, skip_unreadable=skip)
  refused(two / 'train', rf'folders: bird \({reason}', skip_unreadable=skip)


@pytest.mark.parametrize('name', ['bird.tar', 'bird.zip', 'Node.js', 'LICENSE'])
def test_any_file_beside_the_classes_is_named(two, name):
  write(two, {f'val/{name}': b'x'})
  refused(two, rf'in {two}, beside .*: val/{name} \(a file\); make a class')


def test_hidden_folders_are_not_passed_over(two, some):
  write(two, {'train/.NET/a.jpg': some[0], 'val/.NET/a.jpg': some[0]})
  hidden = r'train/.NET \(a hidden folder\), val/.NET \(a hidden folder\)'
  refused(two, hidden)
  (two / 'train/.NET').rename(two / 'train/dog/.NET')
  (two / 'val/.NET').rename(two / '.NET')
  refused(two, r'1 file.*: train/dog/.NET \(a folder in a class folder\)')


def test_classes_that_look_the_same_are_named(two, some):
  for split in ('train', 'val'):
    write(two, {f'{split}/caf\xe9/a.jpg': some[0]})
  write(two, {'train/cafe\u0301/a.jpg': some[0]})
  told = r"'cafe\\u0301' and 'caf\\xe9' look the same"
  refused(two, told)
  # Between the splits, too.
  (two / 'train/caf\xe9/a.jpg').unlink()
  (two / 'train/caf\xe9').rmdir()
  refused(two, told)
  (two / 'train/cafe\u0301').rename(two / 'train/caf\xe9')
  (two / 'train/dog').rename(two / 'train/dog ')
  refused(two, "'dog ' and 'dog' look the same")


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    *(('\ufb01sh', 'fish'), ('\uff44og', 'dog'), ('a b', 'a\xa0b')),
    *(('dog\u200b', 'dog'), ('\ufeffdog', 'dog'), ('dog\xa0', 'dog')),
  ],
)
def test_ligatures_and_odd_spaces_are_not_told_for_case(
  one, other, tmp_path, some
):
  for name in ('cat', one, other):
    write(tmp_path, {f'{name}/{i}.jpg': some[i] for i in range(2)})
  refused(tmp_path, 'look the same; make them one')


def test_sharp_s_is_another_letter(tmp_path, some, caplog):
  for name in ('Strasse', 'Stra\xdfe'):
    write(tmp_path, {f'{name}/{i}.jpg': some[i] for i in range(2)})
  assert folder.load(source(tmp_path)).num_classes == 2
  assert 'case' not in caplog.text


@pytest.mark.parametrize(
  ('train', 'test', 'named'),
  [
    ('Training', 'Validation', 'Training'),
    ('training', 'testing', 'testing'),
    ('train', 'testing', 'testing'),
    ('train_set', 'val', 'train_set'),
  ],
)
def test_splits_by_other_names_are_told_theirs(two, train, test, named):
  (two / 'train').rename(two / train)
  (two / 'val').rename(two / test)
  refused(two, f'^{two}/{named} holds folders, and is called neither train nor')


def test_what_is_called_like_a_split_may_be_a_class(tmp_path, some):
  for name in ('testing', 'training'):
    write(tmp_path, {f'{name}/{i}.jpg': some[i] for i in range(2)})
  assert folder.load(source(tmp_path)).num_classes == 2


def test_a_folder_around_the_splits_is_told(two):
  (two / 'inner').mkdir()
  for split in ('train', 'val'):
    (two / split).rename(two / 'inner' / split)
  told = f'{two} holds inner, which has train: give path={two}/inner$'
  refused(two, told)


def test_classes_may_differ_by_case_which_is_said(two, some, caplog):
  write(two, {f'{split}/Cat/a.jpg': some[0] for split in ('train', 'val')})
  assert folder.load(source(two)).num_classes == 3
  assert 'differ by letter case alone: Cat, cat' in caplog.text
  (two / 'val/Cat').rename(two / 'val/CAT')
  refused(two, 'Cat for training only; CAT for testing only')


def test_paths_that_lead_nowhere_are_one_line(tmp_path):
  refused(tmp_path / ('a' * 300), r'no folder .*\(File name too long\)')
  (tmp_path / 'ring').symlink_to(tmp_path / 'ring')
  refused(tmp_path / 'ring', r'\(Too many levels of symbolic links\)')
  (tmp_path / 'gone').symlink_to('/nowhere')
  refused(tmp_path / 'gone', r'\(No such file or directory\)')
  refused('a\0b', 'no folder .*null')


@pytest.mark.parametrize('place', ['.', 'train', 'train/dog'])
def test_a_folder_that_one_may_not_enter_is_named(two, place, monkeypatch):
  scandir = os.scandir

  def closed(path):
    if pathlib.Path(path) == two / place:
      raise PermissionError(13, 'Permission denied')
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', closed)
  refused(two, f'cannot read {two / place}: Permission denied')


def test_what_may_not_be_read_is_named(two):
  (two / 'train/cat/a.jpg').chmod(0)
  if os.access(two / 'train/cat/a.jpg', os.R_OK):
    pytest.skip('this user may read everything')
  refused(two, r'train/cat/a.jpg \(Permission denied\)')
  (two / 'train/dog').chmod(0)
  refused(two, f'cannot read {two}/train/dog: Permission denied')
  (two / 'train/dog').chmod(0o700)


def test_damage_within_a_file_is_told_when_it_is_read(two):
  # Its beginning and end are as they should be.
  path = two / 'train/dog/y.png'
  content = bytearray(encoded(photograph(), 'PNG'))
  content[len(content) // 2] ^= 255
  path.write_bytes(content)
  images = folder.load(source(two, image_size=16)).train.images
  row = paths(folder.load(source(two)).train).index('train/dog/y.png')
  with pytest.raises(DataError, match=f'cannot read image {row}, {path}: '):
    images[:]
  with pytest.raises(DataError, match=f'cannot read image {row}, {path}: '):
    images.training_view(row, np.random.default_rng(0))


@pytest.mark.parametrize('kept', [0, 0.3])
def test_holes_in_a_jpeg_are_found_at_the_start(two, kept):
  before = _prints(two)
  content = encoded(photograph(1, (200, 150)))
  scan = content.index(b'\xff\xda')
  first = scan + int(kept * (len(content) - scan))
  hole = bytes(len(content) - first - 2)
  write(two, {'train/cat/hole.jpg': content[:first] + hole + content[-2:]})
  refused(two, r'1 file.*train/cat/hole.jpg \(.*\); mend or remove')
  assert _prints(two, skip_unreadable=True) == before


def test_all_that_cannot_be_decoded_is_left_out_on_request(two):
  before = _prints(two)
  content = bytearray(encoded(photograph(), 'PNG'))
  content[len(content) // 2] ^= 255
  write(two, {'train/dog/wrong.png': content})
  assert _prints(two) != before
  assert _prints(two, skip_unreadable=True) == before


def test_what_would_fill_the_memory_is_found_at_the_start(two):
  write(
    two, {'val/cat/big.png': encoded(Image.new('1', (13_000, 9_000)), 'PNG')}
  )
  refused(
    two,
    r'val/cat/big.png \(13000 x 9000 pixels are more than the 67,108,864 that '
    r'are accepted; shrink it\)',
  )


def test_many_files_are_looked_at_without_decoding_them(
  tmp_path, some, monkeypatch
):
  monkeypatch.setattr(image_files, 'pixels', None)
  for label in ('a', 'b'):
    write(tmp_path, {f'{label}/{i}.jpg': some[i % 8] for i in range(300)})
  loaded = folder.load(source(tmp_path))
  assert len(loaded.train.labels) + len(loaded.test.labels) == 600


# The configuration.


def _config(arguments):
  spec = importlib.util.spec_from_file_location('folder_config', CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arguments)


def test_the_configuration_takes_a_path_and_a_size():
  config = _config('path=/some/a=b c,model=resnet18,size=64,method=vanilla')
  config_lib.validate(config)
  assert (config.data.name, config.data.path) == ('folder', '/some/a=b c')
  assert (config.data.image_size, config.model.name) == (64, 'resnet18')
  assert (config.method, config.epochs, config.batch_size) == (
    'vanilla',
    90,
    32,
  )
  # In proportion: 0.1 for 256.
  assert config.optimiser.learning_rate == 0.1 * 32 / 256
  assert config.augment.padding == 0
  assert config.optimiser.weight_decay == 1e-4


@pytest.mark.parametrize('arguments', [None, '', 'recipe=strong'])
def test_the_configuration_stands_without_a_path(arguments):
  config = _config(arguments)
  config_lib.validate(config)
  assert (config.data.path, config.model.name) == ('', 'resnet50')


@pytest.mark.parametrize(
  ('arguments', 'pattern'),
  [
    ('path=a,path=b', "'path' is given twice"),
    ('path=', "'path=' is not of the form a=b"),
    ('path', "'path' is not of the form a=b"),
    ('size=big', "size='big' is not a number of pixels"),
    ('size=-1', "size='-1' is not a number"),
    ('path=a,b', "'b' is not of the form"),
    ('folder=a', "Unknown config argument 'folder'"),
  ],
)
def test_wrong_arguments_are_named(arguments, pattern):
  with pytest.raises(ConfigError, match=pattern):
    _config(arguments)
