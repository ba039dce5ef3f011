# SPDX-License-Identifier: Apache-2.0
"""ImageNet in folders of its classes: train/n01440764/, val/n01440764/.

Images are read where they lie, and none before it is needed: 1.28 million files
are listed, and their sizes asked for; with `skip_unreadable` each is decoded
at the start. Rows are in the order of the file names, as in what is prepared
from the archives.
"""

import concurrent.futures
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from srdl_jax import cpu, data, storage
from srdl_jax.data import folder_files, imagenet, tfds_reader
from srdl_jax.data.folder_files import Fault
from srdl_jax.data.imagenet import archives as imagenet_archives
from srdl_jax.data.imagenet.archives import Counts
from srdl_jax.data.images import IMAGENET_MEAN, IMAGENET_STD
from srdl_jax.errors import DataError

# Where others' archives of it have them.
_BELOW = ('', 'Data/CLS-LOC', 'ILSVRC/Data/CLS-LOC')
_TRAIN, _VALIDATION = folder_files.TRAIN_FOLDERS, ('val', 'validation')
_CLASS = re.compile(r'n\d{8}')
_SHOWN = 5
_FILES_A_TASK = 4096
_log = logging.getLogger(__name__)
# A file's path below the folder, and its class.
Labelled = list[tuple[str, str]]


def load(
  source: data.Location, counts: Counts = imagenet_archives.OFFICIAL
) -> data.Dataset:
  """Lists the images of a folder.

  Args:
    source: `path` is the folder; `image_size` see `imagenet.load`;
      `allow_differences` takes other counts and classes, `skip_unreadable`
      decodes all files, and leaves out those that can't be used.
    counts: what there must be.

  Raises:
    DataError: there is no such folder, it has another layout or other counts,
      the splits' classes differ, or files can't be used.
  """
  root = _root(source.path)
  _log.info('listing the images in %s', root)
  train, faults = _listed(root, _chosen(root, _TRAIN))
  name = _chosen(root, _VALIDATION)
  validation, others = _validation(root, name)
  sizes, unreadable = _sizes(root, [path for path, _ in train + validation])
  if source.skip_unreadable:
    _log.info('decoding %d images to see which can be read', len(sizes))
    whole, undecodable = folder_files.look_at(root, [*sizes], whole=True)
    sizes = {path: size for path, size in sizes.items() if path in whole}
    unreadable += undecodable
  if faults := [*faults, *others, *unreadable]:
    folder_files.report(root, faults, source.skip_unreadable)
  train, validation = (
    [(path, its) for path, its in part if path in sizes]
    for part in (train, validation)
  )
  classes = sorted({its for _, its in train})
  _check_classes(root, name, classes, validation)
  found = Counts(len(classes), len(train), len(validation))
  _check_counts(root, classes, found, counts, source.allow_differences)
  return data.Dataset(
    name='imagenet',
    version=imagenet.VERSION,
    num_classes=len(classes),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    train=_split(root, 'train', train, classes, sizes, source.image_size),
    test=_split(root, 'test', validation, classes, sizes, source.image_size),
    classes=tuple(classes),
    words=_words(root, classes),
  )


def test_folder(path: str) -> pathlib.Path | None:
  """Returns where the validation's class folders are in a folder, if any."""
  given = storage.expanded(path, 'data.path').absolute()
  found = (folder_files.test_folder(given / b, _VALIDATION) for b in _BELOW)
  return next(filter(None, found), None)


def _root(path: str) -> pathlib.Path:
  given = storage.reachable(path, 'data.path').absolute()
  for root in (given / below for below in _BELOW):
    if os.path.isdir(root) and folder_files.named(
      folder_files.folders(root), _TRAIN
    ):
      return root
  raise DataError(
    f'data.path, {given}, has no folder train with one for each class, such '
    'as n01440764: unpack the archives so, or prepare them (`srdl prepare '
    f'{imagenet.NAME}`) and name the result by data.data_dir'
  )


def _chosen(root: pathlib.Path, names: Sequence[str]) -> str:
  """Returns how the first of some names is written that is in a folder."""
  found = folder_files.named(folder_files.entries(root), names)
  if len(found) > 1:
    _log.warning('in %s, not read: %s', root, ', '.join(found[1:]))
  return found[0] if found else names[0]


def _listed(root: pathlib.Path, name: str) -> tuple[Labelled, list[Fault]]:
  (part,), faults = folder_files.images(root, [root / name])
  if not part:
    raise DataError(
      f'{root / name} has no folders of classes, such as n01440764: make one '
      'for each class (of tars, unpack each into its own)'
    )
  if empty := [its for its, paths in part.items() if not paths]:
    raise DataError(
      f'{root / name} has no images of {folder_files.listed(empty, _SHOWN)}: '
      'add them, or remove the class from both splits'
    )
  return [(path, its) for its, paths in part.items() for path in paths], faults


def _validation(root: pathlib.Path, name: str) -> tuple[Labelled, list[Fault]]:
  """Lists the validation images; those in no folders are labelled by number.

  The development kit may lie beside them; TFDS has the official classes.
  """
  directory = root / name
  if not os.path.isdir(directory):
    kind = folder_files.entries(root).get(name)
    told = f'{directory} is {kind}' if kind else f'{root} has no folder {name}'
    raise DataError(
      f'{told} beside train: put the validation '
      'images there, in a folder for each class'
    )
  if folder_files.folders(directory):
    return _listed(root, name)
  _, found = folder_files.images(root, [directory])
  paths = sorted(path for path, _ in found)
  wanted = [f'{name}/ILSVRC2012_val_{n:08}' for n in range(1, len(paths) + 1)]
  if not paths or [path.rpartition('.')[0] for path in paths] != wanted:
    raise DataError(
      f'{directory} has no folders of classes, and its {len(paths):,} images '
      'are not ILSVRC2012_val_00000001.JPEG and so on, whose classes are known:'
      ' sort them into folders such as n01440764'
    )
  _, truth = imagenet_archives.read_labels(root, len(paths))
  return list(zip(paths, truth, strict=True)), []


def _sizes(
  root: pathlib.Path, paths: list[str]
) -> tuple[dict[str, int], list[Fault]]:
  """Returns the bytes of files; those without any are faults."""
  sizes, faults = {}, []

  def look(first: int) -> None:
    for path in paths[first : first + _FILES_A_TASK]:
      try:
        sizes[path] = os.stat(root / path).st_size
      except OSError as error:
        faults.append((path, error.strerror or str(error)))

  with concurrent.futures.ThreadPoolExecutor(4 * cpu.cores()) as pool:
    for _ in pool.map(look, range(0, len(paths), _FILES_A_TASK)):
      pass
  empty = [path for path in paths if sizes.get(path) == 0]
  faults += [(path, 'the file is empty') for path in empty]
  for path in empty:
    del sizes[path]
  return sizes, faults


def _check_classes(
  root: pathlib.Path, name: str, classes: list[str], validation: Labelled
) -> None:
  tested = {its for _, its in validation}
  alone = {
    'train': sorted(set(classes) - tested),
    name: sorted(tested - set(classes)),
  }
  for where, names in alone.items():
    if names:
      raise DataError(
        f'{root} has images of {folder_files.listed(names, _SHOWN)} in {where} '
        'only; both splits need the same classes'
      )


def _check_counts(
  root: pathlib.Path,
  classes: list[str],
  found: Counts,
  counts: Counts,
  allow_differences: bool,
) -> None:
  differences = [
    f'{getattr(found, what):,} {told} instead of {getattr(counts, what):,}'
    for what, told in (
      ('classes', 'classes'),
      ('train', 'training images'),
      ('validation', 'validation images'),
    )
    if getattr(found, what) != getattr(counts, what)
  ]
  known, _ = imagenet_archives.read_tfds()
  strange = [
    its
    for its in classes
    if not _CLASS.fullmatch(its) or (known and its not in known)
  ]
  if strange:
    differences.append(
      f'{folder_files.listed(strange, _SHOWN)}, which are not its classes '
      '(such as n01440764)'
    )
  if differences and not allow_differences:
    raise DataError(
      f'{root} is not the whole of ImageNet: {"; ".join(differences)}; '
      'complete it, or go on with this by data.allow_differences=True'
    )
  if differences:
    _log.warning('%s: %s; going on', root, '; '.join(differences))


def _split(
  root: pathlib.Path,
  name: str,
  part: Labelled,
  classes: list[str],
  sizes: dict[str, int],
  size: int,
) -> data.Split:
  numbers = {its: number for number, its in enumerate(classes)}
  rows = sorted(
    (folder_files.base(path), path, numbers[its]) for path, its in part
  )
  labels = np.array([number for _, _, number in rows], np.int32)
  ids = (f'{base}\t{sizes[path]}' for base, path, _ in rows)
  return data.Split(
    name=name,
    images=imagenet.streamed(
      folder_files.Files(str(root), tuple(path for _, path, _ in rows)), size
    ),
    labels=labels,
    fingerprint=data.fingerprint(
      f'{imagenet.NAME}/{imagenet.VERSION}+copy',
      dict(zip(('train', 'test'), imagenet.SPLITS, strict=True))[name],
      ids,
      labels,
    ),
  )


def _words(root: pathlib.Path, classes: Iterable[str]) -> tuple[str, ...]:
  """Returns what the classes' names mean, by words.txt or the kit beside."""
  if words := tfds_reader.class_words(root, classes):
    return words
  meaning = imagenet_archives.words(root)
  return tuple(meaning.get(its, '') for its in classes) if meaning else ()
