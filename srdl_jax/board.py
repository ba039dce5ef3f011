# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows of a stage beside its curves, each once.

All of it belongs to the stage's first step: a resume from before that step has
it forgotten and shown again, a later one leaves it as it is.
"""

import math

import numpy as np

from srdl_jax import config as config_lib
from srdl_jax.data import pipeline, sampling
from srdl_jax.experiment import BoundStage, Experiment, Purpose
from srdl_jax.knowledge import Knowledge
from srdl_jax.runs.finished import RANK_1
from srdl_jax.runs.log import RunLog
from srdl_jax.soft_targets import Bank

# What runs are compared by. All have the same, as TensorBoard takes the names
# from the first that it finds; what else a run is stands in its configuration.
COMPARED = (
  'method',
  'model.name',
  'data.name',
  'seed',
  'epochs',
  'batch_size',
  'optimiser.learning_rate',
  'optimiser.weight_decay',
  'distillation.temperature',
  'distillation.imitation_weight',
  'srdl.split',
  'srdl.start',
  'data.examples_per_class',
  'data.label_noise',
)
_IMAGES, _COLUMNS = 8, 4
# Of a larger bank, examples at even distances are counted.
_MOST_PROBABILITIES = 10_000_000


def begin(
  log: RunLog,
  experiment: Experiment,
  stage: BoundStage,
  knowledge: Knowledge | None,
) -> None:
  """Shows what a stage begins with; the first one, also what the run is.

  Args:
    log: rewound to where the stage goes on.
    knowledge: of the stage's teacher, or None for labels alone.
  """
  step = stage.first_step + 1
  board = log.board(step)
  if board is None:
    return
  if stage.number == 1:
    flat = config_lib.flatten(experiment.config)
    compared = {name: _plain(flat[name]) for name in COMPARED}
    during = f'{experiment.selection_split}/{experiment.score}'
    final = f'final/{RANK_1 if experiment.is_retrieval else "accuracy"}'
    board.text(step, 'configuration', _table(experiment.description, flat))
    board.hparams(step, compared, dict.fromkeys((final, during)))
  name = f'stage_{stage.number}'
  images = _montage(first_images(experiment, stage))
  board.image(step, f'{name}/training_images', images)
  if knowledge is not None and knowledge.bank is not None:
    values = entropies(knowledge.bank)
    board.histogram(step, f'{name}/soft_target_entropy', values)


def first_images(experiment: Experiment, stage: BoundStage) -> np.ndarray:
  """Returns the first images that a stage trains on, augmented by the run.

  Returns:
    uint8 [n, H, W, C], of the first step, before they are normalised.
  """
  images, drawn = experiment.dataset.train.images, stage.drawn
  numbers = sampling.EpochOrders(drawn)[0][: min(drawn.batch_size, _IMAGES)]
  if experiment.dataset.train.is_streamed:
    views = pipeline.TrainingViews(images, drawn, 1, np.arange(len(numbers)))
    cropped = np.stack([views[n]['image'] for n in range(len(numbers))])
  else:
    cropped = images[numbers % len(images)]
  key = stage.key(Purpose.AUGMENT, 0)
  return np.asarray(experiment.flip_and_crop(key, cropped, numbers))


def entropies(bank: Bank) -> np.ndarray:
  """Returns the entropies, in nats, of a bank's soft targets, [n]."""
  rows = np.flatnonzero(bank.present_N)
  size = rows.size * bank.log_probs_NxK.shape[1]
  rows = rows[:: max(1, math.ceil(size / _MOST_PROBABILITIES))]
  log_probs = bank.log_probs_NxK[rows].astype(np.float32)
  return -(np.exp(log_probs) * log_probs).sum(axis=1)


def _montage(images: np.ndarray) -> np.ndarray:
  """Returns images [n, H, W, C] as one, in whole rows."""
  columns = min(len(images), _COLUMNS)
  rows = len(images) // columns
  _, height, width, channels = images.shape
  grid = images[: rows * columns].reshape(
    rows, columns, height, width, channels
  )
  return grid.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


def _table(title: str, flat: dict[str, object]) -> str:
  lines = [title, '', '| field | value |', '|---|---|']
  return '\n'.join(lines + [f'| {n} | `{v!r}` |' for n, v in flat.items()])


def _plain(value: object) -> float | str:
  return value if isinstance(value, float | int | str) else f'{value}'
