# SPDX-License-Identifier: Apache-2.0
"""A run directory held by the processes of one run, which all see it."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from srdl_jax import config as config_lib
from srdl_jax import processes, run_directory
from srdl_jax import workdir as workdir_lib
from srdl_jax.errors import ConfigError, DataError, WorkdirError

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


@contextlib.contextmanager
def claim(
  workdir: pathlib.Path, record: run_directory.Record, test_data: str
) -> Iterator[None]:
  """Holds a directory for a run: a new one, or the one it began in.

  Args:
    workdir: created where it is missing.
    record: of the run; what is on disk is renewed, as fields without influence
      on the numbers, such as paths, may have changed.
    test_data: fingerprint of its test split.

  Of several processes the first holds it for all.

  Raises:
    ConfigError, DataError: the processes have other configurations or data.
    WorkdirError: another run's directory (what differs is named, and nothing
      is written), one that a process holds, one that can't be written, or that
      not all processes share.
  """
  _check_same(record, test_data)
  with contextlib.ExitStack() as hold:
    if processes.is_first():
      # Before the lock, so that a foreign directory isn't touched; and after
      # it, for the case of two that come at once.
      run_directory.refuse_another(workdir, record.config, record)
      hold.enter_context(workdir_lib.lock(workdir))
      run_directory.refuse_another(workdir, record.config, record)
      _write(workdir, record)
    _check_shared(workdir)
    yield


def finish(workdir: pathlib.Path, result: dict[str, Any]) -> None:
  """Writes what a run has found, once for all of its processes."""
  if processes.is_first():
    workdir_lib.write_json(workdir / run_directory.RESULT, result)
  processes.wait('result')


def _write(workdir: pathlib.Path, record: run_directory.Record) -> None:
  content = {
    'config': config_lib.flatten(record.config),
    'fingerprint': record.fingerprint,
    'weights': record.weights,
    'teacher': record.teacher,
  }
  workdir_lib.write_json(workdir / run_directory.CONFIG, content)


def _check_same(record: run_directory.Record, test_data: str) -> None:
  """Compares what the processes are about to do, and with what."""
  fields = {
    name: value
    for name, value in config_lib.flatten(record.config).items()
    if name not in _OF_A_MACHINE
  }
  if not processes.all_have(json.dumps(fields)):
    raise ConfigError(
      'The processes of this run have different configurations: start all with '
      'one command.'
    )
  found = (record.fingerprint, test_data, record.weights, record.teacher)
  if not processes.all_have(json.dumps(found)):
    raise DataError(
      'The processes have read different data, weights or teachers: give them '
      'copies of one.'
    )


def _check_shared(workdir: pathlib.Path) -> None:
  """Has all processes read what the first has written."""
  token = processes.first_ones(os.urandom(16))
  path = workdir / f'.shared_{token.hex()}'
  if processes.is_first():
    workdir_lib.replace_file(path, b'')
  processes.wait('workdir')
  alone = processes.any_says(not path.exists())
  if processes.is_first():
    path.unlink(missing_ok=True)
  if alone:
    raise WorkdirError(
      f'{workdir} is not the same directory for all processes: give one that '
      'they share, such as on a network file system.'
    )
