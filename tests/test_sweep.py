# SPDX-License-Identifier: Apache-2.0
"""Many jobs: each once, in order, past failures, after any kill."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from srdl_jax import paper, scales, stop_request, sweep, workdir
from srdl_jax.errors import Interrupted

ROOT = pathlib.Path(__file__).parent.parent


def job(root, name, program='', *, needs=(), work=1.0):
  """A job whose program runs, and then leaves its last file."""
  place = root / 'runs' / name
  text = f'import pathlib\n{program}\n'
  text += f'pathlib.Path({str(place / "result.json")!r}).write_text("{{}}")'
  return sweep.Job(name, ('-c', text), place / 'result.json', needs, work)


def finish(root, jobs, stop=None, **options):
  told = []
  running = sweep.Sweep(root, jobs, tell=told.append, **options)
  # A request is false until it is made.
  stop = stop_request.StopRequest() if stop is None else stop
  return running.run(stop), told


def test_jobs_run_once_after_what_they_need(tmp_path):
  note = f'open({str(tmp_path / "order")!r}, "a").write({{name!r}} + " ")'
  jobs = [
    job(tmp_path, 'teacher', note.format(name='teacher')),
    job(tmp_path, 'a', note.format(name='a'), needs=('teacher',)),
    job(tmp_path, 'b', note.format(name='b'), needs=('teacher',)),
  ]
  for _ in range(2):
    failed, _ = finish(tmp_path, jobs, slots=2)
    assert not failed
  order = (tmp_path / 'order').read_text().split()
  assert order[0] == 'teacher' and sorted(order[1:]) == ['a', 'b']


def test_a_failure_stops_only_what_needs_it(tmp_path):
  crash = 'raise SystemExit("error: no such thing")'
  jobs = [
    job(tmp_path, 'teacher', crash),
    job(tmp_path, 'student', needs=('teacher',)),
    job(tmp_path, 'other'),
  ]
  failed, told = finish(tmp_path, jobs)
  assert set(failed) == {'teacher', 'student'}
  assert re.match(r'exit code 1 .*error: no such thing', failed['teacher'])
  assert failed['student'].startswith('teacher failed')
  assert jobs[2].is_done
  assert [line for line in told if 'FAILED' in line]


def test_a_job_that_leaves_nothing_has_failed(tmp_path):
  place = tmp_path / 'runs' / 'empty' / 'result.json'
  failed, _ = finish(tmp_path, [sweep.Job('empty', ('-c', ''), place)])
  assert 'exit code 0' in failed['empty']


def test_jobs_run_side_by_side_on_their_own_cores(tmp_path):
  cores = 'import os; open({!r}, "w").write(str(os.sched_getaffinity(0)))'
  jobs = [
    job(
      tmp_path,
      n,
      cores.format(str(tmp_path / n)) + '\nimport time\ntime.sleep(1)',
    )
    for n in 'ab'
  ]
  before = os.sched_getaffinity(0)
  begun = time.monotonic()
  finish(tmp_path, jobs, slots=2)
  assert os.sched_getaffinity(0) == before
  used = [(tmp_path / n).read_text() for n in 'ab']
  if len(before) > 1:
    assert used[0] != used[1]
  assert time.monotonic() - begun < 20


def test_a_request_to_stop_lets_jobs_save(tmp_path):
  saved = tmp_path / 'saved'
  program = (
    'import signal, sys, time\n'
    f'def end(*_): open({str(saved)!r}, "w").close(); sys.exit(75)\n'
    'signal.signal(signal.SIGTERM, end)\n'
    f'open({str(tmp_path / "ready")!r}, "w").close()\n'
    'time.sleep(60)'
  )

  class Stop(stop_request.StopRequest):
    def __bool__(self):
      if (tmp_path / 'ready').exists():
        self.signal_name = 'SIGTERM'
      return bool(self.signal_name)

  with pytest.raises(Interrupted, match='0 of 1 jobs done'):
    finish(tmp_path, [job(tmp_path, 'long', program)], Stop())
  assert saved.exists()


def test_what_another_process_holds_is_left_to_it(tmp_path):
  """Such as a run that an earlier, killed sweep has left behind."""
  mine = job(tmp_path, 'held', f'open({str(tmp_path / "twice")!r}, "w")')
  place = mine.done.parent
  holder = subprocess.Popen(
    [
      sys.executable,
      '-c',
      'import sys, time\nfrom srdl_jax import workdir\n'
      f'with workdir.lock({str(place)!r}):\n'
      '  print("held", flush=True)\n'
      '  time.sleep(1.5)\n'
      f'  open({str(mine.done)!r}, "w").write("{{}}")',
    ],
    stdout=subprocess.PIPE,
    cwd=ROOT,
  )
  assert holder.stdout.readline() == b'held\n'
  failed, _ = finish(tmp_path, [mine])
  assert not failed and not (tmp_path / 'twice').exists()
  assert holder.wait() == 0
  holder.stdout.close()
  assert not workdir.is_held(place)


def test_time_left_follows_from_work_done(tmp_path):
  jobs = [
    job(tmp_path, 'a', 'import time; time.sleep(1)', work=1.0),
    job(tmp_path, 'b', work=100.0),
  ]
  _, told = finish(tmp_path, jobs)
  (line,) = [line for line in told if line.startswith('a: done')]
  left = re.search(r'1 of 2 jobs, about (\d+) (s|min) left', line)
  seconds = int(left[1]) * (60 if left[2] == 'min' else 1)
  assert 90 <= seconds <= 1000


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (12.4, '12 s'),
    (89, '89 s'),
    (91, '2 min'),
    (5399, '90 min'),
    (5400, '1.5 h'),
    (71.9 * 3600, '71.9 h'),
    (72 * 3600, '3 days'),
    (1e9, '11,574 days'),
  ],
)
def test_durations(seconds, text):
  assert sweep.duration(seconds) == text


# From rows to jobs.


def jobs_of(tables, scale, seeds=(0,), root=pathlib.Path('/sweep')):
  rows = [row for table in tables for row in scales.rows(table, scale)]
  return sweep.run_jobs(root, rows, seeds, extra=(), work=lambda run: 1.0)


@pytest.mark.parametrize('scale', scales.SCALES)
def test_nothing_is_trained_twice(scale):
  jobs = jobs_of(paper.TABLES, scale, seeds=(0, 1))
  commands = [
    tuple(part for part in job.command if not part.startswith('--workdir'))
    for job in jobs
  ]
  assert len(set(commands)) == len(commands)
  assert len({job.done for job in jobs}) == len(jobs)


def test_tables_share_their_runs():
  alone = jobs_of(['table1'], 'strong', seeds=range(5))
  both = jobs_of(['table1', 'table2'], 'strong', seeds=range(5))
  # Vanilla and SRDL of ResNet-32 and the wide teacher are Table 1's; of the
  # deep teacher one network for each data set; students for every seed.
  assert len(both) - len(alone) == 3 * (1 + 2 * 5)
  ablations = jobs_of(['table4', 'table5', 'table6'], 'strong', seeds=range(5))
  # SRDL once, and one other run for each table.
  assert len(ablations) == 4 * 5


def test_one_teacher_serves_students_of_all_seeds():
  jobs = jobs_of(['table2'], 'short', seeds=(0, 1, 2))
  students = [job for job in jobs if job.needs]
  assert len(students) == 3
  (needed,) = {job.needs for job in students}
  (teacher,) = [job for job in jobs if job.name in needed]
  assert teacher.name.endswith('seed0') and jobs.index(teacher) < min(
    jobs.index(job) for job in students
  )
  place = f'--config.teacher.workdir={teacher.done.parent}'
  assert all(place in job.command for job in students)


def test_the_place_of_a_run_depends_on_its_numbers():
  root = pathlib.Path('/sweep')
  rows = scales.rows('table2', 'full')
  places = {sweep.directory(root, row.run, 0) for row in rows}
  assert len(places) == len(rows)
  assert sweep.directory(root, rows[0].run, 1) not in places


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_shards_part_the_jobs_and_keep_teachers_with_students(count):
  jobs = jobs_of(paper.TABLES, 'smoke', seeds=(0, 1))
  parts = [sweep.shard(jobs, i, count) for i in range(1, count + 1)]
  names = [job.name for part in parts for job in part]
  assert sorted(names) == sorted(job.name for job in jobs)
  for part in parts:
    mine = [job.name for job in part]
    for job in part:
      assert all(mine.index(n) < mine.index(job.name) for n in job.needs)


def test_a_killed_job_is_gone_on_with(tmp_path):
  trace = tmp_path / 'trace'
  program = (
    'import os, time\n'
    f'open({str(trace)!r}, "a").write("x")\n'
    f'if len(open({str(trace)!r}).read()) == 1: '
    f'os.kill(os.getpid(), {int(signal.SIGKILL)})'
  )
  mine = job(tmp_path, 'mine', program)
  failed, _ = finish(tmp_path, [mine])
  assert 'exit code -9' in failed['mine']
  failed, _ = finish(tmp_path, [mine])
  assert not failed and trace.read_text() == 'xx'
