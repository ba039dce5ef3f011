# SPDX-License-Identifier: Apache-2.0
"""Shows a configuration, and marks what of it is not the default.

    srdl config --config=FILE[:ARGUMENTS] [--config.FIELD=VALUE ...]

A field's default is the paper's value for CIFAR where the paper gives one: 200
epochs (DenseNets: 300, which cifar10 and cifar100 set), batches of 128, rate
0.1, and so on. What a run would refuse is refused; no data is read.
"""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from srdl_jax import command, data, methods, models
from srdl_jax import config as config_lib
from srdl_jax.command import given, usage
from srdl_jax.errors import ConfigError, unknown
from srdl_jax.fields import FIELDS

LEGEND = (
  "* not the default, which is the paper's value for CIFAR where the paper "
  'gives one'
)


def main(argv: Sequence[str]) -> None:
  """Prints the configuration of --config."""
  del argv
  config = command.given_config()
  config_lib.validate(config)
  methods.create(config)
  models.create(config.model.name, 1)
  if config.data.name not in data.DATASETS:
    raise ConfigError(unknown('data set', config.data.name, data.DATASETS))
  flag = flags.FLAGS['config']
  overridden = set(config_flags.get_override_values(flag))
  print(f'--config={config_flags.get_config_filename(flag)}\n')
  print(table({name: config[name] for name in FIELDS}, overridden))


def table(values: dict[str, object], overridden: set[str]) -> str:
  """Returns values by group: the mark, the default, and what set them.

  Args:
    overridden: fields that the command line sets.
  """
  width = max(map(len, values))
  by = {True: 'command line', False: 'configuration'}
  lines = []
  for names in given.groups().values():
    for name in names:
      value, default = (
        usage.shown(v) for v in (values[name], FIELDS[name].default)
      )
      line = f'  {name:{width}}  {value}'
      if values[name] != FIELDS[name].default:
        line = f'* {name:{width}}  {value:18}  default: {default}; set by the '
        line += by[name in overridden]
      lines.append(line)
    lines.append('')
  agreed = [
    recipe
    for recipe, fields in config_lib.RECIPES.items()
    if all(values[name] == value for name, value in fields.items())
  ]
  lines.append(f'Recipes that it agrees with: {", ".join(agreed) or "none"}.')
  return '\n'.join([*lines, LEGEND])


if __name__ == '__main__':
  command.define_config()
  command.run(main)
