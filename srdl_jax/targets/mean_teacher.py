# SPDX-License-Identifier: Apache-2.0
"""Mean teacher: the mean of the parameters predicts the same view."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from srdl_jax.targets.ema import Mean
from srdl_jax.targets.source import Tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanTeacher(Mean):
  """CE + w T^2 KL(what the mean says || student), w rising to its weight.

  Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017;
  github.com/CuriousAI/mean-teacher. Within the first share of the stage w is
  its weight times exp(-5 (1 - progress)^2).

  The decay is as released, and so is a mean that predicts in training mode, by
  the batch's own statistics; T, w and its rise are this project's choice.
  Deviations: all images have labels; a divergence at T, where the released code
  has the mean squared difference of probabilities or a divergence at 1; the
  mean predicts the student's own view, where that code's teacher sees another.
  The result is the student; the mean is tested beside it, as `mean`.
  """

  rise: float
  section: ClassVar[str] = 'mean_teacher'

  def weights(self, step: jax.Array) -> tuple[float, jax.Array | float]:
    """Returns 1 and w."""
    steps = self.rise * self.clock.epochs * self.clock.steps_per_epoch
    if not steps:
      return 1.0, self.imitation_weight
    progress = (step - self.clock.first_step).astype(float) / steps
    rest = 1 - jnp.minimum(progress, 1)
    return 1.0, self.imitation_weight * jnp.exp(-5 * rest**2)

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array:
    """Returns what the mean says, over T: see `Source.targets`."""
    del batch, said_BxK
    return memory['said'] / self.temperature

  def result(self, memory: Tree, variables: Tree) -> Tree:
    """Returns the student."""
    del memory
    return variables

  def others(self, memory: Tree) -> dict[str, Tree]:
    """Returns the mean: its own accuracy often explains the gain."""
    return {'mean': memory}
