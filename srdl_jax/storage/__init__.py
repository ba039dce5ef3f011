# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, on disks and in buckets."""

from srdl_jax.storage.bucket import (
  Path,
  absolute,
  failures,
  is_bucket,
  path_of,
)
from srdl_jax.storage.files import (
  exists,
  expanded,
  new_folder,
  reachable,
  read_json,
  refuse_other_letters,
  replace,
  write_json,
)
from srdl_jax.storage.locks import is_held, lock
from srdl_jax.storage.telling import ERASE, Told, Unfailing, say

__all__ = [
  'ERASE',
  'Path',
  'Told',
  'Unfailing',
  'absolute',
  'arrays',
  'bucket',
  'exists',
  'expanded',
  'failures',
  'files',
  'is_bucket',
  'is_held',
  'lock',
  'locks',
  'new_folder',
  'path_of',
  'reachable',
  'read_json',
  'refuse_other_letters',
  'replace',
  'say',
  'uploads',
  'write_json',
]
