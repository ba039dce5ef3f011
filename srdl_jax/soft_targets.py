# SPDX-License-Identifier: Apache-2.0
"""The bank: one network's softened predictions for a whole training set."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from srdl_jax import errors, storage
from srdl_jax.metrics import log_softmax
from srdl_jax.runs import bank as bank_files
from srdl_jax.runs.bank import error as _error
from srdl_jax.runs.expected import Expected

is_complete = bank_files.is_complete
Damaged = bank_files.Damaged


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
  """Soft targets in memory; row i is example i of the full split.

  Attributes:
    log_probs_NxK: log p~, in the stored dtype; a row of NaN is an absent
      example.
    temperature: T of these log-probabilities.
    provenance: what they were predicted from, and by which network.
  """

  log_probs_NxK: np.ndarray
  temperature: float
  provenance: dict[str, Any]

  @property
  def present_N(self) -> np.ndarray:
    """Which examples have targets: bool [N]."""
    return ~np.isnan(self.log_probs_NxK[:, 0])


def soften(logits_BxK: np.ndarray, temperature: float) -> np.ndarray:
  """Softened log-probabilities of logits.

  Eq 5: log p~ = log softmax(z / T), computed in float64.

  Args:
    logits_BxK: finite logits z, of any float type.
    temperature: T > 0.

  Returns:
    float32 [B, K]; exp of each row sums to one.

  Raises:
    ConfigError: the temperature is not a positive finite number.

  Example:
    >>> soften(np.zeros((1, 4)), 3.0)  # log(1 / 4) in every place
  """
  _check_temperature(temperature)
  # What overflows comes out as not finite, which `save` refuses.
  with np.errstate(over='ignore', invalid='ignore'):
    scaled_BxK = np.asarray(logits_BxK).astype(np.float64) / temperature
    return log_softmax(scaled_BxK).astype(np.float32)


def at_temperature(
  log_probs: Any, stored_temperature: float, temperature: float
) -> Any:
  """The same predictions at another temperature.

  log softmax(z / T') = log softmax(log p~ T / T'): the constant of the first
  softening drops out in the second.

  Args:
    log_probs: log p~ [..., K] at `stored_temperature`; a numpy or JAX array,
      also a traced one.
    stored_temperature: T.
    temperature: T'.

  Returns:
    Log-probabilities [..., K] of the same kind of array, in float32 or wider.

  Raises:
    ConfigError: a temperature is not a positive finite number.
  """
  _check_temperature(stored_temperature)
  _check_temperature(temperature)
  xp = log_probs.__array_namespace__()
  wide = log_probs.astype(xp.result_type(log_probs.dtype, xp.float32))
  scaled = wide * (stored_temperature / temperature)
  scaled = scaled - scaled.max(axis=-1, keepdims=True)
  return scaled - xp.log(xp.exp(scaled).sum(axis=-1, keepdims=True))


def save(
  directory: str | os.PathLike[str],
  blocks: Iterable[tuple[np.ndarray, np.ndarray]],
  *,
  num_examples: int,
  num_classes: int,
  temperature: float,
  provenance: Mapping[str, Any],
  expected_rows: np.ndarray,
  dtype: str = 'float32',
) -> None:
  """Softens logits and writes them as a bank, all of it or nothing.

  Another bank in its place is replaced once the new one is whole.

  Args:
    directory: the bank's folder; its parents are created.
    blocks: pairs of rows (int [b]) and their logits ([b, K], at T = 1).
    num_examples: N, of the full split.
    num_classes: K.
    temperature: T > 0.
    provenance: names and JSON values: data set, split, digests, model, …
    expected_rows: the rows that `blocks` will bring, each exactly once; the
      other rows are written as NaN.
    dtype: 'float32' or 'float16', in memory and on disk.

  Raises:
    SoftTargetsError: `blocks` leaves a row out, repeats one or brings one that
      is not expected; a logit is not finite or leaves the dtype's range; the
      place holds other files or cannot be written. What was there stays.
    ConfigError: the temperature or dtype is not one of those above.
  """
  path = storage.absolute(directory)
  _check_temperature(temperature)
  if dtype not in ('float32', 'float16'):
    raise errors.ConfigError(f"dtype {dtype!r}: give 'float32' or 'float16'")
  attributes = {
    'temperature': float(temperature),
    'provenance': _as_json(path, provenance),
  }
  expected = Expected(path, expected_rows, num_examples)
  bank_files.refuse_other_files(path)
  values_NxK = np.full((num_examples, num_classes), np.nan, dtype)
  _fill(values_NxK, blocks, expected, temperature)
  bank_files.write(path, values_NxK, attributes)


def load(
  directory: str | os.PathLike[str],
  *,
  provenance: Mapping[str, Any],
  num_examples: int,
  num_classes: int,
) -> Bank:
  """Reads a bank into memory and verifies every bit of it.

  Args:
    directory: the bank's folder.
    provenance: what the bank must have been made of.
    num_examples: N, of the full split.
    num_classes: K.

  Returns:
    The bank; its array is read-only.

  Raises:
    SoftTargetsError: the bank is missing, unfinished, of another provenance
      (each differing name is given with both values) or of another shape;
      Damaged if it is that.
  """
  path = storage.absolute(directory)
  wanted = _as_json(path, provenance)
  made = bank_files.read_attributes(path)
  _check_provenance(path, made['provenance'], wanted)
  values_NxK = bank_files.read_values(path, (num_examples, num_classes))
  return Bank(values_NxK, made['temperature'], made['provenance'])


def _fill(values_NxK, blocks, expected: Expected, temperature) -> None:
  """Softens the blocks into their rows, each expected row once."""
  for rows_B, logits_BxK in blocks:
    rows_B, logits_BxK = np.asarray(rows_B), np.asarray(logits_BxK)
    expected.check(rows_B, logits_BxK, values_NxK.shape[1])
    with np.errstate(over='ignore'):
      values_NxK[rows_B] = soften(logits_BxK, temperature)
    what = f'a softened logit, as {values_NxK.dtype},'
    expected.check_finite(rows_B, values_NxK[rows_B], what)
    expected.came(rows_B)
  expected.end()


def _check_temperature(temperature: float) -> None:
  if not (0 < temperature < np.inf):
    raise errors.ConfigError(f'temperature {temperature}: give one above 0')


def _check_provenance(path, found, wanted) -> None:
  """Names every key in which the bank was made of something else."""
  differing = [
    f'{key} is {json.dumps(found[key]) if key in found else "absent"}, '
    f'not {json.dumps(wanted[key]) if key in wanted else "absent"}'
    for key in sorted({*found, *wanted})
    if (key in found, found.get(key)) != (key in wanted, wanted.get(key))
  ]
  if differing:
    raise _error(path, 'made of something else: ' + '; '.join(differing))


def _as_json(path, provenance: Mapping[str, Any]) -> dict[str, Any]:
  """The provenance as it reads back from a file."""
  try:
    return json.loads(json.dumps(dict(provenance), allow_nan=False))
  except (TypeError, ValueError) as error:
    raise _error(path, f'provenance is not JSON: {error}') from error
