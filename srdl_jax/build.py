# SPDX-License-Identifier: Apache-2.0
"""From a configuration to everything that a run needs.

Which examples it uses, how their images are varied, its stages and networks.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from srdl_jax import (
  artefact,
  augment,
  data,
  machine,
  methods,
  models,
  parallel,
  schedules,
  steps,
  targets,
  train_state,
)
from srdl_jax import config as config_lib
from srdl_jax import imported as imported_lib
from srdl_jax import weights as weights_lib
from srdl_jax.data import sampling
from srdl_jax.errors import ConfigError, unknown
from srdl_jax.experiment import BoundStage, Experiment, Teacher
from srdl_jax.network import Network
from srdl_jax.retrieval import measure
from srdl_jax.targets import SOURCES, Clock, Source


def build(config: ConfigDict, *, to_train: bool = True) -> Experiment:
  """Builds an experiment; reads the data set, and compiles nothing yet.

  Args:
    to_train: else imported weights and teachers aren't read: they need not be
      where a trained run is evaluated.

  Raises:
    ConfigError: a field is out of range, or fields don't fit each other.
    DataError: the data set can't be read.
    WorkdirError: the run of an imported teacher is missing or unfinished.
  """
  config_lib.validate(config)
  if to_train:
    config = imported_lib.name_network(config)
  plan = methods.create(config)
  if config.model.dtype == 'float64' and not jax.config.jax_enable_x64:
    raise ConfigError(
      'model.dtype = float64 needs JAX in double precision: use '
      '`with jax.enable_x64():` around build and what it returns.'
    )
  for stage in plan:
    if stage.source not in SOURCES:
      raise ConfigError(unknown('source', stage.source, filter(None, SOURCES)))
  in_pairs = any(SOURCES[stage.source].order != 'once' for stage in plan)
  multiple = 2 if in_pairs else 1
  devices = machine.choose_devices(config.devices, config.batch_size, multiple)
  if to_train and config.batch_size % (multiple * len(devices)):
    pairs = ' into pairs' if in_pairs else ''
    raise ConfigError(
      f'batch_size = {config.batch_size} is not divisible by the '
      f'{len(devices)} devices{pairs}; set devices or batch_size.'
    )
  # Names are checked before the data set is read.
  for stage in plan:
    artefact.create_model(config, stage.model, num_classes=1)
  weights, imported = None, None
  if to_train and config.init.from_path:
    weights = _weights(config)
  if to_train and config.teacher.workdir:
    imported = imported_lib.load(config.teacher.workdir)
  dataset = data.load(
    config.data.name,
    data_dir=config.data.data_dir,
    manual_dir=config.data.manual_dir,
    download=config.data.download,
    path=config.data.path,
    image_size=config.data.image_size,
    skip_unreadable=config.data.skip_unreadable,
    allow_differences=config.data.allow_differences,
    compared=to_train,
  )
  experiment = _assemble(config, plan, devices, dataset, weights, imported)
  drawing = (s.network.name for s in experiment.stages if s.network.draws)
  if to_train and len(devices) > 1 and (name := next(drawing, None)):
    raise ConfigError(
      f'{name} draws random numbers while it is trained, as dropout does, '
      'which would be others on several devices: set devices = 1.'
    )
  return experiment


def _weights(config) -> weights_lib.Weights:
  weights = weights_lib.load(config.init.from_path)
  if weights.model != config.model.name:
    raise ConfigError(
      f'init.from_path = {config.init.from_path!r} holds weights of a '
      f'{weights.model}, but model.name is {config.model.name!r}.'
    )
  return weights


def _assemble(config, plan, devices, dataset, weights, imported) -> Experiment:
  train_rows, validation_rows, test_rows = choose_examples(config, dataset)
  # The other classes' examples stay where they are: rows keep their numbers.
  classes = config.data.classes or dataset.num_classes
  dataset = dataclasses.replace(dataset, num_classes=classes)
  if dataset.train.is_streamed:
    dataset = with_crops(dataset, config.augment.least_area)
  described = artefact.describe(config, plan, dataset, len(train_rows))
  largest = max(config.batch_size, config.eval.batch_size)
  machine.check_batch(largest // jax.process_count(), described.image_shape)
  teacher = None
  if imported is not None:
    imported_lib.check(imported, config, dataset, train_rows)
    teacher = _teacher(imported, described, devices)
  flip_and_crop = augmentation(config, dataset)
  drawn = _drawn(config, dataset, train_rows)
  schedule = schedules.over_stages(
    config.optimiser.learning_rate,
    machine.counted([stage.epochs * drawn.steps for stage in plan]),
    [stage.complete for stage in plan],
    decay_at=config.schedule.decay_at,
    decay_factor=config.schedule.decay_factor,
  )
  networks = {
    name: artefact.create_network(config, name, described, devices)
    for name in {stage.model: None for stage in plan}
  }
  if weights is not None:
    weights = _fitting(weights, plan, networks[config.model.name])
  return Experiment(
    config=config,
    dataset=dataset,
    train_rows=train_rows,
    validation_rows=validation_rows,
    test_rows=test_rows,
    labels=drawn.labels,
    stages=_bind(
      config,
      plan,
      {
        methods.IMPORTED: teacher and teacher.network,
        **{n: networks[stage.model] for n, stage in enumerate(plan, start=1)},
      },
      weights,
      # Stages that learn alike share a compilation.
      functools.cache(functools.partial(_train_chunk, schedule, flip_and_crop)),
      drawn=drawn,
      fingerprint=dataset.train.fingerprint,
    ),
    artefact=described,
    weights=weights,
    imported=imported,
    imported_teacher=teacher,
    schedule=schedule,
    devices=devices,
    flip_and_crop=jax.jit(flip_and_crop),
  )


def _drawn(config, dataset, rows: np.ndarray) -> sampling.Drawn:
  """Returns what orders are drawn from, of no stage yet; labels with noise."""
  labels = sampling.with_noise(
    dataset.train.labels,
    rows,
    config.data.label_noise,
    config.data.label_noise_seed,
    dataset.num_classes,
  )
  return sampling.Drawn(config.seed, 0, rows, labels, config.batch_size)


def _teacher(imported, described, devices) -> Teacher:
  its, end = imported.config, imported.end
  source = targets.create(methods.create(its)[-1].source, its)
  return Teacher(
    number=methods.IMPORTED,
    network=artefact.create_network(its, its.model.name, described, devices),
    variables=source.result(end.state.get('memory', {}), end.variables),
    checkpoint=imported.checkpoint,
    seed=its.seed,
    temperature=its.distillation.temperature,
  )


def _fitting(weights, plan, network: Network) -> weights_lib.Weights:
  """Returns weights that fit, with a new classifier where stages restart."""
  weights_lib.check_fit(network.like, weights)
  fresh = [s for s in plan if (s.model, s.start) == (network.name, 'fresh')]
  # Else a random restart would begin where the stage before began.
  return dataclasses.replace(weights, new_classifier=len(fresh) > 1)


def _bind(
  config, plan, networks, weights, train_chunk, drawn, **rest
) -> tuple[BoundStage, ...]:
  """Returns the stages of a plan with all that trains them.

  Args:
    networks: by the numbers of the stages, and methods.IMPORTED.
    train_chunk: see `_train_chunk`, the first two arguments bound.
    drawn: of no stage and no order yet.
    **rest: what all stages have in common.
  """
  optimiser = train_state.sgd(
    momentum=config.optimiser.momentum,
    weight_decay=config.optimiser.weight_decay,
    backbone_share=config.optimiser.backbone_share,
    heads=models.CLASSIFIERS,
  )
  stages, step = [], 0
  for number, stage in enumerate(plan, start=1):
    network, kind = networks[number], SOURCES[stage.source]
    bound = {'axis_name': parallel.AXIS}
    if kind.forwards:
      # An imported one isn't read where a trained run is evaluated.
      predicts = networks[stage.teacher] if kind.teacher else network
      bound['apply'] = predicts and predicts.model.apply
    if kind.timed:
      bound['clock'] = Clock(step, drawn.steps, stage.epochs)
    source = targets.create(stage.source, config, **bound)
    examples, classes = len(drawn.labels), network.num_classes
    source.refuse(examples=examples, classes=classes)
    stages.append(
      BoundStage(
        number=number,
        plan=stage,
        network=network,
        first_step=step,
        drawn=dataclasses.replace(drawn, stage=number, order=kind.order),
        source=source,
        optimiser=optimiser,
        weights=weights if stage.model == config.model.name else None,
        train_chunk=train_chunk(network, stage.label_smoothing, source),
        config_digest=config_lib.digest(config),
        **rest,
      )
    )
    step = stages[-1].end_step
  return tuple(stages)


def _train_chunk(
  schedule,
  flip_and_crop,
  network: Network,
  label_smoothing: float,
  source: Source,
):
  """Returns compiled train steps."""
  step = functools.partial(
    steps.train_step,
    schedule=schedule,
    source=source,
    label_smoothing=label_smoothing,
    axis_name=parallel.AXIS,
  )
  return parallel.map_train(
    functools.partial(
      steps.augmented_step,
      augment=flip_and_crop,
      normalise=network.normalise,
      step=step,
      draws=network.draws,
    ),
    network.devices,
  )


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
    dataset.train.labels, **config_lib.subset(config)
  )
  if len(train_rows) < config.batch_size:
    # A power of two, which devices and pairs share; some steps an epoch.
    fits = 1 << max(len(train_rows) // 4, 1).bit_length() - 1
    raise ConfigError(
      f'batch_size = {config.batch_size} is larger than the '
      f'{len(train_rows)} training examples; --config.batch_size={fits} fits.'
    )
  if isinstance(dataset.test, data.Retrieval):
    measure.refuse_impossible(dataset.test)
    return train_rows, validation_rows, np.arange(0)
  test_rows = sampling.rows_of_classes(dataset.test.labels, config.data.classes)
  return train_rows, validation_rows, test_rows


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
