# SPDX-License-Identifier: Apache-2.0
"""The loss around networks (Figure 4): measured, kept in a file, read again."""

from srdl_jax.flatness.file import (
  KINDS,
  NAME,
  SPLITS,
  Flatness,
  MeasuredNetwork,
  groups,
  read,
)

__all__ = [
  'KINDS',
  'NAME',
  'SPLITS',
  'Flatness',
  'MeasuredNetwork',
  'groups',
  'read',
]
