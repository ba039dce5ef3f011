# SPDX-License-Identifier: Apache-2.0
"""What finished runs found: the one reader of result.json, without jax.

    run = finished.read(directory)
    run.final['accuracy'], run.stages[0].epochs, run.cost.training_1e16

What result.json says is named in this file and where it is written. Runs of
earlier versions lack some of it: that is None or empty. Metrics have the names
that the file gives them; accuracies are fractions.
"""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from srdl_jax import config as config_lib
from srdl_jax import methods, storage
from srdl_jax.errors import ConfigError, WorkdirError
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import formats

Metrics = Mapping[str, float | int]
RANK_1 = 'rank_1_accuracy'
# Steps of a stage; beyond it lies damage.
_MOST = 10**12
# What comes of reading another program's file.
_MISREAD = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class FinishedStage:
  """A stage, and the network that it ended in.

  Attributes:
    teacher: number of the stage that taught it, from 1; 0 for an imported
      network, None for labels alone.
    train_epoch: means over the steps of the last epoch.
    soft_target_entropy: mean of what it taught, in nats; None if nothing was
      stored.
    agreement: share of training images on which it predicts its teacher's
      class, None without one.
    others: test metrics of its other networks, by what they are; 'mean' is
      that of a student's parameters.
    noise: what it predicts of images whose label is wrong: `memorised` and
      `corrected` are shares; empty where none is.
  """

  model: str
  epochs: int
  steps: int
  teacher: int | None
  test: Metrics
  train_epoch: Metrics
  soft_target_entropy: float | None
  agreement: float | None
  others: Mapping[str, Metrics]
  noise: Metrics


@dataclasses.dataclass(frozen=True)
class ImportedTeacher:
  """The network of another run, which taught; it equals a copy elsewhere.

  Attributes:
    checkpoint: digest of its parameters.
    fields: of its run, see `FinishedRun`; None where the student doesn't say.
    workdir: of its run, '' where the student doesn't say.
    train_epoch, soft_target_entropy: see `FinishedStage`.
  """

  model: str
  checkpoint: str
  # A dict has no hash; it is compared all the same.
  fields: Mapping[str, Any] | None = dataclasses.field(hash=False)
  workdir: str = dataclasses.field(compare=False)
  train_epoch: Metrics = dataclasses.field(compare=False)
  soft_target_entropy: float | None = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class RunCost:
  """What a run cost, its imported teacher included.

  Attributes:
    stages: fields of `cost.Work` of each stage, an imported teacher's first.
    units: forward passes of an image, a train step as three, by the last
      stage's network; None where they aren't known.
    training_1e16: TrCost, in 1e16 multiply-adds.
    training_flops: None where they aren't known.
    evaluate_seconds: of evaluation while it trained.
    extract_seconds: of predicting soft targets.
    teacher_device_seconds: of an imported teacher, times its devices.
    extraction_share: of all seconds, in [0, 1].
    extraction_epochs: of each stage that taught, in epochs of its training.
  """

  stages: tuple[Mapping[str, Any], ...]
  units: float | None
  training_1e16: float
  training_flops: int | None
  train_seconds: float
  evaluate_seconds: float
  extract_seconds: float
  teacher_device_seconds: float
  extraction_share: float
  extraction_epochs: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """What a run was, and what it found.

  Attributes:
    workdir: as it was given.
    fields: of its configuration, those that change numbers but the seed.
    data: fingerprint of the training split, and of what the test ranks.
    train_examples: how many images an epoch trains on, None where it isn't
      known.
    weights: digest of the weights that it started from, or None.
    stages: in their order, without an imported teacher's.
    final: test metrics of the last epoch.
    best: metrics of the best epoch, on `best_split`.
    best_split: that the best epoch was chosen on.
    ensemble: test metrics of the stages' ends together, None for one stage.
    schedule: [(epoch, rate)], from which epoch of the run on the learning rate
      has which value.
    jax: its version, '' where it isn't known.
    version, commit: of the program; '' and None where they aren't known.
  """

  workdir: str
  seed: int
  fields: Mapping[str, Any]
  data: str
  train_examples: int | None
  weights: str | None
  teacher: ImportedTeacher | None
  stages: tuple[FinishedStage, ...]
  final: Metrics
  best: Metrics
  best_split: str
  ensemble: Metrics | None
  schedule: tuple[tuple[float, float], ...]
  cost: RunCost
  device_kind: str
  device_count: int
  jax: str
  version: str
  commit: str | None

  @property
  def metric(self) -> str:
    """Name of the accuracy that stands for all in a line."""
    return headline(self.final)

  @property
  def summary(self) -> str:
    """What to say of it: the accuracies of its networks, and its cost."""
    metric, fields = self.metric, self.fields
    named = {f'stage {n}': s.test for n, s in enumerate(self.stages[:-1], 1)}
    named |= {'final': self.final, 'ensemble': self.ensemble}
    parts = [
      f'{name} {test[metric]:.2%}' for name, test in named.items() if test
    ]
    what = 'accuracy' if metric == 'accuracy' else 'rank-1'
    lines = [
      f'{fields["data.name"]}, {fields["model.name"]}, {fields["method"]}, '
      f'seed {self.seed}: test {what} {", ".join(parts)} '
      f'(last epoch, {self.final["examples"]} images)'
    ]
    if self.cost.extraction_epochs:
      share = self.cost.extraction_share
      lines.append(f'extraction of the soft targets: {share:.2%} of the time')
    return '\n'.join(lines)

  @property
  def last_teacher(self) -> FinishedStage | ImportedTeacher | None:
    """Who taught the last stage, None for labels alone."""
    number = self.stages[-1].teacher
    if number is None:
      return None
    return self.stages[number - 1] if number else self.teacher

  @property
  def device_seconds(self) -> float:
    """Of training and extraction, those of an imported teacher included."""
    own = self.cost.train_seconds + self.cost.extract_seconds
    return own * self.device_count + self.cost.teacher_device_seconds


def headline(metrics: Mapping[str, Any]) -> str:
  """Returns the name of the accuracy that stands for all metrics."""
  return RANK_1 if RANK_1 in metrics else 'accuracy'


def load(directory: storage.Path) -> dict[str, Any]:
  """Returns what result.json holds, once it is known to be this run's.

  Raises:
    WorkdirError: it is missing, damaged, of a later version, or another run's
      than config.json beside it.
  """
  path = directory / run_directory.RESULT
  found = storage.read_json(path)
  if not isinstance(found, dict):
    raise foreign(directory)
  formats.check_seal(path, found)
  if (directory / run_directory.CONFIG).exists():
    _compare(path, found, run_directory.load_identity(directory))
  return found


def _compare(path, found, identity: run_directory.Identity) -> None:
  """Refuses the result of another run than the directory's."""
  try:
    ours = run_directory.Identity(
      config_lib.from_flat(found['config']),
      found['data']['fingerprint'],
      found.get('weights'),
      (found.get('teacher') or {}).get('checkpoint'),
      found['data'].get('ranked'),
    )
    different = run_directory.differences(identity, ours.config, ours)
  except ConfigError as error:
    raise WorkdirError(f'{path}: {error}') from error
  except _MISREAD as error:
    raise foreign(path.parent) from error
  if different:
    raise WorkdirError(
      f'{path} is the result of another run than {run_directory.CONFIG} beside '
      f'it: it differs in {", ".join(different)}. Move it away and run the '
      "run's own command again."
    )


def read(directory: storage.Path) -> FinishedRun:
  """Reads a finished run.

  Raises:
    WorkdirError: it isn't finished, or see `load`; or it is another program's.
  """
  path = directory / run_directory.RESULT
  if not path.exists():
    # For what it raises of a directory without a run.
    run_directory.load_identity(directory)
    raise WorkdirError(f'{directory}: no finished run (no {path.name} yet).')
  if (directory / run_directory.CONFIG).exists():
    # Before a later version's result is taken for another program's.
    run_directory.refuse_newer(directory)
  return parse(load(directory), str(directory))


def read_teacher(directory: storage.Path) -> FinishedRun:
  """Reads a finished run that is to teach others.

  Raises:
    WorkdirError: see `read`; also if it is too old to tell what it cost.
  """
  if not (directory / run_directory.RESULT).exists():
    raise WorkdirError(
      f'teacher.workdir = {str(directory)!r} holds a run that is not finished: '
      'run its command again first.'
    )
  run = read(directory)
  if not run.cost.stages:
    raise foreign(directory)
  return run


def foreign(directory: str | storage.Path) -> WorkdirError:
  """Returns the error that a run's result is not ours."""
  path = f'{directory}/{run_directory.RESULT}'
  return WorkdirError(f'{path} is not the result of a run of this program.')


def parse(found: Mapping[str, Any], workdir: str = '') -> FinishedRun:
  """Returns the run of what result.json holds.

  Raises:
    WorkdirError: it isn't the result of a run of this program.
  """
  try:
    run = _run(found, workdir)
    _check(run)
    return run
  except ConfigError as error:
    path = f'{workdir}/{run_directory.RESULT}'
    raise WorkdirError(f'{path}: {error}') from error
  except _MISREAD as error:
    raise foreign(workdir) from error


def _run(found: Mapping[str, Any], workdir: str) -> FinishedRun:
  fields = _fields(found['config'])
  seed = fields.pop('seed')
  stages = tuple(_stage(s, fields['model.name']) for s in found['stages'])
  best = dict(found['best'])
  several = len(stages) > 1
  return FinishedRun(
    workdir=workdir,
    seed=seed,
    fields=fields,
    data=f'{found["data"]["fingerprint"]}{found["data"].get("ranked") or ""}',
    train_examples=_count(found['data'].get('train_examples')),
    weights=found.get('weights'),
    teacher=_imported(found['teacher']) if found.get('teacher') else None,
    stages=stages,
    final=_metrics(found['final']['test']),
    best_split=str(best.pop('split')),
    best=_metrics(best),
    ensemble=_metrics(found['ensemble']['test']) if several else None,
    schedule=tuple(
      (_finite(step) / found['steps_per_epoch'], _finite(rate))
      for step, rate in found.get('schedule') or ()
    ),
    cost=_cost(found['cost']),
    device_kind=str(found['device']['kind']),
    device_count=int(found['device']['count']),
    jax=str((found.get('versions') or {}).get('jax') or ''),
    version=str(found.get('version') or ''),
    commit=found.get('commit'),
  )


def _check(run: FinishedRun) -> None:
  """Raises a ValueError where parts of a result don't fit each other."""
  tests = [run.final, *(stage.test for stage in run.stages)]
  if run.ensemble is not None:
    tests.append(run.ensemble)
  if not run.stages or any(run.metric not in test for test in tests):
    raise ValueError(f'no {run.metric}')
  if run.metric == 'accuracy' and 'accuracy' not in run.best:
    raise ValueError('no best accuracy')
  if run.fields['method'] in methods.ENSEMBLES and run.ensemble is None:
    raise ValueError('no ensemble')
  for number, stage in enumerate(run.stages, start=1):
    known = range(0 if run.teacher else 1, number)
    if not (stage.teacher is None or stage.teacher in known):
      raise ValueError(f'teacher {stage.teacher!r}')
    if not 0 < stage.epochs <= stage.steps < _MOST:
      raise ValueError(f'{stage.epochs} epochs, {stage.steps} steps')
  counts = run.cost.training_1e16, run.cost.units, run.train_examples
  if any(count is not None and not count > 0 for count in counts):
    raise ValueError('no cost')


def _fields(flat: Mapping[str, Any]) -> dict[str, Any]:
  # An older record lacks the fields that came later: their defaults.
  config = config_lib.from_flat(flat)
  config_lib.validate(config)
  return config_lib.identity(config_lib.flatten(config))


def _stage(found: Mapping[str, Any], model: str) -> FinishedStage:
  agreement = found.get('agreement') or {}
  return FinishedStage(
    model=str(found.get('model') or model),
    epochs=int(found['epochs']),
    steps=int(found['steps']),
    teacher=found.get('teacher'),
    test=_metrics(found['test']),
    train_epoch=_metrics(found['train_epoch']),
    soft_target_entropy=_entropy(found),
    agreement=_metrics(agreement).get('agreement'),
    others={n: _metrics(its) for n, its in (found.get('others') or {}).items()},
    noise=_metrics(found.get('noise') or {}),
  )


def _entropy(found: Mapping[str, Any]) -> float | None:
  told = dict(found.get('soft_targets') or {})
  _metrics(told.pop('noise', {}))
  return _metrics(told).get('entropy')


def _imported(found: Mapping[str, Any]) -> ImportedTeacher:
  fields = None
  if 'config' in found:
    fields = _fields(found['config'])
    del fields['seed']
  return ImportedTeacher(
    model=str(found['model']),
    checkpoint=str(found['checkpoint']),
    fields=fields,
    workdir=str(found.get('workdir') or ''),
    train_epoch=_metrics(found.get('train_epoch') or {}),
    soft_target_entropy=_entropy(found),
  )


def _cost(found: Mapping[str, Any]) -> RunCost:
  seconds, flops = found['seconds'], found.get('training_flops')
  units = found.get('units')
  return RunCost(
    stages=tuple(found.get('stages') or ()),
    units=units if units is None else _finite(units),
    training_1e16=_finite(found['training_1e16']),
    training_flops=_count(flops),
    train_seconds=_finite(seconds['train']),
    evaluate_seconds=_finite(seconds['evaluate']),
    extract_seconds=_finite(seconds['extract']),
    teacher_device_seconds=_finite(seconds.get('teacher', 0.0)),
    extraction_share=_finite(found.get('extraction_share') or 0.0),
    extraction_epochs=tuple(found.get('extraction_epochs') or ()),
  )


def _count(value: Any) -> int | None:
  return None if value is None else int(_finite(value))


def _finite(value: Any) -> float:
  if not (isinstance(value, numbers.Real) and math.isfinite(value)):
    raise TypeError(f'{value!r} is no finite number')
  return float(value)


def _metrics(found: Mapping[str, Any]) -> Metrics:
  """Returns metrics as they are, once all are known to be finite numbers."""
  for value in found.values():
    _finite(value)
  return dict(found)
