# SPDX-License-Identifier: Apache-2.0
"""ImageNet, section 4.2 of the paper. docs/imagenet.md says how to prepare it.

    python -m srdl_jax.main --config=configs/imagenet.py:method=srdl \
        --config.data.data_dir=TFDS --config.data.workers=16 \
        --workdir=runs/imagenet_srdl

Arguments: model=densenet201, method=srdl|vanilla|...; path=DIR, without a comma
in it, reads train/<class>/ and val/<class>/ in DIR as they lie, unprepared.
Paper, DenseNet-201, top-1/top-5: vanilla 77.20/94.57, SRDL 77.72/94.89. It
doesn't state epochs, batch size and weight decay: those here are ours.
"""

from srdl_jax import config as config_lib


def get_config(arguments=None):
  config = config_lib.defaults()
  config.data.name = 'imagenet'
  config.model.name = 'densenet201'
  config.epochs = 90
  config.batch_size = 256
  config.eval.batch_size = 256
  config.augment.padding = 0  # Random parts of the images take its place.
  config.optimiser.weight_decay = 1e-4
  return config_lib.apply_arguments(config, arguments, 'path')
