# SPDX-License-Identifier: Apache-2.0
"""The rows of a bank that are to come: each of them once, and no other."""

import numpy as np

from srdl_jax import storage
from srdl_jax.runs.bank import error


class Expected:
  """What has come of the rows that are expected.

  Every method raises SoftTargetsError where something else has.
  """

  def __init__(self, bank: storage.Path, rows: np.ndarray, num_examples: int):
    """Expects some of the rows 0 … num_examples - 1, in any order."""
    self._bank = bank
    self._rows_N = self._mask(np.asarray(rows), num_examples)
    self._waiting_N = self._rows_N.copy()

  def _mask(self, rows: np.ndarray, num_examples: int) -> np.ndarray:
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
      text = f'expected rows are {rows.dtype} {rows.shape}, not int'
      raise error(self._bank, text)
    if not rows.size or rows.min() < 0 or rows.max() >= num_examples:
      text = f'expected rows are not in 0 … {num_examples - 1}'
      raise error(self._bank, text)
    mask_N = np.zeros(num_examples, bool)
    mask_N[rows] = True
    if mask_N.sum() != rows.size:
      raise error(self._bank, 'an expected row is given twice')
    return mask_N

  def check(
    self, rows_B: np.ndarray, logits_BxK: np.ndarray, num_classes: int
  ) -> None:
    """Checks a block's shapes and numbers, and that its rows are expected."""
    if rows_B.ndim != 1 or not np.issubdtype(rows_B.dtype, np.integer):
      text = f'rows are {rows_B.dtype} {rows_B.shape}, not int [b]'
      raise error(self._bank, text)
    belongs, found = (len(rows_B), num_classes), logits_BxK.shape
    if found != belongs:
      text = f'logits have shape {found}, where {belongs} belongs'
      raise error(self._bank, text)
    self.check_finite(rows_B, logits_BxK.astype(np.float64), 'a logit')
    strange_B = (rows_B < 0) | (rows_B >= len(self._rows_N))
    if not strange_B.any():
      strange_B = ~self._rows_N[rows_B]
    if strange_B.any():
      text = f'row {rows_B[strange_B][0]} is not an expected row'
      raise error(self._bank, text)
    rows, counts = np.unique(rows_B, return_counts=True)
    again = rows[(counts > 1) | ~self._waiting_N[rows]]
    if again.size:
      raise error(self._bank, f'row {again[0]} was predicted more than once')

  def check_finite(
    self, rows_B: np.ndarray, values_BxK: np.ndarray, what: str
  ) -> None:
    """Checks values, naming the first row of which one isn't finite."""
    bad_B = ~np.isfinite(values_BxK).all(axis=1)
    if bad_B.any():
      text = f'row {rows_B[bad_B][0]}: {what} is not finite'
      raise error(self._bank, text)

  def came(self, rows_B: np.ndarray) -> None:
    """Notes rows that are kept."""
    self._waiting_N[rows_B] = False

  def end(self) -> None:
    """Checks that all have come."""
    missing = np.flatnonzero(self._waiting_N)
    if missing.size:
      raise error(
        self._bank,
        f'{missing.size} of {self._rows_N.sum()} expected rows were not '
        f'predicted, the first is row {missing[0]}',
      )
