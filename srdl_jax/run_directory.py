# SPDX-License-Identifier: Apache-2.0
"""Where a run keeps its files, and which run a directory belongs to."""

import contextlib
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax import workdir as workdir_lib
from srdl_jax.errors import ConfigError, WorkdirError

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
    WorkdirError: the directory holds no run, or its record is not ours.
  """
  path = workdir / CONFIG
  record = workdir_lib.read_json(path)
  try:
    config = config_lib.from_flat(record['config'])
    config_lib.validate(config)
    return config, str(record['fingerprint'])
  except (KeyError, TypeError, AttributeError, ConfigError) as error:
    raise WorkdirError(
      f'{path} is not the record of a run of this program ({error}).'
    ) from error


def resolve(workdir: str) -> pathlib.Path:
  """Returns the directory that --workdir names.

  Raises:
    WorkdirError: it is a URL.
  """
  if '://' in workdir:
    raise WorkdirError(f'workdir {workdir}: give a local directory, no URL.')
  return pathlib.Path(workdir).expanduser()


def refuse_another(
  workdir: pathlib.Path, config: ConfigDict, fingerprint: str | None = None
) -> None:
  """Checks that a directory has no other run in it; writes nothing.

  Args:
    workdir: may be missing.
    config: of the run.
    fingerprint: of its training split, if it is known yet.

  Raises:
    WorkdirError: names what differs.
  """
  if not (workdir / CONFIG).exists():
    if any(workdir.glob('stage_*')):
      raise WorkdirError(
        f'{workdir} has stages of a run whose {CONFIG} is missing: restore it, '
        'or give another --workdir.'
      )
    return
  there, data_there = load_config(workdir)
  old = config_lib.identity(config_lib.flatten(there))
  new = config_lib.identity(config_lib.flatten(config))
  different = [
    f'{name} ({old[name]!r} there, {new[name]!r} here)'
    for name in new
    if old[name] != new[name]
  ]
  if fingerprint not in (None, data_there):
    different.append(f'the data ({data_there} there, {fingerprint} here)')
  if different:
    raise WorkdirError(
      f'{workdir} holds another run; it differs in {", ".join(different)}. '
      'Give another --workdir.'
    )


@contextlib.contextmanager
def claim(
  workdir: pathlib.Path, config: ConfigDict, fingerprint: str
) -> Iterator[None]:
  """Holds a directory for a run: a new one, or the one it began in.

  Args:
    workdir: created where it is missing.
    config: of the run; its record is renewed, as fields without influence on
      the numbers, such as paths, may have changed.
    fingerprint: of its training split.

  Raises:
    WorkdirError: another run's directory (what differs is named, and nothing
      is written), one that a process holds, or one that can't be written.
  """
  # Before the lock, so that a foreign directory isn't touched; and after it,
  # for the case of two that come at once.
  refuse_another(workdir, config, fingerprint)
  with workdir_lib.lock(workdir):
    refuse_another(workdir, config, fingerprint)
    record = {
      'config': config_lib.flatten(config),
      'fingerprint': fingerprint,
    }
    workdir_lib.write_json(workdir / CONFIG, record)
    yield
