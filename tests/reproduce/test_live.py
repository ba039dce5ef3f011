# SPDX-License-Identifier: Apache-2.0
"""A sweep on a terminal: a table that fits it, and lines above the table."""

import io
import re
import sys

import pytest
import screens
from clock import Clock

from srdl_jax.reproduce import __main__ as reproduce_command
from srdl_jax.reproduce import live, sweep

TOLD = (
  'stage 1/2, epoch 3/4, loss 0.5000, test accuracy 93.4 %, 12,346 images/s, '
  '2 h 13 min left'
)
LATER = (
  'stage 2/2, epoch 12/24, loss 0.5000, test accuracy 9.1 %, 987 images/s, '
  '0 min 05 s left'
)
NAME = 'cifar100-resnet32-srdl-8b27656d-seed'
RUNNING = {f'{NAME}0': TOLD, f'{NAME}1': LATER, 'short': 'Stage 1: compiling.'}


@pytest.fixture(autouse=True)
def _usual_terminal(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm-256color')
  for name in ('NO_COLOR', 'FORCE_COLOR', 'COLORTERM', 'COLUMNS', 'LINES'):
    monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stream():
  terminal = screens.Terminal(100)
  yield terminal
  terminal.hang_up()


def show(table, **changed):
  shown = {
    'done': 2,
    'failed': 1,
    'running': RUNNING,
    'left': 'about 5 min left',
  }
  table.show(**(shown | changed))


def test_rows_on_a_wide_terminal():
  assert live.rows_of(RUNNING, 99) == [
    f'job{34 * " "}  stage  epoch   score  images/s        left',
    f'{NAME}0    1/2    3/4  93.4 %    12,346  2 h 13 min',
    f'{NAME}1    2/2  12/24   9.1 %       987  0 min 05 s',
    f'{"short":37}  Stage 1: compiling.',
  ]


@pytest.mark.parametrize(
  ('room', 'row'),
  [
    (83, f'{NAME}0    1/2    3/4  93.4 %    12,346  2 h 13 min'),
    (78, 'cifar100-resnet32-srdl-seed0 *1/2 *3/4 *93.4 % *12,346 *2 h 13 min'),
    (69, 'cifar100-resnet32-srdl-seed0 *1/2 *3/4 *93.4 % *2 h 13 min'),
    (62, 'cifar100-resnet32-srdl-seed0 *3/4 *93.4 % *2 h 13 min'),
    (49, 'cifar100-resnet32-srdl-seed0 *3/4 *2 h 13 min'),
    (39, r'cifa\.\.\.32-srdl-seed0 *3/4 *2 h 13 min'),
    (30, r'cif\.\.\.2-srdl-seed0  2 h 13 min'),
    (12, r'ci\.\.\.l-seed0'),
    (1, r'\.'),
  ],
)
def test_rows_on_a_narrow_one(room, row):
  rows = live.rows_of(RUNNING, room)
  assert max(map(len, rows)) <= room
  assert re.fullmatch(row, rows[-3])


def test_what_a_run_does_not_know_yet_is_left_out():
  told = 'stage 1/1, epoch 1/4, loss 0.5000, time left unknown'
  heads, row = live.rows_of({'a': told}, 60)
  assert heads.split() == ['job', *live._HEADS]
  assert row.split() == ['a', '1/1', '1/4']


def test_a_row_of_anything_has_room_and_no_commands():
  line = 'a warning of \x1b[2J 宽 letters, ' * 9
  for room in (1, 5, 20, 60, 200):
    (row,) = live.rows_of({NAME * 3: line}, room)
    assert len(row) <= room and row.isascii() and row.isprintable()
  assert 'a warning of ?[2J ? letters' in row
  assert live.rows_of({'a': ''}, 20) == ['a'] and live.rows_of({}, 20) == []


@pytest.mark.parametrize('columns', [200, 100, 50, 20, 2])
def test_table_fits_its_terminal(stream, columns):
  stream.resize(columns)
  show(live.JobTable(stream, 20))
  lines = stream.lines(columns)
  assert len(lines) == (5 if columns <= 20 else 6)
  assert lines[0].startswith('2 of 20 jobs done'[: columns - 1])
  if columns == 200:
    # Of jobs that run, the done parts count.
    assert '  16 %  ━' in lines[0]
    assert lines[1] == ('3 running  14 waiting  1 failed  about 5 min left')
  if columns == 20:
    assert lines[1] == 'about 5 min left'


def test_table_fits_a_low_terminal_and_a_resized_one(stream):
  table = live.JobTable(stream, 20)
  for columns, rows in ((100, 24), (50, 24), (50, 3), (120, 1)):
    stream.resize(columns, rows)
    seen = len(stream.getvalue())
    show(table)
    lines, cursor = screens.seen(stream.getvalue()[seen:], columns)
    assert cursor == (0, 0) and len(lines) == min(rows, 6)
    assert stream.lines(200) == lines


def test_lines_stand_above_the_table_and_it_goes_in_the_end(stream):
  table = live.JobTable(stream, 20)
  table.again()
  table.close()
  assert stream.getvalue() == ''
  show(table)
  print('a: done.', file=table._stream)
  table.again()
  assert stream.lines(100)[:2][0] == 'a: done.'
  assert stream.lines(100)[1].startswith('2 of 20 jobs done')
  show(table, running={})
  assert len(stream.lines(100)) == 3
  table.close()
  table.close()
  assert stream.lines(100) == ['a: done.', '']


def test_no_table_where_lines_are_read(monkeypatch, stream):
  monkeypatch.setattr(sys, 'stderr', io.StringIO())
  assert reproduce_command._table(3) is None
  monkeypatch.setattr(sys, 'stderr', stream)
  assert isinstance(reproduce_command._table(3), live.JobTable)
  monkeypatch.setenv('TERM', 'dumb')
  assert reproduce_command._table(3) is None


class Recorded(live.JobTable):
  """Keeps what it was to show."""

  def __init__(self, stream):
    super().__init__(stream, 9)
    self.shown = []

  def show(self, **shown):
    self.shown.append(shown)


def test_a_table_tells_how_far_jobs_are(tmp_path, monkeypatch, stream):
  """By their logs, but for what an earlier process has said."""
  monkeypatch.setattr(sweep, 'time', clock := Clock())
  jobs = [sweep.Job(name, (), tmp_path / name, work=100.0) for name in 'abcdef']
  (tmp_path / 'a').touch()
  table = Recorded(stream)
  running = sweep.Sweep(tmp_path, jobs, 2, table=table)
  running.failed = {'f': 'a reason'}
  (tmp_path / 'logs').mkdir()
  log = tmp_path / 'logs' / 'b.log'
  log.write_text(f'12:00:00 {LATER}\n')
  begun = log.stat().st_size
  running._running = {0: (jobs[1], None, 0.0), 1: (jobs[2], None, 0.0)}
  running._log_begins = {'b': begun, 'c': 0}
  parts = ['', 'stage 1/2, epoch 1/10, loss 1, 5 s left', 'a warning']
  parts += ['stage 1/2, epoch 3/10, loss 1, 5 s left']
  for said in parts:
    with open(log, 'a') as file:
      file.write(f'12:00:01 {said}\n')
    running._show(table)
    clock.now += 4.0
  told = [shown['running'] for shown in table.shown]
  assert told == [
    {'b': '', 'c': ''},
    {'b': parts[1], 'c': ''},
    # What tells how far it is stays.
    {'b': parts[1], 'c': ''},
    {'b': parts[3], 'c': ''},
  ]
  first, *_, last = table.shown
  assert (first['done'], first['failed'], first['left']) == (1, 1, '')
  # 20 of 100 in 8 s; of 400, 370 are left for two at a time.
  assert last['left'] == 'about 1.23 min left'


_SWEEP = """
import os, pathlib, sys
from srdl_jax import command, storage
from srdl_jax.reproduce import live, sweep
from srdl_jax.runs import stop_request
root = pathlib.Path(sys.argv[1])
told = sys.argv[2]
ready, over = root / 'ready', root / 'over'
program = (
  'import pathlib, time\\n'
  f'print({told!r}, flush=True)\\n'
  f'while not pathlib.Path({str(over)!r}).exists(): time.sleep(0.01)\\n'
)
done = root / 'a' / 'result.json'
text = program + f'pathlib.Path({str(done)!r}).write_text("{{}}")'
sys.stderr = storage.Unfailing(sys.stderr)
table = live.JobTable(sys.stderr, 1)
shown = table.show
def show(**state):
  shown(**state)
  if state['running'].get('a') == told:
    if sys.argv[3] == 'interrupted':
      signal.raise_signal(signal.SIGINT)
    over.touch()
table.show = show
sweep.SECONDS_BETWEEN_TABLES = 0.0
with stop_request.listen() as stop:
  sweep.Sweep(root, [sweep.Job('a', ('-c', text), done)], 1, storage.say,
              table).run(stop)
# As others write, who know of no table.
os.write(2, b'All is done.\\n')
"""


@pytest.mark.parametrize('end', ['done', 'interrupted'])
def test_a_sweep_leaves_a_tidy_terminal(tmp_path, end):
  code, text = screens.shown_by(
    [sys.executable, '-c', f'import signal\n{_SWEEP}', tmp_path, TOLD, end], 60
  )
  assert (code == 0) == (end == 'done')
  assert '0 of 1 jobs done' in text and '2 h 13 min' in text
  lines, _ = screens.seen(text, 200)
  if end == 'done':
    assert lines == ['a: started', 'a: done. 1 of 1 jobs', 'All is done.', '']
  else:
    asked = 'Ending at the next checkpoint; Ctrl-C to end now.'
    assert lines[:3] == [
      'a: started',
      asked,
      'Traceback (most recent call last):',
    ]
    assert lines[-2].startswith('srdl_jax.errors.Interrupted: SIGINT')
