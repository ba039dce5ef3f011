# SPDX-License-Identifier: Apache-2.0
"""Tests of Tiny ImageNet, from made archives of the official layout."""

import dataclasses
import errno
import functools
import hashlib
import http.server
import io
import logging
import os
import pathlib
import re
import signal
import sys
import threading
import zipfile
import zlib

import numpy as np
import odd_arrays
import pytest
import started
import tensorflow_datasets as tfds
from PIL import Image

from srdl_jax import data
from srdl_jax.data import tfds_reader, tiny_imagenet
from srdl_jax.errors import DataError
from srdl_jax.storage import locks

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOP = 'tiny-imagenet-200'
FILE = f'{TOP}.zip'
ANNOTATIONS = f'{TOP}/val/val_annotations.txt'
# As in the official file, not in alphabetical order.
CLASSES = ['n02124075', 'n04067472', 'n01443537']
SORTED = ['n01443537', 'n02124075', 'n04067472']
COUNTS = {'train': 12, 'validation': 6}
TRAIN_IMAGE = f'{TOP}/train/n02124075/images/n02124075_1.JPEG'
VALIDATION_IMAGE = f'{TOP}/val/images/val_4.JPEG'

# Prepares the made archive where something may be wrong.
PREPARE = """
import dataclasses, os, resource, signal, sys, zipfile
from srdl_jax import data
from srdl_jax.data import tiny_imagenet
from srdl_jax.errors import DataError
url, sha256, data_dir, manual_dir, trouble = sys.argv[1:]
read = zipfile.ZipFile.read
def die_at_validation(self, name):
  if '/val/images/' in name:
    os.kill(os.getpid(), signal.SIGKILL)
  return read(self, name)
if trouble == 'killed':
  zipfile.ZipFile.read = die_at_validation
spec = dataclasses.replace(
  tiny_imagenet.OFFICIAL,
  url=url,
  sha256=sha256,
  num_classes=3,
  train_per_class=4,
  validation_per_class=2,
)
print('ready', flush=True)
sys.stdin.readline()
if trouble.startswith('room for '):
  # Nothing longer can be written, as on a full disk.
  room = int(trouble.removeprefix('room for '))
  resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
  spec.prepare(data.Location(data_dir, manual_dir, False))
except DataError as error:
  print(error)
print([m for m in ('jax', 'tensorflow') if m in sys.modules])
"""


def _jpeg(seed, grey=False, size=(64, 64), form='JPEG'):
  """A file of soft random patches; each seed has its own."""
  shape = (8, 8) if grey else (8, 8, 3)
  patches = np.random.default_rng(seed).integers(256, size=shape)
  image = Image.fromarray(patches.astype(np.uint8)).resize(size)
  file = io.BytesIO()
  image.save(file, form)
  return file.getvalue()


@functools.cache
def _contents():
  """Members of a made archive, in an order of no meaning; never changed."""
  members = {
    f'{TOP}/words.txt': b'n02124075\tEgyptian cat\n',
    f'{TOP}/wnids.txt': ''.join(f'{k}\n' for k in CLASSES).encode(),
  }
  for number, wnid in enumerate(CLASSES):
    folder = f'{TOP}/train/{wnid}'
    members[f'{folder}/'] = b''
    members[f'{folder}/{wnid}_boxes.txt'] = b''
    for i in range(4):
      # Every fourth one is greyscale.
      image = _jpeg(10 * number + i, grey=i == 3)
      members[f'{folder}/images/{wnid}_{i}.JPEG'] = image
  lines = ''
  for i in range(6):
    members[f'{TOP}/val/images/val_{i}.JPEG'] = _jpeg(100 + i, grey=i == 4)
    members[f'{TOP}/test/images/test_{i}.JPEG'] = _jpeg(200 + i)
    lines += f'val_{i}.JPEG\t{CLASSES[i % 3]}\t0\t32\t44\t62\n'
  return members | {ANNOTATIONS: lines.encode()}


def _pack(members, folder):
  """Writes an archive; returns what is to be expected of it."""
  folder.mkdir(exist_ok=True)
  path = folder / FILE
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return _spec(path)


def _spec(path):
  return dataclasses.replace(
    tiny_imagenet.OFFICIAL,
    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    num_classes=3,
    train_per_class=4,
    validation_per_class=2,
  )


@dataclasses.dataclass(frozen=True)
class Made:
  """A made archive, in a folder to be given as `manual_dir`."""

  spec: tiny_imagenet.TinyImageNet
  folder: pathlib.Path

  def source(self, data_dir):
    return data.Location(str(data_dir), str(self.folder), download=False)


@pytest.fixture(scope='session')
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp('archive')
  return Made(_pack(_contents(), folder), folder)


@pytest.fixture(scope='session')
def prepared(made, tmp_path_factory):
  """A TFDS directory prepared from it; never to be changed."""
  data_dir = tmp_path_factory.mktemp('tfds')
  made.spec.prepare(made.source(data_dir))
  return data_dir


@pytest.fixture(scope='session')
def loaded(made, prepared):
  """The data set, read where there is no archive."""
  source = data.Location(str(prepared), download=False)
  return made.spec.load(source)


def _stock(data_dir, split, **options):
  """The examples as TFDS itself reads them."""
  return tfds.data_source(
    'tiny_imagenet', data_dir=data_dir, split=split, download=False, **options
  )


def _fails(spec, folder, data_dir, pattern):
  """Nothing is prepared, nothing is left over, the archive stays."""
  before = (folder / FILE).read_bytes()
  source = data.Location(str(data_dir), str(folder), download=False)
  with pytest.raises(DataError, match=pattern) as caught:
    spec.load(source)
  assert '\n' not in str(caught.value)
  left = [p for p in data_dir.rglob('*') if p.is_file()]
  assert [p.name for p in left] in ([], ['.srdl_jax.lock'])
  assert not list(data_dir.rglob('incomplete.*'))
  assert (folder / FILE).read_bytes() == before


# What is loaded.


def test_the_official_archive_is_that_of_stanford():
  spec = tiny_imagenet.OFFICIAL
  assert spec.url == 'http://cs231n.stanford.edu/tiny-imagenet-200.zip'
  assert spec.sha256.startswith('6198c8ae') and len(spec.sha256) == 64
  per_class = spec.train_per_class, spec.validation_per_class
  shape = data.shape('tiny_imagenet')
  assert (spec.num_classes, *per_class) == (200, 500, 50)
  assert shape.num_classes == 200 and shape.train_examples == 200 * 500


def test_the_loaded_arrays_are_those_of_the_archive(loaded, prepared):
  assert (loaded.name, loaded.version) == ('tiny_imagenet', '1.0.0')
  assert loaded.num_classes == 3
  assert (loaded.train.name, loaded.test.name) == ('train', 'validation')
  folders = {'train': 'train/{}/images', 'validation': 'val/images'}
  for split in (loaded.train, loaded.test):
    count = COUNTS[split.name]
    assert split.images.shape == (count, 64, 64, 3)
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
    names = [e['id'].decode() for e in _stock(prepared, split.name)]
    assert len(set(names)) == count
    for name, image, label in zip(
      names, split.images, split.labels, strict=True
    ):
      stem, number = name.removesuffix('.JPEG').split('_')
      wnid = CLASSES[int(number) % 3] if stem == 'val' else stem
      assert SORTED[label] == wnid
      folder = folders[split.name].format(wnid)
      content = _contents()[f'{TOP}/{folder}/{name}']
      with Image.open(io.BytesIO(content)) as expected:
        np.testing.assert_array_equal(image, expected.convert('RGB'))


def test_greyscale_files_have_three_equal_channels(loaded):
  grey = (loaded.train.images == loaded.train.images[..., :1]).all((1, 2, 3))
  assert grey.sum() == 3
  grey = (loaded.test.images == loaded.test.images[..., :1]).all((1, 2, 3))
  assert grey.sum() == 1


@pytest.mark.parametrize('split', COUNTS)
def test_files_are_stored_as_they_are(prepared, split):
  decoders = {'image': tfds.decode.SkipDecoding()}
  stored = {
    e['id'].decode(): e['image']
    for e in _stock(prepared, split, decoders=decoders)
  }
  folder = {'train': 'train', 'validation': 'val'}[split]
  files = {
    name.rpartition('/')[2]: content
    for name, content in _contents().items()
    if name.startswith(f'{TOP}/{folder}/') and name.endswith('.JPEG')
  }
  assert stored == files


def test_row_i_is_example_i_of_tfds(loaded, prepared):
  for split in (loaded.train, loaded.test):
    stock = _stock(prepared, split.name)
    ids = [e['id'].decode() for e in stock]
    assert split.labels.tolist() == [e['label'] for e in stock]
    assert split.fingerprint == data.fingerprint(
      'tiny_imagenet/1.0.0', split.name, ids, split.labels
    )


def test_the_order_is_a_hash_that_no_release_may_change(prepared):
  """Soft targets that were kept belong to rows by number."""
  train = [e['id'].decode() for e in _stock(prepared, 'train')]
  assert train[:3] == [
    'n02124075_3.JPEG',
    'n04067472_3.JPEG',
    'n01443537_0.JPEG',
  ]
  numbers = [e['id'][4:5].decode() for e in _stock(prepared, 'validation')]
  assert ''.join(numbers) == '145023'


def test_classes_are_numbered_by_name_and_rows_by_hash(loaded, tmp_path):
  members = dict(reversed(_contents().items()))
  listed = '\r\n'.join(reversed(CLASSES)).encode()
  members[f'{TOP}/wnids.txt'] = listed
  spec = _pack(members, tmp_path / 'zip')
  source = Made(spec, tmp_path / 'zip').source(tmp_path / 'tfds')
  other = spec.load(source)
  assert other.train.fingerprint == loaded.train.fingerprint
  assert other.test.fingerprint == loaded.test.fingerprint
  np.testing.assert_array_equal(other.train.images, loaded.train.images)
  info = tfds.builder('tiny_imagenet', data_dir=tmp_path / 'tfds').info
  assert info.features['label'].names == SORTED


def test_classes_have_names_and_words(loaded):
  assert loaded.classes == tuple(sorted(CLASSES))
  assert loaded.words == tuple(
    'Egyptian cat' if name == 'n02124075' else '' for name in loaded.classes
  )
  assert 'Egyptian cat' in loaded.words


def test_preparing_twice_changes_nothing(made, prepared):
  directory = prepared / 'tiny_imagenet' / '1.0.0'
  before = {p: p.stat().st_mtime_ns for p in directory.iterdir()}
  made.spec.prepare(made.source(prepared))
  assert {p: p.stat().st_mtime_ns for p in directory.iterdir()} == before


@pytest.mark.parametrize('split', COUNTS)
def test_a_missing_shard_of_either_split_is_named(made, tmp_path, split):
  made.spec.prepare(made.source(tmp_path))
  (shard,) = tmp_path.rglob(f'tiny_imagenet-{split}.*')
  shard.unlink()
  with pytest.raises(DataError, match=f'is incomplete: {shard.name}'):
    made.spec.load(data.Location(str(tmp_path)))


# Where the archive comes from.


@pytest.fixture
def served(made):
  """The made archive with the address of a server on this machine."""

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      del args

  handler = functools.partial(Handler, directory=made.folder)
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  url = f'http://127.0.0.1:{server.server_address[1]}/{FILE}'
  yield dataclasses.replace(made.spec, url=url)
  server.shutdown()
  server.server_close()
  thread.join()


def test_the_archive_is_downloaded_where_it_is_missing(
  served, tmp_path, capsys
):
  found = served.load(data.Location(str(tmp_path)))
  assert len(found.test.labels) == 6
  assert (tmp_path / 'downloads' / FILE).is_file()
  told = capsys.readouterr().err
  assert f'{FILE}: 0.00 of 0.00 GB' in told
  assert 'tiny_imagenet, train: 12 of 12 images, done' in told
  assert 'tiny_imagenet, validation: 6 of 6 images, done' in told


def test_missing_data_without_download_says_what_to_put_where(tmp_path):
  source = data.Location(str(tmp_path / 'd'), str(tmp_path / 'm'), False)
  with pytest.raises(DataError) as caught:
    tiny_imagenet.OFFICIAL.load(source)
  spec = tiny_imagenet.OFFICIAL
  for part in ('tiny_imagenet/1.0.0', spec.url, spec.sha256, source.manual_dir):
    assert part in str(caught.value)
  assert list(tmp_path.iterdir()) == []


def test_half_an_archive_is_named_with_both_digests(made, tmp_path):
  content = (made.folder / FILE).read_bytes()
  path = tmp_path / FILE
  path.write_bytes(content[: len(content) // 2])
  got = hashlib.sha256(path.read_bytes()).hexdigest()
  pattern = f'{path} is damaged.*{made.spec.sha256}.*{got}'
  _fails(made.spec, tmp_path, tmp_path / 'tfds', pattern)


def test_another_archive_is_named_with_both_digests(made, tmp_path):
  spec = tiny_imagenet.OFFICIAL
  pattern = f'{made.folder / FILE}.*{spec.sha256}.*{made.spec.sha256}'
  _fails(spec, made.folder, tmp_path, pattern)


# Archives that are not laid out as the official one.


def _without(*names):
  return {n: c for n, c in _contents().items() if n not in names}


def _annotated(old, new):
  text = _contents()[ANNOTATIONS].decode()
  assert old in text
  return _contents() | {ANNOTATIONS: text.replace(old, new, 1).encode()}


LINE = f'val_4.JPEG\t{CLASSES[1]}\t0\t32\t44\t62\n'
TRAIN = f'{TOP}/train'
IMAGES = f'{TRAIN}/n04067472/images'
WRONG = {
  'no wnids.txt': (
    lambda: _without(f'{TOP}/wnids.txt'),
    f'it has no {TOP}/wnids.txt',
  ),
  'too few classes': (
    lambda: _contents() | {f'{TOP}/wnids.txt': b'n02124075\nn01443537\n'},
    f'{TOP}/wnids.txt lists 2 classes, expected 3',
  ),
  'a class listed twice': (
    lambda: _contents() | {f'{TOP}/wnids.txt': b'n1\nn1\nn2\n'},
    f'{TOP}/wnids.txt lists 2 classes, expected 3',
  ),
  'classes in no text': (
    lambda: _contents() | {f'{TOP}/wnids.txt': b'\xff\xfe'},
    f'cannot decode {TOP}/wnids.txt',
  ),
  'no annotations': (lambda: _without(ANNOTATIONS), f'has no {ANNOTATIONS}'),
  'an image without annotation': (
    lambda: _annotated(LINE, ''),
    f'{ANNOTATIONS} lacks {VALIDATION_IMAGE};',
  ),
  'images without annotations': (
    lambda: _contents() | {ANNOTATIONS: LINE.encode()},
    f'{ANNOTATIONS} lacks {TOP}/val/images/val_0.JPEG and 4 more;',
  ),
  'an annotation of an unknown file': (
    lambda: _contents() | {ANNOTATIONS: _contents()[ANNOTATIONS] + b'x\tn1\n'},
    f'{ANNOTATIONS} names absent {TOP}/val/images/x;',
  ),
  'an annotated file is missing': (
    lambda: _without(VALIDATION_IMAGE),
    f'{ANNOTATIONS} names absent {VALIDATION_IMAGE};',
  ),
  'an unknown class': (
    lambda: _annotated(LINE, LINE.replace(CLASSES[1], 'n999')),
    f'{ANNOTATIONS} gives {VALIDATION_IMAGE} the class n999',
  ),
  'two annotations': (
    lambda: _annotated(LINE, 2 * LINE),
    f"{ANNOTATIONS} has no class, or a second one, for 'val_4.JPEG'",
  ),
  'no class in a line': (
    lambda: _annotated(LINE, 'val_4.JPEG\n'),
    f"{ANNOTATIONS} has no class, or a second one, for 'val_4.JPEG'",
  ),
  'validation images of a class': (
    lambda: _annotated(LINE, LINE.replace(CLASSES[1], CLASSES[2])),
    'validation has 3 images of n01443537, expected 2',
  ),
  'no validation images of a class': (
    lambda: (
      {
        name: re.sub(rb'.*n04067472.*\n', b'', content)
        for name, content in _without(
          f'{TOP}/val/images/val_1.JPEG', VALIDATION_IMAGE
        ).items()
        if name != f'{TOP}/wnids.txt'
      }
      | {f'{TOP}/wnids.txt': _contents()[f'{TOP}/wnids.txt']}
    ),
    'validation has 0 images of n04067472, expected 2',
  ),
  'no folder of a class': (
    lambda: {n: c for n, c in _contents().items() if 'n04067472/' not in n},
    f'no images are in {TRAIN}/n04067472;',
  ),
  'an empty folder of a class': (
    lambda: (
      {
        name: content
        for name, content in _contents().items()
        if not name.startswith(f'{IMAGES}/')
      }
      | {f'{IMAGES}/': b''}
    ),
    f'no images are in {TRAIN}/n04067472;',
  ),
  'a folder of another class': (
    lambda: _contents() | {f'{TRAIN}/n999/images/n999_0.JPEG': _jpeg(0)},
    f'{TOP}/wnids.txt does not list {TRAIN}/n999;',
  ),
  'too few training images': (
    lambda: _without(TRAIN_IMAGE),
    'train has 3 images of n02124075, expected 4',
  ),
  'too many training images': (
    lambda: _contents() | {f'{IMAGES}/x.JPEG': _jpeg(0)},
    'train has 5 images of n04067472, expected 4',
  ),
  'no image': (
    lambda: _contents() | {TRAIN_IMAGE: b'not found'},
    f'cannot decode {TRAIN_IMAGE}: it is neither a JPEG nor a PNG file',
  ),
  'an empty file': (
    lambda: _contents() | {TRAIN_IMAGE: b''},
    f'cannot decode {TRAIN_IMAGE}',
  ),
  'a truncated image': (
    lambda: _contents() | {TRAIN_IMAGE: _contents()[TRAIN_IMAGE][:-60]},
    f'cannot decode {TRAIN_IMAGE}: .*truncated',
  ),
  'a truncated validation image': (
    lambda: (
      _contents() | {VALIDATION_IMAGE: _contents()[VALIDATION_IMAGE][:-60]}
    ),
    f'cannot decode {VALIDATION_IMAGE}: .*truncated',
  ),
  'an image of another size': (
    lambda: _contents() | {TRAIN_IMAGE: _jpeg(0, size=(48, 64))},
    rf'cannot decode {TRAIN_IMAGE}: its \(width, height\) is \(48, 64\)',
  ),
}


@pytest.mark.parametrize('trouble', WRONG)
def test_a_wrong_layout_is_named(tmp_path, trouble):
  members, pattern = WRONG[trouble]
  spec = _pack(members(), tmp_path / 'zip')
  path = re.escape(str(tmp_path / 'zip' / FILE))
  _fails(spec, tmp_path / 'zip', tmp_path / 'tfds', f'{path}.*{pattern}')


def test_what_is_no_zip_is_named(tmp_path):
  path = tmp_path / FILE
  path.write_bytes(b'<html>moved</html>')
  _fails(_spec(path), tmp_path, tmp_path / 'tfds', f'cannot read {path}')


@pytest.mark.parametrize(
  'kind', [k for k in odd_arrays.DAMAGES if re.search('cryp|ver|comp|said', k)]
)
def test_an_odd_zip_is_named(made, tmp_path, kind):
  path = tmp_path / FILE
  content = (made.folder / FILE).read_bytes()
  path.write_bytes(odd_arrays.DAMAGES[kind](content))
  _fails(_spec(path), tmp_path, tmp_path / 'tfds', f'{path}.*: .*replace it')


def test_a_flipped_byte_is_named(made, tmp_path):
  content = bytearray((made.folder / FILE).read_bytes())
  content[content.index(_contents()[TRAIN_IMAGE]) + 300] ^= 0xFF
  path = tmp_path / FILE
  path.write_bytes(content)
  pattern = f'{path}.*cannot decode {TRAIN_IMAGE}: Bad CRC-32'
  _fails(_spec(path), tmp_path, tmp_path / 'tfds', pattern)


def test_png_files_under_the_name_of_jpegs_are_read(tmp_path):
  members = _contents() | {TRAIN_IMAGE: _jpeg(0, form='PNG')}
  spec = _pack(members, tmp_path / 'zip')
  source = Made(spec, tmp_path / 'zip').source(tmp_path / 'tfds')
  assert len(spec.load(source).train.labels) == 12


def test_a_broken_or_huge_png_raises_a_value_error():
  png = _jpeg(0, form='PNG')
  # Ten bytes of data and their checksum, then a chunk whose type is zeros.
  start = png.index(b'IDAT')
  data_chunk = (10).to_bytes(4) + png[start : start + 14] + bytes(4)
  broken = png[: start - 4] + data_chunk + (5).to_bytes(4) + bytes(12)
  with pytest.raises(ValueError, match='broken PNG file'):
    tfds_reader.pixels_of(broken, (64, 64, 3))
  header = b'IHDR' + 2 * (30_000).to_bytes(4) + png[24:29]
  huge = png[:12] + header + zlib.crc32(header).to_bytes(4) + png[33:]
  with pytest.raises(ValueError, match='900000000 pixels'):
    tfds_reader.pixels_of(huge, (64, 64, 3))


@pytest.mark.parametrize('seed', range(4))
def test_damaged_files_raise_value_errors_alone(seed):
  rng = np.random.default_rng(seed)
  good = _jpeg(seed, form='PNG' if seed % 2 else 'JPEG')
  for _ in range(100):
    bad = bytearray(good[: rng.integers(1, len(good) + 1)])
    for position in rng.integers(len(bad), size=rng.integers(4)):
      bad[position] = rng.integers(256)
    try:
      pixels = tfds_reader.pixels_of(bytes(bad), (64, 64, 3))
    except ValueError:
      continue
    assert pixels.shape == (64, 64, 3)


# Full disks, several processes, kills.


def test_a_disk_full_at_the_end_leaves_nothing(made, tmp_path, monkeypatch):
  def full(*args, **kwargs):
    del args, kwargs
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'rename', full)
  pattern = f'cannot prepare {tmp_path}.*No space left on device.*data_dir'
  _fails(made.spec, made.folder, tmp_path, pattern)


def _start(made, data_dir, trouble):
  spec = made.spec
  arguments = (spec.url, spec.sha256, data_dir, made.folder, trouble)
  process = started.start(
    [sys.executable, '-c', PREPARE, *map(str, arguments)],
    cwd=ROOT,
    stdin=started.PIPE,
    stdout=started.PIPE,
    stderr=started.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n'
  return process


def test_a_disk_full_while_writing_leaves_nothing(made, tmp_path):
  process = _start(made, tmp_path, 'room for 10000')
  output, _ = process.communicate('go\n', timeout=started.SECONDS)
  pattern = f'cannot prepare {tmp_path}.*File too large.*data_dir.*\n'
  assert re.match(pattern, output)
  left = [p.name for p in tmp_path.rglob('*')]
  assert sorted(left) == ['.srdl_jax.lock', 'tiny_imagenet']


def test_one_of_two_processes_prepares_and_the_other_waits(
  made, loaded, tmp_path
):
  processes = [_start(made, tmp_path, 'none') for _ in range(2)]
  for process in processes:
    process.stdin.write('go\n')
    process.stdin.flush()
  ends = [process.communicate(timeout=started.SECONDS) for process in processes]
  assert [p.returncode for p in processes] == [0, 0], ends
  # Neither jax nor TensorFlow was imported.
  assert [out for out, _ in ends] == ['[]\n', '[]\n']
  ours = made.spec.load(data.Location(str(tmp_path)))
  assert ours.train.fingerprint == loaded.train.fingerprint
  assert not list(tmp_path.rglob('incomplete.*'))


def test_who_waits_says_so(made, tmp_path, caplog):
  folder = tmp_path / 'tiny_imagenet'
  folder.mkdir()
  caplog.set_level(logging.INFO, 'srdl_jax')
  thread = threading.Thread(
    target=made.spec.prepare, args=(made.source(tmp_path),), daemon=True
  )
  with locks.taking_turns(folder) as alone:
    assert alone
    thread.start()
    said = f'waiting for another process that works in {folder}'
    started.wait_until(lambda: said in caplog.text, said)
    assert thread.is_alive()
    assert not (folder / '1.0.0').exists()
  thread.join(timeout=started.SECONDS)
  assert (folder / '1.0.0').is_dir()


def test_a_killed_preparation_is_not_read_and_is_cleaned_up(made, tmp_path):
  process = _start(made, tmp_path, 'killed')
  process.communicate('go\n', timeout=started.SECONDS)
  assert process.returncode == -signal.SIGKILL
  assert list(tmp_path.rglob('incomplete.*'))
  assert not (tmp_path / 'tiny_imagenet' / '1.0.0').exists()
  found = made.spec.load(made.source(tmp_path))
  assert len(found.train.labels) == 12
  assert not list(tmp_path.rglob('incomplete.*'))


# Unpacked, as it is or sorted into folders of classes.


def _unpack(folder, arrangement='as it is', **changes):
  """Writes the archive's files; scripts arrange those for validation."""
  members = {n: c for n, c in _contents().items() if not n.endswith('/')}
  members |= {f'{TOP}/{name}': content for name, content in changes.items()}
  notes = members[ANNOTATIONS].decode().splitlines()
  for line in notes if arrangement != 'as it is' else ():
    name, wnid = line.split('\t')[:2]
    inner = '/images' if arrangement == 'deep' else ''
    content = members.pop(f'{TOP}/val/images/{name}')
    members[f'{TOP}/val/{wnid}{inner}/{name}'] = content
  if arrangement == 'alone':
    kept = {n for n in members if n.endswith('.JPEG')}
    members = {n.replace('images/n', 'n'): members[n] for n in kept}
  for name, content in members.items():
    if content is not None:
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      (folder / name).write_bytes(content)
  return folder / TOP


def _digest():
  """Of names, classes and contents, in whichever folders they are."""
  notes = _contents()[ANNOTATIONS].decode().splitlines()
  classes = dict(line.split('\t')[:2] for line in notes)
  lines = [
    f'{name}\t{classes.get(path.name, path.name.split("_")[0])}\t'
    f'{hashlib.sha256(content).hexdigest()}\n'
    for name, content in sorted(_contents().items())
    if (path := pathlib.PurePosixPath(name)).suffix == '.JPEG'
    and '/test/' not in name
  ]
  return hashlib.sha256(''.join(lines).encode()).hexdigest()


def _load_unpacked(made, data_dir, path=''):
  return made.spec.load(data.Location(str(data_dir), path=str(path)))


@pytest.mark.parametrize('arrangement', ['as it is', 'deep', 'flat', 'alone'])
def test_an_unpacked_copy_has_the_rows_of_the_archive(
  made, loaded, prepared, tmp_path, arrangement, caplog
):
  folder = _unpack(tmp_path / 'x', arrangement)
  (folder / 'train' / CLASSES[0] / '._n02124075_1.JPEG').write_bytes(b'mac')
  with caplog.at_level(logging.INFO):
    copy = _load_unpacked(made, tmp_path, folder)
  assert f'{folder} is not shown to be the official archive' in caplog.text
  for split in ('train', 'test'):
    ours, theirs = getattr(copy, split), getattr(loaded, split)
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    ids = [e['id'].decode() for e in _stock(prepared, ours.name)]
    assert ours.fingerprint == data.fingerprint(
      f'tiny_imagenet/1.0.0+copy {_digest()}', ours.name, ids, ours.labels
    )
  words = () if arrangement == 'alone' else loaded.words
  assert (copy.classes, copy.words) == (loaded.classes, words)


def test_an_unpacked_copy_is_listed_once(made, tmp_path, monkeypatch):
  folder, listed = _unpack(tmp_path / 'x'), []
  glob = pathlib.Path.glob

  def noted(self, pattern, **rest):
    ours = self == folder and 'JPEG' in str(pattern)
    listed.extend([pattern] if ours else [])
    return glob(self, pattern, **rest)

  monkeypatch.setattr(pathlib.Path, 'glob', noted)
  _load_unpacked(made, tmp_path, folder)
  assert len(set(listed)) == len(listed) == 5
  # What was mended, or changed, meanwhile is seen.
  first = min(folder.glob('train/*/images/*.JPEG'))
  content = first.read_bytes()
  first.unlink()
  with pytest.raises(DataError, match='images of n'):
    _load_unpacked(made, tmp_path / 'b', folder)
  first.write_bytes(content)
  _load_unpacked(made, tmp_path / 'b', folder)


def test_another_unpacked_copy_is_refused(made, tmp_path):
  folder = _unpack(tmp_path / 'x')
  for _ in range(2):
    _load_unpacked(made, tmp_path, folder)
  first, second = sorted(folder.glob('train/*/images/*.JPEG'))[:2]
  first.write_bytes(second.read_bytes())
  with pytest.raises(DataError, match='leave data.path out'):
    _load_unpacked(made, tmp_path, folder)


@pytest.mark.parametrize('place', ['', 'downloads/manual'])
def test_an_unpacked_copy_is_found(made, loaded, tmp_path, place):
  _unpack(tmp_path / place)
  copy = _load_unpacked(made, tmp_path)
  np.testing.assert_array_equal(copy.test.images, loaded.test.images)


def test_sorting_that_was_interrupted_is_no_matter(made, loaded, tmp_path):
  folder = _unpack(tmp_path)
  (folder / 'val' / CLASSES[1]).mkdir()
  name = 'val_4.JPEG'
  (folder / 'val/images' / name).rename(folder / 'val' / CLASSES[1] / name)
  copy = _load_unpacked(made, tmp_path)
  np.testing.assert_array_equal(copy.test.images, loaded.test.images)


def test_a_copy_may_be_in_a_folder_of_its_name(made, loaded, tmp_path):
  _unpack(tmp_path / TOP)
  copy = _load_unpacked(made, tmp_path)
  np.testing.assert_array_equal(copy.test.images, loaded.test.images)


def test_lists_may_begin_with_a_mark(made, loaded, tmp_path):
  folder = _unpack(tmp_path)
  for name in ('wnids.txt', 'words.txt', 'val/val_annotations.txt'):
    path = folder / name
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
  copy = _load_unpacked(made, tmp_path)
  np.testing.assert_array_equal(copy.test.labels, loaded.test.labels)
  assert (copy.classes, copy.words) == (loaded.classes, loaded.words)


def test_names_that_restart_in_each_class_are_told(made, tmp_path):
  folder = _unpack(tmp_path, 'flat')
  first = min((folder / 'val').glob('n*/*.JPEG'))
  other = max((folder / 'val').glob('n*'))
  (other / first.name).write_bytes(first.read_bytes())
  told = f'val/{first.parent.name} and val/{other.name} both have {first.name}'
  with pytest.raises(DataError, match=told):
    _load_unpacked(made, tmp_path)
