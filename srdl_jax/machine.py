# SPDX-License-Identifier: Apache-2.0
"""What a machine lacks, in one line: a device, or memory."""

import contextlib
import re
import sys
from collections.abc import Iterator

from srdl_jax.errors import ConfigError, SrdlError

# What XLA says, on any platform, and CUDA's libraries.
_NO_MEMORY = re.compile('RESOURCE_EXHAUSTED|OUT.OF.MEMORY|ALLOC_FAILED', re.I)


@contextlib.contextmanager
def lacking() -> Iterator[None]:
  """Tells as known errors what other libraries raise for want of something."""
  try:
    yield
  except SrdlError:
    raise
  except Exception as error:
    known = lack(error)
    if known is None:
      raise
    raise known from error


def lack(error: BaseException) -> SrdlError | None:
  """Returns the known error for that of another library, None for a bug."""
  # Who never imported it has no trouble with it.
  jax, cause = sys.modules.get('jax'), error
  while cause is not None:
    words = ' '.join(str(cause).split())[:200]
    if isinstance(cause, MemoryError):
      return _memory(words)
    by_jax = jax and isinstance(cause, jax.errors.JaxRuntimeError)
    if by_jax and _NO_MEMORY.search(words):
      return _memory(words)
    cause = cause.__cause__
  if jax and isinstance(error, RuntimeError | AssertionError):
    return _device(jax)
  return None


def _memory(words: str) -> ConfigError:
  return ConfigError(
    f'Too little memory{words and f" ({words})"}. Of a run, a smaller '
    'batch_size, eval.batch_size or data.image_size needs less, and so does '
    'model.remat = True.'
  )


def _device(jax) -> ConfigError | None:
  """Returns what is wrong if JAX has no device to compute on."""
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    # Of a platform without its plugin JAX asserts, and says nothing.
    words = str(error).partition(' (set JAX_PLATFORMS')[0]
    return ConfigError(
      f'No such device here: JAX_PLATFORMS={jax.config.jax_platforms or ""}'
      f'{words and f" ({words})"}; set JAX_PLATFORMS=cpu, or install the extra '
      "for it, srdl_jax[cuda] or srdl_jax[tpu], and the device's driver."
    )
  return None
