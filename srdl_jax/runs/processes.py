# SPDX-License-Identifier: Apache-2.0
"""Several processes of one run: found at the start, and agreeing since.

Every function that several processes call is called by all of them, in the
same order; alone, JAX returns what it is given, and waits for nothing.
"""

import contextlib
import functools
import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from srdl_jax import machine, storage
from srdl_jax.errors import ConfigError, Interrupted, SrdlError

# What collectives and the coordinator say of a process that is gone.
_LOST = re.compile(
  'gloo|nccl|connection|unavailable|heartbeat|'
  # A TPU pod's runtime, where a peer's machine is gone, and its codes.
  'slice health|preempted|^(aborted|deadline_exceeded)',
  re.IGNORECASE,
)


def initialise(
  *,
  automatic: bool,
  coordinator: str | None,
  count: int | None,
  index: int | None,
  heartbeat_seconds: int,
) -> None:
  """Joins the other processes of a run; before jax is used.

  Args:
    automatic: whether JAX finds them by itself (TPU pods, SLURM, Kubernetes,
      Open MPI).
    coordinator: HOST:PORT of the first process, if they are told by hand.
    index: from 0.
    heartbeat_seconds: after which a silent process is taken for lost; the
      others then abort.

  Raises:
    ConfigError: a part is missing, or there is no such environment.
    Interrupted: some process did not come in time.
  """
  given = [value is not None for value in (coordinator, count, index)]
  if automatic and any(given):
    raise ConfigError(
      'Give --distributed, or --coordinator, --process_count and '
      '--process_index, not both.'
    )
  if not (automatic or any(given)):
    return
  if not (automatic or all(given)):
    raise ConfigError(
      '--coordinator, --process_count and --process_index belong together.'
    )
  try:
    jax.distributed.initialize(
      coordinator, count, index, heartbeat_timeout_seconds=heartbeat_seconds
    )
    # On CPU the first exchange waits for half a minute only, and some may take
    # longer than others to read their data.
    wait('start')
  except ValueError as error:
    raise ConfigError(
      f'The processes of this run do not find each other: {_first_line(error)}'
    ) from error
  except RuntimeError as error:
    if known := machine.lack(error):
      raise known from error
    # Such as a machine that comes up late: running again helps.
    raise Interrupted(
      f'Some process of this run did not come: {_first_line(error)}'
    ) from error


def several() -> bool:
  """Whether there is more than this process."""
  return jax.process_count() > 1


def tell(line: str) -> None:
  """Writes a line to stderr, in the first process alone."""
  if is_first():
    storage.say(line)


def is_first() -> bool:
  """Whether this process is the one that writes logs and small files."""
  return jax.process_index() == 0


def wait(place: str) -> None:
  """Waits until all processes have come to the place of this name."""
  multihost_utils.sync_global_devices(place)


def first_says(flag: bool) -> bool:
  """Returns what the first process says, of something that may change."""
  return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


def any_says(flag: bool) -> bool:
  """Returns whether any process says so."""
  return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def ask(flags: Sequence[bool], devices: list[jax.Device]) -> jax.Array:
  """Returns of each flag whether any process says so, without waiting."""
  own = sum(d.process_index == jax.process_index() for d in devices)
  rows = np.tile(np.asarray(flags, np.int32), (own, 1))
  return _maximum(tuple(devices))(rows)


@functools.cache
def _maximum(devices: tuple[jax.Device, ...]) -> Callable[..., jax.Array]:
  largest = functools.partial(jax.lax.pmax, axis_name='devices')
  return jax.pmap(largest, 'devices', out_axes=None, devices=devices)


def all_have(text: str) -> bool:
  """Returns whether all processes have the same text."""
  digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  gathered = multihost_utils.process_allgather(digest)
  return bool((gathered == gathered[0]).all())


def first_ones(token: bytes) -> bytes:
  """Returns the token of the first process, of equal length in all."""
  sent = np.frombuffer(token, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes()


def own_range(count: int, unit: int) -> slice:
  """Returns this process's part of 0 .. count - 1, in whole units.

  The last unit may be smaller; a part may be empty.
  """
  units = -(-count // unit)
  ways, index = jax.process_count(), jax.process_index()
  bounds = (units * part // ways * unit for part in (index, index + 1))
  return slice(*(min(bound, count) for bound in bounds))


@contextlib.contextmanager
def failing_at_once() -> Iterator[None]:
  """Ends this process at an error, where others would be waited for.

  An orderly end of one of several processes waits for the others, which may
  be waiting for this one. Where another was lost, that is what is told, as
  Interrupted is: running again helps.
  """
  try:
    yield
  except Interrupted:
    raise
  except Exception as error:
    if not several():
      raise
    if _is_lost(error):
      _end(
        f'error: another process was lost ({_first_line(error)}): run the same '
        'command again to go on from the last checkpoint.\n',
        Interrupted.exit_code,
      )
    known = error if isinstance(error, SrdlError) else machine.lack(error)
    if known:
      _end(f'error: {known}\n', known.exit_code)
    _end(traceback.format_exc(), 1)


def _is_lost(error: BaseException | None) -> bool:
  # Of a process lost during a save, the cause of a CheckpointError tells.
  while error is not None:
    jax_says = isinstance(error, jax.errors.JaxRuntimeError)
    if jax_says and _LOST.search(str(error)):
      return True
    error = error.__cause__
  return False


def _first_line(error: Exception) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _end(text: str, code: int) -> None:
  with contextlib.suppress(OSError, ValueError, AttributeError):
    sys.stdout.flush()
  storage.say(text.rstrip())
  os._exit(code)
