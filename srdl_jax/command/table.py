# SPDX-License-Identifier: Apache-2.0
"""The commands by name: what each does, its module, and examples."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Command:
  """A command of `srdl`.

  Attributes:
    module: that `python -m` runs.
    line: what it does.
    examples: of its arguments.
  """

  module: str
  line: str
  examples: tuple[str, ...]


# By what stands behind `srdl`.
COMMANDS: dict[str, Command] = {
  'demo': Command(
    'srdl_jax.reproduce.demo',
    'does it help? A minute on images that come with the installation',
    ('--workdir=runs/demo', '--jobs=1'),
  ),
  'train': Command(
    'srdl_jax.main',
    'train a configuration, or go on where it was interrupted',
    (
      '--config=digits --workdir=runs/digits',
      '--config=cifar100:model=resnet32,method=srdl --workdir=runs/c100',
      '--config=folder:path=DIR,model=resnet18 --workdir=runs/mine',
    ),
  ),
  'evaluate': Command(
    'srdl_jax.evaluate',
    'measure the networks of finished runs',
    (
      '--workdir=runs/digits',
      '--workdir=runs/a --workdir=runs/b:stage_1 --split=train',
      '--workdir=runs/mine --data=FOLDER --details=details',
    ),
  ),
  'predict': Command(
    'srdl_jax.predict',
    'name what images of your own show',
    (
      '--workdir=runs/mine photo.jpg',
      "--workdir=runs/a --workdir=runs/b --format=csv photos '*.png'",
    ),
  ),
  'report': Command(
    'srdl_jax.report',
    "show runs beside the paper's tables",
    ('runs', 'runs/a runs/b --out=report.html'),
  ),
  'reproduce': Command(
    'srdl_jax.reproduce',
    "train the rows of the paper's tables and figures",
    (
      'table1 --scale=smoke --workdir=runs/smoke --dry-run',
      "table1 --rows='cifar-100: resnet*' --seeds=2 --workdir=runs/paper",
    ),
  ),
  'cost': Command(
    'srdl_jax.cost',
    'count what a configuration costs, without training',
    ('--config=cifar100:model=resnet32,method=srdl',),
  ),
  'weights': Command(
    'srdl_jax.weights',
    "weights in and out, by PyTorch's names",
    (
      'import --from=resnet50.safetensors --model=resnet50 '
      '--out=weights/resnet50',
      'export --workdir=runs/digits --out=exported',
    ),
  ),
  'flatness': Command(
    'srdl_jax.flatness',
    'measure the loss around the networks of runs',
    ('--workdir=runs/a --workdir=runs/b --out=flatness.json',),
  ),
  'rank': Command(
    'srdl_jax.rank',
    'CMC and mAP of given features',
    ('--features=features.npz --metric=cosine --re_rank',),
  ),
  'prepare': Command(
    'srdl_jax.data.prepare',
    'prepare a data set on disk, before any run needs it',
    ('cifar100 --data_dir=DIR', 'market1501 --manual_dir=DIR'),
  ),
  'config': Command(
    'srdl_jax.command.config',
    'show a configuration, and what of it is not the default',
    (
      '--config=cifar100:recipe=strong',
      '--config=digits --config.optimiser.learning_rate=0.05',
    ),
  ),
}
