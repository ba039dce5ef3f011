# SPDX-License-Identifier: Apache-2.0
"""Says what a run costs, before it is trained.

    python -m srdl_jax.cost --config=FILE[:ARGUMENTS]

prints multiply-adds, the compiler's FLOPs and the paper's TrCost, stage by
stage. It trains nothing, and the data set need not be there. What the numbers
mean is in docs/cost.md.
"""

from collections.abc import Sequence

import jax

from srdl_jax import command, cost


def main(argv: Sequence[str]) -> None:
  """Prints what the configuration of --config costs."""
  del argv
  config = command.given_config()
  # Counting needs no accelerator, which may be busy.
  jax.config.update('jax_platforms', 'cpu')
  print(cost.describe(config), end='')


if __name__ == '__main__':
  command.define_config()
  command.run(main)
