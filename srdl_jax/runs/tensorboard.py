# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows, written without TensorFlow."""

import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from srdl_jax.storage import failures

_FLUSH_SECONDS = 10.0
# Of a histogram, from its least value to its greatest.
_BINS = 50


class Curves:
  """Event files of one run, written here and now: no thread, no queue.

  A WorkdirError tells of a file that cannot be written.

  Attributes:
    kept: up to which step TensorBoard still shows what an earlier process, or
      this one, has written; infinity where nothing was forgotten.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Opens nothing yet; the first point does. The folder's parent exists."""
    self._folder = pathlib.Path(folder)
    self._writer: EventsWriter | None = None
    self._first_new: int | None = None
    self._flushed = 0.0
    self.kept = math.inf

  def rewind(self, step: int) -> None:
    """Has TensorBoard forget the points beyond a step."""
    self.close()
    self.kept = min(self.kept, step)
    self._first_new = step + 1 if self._folder.exists() else None

  def add(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a point to each of some curves."""
    points = summary_pb2.Summary()
    for name, value in values.items():
      points.value.add(tag=name, simple_value=value)
    self._show(step, points)
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self.flush()

  def text(self, step: int, name: str, text: str) -> None:
    """Shows a text in Markdown."""
    self._show(step, summary.text(name, text))

  def image(self, step: int, name: str, image_HxWxC: np.ndarray) -> None:
    """Shows an image, uint8, of one channel or three."""
    self._show(step, summary.image(name, image_HxWxC, dataformats='HWC'))

  def histogram(self, step: int, name: str, values: np.ndarray) -> None:
    """Shows how finite values are distributed."""
    self._show(step, summary.histogram(name, values, _BINS))

  def hparams(
    self,
    step: int,
    fields: Mapping[str, float | str],
    curves: Mapping[str, Any],
  ) -> None:
    """Has the run compared with others: it has begun.

    Args:
      fields: what it is told apart by; those of all runs have the same names.
      curves: by their names; the last point of each is compared.
    """
    experiment, begun, _ = summary.hparams(fields, curves)
    self._show(step, experiment, begun)

  def end(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a point to each of some curves: the run has ended well."""
    self.add(step, values)
    *_, ended = summary.hparams({}, {})
    self._show(step, ended)

  def flush(self) -> None:
    """Waits until all points are on the disk."""
    self._flushed = time.monotonic()
    if self._writer is not None:
      with failures(self._folder):
        self._writer.flush()

  def close(self) -> None:
    """Ends the file; a later point opens another one."""
    if self._writer is not None:
      with failures(self._folder):
        self._writer.close()
      self._writer = None

  def _open(self) -> None:
    self._folder.mkdir(exist_ok=True)
    # Two files of one second would have one name, and the first be lost.
    suffix = f'.{time.time_ns()}'
    self._writer = EventsWriter(str(self._folder / 'events'), suffix)
    if self._first_new is not None:
      # TensorBoard drops what it has read of this step and later ones.
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(self._first_new, session_log=start)

  def _show(self, step: int, *shown: summary_pb2.Summary) -> None:
    with failures(self._folder):
      if self._writer is None:
        self._open()
      for one in shown:
        self._write(step, summary=one)

  def _write(self, step: int, **content: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), step=step, **content)
    self._writer.write_event(event)
