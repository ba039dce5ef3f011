# SPDX-License-Identifier: Apache-2.0
"""Evaluates checkpoints of runs: each alone, or several together.

    python -m srdl_jax.evaluate --workdir=DIR [--workdir=DIR ...] \
        [--checkpoint=final|best|stage_1|ensemble|...,...] [--split=test] \
        [--data=FOLDER|tfds:NAME] [--details=DIR]

prints accuracies, NLL and calibration error over the images that are counted
beside them: a table on a terminal, else, or with --json, one JSON object with
fractions. Of several runs or checkpoints it is of the mean of their
probabilities; DIR:stage_1 takes another checkpoint of that run.

--data takes other images than the run's: a folder with one for each class, or a
prepared data set, whose classes are found by their names. Then the run's own
data need not be there. --details writes predictions, accuracies by class, the
confusion matrix, the worst images and the calibration to a folder.

Where the test ranks a gallery it prints CMC, mAP and how was ranked, for
networks together by their features side by side; --montage draws some rankings.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from srdl_jax import command, cpu, evaluate, storage, trained
from srdl_jax.config import FIELDS
from srdl_jax.data import folder_files
from srdl_jax.errors import ConfigError, DataError
from srdl_jax.experiment import Experiment
from srdl_jax.retrieval import measure
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import environment

_RETRIEVAL = ('normalise', 'mirror', 're_rank', 'pooling')
SPLITS = ('test', 'validation', 'train')
_TITLES = {
  'accuracy': 'accuracy',
  'top5_accuracy': 'top-5 accuracy',
  'nll': 'negative log-likelihood',
  'expected_calibration_error': 'calibration error',
  'entropy': 'entropy of the predictions',
  'disagreement': 'disagreement of the members',
  'examples': 'images',
}
_NATS = ('nll', 'entropy')
# Of prepared data sets, by their names: the split that is tested on.
_TESTS = {
  'cifar10': 'tfds:cifar10/test',
  'cifar100': 'tfds:cifar100/test',
  'tiny_imagenet': 'tfds:tiny_imagenet/validation',
  'imagenet': 'tfds:imagenet2012/validation',
}


def _evaluate(runs, split: str) -> dict[str, Any]:
  """Evaluates on the runs' own data."""
  args = flags.FLAGS
  experiment = runs[0][0]
  if split != 'test' or not experiment.is_retrieval:
    _refuse_of_rankings()
    with _details(
      experiment.examples(split).split, experiment.artefact.titles
    ) as each:
      return evaluate.evaluate(runs, split, each)
  if args.details:
    raise ConfigError('--details is for tests that classify.')
  target = args.montage and storage.expanded(args.montage, '--montage')
  if target and not target.parent.is_dir():
    raise ConfigError(f'--montage={args.montage}: there is no such directory.')
  changes = {n: args[n].value for n in _RETRIEVAL if args[n].value is not None}
  found = evaluate.extract_features(runs, changes)
  if target:
    measure.draw(found, target, args.queries)
  how = dataclasses.asdict(found.settings)
  return {**measure.metrics(found), 'ranking': how}


@contextlib.contextmanager
def _details(split, classes: Sequence[str]):
  """Yields what is told of each block; writes --details at the end."""
  if not flags.FLAGS.details:
    yield None
    return
  # It takes matplotlib with it.
  from srdl_jax.evaluate.details import Details

  folder = run_directory.local(flags.FLAGS.details, '--details')
  if folder.exists() and not folder.is_dir():
    raise ConfigError(f'--details={folder}: that is a file.')
  details = Details(split, classes)
  yield details.add
  storage.say(f'{folder}: {", ".join(details.write(folder))}')


def _refuse_of_rankings() -> None:
  args = flags.FLAGS
  if any(args[n].value is not None for n in (*_RETRIEVAL, 'montage')):
    raise ConfigError(
      f'--{", --".join(_RETRIEVAL)} and --montage are for tests that rank a '
      'gallery.'
    )


def _refuse_with_data() -> None:
  args = flags.FLAGS
  given = [n for n in (*_RETRIEVAL, 'montage') if args[n].value is not None]
  if given or args['split'].present:
    raise ConfigError(f'--data goes without --{(given or ["split"])[0]}.')


def _elsewhere(
  names: Mapping[pathlib.Path, str], source: str, data_dir: str
) -> dict[str, Any]:
  """Evaluates on labelled images that aren't the runs' own: see `labelled`."""
  # It takes TFDS with it.
  from srdl_jax.data import labelled

  opened = trained.open_classifiers(names, flags.FLAGS.data_dir)
  first = opened[0][0].artefact
  found = labelled.read(source, first.classes, data_dir)
  members = [
    member
    for run, variables in opened
    for member in run.members(variables, found.records, found.labels)
  ]
  with _details(members[0].examples.split, first.titles) as each:
    return evaluate.classify(members, each)


def _open(workdir: pathlib.Path, name: str) -> tuple[Experiment, dict]:
  experiment = trained.open_run(workdir, flags.FLAGS.data_dir)
  return experiment, trained.load_members(workdir, name, experiment)


def _test_alone(workdir: pathlib.Path) -> tuple[str, str]:
  """Returns where the test of a run is without what it trained on: a source of
  `labelled`, and its TFDS directory; '' where it isn't told apart."""
  config = run_directory.load_identity(workdir).config
  given = flags.FLAGS.data_dir
  path = given or config.data.path
  if config.data.name == 'folder':
    place = folder_files.test_folder(storage.expanded(path, 'data.path'))
    return str(place or ''), ''
  if config.data.name == 'imagenet' and config.data.path:
    # It takes TFDS with it.
    from srdl_jax.data.imagenet import folder as imagenet_folder

    return str(imagenet_folder.test_folder(path) or ''), ''
  test = _TESTS.get(config.data.name, '')
  return test, given or config.data.data_dir


def _on_test_alone(
  names: Mapping[pathlib.Path, str], error: DataError
) -> tuple[str, dict[str, Any]]:
  """Evaluates where the data can't be read with what was trained on.

  Raises:
    DataError: the test can't be, either.
  """
  found = {_test_alone(workdir) for workdir in names}
  source, data_dir = next(iter(found))
  # Of runs on several data sets none is the test of all.
  if flags.FLAGS.split != 'test' or not source or len(found) > 1:
    raise DataError(
      f'{error}. --data=FOLDER or --data=tfds:NAME evaluates on other images.'
    ) from error
  _refuse_of_rankings()
  result = _elsewhere(names, source, data_dir)
  storage.say(f'{error}. So the test was read alone: {source}.')
  return source, result


def table(found: Mapping[str, Any]) -> str:
  """Returns metrics as lines for a reader, shares in percent."""
  lines = []
  for name, value in found.items():
    title = _TITLES.get(name, name.replace('_', ' '))
    if isinstance(value, float):
      text = f'{value:.4f} nats' if name in _NATS else f'{value:.2%}'
    elif isinstance(value, int):
      text = f'{value:,}'
    else:
      text = json.dumps(value)
    lines.append(f'{title:<30}{text}')
  return '\n'.join(lines)


def main(argv: Sequence[str]) -> None:
  """Evaluates a run's checkpoints."""
  del argv
  args = flags.FLAGS
  cpu.prepare()
  environment.use_compilation_cache()
  names = trained.chosen(args.workdir, args.checkpoint)
  with trained.precision(names):
    place = {'checkpoint': args.checkpoint}
    if args.data:
      _refuse_with_data()
      place['data'] = args.data
      result = _elsewhere(names, args.data, args.data_dir or '')
    else:
      place['split'] = args.split
      try:
        runs = [_open(*one) for one in names.items()]
      except DataError as error:
        place['data'], result = _on_test_alone(names, error)
      else:
        result = _evaluate(runs, args.split)
  if args.json or not sys.stdout.isatty():
    print(json.dumps({**place, **result}))
  else:
    print(table({**place, **result}))


if __name__ == '__main__':
  flags.DEFINE_multi_string(
    'workdir', [], 'Run directory; several: the mean of their probabilities.'
  )
  flags.DEFINE_string(
    'checkpoint', 'final', 'final, best, stage_1, ..., ensemble, or several.'
  )
  flags.DEFINE_enum('split', 'test', SPLITS, 'What to evaluate.')
  flags.DEFINE_string(
    'data_dir',
    None,
    'TFDS directory, or directory of images, if not the one that the run used.',
  )
  flags.DEFINE_string(
    'data',
    None,
    "Other images than the run's: a folder of classes, or tfds:NAME[/SPLIT].",
  )
  flags.DEFINE_string(
    'details', None, 'Folder for tables and pictures by class and image.'
  )
  flags.DEFINE_boolean('json', False, 'Print JSON on a terminal, too.')
  for name in _RETRIEVAL[:-1]:
    flags.DEFINE_boolean(name, None, FIELDS[f'retrieval.{name}'].meaning)
  flags.DEFINE_enum(
    'pooling', None, ['average', 'max'], FIELDS['retrieval.pooling'].meaning
  )
  flags.DEFINE_string('montage', None, 'PNG file of some rankings.')
  flags.DEFINE_integer(
    'queries', 8, 'In the montage, evenly spaced.', lower_bound=1
  )
  command.run(main)
