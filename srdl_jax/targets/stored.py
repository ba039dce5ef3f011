# SPDX-License-Identifier: Apache-2.0
"""Soft targets that a teacher has predicted once: the rows of its bank."""

from typing import Any, ClassVar

import jax

from srdl_jax.targets.source import Source, Tree


class Stored(Source):
  """What the batch brings along."""

  teacher: ClassVar[bool] = True
  stored: ClassVar[bool] = True
  section: ClassVar[str] = 'distillation'

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array:
    """Returns the bank's rows, which must be there: see `Source.targets`."""
    del memory, said_BxK
    # Without them a stage would be trained on labels alone, silently.
    if batch['soft_logits'] is None:
      raise ValueError('The batch of a taught stage has no soft targets.')
    return batch['soft_logits']
