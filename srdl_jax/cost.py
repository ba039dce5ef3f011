# SPDX-License-Identifier: Apache-2.0
"""What a run costs: multiply-adds, the compiler's FLOPs, the paper's TrCost.

    python -m srdl_jax.cost --config=FILE[:ARGUMENTS]

prints both counts stage by stage. It trains nothing, and the data set need not
be there. What the numbers mean is in docs/cost.md.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from srdl_jax import build, command, data, imported, methods
from srdl_jax import config as config_lib
from srdl_jax.data import sampling
from srdl_jax.flops import forward_flops, multiply_adds, parameters, train_flops
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished
from srdl_jax.targets import SOURCES


@dataclasses.dataclass(frozen=True)
class Work:
  """What a stage does with the training set, and what an image costs it.

  Attributes:
    model: name of its network.
    epochs: passes that train.
    extractions: passes that predict: 1 where it teaches (Eq 5), 0 where it
      doesn't, as many as views, or as epochs where it predicts in each step.
    parameters: see `flops.parameters`.
    forward: see `flops.multiply_adds`.
    forward_flops: see `flops.forward_flops`.
    train_flops: see `flops.train_flops`.
  """

  model: str
  epochs: int
  extractions: int
  parameters: int
  forward: int
  forward_flops: int | None
  train_flops: int | None

  @property
  def passes(self) -> int:
    """Over the training set, forward."""
    return self.epochs + self.extractions


def work(
  stages: Sequence[methods.Stage],
  networks: Mapping[str, nn.Module],
  image_shape: tuple[int, int, int],
  *,
  views: int = 0,
) -> list[Work]:
  """Returns what each stage of a plan does.

  Args:
    stages: the plan.
    networks: by the names that the stages give.
    image_shape: (H, W, C).
    views: augmented views of an image that a soft target is the mean of; 0:
      the clean image.
  """
  counters = (parameters, multiply_adds, forward_flops, train_flops)
  counts = {
    name: [count(network, image_shape) for count in counters]
    for name, network in networks.items()
  }
  return [
    Work(
      stage.model,
      stage.epochs,
      _extractions(n, stages, views),
      *counts[stage.model],
    )
    for n, stage in enumerate(stages, start=1)
  ]


def _extractions(
  number: int, stages: Sequence[methods.Stage], views: int
) -> int:
  """Returns the passes in which a stage predicts for those that it teaches:
  one without a teacher may teach itself."""
  taught = [
    (SOURCES[s.source], s.epochs)
    for n, s in enumerate(stages, start=1)
    if number == (n if s.teacher is None else s.teacher)
  ]
  forwards = sum(source.forwards * epochs for source, epochs in taught)
  stored = any(source.stored for source, _ in taught)
  return forwards + (max(views, 1) if stored else 0)


def with_imported(
  recorded: Sequence[Mapping[str, Any]],
  stages: Sequence[methods.Stage],
  views: int = 0,
) -> list[Work]:
  """Returns what an imported teacher cost: its run, and what it predicts.

  Args:
    recorded: the work that its result.json lists (cost.stages).
    stages: of its student.
    views: see `work`.
  """
  works = [Work(**one) for one in recorded]
  passes = _extractions(methods.IMPORTED, stages, views)
  last = works[-1]
  works[-1] = dataclasses.replace(last, extractions=last.extractions + passes)
  return works


def training_cost(stages: Sequence[Work], examples: int) -> float:
  """Returns TrCost: forward multiply-adds x epochs x examples, in 1e16.

  Args:
    stages: all of the run; a pass that predicts costs as much as an epoch.
    examples: images in an epoch.
  """
  return sum(s.forward * s.passes for s in stages) * examples / 1e16


def units(
  stages: Sequence[Work], examples: int, unit: Work | None = None
) -> float:
  """Returns what training cost in forward passes of an image.

  A train step is 3 of them, an image that is predicted 1. M epochs of vanilla
  training are 3 M times the examples.

  Args:
    stages, examples: see `training_cost`.
    unit: whose network's passes are meant; the last stage's without it.
  """
  passes = sum((3 * s.epochs + s.extractions) * s.forward for s in stages)
  return passes * examples / (unit or stages[-1]).forward


def training_flops(stages: Sequence[Work], examples: int) -> int | None:
  """Returns the compiler's count of a run, in FLOPs; None where unknown.

  Forward and backward for each image of an epoch, and forward for each of a
  pass that predicts. Arguments as for `training_cost`.
  """
  passes = [(s.epochs, s.train_flops) for s in stages]
  passes += [(s.extractions, s.forward_flops) for s in stages]
  return _total(passes, examples)


def _total(
  passes: Sequence[tuple[int, int | None]], examples: int
) -> int | None:
  if any(flops is None for _, flops in passes):
    return None
  return sum(times * flops for times, flops in passes) * examples


def table(stages: Sequence[Work], examples: int) -> str:
  """Returns what each stage costs, and all of them, in Markdown.

  Args:
    stages: all of the run.
    examples: images in an epoch.
  """
  parts = [*([stage] for stage in stages), stages]
  passes = [[(s.passes, s.forward_flops) for s in part] for part in parts]
  forward = [_total(part, examples) for part in passes]
  training = [training_flops(part, examples) for part in parts]
  rows = [
    ['stage', *range(1, len(parts)), 'all'],
    ['network', *(s.model for s in stages), ''],
    ['epochs', *(sum(s.epochs for s in part) for part in parts)],
    ['extraction passes', *(sum(s.extractions for s in p) for p in parts)],
    ['parameters', *(s.parameters for s in stages), ''],
    ['forward multiply-adds, an image', *(s.forward for s in stages), ''],
    ['units (1e6)', *(units(p, examples, stages[-1]) / 1e6 for p in parts)],
    ['TrCost (1e16)', *(training_cost(part, examples) for part in parts)],
    ['forward FLOPs, an image', *(s.forward_flops for s in stages), ''],
    ['forward + backward, an image', *(s.train_flops for s in stages), ''],
    ['forward FLOPs (1e16)', *map(_in_1e16, forward)],
    ['training FLOPs (1e16)', *map(_in_1e16, training)],
  ]
  cells = [[_text(value) for value in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  cells.insert(1, ['-' * (width - 1) + ':' for width in widths])
  return ''.join(
    '| ' + ' | '.join(map(str.rjust, row, widths)) + ' |\n' for row in cells
  )


def _in_1e16(flops: int | None) -> float | None:
  return None if flops is None else flops / 1e16


def _text(value: str | int | float | None) -> str:
  if value is None:
    return 'unknown'
  if isinstance(value, str):
    return value
  return f'{value:,}' if isinstance(value, int) else f'{value:#.4g}'


def own_training_cost(config: ConfigDict) -> float:
  """Returns TrCost of a configuration's own stages, in 1e16; reads no data.

  The cost of an imported teacher is not in it.

  Raises:
    ConfigError: a field is out of range, or a name unknown.
  """
  stages, networks, shape, examples = _planned(config)
  views = config.distillation.views
  with jax.enable_x64(config.model.dtype == 'float64'):
    forward = {
      name: multiply_adds(network, shape.image_shape)
      for name, network in networks.items()
    }
  total = sum(
    forward[stage.model] * (stage.epochs + _extractions(n, stages, views))
    for n, stage in enumerate(stages, start=1)
  )
  return total * examples / 1e16


def _planned(config):
  """Returns stages, networks by name, shape of the data, images trained on."""
  config_lib.validate(config)
  stages = methods.create(config)
  shape, examples = _shape(config)
  networks = {
    stage.model: build.create_model(config, stage.model, shape.num_classes)
    for stage in stages
  }
  return stages, networks, shape, examples


def describe(config: ConfigDict) -> str:
  """Returns what a configuration costs, as text; reads no data.

  Raises:
    ConfigError: a field is out of range, or a name unknown.
    WorkdirError: the run of an imported teacher is missing or unfinished.
  """
  config = imported.name_network(config)
  stages, networks, shape, examples = _planned(config)
  views = config.distillation.views
  with jax.enable_x64(config.model.dtype == 'float64'):
    counted = work(stages, networks, shape.image_shape, views=views)
  if config.teacher.workdir:
    path = run_directory.local(config.teacher.workdir, 'teacher.workdir')
    recorded = finished.read_teacher(path).cost.stages
    counted = [*with_imported(recorded, stages, views), *counted]
  return (
    f'{config.data.name}, {config.method}: {examples:,} training images, '
    f'{" x ".join(map(str, shape.image_shape))}, {shape.num_classes} classes\n'
    f'\n{table(counted, examples)}'
  )


def _shape(config) -> tuple[data.Shape, int]:
  """Returns the shape of the data, and how many images are trained on."""
  shape = data.shape(config.data.name)
  if height := config.data.image_size:
    # Upright images stay as slender as they are.
    tall, wide, channels = shape.image_shape
    image_shape = (height, height * wide // tall, channels)
    shape = dataclasses.replace(shape, image_shape=image_shape)
  # How many rows are chosen doesn't depend on the order of the labels, but for
  # data.classes where classes are of unequal size.
  rows, _ = sampling.choose_rows(
    np.arange(shape.train_examples) % shape.num_classes,
    **config_lib.subset(config),
  )
  classes = config.data.classes or shape.num_classes
  return dataclasses.replace(shape, num_classes=classes), len(rows)


def main(argv: Sequence[str]) -> None:
  """Prints what the configuration of --config costs."""
  del argv
  config = command.given_config()
  # Counting needs no accelerator, which may be busy.
  jax.config.update('jax_platforms', 'cpu')
  print(describe(config), end='')


if __name__ == '__main__':
  command.define_config()
  command.run(main)
