# SPDX-License-Identifier: Apache-2.0
"""A finished run as the report reads it: result.json and metrics.jsonl."""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from srdl_jax import config as config_lib
from srdl_jax import storage
from srdl_jax.errors import ConfigError, WorkdirError
from srdl_jax.runs import directory as run_directory

# Of what a run may lack, because it has no such thing or is older than the
# name: where it lies in result.json.
_PLACES: dict[str, tuple[str | int, ...]] = {
  'best_top5_accuracy': ('best', 'top5_accuracy'),
  'disagreement': ('ensemble', 'test', 'disagreement'),
  'agreement': ('stages', -1, 'agreement', 'agreement'),
  'train_cross_entropy': ('stages', -1, 'train_epoch', 'cross_entropy'),
  'training_flops': ('cost', 'training_flops'),
}
# Of a retrieval's metrics, the names that the paper's tables have.
_RANKED = {
  'rank1': 'rank_1_accuracy',
  'map': 'map',
  'mq_rank1': 'multi_query_rank_1_accuracy',
  'mq_map': 'multi_query_map',
}
METRICS = 'metrics.jsonl'
TRAIN = 'train_epoch'
Points = list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of a finished run.

  Attributes:
    epochs: how long it was.
    model: name of its network.
  """

  epochs: int
  model: str


@dataclasses.dataclass(frozen=True)
class Teacher:
  """The network of another run, which taught.

  Attributes:
    model: its name.
    checkpoint: digest of its parameters.
    fields: of its run, those that change numbers but the seed; None where the
      student's result doesn't say.
    workdir: of its run, '' where the student's result doesn't say. The same
      network may lie in several places.
  """

  model: str
  checkpoint: str
  fields: Mapping[str, Any] | None = dataclasses.field(hash=False)
  workdir: str = dataclasses.field(default='', compare=False)

  @property
  def said(self) -> str:
    """Its network, and method and epochs where they are known."""
    if self.fields is None:
      return self.model
    return (
      f'{self.model}, {self.fields["method"]}, {self.fields["epochs"]} epochs'
    )


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where a run's numbers come from; '' where it doesn't say.

  Attributes:
    commit: of the program.
    device: count and kind.
    jax: its version.
  """

  commit: str
  device: str
  jax: str


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run was, and what it found.

  Attributes:
    workdir: as it was given, or found below what was given.
    seed: of the run.
    fields: of its configuration, those that change numbers but the seed.
    data: fingerprint of the training split.
    weights: digest of the weights that it started from, or None.
    teacher: that it imported, or None.
    stages: in their order, without an imported teacher's.
    values: what was measured, by name. Those of the last epoch have the names
      of result.json (accuracy, nll, ...; accuracies are fractions), those of
      the best one 'best_' before them. stage_one and ensemble are accuracies;
      cost is TrCost in 1e16 multiply-adds, training_flops are FLOPs, and
      device_seconds those of training, extraction and the teacher. Entropies
      are in nats.
    best_split: that the best was chosen on, and is an accuracy of.
    schedule: [(epoch, rate)], from which epoch of the run on the learning rate
      has which value; () where it isn't known.
    origin: of the numbers.
  """

  workdir: str
  seed: int
  fields: Mapping[str, Any]
  data: str
  weights: str | None
  teacher: Teacher | None
  stages: tuple[Stage, ...]
  values: Mapping[str, float]
  best_split: str
  schedule: tuple[tuple[float, float], ...]
  origin: Origin

  @property
  def epochs(self) -> int:
    """Of all stages together."""
    return sum(stage.epochs for stage in self.stages)


def read_run(directory: pathlib.Path) -> Run:
  """Reads a finished run.

  Raises:
    WorkdirError: it isn't finished, is damaged, or another program's.
  """
  path = directory / run_directory.RESULT
  if not path.exists():
    run_directory.load_record(directory)
    raise WorkdirError(f'{directory}: no finished run (no {path.name} yet).')
  if (directory / run_directory.CONFIG).exists():
    run_directory.refuse_newer(directory)
  found = storage.read_json(path)
  try:
    return _run(str(directory), found)
  except (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
  ) as error:
    raise WorkdirError(
      f'{path} is not the result of a run of this program.'
    ) from error
  except ConfigError as error:
    raise WorkdirError(f'{path}: {error}') from error


def _teacher(found: dict[str, Any]) -> Teacher:
  fields = None
  if 'config' in found:
    config = config_lib.from_flat(found['config'])
    fields = config_lib.identity(config_lib.flatten(config))
    del fields['seed']
  return Teacher(
    str(found['model']),
    str(found['checkpoint']),
    fields,
    str(found.get('workdir') or ''),
  )


def _run(directory: str, found: dict[str, Any]) -> Run:
  # An older record lacks the fields that came later: their defaults.
  config = config_lib.from_flat(found['config'])
  fields = config_lib.identity(config_lib.flatten(config))
  teacher = found.get('teacher')
  return Run(
    workdir=directory,
    seed=fields.pop('seed'),
    fields=fields,
    data=f'{found["data"]["fingerprint"]}{found["data"].get("ranked") or ""}',
    weights=found.get('weights'),
    teacher=teacher and _teacher(teacher),
    stages=tuple(
      Stage(
        int(stage['epochs']), str(stage.get('model') or fields['model.name'])
      )
      for stage in found['stages']
    ),
    values=_values(found),
    best_split=str(found['best']['split']),
    schedule=tuple(
      (step / found['steps_per_epoch'], float(rate))
      for step, rate in found.get('schedule') or ()
    ),
    origin=Origin(
      commit=str(found['commit'] or ''),
      device=f'{found["device"]["count"]} × {found["device"]["kind"]}',
      jax=str(_at(found, ('versions', 'jax')) or ''),
    ),
  )


def _values(found: dict[str, Any]) -> dict[str, float]:
  values = {name: float(v) for name, v in found['final']['test'].items()}
  metric = score(found['final']['test'])
  # Of a retrieval a hold-out has an accuracy, which is of other images.
  for place, split in (('', found['final']['test']), ('best_', found['best'])):
    values |= {
      place + name: float(split[source])
      for name, source in _RANKED.items()
      if source in split
    }
  if metric == 'accuracy' or 'accuracy' in found['best']:
    values['best_accuracy'] = float(found['best']['accuracy'])
  if len(found['stages']) > 1:
    values['stage_one'] = float(found['stages'][0]['test'][metric])
    values['ensemble'] = float(found['ensemble']['test'][metric])
  values['cost'] = float(found['cost']['training_1e16'])
  values['device_seconds'] = _device_seconds(found)
  optional = {name: _at(found, place) for name, place in _PLACES.items()}
  optional |= _of_teacher(found)
  values |= {name: float(v) for name, v in optional.items() if v is not None}
  if not all(map(math.isfinite, values.values())) or values['cost'] <= 0:
    raise ValueError('not a finite number, or no cost')
  return values


def score(metrics: dict[str, Any]) -> str:
  """Returns the name of the metric that stands for all in a line."""
  return _RANKED['rank1'] if _RANKED['rank1'] in metrics else 'accuracy'


def _device_seconds(found: dict[str, Any]) -> float:
  # Seconds are by the clock, a teacher's those of its own run.
  seconds = found['cost']['seconds']
  own = float(seconds['train']) + float(seconds['extract'])
  return own * int(found['device']['count']) + float(seconds.get('teacher', 0))


def _of_teacher(found: dict[str, Any]) -> dict[str, float | None]:
  """Returns what is known of the last stage's teacher."""
  number = found['stages'][-1].get('teacher')
  if number is None:
    return {}
  teacher = found['stages'][number - 1] if number else found['teacher']
  places = {
    'soft_target_entropy': ('soft_targets', 'entropy'),
    'teacher_cross_entropy': ('train_epoch', 'cross_entropy'),
  }
  return {name: _at(teacher, place) for name, place in places.items()}


def _at(node: Any, place: Sequence[str | int]) -> Any:
  """Returns what lies at a place of a JSON object, None where nothing does."""
  for key in place:
    if node is None:
      return None
    node = node.get(key) if isinstance(key, str) else node[key]
  return node


def curves(run: Run, splits: Sequence[str]) -> dict[str, list[Points]]:
  """Reads accuracies, or rank-1, by epoch from a run's metrics.jsonl.

  Args:
    run: whose directory it lies in.
    splits: of 'train_epoch', 'test' and 'validation'.

  Returns:
    By split, for each stage (epoch of the whole run, accuracy), ascending.

  Raises:
    WorkdirError: the file is missing or damaged, or ends before the run did.
  """
  path = pathlib.Path(run.workdir) / METRICS
  found: dict[str, list[Points]] = {s: [[] for _ in run.stages] for s in splits}
  if not path.exists():
    raise WorkdirError(f'{path} is missing: no curve is drawn of it.')
  starts = [
    sum(s.epochs for s in run.stages[:n]) for n in range(len(run.stages))
  ]
  # Most lines are single steps: not worth parsing.
  wanted = re.compile('|'.join(f'"{split}"' for split in splits).encode())
  with storage.failures(path, 'read'), open(path, 'rb') as file:
    for number, text in enumerate(file, 1):
      whole = text.endswith(b'}\n')
      if whole and not wanted.search(text):
        continue
      try:
        line = json.loads(text)
        stage = line['stage'] - 1
        point = starts[stage] + line['epoch'], float(line[score(line)])
        found[line['split']][stage].append(point)
      except (LookupError, TypeError, ValueError) as error:
        raise WorkdirError(
          f'{path} is damaged in line {number}: no curve is drawn of it.'
        ) from error
  for points, start, stage in zip(
    found.get(TRAIN, ()), starts, run.stages, strict=False
  ):
    reached = max((epoch for epoch, _ in points), default=start)
    if reached < start + stage.epochs:
      raise WorkdirError(
        f'{path} lacks epochs of the finished run: no curve is drawn of it.'
      )
  return found
