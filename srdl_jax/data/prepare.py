# SPDX-License-Identifier: Apache-2.0
"""Prepares a data set on disk, before any run needs it.

    python -m srdl_jax.data.prepare imagenet2012 --manual_dir=DIR \
        [--data_dir=DIR] [--shard_examples=N] [--allow_other_counts]
    python -m srdl_jax.data.prepare cifar10|cifar100|tiny_imagenet \
        [--manual_dir=DIR] [--data_dir=DIR] [--nodownload]
    python -m srdl_jax.data.prepare market1501 --manual_dir=DIR \
        [--data_dir=DIR] [--allow_differences] [--skip_unreadable]

ImageNet's archives can't be downloaded without an account; docs/imagenet.md
says which are needed. A preparation that was ended goes on with the same
command.
"""

from collections.abc import Sequence

from absl import flags

from srdl_jax import command, data
from srdl_jax.errors import ConfigError

IMAGENET = 'imagenet2012'
NAMES = (IMAGENET, 'tiny_imagenet', 'market1501', 'cifar10', 'cifar100')


def _imagenet(source: data.Location) -> dict[str, int]:
  # TFDS takes a second to import, which a wrong name need not wait for.
  from srdl_jax.data import imagenet
  from srdl_jax.data.imagenet import archives as imagenet_archives
  from srdl_jax.data.imagenet import preparation as imagenet_preparation

  directory = imagenet_preparation.prepare(
    source,
    None if flags.FLAGS.allow_other_counts else imagenet_archives.OFFICIAL,
    flags.FLAGS.shard_examples or imagenet_preparation.SHARD_EXAMPLES,
  )
  splits = imagenet.open_builder(directory).info.splits
  return {name: splits[name].num_examples for name in imagenet.SPLITS}


def _counts(dataset: data.Dataset) -> dict[str, int]:
  test = dataset.test
  tests = test.parts if isinstance(test, data.Retrieval) else (test,)
  return {part.name: len(part.images) for part in (dataset.train, *tests)}


def main(argv: Sequence[str]) -> None:
  """Prepares a data set where it is missing, and says how much there is."""
  if len(argv) != 2 or argv[1] not in NAMES:
    given = ' '.join(argv[1:]) or 'none'
    raise ConfigError(
      f'Name one data set of {", ".join(sorted(NAMES))}; got {given}.'
    )
  name, args = argv[1], flags.FLAGS
  source = data.Location(
    args.data_dir,
    args.manual_dir,
    args.download,
    skip_unreadable=args.skip_unreadable,
    allow_differences=args.allow_other_counts,
  )
  if name == IMAGENET:
    counts = _imagenet(source)
  else:
    counts = _counts(data.DATASETS[name].load(source))
  told = ', '.join(f'{count:,} {split}' for split, count in counts.items())
  print(f'{name} is prepared: {told} images')


if __name__ == '__main__':
  flags.DEFINE_string(
    'data_dir', '', 'TFDS directory; TFDS_DATA_DIR or ~/tensorflow_datasets.'
  )
  flags.DEFINE_string(
    'manual_dir', '', 'Where archives are; downloads/manual in data_dir.'
  )
  flags.DEFINE_boolean(
    'download', True, 'Whether a missing archive may be downloaded.'
  )
  flags.DEFINE_integer(
    'shard_examples', None, 'imagenet2012: images a file.', lower_bound=1
  )
  flags.DEFINE_boolean(
    'allow_other_counts',
    False,
    'imagenet2012, market1501: take other numbers of images or classes.',
  )
  flags.DEFINE_alias('allow_differences', 'allow_other_counts')
  flags.DEFINE_boolean(
    'skip_unreadable', False, 'market1501: leave out damaged images.'
  )
  command.run(main, positional=True)
