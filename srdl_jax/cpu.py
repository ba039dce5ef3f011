# SPDX-License-Identifier: Apache-2.0
"""How a command uses the processor: all its cores, and memory kept for reuse.

Figures are in benchmarks/README.md.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os

import numpy as np

DEVICES_FLAG = '--xla_force_host_platform_device_count'
# So a batch of 128 is split alike on one core and on four; and of each device's
# parameters and momentum there are not too many.
LEAST_DEVICES, MOST_DEVICES = 4, 16
# Bytes; XLA copies what begins elsewhere.
_ALIGNMENT = 64
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def cores() -> int:
  """Returns how many cores this process may use."""
  try:
    return len(os.sched_getaffinity(0))
  except AttributeError:  # On macOS.
    return os.cpu_count() or 1


def aligned(array: np.ndarray) -> np.ndarray:
  """Returns an array that CPU devices have in common when it is given to them.

  It must not change while they have it. Of others each would make a copy.
  """
  if array.flags.c_contiguous and not array.ctypes.data % _ALIGNMENT:
    return array
  room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
  start = -room.ctypes.data % _ALIGNMENT
  copy = room[start : start + array.nbytes].view(array.dtype)
  copy = copy.reshape(array.shape)
  copy[...] = array
  return copy


def prepare() -> None:
  """Gives XLA several devices, and keeps freed memory for its next use.

  For commands in a process of their own, before JAX is used: both settings are
  the process's. Several devices use the cores better than the threads of one,
  and a small part of a batch its cache; `parallel.choose_devices` says how many
  take part. Where the user has said how many there are, it stays so.
  """
  # Late: a data worker, which asks for `cores`, needs no JAX.
  import jax

  told = DEVICES_FLAG in os.environ.get('XLA_FLAGS', '')
  if not (told or 'JAX_NUM_CPU_DEVICES' in os.environ):
    count = min(max(LEAST_DEVICES, cores()), MOST_DEVICES)
    # A configuration file may have used JAX already.
    with contextlib.suppress(RuntimeError):
      jax.config.update('jax_num_cpu_devices', count)
  # Asking JAX for its platform would start it.
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  others = plugins or importlib.util.find_spec('libtpu')
  if jax.config.jax_platforms == 'cpu' or not others:
    _keep_memory()


def _keep_memory() -> None:
  # XLA allocates a program's temporary memory in each call; glibc maps it anew,
  # and the kernel clears every page, 19,000 in a step of ResNet-20.
  with contextlib.suppress(OSError, AttributeError):
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_ARENA_MAX, 1)
