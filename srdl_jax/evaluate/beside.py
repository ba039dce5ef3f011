# SPDX-License-Identifier: Apache-2.0
"""Evaluates a network on the devices, while they are given other work."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srdl_jax import data, evaluate, parallel
from srdl_jax.experiment import Experiment
from srdl_jax.machine import tpu
from srdl_jax.network import Member

# Where it would only slow both, as all is done by the same cores.
HOST = 'cpu'
TPU = 'tpu'

# Of arrays on devices that are donated next.
copied = jax.jit(functools.partial(jax.tree.map, jnp.copy))


@dataclasses.dataclass(frozen=True)
class Begun:
  """An evaluation whose logits are not all there yet."""

  members: list[Member]
  passes: list[evaluate.Blocks]

  def wait(self) -> float:
    """Waits for the devices; returns the seconds that it has waited."""
    since = time.monotonic()
    jax.block_until_ready(self.passes)
    return time.monotonic() - since

  def metrics(self) -> dict[str, float | int]:
    """See `evaluate.classify`."""
    return evaluate.classify(self.members, begun=self.passes)


@dataclasses.dataclass(frozen=True)
class Beside:
  """The selection split's examples, on the devices."""

  experiment: Experiment
  examples: data.Subset

  def begin(self, variables: dict[int, Any]) -> Begun:
    """Begins to evaluate networks, by their stages' numbers.

    Args:
      variables: on the devices; nobody else may be given their memory.
    """
    members = self.experiment.members(variables, self.examples)
    return Begun(members, evaluate.passes(members))


def create(experiment: Experiment) -> Beside | None:
  """Puts the examples on the devices.

  Returns None where they stay, as they are decoded or ranked, and on HOST.
  """
  split, devices = experiment.selection_split, experiment.devices
  ranks = experiment.is_retrieval and split == 'test'
  if ranks or devices[0].platform == HOST:
    return None
  found = experiment.examples(split)
  if found.split.is_streamed:
    return None
  images = found.split.images[found.rows]
  if devices[0].platform == TPU:
    images = tpu.laid_out(images)
  its = dataclasses.replace(
    found.split,
    images=parallel.replicate(images, devices),
    labels=found.split.labels[found.rows],
  )
  return Beside(experiment, data.Subset(its, np.arange(len(found.rows))))
