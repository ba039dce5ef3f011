# SPDX-License-Identifier: Apache-2.0
"""What a train step reads: examples that live on the device, or a stream."""

import contextlib
from typing import Any

import jax
import numpy as np

from srdl_jax import cpu, errors, parallel, soft_targets
from srdl_jax.data import pipeline, sampling
from srdl_jax.experiment import BoundStage, Experiment
from srdl_jax.knowledge import Knowledge
from srdl_jax.machine import tpu


class ResidentFeed(contextlib.AbstractContextManager):
  """Examples that live on every device: a step is told their numbers.

  Attributes:
    resident: image, label, soft_logits and teacher, on the devices.
  """

  def __init__(
    self,
    experiment: Experiment,
    stage: BoundStage,
    knowledge: Knowledge | None,
  ):
    """Puts the training split, and what teaches it, on every device.

    Args:
      experiment, stage, knowledge: see `open_feed`.
    """
    arrays = {
      'image': experiment.dataset.train.images,
      'label': experiment.labels,
      'soft_logits': _soft_logits(experiment, stage, knowledge),
      'teacher': _variables(stage, knowledge),
    }
    laid_out = {'cpu': cpu.aligned, 'tpu': tpu.laid_out}
    platform = experiment.devices[0].platform
    arrays = jax.tree.map(laid_out.get(platform, np.asarray), arrays)
    self.resident = parallel.replicate(arrays, experiment.devices)
    self._experiment = experiment
    self._orders = sampling.EpochOrders(stage.drawn)

  def __exit__(self, *error: object) -> None:
    del error

  def examples(self, epoch: int, begin: int, end: int) -> np.ndarray:
    """Returns the numbers [S, B] of an epoch's steps: this process's part.

    Args:
      epoch: of the stage, from 0.
      begin, end: steps of the epoch, from 0.
    """
    size = self._experiment.config.batch_size
    rows = self._orders[epoch][begin * size : end * size]
    batches = rows.reshape(end - begin, size)
    return np.stack(
      [parallel.own(b, self._experiment.devices) for b in batches]
    )


class StreamedFeed(contextlib.AbstractContextManager):
  """Examples that are decoded and cropped while the device trains.

  Attributes:
    resident: the teacher that predicts online, if any, on the devices.
  """

  def __init__(
    self,
    experiment: Experiment,
    stage: BoundStage,
    knowledge: Knowledge | None,
    step: int,
  ):
    """Begins to decode.

    Args:
      experiment, stage, knowledge, step: see `open_feed`.
    """
    config = experiment.config
    teacher = {'teacher': _variables(stage, knowledge)}
    self.resident = parallel.replicate(teacher, experiment.devices)
    self._experiment = experiment
    self._taught_by = stage, knowledge
    self._step = step
    own = parallel.own(np.arange(config.batch_size), experiment.devices)
    self._batches = pipeline.batches(
      pipeline.TrainingViews(
        images=experiment.dataset.train.images,
        drawn=stage.drawn,
        epochs=stage.plan.epochs,
        own=own,
      ),
      len(own),
      first=step,
      workers=config.data.workers,
    )

  def examples(self, epoch: int, begin: int, end: int) -> dict[str, Any]:
    """Returns the next batches, arrays [S, B, ...]: this process's part.

    Args:
      epoch, begin, end: see `ResidentFeed.examples`; each call goes on where
        the one before ended.

    Raises:
      DataError: an image is damaged; its name and row are told.
    """
    if epoch * self._experiment.steps_per_epoch + begin != self._step:
      raise ValueError('A stream is asked for another batch than its next.')
    self._step += end - begin
    found = [next(self._batches) for _ in range(end - begin)]
    view = np.stack([batch['view'] for batch in found])
    index = view % len(self._experiment.labels)
    return {
      'image': np.stack([batch['image'] for batch in found]),
      'label': self._experiment.labels[index],
      'index': index,
      'view': view,
      'soft_logits': _soft_logits(self._experiment, *self._taught_by, index),
    }

  def __exit__(self, *error: object) -> None:
    # Ends the decoding.
    self._batches.close()


Feed = ResidentFeed | StreamedFeed


def open_feed(
  experiment: Experiment,
  stage: BoundStage,
  knowledge: Knowledge | None,
  step: int,
) -> Feed:
  """Returns the feed of a stage.

  Args:
    knowledge: of the stage's teacher, or None for labels alone.
    step: of the stage, from 0, that comes first.
  """
  if experiment.dataset.train.is_streamed:
    return StreamedFeed(experiment, stage, knowledge, step)
  return ResidentFeed(experiment, stage, knowledge)


def to_learn_from(
  bank: soft_targets.Bank,
  temperature: float,
  rows: np.ndarray | slice = slice(None),
) -> np.ndarray:
  """Returns a bank's soft logits at the temperature of a student.

  Args:
    bank: of the teacher.
    temperature: of the student.
    rows: integers [...] of the examples; all N without them.

  Returns:
    [..., K], in the stored dtype where the temperatures are equal.

  Raises:
    SoftTargetsError: they are a mean over views, which is of one temperature.
  """
  if bank.temperature == temperature:
    return bank.log_probs_NxK[rows]
  if bank.provenance['views']:
    raise errors.SoftTargetsError(
      f'soft targets that are a mean over views have their temperature, '
      f'{bank.temperature}, not {temperature}: set distillation.temperature.'
    )
  log_probs = bank.log_probs_NxK[rows]
  return soft_targets.at_temperature(log_probs, bank.temperature, temperature)


def _soft_logits(
  experiment: Experiment,
  stage: BoundStage,
  knowledge: Knowledge | None,
  rows: np.ndarray | slice = slice(None),
) -> np.ndarray | None:
  if not stage.source.stored:
    return None
  temperature = experiment.config.distillation.temperature
  return to_learn_from(knowledge.bank, temperature, rows)


def _variables(stage: BoundStage, knowledge: Knowledge | None) -> Any:
  """Returns those of a teacher that predicts in each step, or None."""
  if stage.plan.teacher is None or stage.source.stored:
    return None
  return knowledge.teacher.variables
