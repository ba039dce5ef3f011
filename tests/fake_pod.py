# SPDX-License-Identifier: Apache-2.0
"""A pod of two workers for launch/tpu_pod.sh, and a `gcloud` that leads there.

It notes its calls. A worker is a home directory; what goes over ssh is run in
it, for real.
"""

import json
import os
import pathlib
import shutil
import sys

import started

LAUNCH = pathlib.Path(__file__).parent.parent / 'launch'
GCLOUD = """
import json, os, pathlib, shutil, signal, subprocess, sys
root = pathlib.Path(os.environ['FAKE'])
group, verb, name, *flags = sys.argv[3:]
with (root / 'calls').open('a') as calls:
  calls.write(json.dumps(sys.argv[1:]) + '\\n')
homes = [root / f'worker{i}' for i in range(2)]
states = (root / 'states').read_text().split()
given = dict(flag.split('=', 1) for flag in flags if '=' in flag)
codes = []

def end_trainings():
  for group in root.glob('worker*/srdl_run/group'):
    try: os.killpg(int(group.read_text()), signal.SIGKILL)
    except ProcessLookupError: pass

if verb == 'create':
  for home in homes:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
  states = (root / 'states_of_new').read_text().split()
elif verb == 'delete':
  end_trainings()
  (root / 'deleted').touch()
  states = []
elif verb == 'describe' and group == 'tpu-vm':
  print('READY')
elif verb == 'describe':
  if not states: sys.exit('ERROR: NOT_FOUND: Resource was not found')
  state, states = states[0], states[1:] or states
  if state == 'UNKNOWN': sys.exit('no connection')
  print(state)
elif states[-1:] != ['ACTIVE']:
  sys.exit('no connection')
elif verb == 'scp':
  assert '--ssh-flag' not in given, 'scp has no such flag'
  _, file = flags[0].split('srdl:')
  for home in homes: shutil.copy(name, home / file)
else:
  # Lines 'COMMAND WORKER TIMES': it can't be reached for the next calls.
  silent = [line.split() for line in (root / 'silent').read_text().splitlines()]
  for line in silent:
    if line[0] in given['--command'] and int(line[2]):
      homes = [home for home in homes if not home.name.endswith(line[1])]
      line[2] = str(int(line[2]) - 1)
      codes.append(255)
  (root / 'silent').write_text('\\n'.join(map(' '.join, silent)))
  if given['--worker'] != 'all': homes = [homes[int(given['--worker'])]]
  codes += [
    subprocess.run(
      ['bash', '-c', given['--command']],
      cwd=home,
      env=os.environ | {'HOME': str(home)},
    ).returncode
    for home in homes
  ]
  sys.exit(max(codes))
if verb in ('create', 'delete', 'describe'):
  (root / 'states').write_text(' '.join(states))
"""
# Stands for a worker's Python, whose pip brings uv, which brings the
# environment's Python, which is the test's training.
PYTHON3 = r"""#!/bin/bash
mkdir -p ~/.local/bin
cat >~/.local/bin/uv <<'UV'
#!/bin/bash
echo "$*" >>~/uv
[[ $2 != freeze ]] || printf '%s\n' jax==0.12.0 '-e file:///srdl' flax==0.12.8
[[ $1 == pip ]] || install -D "$FAKE/training" "${!#}/bin/python"
UV
chmod +x ~/.local/bin/uv
"""
# Before a test's own lines: W is the worker's number, N its start's. `after`
# waits until another worker's training has ended.
BEGIN = """#!/bin/bash
printf '%s\\n' "$@" >~/arguments
echo "$JAX_PLATFORMS" >~/platforms
W=${HOME: -1}
echo x >>"$FAKE/starts$W"
N=$(wc -l <"$FAKE/starts$W")
echo "start $N"
after() {
  until [[ -e $FAKE/worker$1/srdl_run/ended ]]; do sleep 0.05; done
}
"""


class Pod:
  """A repository with the launcher, and what the fake machines need."""

  def __init__(self, root):
    self.root = root
    self.repository = root / 'repository'
    shutil.copytree(LAUNCH, self.repository / 'launch')
    for name in ('setup.py', 'a b.py', 'gone.py', 'runs/big', '.gitignore'):
      path = self.repository / name
      path.parent.mkdir(exist_ok=True)
      path.write_text('runs/\n')
    git = ['git', '-C', str(self.repository)]
    started.run([*git, 'init', '--quiet'], check=True)
    started.run([*git, 'add', '.'], check=True)
    (self.repository / 'gone.py').unlink()
    bin_directory = root / 'bin'
    bin_directory.mkdir()
    self.program(bin_directory / 'gcloud', f'#!{sys.executable}\n{GCLOUD}')
    self.program(bin_directory / 'python3', PYTHON3)
    (root / 'calls').touch()
    (root / 'silent').touch()
    self.states('')
    self.states_of_new('ACTIVE')
    self.training('exit 0')
    self.environment = os.environ | {
      'FAKE': str(root),
      'PATH': f'{bin_directory}:{os.environ["PATH"]}',
      'TPU_POLL': '0.05',
      'TPU_ZONE': 'us-central2-b',
    }
    self.environment.pop('JAX_PLATFORMS', None)

  @staticmethod
  def program(path, text):
    path.write_text(text)
    path.chmod(0o755)

  def states(self, text):
    (self.root / 'states').write_text(text)

  def states_of_new(self, text):
    (self.root / 'states_of_new').write_text(text)

  def silent(self, command, worker, times):
    """Has a worker out of reach, for some calls that hold a command."""
    (self.root / 'silent').write_text(f'{command} {worker} {times}')

  def training(self, text):
    self.program(self.root / 'training', BEGIN + text)

  def command(self, *arguments):
    return [str(self.repository / 'launch' / 'tpu_pod.sh'), *arguments]

  def __call__(self, *arguments, **environment):
    return started.run(
      self.command(*arguments), env=self.environment | environment, input=''
    )

  def watch(self, *arguments):
    """Starts a command and returns without waiting for its end."""
    return started.start(
      self.command(*arguments),
      env=self.environment,
      stderr=started.PIPE,
      text=True,
    )

  def calls(self):
    """Returns what gcloud was called with since the last time."""
    path = self.root / 'calls'
    lines = path.read_text().splitlines()
    path.write_text('')
    return [json.loads(line) for line in lines]

  def wait_for(self, command):
    """Waits until the workers have been asked for something."""
    path = self.root / 'calls'
    asked = f'tpu_worker.sh {command}'
    started.wait_until(lambda: asked in path.read_text(), asked)

  def starts(self, worker):
    return len((self.root / f'starts{worker}').read_text().split())

  def ready(self):
    assert self('create').returncode == 0
    made = self('setup')
    assert made.returncode == 0, made.stderr
    self.calls()
    return self
