# SPDX-License-Identifier: Apache-2.0
"""The tables' rows at full scale, and scaled down to run anywhere."""

import dataclasses
import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from srdl_jax import config as config_lib
from srdl_jax import storage
from srdl_jax.command import bundled
from srdl_jax.errors import ConfigError, unknown
from srdl_jax.reproduce import arena, paper
from srdl_jax.reproduce.paper import NAMES, Fields, Row, Setting

TABLES = paper.TABLES | arena.TABLES  # By name, each with its rows.


@dataclasses.dataclass(frozen=True)
class Scale:
  """How the tables are run.

  Attributes:
    meaning: one sentence that names networks and data, '' for the paper's own.
    seeds: how many, unless the command says otherwise.
    recipe: of all runs, '' for the rows' own.
    files: configuration file for another; rows of files not in it are left
      out. None: all as they are.
    models: stand-ins of networks; rows of other networks are left out.
    epochs: M of every run, 0 for the rows' own.
    largest_budget: of table 'budget', as a multiple of M.
    fields: of all runs.
    flatness: flags of the command of Figure 4.
  """

  meaning: str
  seeds: int
  recipe: str = ''
  files: dict[str, str] | None = None
  models: dict[str, str] | None = None
  epochs: int = 0
  largest_budget: float = 2.0
  fields: Fields = ()
  flatness: Fields = ()


# By name, how large runs are, and how many seeds.
SCALES: dict[str, Scale] = {
  'full': Scale('', seeds=5),
  'strong': Scale(
    "Full scale with recipe `strong` (weight decay 5e-4), not the paper's.",
    seeds=5,
    recipe='strong',
    files={name: name for name in ('cifar10', 'cifar100', 'tiny_imagenet')},
  ),
  'short': Scale(
    'Short runs on real images, no reproduction of the paper: ResNet-8 for '
    'ResNet-32 and ResNet-20 for ResNet-110 on the first 10 classes of '
    'CIFAR-100, 50 training images of each, with weight decay 5e-4.',
    seeds=3,
    recipe='strong',
    files={'cifar100': 'cifar100'},
    models={'resnet32': 'resnet8', 'resnet110': 'resnet20'},
    epochs=180,
    fields=(
      ('data.examples_per_class', arena.GROUNDS['short'].images),
      *arena.GROUNDS['short'].fields,
    ),
    flatness=(('points', 6), ('examples', 400)),
  ),
  'digits': Scale(
    'Short runs: ResNet-8 on 60 of each of the digits of scikit-learn, 8 x 8 '
    'pixels, with weight decay 5e-4.',
    seeds=5,
    files={},
  ),
  'demo': Scale(
    'Short runs: ResNet-8 on some of the digits of scikit-learn, 8 x 8 pixels, '
    'with weight decay 5e-4.',
    seeds=3,
    files={},
  ),
  'smoke': Scale(
    'Runs of seconds on 8 x 8 pixels, which only show that every row runs: '
    'ResNet-8 for ResNet-32 and ResNet-50, ResNet-20 for ResNet-110, WRN-10-2 '
    'for WRN-28-10, DenseNet-BC (40, 12) for every DenseNet, on the digits of '
    'scikit-learn; Market-1501 is classified, not ranked.',
    seeds=1,
    files=dict.fromkeys(
      ('cifar10', 'cifar100', 'tiny_imagenet', 'imagenet', 'market1501'),
      'digits',
    ),
    models={
      'resnet32': 'resnet8',
      'resnet50': 'resnet8',
      'resnet110': 'resnet20',
      'wrn28_10': 'wrn10_2',
      'densenet_bc_190_40': 'densenet_bc_40_12',
      'densenet121': 'densenet_bc_40_12',
      'densenet201': 'densenet_bc_40_12',
    },
    epochs=8,
    largest_budget=1.0,
    fields=(
      ('data.examples_per_class', 8),
      ('batch_size', 16),
      ('eval.every_epochs', 8),
      ('checkpoint.every_epochs', 8),
    ),
    flatness=(('points', 3), ('examples', 50)),
  ),
}


def rows(table: str, scale: str) -> list[Row]:
  """Returns a table's rows as a scale runs them; those it can't are left out.

  Raises:
    ConfigError: the table or the scale is unknown.
  """
  for kind, name, known in (('table', table, TABLES), ('scale', scale, SCALES)):
    if name not in known:
      raise ConfigError(unknown(kind, name, known))
  if table in arena.TABLES:
    return arena.rows(table, scale)
  found = (_at(SCALES[scale], row) for row in TABLES[table].rows)
  return [row for row in found if row is not None]


def _at(scale: Scale, row: Row) -> Row | None:
  share = 1.0
  if row.table == 'budget':
    share = dict(row.setting.fields).get('epochs', 200) / 200
  epochs = round(scale.epochs * share)
  setting = _setting_at(scale, row.setting, epochs)
  too_short = scale.epochs and scale.epochs * share < 2
  if setting is None or too_short or share > scale.largest_budget:
    return None
  stand_ins = {
    NAMES[model]: f'{NAMES[ours]} for {NAMES[model]}'
    for model, ours in (scale.models or {}).items()
  }
  if scale.epochs and row.table == 'budget':
    stand_ins[f'M = {round(200 * share)}'] = f'M = {epochs}'
  name, against, metrics = row.name, row.against, row.metrics
  for theirs, ours in stand_ins.items():
    name, against = name.replace(theirs, ours), against.replace(theirs, ours)
  if setting.file != row.setting.file and row.table == 'table3':
    # What stands in for a person is classified.
    metrics = (('accuracy', None), *metrics)
  return dataclasses.replace(
    row, setting=setting, name=name, against=against, metrics=metrics
  )


def _setting_at(scale: Scale, setting: Setting, epochs: int) -> Setting | None:
  files = scale.files
  if files is None:
    files = {setting.file: setting.file}
  models = scale.models or {setting.model: setting.model}
  if setting.file not in files or setting.model not in models:
    return None
  teacher = setting.teacher and _setting_at(scale, setting.teacher, epochs)
  if setting.teacher and not teacher:
    return None
  fields = dict(setting.fields) | ({'epochs': epochs} if scale.epochs else {})
  return dataclasses.replace(
    setting,
    file=files[setting.file],
    model=models[setting.model],
    recipe=scale.recipe or setting.recipe,
    fields=tuple({**fields, **dict(scale.fields)}.items()),
    teacher=teacher,
  )


def starts_from_weights(setting: Setting) -> bool:
  """Whether a run begins with imported ImageNet weights: Table 3's do."""
  return setting.file == 'market1501'


def possible(
  rows: Sequence[Row], weights: str | None
) -> tuple[Sequence[Row], str]:
  """Returns the rows that can be run, and why others are left out, or ''.

  Args:
    weights: directory of imported weights, in a folder for each network; None
      if there is none.

  Raises:
    ConfigError: that directory lacks a network.
  """
  needy = [row for row in rows if starts_from_weights(row.setting)]
  networks = dict.fromkeys(row.setting.model for row in needy)
  if needy and weights is None:
    return [row for row in rows if row not in needy], (
      f'{needy[0].group} starts from imported weights; give --weights=DIR, '
      f'which holds {", ".join(networks)}'
    )
  if not needy:
    return rows, ''
  folder = storage.reachable(weights, '--weights', ConfigError)
  absent = [n for n in networks if not (folder / n).is_dir()]
  if absent:
    raise ConfigError(
      f'--weights={weights} has no folder {", ".join(absent)}: import them '
      'there (python -m srdl_jax.weights import).'
    )
  return rows, ''


def config(setting: Setting) -> ConfigDict:
  """Returns the configuration of a run, its seed 0.

  Raises:
    ConfigError: the file isn't there, or a field is unknown.
  """
  made = _file(setting.file).get_config(setting.arguments)
  try:
    made.update_from_flattened_dict(dict(setting.fields))
  except (KeyError, AttributeError, TypeError, ValueError) as error:
    raise ConfigError(f'{setting.config}: {error}') from error
  return made


@functools.cache
def _file(name: str) -> Any:
  # Not imported by name: in a checkout they lie outside of the package.
  path = bundled.path(name)
  spec = importlib.util.spec_from_file_location(f'srdl_jax_config_{name}', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def identity(setting: Setting) -> dict[str, Any]:
  """Returns the fields that change a run's numbers, but the seed."""
  fields = config_lib.identity(config_lib.flatten(config(setting)))
  del fields['seed']
  return fields


def digested(setting: Setting) -> dict[str, Any]:
  """Returns the fields by which a sweep's directory tells a run.

  What came after the first version counts only where it isn't what it was born
  with: an earlier sweep's directories stay theirs.
  """
  fields = identity(setting)
  first = {n for n in fields if config_lib.FIELDS[n].since == '0.1.0'}
  return {
    n: fields[n] for n in fields if n in first | {*config_lib.told(fields)}
  }
