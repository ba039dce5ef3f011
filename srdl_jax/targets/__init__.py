# SPDX-License-Identifier: Apache-2.0
"""Where the soft targets of a train step come from: one small file a source."""

from srdl_jax.targets.online import Online
from srdl_jax.targets.source import Source
from srdl_jax.targets.stored import Stored

__all__ = ['SOURCES', 'Online', 'Source', 'Stored']

# By the names that stages give: see methods.Stage.source; '' is labels alone.
SOURCES: dict[str, type[Source]] = {
  '': Source,
  'bank': Stored,
  'online': Online,
}
