# SPDX-License-Identifier: Apache-2.0
"""Market-1501, and other persons in folders: what is read, what is refused."""

import importlib.util
import io
import logging
import os
import pathlib
import shutil
import socket
import sys
import threading

import made_market
import numpy as np
import pytest
import started
import tensorflow_datasets as tfds
from PIL import Image

from srdl_jax import config as config_lib
from srdl_jax import data
from srdl_jax.data import persons as persons_lib
from srdl_jax.data.persons import folder as persons_folder
from srdl_jax.data.persons import market1501
from srdl_jax.errors import ConfigError, DataError
from srdl_jax.storage import locks

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN, QUERY = 'bounding_box_train', 'query'
GALLERY, BOXES = 'bounding_box_test', 'gt_bbox'


@pytest.fixture(scope='session')
def made(tmp_path_factory):
  """Drawn figures: 4 identities to train on, 3 to look for, 2 cameras."""
  return made_market.make(
    tmp_path_factory.mktemp('market'),
    train_identities=4,
    test_identities=3,
    cameras=2,
    per_camera=2,
    distractors=3,
    junk=2,
  )


@pytest.fixture(scope='session')
def prepared(made, tmp_path_factory):
  """A TFDS directory prepared from it; never to be changed."""
  data_dir = tmp_path_factory.mktemp('tfds')
  source = data.Location(str(data_dir), str(made.folder))
  market1501.prepare(source, made.counts)
  return data_dir


@pytest.fixture(scope='session')
def loaded(made, prepared):
  """The data set, read where there is no folder."""
  return market1501.load(data.Location(str(prepared)), made.counts)


@pytest.fixture
def copy(made, tmp_path):
  """The folder, to be changed."""
  return pathlib.Path(shutil.copytree(made.folder, tmp_path / 'copy'))


def from_folder(root, **fields):
  return persons_folder.load(
    data.Location(path=str(root), image_size=32, **fields)
  )


def refused(root, pattern, **fields):
  with pytest.raises(DataError, match=pattern) as caught:
    from_folder(root, **fields)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def folders_of(root):
  return [root / name for name in (TRAIN, QUERY, GALLERY, BOXES)]


def drop(root, *starts):
  """Removes the images whose names begin so, from all folders."""
  for folder in folders_of(root):
    for path in folder.iterdir():
      if path.name.startswith(starts):
        path.unlink()


def swap(first, second):
  first.rename(first.with_name('between'))
  second.rename(first)
  first.with_name('between').rename(second)


# Names.


@pytest.mark.parametrize(('name', 'told'), [
  ('0002_c1s1_000451_03.jpg', (2, 1)),
  ('1501_c6s4_001902_01.jpg', (1501, 6)),
  ('0000_c3s2_119243_04.jpg', (0, 3)),
  ('-1_c1s1_000401_03.jpg', (-1, 1)),
  ('0550_c2s1_116908_00.jpg.jpg', (550, 2)),
  # DukeMTMC-reID, and MSMT17 as it is usually renamed.
  ('0005_c2_f0046985.jpg', (5, 2)),
  ('4100_c15_0003.jpg', (4100, 15)),
  ('0012_c05_0003.jpg', (12, 5)),
  # CUHK03-NP and VeRi-776.
  ('0001_c1_1.png', (1, 1)),
  ('0767_c2_10.png', (767, 2)),
  ('0001_c001_00016450_0.jpg', (1, 1)),
  ('0776_c020_00085635_1.jpg', (776, 20)),
  ('0776_c020_85635_1.jpg', None),
  ('0001_c001_00016450_0.png', None),
  ('0001_c001_0003.jpg', None),
  ('Thumbs.db', None),
  ('0002_c1s1_000451_03.JPG', None),
  ('0002_c1s1_000451_03.png', None),
  ('0002_c1s1_000451_03.jpg.jpg.jpg', None),
  ('0002_c1s1_000451_03.jpg\n', None),
  ('0002_c1s1_000451_03xjpg', None),
  ('0002_c1s1_000451.jpg', None),
  ('0002_c1s1_451_03.jpg', None),
  ('x0002_c1s1_000451_03.jpg', None),
  ('._0002_c1s1_000451_03.jpg', None),
  ('002_c1s1_000451_03.jpg', None),
  ('-2_c1s1_000451_03.jpg', None),
  ('-0001_c1s1_000451_03.jpg', None),
  ('0002_c123s1_000451_03.jpg', None),
  ('0002_cs1_000451_03.jpg', None),
  ('\u0660\u0660\u0660\u0662_c1s1_000451_03.jpg', None),
])  # fmt: skip
def test_names_tell_identity_and_camera(name, told):
  assert persons_lib.parse(name) == told


# What is loaded.


def test_the_official_counts_are_those_of_the_authors():
  counts = market1501.OFFICIAL
  shape = data.shape('market1501')
  assert counts['training images'] == shape.train_examples == 12_936
  assert counts['training identities'] == shape.num_classes == 751
  assert (counts['queries'], counts['query identities']) == (3_368, 750)
  # 13,115 + 2,798 + 3,819 = 19,732 images in bounding_box_test.
  gallery = 'good gallery images', 'distractors', 'junk images'
  assert sum(counts[name] for name in gallery) == 19_732
  # Each of 1,501 persons is in one of the two halves.
  assert counts['training identities'] + counts['query identities'] == 1_501


def test_training_identities_are_numbered_in_order(loaded, made):
  train = loaded.train
  assert (loaded.name, loaded.version) == ('market1501', '1.0.0')
  assert (loaded.num_classes, train.name) == (4, 'train')
  assert loaded.mean == (0.485, 0.456, 0.406)
  assert loaded.std == (0.229, 0.224, 0.225)
  # They are called 1, 3, 5 and 7.
  identities = [int(name[:4]) for name in made.names[TRAIN]]
  assert sorted(set(identities)) == [1, 3, 5, 7]
  assert train.labels.dtype == np.int32
  assert train.labels.tolist() == [(i - 1) // 2 for i in identities]
  assert not train.is_streamed
  assert train.images.shape == (len(identities), 256, 128, 3)
  assert train.images.dtype == np.uint8


def test_rows_are_in_the_order_of_names(loaded, made):
  for part, folder in (
    (loaded.test.query, QUERY),
    (loaded.test.gallery, GALLERY),
  ):
    assert list(part.file_names) == made.names[folder]
    told = [persons_lib.parse(name) for name in made.names[folder]]
    assert part.identities.tolist() == [identity for identity, _ in told]
    assert part.cameras.tolist() == [camera for _, camera in told]
    assert part.identities.dtype == part.cameras.dtype == np.int32
  assert [p.name for p in loaded.test.parts] == [
    'query', 'gallery', 'multi_query',
  ]  # fmt: skip


def test_junk_and_distractors_are_in_the_gallery(loaded, made):
  identities = loaded.test.gallery.identities
  assert (identities == -1).sum() == made.counts['junk images'] == 2
  assert (identities == 0).sum() == made.counts['distractors'] == 3
  assert (identities > 0).sum() == 3 * 2 * 2


def test_boxes_are_of_identities_and_cameras_of_queries(loaded, made):
  boxes, query = loaded.test.multi_query, loaded.test.query
  asked = set(zip(query.identities, query.cameras, strict=True))
  kept = set(zip(boxes.identities, boxes.cameras, strict=True))
  assert kept == asked
  # gt_bbox has 7 identities, and 3 of them are looked for.
  assert len(made.names[BOXES]) == 7 * 2 * 2
  assert len(boxes.images) == 3 * 2 * 2


def test_pixels_are_those_of_the_files_stretched(loaded, made):
  def stretched(folder, name):
    with Image.open(made.folder / folder / name) as image:
      size = 128, 256
      return np.asarray(image.resize(size, Image.Resampling.BILINEAR))

  for name, image in zip(made.names[TRAIN], loaded.train.images, strict=True):
    np.testing.assert_array_equal(image, stretched(TRAIN, name))
  query = loaded.test.query
  for row, name in enumerate(made.names[QUERY]):
    np.testing.assert_array_equal(query.images[row], stretched(QUERY, name))
  boxes = loaded.test.multi_query
  expected = [stretched(BOXES, name) for name in boxes.file_names]
  np.testing.assert_array_equal(boxes.images[:], np.stack(expected))


def test_other_modes_become_rgb(copy):
  name = sorted(path.name for path in (copy / QUERY).glob('*.jpg'))[1]
  with Image.open(copy / QUERY / name) as image:
    image.convert('L').save(copy / QUERY / name)
  query = from_folder(copy).test.query
  grey = query.images[query.file_names.index(name)]
  assert grey.shape == (32, 16, 3)
  np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


def test_images_for_testing_look_like_an_array(loaded):
  images = loaded.test.gallery.images
  whole = images[:]
  assert isinstance(whole, np.ndarray) and not isinstance(images, np.ndarray)
  assert images.shape == whole.shape == (len(images), 256, 128, 3)
  assert images.dtype == whole.dtype == np.uint8
  for rows in (
    3, -1, np.int32(2), [], [4, 0, 4], np.array([[1], [2]]), slice(2, 9, 3),
  ):  # fmt: skip
    np.testing.assert_array_equal(images[rows], whole[rows])
  for rows in (len(images), [0, -len(images) - 1], np.array([99])):
    with pytest.raises(IndexError):
      images[rows]


@pytest.mark.parametrize('height', [2, 64, 384])
def test_image_size_is_the_height(made, prepared, loaded, height):
  source = data.Location(str(prepared), image_size=height)
  other = market1501.load(source, made.counts)
  assert other.train.images.shape[1:] == (height, height // 2, 3)
  assert other.test.query.images.shape[1:] == (height, height // 2, 3)
  assert other.train.fingerprint == loaded.train.fingerprint


def test_an_odd_height_is_refused(made, prepared):
  source = data.Location(str(prepared), image_size=33)
  with pytest.raises(ConfigError, match='image_size = 33'):
    market1501.load(source, made.counts)


def test_fingerprints_follow_names_and_content(copy, made):
  before = from_folder(made.folder)
  same = from_folder(copy)
  assert same.train.fingerprint == before.train.fingerprint
  assert same.test.fingerprint == before.test.fingerprint
  path = sorted((copy / GALLERY).glob('0002*'))[0]
  path.write_bytes(sorted((copy / GALLERY).glob('0004*'))[0].read_bytes())
  content = from_folder(copy)
  path.rename(path.with_name(path.name.replace('s1_', 's2_')))
  name = from_folder(copy)
  prints = {d.test.fingerprint for d in (before, content, name)}
  assert len(prints) == 3
  assert content.test.query.fingerprint == before.test.query.fingerprint
  assert content.train.fingerprint == before.train.fingerprint


def test_retrievals_differ_without_multi_query(loaded):
  test = loaded.test
  alone = data.Retrieval(test.query, test.gallery)
  assert alone.fingerprint != test.fingerprint
  swapped = data.Retrieval(test.gallery, test.query, test.multi_query)
  assert swapped.fingerprint != test.fingerprint


# The prepared directory.


def test_prepared_and_unprepared_are_the_same(loaded, made):
  direct = persons_folder.load(data.Location(path=str(made.folder)))
  np.testing.assert_array_equal(direct.train.images, loaded.train.images)
  np.testing.assert_array_equal(direct.train.labels, loaded.train.labels)
  pairs = zip(direct.test.parts, loaded.test.parts, strict=True)
  for ours, theirs in pairs:
    assert ours.file_names == theirs.file_names
    np.testing.assert_array_equal(ours.identities, theirs.identities)
    np.testing.assert_array_equal(ours.images[:], theirs.images[:])


def test_tfds_reads_what_is_prepared(prepared, made):
  decoders = {'image': tfds.decode.SkipDecoding()}
  folders = {'train': TRAIN, 'query': QUERY, 'gallery': GALLERY}
  for split, folder in folders.items():
    rows = tfds.data_source(
      'market1501', data_dir=prepared, split=split, decoders=decoders
    )
    names = [row['file_name'].decode() for row in rows]
    assert names == made.names[folder]
    for name, row in zip(names, rows, strict=True):
      assert row['label'] == persons_lib.parse(name)[0]
      assert row['image'] == (made.folder / folder / name).read_bytes()


def test_the_folder_is_found_above_and_below(made, tmp_path):
  for number, manual in enumerate((made.folder, made.folder.parent)):
    source = data.Location(str(tmp_path / str(number)), str(manual))
    assert len(market1501.load(source, made.counts).train.labels) == 16
    source = data.Location(str(tmp_path / f'p{number}'), path=str(manual))
    assert len(market1501.load(source, made.counts).train.labels) == 16
  # Where archives are put by hand by default.
  default = tmp_path / 'tfds' / 'downloads' / 'manual' / made_market.FOLDER
  shutil.copytree(made.folder, default)
  source = data.Location(str(tmp_path / 'tfds'))
  assert len(market1501.load(source, made.counts).train.labels) == 16


def test_a_missing_folder_is_told_with_the_remedy(tmp_path):
  source = data.Location(str(tmp_path / 'd'), str(tmp_path / 'm'))
  with pytest.raises(DataError) as caught:
    market1501.load(source)
  for part in ('market1501/1.0.0', 'Market-1501-v15.09.15', 'manual_dir',
               'data_dir', source.data_dir, source.manual_dir):  # fmt: skip
    assert part in str(caught.value)
  assert not (tmp_path / 'd').exists()


def test_nothing_is_left_of_a_preparation_that_fails(
  made, tmp_path, monkeypatch
):
  def full(*args):
    raise OSError(28, os.strerror(28))

  source = data.Location(str(tmp_path), str(made.folder))
  with monkeypatch.context() as patch:
    patch.setattr(os, 'rename', full)
    pattern = f'cannot prepare {tmp_path}.*No space left on device.*data_dir'
    with pytest.raises(DataError, match=pattern):
      market1501.prepare(source, made.counts)
  left = [p.name for p in tmp_path.rglob('*') if p.is_file()]
  assert left == ['.srdl_jax.lock']
  # What a killed process leaves is no obstacle.
  staging = (
    tmp_path / 'market1501' / f'incomplete.srdl_{socket.gethostname()}_half'
  )
  staging.mkdir()
  (staging / 'half').write_bytes(b'')
  assert len(market1501.load(source, made.counts).train.labels) == 16
  assert not staging.exists()


def test_another_machine_may_be_first(made, prepared, tmp_path, monkeypatch):
  rename = os.rename

  def late(source, destination):
    shutil.copytree(prepared / 'market1501' / '1.0.0', destination)
    rename(source, destination)

  monkeypatch.setattr(os, 'rename', late)
  source = data.Location(str(tmp_path), str(made.folder))
  assert len(market1501.load(source, made.counts).train.labels) == 16
  assert not list(tmp_path.rglob('incomplete*'))


def test_a_file_that_vanishes_while_preparing_is_named(
  copy, made, tmp_path, monkeypatch
):
  name = made.names[QUERY][2]
  read = persons_folder.read

  def vanishing(*args):
    parts = read(*args)
    (copy / QUERY / name).unlink()
    return parts

  monkeypatch.setattr(persons_folder, 'read', vanishing)
  source = data.Location(str(tmp_path / 'tfds'), str(copy))
  with pytest.raises(DataError, match=f'cannot read .*{name}: No such file'):
    market1501.prepare(source, made.counts)
  assert not list((tmp_path / 'tfds').rglob('incomplete*'))
  assert not (tmp_path / 'tfds' / 'market1501' / '1.0.0').exists()


def test_one_prepares_and_the_other_waits(made, tmp_path):
  source = data.Location(str(tmp_path), str(made.folder))
  folder = tmp_path / 'market1501'
  folder.mkdir()
  thread = threading.Thread(
    target=market1501.prepare, args=(source, made.counts), daemon=True
  )
  with locks.taking_turns(folder):
    thread.start()
    thread.join(timeout=0.3)
    assert thread.is_alive() and not (folder / '1.0.0').exists()
  thread.join(timeout=started.SECONDS)
  before = {p: p.stat().st_mtime_ns for p in (folder / '1.0.0').iterdir()}
  market1501.prepare(source, made.counts)
  after = {p: p.stat().st_mtime_ns for p in (folder / '1.0.0').iterdir()}
  assert before == after and len(after) == 7


def _patched(path, old, new):
  content = path.read_bytes()
  assert old in content
  path.write_bytes(content.replace(old, new))


def test_damage_of_what_is_prepared_is_named(made, prepared, tmp_path):
  data_dir = pathlib.Path(shutil.copytree(prepared, tmp_path / 'tfds'))
  folder = data_dir / 'market1501' / '1.0.0'
  source = data.Location(str(data_dir))
  (gallery,) = folder.glob('*gallery*')
  good = gallery.read_bytes()
  name = made.names[GALLERY][4].encode()
  _patched(gallery, name, b'9' + name[1:])
  with pytest.raises(DataError, match=f'{gallery} is damaged.*remove {folder}'):
    market1501.load(source, made.counts)
  gallery.write_bytes(good)
  for shard in ('*query.*', '*multi_query*'):
    path = min(folder.glob(shard), key=lambda p: len(p.name))
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=f'incomplete: {path.name} is missing'):
      market1501.load(source, made.counts)
    path.write_bytes(content)
  market1501.load(source, made.counts)


def test_records_of_other_names_are_refused(made, tmp_path, monkeypatch):
  source = data.Location(str(tmp_path), str(made.folder))
  with monkeypatch.context() as patch:
    patch.setattr(
      market1501, 'Example', lambda name, *rest: _EXAMPLE('a.jpg', *rest)
    )
    market1501.prepare(source, made.counts)
  with pytest.raises(DataError, match="row 0 is called 'a.jpg'; remove"):
    market1501.load(source, made.counts)


_EXAMPLE = market1501.Example


def test_neither_jax_nor_tensorflow_is_imported(prepared):
  program = (
    'import sys\nfrom srdl_jax import data\n'
    f'd = data.load("market1501", data_dir={str(prepared)!r}, '
    'allow_differences=True)\n'
    'print(len(d.train.labels), {"jax", "tensorflow"} & set(sys.modules))'
  )
  done = started.run([sys.executable, '-c', program], cwd=ROOT, check=True)
  assert done.stdout == '16 set()\n'


# Other data sets.


def _renamed(root, rename):
  for folder in folders_of(root):
    for number, path in enumerate(sorted(folder.glob('*.jpg'))):
      path.rename(folder / rename(*path.name.split('_'), number))


def test_folders_of_dukemtmc_are_read(copy, loaded):
  drop(copy, '-1', '0000')
  shutil.rmtree(copy / BOXES)
  _renamed(copy, lambda i, c, *rest: f'{i}_{c[:2]}_f{rest[-1]:07}.jpg')
  duke = from_folder(copy)
  assert (duke.name, duke.num_classes) == ('reid_folder', 4)
  np.testing.assert_array_equal(duke.train.labels, loaded.train.labels)
  assert duke.test.multi_query is None
  assert [part.name for part in duke.test.parts] == ['query', 'gallery']
  assert set(duke.test.gallery.identities) == {2, 4, 6}


def test_cameras_may_have_two_digits(tmp_path):
  made = made_market.make(
    tmp_path,
    train_identities=2,
    test_identities=2,
    cameras=2,
    per_camera=1,
    distractors=0,
    junk=0,
    first_camera=9,
    oddities=False,
  )
  loaded = from_folder(made.folder)
  assert set(loaded.test.query.cameras) == {9, 10}
  assert set(loaded.test.gallery.cameras) == {9, 10}
  _renamed(made.folder, lambda i, c, *rest: f'{i}_{c[:-2]}_{rest[-1]:04}.jpg')
  loaded = from_folder(made.folder)
  assert set(loaded.test.gallery.cameras) == {9, 10}


def test_folders_of_cuhk03_are_read(copy, loaded):
  drop(copy, '-1', '0000')
  shutil.rmtree(copy / BOXES)
  _renamed(copy, lambda i, c, *rest: f'{i}_{c[:2]}_{rest[-1]}.png')
  cuhk = from_folder(copy)
  np.testing.assert_array_equal(cuhk.train.labels, loaded.train.labels)
  assert all(name.endswith('.png') for name in cuhk.test.query.file_names)
  (copy.parent / 'cuhk03-np').mkdir()
  copy.rename(copy.parent / 'cuhk03-np' / 'detected')
  message = refused(copy.parent / 'cuhk03-np', 'has no folder')
  assert message.endswith('Name one of those in it: detected')


def test_folders_of_veri_are_read(copy, loaded):
  drop(copy, '-1', '0000')
  shutil.rmtree(copy / BOXES)
  _renamed(copy, lambda i, c, *rest: f'{i}_c00{c[1]}_{rest[-1]:08}_0.jpg')
  for market, veri in ((TRAIN, 'image_train'), (QUERY, 'image_query'),
                       (GALLERY, 'image_test')):  # fmt: skip
    (copy / market).rename(copy / veri)
  veri = from_folder(copy)
  np.testing.assert_array_equal(veri.train.labels, loaded.train.labels)
  assert set(veri.test.query.cameras) == set(loaded.test.query.cameras)
  (copy / 'image_query').rename(copy / 'aside')
  refused(copy, f'{copy} has no folder')


def _as_msmt17(copy, train='mask_train_v2', test='mask_test_v2'):
  """Renames a copy; both parts number their persons from 0."""
  drop(copy, '-1', '0000')
  lists = {name: '' for name in ('train', 'val', 'query', 'gallery')}
  for folder, where in ((TRAIN, train), (QUERY, test), (GALLERY, test)):
    paths = sorted((copy / folder).glob('*.jpg'))
    persons = sorted({path.name[:4] for path in paths})
    for number, path in enumerate(paths):
      identity, camera = persons.index(path.name[:4]), path.name[6]
      base = f'{identity:04}_{folder[-3]}{number:03}_0{camera}_x.jpg'
      name = f'{identity:04}/{base}'
      (copy / where / name).parent.mkdir(parents=True, exist_ok=True)
      path.rename(copy / where / name)
      its = {TRAIN: 'val' if number < 3 else 'train', QUERY: 'query'}
      lists[its.get(folder, 'gallery')] += f'{name} {identity}\n'
  for folder in folders_of(copy):
    shutil.rmtree(folder)
  for name, lines in lists.items():
    (copy / f'list_{name}.txt').write_text(lines)


@pytest.mark.parametrize(
  'folders', [('mask_train_v2', 'mask_test_v2'), ('train', 'test')]
)
def test_lists_of_msmt17_are_read(copy, loaded, folders, caplog):
  _as_msmt17(copy, *folders)
  msmt = from_folder(copy)
  assert not caplog.records
  # Names sort its cameras otherwise: they are compared as a whole.
  assert msmt.num_classes == loaded.num_classes
  counts = np.bincount(loaded.train.labels)
  np.testing.assert_array_equal(np.bincount(msmt.train.labels), counts)
  for ours, theirs in zip(msmt.test.parts, loaded.test.parts[:2], strict=True):
    wanted = [
      ((identity - 2) // 2 + 1, camera)
      for identity, camera in zip(
        theirs.identities, theirs.cameras, strict=True
      )
      if identity > 0
    ]
    pairs = zip(ours.identities, ours.cameras, strict=True)
    assert sorted(pairs) == sorted(wanted)
  (copy / folders[1] / '0000' / 'x.jpg').write_bytes(b'')
  from_folder(copy)
  assert (
    '1 file(s) that are not called images, or are in no list' in caplog.text
  )
  assert f'{folders[1]}/0000/x.jpg' in caplog.text


def test_what_earlier_versions_did_not_know_changes_nothing(copy, caplog):
  """Neither other layouts beside Market-1501's, nor their names in it."""

  def prints(**fields):
    found = from_folder(copy, **fields)
    return [p.fingerprint for p in (found.train, *found.test.parts)]

  before = prints()
  for name in ('train', 'test', 'image_train', 'image_query', 'image_test'):
    shutil.copytree(copy / QUERY, copy / name)
  for name in ('train', 'val', 'query', 'gallery'):
    (copy / f'list_{name}.txt').write_text('')
  shutil.copy(
    next((copy / TRAIN).glob('*.jpg')), copy / TRAIN / '0100_c1_1.png'
  )
  (copy / GALLERY / '0100_c001_00016450_0.jpg').write_bytes(b'x')
  message = refused(copy, 'the names of 2 image')
  assert f'{TRAIN}/0100_c1_1.png, {GALLERY}/0100_c001_00016' in message
  assert prints(skip_unreadable=True) == before
  assert '; they are left out' in caplog.text


def test_names_that_tell_nobody_are_refused_or_left_out(copy, made, caplog):
  for name in ('2.jpg', '0002_c1.JPEG', '.hidden.jpg'):
    (copy / QUERY / name).write_bytes(b'not read')
  message = refused(copy, 'the names of 2 image')
  assert f'{QUERY}/0002_c1.JPEG, {QUERY}/2.jpg; rename or remove' in message
  for allowed in ('skip_unreadable', 'allow_differences'):
    caplog.clear()
    loaded = from_folder(copy, **{allowed: True})
    assert len(loaded.test.query.images) == made.counts['queries']
    assert f'{QUERY}/2.jpg; they are left out' in caplog.text


def test_a_folder_must_be_named():
  with pytest.raises(ConfigError, match='data.path is empty'):
    data.load('reid_folder')


# What is odd, and what is wrong.


def test_what_is_skipped_is_counted_and_said(copy, made, caplog):
  """But for what systems leave behind: each folder has a Thumbs.db."""
  (copy / QUERY / 'notes.txt').write_text('no image')
  (copy / GALLERY / 'below').mkdir()
  with caplog.at_level(logging.WARNING, 'srdl_jax'):
    loaded = from_folder(copy)
  (message,) = [r.getMessage() for r in caplog.records]
  assert f'in {copy}, 2 file(s)' in message
  assert message.endswith(f': {QUERY}/notes.txt, {GALLERY}/below')
  assert len(loaded.test.query.images) == made.counts['queries']


def test_names_with_two_endings_are_read(loaded, made):
  for folder, part in ((QUERY, loaded.test.query),
                       (GALLERY, loaded.test.gallery)):  # fmt: skip
    (name,) = [n for n in made.names[folder] if n.endswith('.jpg.jpg')]
    row = part.file_names.index(name)
    assert part.identities[row] == int(name.partition('_')[0])
  assert sum(name.endswith('.jpg.jpg') for name in made.names[TRAIN]) == 1


def test_both_endings_of_one_name_are_two_images(copy, made):
  path = next((copy / GALLERY).glob('*.jpg.jpg'))
  shutil.copy(path, path.with_suffix(''))
  gallery = from_folder(copy).test.gallery
  assert len(gallery.images) == len(made.names[GALLERY]) + 1


@pytest.mark.parametrize('folder', [TRAIN, QUERY, GALLERY])
def test_an_empty_folder_is_named(copy, folder):
  for path in (copy / folder).glob('*.jpg'):
    path.unlink()
  # Thumbs.db is still there.
  refused(copy, f'{copy / folder} has no images')
  shutil.rmtree(copy / folder)
  refused(copy, f'{copy} has no folder {folder}')


@pytest.mark.parametrize('name', ['x', 'x' * 300])
def test_what_is_not_there_is_told_as_missing(tmp_path, name):
  message = refused(tmp_path / name, f'{tmp_path / name} has no folder')
  assert f'{TRAIN}, {QUERY}, {GALLERY}' in message


def test_boxes_of_nobody_who_is_asked_for_are_refused(copy):
  for path in (copy / BOXES).glob('000[246]*'):
    path.unlink()
  refused(copy, f'{copy / BOXES} has no image with the identity and camera')


def test_queries_without_boxes_are_counted(copy, caplog):
  for path in (copy / BOXES).glob('0004_c2*'):
    path.unlink()
  with caplog.at_level(logging.WARNING, 'srdl_jax'):
    from_folder(copy)
  assert '1 of 6 pairs of identity and camera in query' in caplog.text


def test_swapped_folders_are_told_by_junk(copy):
  swap(copy / TRAIN, copy / GALLERY)
  refused(copy, f'{TRAIN} has 2 junk images')
  swap(copy / TRAIN, copy / GALLERY)
  swap(copy / QUERY, copy / GALLERY)
  refused(copy, f'{QUERY} has 2 junk images')


def test_swapped_folders_are_told_without_junk(copy):
  drop(copy, '-1', '0000')
  swap(copy / QUERY, copy / GALLERY)
  refused(copy, rf'{QUERY} has more images \(12\) than {GALLERY} \(6\)')


def test_training_images_in_a_place_of_the_test_are_refused(copy):
  shutil.rmtree(copy / QUERY)
  shutil.copytree(copy / TRAIN, copy / QUERY)
  refused(copy, f'{TRAIN} and {QUERY} share 4 identities, 0001 the first')
  shutil.rmtree(copy / GALLERY)
  shutil.copytree(copy / TRAIN, copy / GALLERY)
  refused(copy, f'{TRAIN} and {GALLERY} share 4 identities')


def test_queries_in_the_place_of_the_gallery_are_refused(copy):
  shutil.rmtree(copy / GALLERY)
  shutil.copytree(copy / QUERY, copy / GALLERY)
  # Under whichever names.
  path = next((copy / GALLERY).glob('0002*.jpg'))
  path.rename(path.with_name('0002_c1s6_000001_07.jpg'))
  refused(copy, f"no image that is not in {QUERY}: .* the gallery's place")


def test_what_looks_swapped_can_be_allowed(copy, caplog):
  # As where each folder numbers its own persons.
  for path in (copy / TRAIN).glob('0003*'):
    path.rename(path.with_name(path.name.replace('0003', '0002')))
  refused(copy, 'share 1 identities, 0002 the first.*allow_differences=True')
  with caplog.at_level(logging.WARNING, 'srdl_jax'):
    loaded = from_folder(copy, allow_differences=True)
  assert 'share 1 identities' in caplog.text
  assert loaded.num_classes == 4


def test_distractors_are_nobody(copy):
  for path in (copy / TRAIN).glob('0003*'):
    path.rename(path.with_name(path.name.replace('0003', '0000')))
  assert from_folder(copy).num_classes == 4


def test_no_match_by_another_camera_is_told(copy):
  drop(copy, *(f'{i}_c2' for i in ('0002', '0004', '0006')))
  message = refused(copy, 'no query is valid. See the cameras')
  assert 'the same camera alone' in message
  # It can't be allowed: nothing would be measured.
  refused(copy, 'no query is valid', allow_differences=True)


def test_one_match_is_enough(copy, made):
  drop(copy, *(f'{i}_c2' for i in ('0002', '0004')))
  assert len(from_folder(copy).test.query.images) == 4


def test_no_identity_in_both_is_told(copy):
  for path in (copy / QUERY).glob('*.jpg'):
    path.rename(path.with_name('9' + path.name[1:]))
  shutil.rmtree(copy / BOXES)
  refused(copy, f'no identity of {QUERY} is in {GALLERY}')


def test_a_broken_link_in_place_of_a_query_is_named(copy, made):
  name = made.names[QUERY][1]
  (copy / QUERY / name).unlink()
  (copy / QUERY / name).symlink_to(copy / 'gone.jpg')
  refused(copy, rf'1 file\(s\) .*{QUERY}/{name} \(No such file')


@pytest.mark.parametrize('damage', ['empty', 'cut', 'text', 'folder'])
def test_an_unreadable_query_is_named_or_skipped(copy, made, damage, caplog):
  name = made.names[QUERY][1]
  path = copy / QUERY / name
  content = path.read_bytes()
  path.unlink()
  if damage == 'folder':
    path.mkdir()
  else:
    wrong = {'empty': b'', 'cut': content[:-200], 'text': b'<html>'}
    path.write_bytes(wrong[damage])
  refused(copy, rf'1 file\(s\) cannot be used: {QUERY}/{name} \(')
  with caplog.at_level(logging.WARNING, 'srdl_jax'):
    loaded = from_folder(copy, skip_unreadable=True)
  assert f'{QUERY}/{name}' in caplog.text
  assert name not in loaded.test.query.file_names
  assert len(loaded.test.query.images) == 5


def test_a_query_that_vanishes_later_is_named(copy, made):
  query = from_folder(copy).test.query
  (copy / QUERY / made.names[QUERY][3]).unlink()
  pattern = f'cannot read {copy}/{QUERY}/{made.names[QUERY][3]}: No such file'
  with pytest.raises(DataError, match=pattern):
    query.images[:]
  assert query.images[:3].shape == (3, 32, 16, 3)


def _official(root, data_dir, made, **fields):
  source = data.Location(str(data_dir), str(root), **fields)
  return market1501.load(source, made.counts)


@pytest.mark.parametrize(('folder', 'start', 'told'), [
  (TRAIN, '0001_c1', '14 training images instead of 16'),
  (TRAIN, '0001', '12 training images instead of 16; '
   '3 training identities instead of 4'),
  (QUERY, '0002_c1', '5 queries instead of 6'),
  (QUERY, '0002', '4 queries instead of 6; 2 query identities instead of 3'),
  (GALLERY, '0002_c1', '10 good gallery images instead of 12'),
  (GALLERY, '0000', '0 distractors instead of 3'),
  (GALLERY, '-1', '0 junk images instead of 2'),
])  # fmt: skip
def test_other_counts_are_told(copy, made, tmp_path, folder, start, told):
  for path in (copy / folder).glob(f'{start}*'):
    path.unlink()
  with pytest.raises(DataError) as caught:
    _official(copy, tmp_path / 'tfds', made)
  message = str(caught.value)
  assert message.startswith(f'{copy}: {told}. ')
  assert 'data.allow_differences=True' in message
  left = [p for p in (tmp_path / 'tfds').rglob('*') if p.is_file()]
  assert [p.name for p in left] == ['.srdl_jax.lock']


def test_too_many_images_are_told(copy, made, tmp_path):
  path = next((copy / GALLERY).glob('0002*'))
  shutil.copy(path, path.with_name('0002_c1s6_000001_07.jpg'))
  pattern = f'{copy}: 13 good gallery images instead of 12. '
  with pytest.raises(DataError, match=pattern):
    _official(copy, tmp_path / 'tfds', made)


def test_other_counts_can_be_allowed_each_time(copy, made, tmp_path, caplog):
  for path in (copy / QUERY).glob('0002_c1*'):
    path.unlink()
  with caplog.at_level(logging.WARNING, 'srdl_jax'):
    loaded = _official(copy, tmp_path / 'tfds', made, allow_differences=True)
  assert '5 queries instead of 6; going on' in caplog.text
  assert len(loaded.test.query.images) == 5
  # Who did not ask for it is told of what another one prepared.
  directory = tmp_path / 'tfds' / 'market1501' / '1.0.0'
  with pytest.raises(DataError, match=f'{directory}: 5 queries instead of 6'):
    _official(copy, tmp_path / 'tfds', made)
  again = _official(copy, tmp_path / 'tfds', made, allow_differences=True)
  assert again.test.fingerprint == loaded.test.fingerprint


def test_thousands_are_told_readably(made, tmp_path):
  source = data.Location(str(tmp_path), str(made.folder))
  pattern = '16 training images instead of 12,936; .*; 2 junk images instead'
  with pytest.raises(DataError, match=pattern):
    market1501.load(source)


# The figures, and the configuration.


def test_figures_tell_identities_apart(tmp_path):
  """By clothes, under any camera, unlike by pixels: there is much to learn."""
  made = made_market.make(
    tmp_path, train_identities=2, test_identities=8, cameras=2, per_camera=1
  )
  images = {}
  for name in made.names[GALLERY]:
    image = Image.open(io.BytesIO((made.folder / GALLERY / name).read_bytes()))
    assert image.size == (64, 128)
    identity, camera = persons_lib.parse(name)
    images.setdefault(identity, {})[camera] = np.asarray(image, float)
  persons = [of for identity, of in images.items() if identity > 0]
  assert len(persons) == 8 and all(of.keys() == {1, 2} for of in persons)
  # Shirts without the camera's tint: their hues agree between the cameras.
  shirts = np.array([[of[c][35:60, 26:38].mean((0, 1)) for c in (1, 2)]
                     for of in persons])  # fmt: skip
  shirts -= shirts.mean(0)
  first, second = (s / np.linalg.norm(s, axis=1, keepdims=True)
                   for s in shirts.swapaxes(0, 1))  # fmt: skip
  likeness = first @ second.T
  alike = likeness.argmax(1) == np.arange(8)
  assert alike.mean() >= 0.5, likeness


def test_the_same_seed_draws_the_same(tmp_path):
  drawn = []
  for number, seed in enumerate((1, 1, 2)):
    (tmp_path / f'{number}').mkdir()
    drawn.append(
      made_market.make(
        tmp_path / f'{number}',
        train_identities=1,
        test_identities=1,
        cameras=1,
        seed=seed,
      )
    )
  contents = [
    [(m.folder / f / n).read_bytes() for f in m.names for n in m.names[f]]
    for m in drawn
  ]
  assert contents[0] == contents[1] != contents[2]


def _config(arguments):
  path = ROOT / 'configs' / 'market1501.py'
  spec = importlib.util.spec_from_file_location('market1501_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arguments)


@pytest.mark.parametrize('model', ['resnet50', 'densenet121'])
@pytest.mark.parametrize('method', ['vanilla', 'srdl'])
@pytest.mark.parametrize('recipe', ['paper', 'practical'])
def test_the_config_takes_models_methods_and_recipes(model, method, recipe):
  config = _config(f'model={model},method={method},recipe={recipe}')
  config_lib.validate(config)
  assert config.data.name in data.DATASETS
  assert (config.model.name, config.method) == (model, method)
  assert (config.epochs, config.batch_size) == (120, 32)
  assert (config.augment.padding, config.augment.mode) == (4, 'reflect')
  assert config.augment.flip
  rates = {'paper': (0.1, 0.1), 'practical': (0.05, 0.005)}
  rate = config.optimiser.learning_rate
  share = config.optimiser.backbone_share
  assert (rate, rate * share) == pytest.approx(rates[recipe])


# A path beside what is prepared.


def test_another_copy_than_what_is_prepared_is_refused(
  made, prepared, tmp_path, monkeypatch
):
  """What is known to be the same is not read again."""
  tfds = shutil.copytree(prepared, tmp_path / 'tfds')
  copy = shutil.copytree(made.folder, tmp_path / 'copy')
  read = []
  monkeypatch.setattr(
    persons_folder,
    'read',
    lambda *given, read_=persons_folder.read: read.append(1) or read_(*given),
  )

  def load(path=copy, **rest):
    source = data.Location(str(tfds), path=str(path), **rest)
    return market1501.load(source, made.counts)

  load(), load()
  assert read == [1]
  changed = min((copy / QUERY).glob('*.jpg'))
  content = changed.read_bytes()
  # Between what the first look at files covers, too.
  changed.write_bytes(content + bytes(100_000) + b'x' + bytes(100_000))
  with pytest.raises(
    DataError,
    match=f'^data.path, {copy}, has other images in query than {tfds}/.*: '
    f'{changed.name}: leave data.path out',
  ):
    load()
  load(compared=False)
  changed.write_bytes(content)
  load()
  changed.unlink()
  with pytest.raises(DataError, match=f'has other images in {BOXES} than'):
    load()
  with pytest.raises(DataError, match='in .*none, which data.path names: name'):
    load(tmp_path / 'none')


@pytest.mark.parametrize(
  ('line', 'told'),
  [
    *((f'0000/0000_000_01_x.jpg {i}', 'is not like') for i in (
      '-2', '1_0', '+1', '\u0660', '9' * 20, '1.0', ''
    )),
    ('0000/0000_000_-1_x.jpg 0', 'is not like'),
    ('../0000_000_01_x.jpg 0', 'is not like'),
    ('0001/0000_000_01_x.jpg 1', 'is not like'),
    ('0001/0001_000_01_x.jpg 0', 'has another number than its folder'),
  ],
)  # fmt: skip
def test_lists_of_msmt17_have_numbers_as_folders_do(copy, line, told):
  _as_msmt17(copy)
  with (copy / 'list_query.txt').open('a') as file:
    file.write(f'{line}\n')
  with pytest.raises(DataError, match=f'^{copy}/list_query.txt: .*{told}'):
    from_folder(copy)


def test_lists_of_msmt17_may_begin_with_a_mark(copy):
  _as_msmt17(copy)
  before = from_folder(copy)
  path = copy / 'list_query.txt'
  path.write_text('\ufeff' + path.read_text())
  assert from_folder(copy).test.query.fingerprint == (
    before.test.query.fingerprint
  )
