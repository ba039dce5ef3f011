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

from srdl_jax import build, command, data, parallel, storage
from srdl_jax.config import FIELDS
from srdl_jax.errors import CheckpointError, ConfigError, NonFiniteLossError
from srdl_jax.experiment import Experiment
from srdl_jax.metrics import Classification, log_softmax
from srdl_jax.parallel import predict
from srdl_jax.retrieval import measure
from srdl_jax.retrieval.features import LONGEST, normalise, squared_lengths
from srdl_jax.runs import checkpoint
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import record as stage_record

Runs = Sequence[tuple[Experiment, Mapping[int, Any]]]
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


def ensemble(runs: Runs, split: str) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of models of several runs.

  Args:
    runs: of each, what `evaluate` takes.
    split: see `evaluate`.

  Returns:
    See `measure.metrics` for the test of a retrieval, else
    `metrics.Classification.result`; of several models also 'disagreement',
    the share of examples on which not all predict the same class.

  Raises:
    ConfigError: the runs are of different examples or classes.
  """
  if split == 'test' and runs[0][0].is_retrieval:
    return rank(runs)
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


def rank(runs: Runs) -> dict[str, float | int]:
  """Returns the metrics of some networks; see `extract_features` and
  `measure.metrics`."""
  return measure.first_ones(measure.metrics(extract_features(runs)))


def extract_features(
  runs: Runs, changes: Mapping[str, Any] | None = None
) -> measure.Extracted:
  """Computes the features of all images of a test, each once, in order.

  Args:
    runs: of each an experiment, whose settings of the first count, and
      variables by the number of the stage. Features of several networks stand
      side by side, each of length 1.
    changes: to those settings, by name.

  Raises:
    ConfigError: the runs rank other images.
    NonFiniteLossError: a feature isn't finite.
  """
  test = _same_test(runs)
  settings = dataclasses.replace(settings_of(runs[0][0]), **(changes or {}))
  found = {
    part.name: features_of_part(runs, part.name, settings)
    for part in test.parts
  }
  return measure.Extracted(test, settings, **{'multi_query': None, **found})


def settings_of(experiment: Experiment) -> measure.Settings:
  """Returns how a run ranks."""
  config = experiment.config
  return measure.Settings(
    normalise=config.retrieval.normalise,
    mirror=config.retrieval.mirror,
    pooling=config.retrieval.pooling,
    re_rank=config.retrieval.re_rank,
  )


def features_of_part(
  runs: Runs, part: str, settings: measure.Settings
) -> np.ndarray:
  """Returns the features [N, D] of a part of a test.

  Args:
    runs: see `extract_features`.
    part: 'query', 'gallery' or 'multi_query', which has N images.
    settings: how to rank.

  Raises:
    NonFiniteLossError: a feature isn't finite.
  """
  found = [
    # Each at its own run's size of images.
    _of_network(
      experiment,
      number,
      variables,
      getattr(experiment.dataset.test, part),
      settings.mirror,
    )
    for experiment, members in runs
    for number, variables in members.items()
  ]
  if len(found) > 1 or settings.normalise:
    found = [normalise(features_NxD, part) for features_NxD in found]
  return np.concatenate(found, axis=1)


def _of_network(experiment, number, variables, part, mirrored) -> np.ndarray:
  devices = experiment.devices
  blocks = predict(
    experiment.network(number).feature_batch(mirrored),
    parallel.replicate(variables, devices),
    lambda rows_B: part.images[parallel.own(rows_B, devices)],
    np.arange(len(part.identities)),
    parallel.whole_batch(experiment.config.eval.batch_size, devices),
  )
  features_NxD = np.concatenate([features_BxD for _, features_BxD in blocks])
  with np.errstate(over='ignore', invalid='ignore'):
    wrong_N = ~(squared_lengths(features_NxD) < LONGEST)
  if wrong_N.any():
    raise NonFiniteLossError(
      f'The features of {part.name} image {wrong_N.argmax()} are not finite '
      'or too large: lower optimiser.learning_rate, in another workdir, or '
      'look at the data.'
    )
  return features_NxD


def _same_test(runs: Runs) -> data.Retrieval:
  first, _ = runs[0]
  for other, _ in runs[1:]:
    if other.dataset.test.fingerprint != first.dataset.test.fingerprint:
      raise ConfigError(
        f'The runs rank other images: {first.description}; {other.description}.'
      )
  return first.dataset.test


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
  found = extract_features(runs, changes)
  if target:
    measure.draw(found, target, flags.FLAGS.queries)
  how = dataclasses.asdict(found.settings)
  return {**measure.metrics(found), 'ranking': how}


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
    workdir = storage.absolute(run_directory.resolve(path))
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
