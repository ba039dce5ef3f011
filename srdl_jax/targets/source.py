# SPDX-License-Identifier: Apache-2.0
"""What a source of soft targets is; by itself it has none: labels alone."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax


@dataclasses.dataclass(frozen=True)
class Source:
  """Where the soft targets of a step come from: here, from nowhere.

  Attributes:
    temperature: T of Eq 5: the targets' own, and what softens the student.
    apply: that of the teacher's network, for sources that predict.
    stored: whether the teacher's targets are predicted once, for a bank.
    forwards: further forward passes of an image in a step.
  """

  temperature: float
  apply: Callable[..., Any] | None = None
  stored: ClassVar[bool] = False
  forwards: ClassVar[int] = 0

  def targets(
    self, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array | None:
    """Returns the soft targets of a batch.

    Args:
      batch: image [b, H, W, C], augmented and normalised, label [b], index
        [b], soft_logits, the bank's rows [b, K] or None, and teacher, the
        variables of a network that predicts or None.
      said_BxK: the student's own logits in this very step, without gradient.

    Returns:
      Logits [b, K] that are softened already, such as log-probabilities at
      temperature T; None for labels alone.
    """
    del batch, said_BxK
    return None
