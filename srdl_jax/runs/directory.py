# SPDX-License-Identifier: Apache-2.0
"""Where a run keeps its files, and which run a directory belongs to."""

import dataclasses
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax import storage
from srdl_jax.errors import ConfigError, WorkdirError
from srdl_jax.runs import formats
from srdl_jax.storage import bucket

CONFIG = 'config.json'
RESULT = 'result.json'
SOFT_TARGETS = 'soft_targets'


def checkpoints(workdir: storage.Path, stage: int) -> storage.Path:
  """Returns where a stage, numbered from 1, keeps its checkpoints."""
  return workdir / f'stage_{stage}' / 'checkpoints'


def soft_targets(
  workdir: storage.Path, stage: int, views: int = 0
) -> storage.Path:
  """Returns where the soft targets of a stage's end lie.

  Those that are means over augmented views lie apart: several kinds of
  students may learn from one finished run.
  """
  suffix = f'_{views}_views' if views else ''
  return workdir / f'stage_{stage}' / f'{SOFT_TARGETS}{suffix}'


@dataclasses.dataclass(frozen=True)
class Identity:
  """Which run a directory belongs to.

  Attributes:
    fingerprint: of its training split.
    weights: digest of the weights that it started from, or None.
    teacher: digest of the imported network that teaches it, or None.
    ranked: fingerprint of the images that its test ranks, or None.
  """

  config: ConfigDict
  fingerprint: str
  weights: str | None = None
  teacher: str | None = None
  ranked: str | None = None


def refuse_newer(workdir: storage.Path) -> Any:
  """Returns what is in the record of a run, of whatever program.

  Raises:
    WorkdirError: there is none, or a later version wrote it.
  """
  record = storage.read_json(workdir / CONFIG)
  if isinstance(record, dict):
    formats.refuse_newer(workdir / CONFIG, record)
  return record


def load_identity(workdir: storage.Path) -> Identity:
  """Returns which run a directory belongs to.

  Raises:
    WorkdirError: the directory holds no run, or its record is not ours, or of a
      later version.
  """
  path = workdir / CONFIG
  record = refuse_newer(workdir)
  try:
    config = config_lib.from_flat(record['config'])
    config_lib.validate(config)
    others = {n: record.get(n) for n in ('weights', 'teacher', 'ranked')}
    return Identity(config, str(record['fingerprint']), **others)
  except (KeyError, TypeError, AttributeError, ConfigError) as error:
    raise WorkdirError(
      f'{path} is not the record of a run of this program ({error}).'
    ) from error


def resolve(workdir: str) -> storage.Path:
  """Returns the directory that --workdir names: here, or in a bucket.

  Raises:
    WorkdirError: it is a URL, but not that of a folder in a bucket.
    ConfigError: what reaches buckets isn't installed.
  """
  if not storage.is_bucket(workdir):
    return local(workdir)
  if not bucket.FOLDER.fullmatch(workdir):
    raise WorkdirError(f'workdir {workdir}: give gs://BUCKET/FOLDER.')
  return storage.path_of(workdir)


def local(workdir: str, name: str = 'workdir') -> pathlib.Path:
  """Returns a directory or file of this machine; `name` is for the message.

  Raises:
    WorkdirError: it is a URL, or one may not look into it.
    ConfigError: it isn't UTF-8, or there is no home directory.
  """
  workdir = os.fspath(workdir)
  if '://' in workdir:
    raise WorkdirError(
      f'{name} {workdir}: give a path of this machine, no URL (mount the '
      'bucket, or copy what is in it).'
    )
  path = storage.reachable(workdir, name, WorkdirError)
  storage.refuse_other_letters(path, name)
  return path


def differences(
  there: Identity, config: ConfigDict, identity: Identity | None = None
) -> dict[str, tuple[Any, Any]]:
  """Returns what a run of another identity has otherwise: theirs, and ours.

  Args:
    config: ours.
    identity: ours, once data and weights are known.
  """
  old, new = (
    config_lib.identity(config_lib.flatten(one))
    for one in (there.config, config)
  )
  pairs = {name: (old[name], new[name]) for name in new}
  if identity is not None:
    pairs['the data'] = there.fingerprint, identity.fingerprint
    pairs['the weights that it starts from'] = there.weights, identity.weights
    pairs['the images that are ranked'] = there.ranked, identity.ranked
    pairs['the imported teacher'] = there.teacher, identity.teacher
  return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def refuse_another(
  workdir: storage.Path, config: ConfigDict, identity: Identity | None = None
) -> None:
  """Checks that a directory has no other run in it; writes nothing.

  Args:
    workdir: may be missing.
    identity: given once data and weights have been read.

  Raises:
    WorkdirError: names what differs, or why nothing can be read there.
  """
  with storage.failures(workdir, 'read'):
    begun = (workdir / CONFIG).exists()
    stages = not begun and any(workdir.glob('stage_*'))
  if stages:
    raise WorkdirError(
      f'{workdir} has stages of a run whose {CONFIG} is missing: restore it, '
      'or give another --workdir.'
    )
  if not begun:
    return
  different = [
    f'{name} ({theirs!r} there, {ours!r} here)'
    for name, (theirs, ours) in differences(
      load_identity(workdir), config, identity
    ).items()
  ]
  if different:
    raise WorkdirError(
      f'{workdir} holds another run; it differs in {", ".join(different)}. '
      'Give another --workdir.'
    )
