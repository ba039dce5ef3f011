# SPDX-License-Identifier: Apache-2.0
"""Progressive self-distillation: the epoch before teaches, ever more."""

import dataclasses
from typing import Any, ClassVar

import jax

from srdl_jax.errors import ConfigError
from srdl_jax.targets.source import Source, Tree, none_yet

MOST_BYTES = 4 * 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgressiveSelfDistillation(Source):
  """CE((1 - a) label + a P), P what was said of the image an epoch before.

  Kim et al., "Self-knowledge distillation with progressive refinement of
  targets", ICCV 2021; github.com/lgcnsai/PS-KD-Pytorch. a grows linearly to
  alpha in the last of E epochs: alpha (e + 1) / E in epoch e, from 0. P is the
  prediction, while training, of an augmented view.

  In the first epoch labels alone teach. Deviation: an image that is dropped
  with an epoch's remainder keeps its older P; before it has one its label alone
  teaches, and the mean over P is over the others of the batch. P is a part of
  every checkpoint.
  """

  alpha: float
  partial: ClassVar[bool] = True
  timed: ClassVar[bool] = True
  section: ClassVar[str] = 'ps_kd'

  def weights(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns 1 - a and a."""
    epoch = self.done(step).astype(float)
    alpha = self.alpha * (epoch + 1) / self.clock.epochs
    return 1 - alpha, alpha

  def refuse(self, *, examples: int, classes: int) -> None:
    """Refuses a P that no device would hold beside its images."""
    if (size := 4 * examples * classes) > MOST_BYTES:
      raise ConfigError(
        f'ps_kd keeps what it says of each of {examples:,} images, '
        f'{size / 1e9:.3g} GB on every device, more than '
        f'{MOST_BYTES / 1e9:g} GB: take smaller data or another method.'
      )

  def begin(
    self, variables: Tree, *, examples: int, classes: int, batch_size: int
  ) -> Tree:
    """Returns the logits of P [N, K], NaN as yet."""
    del batch_size
    return {'said': none_yet((examples, classes), variables)}

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array:
    """Returns the images' rows of P: see `Source.targets`."""
    del said_BxK
    return memory['said'][batch['index']]

  def end(
    self,
    memory: Tree,
    batch: dict[str, Any],
    said_BxK: jax.Array,
    variables: Tree,
    step: jax.Array,
  ) -> Tree:
    """Puts what is said now into the rows of P."""
    del variables, step
    rows_B, said_BxK = map(self.gathered, (batch['index'], said_BxK))
    return {'said': memory['said'].at[rows_B].set(said_BxK)}
