# SPDX-License-Identifier: Apache-2.0
"""A profiler's trace of a few steps, for TensorBoard or Perfetto."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import jax

FIRST, LAST = 3, 6


@contextlib.contextmanager
def a_few_steps(
  directory: pathlib.Path | None,
) -> Iterator[Callable[[], None]]:
  """Traces some dispatches after the first ones, which compile.

  Args:
    directory: where the trace goes; None for no trace.

  Yields:
    A function to call after each dispatch.
  """
  dispatches = 0
  tracing = False

  def tick() -> None:
    nonlocal dispatches, tracing
    dispatches += 1
    if directory is not None and dispatches == FIRST:
      jax.profiler.start_trace(str(directory))
      tracing = True
    if tracing and dispatches == LAST:
      jax.profiler.stop_trace()
      tracing = False

  try:
    yield tick
  finally:
    if tracing:
      jax.profiler.stop_trace()
