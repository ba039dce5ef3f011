# SPDX-License-Identifier: Apache-2.0
"""Which examples are used, and in which order: pure functions of seeds."""

import numpy as np

from srdl_jax.errors import ConfigError

# A fourth word keeps other draws apart from every epoch's order: SeedSequence
# takes (seed,) and (seed, 0, 0) for the same.
_HOLDOUT, _CROP, _VIEW = 1, 2, 3


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


class EpochOrders:
  """The orders of a stage's epochs; the last two that were drawn are kept."""

  def __init__(self, seed: int, stage: int, rows: np.ndarray):
    """Draws nothing yet; for the arguments see `epoch_order`."""
    self._stage = seed, stage
    self._rows = rows
    self._known: dict[int, np.ndarray] = {}

  def __getitem__(self, epoch: int) -> np.ndarray:
    """Returns the order of an epoch, int32 [n]."""
    # Around the end of an epoch, threads that read ahead ask for two of them;
    # what one has read can't change, as a new dictionary takes its place.
    known = self._known
    if epoch not in known:
      kept = dict(list(known.items())[-1:])
      order = epoch_order(*self._stage, epoch, self._rows)
      self._known = known = {**kept, epoch: order}
    return known[epoch]


def of_crop(seed: int, stage: int, epoch: int, row: int) -> np.random.Generator:
  """Returns the generator of the crop that an example gets in one epoch."""
  return _generator(seed, stage, epoch, _CROP, row)


def of_view(seed: int, stage: int, view: int, row: int) -> np.random.Generator:
  """Returns the generator of an example's crop in one of its views."""
  return _generator(seed, stage, view, _VIEW, row)


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
