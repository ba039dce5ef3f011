# SPDX-License-Identifier: Apache-2.0
"""Situations of data sets: missing, damaged, or other ones."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import pickle
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from typing import Any

import made_cifar
import made_imagenet
import numpy as np
from PIL import Image
from situation_table import Place, Provoke, Table, refused, rewrite

from srdl_jax import data
from srdl_jax.data import tfds_reader, tiny_imagenet
from srdl_jax.data.imagenet import archives as imagenet_archives
from srdl_jax.data.imagenet import folder as imagenet_folder
from srdl_jax.data.imagenet import preparation as imagenet_preparation
from srdl_jax.data.persons import market1501
from srdl_jax.errors import DataError
from srdl_jax.storage import bucket

TABLE = Table()


# ---- Data sets.


def loaded(name: str, **source: Any) -> Provoke:
  def provoke(place):
    data.load(name, **place.filled(source))

  return provoke


OFFLINE = {'data_dir': '{tmp}/tfds', 'download': False}


def answered(error: Exception) -> Provoke:
  """Where the server of an archive does not give it out."""

  def provoke(place):
    def fail(*args, **kwargs):
      raise error

    place.patch.setattr(urllib.request, 'urlopen', fail)
    loaded('cifar10', data_dir='{tmp}/tfds')(place)

  return provoke


def wrong_archive(place):
  (place.folder / 'cifar-100-binary.tar.gz').write_bytes(b'moved')
  loaded('cifar100', manual_dir='{tmp}', **OFFLINE)(place)


def data_without_gcsfs(place):
  place.patch.setitem(sys.modules, 'gcsfs', None)
  bucket._prepare.cache_clear()
  try:
    data.load('cifar10', data_dir='gs://bucket/x')
  finally:
    bucket._prepare.cache_clear()


TABLE.add(
  'data set',
  {
    'unknown': loaded('cifar'),
    'unknown shape': lambda p: data.shape('cifar'),
    'no cifar10': loaded('cifar10', **OFFLINE),
    'no cifar100': loaded('cifar100', manual_dir='{tmp}/by_hand', **OFFLINE),
    'no tiny_imagenet': loaded('tiny_imagenet', **OFFLINE),
    'no imagenet': loaded('imagenet', **OFFLINE),
    'no market1501': loaded('market1501', **OFFLINE),
    'another archive': wrong_archive,
    'no answer': answered(TimeoutError()),
    'HTTP status': answered(
      urllib.error.HTTPError('http://a', 404, 'Not Found', {}, None)
    ),
    'connection': answered(urllib.error.URLError(OSError('no route'))),
    'another URL': loaded('cifar10', data_dir='s3://bucket/x'),
    'bucket without a folder': loaded('cifar10', data_dir='gs://bucket'),
    'bucket without gcsfs': data_without_gcsfs,
    'folder without a path': loaded('folder'),
    'folder is missing': loaded('folder', path='{tmp}/none'),
    'folder is a URL': loaded('folder', path='gs://bucket/x'),
    'persons without a path': loaded('reid_folder'),
    'persons are missing': loaded('reid_folder', path='{tmp}/none'),
  },
)


# Directories of other versions.


def version(*versions: str, data_dir: str = '', folder: str = 'cifar100'):
  """Loads where there are folders of versions alone, with metadata."""

  def provoke(place):
    for number in versions:
      directory = place.folder / 'tfds' / folder / number
      directory.mkdir(parents=True)
      (directory / 'dataset_info.json').write_text('{}')
    name = {'imagenet2012': 'imagenet'}.get(folder, folder)
    loaded(name, **{**OFFLINE, 'data_dir': f'{{tmp}}/tfds{data_dir}'})(place)

  return provoke


TABLE.add(
  'TFDS directory',
  {
    'an older version': version('3.0.1'),
    'a newer version': version('3.1.0', '10.0.0'),
    'an older version is named': version('3.0.1', data_dir='/cifar100/3.0.1'),
    'the folder of other versions': version('3.0.1', data_dir='/cifar100'),
    'a version of ImageNet': version('5.0.0', folder='imagenet2012'),
    'a missing version is named': version(data_dir='/cifar100/3.0.2'),
  },
)


# Copies of CIFAR in other forms.


def copy_of_cifar(
  name: str = 'cifar10', binary: bool = False, **changes: Any
) -> Provoke:
  """Loads a small copy whose files are others or, by None, left out."""

  def provoke(place):
    files = (made_cifar.binary_files if binary else made_cifar.pickled_files)(
      name
    )
    for file, change in changes.items():
      files[file] = change(files[file]) if callable(change) else change
    names = made_cifar.BINARY if binary else made_cifar.PICKLED
    made_cifar.write(
      place.folder / names[name],
      {file: content for file, content in files.items() if content is not None},
    )
    made_cifar.spec_of(name).load(
      data.Location(
        str(place.folder / 'tfds'), download=False, path=str(place.folder)
      )
    )

  return provoke


def batch(**changes: Any) -> Callable[[bytes], bytes]:
  """Changes values of a pickled batch."""

  def change(content):
    found = pickle.loads(content, encoding='latin1')
    return made_cifar.python2(
      {key: changes.get(key, lambda v: v)(found[key]) for key in found}
    )

  return change


def not_packed(place):
  (place.folder / 'cifar-10-python.tar.gz').write_bytes(b'moved')
  loaded('cifar10', manual_dir='{tmp}', **OFFLINE)(place)


def cut_short(place):
  path = place.folder / 'cifar-10-python.tar.gz'
  made_cifar.pack(path, made_cifar.pickled_files('cifar10'))
  os.truncate(path, path.stat().st_size // 2)
  loaded('cifar10', manual_dir='{tmp}', **OFFLINE)(place)


def beside_another(place):
  copy_of_cifar()(place)
  shutil.rmtree(place.folder / made_cifar.PICKLED['cifar10'])
  copy_of_cifar(data_batch_1=batch(data=lambda pixels: pixels ^ np.uint8(1)))(
    place
  )


TABLE.add(
  'copy of CIFAR',
  {
    'another one is prepared': beside_another,
    'none where data.path says': loaded('cifar10', path='{tmp}', **OFFLINE),
    'none of this name': loaded('cifar10', path='{tmp}/none', **OFFLINE),
    'a batch is missing': copy_of_cifar(data_batch_3=None),
    'names are missing': copy_of_cifar(**{'batches.meta': None}),
    'a file of records is missing': copy_of_cifar(
      binary=True, **{'test_batch.bin': None}
    ),
    'records cut short': copy_of_cifar(
      binary=True, **{'data_batch_1.bin': lambda c: c[:-1]}
    ),
    'fewer records': copy_of_cifar(
      binary=True, **{'data_batch_1.bin': lambda c: c[:-3073]}
    ),
    'an empty file of records': copy_of_cifar(
      'cifar100', binary=True, **{'train.bin': b''}
    ),
    'a label too many': copy_of_cifar(
      binary=True, **{'data_batch_1.bin': lambda c: b'\3' + c[1:]}
    ),
    'a coarse label too many': copy_of_cifar(
      'cifar100', binary=True, **{'test.bin': lambda c: b'\xff' + c[1:]}
    ),
    'other numbers of a class': copy_of_cifar(
      binary=True, **{'data_batch_1.bin': lambda c: b'\1' + c[1:]}
    ),
    'a name too few': copy_of_cifar(
      binary=True, **{'batches.meta.txt': b'cat\ndog\n'}
    ),
    'a name twice': copy_of_cifar(
      binary=True, **{'batches.meta.txt': b'cat\ndog\ncat\n'}
    ),
    'pickle of something else': copy_of_cifar(
      data_batch_1=made_cifar.python2([1])
    ),
    'no labels': copy_of_cifar(
      'cifar100', train=made_cifar.python2({'data': 1})
    ),
    'a label too few': copy_of_cifar(
      data_batch_1=batch(labels=lambda labels: labels[1:])
    ),
    'negative labels': copy_of_cifar(
      data_batch_1=batch(labels=lambda labels: [-1, *labels[1:]])
    ),
    'labels that are no numbers': copy_of_cifar(
      data_batch_1=batch(labels=lambda labels: ['cat'] * len(labels))
    ),
    'ragged labels': copy_of_cifar(
      data_batch_1=batch(labels=lambda labels: [[0], *labels[1:]])
    ),
    'images of another size': copy_of_cifar(
      data_batch_1=batch(data=lambda pixels: pixels[:, :768])
    ),
    'labels of any size': copy_of_cifar(
      data_batch_1=batch(labels=lambda labels: [10**30] * len(labels))
    ),
    'a name of two lines': copy_of_cifar(
      **{'batches.meta': batch(label_names=lambda n: ['a\nb', *n[1:]])}
    ),
    'half a batch': copy_of_cifar(
      data_batch_1=batch(data=lambda d: d[:3], labels=lambda own: own[:3])
    ),
    'no file of a copy': copy_of_cifar(
      **dict.fromkeys(made_cifar.pickled_files('cifar10'))
    ),
    'images of another type': copy_of_cifar(
      data_batch_1=batch(data=lambda pixels: pixels / np.float32(255))
    ),
    'a pickle that calls': copy_of_cifar(
      data_batch_1=b"cos\nsystem\n(S'touch x'\ntR."
    ),
  },
)
TABLE.add(
  'copy of CIFAR',
  {'a damaged pickle': copy_of_cifar(data_batch_1=lambda c: c[:5000])},
  others='(?<=cannot read data_batch_1: ).*(?=; replace)',
)
TABLE.add('copy of CIFAR', {'no tar': not_packed})
TABLE.add(
  'copy of CIFAR',
  {'a tar cut short': cut_short},
  others=r'(?<=tar\.gz: ).*(?=; replace)',
)


# ImageNet's archives; what is in its images is not looked at.
CLASSES = made_imagenet.WORDNET_IDS[:2]
IMAGENET = {
  'tars': {
    f'{name}.tar': made_imagenet.class_tar(
      {f'{name}_{n}.JPEG': b'image' for n in range(2)}
    )
    for name in CLASSES
  },
  'validation': {f'ILSVRC2012_val_{n:08}.JPEG': b'image' for n in range(1, 4)},
  'kit': made_imagenet.devkit(CLASSES, [CLASSES[0], CLASSES[1], CLASSES[0]]),
}
COUNTS = imagenet_archives.Counts(classes=2, train=4, validation=3)


def archives(folder: pathlib.Path, **changes: dict[str, bytes]) -> None:
  folder.mkdir()
  content = {**IMAGENET, **changes}
  write = made_imagenet.write_tar
  write(folder / made_imagenet.TRAIN, content['tars'])
  write(folder / made_imagenet.VALIDATION, content['validation'])
  write(folder / made_imagenet.DEVKIT, content['kit'], 'w:gz')


def imagenet_of(place: Place) -> pathlib.Path:
  """A TFDS directory that all share, whose images are none."""

  def make(target):
    archives(target)
    prepare_imagenet(target, target / 'tfds')

  return place.shared.once('imagenet', make) / 'tfds'


def prepare_imagenet(folder, target, counts=COUNTS, shard_examples=50):
  source = data.Location(str(target), str(folder), download=False)
  with contextlib.redirect_stderr(io.StringIO()):
    imagenet_preparation.prepare(source, counts, shard_examples)


def wrong_archives(
  damage: Callable[[pathlib.Path], Any] = lambda folder: None,
  counts: imagenet_archives.Counts | None = COUNTS,
  **changes: dict[str, bytes],
) -> Provoke:
  def provoke(place):
    folder = place.folder / 'archives'
    archives(folder, **changes)
    damage(folder)
    prepare_imagenet(folder, place.folder / 'tfds', counts)

  return provoke


def cut(name: str) -> Callable[[pathlib.Path], Any]:
  """Cuts an archive between two of its files."""

  def damage(folder):
    with tarfile.open(folder / name) as tar:
      offset = tar.getmembers()[-1].offset
    os.truncate(folder / name, offset)

  return damage


def tars(**changes: bytes | None) -> dict[str, bytes]:
  """The classes' tars, some of them others or, by None, left out."""
  named = {f'{name}.tar': content for name, content in changes.items()}
  content = {**IMAGENET['tars'], **named}
  return {name: c for name, c in content.items() if c is not None}


def another_preparation(place):
  folder, target = place.folder / 'archives', place.folder / 'tfds'
  archives(folder, tars=tars(n02099601=made_imagenet.class_tar({})))
  with contextlib.suppress(DataError):
    prepare_imagenet(folder, target)
  prepare_imagenet(folder, target, shard_examples=49)


A_CLASS = made_imagenet.class_tar
TABLE.add(
  'archives of ImageNet',
  {
    f'no {name}': wrong_archives(lambda f, name=name: (f / name).unlink())
    for name in (made_imagenet.TRAIN, made_imagenet.VALIDATION)
  },
)
TABLE.add(
  'archives of ImageNet',
  {
    'training images cut short': wrong_archives(cut(made_imagenet.TRAIN)),
    'an empty class': wrong_archives(tars=tars(n02099601=A_CLASS({}))),
    'images of another class': wrong_archives(
      tars=tars(n02099601=A_CLASS({'n01440764_5.JPEG': b'image'}))
    ),
    'an image twice': wrong_archives(
      tars=tars(
        n02099601=A_CLASS(dict.fromkeys(('n1.JPEG', './n1.JPEG'), b'image'))
      )
    ),
    'no tars of classes': wrong_archives(tars=IMAGENET['validation']),
    'tars for images': wrong_archives(validation=IMAGENET['tars']),
    'a strange class': wrong_archives(tars=tars(n99999999=A_CLASS({}))),
    'a missing class': wrong_archives(tars=tars(n02099601=None)),
    'a missing class, of any counts': wrong_archives(
      counts=None, tars=tars(n02099601=None)
    ),
    'kit of other images': wrong_archives(
      counts=None, kit=made_imagenet.devkit(CLASSES, [CLASSES[0]])
    ),
    'other number of classes': wrong_archives(
      counts=imagenet_archives.Counts(3, 4, 3)
    ),
    'other number of training images': wrong_archives(
      counts=imagenet_archives.Counts(2, 1240, 3)
    ),
    'other number of validation images': wrong_archives(
      counts=imagenet_archives.OFFICIAL
    ),
    'another preparation was begun': another_preparation,
  },
)
TABLE.add(
  'archives of ImageNet',
  {
    'no development kit': wrong_archives(
      lambda f: (f / made_imagenet.DEVKIT).unlink()
    )
  },
  others=r'(?<=TFDS has them for )[\d,]+',
)
TABLE.add(
  'archives of ImageNet',
  {
    'no tar': wrong_archives(
      lambda f: (f / made_imagenet.TRAIN).write_bytes(b'moved' * 1000)
    ),
    'a class cut short': wrong_archives(
      tars=tars(n02099601=IMAGENET['tars']['n02099601.tar'][:700])
    ),
  },
  others=r'(?<=or damaged \().*(?=\); fetch)',
)
TABLE.add(
  'archives of ImageNet',
  {'another development kit': wrong_archives(kit={'readme': b''})},
  others=r'(?<=another file \().*(?=\); fetch)',
)


# ImageNet in folders of classes; what is in its images is not looked at.


def imagenet_folders(
  names: str = '', counts: imagenet_archives.Counts = COUNTS, **files: bytes
) -> Provoke:
  """Loads images at these paths, and files beside them."""

  def provoke(place):
    root = place.folder / 'images'
    root.mkdir()
    for name, content in {
      **dict.fromkeys(names.split(), b'x'),
      **files,
    }.items():
      (root / name).parent.mkdir(parents=True, exist_ok=True)
      (root / name).write_bytes(content)
    imagenet_folder.load(data.Location(path=str(root)), counts)

  return provoke


def in_folders(split: str, *numbers: int) -> str:
  names = (f'{split}/{CLASSES[n % 2]}/{n}.JPEG' for n in numbers)
  return ' '.join(names)


TRAINED, TESTED = in_folders('train', 0, 1, 2, 3), in_folders('val', 0, 1, 2)
FLAT = ' '.join(f'val/ILSVRC2012_val_{n:08}.JPEG' for n in (1, 2, 3))
TABLE.add(
  'ImageNet in folders',
  {
    'none': imagenet_folders(),
    'tars of classes': imagenet_folders(f'train/{CLASSES[0]}.tar {TESTED}'),
    'no validation': imagenet_folders(TRAINED),
    'a file for validation': imagenet_folders(f'{TRAINED} val'),
    'an image without content': imagenet_folders(
      f'{TRAINED} {TESTED}', **{f'train/{CLASSES[0]}/0.JPEG': b''}
    ),
    'other files': imagenet_folders(
      f'{TRAINED} {TESTED} train/{CLASSES[0]}/0.tar train/5.JPEG'
    ),
    'a class without images': imagenet_folders(
      f'{TRAINED} {TESTED} train/n02504458/.hidden'
    ),
    'a class to train on only': imagenet_folders(
      f'{TRAINED} {TESTED} train/n02504458/4.JPEG'
    ),
    'a class to test on only': imagenet_folders(
      f'{TRAINED} {TESTED} val/n02504458/4.JPEG'
    ),
    'fewer images': imagenet_folders(f'{in_folders("train", 0, 1)} {TESTED}'),
    'more classes': imagenet_folders(
      f'{TRAINED} {TESTED}', counts=imagenet_archives.OFFICIAL
    ),
    'classes by other names': imagenet_folders(
      'train/cat/0.png train/cat/1.png train/dog/0.png train/dog/1.png '
      'val/cat/0.png val/cat/1.png val/dog/0.png'
    ),
    'flat, by other names': imagenet_folders(f'{TRAINED} val/0.JPEG'),
    'flat, one is missing': imagenet_folders(
      f'{TRAINED} {FLAT}'.replace('val_00000002', 'val_00000004')
    ),
    'flat and empty': imagenet_folders(f'{TRAINED} val/readme.txt'),
  },
)
TABLE.add(
  'ImageNet in folders',
  {'flat, of unknown classes': imagenet_folders(f'{TRAINED} {FLAT}')},
  others=r'(?<=TFDS has them for )[\d,]+',
)


# A prepared directory of ImageNet's form.


def prepared(damage: Callable[[pathlib.Path], Any]) -> Provoke:
  """Loads a copy, of which something is changed before."""

  def provoke(place):
    shutil.copytree(imagenet_of(place), place.folder / 'tfds')
    damage(place.folder / 'tfds' / 'imagenet2012' / '5.1.0')
    data.load('imagenet', data_dir=str(place.folder / 'tfds'))

  return provoke


def of_another_form(folder):
  for path in list(folder.glob('*array_record*')):
    path.rename(str(path).replace('array_record', 'tfrecord'))
  rewrite(folder / 'dataset_info.json', fileFormat='tfrecord')


def without_validation(folder):
  file = folder / 'dataset_info.json'
  splits = json.loads(file.read_text())['splits']
  splits = [split for split in splits if split['name'] != 'validation']
  rewrite(file, splits=splits)


def fewer_classes(folder):
  file = folder / 'features.json'
  text = file.read_text()
  assert '"numClasses": "2"' in text
  file.write_text(text.replace('"numClasses": "2"', '"numClasses": "1"'))
  (folder / 'label.labels.txt').write_text(f'{CLASSES[0]}\n')


def image_is_none(place):
  dataset = data.load('imagenet', data_dir=str(imagenet_of(place)))
  dataset.train.images[np.array([2])]


def padding_of_streamed_images(place):
  refused(
    data__name='imagenet',
    data__data_dir=str(imagenet_of(place)),
    data__examples_per_class=0,
    batch_size=2,
    augment__padding=4,
  )(place)


def images_of_several_sizes(place):
  folder = imagenet_of(place) / 'imagenet2012' / '5.1.0'
  builder = tfds_reader.open_builder(folder, ('train',))
  tfds_reader.read_split(builder, 'train', 2)


TABLE.add(
  'prepared data',
  {
    'no metadata': prepared(lambda f: (f / 'dataset_info.json').unlink()),
    'no features': prepared(lambda f: (f / 'features.json').unlink()),
    'a missing file': prepared(
      lambda f: min(f.glob('imagenet2012-train*')).unlink()
    ),
    'tfrecord form': prepared(of_another_form),
    'a missing split': prepared(without_validation),
    'labels beyond the classes': prepared(fewer_classes),
    'a file that is no image': image_is_none,
    'images of several sizes': images_of_several_sizes,
    'padding of streamed images': padding_of_streamed_images,
  },
)
TABLE.add(
  'prepared data',
  {
    'damaged metadata': prepared(
      lambda f: (f / 'dataset_info.json').write_text('{"name": ')
    )
  },
  others='(?<=imagenet2012/5.1.0: ).*(?=; remove)',
)


# Tiny ImageNet's zip.
TOP = 'tiny-imagenet-200'
SMALL = 'n01443537', 'n02124075'


def jpeg(shade: int) -> bytes:
  file = io.BytesIO()
  Image.new('RGB', (64, 64), (shade,) * 3).save(file, 'JPEG')
  return file.getvalue()


def members(**changes: bytes | None) -> dict[str, bytes]:
  """Of the zip, by name; some of them others or, by None, left out."""
  lines = ''.join(f'{n}.JPEG\t{name}\n' for n, name in enumerate(SMALL))
  content = {
    'wnids.txt': '\n'.join(SMALL).encode(),
    'val/val_annotations.txt': lines.encode(),
  }
  for n, name in enumerate(SMALL):
    content[f'train/{name}/images/{name}_0.JPEG'] = jpeg(n)
    content[f'val/images/{n}.JPEG'] = jpeg(2 + n)
  content |= changes
  return {f'{TOP}/{name}': c for name, c in content.items() if c is not None}


def zipped(folder: pathlib.Path, content: dict[str, bytes]) -> None:
  folder.mkdir()
  with zipfile.ZipFile(folder / f'{TOP}.zip', 'w') as archive:
    for name, inner in content.items():
      archive.writestr(name, inner)


def zip_of(place: Place) -> pathlib.Path:
  """A folder that all share: the zip, and in tfds what is prepared of it."""

  def make(target):
    zipped(target, members())
    prepare_zip(target, target / 'tfds')

  return place.shared.once('tiny_imagenet', make)


def zip_spec(folder: pathlib.Path) -> tiny_imagenet.TinyImageNet:
  content = (folder / f'{TOP}.zip').read_bytes()
  return dataclasses.replace(
    tiny_imagenet.OFFICIAL,
    url=f'http://localhost/{TOP}.zip',
    sha256=hashlib.sha256(content).hexdigest(),
    num_classes=2,
    train_per_class=1,
    validation_per_class=1,
  )


def prepare_zip(folder: pathlib.Path, target: pathlib.Path) -> None:
  source = data.Location(str(target), str(folder), download=False)
  zip_spec(folder).prepare(source)


def wrong_zip(**changes: bytes | None) -> Provoke:
  def provoke(place):
    zipped(place.folder / 'zip', members(**changes))
    prepare_zip(place.folder / 'zip', place.folder / 'tfds')

  return provoke


def no_zip(place):
  zipped(place.folder / 'zip', {})
  (place.folder / 'zip' / f'{TOP}.zip').write_bytes(b'moved')
  prepare_zip(place.folder / 'zip', place.folder / 'tfds')


def small_images(
  damage: Callable[[pathlib.Path], Any], **changes: Any
) -> Provoke:
  """Loads a copy of what is prepared, of which something is changed."""

  def provoke(place):
    shutil.copytree(zip_of(place) / 'tfds', place.folder / 'tfds')
    damage(place.folder / 'tfds' / 'tiny_imagenet' / '1.0.0')
    spec = dataclasses.replace(zip_spec(zip_of(place)), **changes)
    spec.load(data.Location(str(place.folder / 'tfds')))

  return provoke


def halved(folder):
  (file,) = folder.glob('*train.array_record*')
  file.write_bytes(file.read_bytes()[:100])


NOTES = 'val/val_annotations.txt'
TABLE.add(
  'zip of Tiny ImageNet',
  {
    'no classes': wrong_zip(**{'wnids.txt': None}),
    'too few classes': wrong_zip(**{'wnids.txt': b'n01443537\n'}),
    'no annotations': wrong_zip(**{NOTES: None}),
    'an image without annotation': wrong_zip(**{NOTES: b'0.JPEG\tn01443537\n'}),
    'an annotation without an image': wrong_zip(**{'val/images/1.JPEG': None}),
    'two annotations': wrong_zip(**{NOTES: b'0.JPEG\tn01443537\n' * 2}),
    'an annotation of an unknown class': wrong_zip(
      **{NOTES: b'0.JPEG\tn01443537\n1.JPEG\tn9\n'}
    ),
    'too many validation images of a class': wrong_zip(
      **{NOTES: b'0.JPEG\tn01443537\n1.JPEG\tn01443537\n'}
    ),
    'no images of a class': wrong_zip(
      **{'train/n02124075/images/n02124075_0.JPEG': None}
    ),
    'a folder of an unknown class': wrong_zip(
      **{'train/n9/images/n9_0.JPEG': b'image'}
    ),
    'too many training images': wrong_zip(
      **{'train/n02124075/images/n02124075_1.JPEG': b'image'}
    ),
    'no image': wrong_zip(
      **{'train/n02124075/images/n02124075_0.JPEG': b'image'}
    ),
    'labels beyond the classes': small_images(lambda f: None, num_classes=1),
  },
)
TABLE.add(
  'zip of Tiny ImageNet',
  {'no zip': no_zip},
  others=rf'(?<={TOP}.zip: ).*(?=; replace it)',
)
TABLE.add(
  'zip of Tiny ImageNet',
  {'damaged after preparing': small_images(halved)},
  others=r'(?<=between rows 0 and 1: ).*(?=; remove)',
)


def unpacked(*moves: str, **changes: bytes | None) -> Provoke:
  """Prepares from the unpacked folder, where files are 'here>there'."""

  def provoke(place):
    top = place.folder / TOP
    for name, content in members(**changes).items():
      (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
      (place.folder / name).write_bytes(content)
    for here, there in (move.split('>') for move in moves):
      (top / there).parent.mkdir(exist_ok=True)
      (top / here).rename(top / there)
    spec = zip_spec(zip_of(place))
    spec.load(data.Location(str(place.folder), download=False))

  return provoke


TABLE.add(
  'unpacked Tiny ImageNet',
  {
    'no validation labels': unpacked(**{NOTES: None}),
    'sorted into another class': unpacked(
      'val/images/0.JPEG>val/n02124075/0.JPEG'
    ),
    'sorted into an unknown class': unpacked(
      'val/images/0.JPEG>val/n9/0.JPEG',
      'val/images/1.JPEG>val/n02124075/1.JPEG',
      **{NOTES: None},
    ),
    'a name in two classes': unpacked(
      'val/images/0.JPEG>val/n01443537/0.JPEG',
      'val/images/1.JPEG>val/n02124075/0.JPEG',
      **{NOTES: None},
    ),
    'too many of a class': unpacked(
      'val/images/0.JPEG>val/n02124075/0.JPEG',
      'val/images/1.JPEG>val/n02124075/1.JPEG',
      **{NOTES: None},
    ),
    'a class is missing': unpacked(
      **{'train/n02124075/images/n02124075_0.JPEG': None, 'wnids.txt': None}
    ),
    'no image': unpacked(
      **{'train/n02124075/images/n02124075_0.JPEG': b'image'}
    ),
    'none where data.path says': loaded(
      'tiny_imagenet', path='{tmp}', **OFFLINE
    ),
  },
)


# Folders of images.


def png(size: tuple[int, int] = (8, 8), mode: str = 'RGB') -> bytes:
  file = io.BytesIO()
  Image.new(mode, size).save(file, 'TIFF' if mode == 'I' else 'PNG')
  return file.getvalue()


TWO = 'train/cat/a train/cat/b train/dog/c val/cat/d val/dog/e'
ONE = 'cat/a cat/b dog/c dog/d'


def folder(
  names: str = TWO, skip: bool = False, **files: bytes | None
) -> Provoke:
  """Loads images of these names, and files beside them."""

  def provoke(place):
    content = {f'{name}.png': png() for name in names.split()}
    for name, inner in {**content, **files}.items():
      path = place.folder / 'images' / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(inner)
    return data.load(
      'folder', path=str(place.folder / 'images'), skip_unreadable=skip
    )

  return provoke


def folder_is_a_file(place):
  (place.folder / 'file').write_text('mine')
  loaded('folder', path='{tmp}/file')(place)


def unusable(count: int) -> dict[str, bytes]:
  return {f'train/cat/{n:02}.jpg': b'text' for n in range(count)}


def image_vanishes(place):
  images = folder()(place).train.images
  (place.folder / 'images' / 'train' / 'cat' / 'b.png').unlink()
  images[np.array([1])]


def class_is_away(place):
  for split in ('train', 'val'):
    folder_of = place.folder / 'images' / split
    folder_of.mkdir(parents=True)
    (folder_of / 'bird').symlink_to('/nowhere/bird')
  folder()(place)


def split_is_away(place):
  (place.folder / 'images').mkdir()
  (place.folder / 'images' / 'val').symlink_to('/nowhere/val')
  folder(TWO.replace('val', 'test'))(place)


def with_hole() -> bytes:
  """A JPEG of which only the header and the end are there."""
  file = io.BytesIO()
  Image.new('RGB', (8, 8)).save(file, 'JPEG')
  content = file.getvalue()
  return content[: content.index(b'\xff\xda')] + content[-2:]


UNUSABLE = {
  'train/dog/empty.jpg': b'',
  'train/dog/notes.txt': b'text',
  'train/dog/page.jpg': b'<html></html>',
  'train/dog/deeper/a.png': b'',
  'train/dog/hole.jpg': with_hole(),
  'train/dog/huge.ppm': b'P6 100000 100000 255\n',
  'train/dog/wide.tif': png(mode='I'),
  'val/loose.jpg': b'',
}

TABLE.add(
  'folder of images',
  {
    'a file': folder_is_a_file,
    'no classes': folder('a b'),
    'one class': folder('cat/a cat/b'),
    'no test images': folder('train/cat/a train/dog/b'),
    'no training images': folder('val/cat/a val/dog/b'),
    'other classes in the splits': folder(f'{TWO} train/ape/f val/bee/g'),
    'an empty class': folder(
      'train/cat/a val/cat/b val/dog/c', **{'train/dog/.gitkeep': b''}
    ),
    'a class that is away': class_is_away,
    'a class that is packed or hidden': folder(
      f'{TWO} train/.NET/f', **{'val/bird.tar': b''}
    ),
    'a test that is away': split_is_away,
    'classes that look the same': folder(f'{ONE} caf\xe9/e cafe\u0301/f'),
    'splits by other names': folder('Training/cat/a Validation/cat/b'),
    'a test by another name': folder('train/cat/a train/dog/b testing/cat/c'),
    'splits a folder below': folder('inner/train/cat/a inner/val/cat/b'),
    'one image of a class': folder(f'{ONE} eel/e'),
    'files that are no images': folder(**UNUSABLE),
    'many files that are no images': folder(**unusable(23)),
    'all of a class skipped': folder(
      'train/cat/a train/dog/c val/cat/d',
      skip=True,
      **{'val/dog/e.jpg': b'text'},
    ),
    'an image vanishes': image_vanishes,
  },
)


# Folders of persons.
TRAIN, QUERY, GALLERY, BOXES = (
  'bounding_box_train',
  'query',
  'bounding_box_test',
  'gt_bbox',
)


def wrong_persons(
  damage: Callable[[pathlib.Path], Any], **fields: Any
) -> Provoke:
  def provoke(place):
    copy = place.market()
    damage(copy)
    usual = {'path': str(copy), 'image_size': 32}
    return data.load('reid_folder', **{**usual, **fields})

  return provoke


def drop(*patterns: str) -> Callable[[pathlib.Path], Any]:
  def damage(copy):
    for pattern in patterns:
      for path in copy.glob(pattern):
        path.unlink()

  return damage


def swap(first: str, second: str, *dropped: str):
  def damage(copy):
    drop(*dropped)(copy)
    (copy / first).rename(copy / 'between')
    (copy / second).rename(copy / first)
    (copy / 'between').rename(copy / second)

  return damage


def copied_over(source: str, target: str) -> Callable[[pathlib.Path], Any]:
  def damage(copy):
    shutil.rmtree(copy / target)
    shutil.copytree(copy / source, copy / target)

  return damage


def others_asked_for(copy):
  shutil.rmtree(copy / BOXES)
  for path in (copy / QUERY).glob('*.jpg'):
    path.rename(path.with_name('9' + path.name[1:]))


def spoilt_query(copy):
  min((copy / QUERY).glob('*.jpg')).write_bytes(b'text')


def query_vanishes(place):
  query = wrong_persons(lambda copy: None)(place).test.query
  min((place.folder / 'market' / QUERY).glob('*.jpg')).unlink()
  query.images[:]


def official(damage: Callable[[pathlib.Path], Any]) -> Provoke:
  """Prepares Market-1501 from a folder of other counts."""

  def provoke(place):
    copy = place.market()
    damage(copy)
    source = data.Location(str(place.folder / 'tfds'), str(copy))
    market1501.load(source, place.shared.market.counts)

  return provoke


def prepared_below_a_file(place):
  (place.folder / 'file').write_text('mine')
  source = data.Location(
    str(place.folder / 'file'), str(place.shared.market.folder)
  )
  market1501.load(source, place.shared.market.counts)


def damaged_after_preparing(place):
  source = data.Location(
    str(place.folder / 'tfds'), str(place.shared.market.folder)
  )
  counts = place.shared.market.counts
  market1501.prepare(source, counts)
  folder = place.folder / 'tfds' / 'market1501' / '1.0.0'
  (file,) = folder.glob('*gallery*')
  file.write_bytes(file.read_bytes()[:100])
  market1501.load(source, counts)


def msmt17(**lists: str) -> Callable[[pathlib.Path], Any]:
  """Leaves the folders of MSMT17 with such lists."""

  def damage(copy):
    for old, new in ((TRAIN, 'mask_train_v2'), (GALLERY, 'mask_test_v2')):
      shutil.rmtree(copy / old)
      (copy / new).mkdir()
    for name, text in {'list_train': '', **lists}.items():
      (copy / f'{name}.txt').write_text(text)

  return damage


def within_another(copy):
  (copy / 'labeled').mkdir()
  for name in (TRAIN, QUERY, GALLERY):
    (copy / name).rename(copy / 'labeled' / name)


def named_otherwise(copy):
  for number, path in enumerate(sorted((copy / QUERY).glob('*.jpg'))):
    path.rename(path.with_name(f'{number}.jpg'))


TABLE.add(
  'folder of persons',
  {
    'names that tell nobody': wrong_persons(named_otherwise),
    'a folder too high': wrong_persons(within_another),
    'a list is missing': wrong_persons(msmt17()),
    'a number that is none': wrong_persons(
      msmt17(list_train='0000/0000_000_01_x.jpg -2\n', list_val='')
    ),
    'a number that is not its folder': wrong_persons(
      msmt17(list_train='0001/0001_000_01_x.jpg 0\n', list_val='')
    ),
    'a list of another kind': wrong_persons(
      msmt17(list_train='0000/0000_c1_0001.jpg\n')
    ),
    'an image listed twice': wrong_persons(
      msmt17(list_train='0000/0000_000_01_x.jpg 0\n' * 2, list_val='')
    ),
    'a listed image is missing': wrong_persons(
      msmt17(
        list_train='0000/0000_000_01_x.jpg 0\n',
        list_val='',
        list_query='0000/0000_000_01_x.jpg 0\n',
        list_gallery='0000/0000_000_02_x.jpg 0\n',
      )
    ),
    'no folder of queries': wrong_persons(
      lambda copy: shutil.rmtree(copy / QUERY)
    ),
    'no images of a gallery': wrong_persons(drop(f'{GALLERY}/*.jpg')),
    'boxes of others': wrong_persons(drop(f'{BOXES}/000[246]*')),
    'junk to train on': wrong_persons(swap(TRAIN, GALLERY)),
    'junk to look for': wrong_persons(swap(QUERY, GALLERY)),
    'more queries than gallery': wrong_persons(
      swap(QUERY, GALLERY, '*/-1*', '*/0000*')
    ),
    'persons of the training set': wrong_persons(copied_over(TRAIN, QUERY)),
    'queries for the gallery': wrong_persons(copied_over(QUERY, GALLERY)),
    'one camera': wrong_persons(drop('*/000[246]_c2*')),
    'none is in the gallery': wrong_persons(others_asked_for),
    'a spoilt image': wrong_persons(spoilt_query),
    'odd height': wrong_persons(lambda copy: None, image_size=33),
    'an image vanishes': query_vanishes,
    'other counts': official(drop(f'{TRAIN}/0001*', f'{QUERY}/0002_c1*')),
    'prepared below a file': prepared_below_a_file,
  },
)
TABLE.add(
  'folder of persons',
  {'damaged after preparing': damaged_after_preparing},
  others='(?<=array_record-00000-of-00001 is damaged: ).*(?=; remove)',
)
