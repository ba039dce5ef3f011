# SPDX-License-Identifier: Apache-2.0
"""One ordered, exact pass over a split: every row once, none invented."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


def predict(
  step: Callable[[Any, np.ndarray], jax.Array],
  variables: Any,
  fetch: Callable[[np.ndarray], np.ndarray],
  rows: np.ndarray,
  batch_size: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the step's outputs for the given rows, in their order.

  The last batch is padded to the batch size, so that one compilation serves
  all, and its padding is cut away again. One batch is in flight while the one
  before is read.

  Args:
    step: mapped over devices (see `parallel.map_predict`).
    variables: replicated parameters and statistics.
    fetch: row numbers [b] to their images, uint8 [b, H, W, C].
    rows: row numbers to predict, [n].
    batch_size: images in a call, a multiple of the number of devices.

  Yields:
    (rows [b], outputs [b, ...]); the blocks' lengths add up to n.
  """
  pending = None
  for start in range(0, len(rows), batch_size):
    block = rows[start : start + batch_size]
    padded = np.resize(block, batch_size)
    outputs = step(variables, fetch(padded))
    if pending is not None:
      yield _unpad(*pending)
    pending = (block, outputs)
  if pending is not None:
    yield _unpad(*pending)


def _unpad(
  block: np.ndarray, outputs: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
  return block, np.asarray(outputs)[: len(block)]
