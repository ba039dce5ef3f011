# SPDX-License-Identifier: Apache-2.0
"""Half of the mass on each of the teacher's two best classes."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from srdl_jax.errors import ConfigError
from srdl_jax.targets.source import Tree
from srdl_jax.targets.stored import Stored

# Its exponential is 0 in every precision, and 0 times it is 0.
_NEVER = -1e4


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopTwo(Stored):
  """Which of the two is right a student has to find out: partial labels.

  Jeong and Chung, "Rethinking self-distillation: label averaging and enhanced
  soft label refinement with partial labels", ICLR 2025: in place of labels and
  soft targets the student learns from 1/2 on each of the two classes that its
  teacher takes for the most likely ones. There, students are linear probes on
  fixed features, and labels are noisy; here they are whole networks.
  """

  label_weight: float = 0.0
  section: ClassVar[str] = ''

  def refuse(self, *, examples: int, classes: int) -> None:
    """Refuses two classes: halves of both would teach nothing."""
    del examples
    if classes < 3:
      raise ConfigError(
        'Top-2 targets of 2 classes are the same for every image: take data '
        'with more.'
      )

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array:
    """Returns log 1/2 for two classes: see `Source.targets`."""
    stored_BxK = super().targets(memory, batch, said_BxK)
    _, best_Bx2 = jax.lax.top_k(stored_BxK, 2)
    is_best = jax.nn.one_hot(best_Bx2, stored_BxK.shape[-1]).sum(1) > 0
    return jnp.where(is_best, jnp.log(0.5), _NEVER).astype(said_BxK.dtype)
