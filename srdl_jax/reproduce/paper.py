# SPDX-License-Identifier: Apache-2.0
"""Every row of the paper's tables and figures: what to train, what it found.

The runner of the tables, the report and the tests read it, so that they can't
disagree. `scales` replaces networks, data and epochs by smaller ones.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

# What networks are called in tables, by their names in MODELS.
NAMES = {
  'resnet8': 'ResNet-8',
  'resnet20': 'ResNet-20',
  'resnet32': 'ResNet-32',
  'resnet110': 'ResNet-110',
  'resnet50': 'ResNet-50',
  'wrn10_2': 'WRN-10-2',
  'wrn28_10': 'WRN-28-10',
  'densenet_bc_40_12': 'DenseNet-BC (40, 12)',
  'densenet_bc_190_40': 'DenseNet-BC (190, 40)',
  'densenet121': 'DenseNet-121',
  'densenet201': 'DenseNet-201',
}
Fields = tuple[tuple[str, Any], ...]
# Name of a metric to the paper's number in %, None where it has none.
# accuracy and top5_accuracy are of the last epoch of the last stage, ensemble
# of the mean prediction of all stages' ends; rank1, map and, of several
# queries, mq_rank1 and mq_map are Market-1501's.
Metrics = tuple[tuple[str, float | None], ...]


@dataclasses.dataclass(frozen=True)
class Setting:
  """A configuration to train, without its seed.

  Attributes:
    file: of configs/, without '.py'.
    method: a key of methods.METHODS.
    recipe: a key of config.RECIPES.
    fields: by dotted names, over those of the file.
    teacher: a setting whose run of seed 0 teaches this one.
  """

  file: str
  model: str
  method: str
  recipe: str = 'paper'
  fields: Fields = ()
  teacher: 'Setting | None' = None

  @property
  def config(self) -> str:
    """What stands behind --config=."""
    return f'configs/{self.file}.py:{self.arguments}'

  @property
  def arguments(self) -> str:
    """What stands behind the colon."""
    text = f'model={self.model},method={self.method}'
    if self.recipe != 'paper':
      text += f',recipe={self.recipe}'
    # Named too, so that students of different teachers differ.
    return f'{text},teacher={self.teacher.model}' if self.teacher else text


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a table.

  Attributes:
    group: the data set, or what else the paper's table has as columns.
    name: of the network and the method.
    against: name of the row, of the same table and group, that the gain is
      over; '' for none.
    cost: the paper's TrCost, in 1e16, where it has one.
    seeds: how many runs the paper's mean is of.
    table: a key of TABLES.
  """

  group: str
  name: str
  setting: Setting
  metrics: Metrics
  against: str = ''
  cost: float | None = None
  seeds: int = 5
  table: str = ''


@dataclasses.dataclass(frozen=True)
class PaperTable:
  """A table or figure, its rows at full scale."""

  title: str
  rows: tuple[Row, ...]


DATA = {
  'cifar10': 'CIFAR-10',
  'cifar100': 'CIFAR-100',
  'tiny_imagenet': 'Tiny ImageNet',
}
LABELS = {
  'vanilla': 'vanilla',
  'srdl': 'SRDL',
  'kd': 'KD',
  'stage_incomplete': 'SRDL, stage-incomplete',
  'no_restart': 'SRDL, no restart',
  'vanilla_ensemble': 'two vanilla networks of M / 2, ensemble',
  'label_smoothing': 'label smoothing',
  'self_kd': 'self-distillation, M epochs each',
  'born_again': 'born-again, two students, M epochs each',
  'born_again_equal_budget': 'born-again, two students, M / 3 epochs each',
  'same_initialisation': 'SRDL, restart at the same initialisation',
}


def _setting(file: str, model: str, method: str, **rest: Any) -> Setting:
  # DenseNet-BC trains longer than the file's other networks.
  longer = model.startswith('densenet_bc') and file.startswith('cifar')
  fields = (('epochs', 300),) if longer else ()
  if method.startswith('born_again'):
    fields = (('born_again.generations', 2),)
  return Setting(file, model, method, fields=fields, **rest)


def _name(setting: Setting) -> str:
  label = LABELS[setting.method]
  if setting.teacher:
    label += f' from {NAMES[setting.teacher.model]}'
  return f'{NAMES[setting.model]}, {label}'


def _row(
  group: str,
  setting: Setting,
  metrics: Metrics,
  against: str | None = None,
  **rest: Any,
) -> Row:
  if against is None:
    against = '' if setting.method == 'vanilla' else 'vanilla'
  if against:
    against = _name(_setting(setting.file, setting.model, against))
  return Row(group, _name(setting), setting, metrics, against, **rest)


def _numbers(text: str) -> dict[str, list[float]]:
  """Reads lines of a name and numbers."""
  lines = (line.split() for line in text.strip().splitlines())
  return {name: [float(n) for n in numbers] for name, *numbers in lines}


def _table1() -> Iterator[Row]:
  # Of each data set: vanilla, SRDL, TrCost.
  found = _numbers("""
    resnet32           92.53 93.12  0.08  69.02 71.63  0.08  53.33 55.53  0.32
    wrn28_10           94.98 95.41 12.62  78.32 79.38 12.62  58.38 60.80 50.48
    densenet_bc_190_40 96.68 96.87 10.24  82.83 83.59 10.24  62.88 64.19 40.96
  """)
  for model, numbers in found.items():
    for i, (file, group) in enumerate(DATA.items()):
      vanilla, srdl, cost = numbers[3 * i : 3 * i + 3]
      for method, accuracy in (('vanilla', vanilla), ('srdl', srdl)):
        metrics = (('accuracy', accuracy),)
        setting = _setting(file, model, method)
        yield _row(group, setting, metrics, cost=cost)


def _table2() -> Iterator[Row]:
  # Of each data set: accuracy, TrCost.
  found = _numbers("""
    vanilla   92.53  0.08  69.02  0.08  53.33  0.32
    wrn28_10  92.83 12.70  72.58 12.70  56.80 50.80
    resnet110 92.75  0.30  71.17  0.30  55.06  1.20
    srdl      93.12  0.08  71.63  0.08  55.53  0.32
  """)
  for i, (file, group) in enumerate(DATA.items()):
    for name, numbers in found.items():
      teacher = None if name in LABELS else _setting(file, name, 'vanilla')
      method = 'kd' if teacher else name
      setting = _setting(file, 'resnet32', method, teacher=teacher)
      accuracy, cost = numbers[2 * i : 2 * i + 2]
      yield _row(group, setting, (('accuracy', accuracy),), cost=cost)


def _table3() -> Iterator[Row]:
  # Of vanilla, then of SRDL: each column.
  columns = ('rank1', 'map', 'mq_rank1', 'mq_map')
  found = _numbers("""
    resnet50    87.5 69.9 91.4 78.5  89.3 73.5 93.1 81.5
    densenet121 90.1 74.0 93.6 81.7  91.7 76.8 94.2 83.5
  """)
  for model, numbers in found.items():
    for method, part in (('vanilla', numbers[:4]), ('srdl', numbers[4:])):
      metrics = tuple(zip(columns, part, strict=True))
      setting = _setting('market1501', model, method)
      yield _row('Market-1501', setting, metrics)


def _cifar100(method: str, number: float | None = None, **rest: Any) -> Row:
  """A row of ResNet-32, and the paper's accuracy."""
  setting = _setting('cifar100', 'resnet32', method)
  return _row('CIFAR-100', setting, (('accuracy', number),), **rest)


def _imagenet() -> Iterator[Row]:
  for method, top1, top5 in (('vanilla', 77.20, 94.57), ('srdl', 77.72, 94.89)):
    metrics = (('accuracy', top1), ('top5_accuracy', top5))
    setting = _setting('imagenet', 'densenet201', method)
    yield _row('ImageNet', setting, metrics, seeds=1)


def _budget() -> Iterator[Row]:
  for epochs in (25, 50, 100, 200, 400):
    fields = (('epochs', epochs),) if epochs != 200 else ()
    for method in ('vanilla', 'srdl'):
      row = _cifar100(method)
      yield dataclasses.replace(
        row,
        setting=dataclasses.replace(row.setting, fields=fields),
        name=f'{row.name}, M = {epochs}',
        against=row.against and f'{row.against}, M = {epochs}',
      )


def _ensembles() -> tuple[Row, ...]:
  single = _cifar100('srdl', 71.63, against='')
  both = dataclasses.replace(
    single,
    name=f'{single.name}, ensemble of both stages',
    metrics=(('ensemble', 72.33),),
    against=single.name,
  )
  vanilla = dataclasses.replace(
    _cifar100('vanilla_ensemble'),
    metrics=(('ensemble', 72.02),),
    against=both.name,
  )
  return single, both, vanilla


def _with_srdl(method: str, number: float) -> tuple[Row, ...]:
  """A method, and SRDL over it."""
  return (
    _cifar100(method, number, against=''),
    _cifar100('srdl', 71.63, against=method),
  )


def _controls() -> Iterator[Row]:
  methods = ('vanilla', 'label_smoothing', 'same_initialisation', 'self_kd')
  for method in (*methods, 'born_again', 'born_again_equal_budget'):
    yield _cifar100(method)


def _factorial() -> Iterator[Row]:
  """Every combination of {stage one complete, stage two complete, restart}.

  Tables 4 and 5 have three of them, in which two things change at once.
  """
  # As in those tables, so that their runs serve here.
  named = {
    (True, True, 'fresh'): 'srdl',
    (True, True, 'previous'): 'no_restart',
    (False, False, 'fresh'): 'stage_incomplete',
  }
  first_name = ''
  for one, two, start in itertools.product(
    (True, False), (True, False), ('fresh', 'previous')
  ):
    fields = (('srdl.complete', (one, two)), ('srdl.start', start))
    setting = _setting('cifar100', 'resnet32', 'srdl')
    if method := named.get((one, two, start)):
      setting = dataclasses.replace(setting, method=method)
    else:
      setting = dataclasses.replace(setting, fields=fields)
    told = (
      NAMES[setting.model],
      f'stage one {"" if one else "in"}complete',
      f'stage two {"" if two else "in"}complete',
      'restart' if start == 'fresh' else 'no restart',
    )
    name = ', '.join(told)
    metrics = (('accuracy', None),)
    yield Row('CIFAR-100', name, setting, metrics, against=first_name)
    first_name = first_name or name


TABLES: dict[str, PaperTable] = {
  name: PaperTable(
    title, tuple(dataclasses.replace(row, table=name) for row in rows)
  )
  for name, title, rows in (
    ('table1', 'Table 1: SRDL against vanilla training', _table1()),
    ('imagenet', 'ImageNet (section 4.2)', _imagenet()),
    ('table2', 'Table 2: SRDL against knowledge distillation', _table2()),
    ('table3', 'Table 3: Market-1501', _table3()),
    (
      'table4',
      'Table 4: the stage-complete schedule',
      _with_srdl('stage_incomplete', 58.11),
    ),
    ('table5', 'Table 5: the random restart', _with_srdl('no_restart', 69.73)),
    ('table6', 'Table 6: ensembles', _ensembles()),
    ('fig3', 'Figure 3: learning-rate schedules', _with_srdl('vanilla', 69.02)),
    ('fig4', 'Figure 4: the width of the optima', _with_srdl('vanilla', 69.02)),
    (
      'budget',
      'SRDL over vanilla by the budget M (not in the paper)',
      _budget(),
    ),
    ('controls', 'Controls (not in the paper)', _controls()),
    (
      'factorial',
      'Schedule and restart, each alone (not in the paper)',
      _factorial(),
    ),
  )
}
