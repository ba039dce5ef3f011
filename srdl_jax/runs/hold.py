# SPDX-License-Identifier: Apache-2.0
"""A run directory held by the processes of one run, which all see it."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from srdl_jax import config as config_lib
from srdl_jax import storage
from srdl_jax.errors import ConfigError, DataError, WorkdirError
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import formats, leftovers, processes
from srdl_jax.storage import bucket

# Fields in which processes may differ.
_OF_A_MACHINE = (
  'data.data_dir',
  'data.manual_dir',
  'data.download',
  'data.path',
  'data.workers',
  'init.from_path',
  'teacher.workdir',
)
# A network file system may remember for seconds that a name was not there, and
# end a dead machine's hold after a minute.
SECONDS_TO_SEE = 30.0
SECONDS_TO_LOCK = 60.0


@contextlib.contextmanager
def claim(
  workdir: storage.Path, identity: run_directory.Identity, test_data: str
) -> Iterator[None]:
  """Holds a directory for a run: a new one, or the one it began in.

  Args:
    workdir: created where it is missing.
    identity: of the run; until that is finished, what is on disk is renewed, as
      fields without influence on the numbers, such as paths, may have changed.
    test_data: fingerprint of its test split.

  Of several processes the first holds it for all.

  Raises:
    ConfigError, DataError: the processes have other configurations or data.
    WorkdirError: another run's directory (what differs is named, and nothing
      is written), one that a process holds, one that can't be written, or that
      not all processes share.
  """
  _check_same(identity, test_data)
  with contextlib.ExitStack() as hold:
    if processes.is_first():
      # Before the lock, so that a foreign directory isn't touched; and after
      # it, for the case of two that come at once.
      run_directory.refuse_another(workdir, identity.config, identity)
      patience = {'patience': SECONDS_TO_LOCK} if processes.several() else {}
      hold.enter_context(storage.lock(workdir, **patience))
      run_directory.refuse_another(workdir, identity.config, identity)
      leftovers.clear(workdir)
      if not storage.exists(workdir / run_directory.RESULT):
        _write(workdir, identity)
    _check_shared(workdir)
    yield


def finish(workdir: storage.Path, result: dict[str, Any]) -> None:
  """Writes what a run has found, once for all of its processes."""
  if processes.is_first():
    storage.write_json(workdir / run_directory.RESULT, formats.sealed(result))
  processes.wait('result')


def _write(workdir: storage.Path, identity: run_directory.Identity) -> None:
  config = {'config': config_lib.flatten(identity.config)}
  content = formats.stamp() | vars(identity) | config
  storage.write_json(workdir / run_directory.CONFIG, content)


def _check_same(identity: run_directory.Identity, test_data: str) -> None:
  # What differs would have them make other calls, and hang for ever.
  fields = {
    name: value
    for name, value in config_lib.flatten(identity.config).items()
    if name not in _OF_A_MACHINE
  }
  if not processes.all_have(json.dumps(fields)):
    raise ConfigError(
      'The processes of this run have different configurations: start all with '
      'one command.'
    )
  found = [identity.fingerprint, test_data, identity.ranked]
  found += [identity.weights, identity.teacher]
  if not processes.all_have(json.dumps(found)):
    raise DataError(
      'The processes have read different data, weights or teachers: give them '
      'copies of one.'
    )


def _check_shared(workdir: storage.Path) -> None:
  """Has all processes read what the first has written."""
  # No killed run can have left a file of this name behind.
  token = processes.first_ones(os.urandom(16))
  path = workdir / f'.shared_{token.hex()}'
  if processes.is_first():
    storage.replace(path, b'')
  processes.wait('workdir')
  seconds = SECONDS_TO_SEE if processes.several() else 0.0
  # All have looked once any_says returns: then the file may go.
  alone = processes.any_says(not _appears(path, seconds))
  if processes.is_first():
    with storage.failures(path):
      path.unlink(missing_ok=True)
  if alone:
    raise WorkdirError(
      f'{workdir} is not the same directory for all processes: give one that '
      'they share, such as on a network file system.'
    )


def _appears(path: storage.Path, seconds: float) -> bool:
  """Whether a file is there, or comes to be seen within some seconds."""
  deadline = time.monotonic() + seconds
  while not storage.exists(path):
    if time.monotonic() >= deadline:
      return False
    time.sleep(min(0.2, seconds))
    # Reading the folder has its names looked up again.
    with contextlib.suppress(*bucket.errors_of(path)):
      next(path.parent.iterdir(), None)
  return True
