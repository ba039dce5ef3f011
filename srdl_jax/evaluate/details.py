# SPDX-License-Identifier: Apache-2.0
"""What is behind a test's metrics: tables and pictures by class and image."""

import csv
import io
import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from srdl_jax import data, storage
from srdl_jax.data.folder_files import printable
from srdl_jax.metrics import CALIBRATION_BINS

_INK, _BLUE, _RED = '#1f2328', '#0072b2', '#d55e00'
_STYLE = {
  # Names may hold a dollar.
  'text.parse_math': False,
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.titlelocation': 'left',
  'text.color': _INK,
}
# Names along the axes of a confusion matrix; more would not be legible.
_MOST_NAMES = 40
_WORST = 32
_COLUMNS = 8

# Rows, labels, predictions, their probabilities and the labels', each [n].
_Block = tuple[np.ndarray, ...]


class Details:
  """Collects what is said of each image, and writes it to a folder."""

  def __init__(self, split: data.Split, classes: Sequence[str]):
    """Begins empty.

    Args:
      split: the images, with their labels.
      classes: their names, by label.
    """
    self._split = split
    self._classes = list(classes)
    self._blocks: list[_Block] = []

  def add(self, rows_B: np.ndarray, log_probs_BxK: np.ndarray) -> None:
    """Adds a block: see `evaluate.classify`."""
    labels = self._split.labels[rows_B]
    said = log_probs_BxK.argmax(-1)
    each = np.arange(len(rows_B))
    shares = (np.exp(log_probs_BxK[each, n]) for n in (said, labels))
    self._blocks.append((rows_B, labels, said, *shares))

  def _all(self) -> _Block:
    """Rows, labels, predictions, their probabilities and the labels', [n]."""
    return tuple(map(np.concatenate, zip(*self._blocks, strict=True)))

  def write(self, directory: pathlib.Path) -> list[str]:
    """Writes the files; returns their names.

    predictions.csv has a line for each image, per_class.csv one for each class,
    confusion.csv a row for each label and a column for each prediction, in
    numbers of images.
    """
    _, labels, said, confidence, _ = found = self._all()
    counts = np.zeros((len(self._classes),) * 2, np.int64)
    np.add.at(counts, (labels, said), 1)
    files = {
      'predictions.csv': self._predictions(found),
      'per_class.csv': self._per_class(counts),
      'confusion.csv': self._confusion(counts),
    }
    with matplotlib.rc_context(_STYLE):
      pictures = {
        'confusion.png': draw_confusion(counts, self._classes),
        'reliability.png': draw_reliability(confidence, said == labels),
        'worst.png': self._draw_worst(*self.worst(_WORST)),
      }
      files |= {name: _png(figure) for name, figure in pictures.items()}
    with storage.failures(directory):
      directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
      storage.replace(directory / name, content)
    return list(files)

  def worst(self, count: int) -> tuple[np.ndarray, ...]:
    """Returns rows, labels, predictions, their probabilities and the labels',
    each [count], of the images whose label has the least, that one first."""
    found = self._all()
    worst = found[-1].argsort(kind='stable')[:count]
    return tuple(values[worst] for values in found)

  def _name(self, row: int) -> str:
    """What a user finds the row's image by; its number at least."""
    if not self._split.is_streamed:
      return f'{self._split.name} {row}'
    return printable(self._split.images.records.name(row))

  def _predictions(self, found: _Block) -> bytes:
    names = self._classes
    return _csv(
      ('row', 'image', 'label', 'predicted', 'probability', 'of_label'),
      (
        (
          row,
          self._name(row),
          names[label],
          names[guess],
          f'{share:.6g}',
          f'{own:.6g}',
        )
        for row, label, guess, share, own in zip(
          *(values.tolist() for values in found), strict=True
        )
      ),
    )

  def _per_class(self, counts: np.ndarray) -> bytes:
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    most = wrong.argmax(1)
    return _csv(
      ('class', 'images', 'accuracy', 'most_taken_for', 'times'),
      (
        (
          name,
          total,
          f'{counts[n, n] / total:.6f}' if total else '',
          self._classes[most[n]] if wrong[n, most[n]] else '',
          wrong[n, most[n]],
        )
        for n, (name, total) in enumerate(
          zip(self._classes, counts.sum(1), strict=True)
        )
      ),
    )

  def _confusion(self, counts: np.ndarray) -> bytes:
    lines = ((n, *c) for n, c in zip(self._classes, counts, strict=True))
    return _csv(('label', *self._classes), lines)

  def _draw_worst(self, rows, labels, said, confidence, own) -> Figure:
    high = -(-len(rows) // _COLUMNS)
    figure = Figure((1.45 * _COLUMNS, 1.95 * high + 0.4), layout='constrained')
    figure.suptitle('Least probability of the label', x=0.01, ha='left')
    grid = figure.subplots(high, _COLUMNS, squeeze=False)
    for axes in grid.flat:
      axes.set_axis_off()
    for axes, row, label, guess, share, least in zip(
      grid.flat, rows, labels, said, confidence, own, strict=False
    ):
      image = np.asarray(self._split.images[np.array([row])])[0]
      axes.imshow(image.squeeze(), cmap='gray', vmin=0, vmax=255)
      title = f'{_short(self._classes[label])} {least:.0%}'
      if label != guess:
        title += f'\nsaid {_short(self._classes[guess])} {share:.0%}'
      colour = _INK if label == guess else _RED
      axes.set_title(title, color=colour, fontsize=7)
    return figure


def draw_confusion(counts_KxK: np.ndarray, classes: Sequence[str]) -> Figure:
  """Draws shares of each label's images: labels down, predictions across."""
  size = min(9.0, 3.5 + 0.16 * len(classes))
  figure = Figure((size + 0.6, size), layout='constrained')
  axes: Axes = figure.subplots()
  total = np.maximum(counts_KxK.sum(1, keepdims=True), 1)
  image = axes.imshow(
    counts_KxK / total, cmap='Blues', vmin=0, vmax=1, interpolation='nearest'
  )
  figure.colorbar(image, ax=axes, shrink=0.8, label="share of the label's")
  axes.set(xlabel='predicted', ylabel='label', title='Confusion')
  few = len(classes) <= _MOST_NAMES
  places = range(len(classes)) if few else []
  names = [_short(name) for name in classes] if few else []
  axes.set_xticks(places, names, rotation=90, fontsize=7)
  axes.set_yticks(places, names, fontsize=7)
  if len(classes) <= 12:
    for (row, column), count in np.ndenumerate(counts_KxK):
      dark = count > total[row, 0] / 2
      axes.text(
        column,
        row,
        f'{count}' if count else '',
        ha='center',
        va='center',
        fontsize=7,
        color='white' if dark else _INK,
      )
  return figure


def draw_reliability(confidence_N: np.ndarray, right_N: np.ndarray) -> Figure:
  """Draws accuracy against confidence in bins of equal width, and how many
  images are in each (Guo et al. 2017)."""
  bins = np.ceil(confidence_N * CALIBRATION_BINS).astype(int) - 1
  bins = np.clip(bins, 0, CALIBRATION_BINS - 1)
  count = np.bincount(bins, minlength=CALIBRATION_BINS)
  known = count > 0
  sums = (
    np.bincount(bins, values, minlength=CALIBRATION_BINS)
    for values in (confidence_N, right_N)
  )
  mean, accuracy = (total[known] / count[known] for total in sums)
  figure = Figure((4.2, 4.6), layout='constrained')
  upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
  upper.plot((0, 1), (0, 1), color='#888888', linewidth=1, linestyle='--')
  upper.plot(mean, accuracy, 'o-', color=_BLUE, markersize=4)
  gap = float((count[known] * np.abs(accuracy - mean)).sum() / count.sum())
  upper.set(
    ylabel='accuracy',
    ylim=(0, 1),
    title=f'Calibration error {gap:.1%}; dashed: none',
  )
  edges = np.arange(CALIBRATION_BINS) / CALIBRATION_BINS
  lower.bar(
    edges, count, width=1 / CALIBRATION_BINS, align='edge', color='#9db7c9'
  )
  lower.set(xlabel='confidence', ylabel='images', xlim=(0, 1))
  return figure


def _short(name: str, most: int = 16) -> str:
  return name if len(name) <= most else f'{name[: most - 1]}…'


def _csv(header: Sequence[object], lines) -> bytes:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(header)
  writer.writerows(lines)
  return text.getvalue().encode()


def _png(figure: Figure) -> bytes:
  content = io.BytesIO()
  # Without the name and version of the program: equal input, equal file.
  figure.savefig(content, format='png', dpi=150, metadata={'Software': None})
  return content.getvalue()
