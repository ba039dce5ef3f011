# SPDX-License-Identifier: Apache-2.0
"""Evaluates checkpoints of runs: each alone, or several together.

    python -m srdl_jax.evaluate --workdir=DIR [--workdir=DIR ...] \
        [--checkpoint=final|best|stage_1|ensemble|...,...] [--split=test]

prints one JSON object: accuracies as fractions, NLL and calibration error,
each over the number of examples that stands beside them. Of several runs or
checkpoints it is of the mean of their probabilities; DIR:stage_1 takes another
checkpoint of that run.

Where the test ranks a gallery it prints CMC, mAP and how was ranked, for
networks together by their features side by side; --montage draws some rankings.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from srdl_jax import command, cpu, evaluate, storage, trained
from srdl_jax.config import FIELDS
from srdl_jax.errors import ConfigError
from srdl_jax.experiment import Experiment
from srdl_jax.retrieval import measure
from srdl_jax.runs import directory as run_directory

_RETRIEVAL = ('normalise', 'mirror', 're_rank', 'pooling')
SPLITS = ('test', 'validation', 'train')
_NAME = r'(final|best|ensemble|stage_\d+)'
_NAMES = re.compile(f'{_NAME}(,{_NAME})*')


def _evaluate(runs, split: str, picture: str | None) -> dict[str, Any]:
  args = flags.FLAGS
  changes = {n: args[n].value for n in _RETRIEVAL if args[n].value is not None}
  if split != 'test' or not runs[0][0].is_retrieval:
    if changes or picture:
      raise ConfigError(
        f'--{", --".join(_RETRIEVAL)} and --montage are for tests that rank a '
        'gallery.'
      )
    return evaluate.evaluate(runs, split)
  target = picture and pathlib.Path(picture).expanduser()
  if target and not target.parent.is_dir():
    raise ConfigError(f'--montage={picture}: there is no such directory.')
  found = evaluate.extract_features(runs, changes)
  if target:
    measure.draw(found, target, args.queries)
  how = dataclasses.asdict(found.settings)
  return {**measure.metrics(found), 'ranking': how}


def _open(workdir: pathlib.Path, name: str) -> tuple[Experiment, dict]:
  args = flags.FLAGS
  experiment = trained.open_run(workdir, args.data_dir)
  if args.split == 'validation' and not len(experiment.validation_rows):
    raise ConfigError('The run kept no validation set (data.holdout = 0).')
  return experiment, trained.load_members(workdir, name, experiment)


def main(argv: Sequence[str]) -> None:
  """Evaluates a run's checkpoints."""
  del argv
  args = flags.FLAGS
  if not args.workdir:
    raise ConfigError('--workdir=DIR is missing.')
  cpu.prepare()
  names = {}
  for given in args.workdir:
    path, _, name = given.rpartition(':')
    if not (path and _NAMES.fullmatch(name)):
      path, name = given, args.checkpoint
    workdir = storage.absolute(run_directory.resolve(path))
    if workdir in names:
      raise ConfigError(f'{path} is given twice: name its checkpoints at once.')
    names[workdir] = name
  with trained.precision(names):
    runs = [_open(*named) for named in names.items()]
    result = _evaluate(runs, args.split, args.montage)
  print(
    json.dumps({'checkpoint': args.checkpoint, 'split': args.split, **result})
  )


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
