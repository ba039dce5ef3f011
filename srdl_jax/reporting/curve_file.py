# SPDX-License-Identifier: Apache-2.0
"""A finished run's learning curves: metrics.jsonl."""

import json
import pathlib
import re
from collections.abc import Sequence

from srdl_jax import workdir
from srdl_jax.errors import WorkdirError
from srdl_jax.reporting.result_file import Run, score

METRICS = 'metrics.jsonl'
TRAIN = 'train_epoch'
Points = list[tuple[int, float]]


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
  with workdir.failures(path, 'read'), open(path, 'rb') as file:
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
