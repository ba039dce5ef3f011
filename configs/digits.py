# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits that come with scikit-learn: both stages in a minute.

    python -m srdl_jax.main --config=configs/digits.py --workdir=runs/digits

1,437 training and 360 test images of 8 x 8 pixels. Not in the paper: it shows
that the program runs, on real images, without a download.
"""

from srdl_jax import config as config_lib


def get_config(arguments=None):
  config = config_lib.defaults()
  config.data.name = 'digits'
  config.model.name = 'resnet8'
  config.epochs = 40
  config.augment.flip = False  # A mirrored digit is another sign.
  config.augment.padding = 1
  config.eval.batch_size = 360
  return config_lib.apply_arguments(config, arguments)
