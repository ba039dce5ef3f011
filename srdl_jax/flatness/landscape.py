# SPDX-License-Identifier: Apache-2.0
"""The loss of theta + d v: along random directions v from parameters theta."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

# (variables at theta, v, d, images [b, H, W, C], labels [b]) to losses [b].
LossesAt = Callable[[Any, Any, float, jax.Array, jax.Array], jax.Array]
# Mean losses by kind of direction, split, direction and distance; None where
# one isn't finite.
Curves = dict[str, dict[str, list[list[float | None]]]]


def norm(tree: Any) -> float:
  """Returns the Euclidean length of a tree of arrays."""
  return math.sqrt(sum(_squares(leaf) for leaf in jax.tree.leaves(tree)))


def _squares(values: np.ndarray, axes: tuple[int, ...] | None = None):
  return np.square(values, dtype=np.float64).sum(axes)


def literal(_params: Any, draw: Any) -> Any:
  """Returns a Gaussian draw, a tree like params, scaled to unit length."""
  length = norm(draw)
  return jax.tree.map(lambda v: v / length, draw)


def filter_normalised(params: Any, draw: Any) -> Any:
  """Returns a draw, a tree like params, whose filters are as long as theirs.

  A filter is the slice of a kernel that makes one output: one index of its
  last axis. Parameters of one axis (biases, and all of batch norm's) get 0, as
  in the code that Li et al. (2018) published.
  """

  def rescale(theta, v):
    if theta.ndim < 2:
      return np.zeros_like(theta)
    axes = tuple(range(theta.ndim - 1))
    ratio = _squares(theta, axes) / _squares(v, axes)
    return v * np.sqrt(ratio).astype(v.dtype)

  return jax.tree.map(rescale, params, draw)


_OF_KIND = {kind.__name__: kind for kind in (literal, filter_normalised)}


def direction(kind: str, params: Any, seed: int, number: int) -> Any:
  """Returns a random direction, a tree like params.

  By NumPy, which draws the same everywhere: XLA takes a minute to compile the
  draw of a network of a hundred layers.

  Args:
    kind: one of KINDS.
    params: theta; the draw depends on its shapes alone.
  """
  rng = np.random.default_rng((seed, number))
  draw = jax.tree.map(
    lambda theta: rng.standard_normal(theta.shape, theta.dtype), params
  )
  return _OF_KIND[kind](params, draw)


def compile_losses(
  predict_step: Callable[[Any, jax.Array], jax.Array],
) -> LossesAt:
  """Compiles a network's losses at theta + d v: one program for all d and v.

  Args:
    predict_step: (variables, images [b, H, W, C]) to logits [b, K].

  Returns:
    A function of the variables at theta, v, d, images and labels [b] that
    returns cross-entropies [b], in nats. Only parameters move: batch norm's
    statistics are those of theta.
  """

  def losses_at(variables, v, distance, images, labels_B):
    params = jax.tree.map(
      lambda theta, v: theta + distance * v, variables['params'], v
    )
    logits_BxK = predict_step({**variables, 'params': params}, images)
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      logits_BxK, labels_B
    )

  return jax.jit(losses_at)


@dataclasses.dataclass(frozen=True)
class Images:
  """Images that stay on the device.

  Attributes:
    blocks: (images [b, H, W, C], labels [b]), all of one size.
    count: how many count; the last block is filled up with repetitions.
  """

  blocks: list[tuple[jax.Array, jax.Array]]
  count: int


def place(
  images: np.ndarray, labels: np.ndarray, rows: np.ndarray, size: int
) -> Images:
  """Puts rows of a split on the device, in blocks of the given size."""
  blocks = []
  for start in range(0, len(rows), size):
    block = np.resize(rows[start : start + size], size)
    blocks.append(jax.device_put((images[block], labels[block])))
  return Images(blocks, len(rows))


def curves(
  losses_at: LossesAt,
  variables: Any,
  splits: Mapping[str, Images],
  distances: Mapping[str, Sequence[float]],
  directions: int,
  seed: int,
  tell: Callable[[], None] = lambda: None,
) -> Curves:
  """Returns the mean loss around a network, along random directions, in nats.

  Args:
    losses_at: see `compile_losses`.
    distances: by kind of direction, ascending from 0.
    directions: how many of each kind.
    seed: of the directions; networks of one shape get the same draws.
    tell: is called after each direction.
  """
  params = variables['params']
  variables = jax.device_put(variables)
  nowhere = jax.tree.map(jnp.zeros_like, variables['params'])
  at_theta = {
    split: _line(losses_at, variables, nowhere, [0.0], images)
    for split, images in splits.items()
  }
  found = {kind: {split: [] for split in splits} for kind in distances}
  for kind, (_, *steps) in distances.items():
    for number in range(directions):
      v = jax.device_put(direction(kind, params, seed, number))
      for split, images in splits.items():
        losses = _line(losses_at, variables, v, steps, images)
        found[kind][split].append(at_theta[split] + losses)
      tell()
  return found


def _line(losses_at, variables, v, distances, images) -> list[float | None]:
  # A loop on the host is as fast as one on the device, and nothing compiled
  # depends on the number of points. All is asked for before any is read.
  asked = [
    [losses_at(variables, v, distance, *block) for block in images.blocks]
    for distance in distances
  ]
  means = [
    np.concatenate(losses)[: images.count].mean(dtype=np.float64)
    for losses in jax.device_get(asked)
  ]
  return [float(mean) if math.isfinite(mean) else None for mean in means]
