# SPDX-License-Identifier: Apache-2.0
"""A small ImageNet of real images, in the form of the official archives.

`python tests/made_imagenet.py DIR` writes it.
"""

import dataclasses
import functools
import io
import pathlib
import sys
import tarfile

import numpy as np
import scipy.io
from PIL import Image

# In ImageNet the numbers of the challenge aren't in the order of these ids.
WORDNET_IDS = (
  'n01440764',
  'n02099601',
  'n02504458',
  'n03063599',
  'n04310018',
  'n07747607',
  'n09472597',
  'n13133613',
)
TRAIN = 'ILSVRC2012_img_train.tar'
VALIDATION = 'ILSVRC2012_img_val.tar'
DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'


@dataclasses.dataclass(frozen=True)
class Made:
  """What is in the archives.

  Attributes:
    folder: where they are.
    classes: WordNet ids, sorted.
    files: per split, file names, sorted, to the files' content.
    labels: per split, file names to classes' numbers.
  """

  folder: pathlib.Path
  classes: tuple[str, ...]
  files: dict[str, dict[str, bytes]]
  labels: dict[str, dict[str, int]]


def make(
  folder: pathlib.Path,
  *,
  classes: int = 4,
  train_per_class: int = 60,
  validation: int = 40,
  sizes: tuple[int, int] = (48, 160),
) -> Made:
  """Writes the three archives, about 3 kB an image.

  Classes 0 to 3 are the halves of scikit-learn's two photographs, the next
  ones have their colours exchanged: they can be learnt. As in ImageNet, some
  training images aren't RGB JPEGs: one in CMYK, one a PNG, one grey.

  Args:
    folder: where they go; it exists.
    classes: number of classes, at most 8.
    train_per_class: number of training images of each.
    validation: number of validation images.
    sizes: bounds of the images' sides, in pixels.

  Returns:
    What is in them.
  """
  rng = np.random.default_rng(0)
  ids = WORDNET_IDS[:classes]
  train, validation_files = {}, {}
  labels = {'train': {}, 'validation': {}}
  for label, name in enumerate(ids):
    for number in range(train_per_class):
      file = f'{name}_{rng.integers(10) * 1000 + number}.JPEG'
      kind = _ODD[label] if number == 1 and label < len(_ODD) else 'JPEG'
      train[file] = _encoded(_crop(label, rng, sizes), kind)
      labels['train'][file] = label
  for number in range(validation):
    file = f'ILSVRC2012_val_{number + 1:08}.JPEG'
    label = int(rng.integers(classes))
    validation_files[file] = _encoded(_crop(label, rng, sizes), 'JPEG')
    labels['validation'][file] = label
  train = dict(sorted(train.items()))
  made = Made(
    folder, ids, {'train': train, 'validation': validation_files}, labels
  )
  _write_archives(made, rng)
  return made


def write_folders(
  made: Made, root: pathlib.Path, *, flat: bool = False
) -> None:
  """Writes train/<class>/ and val/<class>/ or, flat, val/ alone."""
  for split, folder in (('train', 'train'), ('validation', 'val')):
    for name, content in made.files[split].items():
      wnid = made.classes[made.labels[split][name]]
      inner = '.' if flat and split == 'validation' else wnid
      (root / folder / inner).mkdir(parents=True, exist_ok=True)
      (root / folder / inner / name).write_bytes(content)


def write_tar(path: pathlib.Path, files: dict[str, bytes], mode: str = 'w'):
  """Writes a tar of files, in the order given."""
  with tarfile.open(path, mode) as tar:
    for name, content in files.items():
      header = tarfile.TarInfo(name)
      header.size = len(content)
      tar.addfile(header, io.BytesIO(content))


def class_tar(files: dict[str, bytes]) -> bytes:
  """Returns a tar of files."""
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w') as tar:
    for name, inner in files.items():
      header = tarfile.TarInfo(name)
      header.size = len(inner)
      tar.addfile(header, io.BytesIO(inner))
  return content.getvalue()


def class_tars(made: Made) -> dict[str, bytes]:
  """Returns what is in the training archive: by name, a tar of each class."""
  return {
    f'{name}.tar': class_tar(
      {f: c for f, c in made.files['train'].items() if f.startswith(name)}
    )
    for name in made.classes
  }


def devkit(classes: tuple[str, ...], truth: list[str]) -> dict[str, bytes]:
  """Returns what is in the development kit.

  Args:
    classes: WordNet ids; the inner nodes of the tree come on top.
    truth: of the validation images.
  """
  # The classes come first, in an order of their own, then the inner nodes.
  names = [*reversed(classes), 'n00001740', 'n00001930']
  kind = [
    ('ILSVRC2012_ID', object),
    ('WNID', object),
    ('words', object),
    ('num_children', object),
  ]
  synsets = np.zeros((len(names), 1), kind)
  for row, name in enumerate(names):
    children = 0 if name in classes else 2
    synsets[row, 0] = (float(row + 1), name, f'words of {name}', children)
  meta = io.BytesIO()
  scipy.io.savemat(meta, {'synsets': synsets})
  numbers = ''.join(f'{names.index(name) + 1}\n' for name in truth)
  root = 'ILSVRC2012_devkit_t12'
  return {
    f'{root}/readme.txt': b'A development kit that was made for a test.\n',
    f'{root}/data/meta.mat': meta.getvalue(),
    f'{root}/data/ILSVRC2012_validation_ground_truth.txt': numbers.encode(),
  }


_ODD = ('CMYK', 'PNG', 'grey')


def _write_archives(made: Made, rng: np.random.Generator) -> None:
  """Writes the archives; nothing may depend on the order within tars."""
  tars = class_tars(made)
  write_tar(made.folder / TRAIN, {n: tars[n] for n in reversed(tars)})
  names = list(made.files['validation'])
  order = [names[i] for i in rng.permutation(len(names))]
  images = {name: made.files['validation'][name] for name in order}
  write_tar(made.folder / VALIDATION, images)
  truth = [made.classes[made.labels['validation'][name]] for name in names]
  kit = devkit(made.classes, truth)
  write_tar(made.folder / DEVKIT, kit, 'w:gz')


@functools.cache
def _photographs() -> tuple[np.ndarray, ...]:
  # Who makes archives without real images is spared a second's import.
  from sklearn import datasets

  return tuple(datasets.load_sample_images().images)


def _crop(
  label: int, rng: np.random.Generator, sizes: tuple[int, int]
) -> Image.Image:
  photograph = _photographs()[label % 2]
  half = photograph.shape[1] // 2
  left = half * (label // 2 % 2)
  wide, tall = (int(side) for side in rng.integers(*sizes, 2))
  top = int(rng.integers(photograph.shape[0] - tall))
  left += int(rng.integers(half - wide))
  pixels = photograph[top : top + tall, left : left + wide]
  return Image.fromarray(np.roll(pixels, label // 4, axis=2))


def _encoded(image: Image.Image, kind: str) -> bytes:
  mode = {'CMYK': 'CMYK', 'grey': 'L'}.get(kind, 'RGB')
  content = io.BytesIO()
  image.convert(mode).save(content, 'PNG' if kind == 'PNG' else 'JPEG')
  return content.getvalue()


if __name__ == '__main__':
  destination = pathlib.Path(sys.argv[1])
  destination.mkdir(parents=True, exist_ok=True)
  make(destination)
