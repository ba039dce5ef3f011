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

from srdl_jax import build, command, data, storage
from srdl_jax.config import FIELDS
from srdl_jax.errors import (
  CheckpointError,
  ConfigError,
  NonFiniteLossError,
  unknown,
)
from srdl_jax.experiment import BoundStage, Examples, Experiment
from srdl_jax.metrics import Classification, log_softmax
from srdl_jax.network import Network
from srdl_jax.retrieval import measure
from srdl_jax.retrieval.features import LONGEST, normalise, squared_lengths
from srdl_jax.runs import checkpoint
from srdl_jax.runs import directory as run_directory

Runs = Sequence[tuple[Experiment, Mapping[int, Any]]]
_RETRIEVAL = ('normalise', 'mirror', 're_rank', 'pooling')
SPLITS = ('test', 'validation', 'train')
_NAME = r'(final|best|ensemble|stage_\d+)'
_NAMES = re.compile(f'{_NAME}(,{_NAME})*')


@dataclasses.dataclass(frozen=True)
class Member:
  """One of the networks that are evaluated together.

  Attributes:
    network: which predicts.
    variables: its parameters and statistics.
    examples: as it sees them: those of the others, at its own size of images;
      or the gallery and queries that its features rank.
  """

  network: Network
  variables: Any
  examples: Examples | data.Retrieval


def classify(
  members: Sequence[Member], batch_size: int
) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of some networks (Table 6).

  Their probabilities at temperature 1 are averaged.

  Args:
    members: of the same examples and classes.
    batch_size: images in a call.

  Returns:
    See `metrics.Classification.result`; of several networks also
    'disagreement', the share of examples on which not all predict the same
    class.
  """
  labels = members[0].examples.split.labels
  sums, differing = Classification(), 0
  passes = [
    # Blocks of one size, whatever each run's own is.
    member.network.predict(
      member.variables,
      member.examples.split.images,
      member.examples.rows,
      batch_size,
    )
    for member in members
  ]
  for blocks in zip(*passes, strict=True):
    rows = blocks[0][0]
    log_probs = np.stack([log_softmax(logits) for _, logits in blocks])
    mean = np.logaddexp.reduce(log_probs) - np.log(len(passes))
    sums.add(mean, labels[rows])
    top1 = log_probs.argmax(-1)
    differing += int((top1 != top1[0]).any(0).sum())
  result = sums.result()
  if len(passes) > 1:
    result['disagreement'] = differing / result['examples']
  return result


def evaluate(
  experiment: Experiment, variables: Mapping[int, Any], split: str
) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of some stages' networks.

  Args:
    experiment: of the run.
    variables: parameters and statistics, by the number of the stage.
    split: 'test', 'validation' or 'train' (the rows that are trained on).

  Returns:
    See `ensemble`.
  """
  return ensemble([(experiment, variables)], split)


def ensemble(runs: Runs, split: str) -> dict[str, float | int]:
  """Returns metrics of the mean prediction of networks of several runs.

  Args:
    runs: of each, what `evaluate` takes.
    split: see `evaluate`.

  Returns:
    See `measure.metrics` for the test of a retrieval, else `classify`.

  Raises:
    ConfigError: the runs are of different examples or classes.
  """
  if split == 'test' and runs[0][0].is_retrieval:
    return rank(runs)
  first, first_examples = runs[0][0], runs[0][0].examples(split)
  for other, _ in runs[1:]:
    examples = other.examples(split)
    same = (
      examples.split.fingerprint == first_examples.split.fingerprint
      and np.array_equal(examples.rows, first_examples.rows)
      and other.dataset.num_classes == first.dataset.num_classes
    )
    if not same:
      raise ConfigError(
        f'The runs have other {split} examples or classes: '
        f'{first.description}; {other.description}.'
      )
  return classify(_members(runs, split), first.config.eval.batch_size)


def _members(runs: Runs, split: str) -> list[Member]:
  """Returns the networks of runs, with the examples of a split."""
  members = []
  for experiment, variables in runs:
    ranked = split == 'test' and experiment.is_retrieval
    examples = experiment.dataset.test if ranked else experiment.examples(split)
    members += [
      Member(experiment.stages[number - 1].network, its, examples)
      for number, its in variables.items()
    ]
  return members


def load_members(
  workdir: pathlib.Path,
  name: str,
  experiment: Experiment,
) -> dict[int, Any]:
  """Loads the network(s) that a checkpoint name stands for.

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
      raise ConfigError(unknown('checkpoint', part, ['best', *ends]))
    for number in ends.get(part, [stages]):
      if number in members:
        raise ConfigError(f'{name!r} names stage {number} twice.')
      members[number] = _load(workdir, part, experiment.stages[number - 1])
  return members


def load_one(
  workdir: pathlib.Path, name: str, experiment: Experiment
) -> tuple[Network, Any]:
  """Returns the network of one checkpoint, and its variables.

  Args:
    workdir, name, experiment: see `load_members`.

  Raises:
    ConfigError: the name stands for several networks, or for none.
    CheckpointError: it isn't there yet, or is damaged.
  """
  members = load_members(workdir, name, experiment)
  if len(members) > 1:
    raise ConfigError(f'{name!r} is several networks: choose one stage_N.')
  ((number, variables),) = members.items()
  return experiment.stages[number - 1].network, variables


def _load(workdir, name: str, stage: BoundStage) -> Any:
  directory = run_directory.checkpoints(workdir, stage.number)
  with checkpoint.Checkpoints(directory, read_only=True) as checkpoints:
    if name == 'best':
      moment = checkpoints.load_best()
    else:
      if stage.end_step not in (saved := checkpoints.steps()):
        raise CheckpointError(
          f'{directory}: the stage has not been trained to its end, step '
          f'{stage.end_step}; its checkpoints are at {saved or "no step"}.'
        )
      moment = checkpoints.load(stage.end_step)
  # What taught it need not be there any more.
  lineage = stage.lineage(None)
  del lineage['teacher'], lineage['weights']
  moment.record.refuse_foreign(moment.step, lineage)
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
  identity = run_directory.load_identity(workdir)
  config = identity.config
  # Another machine may have other devices, and reading must not fetch.
  config.devices = 1
  config.data.download = False
  if data_dir is not None and config.data.path:
    config.data.path = data_dir
  elif data_dir is not None:
    config.data.data_dir = data_dir
  experiment = build.build(config, to_train=False)
  if experiment.dataset.train.fingerprint != identity.fingerprint:
    raise CheckpointError(
      f'{workdir} was trained on other data: its fingerprint is '
      f"{identity.fingerprint}, this {experiment.dataset.name}'s is "
      f'{experiment.dataset.train.fingerprint}.'
    )
  if experiment.identity.ranked != identity.ranked:
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
  first, _ = runs[0]
  for other, _ in runs[1:]:
    if other.dataset.test.fingerprint != first.dataset.test.fingerprint:
      raise ConfigError(
        f'The runs rank other images: {first.description}; {other.description}.'
      )
  settings = dataclasses.replace(settings_of(first), **(changes or {}))
  members, size = _members(runs, 'test'), first.config.eval.batch_size
  test = first.dataset.test
  found = {
    part.name: features(members, part.name, settings, size)
    for part in test.parts
  }
  return measure.Extracted(test, settings, **{'multi_query': None, **found})


def settings_of(experiment: Experiment) -> measure.Settings:
  """Returns how a run ranks."""
  return measure.Settings(**experiment.config.retrieval)


def features(
  members: Sequence[Member],
  part: str,
  settings: measure.Settings,
  batch_size: int,
) -> np.ndarray:
  """Returns the features [N, D] of a part of a test.

  Args:
    members: whose examples are of one retrieval.
    part: 'query', 'gallery' or 'multi_query', which has N images.
    settings: how to rank.
    batch_size: images in a call.

  Raises:
    NonFiniteLossError: a feature isn't finite.
  """
  found = []
  for member in members:
    sightings = getattr(member.examples, part)
    blocks = member.network.features(
      member.variables,
      sightings.images,
      np.arange(len(sightings.identities)),
      batch_size,
      mirrored=settings.mirror,
    )
    features_NxD = np.concatenate([features_BxD for _, features_BxD in blocks])
    _refuse_wrong(features_NxD, part)
    found.append(features_NxD)
  if len(found) > 1 or settings.normalise:
    found = [normalise(features_NxD, part) for features_NxD in found]
  return np.concatenate(found, axis=1)


def _refuse_wrong(features_NxD: np.ndarray, part: str) -> None:
  with np.errstate(over='ignore', invalid='ignore'):
    wrong_N = ~(squared_lengths(features_NxD) < LONGEST)
  if wrong_N.any():
    raise NonFiniteLossError(
      f'The features of {part} image {wrong_N.argmax()} are not finite '
      'or too large: lower optimiser.learning_rate, in another workdir, or '
      'look at the data.'
    )


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
