# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10: Tables 1 and 2 of the paper.

    python -m srdl_jax.main --config=configs/cifar10.py:method=srdl \
        --workdir=runs/cifar10_srdl

Arguments: model=resnet32, method=srdl|vanilla|..., recipe=paper|strong.
Paper, ResNet-32, mean of 5 runs: vanilla 92.53, SRDL 93.12.
Ours: docs/results.md.
"""

from srdl_jax import config as config_lib


def get_config(arguments=None):
  config = config_lib.defaults()
  config.data.name = 'cifar10'
  config_lib.apply_arguments(config, arguments)
  if config.model.name.startswith('densenet'):
    # The paper's; all other networks have 200.
    config.epochs = 300
  return config
