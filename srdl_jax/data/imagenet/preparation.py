# SPDX-License-Identifier: Apache-2.0
"""Makes TFDS's imagenet2012 in ArrayRecord form from the official archives.

The images' bytes are stored as they are: what isn't an RGB JPEG (22 files in
CMYK, a PNG) is converted when it is decoded. Shards are finished one by one in
a staging folder, which is renamed when everything is there; a preparation that
was ended at any moment goes on behind the last finished shard.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import pathlib
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow_datasets as tfds

from srdl_jax import data, storage
from srdl_jax.data import (
  folder_files,
  image_files,
  imagenet,
  preparation,
  tfds_reader,
)
from srdl_jax.data.imagenet import archives as imagenet_archives
from srdl_jax.data.imagenet import index as imagenet_index
from srdl_jax.data.imagenet.archives import Archives, Counts
from srdl_jax.data.imagenet.index import Index
from srdl_jax.data.records import Example, Shards
from srdl_jax.errors import DataError, WorkdirError
from srdl_jax.storage import Told, files, locks

SHARD_EXAMPLES = 5000
# As TFDS's sequential writer has it: a name doesn't tell how many shards there
# are, which isn't known before the last is written.
_FILE_NAMES = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}'
_STAGING = f'incomplete.srdl_{imagenet.VERSION}'
_SHOWN = 5
_log = logging.getLogger(__name__)


def prepare(
  source: data.Location,
  counts: Counts | None = imagenet_archives.OFFICIAL,
  shard_examples: int = SHARD_EXAMPLES,
) -> pathlib.Path:
  """Makes the TFDS directory; of several processes one does, others wait.

  Args:
    source: where the archives are, and where the directory goes.
    counts: how much the archives must hold; None takes what there is.

  Returns:
    The directory, which may have been there.

  Raises:
    DataError: an archive is missing, damaged or another one, nothing can be
      written, or another preparation was begun. Finished shards are kept.
  """
  directory = imagenet.directory_of(source)
  if directory.exists():
    # Left by a process that was ended behind the rename.
    shutil.rmtree(directory.with_name(_STAGING), ignore_errors=True)
    return directory
  folder = preparation.folders(source, imagenet.NAME)[0]
  archives = imagenet_archives.open_archives(folder, counts)
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locks.taking_turns(directory.parent) as alone:
      # Where locks don't exist, two machines must not write the same files.
      own = '' if alone else f'_{socket.gethostname()}'
      staging = directory.with_name(f'{_STAGING}{own}')
      if not directory.exists():
        _write(archives, counts, staging, shard_examples)
        files.move(staging / directory.name, directory)
      shutil.rmtree(staging, ignore_errors=True)
  except OSError as error:
    raise DataError(
      f'cannot prepare {directory}: {error}. What is finished stays beside it '
      f'in {_STAGING}: see that there is room and that it can be written, and '
      'run the same command again'
    ) from error
  return directory


def _write(
  archives: Archives,
  counts: Counts | None,
  staging: pathlib.Path,
  shard_examples: int,
) -> None:
  folder, notes = staging / imagenet.VERSION, staging / 'finished'
  for needed in (folder, notes):
    needed.mkdir(parents=True, exist_ok=True)
  _check_plan(archives, staging, shard_examples)
  shards = {}
  for split in imagenet.SPLITS:
    name = f'{imagenet.NAME}-{split}.array_record'
    shards[split] = Shards(folder, notes, name)
    damaged = notes / f'{split}.damaged'
    _write_split(archives, split, shards[split], shard_examples, damaged)
    _tell_damaged(archives.path(split), damaged)
  if counts is not None:
    path, found = archives.path('train'), len(shards['train'].names)
    imagenet_archives.check_count(path, found, counts.train, 'images')
  # Drafts of a process that was ended.
  for draft in folder.glob('.*'):
    draft.unlink()
  _write_metadata(folder, archives.classes, shards)
  meaning = imagenet_archives.words(archives.folder)
  tfds_reader.write_words(folder, meaning)


def _check_plan(
  archives: Archives, staging: pathlib.Path, shard_examples: int
) -> None:
  """Sees that the same preparation goes on, if one was begun.

  Raises:
    DataError: it was begun with other archives, or another size of shards.
  """
  lists = json.dumps([archives.classes, archives.labels.tolist()])
  plan = {
    'shard_examples': shard_examples,
    'classes': hashlib.sha256(lists.encode()).hexdigest(),
  }
  for split in imagenet.SPLITS:
    plan[archives.path(split).name] = archives.path(split).stat().st_size
  path = staging / 'plan.json'
  if not path.exists():
    with files.new_file(path) as draft:
      draft.write_text(json.dumps(plan, indent=2))
  begun = {}
  # A damaged one says nothing, so all differs.
  with contextlib.suppress(WorkdirError):
    begun = storage.read_json(path, shard_examples=int)
  if differs := [name for name in plan if begun.get(name) != plan[name]]:
    raise DataError(
      f'{staging} holds a preparation that was begun with another '
      f'{", ".join(differs)} (shard_examples={begun.get("shard_examples")}): '
      'go on with the same, or remove that folder to begin again'
    )


def _write_split(
  archives: Archives,
  split: str,
  shards: Shards,
  shard_examples: int,
  damaged: pathlib.Path,
) -> None:
  """Writes the shards that aren't finished yet."""
  size = archives.path(split).stat().st_size
  told = Told(split, 'images', size=size, done=shards.image_bytes)
  images = _looked_at(archives.images(split, shards.last_name), damaged)
  while first := next(images, None):
    rest = itertools.islice(images, shard_examples - 1)
    shards.append(itertools.chain([first], rest), told)
  told.close()


def _looked_at(
  images: Iterable[Example], damaged: pathlib.Path
) -> Iterator[Example]:
  """Yields images; names of those that can't be one are noted in a file."""
  for example in images:
    try:
      image_files.check(io.BytesIO(example.content))
    except image_files.DecodeError as error:
      with damaged.open('a') as file:
        file.write(f'{example.name} ({error})\n')
    yield example


def _tell_damaged(archive: pathlib.Path, damaged: pathlib.Path) -> None:
  if not damaged.exists():
    return
  # Where a process was ended, some are noted again by the next one.
  names = sorted(set(damaged.read_text().splitlines()))
  _log.warning(
    '%s: %d file(s) are empty or no images: %s; training ends where it needs '
    'one: fetch the archive again',
    archive,
    len(names),
    folder_files.listed(names, _SHOWN),
  )


def _write_metadata(
  folder: pathlib.Path, classes: Sequence[str], shards: Mapping[str, Shards]
) -> None:
  """Writes the index, and what TFDS wants to read."""
  template = tfds.core.ShardedFileTemplate(
    data_dir=folder,
    template=_FILE_NAMES,
    dataset_name=imagenet.NAME,
    filetype_suffix='array_record',
  )
  name = f'{imagenet.NAME}/{imagenet.VERSION}'
  splits, indices = [], {}
  for split, written in shards.items():
    info = tfds.core.SplitInfo(
      name=split,
      shard_lengths=written.lengths,
      num_bytes=written.image_bytes,
      filename_template=template,
    )
    splits.append(info)
    indices[split] = Index(
      labels=written.labels,
      fingerprint=data.fingerprint(name, split, written.names, written.labels),
      shards=imagenet_index.shards_of(info),
    )
  imagenet_index.write(folder, indices)
  preparation.write_metadata(
    template,
    splits,
    tfds.features.ClassLabel(names=classes),
    version=imagenet.VERSION,
    description='ILSVRC 2012, prepared from the official archives.',
    homepage='https://image-net.org/',
  )
