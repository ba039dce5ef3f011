# SPDX-License-Identifier: Apache-2.0
"""Every field of a run: its default, meaning, unit and range.

Declared here and nowhere else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of the configuration.

  Attributes:
    default: its value; its type is the field's type.
    meaning: what it does, with its unit.
    valid: whether a value is acceptable.
    range: the acceptable values in words, for the message.
    identity: whether it changes what is trained. A workdir is resumed only by
      a run whose identity fields are equal.
    born: the default that the field came with. It stays when the default
      changes: a run's identity is told by what differs from it, and records
      that are older than the field mean it.
    since: version of the program that the field came with.
  """

  default: Any
  meaning: str
  valid: Callable[[Any], bool] = lambda value: True
  range: str = ''
  identity: bool = True
  born: Any = None
  since: str = '0.1.0'

  def __post_init__(self):
    if self.born is None:
      object.__setattr__(self, 'born', self.default)


def _at_least(minimum: float, default: Any, meaning: str, **rest: Any) -> Field:
  return Field(
    default, meaning, lambda v: v >= minimum, f'at least {minimum}', **rest
  )


def _above_zero(default: float, meaning: str, **rest: Any) -> Field:
  return Field(default, meaning, lambda v: v > 0, 'above 0', **rest)


def _one_of(values: tuple[str, ...], meaning: str, **rest: Any) -> Field:
  return Field(
    values[0],
    meaning,
    lambda v: v in values,
    'one of ' + ', '.join(value or "''" for value in values),
    **rest,
  )


def _fraction(default: float, meaning: str, **rest: Any) -> Field:
  return Field(default, meaning, lambda v: 0 <= v < 1, 'in [0, 1)', **rest)


def _share(default: float, meaning: str, **rest: Any) -> Field:
  return Field(default, meaning, lambda v: 0 <= v <= 1, 'in [0, 1]', **rest)


def _numbers(values: tuple[float, ...]) -> bool:
  return all(
    isinstance(v, int | float) and not isinstance(v, bool) for v in values
  )


def _shares(values: tuple[float, ...]) -> bool:
  return len(values) > 1 and _numbers(values) and min(values) > 0


def _boundaries(values: tuple[float, ...]) -> bool:
  return (
    _numbers(values)
    and all(0 < v < 1 for v in values)
    and list(values) == sorted(values)
  )


def _local(default: Any, meaning: str, **rest: Any) -> Field:
  return Field(default, meaning, identity=False, **rest)


def _path(meaning: str) -> Field:
  return _local(
    '',
    meaning,
    valid=lambda v: '://' not in v,
    range='a path of this machine: mount the bucket, or copy what is in it',
  )


FIELDS: dict[str, Field] = {  # By dotted names.
  'seed': Field(
    0,
    'every random number of the run follows from it',
    lambda v: 0 <= v < 2**32,
    'from 0 to 2**32 - 1',
  ),
  'method': Field('srdl', 'a key of methods.METHODS'),
  'epochs': _at_least(
    1,
    200,
    "M: passes over the data, all stages together but kd's teacher; of "
    'self_kd and born_again, in each stage',
  ),
  'batch_size': _at_least(1, 128, 'examples in a step, over all devices'),
  'data.name': Field('cifar100', 'a key of data.DATASETS'),
  'data.data_dir': _local(
    '', "TFDS directory, also at gs://; '': TFDS's default"
  ),
  'data.manual_dir': _path('where archives got by hand lie'),
  'data.download': _local(True, 'fetch what is missing'),
  'data.path': _path('the directory of images, or a copy of a data set'),
  'data.image_size': _at_least(
    0,
    0,
    "side of a streamed image, or height of a person's, in pixels; 0: the data "
    "set's usual one",
  ),
  'data.skip_unreadable': _local(
    False,
    'folders: decode every image at the start, and leave out those that '
    "can't be read",
  ),
  'data.allow_differences': _local(
    False, "persons, imagenet: take a copy that isn't the official one"
  ),
  'data.workers': _at_least(
    0,
    0,
    'decoders of streamed images, for each process of the run; 0: threads',
    identity=False,
  ),
  'data.holdout': _at_least(
    0, 0, 'training examples kept for validation, drawn by the seed'
  ),
  'data.classes': _at_least(
    0, 0, 'train and test on the first so many classes alone; 0: on all'
  ),
  'data.examples_per_class': _at_least(
    0, 0, 'train on the first so many of each class; 0: on all'
  ),
  'data.label_noise': _fraction(
    0.0, 'share of the training labels that are wrong', since='0.2.0'
  ),
  'data.label_noise_seed': _at_least(
    0, 0, 'draws which labels are wrong, and how', since='0.2.0'
  ),
  'model.name': Field('resnet32', 'a key of models.MODELS'),
  'model.shortcut': _one_of(
    ('', 'projection', 'identity'),
    "what a change of shape goes through; '': the family's usual",
  ),
  'model.stem': _one_of(
    ('', 'small', 'large'),
    "the first layers, for images of up to 64 pixels or larger ones; '': the "
    "family's usual",
  ),
  'model.remat': Field(False, 'compute activations twice: less memory'),
  'model.dtype': _one_of(
    ('float32', 'bfloat16', 'float64'), 'of the computation'
  ),
  'init.from_path': _path(
    "directory of imported weights that fresh stages start from; '': none"
  ),
  'srdl.split': Field(
    (1.0, 1.0),
    'method srdl: shares of the budget, one a stage',
    _shares,
    'two or more numbers above 0',
  ),
  'srdl.complete': Field(
    (True, True),
    'method srdl: whether a stage runs a decay of its own, one a stage',
    lambda values: all(isinstance(v, bool) for v in values),
    'True or False, one a stage',
  ),
  'srdl.start': _one_of(
    ('fresh', 'previous', 'same'),
    'method srdl: what later stages start from, see methods.Stage',
  ),
  'srdl.keep_optimiser': Field(
    False, 'method srdl: later stages keep the momentum of the one before'
  ),
  'born_again.generations': _at_least(
    1, 1, 'methods born_again*: students after the first network'
  ),
  'label_smoothing': _fraction(
    0.1, 'method label_smoothing: share of the mass that all classes get'
  ),
  'teacher.model': Field(
    '', "method kd: the teacher's network, a key of models.MODELS"
  ),
  'teacher.epochs': _at_least(
    0, 0, "method kd: the teacher's epochs, on top of M; 0: as many as M"
  ),
  'teacher.workdir': _path(
    "method kd: a finished run whose last network teaches; '': none"
  ),
  'augment.flip': Field(True, 'mirror half of the training images'),
  'augment.padding': _at_least(0, 4, 'pixels around the image for the crop'),
  'augment.least_area': Field(
    0.08,
    'streamed images: smallest share of the area that a crop has',
    lambda v: 0 < v <= 1,
    'above 0, at most 1',
  ),
  'augment.mode': _one_of(('reflect', 'zero'), 'what the padding holds'),
  'optimiser.learning_rate': _above_zero(0.1, 'initial rate'),
  'optimiser.backbone_share': _above_zero(
    1.0, 'share of the rate for all layers but the classifier'
  ),
  'optimiser.momentum': _fraction(0.9, 'Nesterov momentum'),
  'optimiser.weight_decay': _at_least(0, 2e-4, 'coupled, on all parameters'),
  'schedule.decay_at': Field(
    (0.5, 0.75),
    "fractions of a decay's length at which the rate falls",
    _boundaries,
    'ascending fractions in (0, 1)',
  ),
  'schedule.decay_factor': _above_zero(0.1, 'what the rate falls by'),
  'distillation.temperature': _above_zero(3.0, 'T of Eq 5'),
  'distillation.label_weight': _at_least(
    0, 1.0, 'of the cross-entropy where there are soft targets'
  ),
  'distillation.views': _at_least(
    0, 0, 'augmented views whose mean is a soft target; 0: the clean image'
  ),
  'distillation.online': Field(
    False, "the teacher predicts the student's augmented images, each step"
  ),
  'distillation.imitation_weight': _at_least(0, 1.0, 'of T^2 R_kl in Eq 7'),
  'retrieval.normalise': Field(False, 'rank by features of length 1'),
  'retrieval.mirror': Field(
    False, "rank by the mean of an image's features and its mirror image's"
  ),
  'retrieval.pooling': _one_of(
    ('average', 'max'), "what makes one query of several images' features"
  ),
  'retrieval.re_rank': Field(
    False, 're-rank by k-reciprocal neighbours: k1 = 20, k2 = 6, lambda = 0.3'
  ),
  'eval.every_epochs': _at_least(
    1,
    1,
    "epochs between evaluations; a stage's last is always evaluated",
    identity=False,
  ),
  'eval.batch_size': _at_least(
    1, 500, 'images in a call of the predict step', identity=False
  ),
  'checkpoint.every_seconds': _at_least(
    0,
    60.0,
    "seconds between checkpoints; 0: at a stage's end alone",
    identity=False,
    since='0.2.0',
  ),
  'checkpoint.every_epochs': _at_least(
    0, 0, 'epochs between checkpoints; 0: none', identity=False
  ),
  'checkpoint.every_steps': _at_least(
    0,
    0,
    'steps between checkpoints within an epoch; 0: none',
    identity=False,
  ),
  'log.every_steps': _at_least(
    1, 1, 'steps between lines of metrics.jsonl', identity=False
  ),
  'log.tensorboard': _local(True, 'write TensorBoard files'),
  'steps_per_dispatch': _at_least(
    0,
    0,
    'steps in one call of the device; 0: 1 on CPU or streamed, else up to 100',
    identity=False,
  ),
  'devices': _at_least(
    0,
    0,
    'devices to use; 0: all, on CPU as many as share a batch well',
    identity=False,
  ),
  'profile': _local(False, 'write a trace of a few steps'),
}

# Of methods that are a source of soft targets: see `targets`, which says which
# of the values are published.
_SOURCES: dict[str, Field] = {
  'ols.imitation_weight': _share(0.5, 'weight of what was said of the class'),
  'ps_kd.alpha': _share(0.8, 'weight of what was said, in the last epoch'),
  'tf_kd.temperature': _above_zero(20.0, 'T of Eq 5'),
  'tf_kd.alpha': _share(0.1, 'weight of the made-up teacher'),
  'tf_kd.correct': Field(
    0.99, "its label's probability", lambda v: 0 < v < 1, 'in (0, 1)'
  ),
  'cs_kd.temperature': _above_zero(4.0, 'T of Eq 5'),
  'cs_kd.imitation_weight': _at_least(0, 1.0, 'of T^2 R_kl'),
  'dlb.temperature': _above_zero(3.0, 'T of Eq 5'),
  'dlb.imitation_weight': _at_least(0, 1.0, 'of T^2 R_kl'),
  'ddgsd.temperature': _above_zero(3.0, 'T of Eq 5'),
  'ddgsd.imitation_weight': _at_least(0, 1.0, 'of T^2 R_kl'),
  'mean_teacher.temperature': _above_zero(3.0, 'T of Eq 5'),
  'mean_teacher.imitation_weight': _at_least(0, 1.0, 'of T^2 R_kl in the end'),
  'mean_teacher.rise': _share(0.1, 'share of the epochs in which it rises'),
  'mean_teacher.decay': _fraction(0.999, 'of the mean, each step'),
  'ema.decay': _fraction(0.999, 'of the mean, each step'),
}
FIELDS |= {
  name: dataclasses.replace(
    field,
    meaning=f'method {name.partition(".")[0]}: {field.meaning}',
    since='0.2.0',
  )
  for name, field in _SOURCES.items()
}
