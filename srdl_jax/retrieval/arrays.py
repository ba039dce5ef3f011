# SPDX-License-Identifier: Apache-2.0
"""Given features, of any program: arrays in files, checked and pooled."""

import pathlib
from collections.abc import Sequence

import numpy as np

from srdl_jax.errors import DataError
from srdl_jax.retrieval.features import pool_queries
from srdl_jax.storage import arrays as stored

Arrays = dict[str, np.ndarray]
SIDES = ('query', 'gallery', 'query_ids', 'gallery_ids')
CAMERAS = ('query_cameras', 'gallery_cameras')
MULTI_QUERY = ('multi_query', 'multi_query_ids', 'multi_query_cameras')
IMAGES = ('query_images', 'gallery_images')


def read(path: pathlib.Path) -> Arrays:
  """Returns the arrays of a .npz file, or of a folder's .npy files.

  Raises:
    DataError: it is missing or damaged, or lacks an array.
  """
  known = {*SIDES, *CAMERAS, *MULTI_QUERY, *IMAGES}
  try:
    if path.is_dir():
      files = {file.stem: file for file in path.glob('*.npy')}
      arrays = {n: stored.read_one(files[n]) for n in known & set(files)}
    else:
      arrays = stored.read(path, known)
  except FileNotFoundError as error:
    raise DataError(f'{path}: there is no such file.') from error
  except ValueError as error:
    raise DataError(
      f'{path} is no .npz file of plain arrays, or is damaged: {error}.'
    ) from error
  require(arrays, SIDES, str(path))
  return arrays


def require(arrays: Arrays, names: Sequence[str], who: str) -> None:
  """Checks that the arrays are there that `who` needs.

  Raises:
    DataError: one is missing.
  """
  missing = [name for name in names if name not in arrays]
  if missing:
    raise DataError(
      f'{who}: {", ".join(missing)} missing; there are '
      f'{", ".join(sorted(arrays)) or "no arrays"}.'
    )


def pooled(arrays: Arrays, how: str) -> Arrays:
  """Returns arrays in which queries are pooled; see `pool_queries`.

  Raises:
    DataError: there is nothing to pool.
  """
  names = MULTI_QUERY if CAMERAS[0] in arrays else MULTI_QUERY[:2]
  require(arrays, names, '--multi_query')
  query, *_ = pool_queries(
    *(arrays[name] for name in names),
    how=how,
    query_ids=arrays['query_ids'],
    query_cameras=arrays.get(CAMERAS[0]),
  )
  return {**arrays, 'query': query}
