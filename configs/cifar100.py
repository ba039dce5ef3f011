# SPDX-License-Identifier: Apache-2.0
"""CIFAR-100: Tables 1, 2, 4, 5 and 6 of the paper.

    python -m srdl_jax.main --config=configs/cifar100.py:method=srdl \
        --workdir=runs/cifar100_srdl

Arguments: model=resnet32, method=srdl|vanilla|..., recipe=paper|strong.
Paper, ResNet-32, mean of 5 runs: vanilla 69.02, SRDL 71.63.
Ours: docs/results.md.
"""

from srdl_jax import config as config_lib


def get_config(arguments=None):
  config = config_lib.defaults()
  config.data.name = 'cifar100'
  config_lib.apply_arguments(config, arguments)
  if config.model.name.startswith('densenet'):
    # The paper's; all other networks have 200.
    config.epochs = 300
  return config
