# SPDX-License-Identifier: Apache-2.0
"""One seed; every key follows from it and from what it is for."""

import enum

import jax


class Purpose(enum.IntEnum):
  """What a random key is for; the number is part of the key."""

  INITIALISE = 0
  AUGMENT = 1
  VIEW = 2


def key_for(seed: int, purpose: Purpose, *counts: int) -> jax.Array:
  """Returns the key of a purpose, a stage and, maybe, an epoch.

  Nothing random has to be saved, and no draw depends on the number of
  devices.

  Args:
    seed: of the run.
    purpose: what is drawn.
    *counts: stage, from 1, and epoch or view, from 0.
  """
  key = jax.random.key(seed)
  for count in (purpose, *counts):
    key = jax.random.fold_in(key, count)
  return key
