# SPDX-License-Identifier: Apache-2.0
"""Teacher-free distillation: a teacher that is made up."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from srdl_jax.targets.source import Source, Tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class VirtualTeacher(Source):
  """(1 - alpha) CE(label) + alpha KL(p_d at T || student at T).

  Yuan et al., "Revisiting knowledge distillation via label smoothing
  regularization", CVPR 2020, equation 9 (Tf-KD_reg);
  github.com/yuanli2333/Teacher-free-Knowledge-Distillation. p_d has a on the
  label and (1 - a) / (K - 1) elsewhere, and is softened as the student is: to
  the power of 1 / T. There is no T^2.

  This is the paper's formula. Its second term is so weak at T = 20, where its
  gradient is alpha / T times a difference of nearly uniform probabilities, that
  little but (1 - alpha) CE is left. The released code computes another one:
  the student is not softened; and probabilities, not their logarithms, are put
  into the softmax at T, which with K = 100 leaves .0105 on the label and .0099
  elsewhere (here .0157 and .0099). That is label smoothing by about alpha, for
  which `label_smoothing` stands. It averages over B K numbers and multiplies by
  100, which with 100 classes is this mean over B.
  """

  alpha: float
  correct: float
  section: ClassVar[str] = 'tf_kd'

  def weights(self, step: jax.Array) -> tuple[float, float]:
    """Returns weights without the T^2 of Eq 7."""
    del step
    return 1 - self.alpha, self.alpha / self.temperature**2

  def targets(
    self, memory: Tree, batch: dict[str, Any], said_BxK: jax.Array
  ) -> jax.Array:
    """Returns the logits of p_d at T: see `Source.targets`."""
    del memory
    classes = said_BxK.shape[-1]
    is_label = jax.nn.one_hot(batch['label'], classes, dtype=said_BxK.dtype)
    ratio = self.correct * (classes - 1) / (1 - self.correct)
    return is_label * jnp.log(ratio) / self.temperature
