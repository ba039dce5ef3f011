# SPDX-License-Identifier: Apache-2.0
"""Methods without a teacher of their own, at equal cost: rows of three tables.

A budget M is what M epochs of vanilla training cost: 3 M passes over the data,
as a train step is 3 forward passes of an image. A method whose step costs c
times a vanilla one gets M / c epochs. So the budgets at which all methods meet
are multiples of 12.
"""

import dataclasses
import itertools
from collections.abc import Iterator

from srdl_jax.reproduce.paper import NAMES, Fields, PaperTable, Row, Setting


@dataclasses.dataclass(frozen=True)
class Entrant:
  """A method that takes part.

  Attributes:
    name: of its rows.
    method: a key of methods.METHODS.
    share: of the budget's epochs that it gets: 1 / c.
    fields: of its own, by dotted names.
    metric: that it is judged by.
  """

  name: str
  method: str
  share: float = 1.0
  fields: Fields = ()
  metric: str = 'accuracy'


# The first one is what gains are over. Half of its budget is a control: it
# remembers fewer wrong labels.
ENTRANTS = (
  Entrant('vanilla', 'vanilla'),
  Entrant('vanilla of M / 2', 'vanilla', share=0.5),
  Entrant('label smoothing', 'label_smoothing'),
  Entrant('OLS', 'ols'),
  Entrant('PS-KD', 'ps_kd'),
  Entrant('Tf-KD', 'tf_kd'),
  Entrant('top-2 targets', 'pll'),
  Entrant('SRDL', 'srdl'),
  Entrant('SRDL, no restart', 'no_restart'),
  Entrant('SRDL, same initialisation', 'same_initialisation'),
  Entrant(
    'born-again, three of M / 3',
    'born_again_equal_budget',
    fields=(('born_again.generations', 2),),
  ),
  Entrant('CS-KD', 'cs_kd'),
  Entrant('DLB', 'dlb'),
  Entrant('DDGSD', 'ddgsd'),
  Entrant('mean teacher', 'mean_teacher', share=0.75),
  Entrant('mean of the parameters', 'ema', share=0.75),
  Entrant('two vanilla networks', 'vanilla_ensemble', metric='ensemble'),
)
VANILLA, HALF = ENTRANTS[0].name, ENTRANTS[1].name


@dataclasses.dataclass(frozen=True)
class Ground:
  """What a scale of the tables runs on.

  Attributes:
    data: its name, in the rows' groups.
    file: of configs/, without '.py'.
    images: training images of each class; 0 for all.
    budgets: each M.
    noise: shares of wrong labels, of table `noise`.
    crossing: images of each class, and each M, of table `crossing`.
    fields: of all runs.
    entrants: names of those that take part; all, if none is given.
  """

  data: str
  file: str
  model: str
  images: int
  budgets: tuple[int, ...]
  noise: tuple[float, ...]
  crossing: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
  fields: Fields = ()
  entrants: tuple[str, ...] = ()


GROUNDS: dict[str, Ground] = {
  'full': Ground(
    'CIFAR-100',
    'cifar100',
    'resnet32',
    0,
    (240,),
    (0.0, 0.2, 0.4),
    ((50, 100, 500), (50, 100, 200, 400)),
  ),
  'short': Ground(
    'CIFAR-100, 10 classes',
    'cifar100',
    'resnet8',
    50,
    (180,),
    (0.0, 0.2, 0.4),
    ((25, 50, 100), (45, 90, 180, 360)),
    (
      ('data.classes', 10),
      ('batch_size', 50),
      ('eval.every_epochs', 45),
      ('checkpoint.every_epochs', 45),
      ('log.every_steps', 50),
    ),
  ),
  'digits': Ground(
    'digits',
    'digits',
    'resnet8',
    60,
    (60, 240),
    (0.0, 0.3),
    fields=(
      ('batch_size', 50),
      ('eval.every_epochs', 20),
      ('checkpoint.every_epochs', 60),
      ('log.every_steps', 12),
    ),
  ),
  'demo': Ground(
    'digits',
    'digits',
    'resnet8',
    40,
    (24,),
    (0.0, 0.3),
    fields=(
      ('batch_size', 50),
      ('eval.every_epochs', 24),
      ('checkpoint.every_epochs', 24),
      ('log.every_steps', 8),
    ),
    entrants=(VANILLA, HALF, 'label smoothing', 'SRDL'),
  ),
  'smoke': Ground(
    'digits',
    'digits',
    'resnet8',
    8,
    (12,),
    (0.3,),
    ((8,), (8, 12)),
    (
      ('batch_size', 16),
      ('eval.every_epochs', 12),
      ('checkpoint.every_epochs', 12),
    ),
  ),
}


def rows(table: str, scale: str) -> list[Row]:
  """Returns the rows of a table of TABLES; none of an unknown scale."""
  ground = GROUNDS.get(scale)
  if ground is None:
    return []
  if table == 'crossing':
    return list(_crossing(ground))
  noise = ground.noise if table == 'noise' else (0.0,)
  return list(_rows(table, ground, noise))


def _rows(
  table: str, ground: Ground, noise: tuple[float, ...]
) -> Iterator[Row]:
  for budget in ground.budgets:
    for share in noise:
      for entrant in ENTRANTS:
        if not ground.entrants or entrant.name in ground.entrants:
          yield _row(table, ground, entrant, ground.images, budget, share)


def _crossing(ground: Ground) -> Iterator[Row]:
  """Yields SRDL and vanilla training by images of each class and by M."""
  pair = [e for e in ENTRANTS if e.name in (VANILLA, 'SRDL')]
  for images, budget in itertools.product(*ground.crossing):
    for entrant in pair:
      yield _row('crossing', ground, entrant, images, budget)


def _row(
  table: str,
  ground: Ground,
  entrant: Entrant,
  images: int,
  budget: int,
  noise: float = 0.0,
) -> Row:
  group, fields = [ground.data], [*ground.fields]
  if images:
    group.append(f'{images} a class')
    fields.append(('data.examples_per_class', images))
  if noise:
    group.append(f'{100 * noise:g} % of labels wrong')
    fields.append(('data.label_noise', noise))
  group.append(f'M = {budget}')
  epochs = round(budget * entrant.share)
  setting = Setting(
    ground.file,
    ground.model,
    entrant.method,
    recipe='strong',
    fields=(('epochs', epochs), *fields, *entrant.fields),
  )
  return Row(
    ', '.join(group),
    _named(ground, entrant.name),
    setting,
    ((entrant.metric, None),),
    against='' if entrant.name == VANILLA else _named(ground, VANILLA),
    table=table,
  )


def _named(ground: Ground, name: str) -> str:
  return f'{NAMES[ground.model]}, {name}'


TABLES: dict[str, PaperTable] = {
  name: PaperTable(title, tuple(rows(name, 'full')))
  for name, title in (
    (
      'arena',
      'Arena: teacher-free methods at equal cost (not in the paper)',
    ),
    ('noise', 'Label noise: the same methods (not in the paper)'),
    (
      'crossing',
      'SRDL over vanilla by images of a class and budget (not in the paper)',
    ),
  )
}
