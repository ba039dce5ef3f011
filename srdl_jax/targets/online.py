# SPDX-License-Identifier: Apache-2.0
"""An ablation: the teacher predicts the very images that are trained on."""

from typing import Any, ClassVar

import jax

from srdl_jax.targets.source import Source, Tree


class Online(Source):
  """A teacher that runs, in evaluation mode, on the student's images."""

  teacher: ClassVar[bool] = True
  forwards: ClassVar[int] = 1
  section: ClassVar[str] = 'distillation'

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array:
    """Returns log-probabilities at temperature T: see `Source.targets`."""
    del memory, said_BxK
    logits_BxK = self.apply(batch['teacher'], batch['image'], train=False)
    return jax.nn.log_softmax(logits_BxK / self.temperature)
