# SPDX-License-Identifier: Apache-2.0
"""Which devices a run uses, and what a machine lacks: devices, memory, bits."""

import contextlib
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from srdl_jax.errors import ConfigError, SrdlError

if TYPE_CHECKING:
  # Commands ask here before it is imported.
  import jax

__all__ = [
  'check_batch',
  'choose_devices',
  'counted',
  'lack',
  'lacking',
  'steps_per_dispatch',
  'total_memory',
  'tpu',
]

# Between two dispatches alone can a run save, or end when it is asked to.
MOST_STEPS = 100
# Of a CPU device: with fewer, what it waits for the others outweighs its help.
LEAST_IMAGES = 32
# What XLA says, on any platform, and CUDA's libraries.
_NO_MEMORY = re.compile('RESOURCE_EXHAUSTED|OUT.OF.MEMORY|ALLOC_FAILED', re.I)
# Of JAX, or of the assertion in it, which has no words.
_NO_DEVICE = re.compile('backend|platform|device|^$', re.I)
# Of a container, by the kernel's two ways of telling.
_LIMITS = (
  pathlib.Path('/sys/fs/cgroup/memory.max'),
  pathlib.Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'),
)


def choose_devices(
  count: int, batch_size: int, multiple: int = 1
) -> list['jax.Device']:
  """Returns the first `count` devices of the default backend.

  0 means all, but of a single process's CPU devices, which share the cores, as
  many as split a batch into equal parts of at least LEAST_IMAGES.

  Args:
    multiple: of which each device's part of a batch must be one.

  Raises:
    ConfigError: there are fewer devices, or not all of several processes' are
      asked for.
  """
  import jax

  devices = jax.devices()
  if jax.process_count() > 1 and count not in (0, len(devices)):
    raise ConfigError(
      f'devices = {count}, but several processes use all of their '
      f'{len(devices)} devices; set devices = 0.'
    )
  if count > len(devices):
    raise ConfigError(
      f'devices = {count}, but {len(devices)} {devices[0].platform} '
      'device(s) are here.'
    )
  if not count and devices[0].platform == 'cpu' and jax.process_count() == 1:
    most = min(len(devices), max(1, batch_size // LEAST_IMAGES))
    even = (n for n in range(most, 0, -1) if batch_size % (n * multiple) == 0)
    count = next(even, 1)
  return devices[: count or None]


def steps_per_dispatch(
  requested: int, epoch_steps: int, devices: list['jax.Device']
) -> int:
  """Returns how many steps one call runs.

  Args:
    requested: that many, or 0 for the device's best: 1 on CPU; elsewhere a
      part of an epoch that leaves no remainder, which would be a second
      program to compile, unless there is no good one.
  """
  if requested:
    return requested
  if devices[0].platform == 'cpu':
    return 1
  longest = min(epoch_steps, MOST_STEPS)
  shortest = max(1, longest // 4)
  without_remainder = (
    steps
    for steps in range(longest, shortest - 1, -1)
    if epoch_steps % steps == 0
  )
  return next(without_remainder, longest)


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
