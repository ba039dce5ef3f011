# SPDX-License-Identifier: Apache-2.0
"""Self-distillation from the last mini-batch, half of which comes again."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from srdl_jax.targets.source import Source, Tree, none_yet


class LastBatch(Source):
  """CE + alpha T^2 KL(what was said of the image a step before || now).

  Shen et al., "Self-distillation from the last mini-batch for consistency
  regularization", CVPR 2022; github.com/Meta-knowledge-Lab/DLB. Half of a batch
  is new, the other half is the new half of the batch before in another
  augmentation, and has soft targets.

  T and alpha are this project's choice: the released command has no defaults.
  Deviations: as released, 2 B images are trained in an iteration; here B, so
  that in equal steps half as many images are seen, twice each. There, the two
  halves go through the network one after the other; here they share the batch's
  statistics.
  """

  order: ClassVar[str] = 'again'
  partial: ClassVar[bool] = True
  section: ClassVar[str] = 'dlb'

  def begin(
    self, variables: Tree, *, examples: int, classes: int, batch_size: int
  ) -> Tree:
    """Returns rows and logits of the last batch's new half, none as yet."""
    del examples
    half = batch_size // 2
    said_BxK = none_yet((half, classes), variables)
    return {'index': jnp.full(half, -1, jnp.int32), 'said': said_BxK}

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array:
    """Returns NaN for new images: see `Source.targets`."""
    half = len(said_BxK) // 2
    first = 0
    if self.axis_name is not None:
      first = jax.lax.axis_index(self.axis_name) * half
    rows, said = (
      jax.lax.dynamic_slice_in_dim(memory[name], first, half)
      for name in ('index', 'said')
    )
    # Of two neighbours the first one is known, the second one is new.
    is_same = rows == batch['index'][::2]
    known = jnp.where(is_same[:, None], said / self.temperature, jnp.nan)
    return jnp.stack([known, jnp.full_like(known, jnp.nan)], 1).reshape(
      said_BxK.shape
    )

  def end(
    self,
    memory: Tree,
    batch: dict[str, Any],
    said_BxK: jax.Array,
    variables: Tree,
    step: jax.Array,
  ) -> Tree:
    """Remembers what is said of new images."""
    del memory, variables, step
    new = batch['index'][1::2], said_BxK[1::2]
    rows, said = map(self.gathered, new)
    return {'index': rows.astype(jnp.int32), 'said': said}
