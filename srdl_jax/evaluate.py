# SPDX-License-Identifier: Apache-2.0
"""Metrics of a model, or of several models' mean, over exactly N examples.

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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from srdl_jax import (
  bucket,
  build,
  checkpoint,
  command,
  ranking,
  run_directory,
  stage_record,
)
from srdl_jax.errors import CheckpointError, ConfigError
from srdl_jax.experiment import Experiment
from srdl_jax.fields import FIELDS
from srdl_jax.metrics import Classification, log_softmax

_RETRIEVAL = ('normalise', 'mirror', 're_rank', 'pooling')
SPLITS = ('test', 'validation', 'train')
_NAME = r'(final|best|ensemble|stage_\d+)'
_NAMES = re.compile(f'{_NAME}(,{_NAME})*')


def evaluate(
  experiment: Experiment,
  members: Mapping[int, Any],
  split: str,
) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of some models (Table 6).

  Args:
    experiment: holds the data and the compiled predict step.
    members: parameters and statistics of each model, by the number of the
      stage; their probabilities at temperature 1 are averaged.
    split: 'test', 'validation' or 'train' (the rows that are trained on).

  Returns:
    See `ensemble`.
  """
  return ensemble([(experiment, members)], split)


def ensemble(
  runs: Sequence[tuple[Experiment, Mapping[int, Any]]], split: str
) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of models of several runs.

  Args:
    runs: of each, what `evaluate` takes.
    split: see `evaluate`.

  Returns:
    See `ranking.metrics` for the test of a retrieval, else
    `metrics.Classification.result`; of several models also 'disagreement',
    the share of examples on which not all predict the same class.

  Raises:
    ConfigError: the runs are of different examples or classes.
  """
  if split == 'test' and runs[0][0].is_retrieval:
    return ranking.measure(runs)
  source, _ = _same_examples([experiment for experiment, _ in runs], split)
  sums, differing = Classification(), 0
  # Blocks of one size, whatever each run's own is.
  batch_size = runs[0][0].config.eval.batch_size
  passes = [
    experiment.predict(number, variables, split, batch_size=batch_size)
    for experiment, members in runs
    for number, variables in members.items()
  ]
  for blocks in zip(*passes, strict=True):
    rows = blocks[0][0]
    log_probs = np.stack([log_softmax(logits) for _, logits in blocks])
    mean = np.logaddexp.reduce(log_probs) - np.log(len(passes))
    sums.add(mean, source.labels[rows])
    top1 = log_probs.argmax(-1)
    differing += int((top1 != top1[0]).any(0).sum())
  result = sums.result()
  if len(passes) > 1:
    result['disagreement'] = differing / result['examples']
  return result


def _same_examples(experiments: Sequence[Experiment], split: str):
  first, rows = experiments[0].rows(split)
  for other in experiments[1:]:
    theirs, their_rows = other.rows(split)
    same = (
      theirs.fingerprint == first.fingerprint
      and np.array_equal(their_rows, rows)
      and other.dataset.num_classes == experiments[0].dataset.num_classes
    )
    if not same:
      raise ConfigError(
        f'The runs have other {split} examples or classes: '
        f'{experiments[0].description}; {other.description}.'
      )
  return first, rows


def load_members(
  workdir: pathlib.Path,
  name: str,
  experiment: Experiment,
) -> dict[int, Any]:
  """Loads the model(s) that a checkpoint name stands for.

  Args:
    workdir: of the run.
    name: 'final', 'best' (of the last stage), 'stage_N' (the end of a stage),
      'ensemble' (the ends of all stages), or several, with commas.
    experiment: of the run.

  Returns:
    Parameters and statistics of each, by the number of the stage.

  Raises:
    ConfigError: the name is unknown.
    CheckpointError: it isn't there yet, or is damaged.
  """
  stages = len(experiment.stages)
  ends = {f'stage_{n}': [n] for n in range(1, stages + 1)}
  ends |= {'final': [stages], 'ensemble': list(range(1, stages + 1))}
  members: dict[int, Any] = {}
  for part in name.split(','):
    if part != 'best' and part not in ends:
      raise ConfigError(
        f'Unknown checkpoint {part!r}; known: best, {", ".join(ends)}.'
      )
    for number in ends.get(part, [stages]):
      if number in members:
        raise ConfigError(f'{name!r} names stage {number} twice.')
      members[number] = _load(workdir, part, number, experiment)
  return members


def _load(workdir, name, number, experiment) -> Any:
  directory = run_directory.checkpoints(workdir, number)
  with checkpoint.Checkpoints(directory, read_only=True) as checkpoints:
    if name == 'best':
      moment = checkpoints.load_best()
    else:
      end = experiment.first_step(number + 1)
      if end not in (saved := checkpoints.steps()):
        raise CheckpointError(
          f'{directory}: the stage has not been trained to its end, step '
          f'{end}; its checkpoints are at {saved or "no step"}.'
        )
      moment = checkpoints.load(end)
  lineage = experiment.lineage(number, None)
  del lineage['teacher'], lineage['weights']
  stage_record.refuse_foreign(moment, lineage, number)
  return moment.variables


def open_run(workdir: pathlib.Path, data_dir: str | None) -> Experiment:
  """Returns the experiment of a run, to read its checkpoints with.

  Args:
    workdir: of the run.
    data_dir: TFDS directory, or directory of images, if not the one that the
      run used.

  Raises:
    CheckpointError: the run was trained on other data.
  """
  record = run_directory.load_record(workdir)
  config = record.config
  # Another machine may have other devices, and reading must not fetch.
  config.devices = 1
  config.data.download = False
  if data_dir is not None and config.data.path:
    config.data.path = data_dir
  elif data_dir is not None:
    config.data.data_dir = data_dir
  experiment = build.build(config, to_train=False)
  if experiment.dataset.train.fingerprint != record.fingerprint:
    raise CheckpointError(
      f'{workdir} was trained on other data: its fingerprint is '
      f"{record.fingerprint}, this {experiment.dataset.name}'s is "
      f'{experiment.dataset.train.fingerprint}.'
    )
  if experiment.record.ranked != record.ranked:
    raise CheckpointError(
      f'{workdir} ranked other images than those of this '
      f'{experiment.dataset.name}.'
    )
  return experiment


def _retrieval_flags() -> dict[str, Any]:
  """Returns the fields of `retrieval` that the command line sets."""
  given = {name: flags.FLAGS[name].value for name in _RETRIEVAL}
  return {name: value for name, value in given.items() if value is not None}


def _evaluate(runs, split: str, picture: str | None) -> dict[str, Any]:
  changes = _retrieval_flags()
  if split != 'test' or not runs[0][0].is_retrieval:
    if changes or picture:
      raise ConfigError(
        f'--{", --".join(_RETRIEVAL)} and --montage are for tests that rank a '
        'gallery.'
      )
    return ensemble(runs, split)
  target = picture and pathlib.Path(picture).expanduser()
  if target and not target.parent.is_dir():
    raise ConfigError(f'--montage={picture}: there is no such directory.')
  found = ranking.extract(runs, changes)
  if target:
    ranking.draw(found, target, flags.FLAGS.queries)
  how = dataclasses.asdict(found.settings)
  return {**ranking.metrics(found), 'ranking': how}


def main(argv: Sequence[str]) -> None:
  """Evaluates a run's checkpoints."""
  del argv
  args = flags.FLAGS
  if not args.workdir:
    raise ConfigError('--workdir=DIR is missing.')
  runs = {}
  for given in args.workdir:
    path, _, name = given.rpartition(':')
    if not (path and _NAMES.fullmatch(name)):
      path, name = given, args.checkpoint
    workdir = bucket.absolute(run_directory.resolve(path))
    if workdir in runs:
      raise ConfigError(f'{path} is given twice: name its checkpoints at once.')
    experiment = open_run(workdir, args.data_dir)
    if args.split == 'validation' and not len(experiment.validation_rows):
      raise ConfigError('The run kept no validation set (data.holdout = 0).')
    runs[workdir] = experiment, load_members(workdir, name, experiment)
  result = _evaluate(list(runs.values()), args.split, args.montage)
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
