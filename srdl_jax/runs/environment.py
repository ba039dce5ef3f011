# SPDX-License-Identifier: Apache-2.0
"""What a run runs on: devices, versions, commit, compiled programs; a trace."""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import resource
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import jax

from srdl_jax import cpu, storage
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import processes
from srdl_jax.storage import uploads

PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'tensorstore',
  'tensorflow-datasets',
  'numpy',
)
# Of jax.config; environment variables set them, too.
OPTIONS = (
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
)
FIRST, LAST = 3, 6


def environment(devices: list[jax.Device]) -> dict[str, Any]:
  """Returns what may change the bits of a run that its configuration doesn't
  name: devices, versions, commit, options of JAX and XLA."""
  return {
    'device': {
      'platform': devices[0].platform,
      'kind': devices[0].device_kind,
      'count': len(devices),
    },
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
    'commit': _commit(),
    'python': platform.python_version(),
    'cpu': _cpu(),
    'cores': cpu.cores(),
    'narrow_vectors': cpu.has_narrow_vectors(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'jax_options': {name: getattr(jax.config, name) for name in OPTIONS},
  }


def use_compilation_cache(workdir: str = '') -> None:
  """Keeps compiled programs between runs, by versions and kind of processor.

  They lie in the home directory; of several processes, and of a run in a
  bucket, beside the run directory: JAX writes what the first process compiles,
  and there the others find it, also on machines that are made anew.

  Not on CPU, where JAX's cache has been seen to hold entries that crash.

  Args:
    workdir: of the run, if there is one.

  Raises:
    SrdlError: see `directory.resolve`.
  """
  if jax.default_backend() == 'cpu' or jax.config.jax_compilation_cache_dir:
    return
  if storage.is_bucket(workdir):
    # XLA's own, of GPUs, can't be written there.
    jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
  if workdir and (processes.several() or storage.is_bucket(workdir)):
    path = storage.absolute(run_directory.resolve(workdir))
    cache = path.parent / '.compiled'
  else:
    home = os.path.expanduser(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
    # A user without a home compiles anew.
    if not os.path.isabs(home):
      return
    cache = pathlib.Path(home, 'srdl_jax')
  versions = [importlib.metadata.version(name) for name in ('jax', 'jaxlib')]
  folder = cache / '-'.join([*versions, _cpu_features()])
  jax.config.update('jax_compilation_cache_dir', str(folder))


def _cpu_features() -> str:
  """Returns a name for what programs for this processor may rely on.

  What is compiled for the host lies beside the accelerator's programs, and
  JAX would run it on any other.
  """
  told = platform.machine()
  with contextlib.suppress(OSError):
    for line in cpu.CPU_INFO.read_text().splitlines():
      if line.lower().startswith(('flags', 'features')):
        told += line
        break
  return hashlib.sha256(told.encode()).hexdigest()[:8]


def known_fault(device: jax.Device) -> str:
  """Returns a line about a fault of this version of JAX, '' without one."""
  version = importlib.metadata.version('jaxlib')
  if device.platform != 'cpu' or version != '0.10.2':
    return ''
  return (
    'jaxlib 0.10.2 sums some squares wrongly on CPU (jax#39103): install '
    'another version before you rely on numbers.'
  )


def peak_memory(devices: list[jax.Device]) -> dict[str, int]:
  """Returns the largest memory used so far, in bytes: host and device."""
  kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  peaks = {'host': kibibytes * 1024}
  # None on CPU.
  statistics = devices[0].memory_stats()
  if statistics and 'peak_bytes_in_use' in statistics:
    peaks['device'] = statistics['peak_bytes_in_use']
  return peaks


def _cpu() -> str:
  """Returns the processor's model, '' where it isn't told."""
  with contextlib.suppress(OSError):
    for line in cpu.CPU_INFO.read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor()


def _commit() -> str | None:
  """Returns the source's git commit, marked where files differ from it."""
  # Within someone else's repository the package's files aren't tracked.
  tracked = ['git', 'ls-files', '--error-unmatch', pathlib.Path(__file__).name]
  try:
    subprocess.run(
      tracked,
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      check=True,
    )
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=12'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      check=True,
      text=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    # setup.py recorded it in what it built.
    recorded = pathlib.Path(__file__).parents[1] / '_commit'
    return recorded.read_text().strip() if recorded.is_file() else None


@contextlib.contextmanager
def a_few_steps(
  directory: storage.Path | None,
) -> Iterator[Callable[[], None]]:
  """Traces some dispatches of the first process, but those that compile.

  Args:
    directory: where the trace goes, in a bucket at the end; None for no trace.

  Yields:
    A function to call after each dispatch.
  """
  dispatches = 0
  tracing = False

  def tick() -> None:
    nonlocal dispatches, tracing
    dispatches += 1
    if local is not None and dispatches == FIRST:
      jax.profiler.start_trace(str(local))
      tracing = True
    if tracing and dispatches == LAST:
      jax.profiler.stop_trace()
      tracing = False

  with contextlib.ExitStack() as stack:
    if not processes.is_first():
      directory = None
    local = directory and stack.enter_context(uploads.scratch(directory))
    try:
      yield tick
    finally:
      if tracing:
        jax.profiler.stop_trace()
