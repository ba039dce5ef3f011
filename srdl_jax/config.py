# SPDX-License-Identifier: Apache-2.0
"""Every field of a run; configurations made, changed, checked, told apart.

A field is declared here, with its default, meaning, unit and range, and nowhere
else.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from srdl_jax.errors import ConfigError, unknown


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


FIELDS: dict[str, Field] = {
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
  'data.path': _path('data set folder: the directory of images'),
  'data.image_size': _at_least(
    0,
    0,
    "side of a streamed image, or height of a person's, in pixels; 0: the data "
    "set's usual one",
  ),
  'data.skip_unreadable': _local(
    False, "data set folder: leave out images that can't be read"
  ),
  'data.allow_differences': _local(
    False, "persons: take a copy that isn't the official one"
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
  'checkpoint.every_epochs': _at_least(
    1, 1, 'epochs between checkpoints', identity=False
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

RECIPES: dict[str, dict[str, Any]] = {
  'paper': {'optimiser.weight_decay': 2e-4},
  'strong': {'optimiser.weight_decay': 5e-4},
  # For imported weights: a new classifier learns faster than the rest.
  'practical': {
    'optimiser.learning_rate': 0.05,
    'optimiser.backbone_share': 0.1,
  },
}


def defaults() -> ConfigDict:
  """Returns a configuration of default values, with no other fields."""
  config = ConfigDict({n.split('.')[0]: {} for n in FIELDS if '.' in n})
  config.update_from_flattened_dict({n: f.default for n, f in FIELDS.items()})
  return config.lock()


def _settings_of(argument: str, value: str) -> dict[str, Any]:
  """Returns the fields that 'argument=value' of a configuration file sets."""
  if argument == 'teacher':
    # Not what is there: a name means the same in every directory.
    return {'teacher.workdir' if '/' in value else 'teacher.model': value}
  if argument == 'recipe':
    if value not in RECIPES:
      raise ConfigError(unknown('recipe', value, RECIPES))
    return RECIPES[value]
  return {{'model': 'model.name', 'method': 'method'}[argument]: value}


ARGUMENTS = ('model', 'method', 'teacher', 'recipe')


def apply_arguments(config: ConfigDict, text: str | None) -> ConfigDict:
  """Applies 'model=resnet32,method=srdl,recipe=paper' to a configuration.

  Args:
    text: what stands behind the colon of --config=FILE:text, or nothing.

  Returns:
    The same object.

  Raises:
    ConfigError: an argument is malformed, repeated or unknown.
  """
  seen = set()
  for item in filter(None, (text or '').split(',')):
    name, equals, value = item.partition('=')
    if not equals or not value:
      raise ConfigError(f'Config argument {item!r} is not of the form a=b.')
    if name not in ARGUMENTS:
      raise ConfigError(unknown('config argument', name, ARGUMENTS))
    if name in seen:
      raise ConfigError(f'Config argument {name!r} is given twice.')
    seen.add(name)
    config.update_from_flattened_dict(_settings_of(name, value))
  return config


def flatten(config: ConfigDict) -> dict[str, Any]:
  """Returns field names to values, JSON's types only, in FIELDS' order."""
  return {name: _listed(config[name]) for name in FIELDS}


def _listed(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value


def _walk(node: Mapping[str, Any], prefix: str):
  for name, value in node.items():
    if isinstance(value, Mapping):
      yield from _walk(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def from_flat(flat: Mapping[str, Any]) -> ConfigDict:
  """Returns the configuration that `flatten` wrote.

  A field that the record lacks has the value that it was born with: the record
  is older.

  Raises:
    ConfigError: a field is unknown, or its value of another type.
  """
  if strange := sorted(set(flat) - set(FIELDS)):
    raise ConfigError(f'Unknown config field(s): {", ".join(strange)}.')
  config = defaults()
  born = {name: field.born for name, field in FIELDS.items()}
  for name, value in {**born, **flat}.items():
    value = tuple(value) if isinstance(value, list) else value
    try:
      config.update_from_flattened_dict({name: value})
    except (TypeError, ValueError) as error:
      raise ConfigError(f'{name} = {value!r}: {error}') from error
  return config


def validate(config: ConfigDict) -> None:
  """Checks every field's range.

  Raises:
    ConfigError: names the first field that is out of range, and its range.
  """
  flat = dict(_walk(config.to_dict(), ''))
  if set(flat) != set(FIELDS):
    wrong = sorted(set(flat) ^ set(FIELDS))
    raise ConfigError(f'Missing or unknown fields: {", ".join(wrong)}.')
  for name, field in FIELDS.items():
    value = flat[name]
    finite = not isinstance(value, float) or math.isfinite(value)
    if not finite or not field.valid(value):
      raise ConfigError(
        f'{name} = {value!r} is out of range: it must be '
        f'{field.range or "finite"}. ({name}: {field.meaning}.)'
      )


def subset(config: ConfigDict) -> dict[str, int]:
  """Returns what chooses a run's examples: see `sampling.choose_rows`."""
  return {
    'classes': config.data.classes,
    'holdout': config.data.holdout,
    'examples_per_class': config.data.examples_per_class,
    'seed': config.seed,
  }


def digest(config: ConfigDict) -> str:
  """Returns a SHA-256, in hex, of what changes a run's numbers.

  Fields don't count where they have the value that they were born with: a field
  that comes later, or another default, leaves what earlier runs have written
  theirs.
  """
  text = json.dumps(told(identity(flatten(config))), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def identity(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that change a run's numbers."""
  return {n: flat[n] for n, f in FIELDS.items() if f.identity and n in flat}


def told(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns those of the fields that aren't what they were born with."""
  return {n: v for n, v in flat.items() if v != _listed(FIELDS[n].born)}
