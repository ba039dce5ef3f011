# SPDX-License-Identifier: Apache-2.0
"""Random images in place of a data set: speed does not depend on them."""

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from srdl_jax import build, config, data, stage
from srdl_jax.experiment import Experiment
from srdl_jax.runs import stop_request
from srdl_jax.runs.checkpoint import Checkpoints
from srdl_jax.runs.log import RunLog

CLASSES = 100


def dataset(train: int, test: int) -> data.Dataset:
  """Returns so many images of 32 x 32 pixels, always the same."""
  generator = np.random.default_rng(0)

  def split(name: str, count: int) -> data.Split:
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = generator.integers(0, CLASSES, count, np.int32)
    return data.Split(name, images, labels, 'random')

  half = (0.5, 0.5, 0.5)
  return data.Dataset(
    'random',
    '0',
    CLASSES,
    half,
    half,
    split('train', train),
    split('test', test),
  )


def experiment(train: int, test: int, **fields) -> Experiment:
  """Returns vanilla training on so many of them.

  Args:
    **fields: others than the defaults, such as epochs=2 or model={'name': ...}.
  """
  data.DATASETS['random'] = data.Entry(lambda source: dataset(train, test))
  return build.build(
    config.changed({'data.name': 'random', 'method': 'vanilla', **fields})
  )


def train(experiment: Experiment, log: Callable[[str], RunLog]) -> Any:
  """Trains the first stage by the stage runner; returns the log.

  Args:
    log: makes one of a run's directory, which is removed then.
  """
  with (
    tempfile.TemporaryDirectory() as directory,
    log(directory) as told,
    Checkpoints(f'{directory}/checkpoints') as checkpoints,
  ):
    stage.train(
      experiment,
      experiment.stages[0],
      previous=None,
      knowledge=None,
      checkpoints=checkpoints,
      log=told,
      stop=stop_request.StopRequest(),
    )
  return told
