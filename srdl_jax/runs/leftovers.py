# SPDX-License-Identifier: Apache-2.0
"""What killed processes have left in a run directory."""

import re
import shutil

from srdl_jax import storage
from srdl_jax.runs import directory

# Exactly what this program names so: other files are someone's own.
_SHARED = r'\.shared_[0-9a-f]{32}'
_WRITTEN = (
  rf'(config|model|result|extraction\w*)\.json|metrics\.jsonl|{_SHARED}'
)
_FILE = re.compile(
  rf'{_SHARED}|\.({_WRITTEN})\.\S+\.\d+(\.[0-9a-f]{{16}})?\.tmp'
)
_BANK = re.compile(rf'({directory.SOFT_TARGETS}\w*)\.(partial|earlier)')


def clear(workdir: storage.Path) -> None:
  """Removes it from a directory on disk whose lock is held.

  A bank that was about to be replaced is put back.

  Raises:
    WorkdirError: that isn't possible.
  """
  if storage.is_bucket(workdir):
    return
  stages = [path for path in workdir.glob('stage_*') if path.is_dir()]
  with storage.failures(workdir):
    for path in (p for folder in (workdir, *stages) for p in folder.iterdir()):
      bank = path.parent in stages and _BANK.fullmatch(path.name)
      if _FILE.fullmatch(path.name):
        path.unlink()
      elif bank and path.is_dir() and not path.is_symlink():
        whole = path.with_name(bank[1])
        if bank[2] == 'earlier' and not whole.exists():
          path.rename(whole)
        else:
          shutil.rmtree(path)
