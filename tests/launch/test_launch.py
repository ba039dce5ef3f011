# SPDX-License-Identifier: Apache-2.0
"""launch/local.py, run for real with small programs instead of a training."""

import os
import pathlib
import re
import signal
import sys

import pytest
import started

LOCAL = pathlib.Path(__file__).parents[2] / 'launch' / 'local.py'
# What every program begins with: the launcher's arguments come last.
BEGIN = """
import os, pathlib, signal, sys, time
index = int(sys.argv[-1].removeprefix('--process_index='))
"""
# Notes each signal in a file, and ends with `code` at the first.
UNTIL_SIGNALLED = """
notes = pathlib.Path(sys.argv[1], f'{index}.signals')
def note(number, frame):
  with notes.open('a') as file: file.write(f'{number}\\n')
  time.sleep(0.3)
  os._exit(75)
for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, note)
pathlib.Path(sys.argv[1], f'{index}.pid').write_text(str(os.getpid()))
time.sleep(600)
"""


def command(*flags, program, arguments=(), processes=2):
  program = [sys.executable, '-c', BEGIN + program, *map(str, arguments)]
  launcher = [sys.executable, str(LOCAL), f'--processes={processes}', *flags]
  return [*launcher, '--', *program]


def launch(*flags, program, arguments=(), processes=2, **options):
  """Runs the launcher to its end."""
  return started.run(
    command(*flags, program=program, arguments=arguments, processes=processes),
    **options,
  )


def is_alive(pid):
  try:
    # A zombie whose parent doesn't ask for it is dead, too.
    status = pathlib.Path('/proc', str(pid), 'stat').read_text()
  except FileNotFoundError:
    return False
  return status.rpartition(')')[2].split()[0] != 'Z'


def test_processes_get_their_arguments_and_lines_their_prefix():
  program = """
print(sys.argv[1:])
print('no newline', end='', file=sys.stderr)
"""
  run = launch(program=program, arguments=['a b', "it's"], processes=3)
  assert run.returncode == 0
  lines = sorted(run.stdout.splitlines())
  (port,) = set(re.findall(r'127\.0\.0\.1:(\d+)', run.stdout))
  assert 1024 < int(port) < 65536
  for index, line in enumerate(lines):
    arguments = ['a b', "it's", f'--coordinator=127.0.0.1:{port}']
    arguments += ['--process_count=3', f'--process_index={index}']
    assert line == f'[{index}] {arguments}'
  assert len(lines) == 3
  assert sorted(run.stderr.splitlines()) == [
    f'[{index}] no newline' for index in range(3)
  ]


@pytest.mark.parametrize(
  ('ends', 'expected'),
  [
    (['sys.exit(3)', 'after(0); sys.exit(134)'], 3),
    (['after(1); sys.exit(3)', 'sys.exit(134)'], 3),
    (['sys.exit(0)', 'sys.exit(5)'], 5),
    (['sys.exit(1)', 'after(0); os.abort()'], 1),
    (['after(1); sys.exit(1)', 'os.abort()'], 75),
    (['sys.exit(134)', 'after(0); sys.exit(1)'], 75),
    (['sys.exit(75)', 'sys.exit(75)'], 75),
    (['sys.exit(0)', 'sys.exit(75)'], 75),
    (['sys.exit(0)', 'sys.exit(130)'], 130),
  ],
)
def test_known_errors_win_and_else_the_first_failure_counts(
  tmp_path, ends, expected
):
  program = f"""
def after(other):
  path = pathlib.Path(sys.argv[1], str(other))
  while not path.exists(): time.sleep(0.01)
  # The launcher takes the process away when it has seen its end.
  while pathlib.Path('/proc', path.read_text()).exists(): time.sleep(0.01)
  time.sleep(0.05)
path = pathlib.Path(sys.argv[1], f'{{index}}')
path.with_suffix('.part').write_text(str(os.getpid()))
path.with_suffix('.part').rename(path)
exec({ends!r}[index])
"""
  run = launch(program=program, arguments=[tmp_path])
  assert run.returncode == expected, run.stderr


def test_others_are_ended_when_a_process_is_killed(tmp_path):
  program = f"""
if index == 0:
  while not pathlib.Path(sys.argv[1], '1.pid').exists(): time.sleep(0.01)
  os.kill(os.getpid(), signal.SIGKILL)
{UNTIL_SIGNALLED}
"""
  run = launch('--grace=2', program=program, arguments=[tmp_path])
  assert run.returncode == 75
  assert 'process 0 was killed by SIGKILL' in run.stderr
  assert (tmp_path / '1.signals').read_text() == f'{int(signal.SIGTERM)}\n'


def test_others_have_time_to_notice_by_themselves():
  program = """
if index == 0: sys.exit(75)
time.sleep(0.5)
print('ended by myself')
os.abort()
"""
  run = launch('--grace=600', program=program)
  assert run.returncode == 75
  assert run.stdout == '[1] ended by myself\n'
  assert 'the others are still there' not in run.stderr


def test_what_ignores_sigterm_is_killed(tmp_path):
  program = """
ready = pathlib.Path(sys.argv[1], 'ready')
if index == 0:
  while not ready.exists(): time.sleep(0.01)
  sys.exit(4)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready.touch()
time.sleep(600)
"""
  run = launch('--grace=0.3', program=program, arguments=[tmp_path])
  assert run.returncode == 4
  assert 'SIGTERM' in run.stderr
  assert 'process 1 was killed by SIGKILL' in run.stderr


def test_restart_goes_on_with_a_new_port(tmp_path):
  program = """
print(sys.argv[-3])
runs = pathlib.Path(sys.argv[1], f'{index}')
runs.write_text((runs.read_text() if runs.exists() else '') + 'x')
sys.exit(0 if runs.read_text() == 'xxx' else 75)
"""
  run = launch('--restarts=5', program=program, arguments=[tmp_path])
  assert run.returncode == 0
  ports = re.findall(r'\[0\] --coordinator=127.0.0.1:(\d+)', run.stdout)
  assert len(ports) == 3
  assert all(a != b for a, b in zip(ports, ports[1:], strict=False))


@pytest.mark.parametrize(('code', 'runs'), [(75, 3), (3, 1)])
def test_restarts_are_counted_and_errors_are_not_repeated(code, runs):
  program = f'print("run"); sys.exit({code})'
  run = launch('--restarts=2', program=program, processes=1)
  assert run.returncode == code
  assert run.stdout == '[0] run\n' * runs


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_reaches_every_process_once_and_none_is_left(tmp_path, number):
  """Sent to the whole group, as a terminal sends Ctrl-C."""
  run = started.start(
    command('--restarts=5', program=UNTIL_SIGNALLED, arguments=[tmp_path]),
    stderr=started.PIPE,
  )
  pids = [tmp_path / f'{index}.pid' for index in range(2)]
  started.wait_for(*pids)
  os.killpg(run.pid, number)
  _, errors = run.communicate(timeout=started.SECONDS)
  assert run.returncode == 75, errors
  for index, pid in enumerate(pids):
    notes = (tmp_path / f'{index}.signals').read_text()
    assert notes == f'{int(number)}\n'
    assert not is_alive(int(pid.read_text()))


def test_closed_terminal_asks_to_stop(tmp_path):
  run = started.start(
    command(program=UNTIL_SIGNALLED, arguments=[tmp_path], processes=1),
    stderr=started.DEVNULL,
  )
  started.wait_for(tmp_path / '0.pid')
  run.send_signal(signal.SIGHUP)
  assert run.wait(timeout=started.SECONDS) == 75
  assert (tmp_path / '0.signals').read_text() == f'{int(signal.SIGTERM)}\n'


def test_what_a_process_leaves_behind_is_ended():
  program = """
import subprocess
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print(child.pid)
"""
  run = launch(program=program, processes=1)
  assert run.returncode == 0
  assert not is_alive(run.stdout.removeprefix('[0] ').strip())


def test_processes_go_on_when_nobody_reads_their_output(tmp_path):
  program = """
for line in range(20000): print('x' * 100)
pathlib.Path(sys.argv[1], f'{index}').touch()
"""
  run = started.start(
    command(program=program, arguments=[tmp_path]), stdout=started.PIPE
  )
  run.stdout.readline()
  run.stdout.close()
  assert run.wait(timeout=started.SECONDS) == 0
  assert len(list(tmp_path.iterdir())) == 2


def test_devices_are_added_to_the_flags_of_xla():
  program = 'print(os.environ["XLA_FLAGS"], os.environ["JAX_PLATFORMS"])'
  environment = os.environ | {'XLA_FLAGS': '--xla_dump_to=x'}
  del environment['JAX_PLATFORMS']
  run = launch('--devices=3', program=program, env=environment)
  flags = '--xla_dump_to=x --xla_force_host_platform_device_count=3'
  assert sorted(run.stdout.splitlines()) == [
    f'[0] {flags} cpu',
    f'[1] {flags} cpu',
  ]
  run = launch(program=program, env=environment | {'JAX_PLATFORMS': 'tpu'})
  assert '[0] --xla_dump_to=x tpu' in run.stdout.splitlines()


def test_dry_run_prints_the_commands_and_runs_none(tmp_path):
  program = 'pathlib.Path(sys.argv[1], "ran").touch()'
  run = launch(
    '--dry-run', '--devices=2', program=program, arguments=[tmp_path]
  )
  assert run.returncode == 0
  assert not list(tmp_path.iterdir())
  assert '[1] env ' in run.stdout
  assert '--process_index=1' in run.stdout
  # A shell takes the line as it is.
  line = run.stdout.split('[0] ')[1].partition('\n[1]')[0]
  started.run(['bash', '-c', line], check=True)
  assert (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--processes=2'], 'the command is missing'),
    (['--processes=0', '--', 'true'], 'at least 1'),
    (['--processes=2', '--grace=-1', '--', 'true'], 'not be negative'),
    (['--', 'true'], '--processes'),
    (['--process=2', '--', 'true'], '--process'),
    (['--processes=2', '--', './no such file'], './no such file cannot be'),
  ],
)
def test_wrong_flags_are_one_line_and_code_2(arguments, message):
  run = started.run([sys.executable, str(LOCAL), *arguments])
  assert run.returncode == 2
  assert message in run.stderr.splitlines()[-1]


def test_devices_are_refused_where_they_have_no_effect():
  environment = os.environ | {'JAX_PLATFORMS': 'cuda'}
  run = launch('--devices=2', program='', env=environment)
  assert run.returncode == 2
  assert 'JAX_PLATFORMS is cuda' in run.stderr
