# SPDX-License-Identifier: Apache-2.0
"""Reads pickles of numbers, texts and arrays, and calls nothing else in them.

A pickle names functions that reading it calls: one from elsewhere could do
anything. NumPy's own would take states that end the process, so objects of ours
stand for them.
"""

import functools
import io
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from srdl_jax.storage import arrays


class _Type:
  """Stands for np.dtype."""

  def __init__(self, name: str, *flags: int):
    if not re.fullmatch('[biuf][0-9]{1,2}', name):
      raise pickle.UnpicklingError(f'it holds an array of {name!r}')
    self.dtype = np.dtype(name)

  def built(self, version: int, order: str, *rest: int | None) -> '_Type':
    if rest != (None, None, None, -1, -1, 0):
      raise pickle.UnpicklingError('it holds an array of other than numbers')
    self.dtype = self.dtype.newbyteorder(order)
    return self


class _Array:
  """Stands for np.ndarray until its contents come."""

  def __init__(self, *begun: Any):
    pass

  def built(
    self,
    version: int,
    shape: Sequence[int],
    its: _Type,
    fortran: bool,
    content: str | bytes,
  ) -> np.ndarray:
    if isinstance(content, str):
      content = content.encode('latin1')
    return _from_buffer(content, its, shape, 'F' if fortran else 'C')


def _ndarray(*arguments: Any) -> None:
  raise pickle.UnpicklingError('it makes an array without contents')


def _from_buffer(
  content: bytes, its: _Type, shape: Sequence[int], order: str
) -> np.ndarray:
  values = np.frombuffer(content, its.dtype)
  return np.ascontiguousarray(values.reshape(shape, order=order))


def _encode(text: str, encoding: str) -> bytes:
  if encoding != 'latin1':
    raise pickle.UnpicklingError(f'it holds bytes as {encoding}')
  return text.encode(encoding)


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
  ('numpy', 'dtype'): _Type,
  ('numpy', 'ndarray'): _ndarray,
  ('numpy.core.multiarray', '_reconstruct'): _Array,
  ('numpy._core.multiarray', '_reconstruct'): _Array,
  ('numpy.core.numeric', '_frombuffer'): _from_buffer,
  ('numpy._core.numeric', '_frombuffer'): _from_buffer,
  # How Python 3 writes bytes into pickles that Python 2 can read.
  ('_codecs', 'encode'): _encode,
}


# Steps that make sets or other objects, or take what isn't in the file.
_REFUSED = b''.join(
  (
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.BINPERSID),
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
  )
)


class _Steps(dict):
  def __missing__(self, code: int) -> None:
    raise pickle.UnpicklingError(f'invalid load key, {chr(code)!r}.')


# The one in C can't be told what to do at a step.
class _Unpickler(pickle._Unpickler):
  dispatch = _Steps(
    (code, step)
    for code, step in pickle._Unpickler.dispatch.items()
    if code not in _REFUSED
  )

  def find_class(self, module: str, name: str) -> Callable[..., Any]:
    if (module, name) not in _KNOWN:
      raise pickle.UnpicklingError(
        f'it asks for {module}.{name}, which is not called'
      )
    return _KNOWN[module, name]

  def _build(self) -> None:
    state = self.stack.pop()
    if not isinstance(self.stack[-1], _Type | _Array):
      raise pickle.UnpicklingError('it sets the state of what is no array')
    self.stack[-1] = self.stack[-1].built(*state)

  def _tuple(self, count: int) -> None:
    self.stack[-count:] = [self.stack[-count:]]

  dispatch[pickle.BUILD[0]] = _build
  # They would ask for the memory before they read.
  dispatch[pickle.BYTEARRAY8[0]] = pickle._Unpickler.load_binbytes8
  # As lists, which are no keys of a dict: the hash of a tuple of tuples of many
  # ends the process.
  dispatch[pickle.EMPTY_TUPLE[0]] = pickle._Unpickler.load_empty_list
  dispatch[pickle.TUPLE[0]] = pickle._Unpickler.load_list
  for count, code in enumerate(
    (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3), 1
  ):
    dispatch[code[0]] = functools.partial(_tuple, count=count)


def read(content: bytes) -> Any:
  """Returns what a pickle holds: texts of Python 2 as latin-1, tuples as lists.

  Raises:
    ValueError: it is damaged, or holds something else.
  """
  try:
    return _Unpickler(io.BytesIO(content), encoding='latin1').load()
  except EOFError as error:
    raise ValueError('pickle data was truncated') from error
  except (*arrays.DAMAGE, pickle.UnpicklingError) as error:
    raise ValueError(arrays.reason_of(error)) from error
