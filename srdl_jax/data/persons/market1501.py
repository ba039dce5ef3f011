# SPDX-License-Identifier: Apache-2.0
"""Market-1501: 32,668 images of 1,501 persons seen by six cameras.

Read from a TFDS directory in ArrayRecord form; where that is missing it is
prepared, without TensorFlow, from the official folder, which is put by hand
into `manual_dir`. A record holds the file as it is, its name, and its identity
as the label; rows are in the order of the names.
"""

import hashlib
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds

from srdl_jax import data, storage
from srdl_jax.data import folder_files, persons, preparation, tfds_reader
from srdl_jax.data import records as records_lib
from srdl_jax.data.persons import Part, layouts
from srdl_jax.data.persons import checks as person_checks
from srdl_jax.data.persons import folder as persons_folder
from srdl_jax.data.records import Example, Records
from srdl_jax.errors import DataError

NAME = 'market1501'
FOLDER = 'Market-1501-v15.09.15'
# As its authors tell them, see `checks.counts_of`.
OFFICIAL = {
  'training images': 12_936,
  'training identities': 751,
  'queries': 3_368,
  'query identities': 750,
  'good gallery images': 13_115,
  'distractors': 2_798,
  'junk images': 3_819,
}
_SPLITS = ('train', 'query', 'gallery')
_log = logging.getLogger(__name__)


def load(
  source: data.Location, counts: Mapping[str, int] = OFFICIAL
) -> data.Dataset:
  """Loads Market-1501, after preparing it where it is missing.

  Args:
    source: `image_size` is the height of the images, 0 for 256;
      `allow_differences` takes a copy of other counts.

  Returns:
    The data set, see `persons.dataset`.

  Raises:
    ConfigError: `image_size` is odd.
    DataError: it is missing, damaged, in another form than ArrayRecord, not
      the official data set, or was not prepared from what `source.path` names.
  """
  directory = _directory(source)
  if not directory.exists():
    prepare(source, counts)
  if source.path and source.compared:
    preparation.compare(
      _folder(source),
      directory,
      lambda root, place: _difference(persons_folder.read(root, source), place),
    )
  parts = _read(directory)
  person_checks.check(
    directory,
    parts,
    counts=counts,
    allow_differences=source.allow_differences,
  )
  return persons.dataset(NAME, parts, source.image_size)


def prepare(
  source: data.Location, counts: Mapping[str, int] = OFFICIAL
) -> None:
  """Makes the TFDS directory from the folder, all of it or nothing.

  Of several processes that call this at once, one prepares and others wait.

  Args:
    source: `path`, or else `manual_dir`, is the folder, or holds it.

  Raises:
    DataError: there is no folder, it is damaged or not the official one, or
      nothing can be written.
  """
  directory, root = _directory(source), _folder(source)

  def write(draft: pathlib.Path) -> None:
    traits = preparation.traits(root)
    parts = persons_folder.read(root, source)
    person_checks.check(
      root, parts, counts=counts, allow_differences=source.allow_differences
    )
    _log.info('preparing %s, once', directory)
    _write(parts, draft)
    (draft / preparation.SOURCE).write_text(traits)

  preparation.make_once(directory, write)


def _difference(parts: Mapping[str, Part], place: pathlib.Path) -> str:
  """Says in what the parts of a folder differ from what is prepared."""
  prepared = _read(place)
  for split in sorted({*parts, *prepared}):
    ours, theirs = (_digests(its.get(split)) for its in (parts, prepared))
    names = sorted({name for name, _ in ours.items() ^ theirs.items()})
    if names:
      told = folder_files.listed(names, 1)
      return f'has other images in {layouts.MARKET[split]} than {place}: {told}'
  return ''


def _digests(part: Part | None) -> dict[str, str]:
  """Returns digests of whole files by name."""
  return {
    example.name: hashlib.sha256(example.content).hexdigest()
    for example in (_examples(part) if part else ())
  }


def _directory(source: data.Location) -> pathlib.Path:
  return tfds_reader.directory(source.data_dir, NAME, persons.VERSION)


def _folder(source: data.Location) -> pathlib.Path:
  """Finds the official folder: what is named is it, or holds it."""
  if source.path:
    manual = storage.reachable(source.path, 'data.path').absolute()
  else:
    manual = preparation.folders(source, NAME)[0].absolute()
  if os.path.isdir(manual / FOLDER):
    return manual / FOLDER
  if any(os.path.isdir(manual / name) for name in layouts.MARKET.values()):
    return manual
  if source.path and _directory(source).exists():
    raise DataError(
      f'there is no folder {FOLDER} in {manual}, which data.path names: name a '
      f'copy of {NAME}, or leave data.path out to take what is prepared'
    )
  raise DataError(
    f'{NAME}/{persons.VERSION} is not in '
    f'{tfds_reader.root(source.data_dir, NAME)}'
    f', and there is no folder {FOLDER} in {manual}, from which it would be '
    "prepared. Unpack the authors' archive there, set data.manual_dir to where "
    'it is unpacked, or data.data_dir to where it is prepared'
  )


def _write(parts: Mapping[str, Part], folder: pathlib.Path) -> None:
  template = tfds.core.ShardedFileTemplate(
    data_dir=folder, dataset_name=NAME, filetype_suffix='array_record'
  )
  splits = []
  for split, part in parts.items():
    own = template.replace(split=split)
    path = pathlib.Path(own.sharded_filepath(shard_index=0, num_shards=1))
    records_lib.write(path, _examples(part))
    size = path.stat().st_size
    splits.append(tfds.core.SplitInfo(split, [len(part)], size, own))
  preparation.write_metadata(
    template,
    splits,
    tfds.features.Scalar(np.int64),
    version=persons.VERSION,
    description='Market-1501, prepared from the official folder.',
  )


def _examples(part: Part) -> Iterator[Example]:
  for row, name in enumerate(part.names):
    try:
      content = part.records[row]
    except OSError as error:
      raise DataError(
        f'cannot read {part.records.name(row)}: {error.strerror}; restore it '
        'and run again'
      ) from error
    yield Example(name, int(part.identities[row]), content)


def _read(directory: pathlib.Path) -> dict[str, Part]:
  builder = tfds_reader.open_builder(directory, _SPLITS)
  if 'multi_query' in builder.info.splits:
    # Again, so that its file, too, is seen to be there.
    builder = tfds_reader.open_builder(directory, (*_SPLITS, 'multi_query'))
  return {
    split: _part(split, Records(info.filepaths, info.shard_lengths))
    for split, info in builder.info.splits.items()
  }


def _part(split: str, records: Records) -> Part:
  names, told, digests = [], [], []
  try:
    for row in range(len(records)):
      example = records.example(row)
      if (its := persons.parse(example.name)) is None:
        raise ValueError(f'row {row} is called {example.name!r}')
      names.append(example.name)
      told.append(its)
      digests.append(hashlib.sha256(example.content).hexdigest())
  except ValueError as error:
    folder = pathlib.Path(records.path(0)).parent
    raise DataError(
      f'{error}; remove {folder} to have it prepared again'
    ) from error
  return Part(layouts.MARKET[split], names, told, digests, records)
