# SPDX-License-Identifier: Apache-2.0
"""Market-1501: Table 3 of the paper. The data can't be read yet.

    python -m srdl_jax.cost --config=configs/market1501.py:method=srdl

Arguments: model=resnet50|densenet121, method=srdl|vanilla|...
Paper, ResNet-50, single-query rank-1/mAP: vanilla 87.5/69.9, SRDL 89.3/73.5.
"""

from srdl_jax import config as config_lib


def get_config(arguments=None):
  config = config_lib.defaults()
  config.data.name = 'market1501'
  config.model.name = 'resnet50'
  config.epochs = 120
  config.batch_size = 32
  return config_lib.apply_arguments(config, arguments)
