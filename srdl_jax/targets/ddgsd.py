# SPDX-License-Identifier: Apache-2.0
"""Data-distortion guided self-distillation: two views teach each other."""

from typing import ClassVar

from srdl_jax.targets.cs_kd import ClassWise


class TwoViews(ClassWise):
  """CE + lambda T^2 KL(what is said of the other view || of this one).

  Xu and Liu, "Data-distortion guided self-distillation for deep neural
  networks", AAAI 2019. Two augmented views of an image stand beside each other.

  T and lambda are this project's choice. Deviations: without the maximum mean
  discrepancy of the two views' features. In equal steps, half as many images
  are seen in an epoch, twice each.
  """

  order: ClassVar[str] = 'twice'
  section: ClassVar[str] = 'ddgsd'
