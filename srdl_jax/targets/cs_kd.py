# SPDX-License-Identifier: Apache-2.0
"""Class-wise self-distillation: another image of the class teaches."""

from typing import Any, ClassVar

import jax

from srdl_jax.targets.source import Source, Tree


class ClassWise(Source):
  """CE + lambda T^2 KL(what is said of the other || what is said of this).

  Yun et al., "Regularizing class-wise predictions via self-knowledge
  distillation", CVPR 2020; github.com/alinlab/cs-kd. Two images of one class
  stand beside each other in a batch.

  Deviations: pairs are disjoint, an image comes once in an epoch (the odd one
  of a class finds a second view of another), and each teaches the other. As
  released, every image draws any of its class, itself included, which goes
  through a second pass, without gradient, on top of the batch: 4/3 of the cost,
  and batch norm's statistics, of each pass alone, move twice.
  """

  order: ClassVar[str] = 'pairs'
  section: ClassVar[str] = 'cs_kd'

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array:
    """Returns each one's neighbour's logits over T: see `Source.targets`."""
    del memory, batch
    pairs = said_BxK.reshape(-1, 2, said_BxK.shape[-1])
    return pairs[:, ::-1].reshape(said_BxK.shape) / self.temperature
