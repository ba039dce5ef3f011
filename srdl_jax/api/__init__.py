# SPDX-License-Identifier: Apache-2.0
"""Python's way in: train a configuration or a network of one's own, and use it.

    import srdl_jax

    run = srdl_jax.train({'data.name': 'digits', 'model.name': 'resnet8',
                          'epochs': 20, 'augment.flip': False}, 'runs/digits')
    probabilities = run.predict(images)  # uint8 [b, 8, 8, 1] to [b, 10]
    again = srdl_jax.load('runs/digits')

The same runs as the commands': a directory that one has begun the other goes on
with. Known errors are those of `errors`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax import (
  data,
  evaluate,
  machine,
  models,
  predict,
  soft_targets,
  srdl,
  storage,
  trained,
)
from srdl_jax.api import own
from srdl_jax.data import arrays
from srdl_jax.errors import ConfigError, WorkdirError
from srdl_jax.runs import bank as bank_files
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished, stop_request

__all__ = ['Run', 'fit', 'load', 'train']

# How the name in a record begins where arrays were given in Python.
ARRAYS = 'own_arrays_'


class Run:
  """What a run trained; made by `load`, `train` and `fit`.

  Attributes:
    workdir: its directory.
    classes: names, by label.
    config: its configuration.
  """

  def __init__(
    self,
    workdir: storage.Path,
    checkpoint: str = 'final',
    model: nn.Module | None = None,
  ):
    """Reads the networks; see `load`."""
    self.workdir = workdir
    self.config = run_directory.load_identity(workdir).config
    self._own, self._checkpoint = model, checkpoint
    name = self.config.model.name
    if name.startswith(own.PREFIX) and (
      model is None or own.name_of(model) != name
    ):
      another = ', not this one' if model is not None else ''
      raise ConfigError(
        f"{workdir} trained a module of one's own{another}: give it, as in "
        'load(workdir, model=MODULE).'
      )
    with self._here():
      opened = trained.open_networks(workdir)
      members = trained.load_members(workdir, checkpoint, opened)
      for number, variables in members.items():
        own.check_fit(opened.stages[number - 1].network, variables)
    self._opened, self._members = opened, members
    self.classes = opened.artefact.classes

  def __repr__(self) -> str:
    name, method = self.config.model.name, self.config.method
    return f'<Run {name}, {method}: {self._checkpoint} of {self.workdir}>'

  @contextlib.contextmanager
  def _here(self) -> Iterator[None]:
    """In the run's own precision; its own module known by its name."""
    wide = self.config.model.dtype == 'float64'
    name = self.config.model.name
    with (
      machine.lacking(),
      jax.enable_x64(wide),
      own.known(models.MODELS, name, self._own),
    ):
      yield

  def _one(self) -> tuple[trained.TrainedStage, Any]:
    if len(self._members) > 1:
      raise ConfigError(
        f'{self._checkpoint!r} is several networks: load one, such as stage_1.'
      )
    ((number, variables),) = self._members.items()
    return self._opened.stages[number - 1], variables

  @property
  def model(self) -> nn.Module:
    """The Linen module of its network.

    Raises:
      ConfigError: the checkpoint is several networks; so for `variables`.
    """
    return self._one()[0].network.model

  @property
  def variables(self) -> dict[str, Any]:
    """Its parameters and batch-norm statistics: `model.apply` takes them with
    images that are normalised, see `normalise`."""
    return self._one()[1]

  def normalise(self, images: Any) -> jax.Array:
    """Returns what the module takes of uint8 images: the same shape
    [..., H, W, C], in the run's `model.dtype`."""
    with self._here():
      return self._opened.stages[-1].network.normalise(jnp.asarray(images))

  def _checked(self, images: Any) -> np.ndarray:
    images = np.asarray(images)
    shape = tuple(self._opened.artefact.image_shape)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
      raise ConfigError(
        f'images are {images.dtype} {list(images.shape)}, where uint8 '
        f'{["b", *shape]} belongs; files of any size can be given by name.'
      )
    return images

  def predict(self, images: Any) -> np.ndarray:
    """Returns probabilities, float64 [b, K]; a mean where the checkpoint is an
    ensemble.

    Args:
      images: uint8 [b, H, W, C] of the network's size; or a list of files,
        folders or patterns, of images of any size.

    Raises:
      ConfigError: they are of another kind or shape, or the run's test ranks
        persons, whose classes it doesn't know.
      DataError: a file isn't there or can't be read.
    """
    self._opened.refuse_retrieval()
    named = (str, os.PathLike)
    given = [images] if isinstance(images, named) else images
    if isinstance(given, Sequence) and all(isinstance(i, named) for i in given):
      return self._predict_files(given)
    images = self._checked(images)
    if not len(images):
      return np.zeros((0, len(self.classes)))
    split = data.Split('new', images, np.zeros(len(images), np.int32), '')
    subset = data.Subset(split, np.arange(len(images)))
    with self._here():
      return predict.together(self._opened.with_examples(self._members, subset))

  def _predict_files(self, files: Sequence[str]) -> np.ndarray:
    found = predict.find([os.fspath(file) for file in files])
    with self._here():
      said = predict.of_files([(self._opened, self._members)], found)
    said.refuse_faults()
    return said.probabilities

  def features(self, images: Any) -> np.ndarray:
    """Returns what the last layer is given, [b, D].

    Args:
      images: uint8 [b, H, W, C] of the network's size, b at least 1.

    Raises:
      ConfigError: they are of another kind or shape, or the checkpoint is
        several networks.
    """
    images, (stage, variables) = self._checked(images), self._one()
    rows = np.arange(len(images))
    if not len(rows):
      raise ConfigError('There are no images.')
    size = min(self._opened.batch_size, len(rows))
    with self._here():
      blocks = stage.network.features(variables, images, rows, size)
      return np.concatenate([block for _, block in blocks])

  def evaluate(
    self,
    data: str | tuple[Any, Any] | None = None,
    *,
    split: str = 'test',
    data_dir: str | None = None,
  ) -> dict[str, Any]:
    """Returns metrics, as the command evaluate prints them.

    Args:
      data: the run's own unless it is given: a folder or tfds:NAME, see
        `labelled.read`, or images and labels, uint8 [N, H, W, C] and int [N].
      split: of the run's own data.
      data_dir: TFDS directory.

    Returns:
      Metrics by name, fractions but for nll and entropy, which are in nats:
      see `metrics.Classification.result`, or `retrieval.measure.metrics`.

    Raises:
      ConfigError: arguments don't fit each other, the run, or its classes.
      DataError: data are missing or can't be read.
    """
    name = self.config.data.name
    if data is None and name.startswith(ARRAYS):
      raise ConfigError(
        'The arrays are not kept: give images and labels, or read `result`.'
      )
    if data is not None and split != 'test':
      raise ConfigError(f"split {split!r} is of the run's own data.")
    with self._here():
      if data is None:
        experiment = trained.open_run(self.workdir, data_dir)
        return evaluate.evaluate([(experiment, self._members)], split)
      return evaluate.classify(self._examined(data, data_dir))

  def _examined(self, given: Any, data_dir: str | None) -> list[Any]:
    self._opened.refuse_retrieval()
    if isinstance(given, str | os.PathLike):
      # It takes TFDS with it.
      from srdl_jax.data import labelled

      found = labelled.read(os.fspath(given), self.classes, data_dir or '')
      return self._opened.members(self._members, found.records, found.labels)
    images, labels = given
    if not len(images):
      raise ConfigError('There are no images.')
    arrays.check_labels(labels, len(images), len(self.classes))
    split = data.Split('new', self._checked(images), np.asarray(labels), '')
    subset = data.Subset(split, np.arange(len(labels)))
    return self._opened.with_examples(self._members, subset)

  def soft_targets(self, stage: int | None = None) -> soft_targets.Bank:
    """Returns what a stage taught: log-probabilities [N, K] by the training
    split's rows, NaN for those that don't train, and their provenance.

    Args:
      stage: that taught, from 1; the last one that did, unless it is given.

    Raises:
      WorkdirError: none did, or what it said is damaged (SoftTargetsError).
      ConfigError: the run has no such stage.
    """
    views, count = self.config.distillation.views, len(self._opened.stages)
    if stage not in (None, *range(1, count + 1)):
      raise ConfigError(f'stage {stage}: the run has stages 1 to {count}.')
    for number in [stage] if stage else range(count, 0, -1):
      folder = run_directory.soft_targets(self.workdir, number, views)
      if soft_targets.is_complete(folder):
        made = bank_files.read_attributes(folder)
        values = bank_files.read_values(folder)
        return soft_targets.Bank(
          values, made['temperature'], made['provenance']
        )
    raise WorkdirError(f'{self.workdir}: no stage has stored soft targets.')

  def history(self) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl, in their order.

    Raises:
      WorkdirError: it can't be read.
    """
    path = self.workdir / 'metrics.jsonl'
    with storage.failures(path, 'read'):
      lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines]

  @property
  def result(self) -> dict[str, Any]:
    """What result.json holds.

    Raises:
      WorkdirError: the run isn't finished.
    """
    return finished.load(self.workdir)


def load(
  workdir: str, checkpoint: str = 'final', *, model: nn.Module | None = None
) -> Run:
  """Opens a run; its training data need not be there.

  Args:
    checkpoint: 'final', 'best', 'stage_N', 'ensemble', or several, with commas.
    model: the module that `fit` was given.

  Raises:
    WorkdirError: there is no run, or the checkpoint isn't there or damaged.
    ConfigError: the checkpoint's name is unknown, or the run is of a module of
      one's own, and `model` isn't given.
  """
  return Run(
    storage.absolute(run_directory.resolve(workdir)), checkpoint, model
  )


@machine.lacking()
def train(config: ConfigDict | Mapping[str, Any], workdir: str) -> Run:
  """Trains a configuration, or goes on where it was interrupted.

  In Python's main thread Ctrl-C ends it at the next checkpoint, saved, by
  `errors.Interrupted`; elsewhere no signal is listened to.

  Args:
    config: as `config.defaults` returns it, changed; or values by names of
      fields, such as {'epochs': 40, 'srdl.split': (1, 2)} or nested, the others
      at their defaults.
    workdir: taken by the run that it began with alone.

  Returns:
    The finished run.

  Raises:
    ConfigError: a field is unknown, out of range, or doesn't fit others, or
      the machine lacks a device or memory.
    DataError: the data set is missing or damaged.
    WorkdirError: the directory is another run's, in use, damaged, or can't be
      written; CheckpointError and SoftTargetsError are of its kind.
    NonFiniteLossError: a loss or a parameter isn't finite any more.
    Interrupted: it was asked to end, and all is saved.
  """
  if not isinstance(config, ConfigDict):
    config = config_lib.changed(config)
  _train(config, workdir)
  return load(workdir)


def _train(config: ConfigDict, workdir: str) -> None:
  main = threading.current_thread() is threading.main_thread()
  hearing = stop_request.listen() if main else _deaf()
  with hearing as stop:
    srdl.run(config, workdir, stop)


@contextlib.contextmanager
def _deaf() -> Iterator[stop_request.StopRequest]:
  yield stop_request.StopRequest()


@machine.lacking()
def fit(
  model: nn.Module,
  images: Any,
  labels: Any,
  *,
  method: str = 'srdl',
  epochs: int = 40,
  test: tuple[Any, Any] | None = None,
  classes: Sequence[str] | None = None,
  workdir: str | None = None,
  **settings: Any,
) -> Run:
  """Trains a module of one's own on arrays in memory, by any method.

  Args:
    model: called with (images [b, H, W, C], train=bool), returns logits [b, K].
      With a field `axis_name`, over which its batch norm averages, it is
      trained on several devices where they are; else, or where it draws random
      numbers, on one. Its last layer is named fc or classifier where
      `Run.features` is wanted.
    images: uint8 [N, H, W, C].
    labels: integers [N], from 0 to K - 1.
    test: images and labels to test on; without them every fifth of each class's
      images is held out for it.
    classes: names, by label.
    workdir: as of `train`; without one it is gone with the Run.
    **settings: fields, such as batch_size=64; those of a group as a dict, such
      as augment={'flip': False}.

  Raises:
    ConfigError: what is given doesn't fit together.
    SrdlError: see `train`.
  """
  if not isinstance(model, nn.Module):
    raise ConfigError(f'{model!r} is no Linen module: give one, such as Net().')
  dataset = arrays.dataset(ARRAYS, images, labels, test, classes)
  # Of other arrays another name.
  parts = f'{dataset.train.fingerprint}{dataset.test.fingerprint}'
  digest = hashlib.sha256(parts.encode()).hexdigest()[:12]
  dataset = dataclasses.replace(dataset, name=f'{ARRAYS}{digest}')
  config = config_lib.changed({'method': method, 'epochs': epochs, **settings})
  _configure(config, model, dataset)
  place = workdir or tempfile.mkdtemp(prefix='srdl_jax_')
  entry = data.Entry(lambda location: dataset)
  try:
    with (
      own.known(models.MODELS, config.model.name, model),
      own.known(data.DATASETS, dataset.name, entry),
    ):
      _train(config, place)
    run = load(place, model=model)
  except BaseException:
    if workdir is None:
      shutil.rmtree(place, ignore_errors=True)
    raise
  if workdir is None:
    weakref.finalize(run, shutil.rmtree, place, ignore_errors=True)
  return run


def _configure(
  config: ConfigDict, model: nn.Module, dataset: data.Dataset
) -> None:
  """Names a module and its data in a configuration, and chooses devices.

  Raises:
    ConfigError: they don't fit together.
  """
  shape = dataset.train.images.shape[1:]
  own.check_logits(model, shape, dataset.num_classes)
  config.model.name, config.data.name = own.name_of(model), dataset.name
  if not own.asks_for_axis(model) or models.draws(model, shape):
    # Batch norm, or what is drawn, would silently be another on several.
    if config.devices > 1:
      raise ConfigError(
        f'devices = {config.devices}, but {type(model).__name__} draws random '
        'numbers, or has no field axis_name, over which batch norm averages.'
      )
    config.devices = 1
