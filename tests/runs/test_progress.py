# SPDX-License-Identifier: Apache-2.0
"""A bar on a terminal, one plain line an epoch elsewhere."""

import errno
import fcntl
import io
import os
import pty
import struct
import termios
import time

import numpy as np
import pytest

from srdl_jax.runs.progress import Progress


def _show(shown, epoch, stage=1, seconds_left=7980.0, **more):
  shown.show(
    stage=stage,
    stages=2,
    epoch=epoch,
    epochs=4,
    images_per_second=12345.6,
    seconds_left=seconds_left,
    **more,
  )


def test_plain_progress_is_one_line_an_epoch():
  stream = io.StringIO()
  shown = Progress(stream, 4)
  for quarters in range(1, 17):
    _show(shown, quarters / 4, 1 if quarters <= 8 else 2, loss=np.float32(0.1))
  lines = stream.getvalue().splitlines()
  rest = ', 12,346 images/s, 2 h 13 min left, loss 0.1'
  assert lines == [
    f'stage {stage}/2, epoch {epoch}/4{rest}'
    for stage, epoch in [(1, 1), (1, 2), (2, 3), (2, 4)]
  ]


@pytest.mark.parametrize(
  ('seconds', 'said'),
  [
    (0, '0 min 00 s left'),
    (59.6, '1 min 00 s left'),
    (3599, '59 min 59 s left'),
    (3600, '1 h 00 min left'),
    (360000, '100 h 00 min left'),
    (float('inf'), 'time left unknown'),
    (float('nan'), 'time left unknown'),
  ],
)
def test_time_left(seconds, said):
  stream = io.StringIO()
  _show(Progress(stream, 4), 1, seconds_left=seconds)
  assert stream.getvalue().endswith(f', {said}\n')


def test_event_is_a_plain_line():
  stream = io.StringIO()
  Progress(stream, 4).event('stage 1 done')
  assert stream.getvalue() == 'stage 1 done\n'


def test_reader_who_has_gone_ends_no_run():
  reader, writer = os.pipe()
  os.close(reader)
  stream = os.fdopen(writer, 'w')
  shown = Progress(stream, 4)
  shown.event('hello')
  _show(shown, 1)
  shown.close()
  with pytest.raises(BrokenPipeError):
    stream.close()


def _terminal(rows, columns):
  """What a terminal of this size receives from a short run."""
  screen, keyboard = pty.openpty()
  size = struct.pack('HHHH', rows, columns, 0, 0)
  fcntl.ioctl(keyboard, termios.TIOCSWINSZ, size)
  with os.fdopen(keyboard, 'w') as stream:
    shown = Progress(stream, 4)
    _show(shown, 1, loss=0.5)
    shown.event('the first event')
    # The bar moves at most ten times a second.
    time.sleep(0.15)
    _show(shown, 3, stage=2, loss=0.25)
    shown.close()
  received = b''
  try:
    while chunk := os.read(screen, 10000):
      received += chunk
  except OSError as error:
    assert error.errno == errno.EIO  # the terminal's other end is closed
  os.close(screen)
  return received.decode()


def test_bar_on_a_terminal():
  received = _terminal(rows=24, columns=100)
  notes = '/4 epochs, 12,346 images/s, 2 h 13 min left, loss 0.'
  frames = received.replace('\n', '\r').split('\r')
  first = [f for f in frames if f.startswith('stage 1/2  25%|')]
  last = [f for f in frames if f.startswith('stage 2/2  75%|')]
  assert first[0].rstrip().endswith(f'| 1.0{notes}5')
  assert last[-1].rstrip().endswith(f'| 3.0{notes}25')
  assert max(map(len, frames)) <= 100
  # An event has a line of its own, and the bar comes again below it.
  assert '\rthe first event\r\n\rstage 1/2' in received
  assert received.count('\n') == 2


def test_terminal_without_a_size_gets_plain_lines():
  received = _terminal(rows=0, columns=0)
  assert [line.split(', 12')[0] for line in received.splitlines()] == [
    'stage 1/2, epoch 1/4',
    'the first event',
    'stage 2/2, epoch 3/4',
  ]
