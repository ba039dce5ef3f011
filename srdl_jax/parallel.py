# SPDX-License-Identifier: Apache-2.0
"""The one place that maps a per-device function over the devices.

A batch is split over the devices, everything else is replicated, and the
functions average over the axis AXIS themselves: the number of devices doesn't
change what is computed. Each of several processes gives its own devices their
part of a batch, and holds a copy of everything else. `predict` goes over a
split by such a function: every row once, none invented.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'devices'


def local(devices: list[jax.Device]) -> list[jax.Device]:
  """Returns those of the devices that this process drives."""
  return [d for d in devices if d.process_index == jax.process_index()]


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
  """Puts a tree of arrays on every device of this process, once."""
  mesh = Mesh(np.asarray(local(devices)), (AXIS,))
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def to_host(tree: Any) -> Any:
  """Returns a tree of replicated arrays as NumPy arrays of their own.

  On CPU jax.device_get returns views of buffers that are donated next.
  """
  return jax.tree.map(np.array, jax.device_get(tree))


def own(batch: np.ndarray, devices: list[jax.Device]) -> np.ndarray:
  """Returns this process's part of a batch.

  Consecutive examples go to one device.

  Args:
    batch: [B, ...], the same in every process.
    devices: of all processes.
  """
  if jax.process_count() == 1:
    return batch
  mine = [d.process_index == jax.process_index() for d in devices]
  parts = batch.reshape(len(devices), -1, *batch.shape[1:])[mine]
  return parts.reshape(-1, *batch.shape[1:])


def split(batch: np.ndarray, devices: list[jax.Device]) -> np.ndarray:
  """Splits a process's part over its devices: [B, ...] to [devices, b, ...]."""
  return batch.reshape(len(local(devices)), -1, *batch.shape[1:])


def map_predict(
  predict_step: Callable[[Any, jax.Array], jax.Array],
  devices: list[jax.Device],
) -> Callable[..., jax.Array]:
  """Compiles predict_step(variables, images) for a batch over the devices.

  Returns:
    A function of replicated variables and of this process's part (see `own`)
    of images [B, H, W, C], whose result [B, ...] is replicated; or of
    variables, all images on the devices, and its part of the rows [B].
  """

  def gathered(variables, images, *rows):
    outputs = predict_step(variables, images[rows[0]] if rows else images)
    return jax.lax.all_gather(outputs, AXIS, tiled=True)

  mapped = functools.partial(
    jax.pmap, gathered, AXIS, out_axes=None, devices=devices
  )
  given, resident = mapped(in_axes=(None, 0)), mapped(in_axes=(None, None, 0))

  def run(variables, images, rows=None):
    if rows is None:
      return given(variables, split(images, devices))
    return resident(variables, images, split(rows, devices))

  return run


def map_train(
  train_step: Callable[..., tuple[Any, dict[str, jax.Array]]],
  devices: list[jax.Device],
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  """Compiles a chunk of train steps over the devices.

  Args:
    train_step: (state, resident, examples, key) to (state, metrics), where
      resident is a tree of whole arrays, and examples one of arrays [b, ...]:
      the device's part of a batch.

  Returns:
    A function of (state, resident, examples, key) that returns the state
    after S steps and metrics [S]; its examples are a tree of arrays
    [S, B, ...], of this process's parts of S batches (see `own`). The state
    given to it is donated. One step is run without a loop: XLA's CPU backend
    runs the gradients of convolutions in a loop body many times slower.
  """

  def chunk(state, resident, examples, key):
    def step(state, examples):
      return train_step(state, resident, examples, key)

    if len(jax.tree.leaves(examples)[0]) > 1:
      return jax.lax.scan(step, state, examples)
    state, metrics = step(state, jax.tree.map(lambda x: x[0], examples))
    return state, jax.tree.map(lambda x: x[None], metrics)

  mapped = jax.pmap(
    chunk,
    AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
    donate_argnums=0,
    devices=devices,
  )

  def by_device(leaf):
    parts = leaf.reshape(len(leaf), len(local(devices)), -1, *leaf.shape[2:])
    return parts.swapaxes(0, 1)

  def run(state, resident, examples, key):
    return mapped(state, resident, jax.tree.map(by_device, examples), key)

  return run


def predict(
  step: Callable[..., jax.Array],
  variables: Any,
  images: Any,
  rows: np.ndarray,
  batch_size: int,
  devices: list[jax.Device],
) -> Iterable[tuple[np.ndarray, np.ndarray | jax.Array]]:
  """Returns the step's outputs for the given rows, in their order.

  The last batch is padded to the batch size, and each to a multiple of the
  devices, so that one compilation serves all; padding is cut away again. One
  batch is in flight while the one before is read; of images that are on the
  devices, as the variables are then, all are at once, and none is waited for.

  Args:
    step: mapped over the devices (see `map_predict`).
    images: what row numbers [b] index: uint8 [N, H, W, C], an array or alike,
      or on every device.
    rows: row numbers to predict, [n].
    batch_size: images in a call, and so in a block.

  Returns:
    (rows [b], outputs [b, ...]), n rows in all; of resident images a list.
  """
  is_resident = isinstance(jax.tree.leaves(images)[0], jax.Array)
  if not is_resident:
    variables = replicate(variables, devices)
  padded_size = -(-batch_size // len(devices)) * len(devices)
  starts = range(0, len(rows), batch_size)
  blocks = (rows[start : start + batch_size] for start in starts)

  def begun(block):
    part = own(np.resize(block, padded_size), devices)
    if is_resident:
      found = step(variables, images, part)
      return block, found[: len(block)] if len(block) < padded_size else found
    return block, step(variables, images[part])

  found = map(begun, blocks)
  return list(found) if is_resident else _one_ahead(found)


def _one_ahead(
  begun: Iterator[tuple[np.ndarray, jax.Array]],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  pending = next(begun, None)
  while pending is not None:
    following = next(begun, None)
    block, outputs = pending
    yield block, np.asarray(outputs)[: len(block)]
    pending = following
