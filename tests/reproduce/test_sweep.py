# SPDX-License-Identifier: Apache-2.0
"""Many jobs: each once, in order, past failures, after any kill."""

import ast
import os
import pathlib
import re
import signal
import sys
import threading
import time

import pytest
import started
from clock import Clock

from srdl_jax import config, methods, reproduce, storage
from srdl_jax.errors import Interrupted, WorkdirError
from srdl_jax.fields import Field
from srdl_jax.reproduce import scales, sweep
from srdl_jax.runs import stop_request

ROOT = pathlib.Path(__file__).parents[2]


def job(root, name, program='', *, needs=(), work=1.0):
  """A job whose program runs, and then leaves its last file."""
  place = root / 'runs' / name
  text = f'import pathlib\n{program}\n'
  text += f'pathlib.Path({str(place / "result.json")!r}).write_text("{{}}")'
  return sweep.Job(name, ('-c', text), place / 'result.json', needs, work)


def finish(root, jobs, stop=None, heard=lambda line: None, **options):
  told = []

  def tell(line):
    told.append(line)
    heard(line)

  running = sweep.Sweep(root, jobs, tell=tell, **options)
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


NAMED = 'JAX_COMPILATION_CACHE_DIR'


def test_jobs_share_what_they_compile_while_the_sweep_goes_on(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(sweep.cpu, 'is_alone', lambda: True)
  monkeypatch.delenv(NAMED, raising=False)
  program = (
    'import os, jax\nnamed = jax.config.jax_compilation_cache_dir\n'
    'shown = named, os.path.isdir(named)\n'
    f'open({str(tmp_path)!r} + "/{{name}}", "w").write(repr(shown))'
  )
  jobs = [job(tmp_path, n, program.format(name=n)) for n in 'ab']
  failed, _ = finish(tmp_path, jobs)
  assert not failed
  first, second = (ast.literal_eval((tmp_path / n).read_text()) for n in 'ab')
  assert first == second and first[1]
  assert not pathlib.Path(first[0]).exists()


@pytest.mark.parametrize(('named', 'alone'), [('mine', True), (None, False)])
def test_a_cache_that_is_named_and_an_accelerators_stay(
  monkeypatch, named, alone
):
  monkeypatch.setattr(sweep.cpu, 'is_alone', lambda: alone)
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  monkeypatch.delenv(NAMED, raising=False)
  if named:
    monkeypatch.setenv(NAMED, named)
  assert sweep.compiled_in('ours') == {}


def test_jobs_begin_with_what_they_import(tmp_path):
  """And in a session of their own, with nothing to read."""
  program = (
    'import os, sys\n'
    'loaded = "srdl_jax.srdl" in sys.modules\n'
    'shown = loaded, os.getsid(0) == os.getpid(), sys.stdin.read()\n'
    f'open({str(tmp_path / "shown")!r}, "w").write(repr(shown))'
  )
  failed, _ = finish(tmp_path, [job(tmp_path, 'a', program)])
  assert not failed
  assert (tmp_path / 'shown').read_text() == "(True, True, '')"


def test_jobs_run_side_by_side_on_their_own_cores(tmp_path):
  # Each waits until the other has begun, too.
  program = (
    'import os, time\n'
    'open({own!r}, "w").write(str(os.sched_getaffinity(0)))\n'
    'end = time.monotonic() + 600\n'
    'while not os.path.exists({other!r}) and time.monotonic() < end:\n'
    '  time.sleep(0.01)\n'
    'assert os.path.exists({other!r})'
  )
  jobs = [
    job(
      tmp_path,
      n,
      program.format(own=str(tmp_path / n), other=str(tmp_path / other)),
    )
    for n, other in ('ab', 'ba')
  ]
  before = os.sched_getaffinity(0)
  failed, _ = finish(tmp_path, jobs, slots=2)
  assert not failed
  assert os.sched_getaffinity(0) == before
  used = [(tmp_path / n).read_text() for n in 'ab']
  if len(before) > 1:
    assert used[0] != used[1]


def test_a_request_to_stop_lets_jobs_save(tmp_path):
  saved = tmp_path / 'saved'
  program = (
    'import signal, sys, time\n'
    f'def end(*_): open({str(saved)!r}, "w").close(); sys.exit(75)\n'
    'signal.signal(signal.SIGTERM, end)\n'
    f'open({str(tmp_path / "ready")!r}, "w").close()\n'
    'time.sleep(600)'
  )

  class Stop(stop_request.StopRequest):
    def __bool__(self):
      if (tmp_path / 'ready').exists():
        self.signal_name = 'SIGTERM'
      return bool(self.signal_name)

  with pytest.raises(Interrupted, match='0 of 1 jobs done'):
    finish(tmp_path, [job(tmp_path, 'long', program)], Stop())
  assert saved.exists()


def test_a_later_field_leaves_directories_where_they_were(monkeypatch):
  setting = scales.rows('table1', 'smoke')[0].setting
  place = pathlib.Path('runs/digits-resnet8-vanilla-8b27656d-seed0')
  assert sweep.directory(pathlib.Path(), setting, 0) == place
  later = {'later': Field(0, 'a test', since='0.2.0')}
  monkeypatch.setattr(config, 'FIELDS', {**config.FIELDS, **later})
  assert sweep.directory(pathlib.Path(), setting, 0) == place
  first = {'later': Field(0, 'a test')}
  monkeypatch.setattr(config, 'FIELDS', {**config.FIELDS, **first})
  assert sweep.directory(pathlib.Path(), setting, 0) != place


def test_what_another_process_holds_is_left_to_it(tmp_path):
  """Such as a run that an earlier, killed sweep has left behind."""
  mine = job(tmp_path, 'held', f'open({str(tmp_path / "twice")!r}, "w")')
  place = mine.done.parent
  holder = started.start(
    [
      sys.executable,
      '-c',
      'import sys\nfrom srdl_jax import storage\n'
      f'with storage.lock({str(place)!r}):\n'
      '  print("held", flush=True)\n'
      '  sys.stdin.readline()\n'
      f'  open({str(mine.done)!r}, "w").write("{{}}")',
    ],
    stdin=started.PIPE,
    stdout=started.PIPE,
    cwd=ROOT,
  )
  assert holder.stdout.readline() == b'held\n'

  def heard(line):
    if 'another process is at it' in line:
      holder.communicate(b'finish\n', timeout=started.SECONDS)

  failed, _ = finish(tmp_path, [mine], heard=heard)
  assert not failed and not (tmp_path / 'twice').exists()
  assert holder.returncode == 0
  assert not storage.is_held(place)


def test_two_sweeps_of_the_same_jobs_do_each_once(tmp_path):
  """A job takes its lock a while after it has begun: both may start it."""
  order = tmp_path / 'order'
  jobs = []
  for name in ('teacher', 'student'):
    place = tmp_path / 'runs' / name
    program = (
      'import sys, time\nfrom srdl_jax import storage\n'
      'from srdl_jax.errors import WorkdirError\n'
      'time.sleep(0.3)\n'
      'try:\n'
      f'  with storage.lock({str(place)!r}):\n'
      '    time.sleep(0.7)\n'
      f'    open({str(order)!r}, "a").write("{name} ")\n'
      f'    open({str(place / "result.json")!r}, "w").write("{{}}")\n'
      'except WorkdirError as error:\n'
      '  sys.exit(4)'
    )
    needs = ('teacher',) if name == 'student' else ()
    command = ('-c', program)
    jobs.append(sweep.Job(name, command, place / 'result.json', needs))
  found = []
  threads = [
    threading.Thread(target=lambda: found.append(finish(tmp_path, jobs)[0]))
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(timeout=started.SECONDS)
  assert found == [{}, {}]
  assert sorted(set(order.read_text().split())) == ['student', 'teacher']


def test_a_job_that_cannot_start_is_a_failed_one(tmp_path):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'blocked').write_text('a file')
  jobs = [job(tmp_path, 'blocked'), job(tmp_path, 'other')]
  failed, _ = finish(tmp_path, jobs)
  assert set(failed) == {'blocked'} and jobs[1].is_done
  assert failed['blocked'].startswith('it cannot be started')


def test_a_sweep_in_a_file_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(WorkdirError, match='cannot be written'):
    finish(tmp_path / 'file', [])


def test_time_left_follows_from_work_done(tmp_path, monkeypatch):
  # The first job lasts until the clock says 3 s.
  over = tmp_path / 'over'

  def sleeping(now):
    clock.now = 3.0
    over.touch()
    time.sleep(0.01)

  clock = Clock(sleeping)
  monkeypatch.setattr(sweep, 'time', clock)
  wait = (
    'import os, time\n'
    f'while not os.path.exists({str(over)!r}): time.sleep(0.01)'
  )
  jobs = [
    job(tmp_path, 'a', wait, work=1.0),
    job(tmp_path, 'b', work=100.0),
  ]
  _, told = finish(tmp_path, jobs)
  (line,) = [line for line in told if line.startswith('a: done')]
  assert line.endswith('1 of 2 jobs, about 5 min left')


# From rows to jobs.


def jobs_of(tables, scale, seeds=1, root=pathlib.Path('/sweep')):
  rows = [row for table in tables for row in scales.rows(table, scale)]
  return sweep.run_jobs(
    root,
    rows,
    lambda row: seeds,
    extra=lambda setting: (),
    work=lambda setting: 1.0,
  )


def trained(setting, seed):
  """What a run does, whatever its method is called."""
  config = scales.config(setting)
  if setting.teacher:
    config.teacher.workdir = 'anywhere'
  stages = methods.create(config)
  fields = scales.identity(setting)
  rest = {
    name: value
    for name, value in fields.items()
    if name != 'method'
    and not name.startswith(('srdl.', 'born_again.', 'teacher.'))
  }
  return repr(
    (stages, rest, setting.teacher and trained(setting.teacher, 0), seed)
  )


@pytest.mark.parametrize('scale', reproduce.SCALES)
def test_no_two_runs_are_the_same_training(scale):
  rows = [
    row for table in reproduce.TABLES for row in scales.rows(table, scale)
  ]
  runs = {
    sweep.directory(pathlib.Path('/sweep'), setting, 0): setting
    for row in rows
    for setting in (row.setting, row.setting.teacher)
    if setting
  }
  done = [trained(setting, 0) for setting in runs.values()]
  assert len(set(done)) == len(done)
  assert len(jobs_of(reproduce.TABLES, scale)) == len(runs) < len(rows)


def test_tables_share_their_runs():
  alone = jobs_of(['table1'], 'strong', seeds=5)
  both = jobs_of(['table1', 'table2'], 'strong', seeds=5)
  # Vanilla and SRDL of ResNet-32 and the wide teacher are Table 1's; of the
  # deep teacher one network for each data set; students for every seed.
  assert len(both) - len(alone) == 3 * (1 + 2 * 5)
  ablations = jobs_of(['table4', 'table5', 'table6'], 'strong', seeds=5)
  # SRDL once, and one other run for each table.
  assert len(ablations) == 4 * 5


def test_one_teacher_serves_students_of_all_seeds():
  jobs = jobs_of(['table2'], 'short', seeds=3)
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
  places = {sweep.directory(root, row.setting, 0) for row in rows}
  assert len(places) == len(rows)
  assert sweep.directory(root, rows[0].setting, 1) not in places


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_shards_part_the_jobs_and_keep_teachers_with_students(count):
  jobs = jobs_of(reproduce.TABLES, 'smoke', seeds=2)
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


def test_what_a_job_says_is_told_without_times_and_noise(tmp_path):
  log = tmp_path / 'a.log'
  # Not there yet.
  assert sweep.last_line(log) == ''
  noise = 'E1129 20:49:18.169656   20800 cpu_aot_loader.cc:195] Loading ...'
  log.write_text(f'begun\n19:05:20 epoch 1\r19:05:21 epoch 2\n{noise}\n\n')
  assert sweep.last_line(log) == 'epoch 2'
