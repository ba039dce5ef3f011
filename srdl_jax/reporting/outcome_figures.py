# SPDX-License-Identifier: Apache-2.0
"""What runs found: gains by budget, losses around networks, as SVG."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from srdl_jax.reporting import figures
from srdl_jax.reporting.document import INK
from srdl_jax.reporting.flatness_file import KINDS, SPLITS, Flatness
from srdl_jax.reporting.flatness_groups import groups
from srdl_jax.seeds import Summary


@figures.drawn
def gains(lines: Mapping[str, Mapping[int, Summary]]) -> Figure:
  """Draws gains by budget, with 95 % intervals.

  Args:
    lines: by name, the gain by budget M, in points.
  """
  figure = Figure((8, 3.4), layout='constrained')
  ax = figure.subplots()
  ax.axhline(0, color=INK, linewidth=1)
  colours = figures.colours(list(lines))
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
  figures.plain_numbers(ax.xaxis)
  ax.set_xlabel('budget M (epochs)')
  ax.set_ylabel('gain over vanilla (points)')
  if len(lines) > 1:
    figures.legend(figure, ax)
  return figure


@figures.drawn
def flatness(found: Flatness) -> Figure:
  """Draws losses around networks (Figure 4).

  Thick lines are means over directions and seeds, thin ones over the
  directions of one seed; bands hold 80 % of the directions.
  """
  lines = groups(found)
  # By the method's colour, whatever else a label says.
  colours = figures.colours([group[0].name for group in lines.values()])
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
      figures.plain_numbers(axes[0].yaxis)
    axes[0].set_ylabel('cross-entropy (nats)')
  figures.legend(figure, grid[0][0])
  return figure


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
  return float(np.nanmax(np.concatenate([*means, [0.0]])))
