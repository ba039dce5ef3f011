# SPDX-License-Identifier: Apache-2.0
"""How runs went: accuracies by epoch, learning rates (Figure 3), as SVG."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from srdl_jax.reporting import figures
from srdl_jax.reporting.curve_file import Points
from srdl_jax.reporting.document import INK


@dataclasses.dataclass(frozen=True)
class Curve:
  """How the runs of a row went.

  Attributes:
    name: of the row.
    ends: epochs of the whole run at which its stages end.
    others: of each stage, whether its network isn't the last stage's.
    accuracies: by split, of each run, of each stage, by epoch.
    schedule: [(epoch, rate)], from which epoch on the rate is what.
  """

  name: str
  ends: tuple[int, ...]
  others: tuple[bool, ...]
  accuracies: Mapping[str, Sequence[Sequence[Points]]]
  schedule: Sequence[tuple[float, float]]


@figures.drawn
def learning_curves(
  curves: Sequence[Curve], evaluated: str, measured: str = 'accuracy'
) -> Figure:
  """Draws accuracies by epoch, and the learning rate under them.

  Thin lines are runs, thick ones their mean; a stage of another network than
  the last one's is dashed. Dotted lines stand where a stage ends.

  Args:
    curves: a colour each.
    evaluated: the split beside 'train_epoch', 'test' or 'validation'.
    measured: what the curve of that split shows.
  """
  rates = any(curve.schedule for curve in curves)
  heights = (2.7, 2.0, 1.2)[: 2 + rates]
  figure = Figure((8, sum(heights) + 1.0), layout='constrained')
  axes = figure.subplots(
    len(heights), sharex=True, height_ratios=heights, squeeze=False
  )[:, 0]
  colours = figures.colours([curve.name for curve in curves])
  for split, ax in zip((evaluated, 'train_epoch'), axes, strict=False):
    for curve, colour in zip(curves, colours, strict=True):
      _accuracies(ax, curve, split, colour)
  axes[0].set_ylabel(f'{evaluated} {measured} (%)')
  axes[1].set_ylabel('training accuracy (%)')
  if rates:
    _rates(axes[2], curves, colours)
  for ax in axes:
    _stage_ends(ax, curves)
  axes[-1].set_xlabel('epoch, over all stages')
  axes[-1].xaxis.set_major_locator(MaxNLocator(9, integer=True))
  # The last points, at the very end, are seen whole.
  axes[-1].set_xlim(0, 1.01 * max(curve.ends[-1] for curve in curves))
  figures.legend(figure, axes[0])
  return figure


def _accuracies(ax: Axes, curve: Curve, split: str, colour: str) -> None:
  runs = curve.accuracies[split]
  for stage, other in enumerate(curve.others):
    lines = [dict(run[stage]) for run in runs if run[stage]]
    if not lines:
      continue
    style = {'color': colour, 'linestyle': '--' if other else '-'}
    for line in lines if len(lines) > 1 else []:
      ax.plot(
        list(line),
        [100 * value for value in line.values()],
        linewidth=0.6,
        alpha=0.45,
        **style,
      )
    epochs = sorted(set.intersection(*map(set, lines)))
    means = [100 * float(np.mean([line[e] for line in lines])) for e in epochs]
    ax.plot(
      epochs,
      means,
      linewidth=1.8,
      marker='o' if len(epochs) < 10 else '',
      markersize=3,
      label=curve.name if stage == len(curve.ends) - 1 else None,
      **style,
    )


def _rates(ax: Axes, curves: Sequence[Curve], colours: Sequence[str]) -> None:
  # From thick to thin, so that equal schedules are all seen.
  widths = np.linspace(min(5, 1.4 * len(curves)), 1.4, len(curves))
  for curve, colour, width in zip(curves, colours, widths, strict=True):
    _rate(ax, curve, color=colour, linewidth=width)
  ax.set_ylabel('learning rate')


def _rate(ax: Axes, curve: Curve, **style: Any) -> None:
  if curve.schedule:
    epochs, rates = zip(*curve.schedule, strict=True)
    ax.step(
      [*epochs, curve.ends[-1]], [*rates, rates[-1]], where='post', **style
    )
  ax.set_yscale('log')
  figures.plain_numbers(ax.yaxis)


def _stage_ends(ax: Axes, curves: Sequence[Curve]) -> None:
  for end in sorted({end for curve in curves for end in curve.ends[:-1]}):
    ax.axvline(end, color=INK, linewidth=1, linestyle=':')


@figures.drawn
def schedules(curves: Sequence[Curve]) -> Figure:
  """Draws learning rates by epoch, side by side (Figure 3)."""
  figure = Figure((8, 2.8), layout='constrained')
  axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
  colours = figures.colours([curve.name for curve in curves])
  for ax, curve, colour in zip(axes, curves, colours, strict=True):
    _rate(ax, curve, color=colour, linewidth=2)
    _stage_ends(ax, [curve])
    ax.set_title(curve.name)
    ax.set_xlim(0, curve.ends[-1])
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel('epoch')
  axes[0].set_ylabel('learning rate')
  figure.get_layout_engine().set(wspace=0.06)
  return figure
