# SPDX-License-Identifier: Apache-2.0
"""Compiled programs, which the processes of a session of tests share."""

import contextlib
import os
import pathlib
import tempfile

# Names the directory to every process. It isn't jax's own variable, because a
# process that isn't arranged for it would write where others read.
VARIABLE = 'SRDL_COMPILED'


@contextlib.contextmanager
def directory():
  """A new directory for a session's programs, removed at the end."""
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
    os.environ[VARIABLE] = made
    yield
    del os.environ[VARIABLE]


def share() -> None:
  """Makes this process read and write the session's programs, if any."""
  if VARIABLE not in os.environ:
    return
  import jax
  from jax._src import lru_cache

  def put(self, key, value):
    # jax writes a file in place, of which others may read a half.
    path = pathlib.Path(self.path) / f'{key}-cache'
    if not path.exists():
      part = path.with_suffix(f'.{os.getpid()}')
      part.write_bytes(value)
      part.rename(path)

  lru_cache.LRUCache.put = put
  jax.config.update('jax_compilation_cache_dir', os.environ[VARIABLE])
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@contextlib.contextmanager
def not_shared():
  """Everything is compiled, as by a process that is alone."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  # jax asks once whether there are programs, and remembers.
  try:
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', True)
    compilation_cache.reset_cache()
