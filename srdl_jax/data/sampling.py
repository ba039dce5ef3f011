# SPDX-License-Identifier: Apache-2.0
"""Which examples are used, and in which order: pure functions of seeds."""

import dataclasses
from collections.abc import Callable

import numpy as np

from srdl_jax.errors import ConfigError

# A fourth word keeps other draws apart from every epoch's order: SeedSequence
# takes (seed,) and (seed, 0, 0) for the same.
_HOLDOUT, _CROP, _VIEW, _NOISE, _PAIRS = range(1, 6)


def _generator(*words: int) -> np.random.Generator:
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def epoch_order(
  seed: int, stage: int, epoch: int, rows: np.ndarray
) -> np.ndarray:
  """Order in which one epoch visits its examples, of rows [n].

  No number is negative.

  Returns:
    int32 [n], a permutation of `rows` that depends on the arguments alone.
  """
  generator = _generator(seed, stage, epoch)
  return generator.permutation(np.asarray(rows, np.int32))


@dataclasses.dataclass(frozen=True)
class Drawn:
  """What a stage's orders are drawn from.

  Attributes:
    rows: int [n], the examples in use.
    labels: integers [N], of the full split, as they are trained on.
    batch_size: of all processes together.
    order: a key of ORDERS.
  """

  seed: int
  stage: int
  rows: np.ndarray
  labels: np.ndarray
  batch_size: int
  order: str = 'once'

  def __post_init__(self) -> None:
    """Checks that there is such an order.

    Raises:
      ConfigError: a class can't be paired.
    """
    if self.order != 'pairs':
      return
    labels, counts = np.unique(self.labels[self.rows], return_counts=True)
    if counts.min() < 2:
      raise ConfigError(
        f'Class {labels[counts.argmin()]} has one training image, but images '
        'come in pairs of their class: it needs two.'
      )

  def epoch(self, epoch: int) -> np.ndarray:
    """Returns the order of an epoch: see `ORDERS`."""
    return ORDERS[self.order](self, epoch)

  @property
  def steps(self) -> int:
    """Of an epoch; its remainder is dropped."""
    return len(self.rows) // self.batch_size


def _once(drawn: Drawn, epoch: int) -> np.ndarray:
  return epoch_order(drawn.seed, drawn.stage, epoch, drawn.rows)


def _half(drawn: Drawn, epoch: int) -> np.ndarray:
  """Returns rows [steps, B / 2]; two epochs share a permutation."""
  pair, part = divmod(epoch, 2)
  half = drawn.batch_size // 2
  rows = _once(drawn, pair)[part * drawn.steps * half :]
  return rows[: drawn.steps * half].reshape(-1, half)


def _beside(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  return np.stack([first, second], -1).reshape(-1).astype(np.int32)


def _twice(drawn: Drawn, epoch: int) -> np.ndarray:
  rows = _half(drawn, epoch)
  return _beside(rows, rows + len(drawn.labels))


def _again(drawn: Drawn, epoch: int) -> np.ndarray:
  new = _half(drawn, epoch)
  # The very first batch repeats itself.
  before = _half(drawn, epoch - 1)[-1:] if epoch else new[:1]
  again = np.concatenate([before, new[:-1]]) + len(drawn.labels)
  return _beside(again, new)


def _pairs(drawn: Drawn, epoch: int) -> np.ndarray:
  generator = _generator(drawn.seed, drawn.stage, epoch, _PAIRS)
  rows = generator.permutation(drawn.rows)
  rows = rows[np.argsort(drawn.labels[rows], kind='stable')]
  ends = np.flatnonzero(np.diff(drawn.labels[rows])) + 1
  found = []
  for members in np.split(rows, ends):
    if len(members) % 2:
      # The odd one's partner is there once more, in another view.
      members = np.append(members, members[0] + len(drawn.labels))
    found.append(members.reshape(-1, 2))
  pairs = generator.permutation(np.concatenate(found))
  return pairs.reshape(-1)[: drawn.steps * drawn.batch_size].astype(np.int32)


# From an epoch, from 0, to the numbers [n] of its examples: n % N is a row of
# the full split of N, and what is N or above is a second view of it, which is
# augmented otherwise. Neighbours (2 i, 2 i + 1) belong together, so that they
# stay on one device. Each epoch has as many steps as one of 'once'.
#   once: every row once.
#   twice: a row and its second view, side by side.
#   again: a second view of what was new in the batch before, and a new row.
#   pairs: two of one class.
# In two epochs of 'twice' and 'again' every row is seen twice.
ORDERS: dict[str, Callable[[Drawn, int], np.ndarray]] = {
  'once': _once,
  'twice': _twice,
  'again': _again,
  'pairs': _pairs,
}


class EpochOrders:
  """The orders of a stage's epochs; the last two that were drawn are kept."""

  def __init__(self, drawn: Drawn):
    """Draws nothing yet."""
    self._drawn = drawn
    self._known: dict[int, np.ndarray] = {}

  def __getitem__(self, epoch: int) -> np.ndarray:
    """Returns the order of an epoch, int32 [n]."""
    # Around the end of an epoch, threads that read ahead ask for two of them;
    # what one has read can't change, as a new dictionary takes its place.
    known = self._known
    if epoch not in known:
      kept = dict(list(known.items())[-1:])
      order = self._drawn.epoch(epoch)
      self._known = known = {**kept, epoch: order}
    return known[epoch]


def of_crop(
  seed: int, stage: int, epoch: int, number: int
) -> np.random.Generator:
  """Returns the generator of the crop that an example gets in one epoch.

  Args:
    number: of the example in the epoch's order.
  """
  return _generator(seed, stage, epoch, _CROP, number)


def of_view(seed: int, stage: int, view: int, row: int) -> np.random.Generator:
  """Returns the generator of an example's crop in one of its views."""
  return _generator(seed, stage, view, _VIEW, row)


def with_noise(
  labels: np.ndarray, rows: np.ndarray, share: float, seed: int, classes: int
) -> np.ndarray:
  """Returns labels [N], of which a share of those that train is wrong.

  Args:
    labels: integers [N], of the full split.
    rows: int [n], the examples to train on; round(share n) of them get one of
      the other classes, all alike.
    share: in [0, 1).
    seed: of the draw, not the run's.
    classes: K.
  """
  count = round(share * len(rows))
  if not count:
    return labels
  generator = _generator(seed, 0, 0, _NOISE)
  wrong = generator.permutation(rows)[:count]
  noisy = labels.copy()
  noisy[wrong] = (
    labels[wrong] + generator.integers(1, classes, count)
  ) % classes
  return noisy


def choose_rows(
  labels: np.ndarray,
  *,
  classes: int = 0,
  holdout: int = 0,
  examples_per_class: int = 0,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Splits the rows of a training split into those used and those held out.

  Args:
    labels: integers [N], of the full split.
    classes: use examples of the labels below it alone; 0 takes all. At least
      2, and no more than there are.
    holdout: number of examples, drawn with the seed, kept for validation.
    examples_per_class: the first so many of each class, by row number, among
      the rest; 0 takes all of the rest.
    seed: of the draw, not negative.

  Returns:
    (train_rows, holdout_rows), both int32, ascending and disjoint.

  Raises:
    ConfigError: a number out of its range, a hold-out that leaves nothing to
      train on, or a class with fewer examples than asked for.
  """
  used = rows_of_classes(labels, classes)
  _check_counts(len(used), holdout, examples_per_class, seed)
  drawn = _generator(seed, 0, 0, _HOLDOUT).permutation(len(used))[:holdout]
  kept = np.ones(len(used), bool)
  kept[drawn] = False
  train, held = used[kept], used[~kept]
  if examples_per_class:
    wanted = np.unique(labels[used])
    train = _first_of_each_class(labels, train, wanted, examples_per_class)
  return train.astype(np.int32), held.astype(np.int32)


def rows_of_classes(labels: np.ndarray, classes: int) -> np.ndarray:
  """Returns the rows, ascending, whose labels are below `classes`; 0: all.

  Raises:
    ConfigError: fewer than two classes, or more than there are.
  """
  count = int(labels.max()) + 1
  if classes and not 2 <= classes <= count:
    raise ConfigError(
      f'classes={classes} must be from 2 to {count}, or 0 for all of them'
    )
  return np.flatnonzero(labels < (classes or count))


def _check_counts(
  count: int, holdout: int, examples_per_class: int, seed: int
) -> None:
  given = {
    'holdout': holdout,
    'examples_per_class': examples_per_class,
    'seed': seed,
  }
  for name, value in given.items():
    if value < 0:
      raise ConfigError(f'{name} must not be negative, got {value}')
  if holdout >= count:
    raise ConfigError(
      f'holdout={holdout} leaves nothing to train on: the split has '
      f'{count} examples'
    )


def _first_of_each_class(
  labels: np.ndarray,
  rows: np.ndarray,
  wanted: np.ndarray,
  examples_per_class: int,
) -> np.ndarray:
  chosen = []
  for label in wanted:
    members = rows[labels[rows] == label]
    if len(members) < examples_per_class:
      raise ConfigError(
        f'examples_per_class={examples_per_class}, but class {label} has '
        f'{len(members)} examples outside the hold-out'
      )
    chosen.append(members[:examples_per_class])
  return np.sort(np.concatenate(chosen))
