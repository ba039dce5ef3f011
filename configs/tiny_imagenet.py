# SPDX-License-Identifier: Apache-2.0
"""Tiny ImageNet: Tables 1 and 2 of the paper.

    python -m srdl_jax.main --config=configs/tiny_imagenet.py:method=srdl \
        --workdir=runs/tiny_imagenet_srdl

Arguments: model=resnet32, method=srdl|vanilla|..., recipe=paper|strong.
Paper, ResNet-32, mean of 5 runs: vanilla 53.33, SRDL 55.53.
Ours: docs/results.md.
"""

from srdl_jax import config as config_lib


def get_config(arguments=None):
  config = config_lib.defaults()
  config.data.name = 'tiny_imagenet'
  config.epochs = 150
  return config_lib.apply_arguments(config, arguments)
