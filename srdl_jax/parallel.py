# SPDX-License-Identifier: Apache-2.0
"""The one place that maps a per-device function over the devices.

A batch is split over the devices, everything else is replicated, and the
functions average over the axis AXIS themselves: the number of devices doesn't
change what is computed.
"""

import importlib.metadata
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srdl_jax.errors import ConfigError

AXIS = 'devices'
MOST_STEPS = 500


def choose_devices(count: int = 0) -> list[jax.Device]:
  """Returns the first `count` devices of the default backend, or all at 0.

  Raises:
    ConfigError: there are fewer devices.
  """
  devices = jax.devices()
  if count > len(devices):
    raise ConfigError(
      f'devices = {count}, but {len(devices)} {devices[0].platform} '
      'device(s) are here.'
    )
  return devices[: count or None]


def use_compilation_cache() -> None:
  """Keeps compiled programs between runs, by versions.

  Not on CPU, where JAX's cache has been seen to hold entries that crash.
  """
  if jax.default_backend() == 'cpu' or jax.config.jax_compilation_cache_dir:
    return
  versions = [importlib.metadata.version(name) for name in ('jax', 'jaxlib')]
  cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME', '~/.cache'))
  folder = cache.expanduser() / 'srdl_jax' / '-'.join(versions)
  jax.config.update('jax_compilation_cache_dir', str(folder))


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
  """Puts a tree of arrays on every device, once."""
  mesh = Mesh(np.asarray(devices), (AXIS,))
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def to_host(tree: Any) -> Any:
  """Returns a tree of replicated arrays as NumPy arrays of their own.

  On CPU jax.device_get returns views of buffers that are donated next.
  """
  return jax.tree.map(np.array, jax.device_get(tree))


def split(rows: np.ndarray, devices: list[jax.Device]) -> np.ndarray:
  """Splits a batch dimension over devices: [B, ...] to [devices, b, ...]."""
  return rows.reshape(len(devices), -1, *rows.shape[1:])


def map_predict(
  predict_step: Callable[[Any, jax.Array], jax.Array],
  devices: list[jax.Device],
) -> Callable[[Any, np.ndarray], jax.Array]:
  """Compiles predict_step(variables, images) for a batch over the devices.

  Returns:
    A function of replicated variables and images [B, H, W, C], B a multiple
    of the number of devices, whose result [B, ...] is replicated.
  """

  def gathered(variables, images):
    outputs = predict_step(variables, images)
    return jax.lax.all_gather(outputs, AXIS, tiled=True)

  mapped = jax.pmap(
    gathered, AXIS, in_axes=(None, 0), out_axes=None, devices=devices
  )
  return lambda variables, images: mapped(variables, split(images, devices))


def map_train(
  train_step: Callable[..., tuple[Any, dict[str, jax.Array]]],
  devices: list[jax.Device],
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  """Compiles a chunk of train steps over the devices.

  Args:
    train_step: (state, resident, rows [b], key) to (state, metrics), where
      resident is a tree of whole arrays and rows picks the device's examples.
    devices: to run on.

  Returns:
    A function of (state, resident, rows [S, B], key) that returns the state
    after S steps and metrics [S]. The state given to it is donated. One step
    is run without a loop: XLA's CPU backend runs the gradients of
    convolutions in a loop body many times slower.
  """

  def chunk(state, resident, rows_SxB, key):
    def step(state, rows_B):
      return train_step(state, resident, rows_B, key)

    if rows_SxB.shape[0] > 1:
      return jax.lax.scan(step, state, rows_SxB)
    state, metrics = step(state, rows_SxB[0])
    return state, jax.tree.map(lambda x: x[None], metrics)

  mapped = jax.pmap(
    chunk,
    AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
    donate_argnums=0,
    devices=devices,
  )

  def run(state, resident, rows_SxB, key):
    steps, _ = rows_SxB.shape
    # Consecutive examples of a batch go to one device.
    rows = rows_SxB.reshape(steps, len(devices), -1).swapaxes(0, 1)
    return mapped(state, resident, rows, key)

  return run


def steps_per_dispatch(
  requested: int, epoch_steps: int, devices: list[jax.Device]
) -> int:
  """Returns how many steps one call runs.

  Args:
    requested: that many, or 0 for the device's best: 1 on CPU; elsewhere a
      part of an epoch that leaves no remainder, which would be a second
      program to compile, unless there is no good one.
    epoch_steps: steps in an epoch.
    devices: to run on.
  """
  if requested:
    return requested
  if devices[0].platform == 'cpu':
    return 1
  longest = min(epoch_steps, MOST_STEPS)
  shortest = max(1, longest // 4)
  without_remainder = (
    steps
    for steps in range(longest, shortest - 1, -1)
    if epoch_steps % steps == 0
  )
  return next(without_remainder, longest)
