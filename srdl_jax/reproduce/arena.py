# SPDX-License-Identifier: Apache-2.0
"""Methods without a teacher of their own, at equal cost: rows of two tables.

A budget M is what M epochs of vanilla training cost: 3 M passes over the data,
as a train step is 3 forward passes of an image. A method whose step costs c
times a vanilla one gets M / c epochs. So budgets are multiples of 12.
"""

import dataclasses
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
    name: of the data, in the rows' groups.
    file: of configs/, without '.py'.
    budgets: each M.
    noise: shares of wrong labels, of table `noise`.
    fields: of all runs.
    entrants: names of those that take part; all, if none is given.
  """

  name: str
  file: str
  model: str
  budgets: tuple[int, ...]
  noise: tuple[float, ...]
  fields: Fields = ()
  entrants: tuple[str, ...] = ()


GROUNDS: dict[str, Ground] = {
  'full': Ground('CIFAR-100', 'cifar100', 'resnet32', (240,), (0.0, 0.2, 0.4)),
  'short': Ground(
    'digits, 60 a class',
    'digits',
    'resnet8',
    (60, 240),
    (0.0, 0.3),
    (
      ('data.examples_per_class', 60),
      ('batch_size', 50),
      ('eval.every_epochs', 20),
      ('checkpoint.every_epochs', 60),
      ('log.every_steps', 12),
    ),
  ),
  'demo': Ground(
    'digits, 40 a class',
    'digits',
    'resnet8',
    (24,),
    (0.0, 0.3),
    (
      ('data.examples_per_class', 40),
      ('batch_size', 50),
      ('eval.every_epochs', 24),
      ('checkpoint.every_epochs', 24),
      ('log.every_steps', 8),
    ),
    entrants=(VANILLA, HALF, 'label smoothing', 'SRDL'),
  ),
  'smoke': Ground(
    'digits, 8 a class',
    'digits',
    'resnet8',
    (12,),
    (0.3,),
    (
      ('data.examples_per_class', 8),
      ('batch_size', 16),
      ('eval.every_epochs', 12),
      ('checkpoint.every_epochs', 12),
    ),
  ),
}


def rows(table: str, scale: str) -> list[Row]:
  """Returns the rows of table 'arena' or 'noise'; none of an unknown scale."""
  ground = GROUNDS.get(scale)
  if ground is None:
    return []
  noise = ground.noise if table == 'noise' else (0.0,)
  return list(_rows(table, ground, noise))


def _rows(
  table: str, ground: Ground, noise: tuple[float, ...]
) -> Iterator[Row]:
  for budget in ground.budgets:
    for share in noise:
      fields = ground.fields
      wrong = ''
      if share:
        fields = (*fields, ('data.label_noise', share))
        wrong = f'{100 * share:g} % of labels wrong, '
      group = f'{ground.name}, {wrong}M = {budget}'
      for entrant in ENTRANTS:
        if ground.entrants and entrant.name not in ground.entrants:
          continue
        epochs = round(budget * entrant.share)
        setting = Setting(
          ground.file,
          ground.model,
          entrant.method,
          recipe='strong',
          fields=(('epochs', epochs), *fields, *entrant.fields),
        )
        yield Row(
          group,
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
  )
}
