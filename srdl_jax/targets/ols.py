# SPDX-License-Identifier: Apache-2.0
"""Online label smoothing: what the network has said of a class teaches it."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from srdl_jax.targets.source import Source, Tree, none_yet


class OnlineLabelSmoothing(Source):
  """.5 CE(label) + .5 CE(S[label]), S of the epoch before.

  Zhang et al., "Delving deep into label smoothing", TIP 2021;
  github.com/zhangchbin/OnlineLabelSmoothing. A row of S is the mean prediction,
  while training, of the last epoch's images of that class which were classified
  rightly; uniform where none was.

  Deviations: in the first epoch, which has no S, labels alone teach, with their
  whole weight; as released, S is 0 then, which is half a cross-entropy. Means
  are of all devices.
  """

  partial: ClassVar[bool] = True
  timed: ClassVar[bool] = True
  section: ClassVar[str] = 'ols'

  def weights(self, step: jax.Array) -> tuple[float, float]:
    """Returns weights that add up to 1."""
    del step
    return 1 - self.imitation_weight, self.imitation_weight

  def begin(
    self, variables: Tree, *, examples: int, classes: int, batch_size: int
  ) -> Tree:
    """Returns log S, NaN as yet, and the sums and counts of the next S."""
    del examples, batch_size
    log_S_KxK = none_yet((classes, classes), variables)
    sums_KxK = jnp.zeros_like(log_S_KxK)
    return {'log_S': log_S_KxK, 'sums': sums_KxK, 'counts': sums_KxK[0]}

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array:
    """Returns the rows of log S of the labels: see `Source.targets`."""
    del said_BxK
    return memory['log_S'][batch['label']]

  def end(
    self,
    memory: Tree,
    batch: dict[str, Any],
    said_BxK: jax.Array,
    variables: Tree,
    step: jax.Array,
  ) -> Tree:
    """Adds predictions that were right; S is renewed at an epoch's end."""
    del variables
    labels_B, said_BxK = map(self.gathered, (batch['label'], said_BxK))
    right_B = said_BxK.argmax(-1) == labels_B
    chosen_BxK = jax.nn.one_hot(
      labels_B, said_BxK.shape[-1], dtype=said_BxK.dtype
    )
    chosen_BxK = chosen_BxK * right_B[:, None]
    # Else an accelerator would round the factors.
    said_KxK = jnp.matmul(
      chosen_BxK.T, jax.nn.softmax(said_BxK), precision='highest'
    )
    sums_KxK = memory['sums'] + said_KxK
    counts_K = memory['counts'] + chosen_BxK.sum(0)
    # Logarithms of 0 would be no targets at all.
    least = jnp.finfo(sums_KxK.dtype).tiny
    mean_KxK = sums_KxK / jnp.maximum(counts_K, 1)[:, None]
    known_KxK = jnp.log(jnp.maximum(mean_KxK, least))
    renewed_KxK = jnp.where(counts_K[:, None] > 0, known_KxK, 0)
    is_last = self.is_last_of_epoch(step)
    return {
      'log_S': jnp.where(is_last, renewed_KxK, memory['log_S']),
      'sums': jnp.where(is_last, 0, sums_KxK),
      'counts': jnp.where(is_last, 0, counts_K),
    }
