# SPDX-License-Identifier: Apache-2.0
"""Your own images, in a folder for each class. Not in the paper.

    python -m srdl_jax.main --config=configs/folder.py:path=DIR \
        --workdir=runs/mine

DIR holds train/<class>/ and val/<class>/ (or test, valid, validation or dev;
the first of these that is there) with the images; or <class>/ alone, of which
a fifth is then held out for testing.

A step takes 32 images: a folder may be small. Larger batches are faster, and
want a rate that is larger in proportion.

Arguments: path=DIR, without a comma in it; size=224, the side in pixels that
the network gets; model=resnet50, method=srdl|vanilla|..., recipe=paper|strong.
"""

from srdl_jax import config as config_lib


def get_config(arguments=None):
  config = config_lib.defaults()
  config.data.name = 'folder'
  config.model.name = 'resnet50'
  config.epochs = 90
  # 0.1 for 256, in proportion.
  config.batch_size = 32
  config.optimiser.learning_rate = 0.0125
  config.optimiser.weight_decay = 1e-4
  config.augment.padding = 0  # Random parts of the images take its place.
  config.eval.batch_size = 256
  return config_lib.apply_arguments(config, arguments, 'path', 'size')
