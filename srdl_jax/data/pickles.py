# SPDX-License-Identifier: Apache-2.0
"""Reads pickles of numbers, texts and arrays, and calls nothing else in them.

A pickle names functions that reading it calls: one from elsewhere could do
anything.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from srdl_jax.storage import arrays


def _encode(text: str, encoding: str = 'latin1') -> bytes:
  return text.encode(encoding)


_reconstruct = np.empty(0).__reduce__()[0]
_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
  ('numpy', 'dtype'): np.dtype,
  ('numpy', 'ndarray'): np.ndarray,
  ('numpy.core.multiarray', '_reconstruct'): _reconstruct,
  ('numpy._core.multiarray', '_reconstruct'): _reconstruct,
  # How Python 3 writes bytes into pickles that Python 2 can read.
  ('_codecs', 'encode'): _encode,
}


class _Unpickler(pickle.Unpickler):
  def find_class(self, module: str, name: str) -> Callable[..., Any]:
    if (module, name) not in _KNOWN:
      raise pickle.UnpicklingError(
        f'it asks for {module}.{name}, which is not called'
      )
    return _KNOWN[module, name]


def read(content: bytes) -> Any:
  """Returns what a pickle holds, the texts of Python 2 as latin-1.

  Raises:
    ValueError: it is damaged, or holds something else.
  """
  try:
    return _Unpickler(io.BytesIO(content), encoding='latin1').load()
  except (*arrays.DAMAGE, pickle.UnpicklingError) as error:
    raise ValueError(arrays.reason_of(error)) from error
