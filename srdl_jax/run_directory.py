# SPDX-License-Identifier: Apache-2.0
"""Where a run keeps its files, and which run a directory belongs to."""

import contextlib
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax import workdir as workdir_lib
from srdl_jax.errors import WorkdirError

CONFIG = 'config.json'
RESULT = 'result.json'


def checkpoints(workdir: pathlib.Path, stage: int) -> pathlib.Path:
  """Returns where a stage, numbered from 1, keeps its checkpoints."""
  return workdir / f'stage_{stage}' / 'checkpoints'


def soft_targets(workdir: pathlib.Path, stage: int) -> pathlib.Path:
  """Returns where the soft targets of a stage's end lie."""
  return workdir / f'stage_{stage}' / 'soft_targets'


def load_config(workdir: pathlib.Path) -> tuple[ConfigDict, str]:
  """Returns a run's configuration and its data set's fingerprint.

  Raises:
    WorkdirError: the directory holds no run.
  """
  record = workdir_lib.read_json(workdir / CONFIG)
  return config_lib.from_flat(record['config']), record['fingerprint']


@contextlib.contextmanager
def claim(
  workdir: str, config: ConfigDict, fingerprint: str
) -> Iterator[pathlib.Path]:
  """Holds a directory for a run: a new one, or the one it began in.

  Args:
    workdir: created where it is missing.
    config: of the run.
    fingerprint: of its training split.

  Yields:
    The directory.

  Raises:
    WorkdirError: another run's directory (what differs is named, and nothing
      is written), one that a process holds, or one that can't be written.
  """
  directory = pathlib.Path(workdir)
  # Before the lock, so that a foreign directory isn't touched; and after it,
  # for the case of two that come at once.
  _refuse_another(directory, config, fingerprint)
  with workdir_lib.lock(directory):
    _refuse_another(directory, config, fingerprint)
    if not (directory / CONFIG).exists():
      record = {
        'config': config_lib.flatten(config),
        'fingerprint': fingerprint,
      }
      workdir_lib.write_json(directory / CONFIG, record)
    yield directory


def _refuse_another(
  directory: pathlib.Path, config: ConfigDict, fingerprint: str
) -> None:
  if not (directory / CONFIG).exists():
    return
  there, data_there = load_config(directory)
  old = config_lib.identity(config_lib.flatten(there))
  new = config_lib.identity(config_lib.flatten(config))
  different = [
    f'{name} ({old[name]!r} there, {new[name]!r} here)'
    for name in new
    if old[name] != new[name]
  ]
  if data_there != fingerprint:
    different.append(
      f'the data ({data_there} there, {fingerprint} here)'
    )
  if different:
    raise WorkdirError(
      f'{directory} holds another run; it differs in {", ".join(different)}. '
      'Give another --workdir.'
    )
