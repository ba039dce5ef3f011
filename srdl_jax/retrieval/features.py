# SPDX-License-Identifier: Apache-2.0
"""Features of images, whose they are, and several pooled into one query."""

import collections

import jax.numpy as jnp
import numpy as np

from srdl_jax.errors import ConfigError, DataError, unknown

# A squared distance is up to twice the sum of both squared lengths.
_LONGEST = float(np.finfo(np.float32).max) / 8
_POOLS = {'average': np.mean, 'max': np.max}


def as_features(features: np.ndarray, name: str) -> np.ndarray:
  """Returns features, any real numbers [n, D], as float32.

  Raises:
    DataError: they are something else, or not finite in float32.
  """
  features = np.asarray(features)
  if features.ndim != 2 or not features.shape[1]:
    raise DataError(
      f'{name} features are [images, dimensions], not {list(features.shape)}.'
    )
  if not any(
    jnp.issubdtype(features.dtype, kind) for kind in (np.floating, np.integer)
  ):
    raise DataError(f'{name} features are {features.dtype}, not real numbers.')
  with np.errstate(over='ignore'):  # What is infinite then, is found below.
    features = features.astype(np.float32, copy=False)
  wrong = unusable(features)
  if wrong.any():
    raise DataError(
      f'{name} features: row {wrong.argmax()} holds NaN, infinity, or values '
      'whose squares leave the range of float32.'
    )
  return features


def unusable(features: np.ndarray) -> np.ndarray:
  """Returns which rows of [n, D] hold NaN, infinity or too large values."""
  with np.errstate(over='ignore', invalid='ignore'):
    # Negated, as NaN is not less either.
    return ~(squared_lengths(features) < _LONGEST)


def squared_lengths(features: np.ndarray) -> np.ndarray:
  """Returns |x|^2 of each row of [n, D], in float64."""
  return np.einsum('nd,nd->n', features, features, dtype=np.float64)


def normalise(features: np.ndarray, name: str) -> np.ndarray:
  """Returns float32 features [n, D] with rows of length 1.

  Raises:
    DataError: a row is zero.
  """
  lengths = np.sqrt(squared_lengths(features))
  if not lengths.all():
    raise DataError(
      f'{name} features: row {lengths.argmin()} is zero and has no direction.'
    )
  return features / lengths[:, None].astype(np.float32)


def integers(values: np.ndarray, name: str) -> np.ndarray:
  """Returns identities or cameras as int64 [n].

  Raises:
    DataError: they are no list of integers.
  """
  values = np.asarray(values)
  if values.ndim != 1 or (len(values) and values.dtype.kind not in 'iu'):
    raise DataError(
      f'{name}: one integer for each image is needed, not {values.dtype} '
      f'{list(values.shape)}.'
    )
  found = values.astype(np.int64)
  # A large number would become a negative one, as junk is.
  if (wrong := found != values).any():
    raise DataError(
      f'{name}: {values[wrong.argmax()]} is larger than an int64 can be.'
    )
  return found


def refuse_other_lengths(**lists: np.ndarray) -> None:
  """Raises DataError where lists of the same images, by name, differ."""
  for name, values in lists.items():
    if not np.ndim(values):
      raise DataError(f'{name}: one for each image is needed, not one number.')
  lengths = {name: len(values) for name, values in lists.items()}
  if len(set(lengths.values())) > 1:
    text = ', '.join(f'{name} {length}' for name, length in lengths.items())
    raise DataError(f'One entry for each image is needed; there are: {text}.')


def pool_queries(
  features: np.ndarray,
  ids: np.ndarray,
  cameras: np.ndarray | None = None,
  how: str = 'average',
  *,
  query_ids: np.ndarray | None = None,
  query_cameras: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """Returns one query of all images of an identity under a camera.

  Each feature is normalised, they are pooled, and the result is normalised:
  compare it with a gallery by metric='cosine'.

  Args:
    features: of single images, [n, D].
    ids: integer identities, [n].
    cameras: [n]; None: images are pooled by identity alone.
    how: 'average' or 'max' (of each dimension).
    query_ids: of the queries to make, [Q]; several may be alike. None: one of
      each identity under each camera, in ascending order.
    query_cameras: theirs, [Q]; given where both others are.

  Returns:
    Features, float32 [Q, D]; identities [Q]; cameras [Q], or None.

  Raises:
    ConfigError: `how` is unknown, or cameras are missing.
    DataError: a query has no image; a feature isn't finite, is zero, or the
      pooled ones cancel out; lists differ in length.
  """
  if how not in _POOLS:
    raise ConfigError(unknown('pooling', how, _POOLS))
  unit = normalise(as_features(features, 'multi-query'), 'multi-query')
  keys = people(ids, cameras, '')
  refuse_other_lengths(features=unit, ids=keys)
  wanted = np.unique(keys, axis=0)
  if query_ids is not None:
    wanted = people(query_ids, query_cameras, 'query_')
  elif query_cameras is not None:
    raise ConfigError('query_cameras are given without query_ids.')
  if wanted.shape[1] != keys.shape[1]:
    raise ConfigError('Give the cameras of images and queries, or of none.')
  pooled = normalise(_pooled(unit, keys, wanted, how), 'pooled')
  return pooled, wanted[:, 0], None if cameras is None else wanted[:, 1]


def _pooled(
  unit: np.ndarray, keys: np.ndarray, wanted: np.ndarray, how: str
) -> np.ndarray:
  images = collections.defaultdict(list)
  for row, key in enumerate(keys.tolist()):
    images[tuple(key)].append(row)
  pooled = np.empty((len(wanted), unit.shape[1]), np.float32)
  for query, key in enumerate(wanted.tolist()):
    if tuple(key) not in images:
      names = ('identity', 'camera')[: len(key)]
      who = ', '.join(f'{name} {n}' for name, n in zip(names, key, strict=True))
      raise DataError(f'There is no image to pool for query {query}: {who}.')
    pooled[query] = _POOLS[how](unit[images[tuple(key)]], axis=0)
  return pooled


def people(
  ids: np.ndarray, cameras: np.ndarray | None, prefix: str
) -> np.ndarray:
  """Returns (identity, camera), int64 [n, 2], or [n, 1] without cameras.

  Raises:
    DataError: they are no integers, or differ in number.
  """
  ids = integers(ids, f'{prefix}ids')
  if cameras is None:
    return ids[:, None]
  cameras = integers(cameras, f'{prefix}cameras')
  refuse_other_lengths(**{f'{prefix}ids': ids, f'{prefix}cameras': cameras})
  return np.stack([ids, cameras], axis=1)
