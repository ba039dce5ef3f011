# SPDX-License-Identifier: Apache-2.0
"""Market-1501: Table 3 of the paper. docs/market1501.md says where to get it.

    python -m srdl_jax.main --config=configs/market1501.py:method=srdl \
        --config.data.manual_dir=DIR --config.init.from_path=WEIGHTS \
        --workdir=runs/market1501_srdl

Arguments: model=resnet50|densenet121, method=srdl|vanilla|..., and
recipe=paper|practical: rate 0.1, or 0.05 with a tenth of it for all layers but
the classifier, which suits imported weights. WEIGHTS are ImageNet's, from
`python -m srdl_jax.weights import`; the restart of stage two goes back to them.

Paper, single-query rank-1/mAP, multi-query rank-1/mAP, mean of 5 runs:
ResNet-50 vanilla 87.5/69.9, 91.4/78.5, SRDL 89.3/73.5, 93.1/81.5;
DenseNet-121 vanilla 90.1/74.0, 93.6/81.7, SRDL 91.7/76.8, 94.2/83.5.
"""

from srdl_jax import config as config_lib


def get_config(arguments=None):
  config = config_lib.defaults()
  config.data.name = 'market1501'
  config.model.name = 'resnet50'
  config.epochs = 120
  config.batch_size = 32
  config.eval.batch_size = 256
  # The gallery has more images than the training set.
  config.eval.every_epochs = 10
  return config_lib.apply_arguments(config, arguments)
