# SPDX-License-Identifier: Apache-2.0
"""launch/slurm.sbatch with a made srun, launch/kubernetes-jobset.yaml, and
ShellCheck's opinion of all scripts.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import sys

import pytest
import started
import yaml

from srdl_jax import errors

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch'
SCRIPT = LAUNCH / 'slurm.sbatch'
# What srdl_jax and the kernel say when running again may help; 139 is an abort
# of a container's first process.
AGAIN = {75, 134, 137, 139, 143}
EXITED = 'srun: error: {node}: {tasks}: Exited with exit code {code}'
ABORTED = 'srun: error: n1: tasks 0-3,5: Aborted (core dumped)'
KILLED = 'srun: error: n2: task 4: Killed'


class Cluster:
  """A srun that says and returns what it is told to, and a scontrol."""

  def __init__(self, root):
    self.root = root
    self.environment = os.environ | {
      'PATH': f'{root}:{os.environ["PATH"]}',
      'SLURM_JOB_ID': '17',
      'SLURM_CPUS_PER_TASK': '6',
      'FAKE': str(root),
    }
    self.environment.pop('JAX_PLATFORMS', None)
    self.program('scontrol', 'printf "%s\\n" "$@" >"$FAKE/requeued"')

  def program(self, name, text):
    path = self.root / name
    path.write_text(f'#!/bin/bash\n{text}\n')
    path.chmod(0o755)

  def srun(self, code, *messages):
    lines = '\n'.join(f'echo {shlex.quote(line)} >&2' for line in messages)
    self.program(
      'srun', f'printf "%s\\n" "$@" >"$FAKE/srun.args"\n{lines}\nexit {code}'
    )

  def __call__(self, *arguments, **environment):
    return started.run(
      ['bash', str(SCRIPT), *arguments], env=self.environment | environment
    )

  @property
  def requeued(self):
    path = self.root / 'requeued'
    return path.exists() and path.read_text().split() == ['requeue', '17']


@pytest.fixture
def cluster(tmp_path):
  return Cluster(tmp_path)


def exited(code, node='n1', tasks='task 0'):
  return EXITED.format(node=node, tasks=tasks, code=code)


@pytest.mark.parametrize(
  ('code', 'messages', 'expected'),
  [
    (0, [], 0),
    (75, [exited(75, tasks='tasks 0-7')], 75),
    (137, [KILLED, ABORTED], 75),
    # srun returns the highest code. The error is behind it.
    (134, [ABORTED, exited(3, 'n2', 'task 9')], 3),
    (134, [exited(1), ABORTED], 1),
    # Its peer was killed first.
    (137, [KILLED, exited(1)], 75),
    # No message that is known: srun's own code.
    (134, ['slurmstepd: something'], 75),
    (2, [], 2),
    # A line of the training, as --label makes it.
    (75, ['3: ' + exited(3), exited(75)], 75),
  ],
)
def test_slurm_job_is_queued_again_for_what_can_be_mended(
  cluster, code, messages, expected
):
  cluster.srun(code, *messages)
  run = cluster('--workdir=w')
  assert run.returncode == expected, run.stderr
  assert cluster.requeued == (expected == 75)
  for message in messages:
    assert message in run.stderr.splitlines()


def test_slurm_passes_arguments(cluster):
  cluster.srun(0)
  assert cluster('--config=a.py:b=c', 'x y', "it's").returncode == 0
  arguments = (cluster.root / 'srun.args').read_text().splitlines()
  assert arguments[-7:] == [
    *['python', '-m', 'srdl_jax.main', '--distributed'],
    *['--config=a.py:b=c', 'x y', "it's"],
  ]
  assert '--cpus-per-task=6' in arguments


def test_slurm_restarts_are_counted(cluster):
  cluster.srun(75, exited(75))
  environment = {'SLURM_RESTART_COUNT': '2', 'MAX_RESTARTS': '2'}
  run = cluster(**environment)
  assert run.returncode == 75
  assert not cluster.requeued
  assert 'restarted 2 times' in run.stderr


def test_slurm_job_that_is_cancelled_is_not_queued_again(cluster):
  """Its script gets SIGTERM itself, while srun goes on until all is saved."""
  save = 'until [[ -e $FAKE/asked ]]; do sleep 0.05; done; touch "$FAKE/saved"'
  cluster.program('srun', f'touch "$FAKE/started"; {save}; exit 75')
  run = started.start(['bash', str(SCRIPT)], env=cluster.environment)
  started.wait_until((cluster.root / 'started').exists)
  run.send_signal(signal.SIGTERM)
  (cluster.root / 'asked').touch()
  assert run.wait(timeout=started.SECONDS) == 75
  assert (cluster.root / 'saved').exists()
  assert not cluster.requeued


def test_slurm_dry_run_runs_nothing(cluster):
  cluster.srun(0)
  run = cluster('--workdir=x y', DRY_RUN='1')
  assert run.returncode == 0
  assert not (cluster.root / 'srun.args').exists()
  step = shlex.split(run.stdout.splitlines()[0])
  assert step[0] == 'srun'
  assert step[-2:] == ['--distributed', '--workdir=x y']
  assert 'scontrol requeue 17' in run.stdout


@pytest.mark.parametrize(
  ('tasks', 'gpus', 'ids'),
  [('2', '4', '0,1,2,3'), ('8', '4', None), ('2', '1', None)],
)
def test_slurm_process_of_a_node_gets_all_its_gpus(cluster, tasks, gpus, ids):
  cluster.program('srun', 'echo "ids=$JAX_LOCAL_DEVICE_IDS"')
  run = cluster(
    SLURM_NTASKS=tasks, SLURM_JOB_NUM_NODES='2', SLURM_GPUS_ON_NODE=gpus
  )
  assert run.stdout == f'ids={ids or ""}\n'


@pytest.mark.parametrize(
  ('given', 'platforms'),
  [
    ({'SLURM_GPUS_ON_NODE': '4'}, 'cuda,cpu'),
    ({'SLURM_GPUS_ON_NODE': '4', 'JAX_PLATFORMS': 'rocm,cpu'}, 'rocm,cpu'),
    ({}, ''),
  ],
)
def test_a_node_without_its_gpus_does_not_train_on_its_cpu(
  cluster, given, platforms
):
  cluster.program('srun', 'echo "$JAX_PLATFORMS"')
  assert cluster(**given).stdout == f'{platforms}\n'


def test_slurm_asks_for_time_to_save():
  lines = re.findall(r'^#SBATCH (\S+)$', SCRIPT.read_text(), re.MULTILINE)
  assert {'--signal=TERM@120', '--requeue', '--open-mode=append'} <= {*lines}
  # SLURM reads them up to the first command only.
  assert '#SBATCH' not in SCRIPT.read_text().partition('\nset -')[2]


@pytest.fixture(scope='module')
def objects():
  text = (LAUNCH / 'kubernetes-jobset.yaml').read_text()
  return {found['kind']: found for found in yaml.safe_load_all(text)}


@pytest.fixture(scope='module')
def job(objects):
  (replicated,) = objects['JobSet']['spec']['replicatedJobs']
  assert replicated['replicas'] == 1
  return replicated['template']['spec']


def test_jobset_is_what_jax_detects(objects, job):
  jobset = objects['JobSet']
  assert jobset['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert job['completionMode'] == 'Indexed'
  assert job['parallelism'] == job['completions'] > 1
  # JAX looks for the coordinator under the JobSet's own name.
  assert jobset['spec']['network']['enableDNSHostnames'] is True
  assert 'subdomain' not in jobset['spec']['network']
  (role,) = {objects['RoleBinding']['roleRef']['name']}
  assert role == objects['Role']['metadata']['name']
  (subject,) = objects['RoleBinding']['subjects']
  account = objects['ServiceAccount']['metadata']
  assert subject['name'] == account['name']
  assert subject['namespace'] == account['namespace']
  assert job['template']['spec']['serviceAccountName'] == account['name']
  allowed = {
    (resource, verb)
    for rule in objects['Role']['rules']
    for resource in rule['resources']
    for verb in rule['verbs']
  }
  assert allowed == {('pods', 'list'), ('jobs', 'get')}
  assert len({x['metadata']['namespace'] for x in objects.values()}) == 1


def test_jobset_starts_again_for_what_can_be_mended(objects, job):
  disrupted, errors_rule = job['podFailurePolicy']['rules']
  assert disrupted == {
    'action': 'Count',
    'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}],
  }
  codes = errors_rule['onExitCodes']
  assert errors_rule['action'] == 'FailJob'
  assert codes['operator'] == 'NotIn'
  assert {*codes['values']} == AGAIN
  assert {*errors.EXIT_CODES} & AGAIN == {75}
  # What is counted ends the Job at once, and then the JobSet's rules hold.
  assert job['backoffLimit'] == 0
  policy = objects['JobSet']['spec']['failurePolicy']
  assert policy['maxRestarts'] > 0
  actions = {
    reason: rule['action']
    for rule in policy['rules']
    for reason in rule['onJobFailureReasons']
  }
  assert actions == {
    'PodFailurePolicy': 'FailJobSet',
    'BackoffLimitExceeded': 'RestartJobSet',
  }
  names = [rule['name'] for rule in policy['rules']]
  assert len({*names}) == len(names)
  assert all(re.fullmatch('[A-Za-z][A-Za-z0-9_]*', name) for name in names)


def test_jobset_pods_share_a_volume_and_have_time_to_save(objects, job):
  pod = job['template']['spec']
  assert pod['restartPolicy'] == 'Never'
  assert pod['terminationGracePeriodSeconds'] == 120
  (container,) = pod['containers']
  rule = job['podFailurePolicy']['rules'][1]['onExitCodes']
  assert rule['containerName'] == container['name']
  assert container['command'][1:] == ['-m', 'srdl_jax.main', '--distributed']
  assert container['env'] == [{'name': 'JAX_PLATFORMS', 'value': 'cuda,cpu'}]
  mounts = {x['name']: x['mountPath'] for x in container['volumeMounts']}
  volumes = {x.pop('name'): x for x in map(dict, pod['volumes'])}
  assert {*mounts} == {*volumes}
  claim = objects['PersistentVolumeClaim']
  assert claim['spec']['accessModes'] == ['ReadWriteMany']
  assert volumes['shared'] == {
    'persistentVolumeClaim': {'claimName': claim['metadata']['name']}
  }
  (workdir,) = (x for x in container['args'] if x.startswith('--workdir='))
  assert workdir.startswith(f'--workdir={mounts["shared"]}/')
  assert mounts['memory'] == '/dev/shm'


def test_scripts_are_clean():
  scripts = [*LAUNCH.glob('*.sh'), SCRIPT]
  assert len(scripts) == 3
  places = [str(pathlib.Path(sys.executable).parent), os.environ['PATH']]
  shellcheck = shutil.which('shellcheck', path=os.pathsep.join(places))
  assert shellcheck, "it comes with pip install -e '.[test]'"
  run = started.run([shellcheck, '--shell=bash', *map(str, scripts)])
  assert not run.returncode, run.stdout + run.stderr
  assert not any('shellcheck disable' in x.read_text() for x in scripts)
