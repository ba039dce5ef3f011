# SPDX-License-Identifier: Apache-2.0
"""Configurations made, changed, checked, told apart."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from srdl_jax.errors import ConfigError, unknown
from srdl_jax.fields import FIELDS

RECIPES: dict[str, dict[str, Any]] = {  # What recipe=NAME sets.
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


def changed(values: Mapping[str, Any]) -> ConfigDict:
  """Returns the defaults with other values, by fields' names, dotted or nested.

  Raises:
    ConfigError: a field is unknown, or its value of another type.
  """
  return from_flat(flatten(defaults()) | dict(_walk(values, '')))


def _settings_of(argument: str, value: str) -> dict[str, Any]:
  """Returns the fields that 'argument=value' of a configuration file sets."""
  if argument == 'teacher':
    # Not what is there: a name means the same in every directory.
    return {'teacher.workdir' if '/' in value else 'teacher.model': value}
  if argument == 'recipe':
    if value not in RECIPES:
      raise ConfigError(unknown('recipe', value, RECIPES))
    return RECIPES[value]
  if argument == 'size':
    if not value.isdecimal():
      raise ConfigError(f'size={value!r} is not a number of pixels.')
    return {'data.image_size': int(value)}
  field = {'model': 'model.name', 'path': 'data.path'}.get(argument, argument)
  return {field: value}


ARGUMENTS = ('model', 'method', 'teacher', 'recipe')


def apply_arguments(
  config: ConfigDict, text: str | None, *own: str
) -> ConfigDict:
  """Applies 'model=resnet32,method=srdl,recipe=paper' to a configuration.

  Args:
    text: what stands behind the colon of --config=FILE:text, or nothing.
    *own: those of 'path' and 'size' that the file takes, too.

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
    if name not in (known := (*ARGUMENTS, *own)):
      raise ConfigError(unknown('config argument', name, known))
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
    value = value.tolist() if hasattr(value, 'tolist') else value
    value = tuple(value) if isinstance(value, list) else value
    try:
      if value is True and isinstance(config[name], float):
        raise TypeError('it must be a number')  # It would become 1.0.
      config.update_from_flattened_dict({name: value})
    except (OverflowError, TypeError, ValueError) as error:
      told = ' '.join(f'{error}'.split())
      raise ConfigError(f'{name} = {value!r:.99}: {told}') from error
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
    value, kind = flat[name], type(field.default)
    # True is an int to Python, and None fits every field of a ConfigDict.
    fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    finite = not isinstance(value, float) or math.isfinite(value)
    if not (fits and finite and field.valid(value)):
      raise ConfigError(
        f'{name} = {value!r} is out of range: it must be '
        f'{field.range or f"a {kind.__name__}"}. ({name}: {field.meaning}.)'
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
