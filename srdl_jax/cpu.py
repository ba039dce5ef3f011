# SPDX-License-Identifier: Apache-2.0
"""How a command uses the processor: all its cores, and memory kept for reuse.

Figures are in benchmarks/README.md.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import platform

import numpy as np

DEVICES_FLAG = '--xla_force_host_platform_device_count'
# Of each device's parameters and momentum there are not too many.
MOST_DEVICES = 16
# Of Linux.
CPU_INFO = pathlib.Path('/proc/cpuinfo')
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


@functools.cache
def has_narrow_vectors() -> bool:
  """Returns whether this is an x86 that isn't known to have AVX-512.

  There, as nowhere else that was measured, XLA's gradients of kernels are slow,
  and a part of a batch trains faster the smaller it is.
  """
  if platform.machine().lower() not in ('x86_64', 'amd64'):
    return False
  with contextlib.suppress(OSError):
    return 'avx512f' not in CPU_INFO.read_text()
  return True


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
  and a small part of a batch its cache; `machine.choose_devices` says how many
  take part. Where the user has said how many there are, it stays so.
  """
  # Late: a data worker, which asks for `cores`, needs no JAX.
  import jax

  told = DEVICES_FLAG in os.environ.get('XLA_FLAGS', '')
  if not (told or 'JAX_NUM_CPU_DEVICES' in os.environ):
    least = 4 if has_narrow_vectors() else 2
    count = min(max(least, cores()), MOST_DEVICES)
    # A configuration file may have used JAX already.
    with contextlib.suppress(RuntimeError):
      jax.config.update('jax_num_cpu_devices', count)
  if jax.config.jax_platforms == 'cpu' or is_alone():
    _keep_memory()


def is_alone() -> bool:
  """Returns whether JAX has no plugin for an accelerator."""
  # Asking JAX for its platform would start it.
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not (plugins or importlib.util.find_spec('libtpu'))


def _keep_memory() -> None:
  # XLA allocates a program's temporary memory in each call; glibc maps it anew,
  # and the kernel clears every page, 19,000 in a step of ResNet-20.
  with contextlib.suppress(OSError, AttributeError):
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_ARENA_MAX, 1)
