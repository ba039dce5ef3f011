# SPDX-License-Identifier: Apache-2.0
"""What the report takes of a run: values by name, curves, single answers."""

import csv
import dataclasses
import itertools
import json
import pathlib
import re

import numpy as np

from srdl_jax import storage
from srdl_jax.errors import WorkdirError
from srdl_jax.metrics import CALIBRATION_BINS
from srdl_jax.runs import finished
from srdl_jax.runs.finished import FinishedRun

# The paper's names of what both the last and the best epoch are measured by.
_NAMES = {
  'accuracy': 'accuracy',
  'top5_accuracy': 'top5_accuracy',
  'rank1': finished.RANK_1,
  'map': 'map',
  'mq_rank1': 'multi_query_rank_1_accuracy',
  'mq_map': 'multi_query_map',
}
# Beyond it lies damage, whose squares are not finite.
_MOST = 1e100
METRICS = 'metrics.jsonl'
# What `evaluate --details` says of each image.
ANSWERS = 'predictions.csv'
TRAIN = 'train_epoch'
# (epoch of the whole run, accuracy), ascending.
Points = list[tuple[int, float]]
# By split, of each stage.
Curves = dict[str, list[Points]]


@dataclasses.dataclass(frozen=True)
class Answers:
  """What a network said of labelled images.

  Attributes:
    classes: their names, sorted.
    counts: [K, K], images by label and prediction.
    bins: [CALIBRATION_BINS, 3], by confidence: images, the sum of their
      confidence, and how many are right.
  """

  classes: list[str]
  counts: np.ndarray
  bins: np.ndarray


def values(run: FinishedRun) -> dict[str, float]:
  """Returns what was measured, by name.

  Of the last epoch under the names of result.json (accuracy, nll, ...;
  accuracies are fractions) or the paper's (rank1, map, ...), of the best one
  with 'best_' before. stage_one, ensemble and mean (of the parameters) are
  accuracies; memorised and corrected are shares of the images whose label is
  wrong, with 'stage_one_' before of the first of several stages; vanilla_epochs
  is what the run cost, in epochs of vanilla training; training_flops are FLOPs,
  and entropies in nats. What a run has no such thing of isn't there.

  Raises:
    WorkdirError: it is not finite, or the run cost nothing.
  """
  last = run.stages[-1]
  found = dict(run.final)
  for prefix, metrics in (('', run.final), ('best_', run.best)):
    found |= {
      prefix + name: metrics[theirs]
      for name, theirs in _NAMES.items()
      if theirs in metrics
    }
  found |= {
    'agreement': last.agreement,
    'train_cross_entropy': last.train_epoch.get('cross_entropy'),
    'training_flops': run.cost.training_flops,
    'device_seconds': run.device_seconds,
    'mean': last.others.get('mean', {}).get(run.metric),
    **_of_noise(last),
  }
  if run.cost.units and run.train_examples:
    # A train step is three forward passes.
    found['vanilla_epochs'] = run.cost.units / run.train_examples / 3
  if len(run.stages) > 1:
    found |= _of_noise(run.stages[0], 'stage_one_')
  if run.ensemble:
    found['stage_one'] = run.stages[0].test[run.metric]
    found['ensemble'] = run.ensemble[run.metric]
    found['disagreement'] = run.ensemble.get('disagreement')
  if teacher := run.last_teacher:
    found['soft_target_entropy'] = teacher.soft_target_entropy
    found['teacher_cross_entropy'] = teacher.train_epoch.get('cross_entropy')
  known = {name: float(v) for name, v in found.items() if v is not None}
  if not (
    all(abs(value) < _MOST for value in known.values())
    and 0 < run.cost.training_1e16 < _MOST
  ):
    raise finished.foreign(run.workdir)
  return known


def _of_noise(stage: finished.FinishedStage, prefix: str = ''):
  names = ('memorised', 'corrected')
  return {prefix + name: stage.noise.get(name) for name in names}


def curves(run: FinishedRun) -> Curves:
  """Reads accuracies, or rank-1, by epoch from a run's metrics.jsonl.

  Returns:
    Those on the split that the best epoch was chosen on, and on 'train_epoch'.

  Raises:
    WorkdirError: the file is missing or damaged, or ends before the run did.
  """
  path = pathlib.Path(run.workdir) / METRICS

  def unusable(why: str) -> WorkdirError:
    return WorkdirError(f'{path} {why}: no curve is drawn of it.')

  splits = run.best_split, TRAIN
  found: Curves = {split: [[] for _ in run.stages] for split in splits}
  if not path.exists():
    raise unusable('is missing')
  ends = list(itertools.accumulate(stage.epochs for stage in run.stages))
  starts = [0, *ends]
  # Most lines are single steps: not worth parsing.
  wanted = re.compile('|'.join(f'"{split}"' for split in splits).encode())
  with storage.failures(path, 'read'), open(path, 'rb') as file:
    for number, text in enumerate(file, 1):
      # A line that a kill cut short may have lost the name of its split.
      whole = text.endswith(b'}\n')
      if whole and not wanted.search(text):
        continue
      try:
        line = json.loads(text)
        stage = line['stage'] - 1
        accuracy = float(line[finished.headline(line)])
        points = found[line['split']][stage]
        points.append((starts[stage] + line['epoch'], accuracy))
      except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise unusable(f'is damaged in line {number}') from error
  for points, end in zip(found[TRAIN], ends, strict=True):
    if max((epoch for epoch, _ in points), default=0) < end:
      raise unusable('lacks epochs of the finished run')
  return found


def answers(path: pathlib.Path) -> Answers:
  """Reads what `evaluate --details` says of each image.

  Raises:
    WorkdirError: it is damaged.
  """
  try:
    with storage.failures(path, 'read'), open(path, newline='') as file:
      lines = list(csv.DictReader(file))
    said = [(line['label'], line['predicted']) for line in lines]
    confidence = np.array([float(line['probability']) for line in lines])
    if not said or not ((confidence >= 0) & (confidence <= 1)).all():
      raise ValueError('no probabilities')
  except (csv.Error, LookupError, TypeError, ValueError) as error:
    raise WorkdirError(
      f'{path} is not what evaluate --details writes: it is not shown.'
    ) from error
  # Labels that are missing in a row too short are None, and sorted by name.
  names = sorted({f'{name}' for pair in said for name in pair})
  place = {name: n for n, name in enumerate(names)}
  labels, guesses = np.array([[place[f'{n}'] for n in pair] for pair in said]).T
  counts = np.zeros((len(names),) * 2, int)
  np.add.at(counts, (labels, guesses), 1)
  number = np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1
  bins = np.zeros((CALIBRATION_BINS, 3))
  each = np.stack([np.ones(len(said)), confidence, labels == guesses], 1)
  np.add.at(bins, np.maximum(number, 0), each)
  return Answers(names, counts, bins)
