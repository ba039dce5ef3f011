# SPDX-License-Identifier: Apache-2.0
"""What a source of soft targets is; by itself it has none: labels alone."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

Tree = Any


@dataclasses.dataclass(frozen=True)
class Clock:
  """When a stage is trained, in optimiser steps of the run."""

  first_step: int
  steps_per_epoch: int
  epochs: int


@dataclasses.dataclass(frozen=True)
class Source:
  """Where the soft targets of a step come from: here, from nowhere.

  One that remembers keeps a tree of arrays, the same on every device, in the
  training state: what `begin` returns and `end` changes. It is saved and
  restored with all the rest.

  Attributes:
    temperature: T of Eq 5: the targets' own, and what softens the student.
    label_weight, imitation_weight: of the two terms of Eq 7, where an example
      has a soft target.
    apply: that of the network which predicts, for sources that do.
    axis_name: mapped axis over which a batch is split, or None.
    clock: of the stage; None but for sources that are `timed`.
    teacher: whether there must be one; else there is none.
    stored: whether the teacher's targets are predicted once, for a bank.
    forwards: further forward passes of an image in a step.
    order: in which a stage's examples come, a key of data.sampling.ORDERS.
    partial: whether examples may have no soft target: rows of NaN. They learn
      from their labels alone.
    timed: whether what it does depends on the clock.
    section: of the configuration, whose fields those of this class are; '' for
      none.
  """

  temperature: float = 1.0
  label_weight: float = 1.0
  imitation_weight: float = 1.0
  apply: Callable[..., Any] | None = None
  axis_name: str | None = None
  clock: Clock | None = None
  teacher: ClassVar[bool] = False
  stored: ClassVar[bool] = False
  forwards: ClassVar[int] = 0
  order: ClassVar[str] = 'once'
  partial: ClassVar[bool] = False
  timed: ClassVar[bool] = False
  section: ClassVar[str] = ''

  def refuse(self, *, examples: int, classes: int) -> None:
    """Checks that it can serve, before anything is trained.

    Args:
      examples: N, rows of the full training split.
      classes: K.

    Raises:
      ConfigError: it can't, and why.
    """

  def begin(
    self, variables: Tree, *, examples: int, classes: int, batch_size: int
  ) -> Tree:
    """Returns what it remembers when its stage begins.

    Args:
      variables: parameters and statistics that the stage begins with.
      examples: N, rows of the full training split.
      classes: K.
      batch_size: examples of a step, over all devices.
    """
    del variables, examples, classes, batch_size
    return {}

  def look(self, memory: Tree, batch: dict[str, Any]) -> Tree:
    """Returns what it remembers of a step until its end: where a network of its
    own looks at the batch, what that says.

    Args:
      memory: what it remembers before the step.
      batch: see `targets`.
    """
    del batch
    return memory

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array | None:
    """Returns the soft targets of a device's part of a batch.

    Args:
      memory: what it remembers, see `look`.
      batch: image [b, H, W, C], augmented and normalised, label [b], index
        [b], soft_logits, the bank's rows [b, K] or None, and teacher, the
        variables of a network that predicts or None.
      said_BxK: the student's own logits in this very step, without gradient.

    Returns:
      Logits [b, K] that are softened already, such as log-probabilities at
      temperature T; None for labels alone.
    """
    del memory, batch, said_BxK
    return None

  def weights(self, step: jax.Array) -> tuple[Any, Any]:
    """Returns the weights of labels and imitation in a step of the run."""
    del step
    return self.label_weight, self.imitation_weight

  def end(
    self,
    memory: Tree,
    batch: dict[str, Any],
    said_BxK: jax.Array,
    variables: Tree,
    step: jax.Array,
  ) -> Tree:
    """Returns what it remembers after a step, the same on every device.

    Args:
      memory, batch, said_BxK: see `targets`.
      variables: parameters and statistics after the step.
      step: number of the run's steps before this one.
    """
    del batch, said_BxK, variables, step
    return memory

  def result(self, memory: Tree, variables: Tree) -> Tree:
    """Returns the variables that are evaluated, kept as best and exported."""
    del memory
    return variables

  def others(self, memory: Tree) -> dict[str, Tree]:
    """Returns variables of other networks, by what they are, to be tested."""
    del memory
    return {}

  def gathered(self, array: jax.Array) -> jax.Array:
    """Returns [B, ...], of all devices in their order, of one's [b, ...]."""
    if self.axis_name is None:
      return array
    return jax.lax.all_gather(array, self.axis_name, tiled=True)

  def done(self, step: jax.Array) -> jax.Array:
    """Returns the epochs of the stage that are over before a step."""
    return (step - self.clock.first_step) // self.clock.steps_per_epoch

  def is_last_of_epoch(self, step: jax.Array) -> jax.Array:
    """Returns whether an epoch ends with that step."""
    return self.done(step + 1) > self.done(step)


def averaged(mean: Tree, tree: Tree, decay: jax.Array | float) -> Tree:
  """Returns an exponential mean that has moved: decay * mean + rest * tree."""
  return jax.tree.map(
    lambda m, x: (m + (1 - decay) * (x - m)).astype(m.dtype), mean, tree
  )


def none_yet(shape: tuple[int, ...], variables: Tree) -> jax.Array:
  """Returns rows of logits of which none is known, in the parameters' type."""
  dtype = jax.tree.leaves(variables['params'])[0].dtype
  return jnp.full(shape, jnp.nan, dtype)
