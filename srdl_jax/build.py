# SPDX-License-Identifier: Apache-2.0
"""From a configuration to everything that a run needs.

Which examples it uses, how their images are varied, its stages and networks.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from srdl_jax import (
  augment,
  data,
  methods,
  models,
  parallel,
  schedules,
  steps,
  train_state,
)
from srdl_jax import config as config_lib
from srdl_jax import weights as weights_lib
from srdl_jax.data import sampling
from srdl_jax.errors import ConfigError
from srdl_jax.experiment import Experiment, Network
from srdl_jax.retrieval import Task
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished


def build(config: ConfigDict, *, to_train: bool = True) -> Experiment:
  """Builds an experiment; reads the data set, and compiles nothing yet.

  Args:
    config: of the run; the name of an imported teacher's network is added.
    to_train: else imported weights and teachers aren't read: they need not be
      where a trained run is evaluated.

  Raises:
    ConfigError: a field is out of range, or fields don't fit each other.
    DataError: the data set can't be read.
    WorkdirError: the run of an imported teacher is missing or unfinished.
  """
  config_lib.validate(config)
  if to_train:
    name_network(config)
  stages = create_plan(config)
  if config.model.dtype == 'float64':
    jax.config.update('jax_enable_x64', True)
  parallel.use_compilation_cache()
  devices = parallel.choose_devices(config.devices)
  if config.batch_size % len(devices):
    raise ConfigError(
      f'batch_size = {config.batch_size} is not divisible by the '
      f'{len(devices)} devices; set devices or batch_size.'
    )
  # Names are checked before the data set is read.
  for stage in stages:
    create_model(config, stage.model, num_classes=1)
  weights = _weights(config) if to_train else None
  teacher = None
  if to_train and config.teacher.workdir:
    teacher = finished.load(config.teacher.workdir)
  dataset = data.load(
    config.data.name,
    data_dir=config.data.data_dir,
    manual_dir=config.data.manual_dir,
    download=config.data.download,
    path=config.data.path,
    image_size=config.data.image_size,
    skip_unreadable=config.data.skip_unreadable,
    allow_differences=config.data.allow_differences,
  )
  return _assemble(config, stages, devices, dataset, weights, teacher)


def name_network(config: ConfigDict) -> None:
  """Writes the name of an imported teacher's network into its field.

  Raises:
    WorkdirError: teacher.workdir holds no run.
    ConfigError: the field names another network.
  """
  if not config.teacher.workdir:
    return
  record = run_directory.load_record(
    run_directory.local(config.teacher.workdir, 'teacher.workdir')
  )
  name = record.config.model.name
  if config.teacher.model not in ('', name):
    raise ConfigError(
      f'teacher.workdir = {config.teacher.workdir!r} holds a {name}, but '
      f'teacher.model is {config.teacher.model!r}.'
    )
  config.teacher.model = name


def _weights(config) -> weights_lib.Weights | None:
  if not config.init.from_path:
    return None
  weights = weights_lib.load(config.init.from_path)
  if weights.model != config.model.name:
    raise ConfigError(
      f'init.from_path = {config.init.from_path!r} holds weights of a '
      f'{weights.model}, but model.name is {config.model.name!r}.'
    )
  return weights


def create_plan(config: ConfigDict) -> tuple[methods.Stage, ...]:
  """Returns the stages of the configured method.

  Raises:
    ConfigError: see `methods.create`.
  """
  return methods.create(
    config.method,
    methods.Settings(
      epochs=config.epochs,
      model=config.model.name,
      teacher_model=config.teacher.model,
      teacher_epochs=config.teacher.epochs,
      teacher_imported=bool(config.teacher.workdir),
      split=tuple(config.srdl.split),
      complete=tuple(config.srdl.complete),
      start=config.srdl.start,
      keep_optimiser=config.srdl.keep_optimiser,
      generations=config.born_again.generations,
      label_smoothing=config.label_smoothing,
      online=config.distillation.online,
      views=config.distillation.views,
    ),
  )


def create_model(config: ConfigDict, name: str, num_classes: int) -> nn.Module:
  """Returns a network of the run, with the configured options.

  Args:
    config: of the run.
    name: of the network: the configured one, or a teacher's.
    num_classes: K.

  Raises:
    ConfigError: the name or an option is unknown.
  """
  # Options of a family are meant for the configured network; a teacher of
  # another one is its family's usual.
  options = {}
  if name == config.model.name and config.model.shortcut:
    options['shortcut'] = config.model.shortcut
  if name == config.model.name and config.model.stem:
    options['small_stem'] = config.model.stem == 'small'
  if config.model.remat:
    options['remat'] = True
  return models.create(
    name,
    num_classes,
    **options,
    dtype=jnp.dtype(config.model.dtype),
    axis_name=parallel.AXIS,
  )


def _assemble(config, stages, devices, dataset, weights, teacher) -> Experiment:
  train_rows, validation_rows, test_rows = choose_examples(config, dataset)
  # The other classes' examples stay where they are: rows keep their numbers.
  classes = config.data.classes or dataset.num_classes
  dataset = dataclasses.replace(dataset, num_classes=classes)
  if dataset.train.is_streamed:
    dataset = with_crops(dataset, config.augment.least_area)
  if teacher is not None:
    check_teacher(teacher, dataset, train_rows)
  flip_and_crop = augmentation(config, dataset)
  steps_per_epoch = len(train_rows) // config.batch_size
  schedule = schedules.over_stages(
    config.optimiser.learning_rate,
    [stage.epochs * steps_per_epoch for stage in stages],
    [stage.complete for stage in stages],
    decay_at=config.schedule.decay_at,
    decay_factor=config.schedule.decay_factor,
  )
  normalise = functools.partial(
    augment.normalise,
    mean=dataset.mean,
    std=dataset.std,
    dtype=jnp.promote_types(config.model.dtype, jnp.float32),
  )
  networks = {
    name: _network(config, name, dataset, normalise, weights, devices)
    for name in {stage.model: None for stage in stages}
  }
  imported = None
  if teacher is not None:
    its = teacher.record.config
    imported = _network(its, teacher.model, dataset, normalise, None, devices)
  experiment = Experiment(
    config=config,
    dataset=dataset,
    train_rows=train_rows,
    validation_rows=validation_rows,
    test_rows=test_rows,
    stages=stages,
    networks=networks,
    weights=weights,
    teacher=teacher,
    teacher_network=imported,
    steps_per_epoch=steps_per_epoch,
    schedule=schedule,
    optimiser=train_state.sgd(
      momentum=config.optimiser.momentum,
      weight_decay=config.optimiser.weight_decay,
      backbone_share=config.optimiser.backbone_share,
      heads=models.CLASSIFIERS,
    ),
    devices=devices,
    flip_and_crop=jax.jit(flip_and_crop),
    # Stages that learn alike share a compilation.
    train_chunk_of=functools.cache(
      lambda *kind: _train_chunk(experiment, *kind, flip_and_crop, normalise)
    ),
  )
  return experiment


def _network(config, name, dataset, normalise, weights, devices) -> Network:
  model = create_model(config, name, dataset.num_classes)
  # Before anything is trained: images that are too small, foreign weights.
  images = jnp.zeros((1, *dataset.train.images.shape[1:]))
  init = functools.partial(model.init, train=False)
  like = jax.eval_shape(init, jax.random.key(0), images)
  if weights is not None and name == config.model.name:
    weights_lib.check_fit(like, weights)
  network = {'model': model, 'normalise': normalise}
  step = functools.partial(steps.predict_step, **network)
  return Network(
    model,
    step,
    parallel.map_predict(step, devices),
    functools.cache(
      lambda mirrored: parallel.map_predict(
        functools.partial(steps.feature_step, **network, mirrored=mirrored),
        devices,
      )
    ),
  )


def _train_chunk(
  experiment, label_smoothing, teacher, flip_and_crop, normalise
):
  config = experiment.config
  step = functools.partial(
    steps.train_step,
    schedule=experiment.schedule,
    temperature=config.distillation.temperature,
    label_smoothing=label_smoothing,
    label_weight=config.distillation.label_weight,
    imitation_weight=config.distillation.imitation_weight,
    axis_name=parallel.AXIS,
  )
  targets = steps.stored_targets
  if teacher is not None:
    targets = functools.partial(
      steps.online_teacher,
      model=experiment.network(teacher).model,
      temperature=config.distillation.temperature,
    )
  return parallel.map_train(
    functools.partial(
      steps.augmented_step,
      augment=flip_and_crop,
      normalise=normalise,
      step=step,
      targets=targets,
    ),
    experiment.devices,
  )


def subset(config: ConfigDict) -> dict[str, int]:
  """Returns what chooses a run's examples: `sampling.choose_rows`'s words."""
  return {
    'classes': config.data.classes,
    'holdout': config.data.holdout,
    'examples_per_class': config.data.examples_per_class,
    'seed': config.seed,
  }


def choose_examples(
  config: ConfigDict, dataset: data.Dataset
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the rows to train on, to validate and to test on.

  There are none to test on where the test is a retrieval.

  Raises:
    ConfigError: a batch is larger than the training set, or see
      `sampling.choose_rows`.
    DataError: no query of a retrieval can be answered.
  """
  train_rows, validation_rows = sampling.choose_rows(
    dataset.train.labels, **subset(config)
  )
  if len(train_rows) < config.batch_size:
    raise ConfigError(
      f'batch_size = {config.batch_size} is larger than the '
      f'{len(train_rows)} training examples.'
    )
  if isinstance(dataset.test, data.Retrieval):
    _check_retrieval(dataset.test)
    return train_rows, validation_rows, np.arange(0)
  test_rows = sampling.rows_of_classes(dataset.test.labels, config.data.classes)
  return train_rows, validation_rows, test_rows


def _check_retrieval(test):
  """Refuses a test in which no query can be answered, before training."""
  asked = [slice(None)]
  if test.multi_query is not None:
    asked.append(test.pictured_queries)
  for queries in asked:
    Task(
      test.query.identities[queries],
      test.gallery.identities,
      test.query.cameras[queries],
      test.gallery.cameras,
    ).refuse_impossible()


def with_crops(dataset: data.Dataset, least_area: float) -> data.Dataset:
  """Returns streamed data whose training crops have at least that area."""
  images = dataclasses.replace(dataset.train.images, least_area=least_area)
  train = dataclasses.replace(dataset.train, images=images)
  return dataclasses.replace(dataset, train=train)


def augmentation(
  config: ConfigDict, dataset: data.Dataset
) -> Callable[..., jax.Array]:
  """Returns the configured `augment.flip_and_crop`.

  Raises:
    ConfigError: it doesn't fit the images.
  """
  height, width, _ = dataset.train.images.shape[1:]
  streamed = dataset.train.is_streamed
  if streamed and config.augment.padding:
    raise ConfigError(
      f'augment.padding = {config.augment.padding}, but images of '
      f'{dataset.name} are cropped by augment.least_area: set it to 0.'
    )
  if config.data.image_size not in (0, height) and not streamed:
    raise ConfigError(
      f'data.image_size = {config.data.image_size}, but images of '
      f'{dataset.name} are {height} x {width}: set it to 0.'
    )
  if config.augment.padding >= min(height, width):
    raise ConfigError(
      f'augment.padding = {config.augment.padding} must be below the '
      f"images' size, {height} x {width}."
    )
  return functools.partial(
    augment.flip_and_crop,
    flip=config.augment.flip,
    padding=config.augment.padding,
    mode=config.augment.mode,
  )


def check_teacher(
  teacher: finished.Teacher, dataset: data.Dataset, train_rows: np.ndarray
) -> None:
  """Checks that a teacher was trained on the examples that it shall predict.

  Args:
    teacher: of the student.
    dataset: the student's, with the number of classes in use.
    train_rows: that the student trains on.

  Raises:
    ConfigError: other data, other classes, or other examples of the data.
  """
  theirs = teacher.record.config
  name = f'teacher.workdir = {str(teacher.directory)!r}'
  if teacher.record.fingerprint != dataset.train.fingerprint:
    raise ConfigError(
      f'{name} was trained on other data: {theirs.data.name}, fingerprint '
      f'{teacher.record.fingerprint}, not {dataset.train.fingerprint}.'
    )
  classes = theirs.data.classes or int(dataset.train.labels.max()) + 1
  if classes != dataset.num_classes:
    raise ConfigError(
      f'{name} knows {classes} classes, the student learns '
      f'{dataset.num_classes}.'
    )
  rows, _ = sampling.choose_rows(dataset.train.labels, **subset(theirs))
  if not np.array_equal(rows, train_rows):
    raise ConfigError(
      f'{name} was trained on {len(rows)} examples that are not the '
      f"student's {len(train_rows)}: give both the same data.holdout and "
      'data.examples_per_class and, with a hold-out, seed.'
    )
