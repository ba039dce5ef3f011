# SPDX-License-Identifier: Apache-2.0
"""Drawings: curves by epoch, schedules (Fig 3), gains, flatness (Fig 4)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from srdl_jax.flatness import KINDS, SPLITS, Flatness, groups
from srdl_jax.report import style
from srdl_jax.report.document import INK
from srdl_jax.report.run_file import Points
from srdl_jax.report.seeds import Summary

# Nats that a linear axis shows; that of a guess among 1,000 classes is 7.
_LINEAR = 25.0
_WORDS = {
  'literal': 'unit directions',
  'filter_normalised': 'filter-normalised',
  'train': 'training images',
  'test': 'test images',
  'literal axis': 'distance d',
  'filter_normalised axis': "distance, in the filters' norms",
}


@dataclasses.dataclass(frozen=True)
class Curve:
  """How the runs of a row went.

  Attributes:
    ends: epochs of the whole run at which its stages end.
    others: of each stage, whether its network isn't the last stage's.
    evaluated: accuracies beside the training, of each run, stage and epoch.
    training: accuracies of its batches, of each run, stage and epoch.
    schedule: [(epoch, rate)], from which epoch on the rate is what.
  """

  name: str
  ends: tuple[int, ...]
  others: tuple[bool, ...]
  evaluated: Sequence[Sequence[Points]]
  training: Sequence[Sequence[Points]]
  schedule: Sequence[tuple[float, float]]


@style.drawn
def learning_curves(
  curves: Sequence[Curve], evaluated: str, measured: str = 'accuracy'
) -> Figure:
  """Draws accuracies by epoch, and the learning rate under them.

  Thin lines are runs, thick ones their mean; a stage of another network than
  the last one's is dashed. Dotted lines stand where a stage ends.

  Args:
    evaluated: name of the split beside the training.
    measured: what the curve of that split shows.
  """
  rates = any(curve.schedule for curve in curves)
  heights = (2.7, 2.0, 1.2)[: 2 + rates]
  figure = Figure((8, sum(heights) + 1.0), layout='constrained')
  axes = figure.subplots(
    len(heights), sharex=True, height_ratios=heights, squeeze=False
  )[:, 0]
  colours = style.colours([curve.name for curve in curves])
  for curve, colour in zip(curves, colours, strict=True):
    _accuracies(axes[0], curve, curve.evaluated, colour)
    _accuracies(axes[1], curve, curve.training, colour)
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
  style.legend(figure, axes[0])
  return figure


def _accuracies(
  ax: Axes, curve: Curve, runs: Sequence[Sequence[Points]], colour: str
) -> None:
  for stage, other in enumerate(curve.others):
    lines = [dict(run[stage]) for run in runs if run[stage]]
    if not lines:
      continue
    look = {'color': colour, 'linestyle': '--' if other else '-'}
    for line in lines if len(lines) > 1 else []:
      ax.plot(
        list(line),
        [100 * value for value in line.values()],
        linewidth=0.6,
        alpha=0.45,
        **look,
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
      **look,
    )


def _rates(ax: Axes, curves: Sequence[Curve], colours: Sequence[str]) -> None:
  # From thick to thin, so that equal schedules are all seen.
  widths = np.linspace(min(5, 1.4 * len(curves)), 1.4, len(curves))
  for curve, colour, width in zip(curves, colours, widths, strict=True):
    _rate(ax, curve, color=colour, linewidth=width)
  ax.set_ylabel('learning rate')


def _rate(ax: Axes, curve: Curve, **look: Any) -> None:
  if curve.schedule:
    epochs, rates = zip(*curve.schedule, strict=True)
    ax.step(
      [*epochs, curve.ends[-1]], [*rates, rates[-1]], where='post', **look
    )
  ax.set_yscale('log')
  style.plain_numbers(ax.yaxis)


def _stage_ends(ax: Axes, curves: Sequence[Curve]) -> None:
  for end in sorted({end for curve in curves for end in curve.ends[:-1]}):
    ax.axvline(end, color=INK, linewidth=1, linestyle=':')


@style.drawn
def schedules(curves: Sequence[Curve]) -> Figure:
  """Draws learning rates by epoch, side by side (Figure 3)."""
  figure = Figure((8, 2.8), layout='constrained')
  axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
  colours = style.colours([curve.name for curve in curves])
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


@style.drawn
def gains(lines: Mapping[str, Mapping[int, Summary]]) -> Figure:
  """Draws gains, in points, by name and budget M, with 95 % intervals."""
  figure = Figure((8, 3.4), layout='constrained')
  ax = figure.subplots()
  ax.axhline(0, color=INK, linewidth=1)
  colours = style.colours(list(lines))
  for (name, by_budget), colour in zip(lines.items(), colours, strict=True):
    budgets = sorted(by_budget)
    means = [by_budget[budget].mean for budget in budgets]
    ends = [
      by_budget[m].interval() if by_budget[m].n > 1 else (mean, mean)
      for m, mean in zip(budgets, means, strict=True)
    ]
    ax.plot(budgets, means, color=colour, linewidth=1.8)
    ax.errorbar(
      budgets,
      means,
      np.abs(np.transpose(ends) - means),
      fmt='o',
      color=colour,
      capsize=4,
      label=name,
    )
  ticks = sorted({budget for line in lines.values() for budget in line})
  ax.set_xscale('log')
  ax.set_xticks(ticks)
  style.plain_numbers(ax.xaxis)
  ax.set_xlabel('budget M (epochs)')
  ax.set_ylabel('gain over vanilla (points)')
  if len(lines) > 1:
    style.legend(figure, ax)
  return figure


@style.drawn
def flatness(found: Flatness) -> Figure:
  """Draws losses around networks (Figure 4).

  Thick lines are means over directions and seeds, thin ones over the
  directions of one seed; bands hold 80 % of the directions.
  """
  lines = groups(found)
  # By the method's colour, whatever else a label says.
  colours = style.colours([group[0].name for group in lines.values()])
  figure = Figure((8, 6.4), layout='constrained')
  grid = figure.subplots(2, 2, sharey='row', sharex='row')
  for axes, kind in zip(grid, KINDS, strict=True):
    for ax, split in zip(axes, SPLITS, strict=True):
      for (label, group), colour in zip(lines.items(), colours, strict=True):
        curves = [network.losses[kind, split] for network in group]
        _around(ax, found.distances[kind], curves, label, colour)
      ax.set_title(f'{_WORDS[kind]}, {_WORDS[split]}')
      ax.set_xlabel(_WORDS[f'{kind} axis'])
    if _largest(kind, found) > _LINEAR:
      axes[0].set_yscale('log')
      style.plain_numbers(axes[0].yaxis)
    axes[0].set_ylabel('cross-entropy (nats)')
  style.legend(figure, grid[0][0])
  return figure


def _around(
  ax: Axes,
  distances: np.ndarray,
  curves: Sequence[np.ndarray],
  name: str,
  colour: str,
) -> None:
  directions = np.concatenate(curves)
  if len(curves) > 1:
    for curve in curves:
      ax.plot(distances, curve.mean(0), color=colour, linewidth=0.6, alpha=0.6)
  low, high = np.quantile(directions, (0.1, 0.9), axis=0)
  ax.fill_between(distances, low, high, color=colour, alpha=0.18, linewidth=0)
  # The mean of losses that aren't all finite is none: the line ends there.
  ax.plot(
    distances, directions.mean(0), color=colour, linewidth=1.8, label=name
  )


def _largest(kind: str, found: Flatness) -> float:
  """Returns the largest mean loss, of those that are finite."""
  means = [n.losses[kind, s].mean(0) for n in found.networks for s in SPLITS]
  # With the 0, as there may be none, of which nanmax is NaN.
  return float(np.nanmax(np.concatenate([*means, [0.0]])))
