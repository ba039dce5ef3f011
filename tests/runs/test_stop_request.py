# SPDX-License-Identifier: Apache-2.0
"""Signals that ask a run to end, and those that end it."""

import os
import signal
import sys

import pytest
import started

from srdl_jax.runs import stop_request

PROGRAM = """
import os, signal
from srdl_jax.runs import stop_request
with stop_request.listen() as stop:
  for name in {names}:
    os.kill(os.getpid(), signal.Signals[name])
  print(stop.signal_name)
"""


def noted(*names, **options):
  program = PROGRAM.format(names=names)
  return started.run([sys.executable, '-c', program], **options)


@pytest.mark.parametrize('name', ['INT', 'TERM', 'HUP', 'USR1', 'USR2', 'XCPU'])
def test_what_asks_a_run_to_end_is_noted(name):
  before = signal.getsignal(signal.Signals[f'SIG{name}'])
  with stop_request.listen() as stop:
    os.kill(os.getpid(), signal.Signals[f'SIG{name}'])
    assert stop and stop.signal_name == f'SIG{name}'
  assert signal.getsignal(signal.Signals[f'SIG{name}']) == before


def test_a_terminal_that_closes_says_so_more_than_once():
  ended = noted('SIGHUP', 'SIGHUP', 'SIGUSR1')
  assert (ended.returncode, ended.stdout) == (0, 'SIGHUP\n')


def test_who_insists_ends_it_at_once():
  assert noted('SIGINT', 'SIGTERM').returncode == -signal.SIGTERM
  # A scheduler's warning comes before it asks.
  assert noted('SIGUSR1', 'SIGTERM').returncode == 0
  assert noted('SIGUSR1', 'SIGTERM', 'SIGTERM').returncode == -signal.SIGTERM


def test_nohup_is_left_alone():
  program = 'import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)'
  program += PROGRAM.format(names=('SIGHUP',))
  ended = started.run([sys.executable, '-c', program])
  assert (ended.returncode, ended.stdout) == (0, '\n')


def test_a_terminal_that_is_gone_is_no_error():
  program = 'import os; os.close(2)' + PROGRAM.format(names=('SIGHUP',))
  ended = started.run([sys.executable, '-c', program])
  assert (ended.returncode, ended.stdout) == (0, 'SIGHUP\n')
