# SPDX-License-Identifier: Apache-2.0
"""The format of what a run writes, and which formats are read.

1  version 0.1.0: neither config.json nor checkpoints say their format
2  both say it, and the version of the program that wrote them; result.json
   says it, too, and is sealed

Of every format, a checkpoint's record has its digest beside it: a record that
does not fit that is damaged, whatever format it tells.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from srdl_jax import __version__
from srdl_jax.errors import WorkdirError

FORMAT = 2


def stamp() -> dict[str, int | str]:
  """Returns what a record says of its making."""
  return {'format': FORMAT, 'version': __version__}


def refuse_newer(
  path: str | os.PathLike[str], record: Mapping[str, Any]
) -> None:
  """Checks that the record of a file can be read.

  Raises:
    WorkdirError: a later version wrote it, in a format not known yet.
  """
  found = record.get('format', 1)
  if found not in range(1, FORMAT + 1):
    raise WorkdirError(
      f'{path} is of format {found!r}, written by version '
      f'{record.get("version", "unknown")}; this version, {__version__}, reads '
      f'formats up to {FORMAT}: take that version of the program.'
    )


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a record with its making, and a digest over all of its content."""
  record = {**record, **stamp()}
  return {**record, 'digest': digest(record)}


def check_seal(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
  """Checks that a record is what was sealed; one of format 1 has no seal.

  Raises:
    WorkdirError: it isn't, or a later version wrote it.
  """
  refuse_newer(path, record)
  bare = {name: value for name, value in record.items() if name != 'digest'}
  found = record.get('digest')
  if found != (digest(bare) if 'format' in record or found else None):
    raise WorkdirError(
      f'{path} is damaged: its content is not what was written. Move it away '
      "and run the run's own command again."
    )


def digest(record: Mapping[str, Any]) -> str:
  """Returns a SHA-256, in hex, of what JSON holds."""
  # As it reads back: keys that aren't strings yet would sort differently.
  plain = json.loads(json.dumps(record))
  return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
