# SPDX-License-Identifier: Apache-2.0
"""The paper's rows and figures: what each trains, at which scale."""

from srdl_jax.reproduce.paper import NAMES, Row, Setting
from srdl_jax.reproduce.scales import SCALES, TABLES

__all__ = [
  'NAMES',
  'SCALES',
  'TABLES',
  'Row',
  'Setting',
  'arena',
  'paper',
  'scales',
]
