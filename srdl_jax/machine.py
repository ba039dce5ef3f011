# SPDX-License-Identifier: Apache-2.0
"""What a machine lacks, in one line: a device, memory, or bits."""

import contextlib
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

from srdl_jax.errors import ConfigError, SrdlError

# What XLA says, on any platform, and CUDA's libraries.
_NO_MEMORY = re.compile('RESOURCE_EXHAUSTED|OUT.OF.MEMORY|ALLOC_FAILED', re.I)
# Of JAX, or of the assertion in it, which has no words.
_NO_DEVICE = re.compile('backend|platform|device|^$', re.I)
# Of a container, by the kernel's two ways of telling.
_LIMITS = (
  pathlib.Path('/sys/fs/cgroup/memory.max'),
  pathlib.Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'),
)


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
    if by_jax and _NO_MEMORY.search(str(cause)):
      return _memory(words)
    cause = cause.__cause__
  # Asking for devices may wait for a pod: not at any bug.
  known = isinstance(error, RuntimeError | AssertionError)
  if jax and known and _NO_DEVICE.search(str(error)):
    return _device(jax)
  return None


def check_batch(images: int, shape: Sequence[int]) -> None:
  """Checks that a batch alone, in float32, is no larger than all memory.

  Linux would kill the run without a word.

  Raises:
    ConfigError: it is.
  """
  needed, there = 4 * images * math.prod(shape), total_memory()
  if needed > there:
    raise _memory(
      f'a batch of {images} images of {" x ".join(map(str, shape))} has '
      f'{needed / 1e9:,.1f} GB, this machine {there / 1e9:,.1f} GB'
    )


def counted(steps: list[int]) -> list[int]:
  """Returns stages' steps, which 32 bits count.

  Raises:
    ConfigError: there are more of them.
  """
  if sum(steps) >= 2**31:
    raise ConfigError(
      f'epochs make {sum(steps):,} steps, but they are counted up to 2**31 - 1.'
    )
  return steps


def total_memory() -> int:
  """Returns how much memory a process can have at most, in bytes."""
  limits = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
  for file in _LIMITS:
    with contextlib.suppress(OSError, ValueError):
      limits.append(int(file.read_text()))
  return min(limits)


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
    words = ' '.join(str(error).partition(' (set JAX_PLATFORMS')[0].split())
    platforms = (jax.config.jax_platforms or '').strip()
    return ConfigError(
      f'No such device here: JAX_PLATFORMS={platforms}'
      f'{words and f" ({words})"}; set JAX_PLATFORMS=cpu, or install the extra '
      "for it, srdl_jax[cuda] or srdl_jax[tpu], and the device's driver."
    )
  return None
