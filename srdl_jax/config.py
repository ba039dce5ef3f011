# SPDX-License-Identifier: Apache-2.0
"""Configurations: made, changed by arguments, checked, told apart, as JSON."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from srdl_jax.errors import ConfigError
from srdl_jax.fields import FIELDS, RECIPES


def defaults() -> ConfigDict:
  """Returns a configuration of default values, with no other fields."""
  nested: dict[str, Any] = {}
  for name, field in FIELDS.items():
    *groups, leaf = name.split('.')
    node = nested
    for group in groups:
      node = node.setdefault(group, {})
    node[leaf] = field.default
  return ConfigDict(nested).lock()


def _argument_model(config: ConfigDict, value: str) -> None:
  config.model.name = value


def _argument_teacher(config: ConfigDict, value: str) -> None:
  # Not what is there: a name means the same in every directory.
  if '/' in value:
    config.teacher.workdir = value
  else:
    config.teacher.model = value


def _argument_method(config: ConfigDict, value: str) -> None:
  config.method = value


def _argument_recipe(config: ConfigDict, value: str) -> None:
  if value not in RECIPES:
    raise ConfigError(f'Unknown recipe {value!r}; known: {", ".join(RECIPES)}.')
  for name, setting in RECIPES[value].items():
    config.update_from_flattened_dict({name: setting})


ARGUMENTS: dict[str, Callable[[ConfigDict, str], None]] = {
  'model': _argument_model,
  'method': _argument_method,
  'teacher': _argument_teacher,
  'recipe': _argument_recipe,
}


def apply_arguments(config: ConfigDict, text: str | None) -> ConfigDict:
  """Applies 'model=resnet32,method=srdl,recipe=paper' to a configuration.

  Args:
    config: to change.
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
      raise ConfigError(
        f'Unknown config argument {name!r}; known: {", ".join(ARGUMENTS)}.'
      )
    if name in seen:
      raise ConfigError(f'Config argument {name!r} is given twice.')
    seen.add(name)
    ARGUMENTS[name](config, value)
  return config


def flatten(config: ConfigDict) -> dict[str, Any]:
  """Returns field names to values, JSON's types only, in FIELDS' order."""
  flat = dict(_walk(config.to_dict(), ''))
  return {
    name: list(flat[name]) if isinstance(flat[name], tuple) else flat[name]
    for name in FIELDS
  }


def _walk(node: Mapping[str, Any], prefix: str):
  for name, value in node.items():
    if isinstance(value, Mapping):
      yield from _walk(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def subset(config: ConfigDict) -> dict[str, int]:
  """Returns what chooses a run's examples: `sampling.choose_rows`'s words."""
  return {
    'classes': config.data.classes,
    'holdout': config.data.holdout,
    'examples_per_class': config.data.examples_per_class,
    'seed': config.seed,
  }


def from_flat(flat: Mapping[str, Any]) -> ConfigDict:
  """Returns the configuration that `flatten` wrote.

  A field that the record lacks has its default: the record is older.

  Raises:
    ConfigError: a field is unknown, or its value of another type.
  """
  unknown = sorted(set(flat) - set(FIELDS))
  if unknown:
    raise ConfigError(f'Unknown config field(s): {", ".join(unknown)}.')
  config = defaults()
  for name, value in flat.items():
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


def digest(config: ConfigDict) -> str:
  """Returns a SHA-256, in hex, of what changes a run's numbers.

  Fields at their default don't count: a field that comes later leaves what
  earlier runs have written theirs.
  """
  usual = flatten(defaults())
  told = {
    name: value
    for name, value in identity(flatten(config)).items()
    if value != usual[name]
  }
  text = json.dumps(told, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def identity(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that change a run's numbers."""
  return {n: flat[n] for n, f in FIELDS.items() if f.identity and n in flat}
