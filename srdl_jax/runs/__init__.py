# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind, and what holds its directory while it works.

Nothing is imported here: some of these modules need jax, and reports do not.
"""

__all__ = [
  'bank',
  'bar',
  'checkpoint',
  'directory',
  'environment',
  'expected',
  'finished',
  'formats',
  'hold',
  'leftovers',
  'log',
  'processes',
  'progress',
  'record',
  'saver',
  'stop_request',
]
