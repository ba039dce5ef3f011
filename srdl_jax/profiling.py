# SPDX-License-Identifier: Apache-2.0
"""A profiler's trace of a few steps, for TensorBoard or Perfetto."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from srdl_jax import bucket, workdir

FIRST, LAST = 3, 6


@contextlib.contextmanager
def a_few_steps(
  directory: bucket.Path | None,
) -> Iterator[Callable[[], None]]:
  """Traces some dispatches after the first ones, which compile.

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
    local = directory and stack.enter_context(workdir.scratch(directory))
    try:
      yield tick
    finally:
      if tracing:
        jax.profiler.stop_trace()
