# SPDX-License-Identifier: Apache-2.0
"""Curves for TensorBoard, written without TensorFlow."""

import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from srdl_jax.storage import failures

_FLUSH_SECONDS = 10.0


class Curves:
  """Event files of one run, written here and now: no thread, no queue.

  A WorkdirError tells of a file that cannot be written.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Opens nothing yet; the first point does. The folder's parent exists."""
    self._folder = pathlib.Path(folder)
    self._writer: EventsWriter | None = None
    self._first_new: int | None = None
    self._flushed = 0.0

  def rewind(self, step: int) -> None:
    """Has TensorBoard forget the points beyond a step."""
    self.close()
    self._first_new = step + 1 if self._folder.exists() else None

  def add(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a point to each of some curves."""
    points = [
      summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in values.items()
    ]
    with failures(self._folder):
      if self._writer is None:
        self._open()
      self._write(step, summary=summary_pb2.Summary(value=points))
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self.flush()

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

  def _write(self, step: int, **content: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), step=step, **content)
    self._writer.write_event(event)
