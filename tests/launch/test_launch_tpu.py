# SPDX-License-Identifier: Apache-2.0
"""launch/tpu_pod.sh, run for real on a made pod."""

import shlex

import pytest
import started
from fake_pod import Pod


@pytest.fixture
def pod(tmp_path):
  return Pod(tmp_path)


def verbs(calls):
  return [call[3] for call in calls]


def test_create_asks_for_a_spot_pod_and_waits_for_it(pod):
  pod.states_of_new('WAITING_FOR_RESOURCES PROVISIONING ACTIVE')
  run = pod('create', '--name=n', '--type=v6e-16', '--project=my p')
  assert run.returncode == 0
  calls = pod.calls()
  where = ['--quiet', '--zone=us-central2-b', '--project=my p']
  assert calls[0] == [
    *['compute', 'tpus', 'queued-resources', 'create', 'n', '--node-id=n'],
    *['--accelerator-type=v6e-16', '--runtime-version=v2-alpha-tpuv6e'],
    *['--spot', *where],
  ]
  describe = ['compute', 'tpus', 'queued-resources', 'describe', 'n']
  assert calls[1:] == [[*describe, '--format=value(state.state)', *where]] * 3
  assert 'n: PROVISIONING' in run.stderr


def test_create_takes_flags_and_variables(pod):
  flags = {'TPU_CREATE_FLAGS': '--network=a --tags=b', 'TPU_VERSION': 'image'}
  assert pod('create', '--on-demand', **flags).returncode == 0
  create = pod.calls()[0]
  assert '--spot' not in create
  assert {'--network=a', '--tags=b', '--runtime-version=image'} <= {*create}


def test_create_fails_with_the_request(pod):
  pod.states_of_new('PROVISIONING FAILED')
  run = pod('create')
  assert run.returncode
  assert 'srdl: FAILED' in run.stderr


def test_setup_copies_the_checkout_and_installs_it(pod):
  pod.ready()
  for worker in range(2):
    home = pod.root / f'worker{worker}'
    names = {path.name for path in (home / 'srdl').iterdir()}
    assert {'a b.py', '.git', 'launch', 'setup.py'} <= names
    assert not {'runs', 'gone.py'} & names
    venv, pip, *_ = (home / 'uv').read_text().splitlines()
    assert venv.split()[:4] == ['venv', '--quiet', '--python', '3.12']
    assert pip.endswith(f'--editable {home}/srdl[tpu]')
    assert '--constraint' not in pip


def test_a_pod_is_made_again_with_the_versions_of_the_first(pod):
  pod.ready()
  kept = pod.repository / 'runs' / 'tpu_srdl.txt'
  assert kept.read_text().split() == ['jax==0.12.0', 'flax==0.12.8']
  kept.write_text('jax==0.11.9\n')
  again = pod('setup')
  assert again.returncode == 0
  assert 'remove it to have newer ones' in again.stderr
  for worker in range(2):
    home = pod.root / f'worker{worker}'
    assert (home / 'srdl_constraints.txt').read_text() == kept.read_text()
    *_, pip = (home / 'uv').read_text().splitlines()
    assert f'--constraint {home}/srdl_constraints.txt' in pip
  kept.unlink()
  assert pod('setup').returncode == 0
  assert kept.read_text().split() == ['jax==0.12.0', 'flax==0.12.8']
  # The last line is worker 0's, which tells the versions.
  *_, pip = (pod.root / 'worker1' / 'uv').read_text().splitlines()
  assert '--constraint' not in pip


def test_a_machine_that_is_down_does_not_hold_ssh(pod):
  pod.ready()
  pod('status')
  for call in pod.calls():
    told = '--ssh-flag=-o ConnectTimeout=20' in call
    assert told == (call[3] == 'ssh')


def test_run_passes_arguments_and_returns_zero(pod):
  pod.ready()
  arguments = ['--config=a.py:b=c', '--workdir=gs://b/x y', "it's", '$HOME']
  run = pod('run', '--', *arguments)
  assert run.returncode == 0, run.stderr
  for worker in range(2):
    given = (pod.root / f'worker{worker}' / 'arguments').read_text()
    assert given.splitlines() == [
      *['-m', 'srdl_jax.main', '--distributed', *arguments]
    ]
    # A host without its TPU must not train on its CPU.
    platforms = pod.root / f'worker{worker}' / 'platforms'
    assert platforms.read_text() == 'tpu,cpu\n'
  assert pod.starts(0) == pod.starts(1) == 1


# What can't start the training is asked whether it answers.
@pytest.mark.parametrize(('command', 'calls'), [('srdl', 2), ('state', 1)])
def test_a_worker_that_is_out_of_reach_for_a_while_ends_nothing(
  pod, command, calls
):
  pod.training('until [[ -e $FAKE/starts1 ]]; do sleep 0.05; done')
  pod.ready()
  pod.silent(command, 1, 3 * calls)
  run = pod('run', TPU_MISSES='4')
  assert run.returncode == 0, run.stderr
  assert 'not all workers answer (3 of 4)' in run.stderr
  assert 'create' not in verbs(pod.calls())
  assert pod.starts(0) == pod.starts(1) == 1


@pytest.mark.parametrize(('command', 'calls'), [('srdl', 2), ('state', 1)])
def test_a_worker_that_stays_out_of_reach_is_replaced_with_its_pod(
  pod, command, calls
):
  pod.training('[[ -e $FAKE/deleted ]] || sleep 600')
  pod.ready()
  pod.silent(command, 1, 4 * calls)
  run = pod('run', TPU_MISSES='4')
  assert run.returncode == 0, run.stderr
  assert verbs(pod.calls()).count('create') == 1
  assert 'a new one is made (1)' in run.stderr


def test_a_start_that_fails_on_workers_that_answer_costs_no_pod(pod):
  pod.ready()
  (pod.root / 'worker1' / 'srdl_run').write_text('a full disk')
  run = pod('run')
  assert run.returncode == 1
  assert 'could not be started' in run.stderr
  assert not {'create', 'delete'} & {*verbs(pod.calls())}


def test_what_gcloud_cannot_tell_costs_no_pod(pod):
  """Its own connection may be the one that is lost."""
  pod.ready()
  pod.silent('state', 1, 9)
  pod.states('UNKNOWN ' * 8 + 'ACTIVE')
  run = pod('run', TPU_MISSES='3')
  assert run.returncode == 0, run.stderr
  assert 'create' not in verbs(pod.calls())


def test_a_known_error_is_not_waited_for_beside_a_silent_worker(pod):
  pod.training('((W == 0)) && exit 3; sleep 600')
  pod.ready()
  pod.silent('state', 1, 1000)
  assert pod('run').returncode == 3
  pod('delete', '--yes')


@pytest.mark.parametrize(
  ('training', 'code', 'starts'),
  [
    # Killed; the other one notices and aborts.
    ('((N > 1)) || ((W == 0)) || kill -KILL $$; ((N > 1)) || exit 134', 0, 2),
    # The group, as when the whole machine is lost: nothing is written down.
    ('((N > 1)) || kill -KILL 0', 0, 2),
    ('((W == 0)) && exit 134; after 0; exit 3', 3, 1),
    ('((W == 1)) && exit 1; after 1; exit 134', 1, 1),
    ('((N > 1)) && exit 0; ((W == 1)) && exit 143; after 1; exit 1', 0, 2),
    ('exit 75', 75, 3),
  ],
)
def test_run_starts_again_what_can_be_mended(pod, training, code, starts):
  pod.training(training)
  pod.ready()
  run = pod('run', TPU_RESTARTS='2')
  assert run.returncode == code, run.stderr
  assert pod.starts(0) == pod.starts(1) == starts


def test_a_worker_that_hangs_is_killed(pod):
  pod.training('((N > 1)) && exit 0; ((W == 0)) && exit 134; sleep 600')
  pod.ready()
  run = pod('run', TPU_GRACE='0')
  assert run.returncode == 0, run.stderr
  assert pod.starts(1) == 2


def test_preemption_makes_a_new_pod_and_goes_on(pod):
  pod.training(
    '((N > 1)) && exit 0; sleep 0.2; echo SUSPENDED >"$FAKE/states"; sleep 600'
  )
  pod.ready()
  run = pod('run', '--', '--workdir=w')
  assert run.returncode == 0, run.stderr
  calls = verbs(pod.calls())
  delete = calls.index('delete')
  # The second copy is of the versions that the first pod has had.
  assert calls[delete : delete + 8] == [
    *['delete', 'create', 'describe', 'scp', 'ssh', 'scp', 'ssh', 'ssh']
  ]
  assert pod.starts(0) == pod.starts(1) == 2
  assert 'a new one is made (1)' in run.stderr


def test_new_pods_are_counted(pod):
  pod.ready()
  pod.states('SUSPENDED')
  pod.states_of_new('PROVISIONING SUSPENDED')
  assert pod('run', TPU_RECREATIONS='2').returncode == 75
  assert verbs(pod.calls()).count('create') == 2


def test_run_without_a_pod_or_setup_says_so(pod):
  run = pod('run')
  assert run.returncode == 2
  assert 'create it first' in run.stderr
  pod('create')
  run = pod('run')
  assert run.returncode == 1
  assert 'setup' in run.stderr


def test_stop_saves_and_run_can_be_watched_again(pod):
  # With a worker that reads data: the signal isn't for it.
  loop = 'while :; do sleep 0.05; done'
  pod.training(
    f'(trap "touch ~/disturbed" TERM; {loop}) & '
    f'trap "touch ~/saved; exit 75" TERM; {loop}'
  )
  pod.ready()
  watching = pod.watch('run')
  pod.wait_for('state')
  watching.terminate()
  assert (
    'the training goes on' in watching.communicate(timeout=started.SECONDS)[1]
  )
  assert pod('status').stdout.count('srdl-state running') == 2
  pod.calls()
  watching = pod.watch('run')
  pod.wait_for('state')
  assert pod('stop').returncode == 0
  _, errors = watching.communicate(timeout=started.SECONDS)
  assert watching.returncode == 75
  assert 'the training was stopped' in errors
  for worker in range(2):
    home = pod.root / f'worker{worker}'
    assert (home / 'saved').exists()
    assert not (home / 'disturbed').exists()
    assert pod.starts(worker) == 1


def test_status_and_logs_show_the_pod_and_its_lines(pod):
  pod.training('echo "last line of $W"; exit 0')
  pod.ready()
  pod('run')
  status = pod('status')
  assert 'srdl: ACTIVE' in status.stderr
  assert status.stdout.count('srdl-state ended 0') == 2
  for worker in range(2):
    assert f'last line of {worker}' in status.stdout
  assert 'start 1' not in status.stdout
  assert pod('logs').stdout.count('start 1') == 2


def test_delete_asks_first(pod):
  pod.ready()
  assert pod('delete').returncode == 2
  assert not pod.calls()
  assert pod('delete', '--yes').returncode == 0
  (call,) = pod.calls()
  assert call[2:6] == ['queued-resources', 'delete', 'srdl', '--force']


@pytest.mark.parametrize(
  'command',
  ['create', 'setup', 'run', 'status', 'logs', 'stop', 'delete'],
)
def test_dry_run_calls_nothing(pod, command):
  arguments = ['--dry-run', command, '--project=a b', '--', "--workdir=x y'z"]
  run = pod(*arguments)
  assert run.returncode == 0, run.stderr
  assert not pod.calls()
  lines = [x for x in run.stdout.splitlines() if not x.startswith('#')]
  words = [shlex.split(line) for line in lines]
  assert words
  assert all(line[:3] == ['gcloud', 'compute', 'tpus'] for line in words)
  assert all('--project=a b' in line for line in words)
  if command == 'run':
    (start,) = (x for x in words[1] if x.startswith('--command='))
    assert shlex.split(start)[-1] == "--workdir=x y'z"


def test_dry_run_prints_what_is_run(pod):
  dry = pod('create', '--dry-run').stdout
  pod('create')
  assert [shlex.split(line)[1:] for line in dry.splitlines()] == pod.calls()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['creat'], "no command 'creat'"),
    ([], "no command ''"),
    (['create', '--zne=a'], "no flag '--zne=a'"),
    (['create', '--type=v99-8'], 'give --version'),
  ],
)
def test_wrong_words_are_code_2(pod, arguments, message):
  run = pod(*arguments)
  assert run.returncode == 2
  assert message in run.stderr
  assert not pod.calls()
