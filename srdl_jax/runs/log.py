# SPDX-License-Identifier: Apache-2.0
"""What a run says: metrics.jsonl (the record), TensorBoard, progress.

A step's number is the count of optimiser steps done once it is over, over all
stages: the run's first step is 1, and what is measured between steps 100 and
101 belongs to step 100, as does a checkpoint that is written there.
"""

import hashlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import jax
import numpy as np

from srdl_jax import errors, storage
from srdl_jax.runs import progress
from srdl_jax.storage import failures, files, replace, uploads

if TYPE_CHECKING:
  from srdl_jax.runs.tensorboard import Curves

_METRICS = 'metrics.jsonl'
_CURVES = 'tensorboard'
_SPEED = 'speed/images_per_second'
_PLACE = ('stage', 'epoch', 'step', 'split')
_encoded = json.JSONEncoder(allow_nan=False).encode


class RunLog:
  """The log of one run; does nothing in any process but the first.

  Create it after jax.distributed is initialised. A directory that holds an
  earlier log needs `rewind` before the first step, also where it starts over.
  A WorkdirError tells of a file or bucket that cannot be read or written.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    total_epochs: int,
    tensorboard: bool = True,
    every_steps: int = 1,
    stream: TextIO | None = None,
  ):
    """Opens nothing yet, the first line does; fetches what a bucket has.

    Args:
      workdir: exists.
      total_epochs: of all stages together: the bar's length.
      every_steps: a training step is recorded where its number is a multiple.
      stream: where a human reads, sys.stderr unless given; a bar is drawn
        only on a terminal.
    """
    # TensorBoard's writer takes half a second: a command speaks up before.
    from srdl_jax.runs.tensorboard import Curves

    self._active = jax.process_index() == 0
    folder = storage.path_of(workdir)
    if self._active:
      self._mirror = uploads.Mirror(folder, _METRICS, _CURVES)
      folder = self._mirror.folder
    self._metrics = _MetricsFile(folder / _METRICS)
    self._curves = Curves(folder / _CURVES)
    self._display = progress.Progress(stream or sys.stderr, total_epochs)
    self._draws = tensorboard
    self._every_steps = every_steps
    # Of the last evaluation, or what was rewound to.
    self._step = 0

  def __enter__(self) -> 'RunLog':
    return self

  def __exit__(self, kind: object, *_: object) -> None:
    try:
      self.close()
    except errors.WorkdirError as error:
      # Why the run ends matters more than a late line.
      if kind is None:
        raise
      self._display.event(f'{error}')

  def rewind(
    self, stage: int, step: int, vouched: Mapping[str, Any] | None = None
  ) -> None:
    """Forgets what was recorded after the checkpoint that a run resumes from.

    Args:
      stage: the restored stage; the lines of others stay, as their
        checkpoints do.
      step: the restored step's number; later lines of the stage go.
      vouched: `state` when the checkpoint was saved. Where the lines before it
        are others, the file is set aside and a line says so: a run's record
        never holds what isn't its own.

    Raises:
      WorkdirError: metrics.jsonl is damaged or cannot be rewritten; it stays.
    """
    if not self._active:
      return
    self._step = step
    complaint, whole, later = self._metrics.rewind(stage, step, vouched or {})
    if complaint:
      self.event(complaint)
    if later and whole:
      # Of a finished stage there is nothing to forget, and of later ones only
      # curves could be drawn once more.
      return
    self._curves.rewind(step)
    # Theirs stay, though TensorBoard forgets all points beyond the step.
    self._draw(later)

  @property
  def state(self) -> dict[str, Any]:
    """Number and digest of the lines up to now, of this stage and earlier."""
    return self._metrics.state if self._active else {}

  def train_steps(
    self,
    *,
    stage: int,
    epoch: int,
    first_step: int,
    metrics: Mapping[str, np.ndarray],
  ) -> None:
    """Records a chunk of training steps, one line a step.

    Args:
      stage: from 1.
      first_step: number of the chunk's first step, so from 1: one more than
        the steps done before the chunk.
      metrics: name to values [S], one a step.

    Raises:
      ValueError: the steps are recorded already, or lengths or names are
        wrong.
    """
    if not self._active:
      return
    columns = [np.asarray(values) for values in metrics.values()]
    if {column.ndim for column in columns} != {1}:
      raise ValueError(f'train metrics {list(metrics)} are not all [S]')
    rows = zip(*(column.tolist() for column in columns), strict=True)
    lines = [
      _line(stage, epoch, step, 'train', dict(zip(metrics, row, strict=True)))
      for step, row in enumerate(rows, first_step)
      if step % self._every_steps == 0
    ]
    self._metrics.advance(first_step, first_step + len(columns[0]) - 1)
    self._write(lines)

  def evaluation(
    self,
    *,
    stage: int,
    epoch: int,
    step: int,
    split: str,
    metrics: Mapping[str, float | int],
  ) -> None:
    """Records the metrics of a split; call it before the step is saved.

    A line that a rewound record holds already isn't written a second time.

    Args:
      stage: from 1.
      epoch: epochs done.
      step: number of the last step before it.

    Raises:
      ValueError: a metric has the name of a column.
    """
    if self._active:
      self._step = step
      line = _line(stage, epoch, step, split, metrics)
      if not self._metrics.holds(line):
        self._write([line])
      self._curves.flush()

  def settle(self) -> None:
    """Has all that was recorded survive this machine.

    Call it before a step is saved: what a checkpoint stands behind must be in
    the record that a run goes on with.
    """
    if self._active:
      self._metrics.sync()
      self._curves.flush()
      self._mirror.upload()

  def event(self, text: str) -> None:
    """Tells the human something, on a line of its own."""
    if self._active:
      self._display.event(text)

  def progress(self, *, epoch: float, **where: Any) -> None:
    """See `progress.Progress.show`; the end of an epoch was recorded before."""
    if not self._active:
      return
    self._display.show(epoch=epoch, **where)
    speed = where['images_per_second']
    if self._draws and epoch == int(epoch) and math.isfinite(speed):
      self._curves.add(self._step, {_SPEED: speed})

  def board(self, step: int) -> 'Curves | None':
    """Returns where to show what belongs to a step of a stage that goes on.

    None where it is shown already, or not wanted, or by another process.
    """
    wanted = self._active and self._draws and step > self._curves.kept
    return self._curves if wanted else None

  def finished(self, result: dict[str, Any]) -> dict[str, Any]:
    """Shows a result's metrics once all stages are done; returns it."""
    if self._active and self._draws:
      groups = {'final': result['final'], 'ensemble': result['ensemble']}
      values = {
        f'{group}/{name}': value
        for group, its in groups.items()
        for name, value in (its or {}).get('test', {}).items()
      }
      # Not at the last step: killed before the result is kept, a run comes here
      # once more, and what lies beyond that step is forgotten by then.
      self._curves.end(self._step + 1, values)
    return result

  def close(self) -> None:
    """Ends the bar and the files; may be called twice."""
    self._display.close()
    self._curves.close()
    if self._active:
      self._mirror.close()

  def _write(self, lines: list[dict[str, Any]]) -> None:
    self._metrics.write(lines)
    self._draw(lines)
    self._mirror.upload(at_most_every=uploads.SECONDS_BETWEEN_UPLOADS)

  def _draw(self, lines: list[dict[str, Any]]) -> None:
    for line in lines if self._draws else ():
      curves = {
        f'{line["split"]}/{name}': float(value)
        for name, value in line.items()
        if name not in _PLACE
      }
      self._curves.add(line['step'], curves)


class _MetricsFile:
  """metrics.jsonl: whole lines, at most one of them cut short by a kill."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._opened = False
    self._last_step = 0
    self._evaluations: set[tuple[Any, ...]] = set()
    # Of the lines of the current stage and earlier ones.
    self._count, self._hash = 0, hashlib.sha256()

  @property
  def state(self) -> dict[str, Any]:
    """See `RunLog.state`."""
    return {'lines': self._count, 'sha256': self._hash.hexdigest()}

  def rewind(
    self, stage: float, step: float, vouched: Mapping[str, Any]
  ) -> tuple[str, bool, list[dict[str, Any]]]:
    """Keeps the lines up to this place and drops a half line.

    Returns:
      What is wrong with them, '' if nothing is; whether the stage had none
      beyond the place; and the lines of later stages.
    """
    with failures(self._path):
      old = self._path.read_bytes() if self._path.exists() else b''
    # A stage that was trained once more has its lines behind those of later.
    lines = sorted(self._parse(old), key=lambda line: line[1][0])
    kept = [line for line in lines if line[1][0] != stage or line[1][1] <= step]
    self._start([line for line in kept if line[1][0] <= stage])
    complaint, whole = '', len(kept) == len(lines)
    if vouched not in ({}, self.state):
      complaint, kept = self._set_aside(step, vouched), []
      self._start(kept)
    self._evaluations = {key for _, key in kept if key[2] != 'train'}
    content = b''.join(text for text, _ in kept)
    # A record that is right isn't put at risk.
    if content != old:
      replace(self._path, content)
    self._opened = True
    later = [json.loads(text) for text, key in kept if key[0] > stage]
    return complaint, whole, later

  def _start(self, lines: list[tuple[bytes, tuple[Any, ...]]]) -> None:
    """Begins behind these lines."""
    self._count, self._hash = 0, hashlib.sha256()
    self._count_in([text for text, _ in lines])
    steps = [key[1] for _, key in lines if key[2] == 'train']
    self._last_step = max(steps, default=0)

  def _count_in(self, texts: list[bytes]) -> None:
    self._count += len(texts)
    for text in texts:
      self._hash.update(text)

  def _set_aside(self, step: float, vouched: Mapping[str, Any]) -> str:
    """Gives a file that isn't this run's another name; says so."""
    there = f'{self._count} lines up to step {step}'
    what = f"has {there} that are not this run's"
    if self._count < vouched['lines']:
      what = f'has {there}, where {vouched["lines"]} were recorded'
    if self._path.exists():
      aside = self._path.with_name(f'{self._path.name}.foreign')
      number = 1
      while aside.exists():
        number += 1
        aside = self._path.with_name(f'{self._path.name}.foreign_{number}')
      with failures(self._path):
        self._path.rename(aside)
      what += f': it is {aside.name} now'
    return f'{self._path} {what}. The record begins anew at step {step}.'

  def sync(self) -> None:
    """Waits until all lines are on the disk."""
    with failures(self._path):
      if self._path.exists():
        files.sync(self._path)

  def holds(self, line: dict[str, Any]) -> bool:
    """Whether an evaluation was in the file when it was opened."""
    self._ensure_open()
    return _key(line) in self._evaluations

  def advance(self, first_step: int, last_step: int) -> None:
    """Refuses a training step that the file may hold already."""
    self._ensure_open()
    if first_step <= self._last_step:
      raise ValueError(
        f'step {first_step} is recorded (the last one is {self._last_step}; '
        'steps count from 1): rewind the log before'
      )
    self._last_step = last_step

  def write(self, lines: list[dict[str, Any]]) -> None:
    """Appends lines and hands them to the system."""
    self._ensure_open()
    texts = [f'{_encoded(line)}\n'.encode() for line in lines]
    with failures(self._path), open(self._path, 'ab') as file:
      file.write(b''.join(texts))
    self._count_in(texts)

  def _ensure_open(self) -> None:
    if not self._opened:
      # Keeps all but a half line, which the first new one would complete.
      self.rewind(math.inf, math.inf, {})

  def _parse(self, content: bytes) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
    """Yields each line, with its end, and its key, but no half last line."""
    texts = content.split(b'\n')
    for number, text in enumerate(texts, 1):
      try:
        key = _key(json.loads(text))
      except (ValueError, KeyError, TypeError) as error:
        if number == len(texts):
          return
        raise errors.WorkdirError(
          f'{self._path} is damaged in line {number}: remove that line'
        ) from error
      yield text + b'\n', key


def _line(stage, epoch, step, split, metrics) -> dict[str, Any]:
  """One line of the record, in JSON's types."""
  clash = [name for name in metrics if name in _PLACE]
  if clash:
    raise ValueError(f'metrics cannot be named {clash}')
  place = dict(zip(_PLACE, (stage, epoch, step, split), strict=True))
  return {name: _plain(value) for name, value in (place | metrics).items()}


def _plain(value: Any) -> Any:
  """A Python number; strict JSON has no NaN, so that one is a string."""
  if type(value) not in (float, int, str, bool):
    value = value.item()
  finite = type(value) is not float or math.isfinite(value)
  return value if finite else str(value)


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
  """Stage, step, split and names: what tells one evaluation from another."""
  return int(line['stage']), int(line['step']), line['split'], *line
