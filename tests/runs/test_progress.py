# SPDX-License-Identifier: Apache-2.0
"""A bar on a terminal, one plain line an epoch elsewhere."""

import fcntl
import io
import math
import os
import pty
import re
import struct
import sys
import termios
import threading

import clock
import numpy as np
import pytest
import screens
import started

from srdl_jax import storage
from srdl_jax.runs import progress
from srdl_jax.runs.progress import Progress

_TIME = r'(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d '


@pytest.fixture(autouse=True)
def _usual_terminal(monkeypatch):
  """Whatever the terminal is in which the tests run, if any."""
  monkeypatch.setenv('TERM', 'xterm-256color')
  for name in ('NO_COLOR', 'FORCE_COLOR', 'COLORTERM', 'COLUMNS', 'LINES'):
    monkeypatch.delenv(name, raising=False)


def _undated(text):
  """Returns the lines, all of which begin with a time, without it."""
  lines = text.splitlines()
  assert all(re.match(_TIME, line) for line in lines), lines
  return [re.sub(f'^{_TIME}', '', line) for line in lines]


def _show(shown, epoch, stage=1, seconds_left=7980.0, **more):
  shown.show(
    stage=stage,
    stages=2,
    epoch=epoch,
    epochs=4,
    seconds_left=seconds_left,
    **{'images_per_second': 12345.6} | more,
  )


def test_plain_progress_is_one_line_an_epoch():
  stream = io.StringIO()
  shown = Progress(stream, 4)
  for quarters in range(1, 17):
    _show(shown, quarters / 4, 1 if quarters <= 8 else 2, loss=np.float32(0.1))
  rest = ', loss 0.1000, 12,346 images/s, 2 h 13 min left'
  assert _undated(stream.getvalue()) == [
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


@pytest.mark.parametrize(
  ('name', 'value', 'said'),
  [
    ('loss', 2.302585, 'loss 2.303'),
    ('loss', 0.5, 'loss 0.5000'),
    ('test_accuracy', 0.9339, 'test accuracy 93.4 %'),
    ('test_map', 1.0, 'test map 100.0 %'),
    ('images_per_second', 99.96, '100 images/s'),
    ('images_per_second', 3.4321, '3.43 images/s'),
  ],
)
def test_numbers_are_told_in_units_of_humans(name, value, said):
  stream = io.StringIO()
  _show(Progress(stream, 4), 1, **{name: value})
  assert f', {said}, ' in stream.getvalue()


def test_unknown_speed_is_not_told():
  stream = io.StringIO()
  _show(Progress(stream, 4), 1, images_per_second=math.nan)
  assert 'images/s' not in stream.getvalue()


def test_event_is_a_plain_line():
  stream = io.StringIO()
  Progress(stream, 4).event('stage 1 done')
  assert _undated(stream.getvalue()) == ['stage 1 done']


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


@pytest.fixture
def terminal():
  """Makes terminals."""
  made = []

  def make(*size):
    made.append(screens.Terminal(*size))
    return made[-1]

  yield make
  for one in made:
    one.hang_up()


_LOSS, _ACCURACY = 'loss 0.5000', 'test accuracy 93.4 %'
_SPEED, _LEFT = '12,346 images/s', '2 h 13 min left'


@pytest.mark.parametrize(
  ('columns', 'bar', 'notes'),
  [
    (200, 168, [_LOSS, _ACCURACY, _SPEED, _LEFT]),
    (100, 68, [_LOSS, _ACCURACY, _SPEED, _LEFT]),
    (68, 36, [_LOSS, _ACCURACY, _SPEED, _LEFT]),
    (67, 35, [_LOSS, _ACCURACY, _LEFT]),
    (60, 28, [_LOSS, _ACCURACY, _LEFT]),
    (50, 18, [_ACCURACY, _LEFT]),
    (40, 8, [_ACCURACY, _LEFT]),
    (39, 0, [_ACCURACY, _LEFT]),
    (31, 0, [_LEFT]),
    (12, 0, ['2 h 13 min ']),
  ],
)
def test_bar_fits_its_terminal(terminal, columns, bar, notes):
  stream = terminal(columns)
  _show(Progress(stream, 4), 1, loss=0.5, test_accuracy=0.934)
  first, second = stream.lines(columns)
  head = 'stage 1/2  epoch 1.0/4   25 %'[: columns - 1]
  drawn = first.removeprefix(f'{head}  ' if bar else head)
  assert len(drawn) == bar and set(drawn) <= set('━╸╺')
  assert re.split('[╸╺]', drawn)[0] == '━' * (bar // 4)
  assert second == '  '.join(notes)


def test_events_and_what_others_write_stand_above_the_bar(terminal):
  stream = storage.Unfailing(terminal(60))
  shown = Progress(stream, 4)
  shown.event('[bold]before[/]')
  for epoch in (1, 2):
    _show(shown, epoch)
    shown.event(f'event {epoch}')
    # The bar is there again at once.
    assert stream.lines(60)[-2].startswith(f'stage 1/2  epoch {epoch}.0/4')
    print('a warning', file=stream)
    assert stream.lines(60)[-2:] == ['a warning', '']
  _show(shown, 2)
  shown.close()
  *above, first, second, last = stream.lines(60)
  assert above == [
    '[bold]before[/]',
    'event 1',
    'a warning',
    'event 2',
    'a warning',
  ]
  assert first.startswith('stage 1/2  epoch 2.0/4   50 %  ━')
  assert (second, last) == (f'{_SPEED}  {_LEFT}', '')


def test_bar_that_moves_does_not_flicker(terminal):
  stream = storage.Unfailing(terminal(60))
  shown = Progress(stream, 4)
  for epoch in (1, 2):
    _show(shown, epoch)
  # Of each, nothing but what is below it is erased.
  assert stream.getvalue().count(storage.ERASE) == 2


def test_unknown_times_are_left_out_of_the_bar(terminal):
  stream = terminal(100)
  unknown = {'seconds_left': math.nan, 'images_per_second': math.nan}
  _show(Progress(stream, 4), 1, loss=0.5, **unknown)
  assert stream.lines(100)[-1] == _LOSS


def test_resized_terminal_gets_a_bar_of_its_width(terminal):
  stream = terminal(100)
  shown = Progress(stream, 4)
  for columns, rows in ((100, 24), (60, 24), (200, 24), (60, 1), (0, 0)):
    stream.resize(columns, rows)
    seen = len(stream.getvalue())
    _show(shown, 1)
    lines, cursor = screens.seen(stream.getvalue()[seen:], columns or 60)
    assert len(lines[0]) == (columns or 60) - 1
    # From where a terminal that folds lines anew keeps the cursor.
    assert cursor == (0, 0) and len(lines) == min(rows or 1, 2)
    assert stream.lines(200) == lines


def test_bar_is_closed_twice_and_its_cursor_is_below(terminal):
  stream = terminal(60)
  shown = Progress(stream, 4)
  _show(shown, 4)
  shown.close()
  received = stream.getvalue()
  shown.close()
  assert stream.getvalue() == received
  lines, cursor = screens.seen(received, 60)
  assert cursor == (2, 0) and lines[0].endswith(' 100 %  ' + 28 * '━')
  print('error: none', file=stream)
  assert stream.lines(60)[:2] == lines[:2]


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1'])
def test_terminal_without_our_letters(terminal, encoding):
  stream = terminal(60)
  stream.encoding = encoding
  _show(Progress(stream, 4), 1)
  assert stream.getvalue().isascii()


def test_colours_unless_they_are_unwanted(terminal, monkeypatch):
  coloured = '\x1b[38;5;'
  stream = terminal(60)
  _show(Progress(stream, 4), 1)
  assert coloured in stream.getvalue()
  monkeypatch.setenv('NO_COLOR', '1')
  stream = terminal(60)
  _show(Progress(stream, 4), 1)
  assert coloured not in stream.getvalue()
  first, _ = stream.lines(60)
  # Without colours, only what is done is drawn.
  assert first == 'stage 1/2  epoch 1.0/4   25 %  ━━━━━━━'


@pytest.mark.parametrize(
  ('columns', 'rows', 'term'),
  [(0, 0, 'xterm'), (60, 24, 'dumb'), (60, 24, 'DUMB'), (60, 24, None)],
)
def test_terminal_that_cannot_draw_gets_plain_lines(
  terminal, monkeypatch, columns, rows, term
):
  monkeypatch.setenv('TERM', term or '')
  stream = terminal(columns, rows)
  shown = Progress(stream, 4)
  shown.event('an event')
  _show(shown, 0.5)
  _show(shown, 1)
  shown.close()
  assert _undated(stream.getvalue()) == [
    'an event',
    f'stage 1/2, epoch 1/4, {_SPEED}, {_LEFT}',
  ]


def test_terminal_that_has_gone_ends_no_run():
  screen, keyboard = pty.openpty()
  fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 60, 0, 0))
  stream = os.fdopen(keyboard, 'w')
  shown = Progress(stream, 4)
  _show(shown, 1)
  os.close(screen)
  _show(shown, 2)
  shown.event('an event')
  shown.close()
  with pytest.raises(OSError):
    stream.close()


def test_no_thread_moves_the_bar(terminal):
  before = threading.enumerate()
  shown = Progress(terminal(60), 4)
  _show(shown, 1)
  assert threading.enumerate() == before


_INTERRUPTED = """
import contextlib, os, signal, sys
from srdl_jax.runs import progress, stop_request
def show(epoch):
  shown.show(stage=1, stages=1, epoch=epoch, epochs=4,
             images_per_second=1000, seconds_left=60)
shown = progress.Progress(sys.stderr, 4)
with stop_request.listen(), contextlib.closing(shown):
  show(1)
  signal.raise_signal(signal.SIGINT)
  show(2)
  if sys.argv[1] == 'twice':
    signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize('times', ['once', 'twice'])
def test_interrupted_run_leaves_a_tidy_terminal(times):
  code, text = screens.shown_by([sys.executable, '-c', _INTERRUPTED, times], 60)
  assert (code == 0) == (times == 'once')
  asked, first, second, after, *_ = screens.seen(text, 200)[0]
  assert asked == 'Ending at the next checkpoint; Ctrl-C to end now.'
  assert first.startswith('stage 1/1  epoch 2.0/4   50 %  ━')
  assert second == '1,000 images/s  1 min 00 s left'
  assert after.startswith('Traceback' if times == 'twice' else '')


def test_rich_is_loaded_for_a_bar_alone():
  program = """
import io, sys
from srdl_jax.runs import progress
shown = progress.Progress(io.StringIO(), 4)
shown.show(stage=1, stages=1, epoch=1, epochs=4,
           images_per_second=1000, seconds_left=60)
print('rich' in sys.modules)
"""
  ended = started.run(
    [sys.executable, '-c', program], check=True, cwd=started.ROOT
  )
  assert ended.stdout == 'False\n'


# Time left.


@pytest.fixture
def ticking(monkeypatch):
  """The time that the module sees."""
  time = clock.Clock()
  monkeypatch.setattr(progress, 'time', time)
  return time


def _chunks(watch, ticking, *chunks):
  for seconds, steps in chunks:
    ticking.sleep(seconds)
    watch.count(steps)


def test_nothing_is_estimated_before_steps_were_timed(ticking):
  watch = progress.Stopwatch()
  ticking.sleep(5)
  watch.start()
  assert math.isnan(watch.seconds_left(100))
  assert math.isnan(watch.steps_per_second())
  _chunks(watch, ticking, (600, 10))
  assert math.isnan(watch.seconds_left(100))
  assert math.isnan(watch.steps_per_second())
  # Of nothing, the end is known.
  assert watch.seconds_left(0) == 0
  _chunks(watch, ticking, (2, 10))
  assert watch.seconds_left(100) == pytest.approx(20)
  assert watch.steps_per_second() == pytest.approx(5)
  # What the epoch's record says is all that it took.
  assert watch.stop() == watch.seconds == pytest.approx(602)


def test_another_size_of_chunk_is_compiled_and_not_timed(ticking):
  watch = progress.Stopwatch()
  for _ in range(2):
    watch.start()
    # The last one is compiled before the metrics of the one before it are read.
    first, last = (100, 60) if _ == 0 else (2, 2)
    _chunks(watch, ticking, (first, 10), (2, 10), (last, 10), (1, 5))
    watch.stop()
    assert watch.seconds_left(10) == pytest.approx(2)


def test_pauses_count_but_for_the_one_that_compiled(ticking):
  watch = progress.Stopwatch()
  left = []
  for pause in (90, 4, 4, 4):
    watch.start()
    _chunks(watch, ticking, (1, 10), (1, 10))
    watch.stop()
    ticking.sleep(pause)
    left.append(watch.seconds_left(200))
  watch.start()
  left.append(watch.seconds_left(200))
  # Ten times twenty steps, in two seconds each and a pause.
  assert left == pytest.approx([20, 20, 60, 60, 60])


def test_time_left_follows_the_speed_of_late(ticking):
  watch = progress.Stopwatch()
  watch.start()
  _chunks(watch, ticking, *[(1, 1)] * 2000, *[(3, 1)] * 1000)
  assert watch.seconds_left(10) == pytest.approx(30)
