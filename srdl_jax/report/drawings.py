# SPDX-License-Identifier: Apache-2.0
"""Drawings: curves by epoch, schedules (Fig 3), gains, flatness (Fig 4)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from srdl_jax.flatness import KINDS, SPLITS, Flatness, groups
from srdl_jax.report import arena, style
from srdl_jax.report.document import INK, PAPER
from srdl_jax.report.rows import ReportRow
from srdl_jax.report.run_file import TRAIN, Points
from srdl_jax.report.seeds import Summary

GAIN, LOSS = style.COLOURS[1:3]
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


@style.drawn
def learning_curves(
  rows: Mapping[str, ReportRow], evaluated: str, measured: str = 'accuracy'
) -> Figure:
  """Draws accuracies by epoch, and the learning rate under them.

  Thin lines are runs, thick ones their mean; a stage of another network than
  the last one's is dashed. Dotted lines stand where a stage ends.

  Args:
    rows: by name; each has curves.
    evaluated: name of the split beside the training.
    measured: what the curve of that split shows.
  """
  rates = any(row.schedule for row in rows.values())
  heights = (2.7, 2.0, 1.2)[: 2 + rates]
  figure = Figure((8, sum(heights) + 1.0), layout='constrained')
  axes = figure.subplots(len(heights), sharex=True, height_ratios=heights)
  colours = style.colours(list(rows))
  for (name, row), colour in zip(rows.items(), colours, strict=True):
    evaluations = [its[row.runs[n].best_split] for n, its in row.curves.items()]
    training = [its[TRAIN] for its in row.curves.values()]
    _accuracies(axes[0], row, evaluations, name, colour)
    _accuracies(axes[1], row, training, name, colour)
  axes[0].set_ylabel(f'{evaluated} {measured} (%)')
  axes[1].set_ylabel('training accuracy (%)')
  if rates:
    # From thick to thin, so that equal schedules are all seen.
    widths = np.linspace(min(5, 1.4 * len(rows)), 1.4, len(rows))
    for row, colour, width in zip(rows.values(), colours, widths, strict=True):
      _rate(axes[2], row, color=colour, linewidth=width)
    axes[2].set_ylabel('learning rate')
  for ax in axes:
    _stage_ends(ax, rows.values())
  axes[-1].set_xlabel('epoch, over all stages')
  axes[-1].xaxis.set_major_locator(MaxNLocator(9, integer=True))
  # The last points, at the very end, are seen whole.
  axes[-1].set_xlim(0, 1.01 * max(row.ends[-1] for row in rows.values()))
  style.legend(figure, axes[0])
  return figure


def _accuracies(
  ax: Axes, row: ReportRow, runs: list[list[Points]], name: str, colour: str
) -> None:
  last = row.first.stages[-1]
  for index, stage in enumerate(row.first.stages):
    lines = [dict(run[index]) for run in runs if run[index]]
    if not lines:
      continue
    same = stage.model == last.model
    look = {'color': colour, 'linestyle': '-' if same else '--'}
    for line in lines if len(lines) > 1 else []:
      percents = [100 * value for value in line.values()]
      ax.plot(line.keys(), percents, linewidth=0.6, alpha=0.45, **look)
    epochs = sorted(set.intersection(*map(set, lines)))
    ax.plot(
      epochs,
      # Of damaged logs they may overflow, of which a NumPy float would warn.
      [100 * float(np.mean([line[e] for line in lines])) for e in epochs],
      linewidth=1.8,
      marker='o' if len(epochs) < 10 else '',
      markersize=3,
      label=name if stage is last else None,
      **look,
    )


def _rate(ax: Axes, row: ReportRow, **look: Any) -> None:
  if row.schedule:
    epochs, rates = zip(*row.schedule, strict=True)
    ax.step([*epochs, row.ends[-1]], [*rates, rates[-1]], where='post', **look)
  ax.set_yscale('log')
  style.plain_numbers(ax.yaxis)


def _stage_ends(ax: Axes, rows: Iterable[ReportRow]) -> None:
  for end in sorted({end for row in rows for end in row.ends[:-1]}):
    ax.axvline(end, color=INK, linewidth=1, linestyle=':')


@style.drawn
def schedules(rows: Mapping[str, ReportRow]) -> Figure:
  """Draws learning rates by epoch, side by side (Figure 3)."""
  figure = Figure((8, 2.8), layout='constrained')
  axes = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
  colours = style.colours(list(rows))
  for ax, (name, row), colour in zip(axes, rows.items(), colours, strict=True):
    _rate(ax, row, color=colour, linewidth=2)
    _stage_ends(ax, [row])
    ax.set_title(name)
    ax.set_xlim(0, row.ends[-1])
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
    means = [by_budget[m].mean for m in budgets]
    ends = [by_budget[m].interval() for m in budgets]
    ax.plot(budgets, means, color=colour, linewidth=1.8)
    ax.errorbar(
      budgets,
      means,
      # A bar of no length where there is one seed.
      np.nan_to_num(np.abs(np.transpose(ends) - means)),
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
def forest(gains: Sequence[arena.Gain]) -> Figure:
  """Draws a line a gain: its mean, in points, and its 95 % interval."""
  figure = Figure((8, 1.2 + 0.27 * len(gains)), layout='constrained')
  ax = figure.subplots()
  ax.axvline(0, color=INK, linewidth=1)
  looks = zip(arena.KINDS, ('o', 'D', 's', '^'), style.KINDS, strict=True)
  for kind, marker, colour in looks:
    some = [(n, g.points) for n, g in enumerate(gains) if g.kind == kind]
    if some:
      places, points = zip(*some, strict=True)
      means = [one.mean for one in points]
      ends = [one.interval() for one in points]
      ax.errorbar(
        means,
        places,
        # A bar of no length where there is one seed.
        xerr=np.nan_to_num(np.abs(np.transpose(ends) - means)),
        fmt=marker,
        color=colour,
        capsize=3,
        label=kind,
      )
  ax.set_yticks(
    range(len(gains)), [f'{g.name} (n = {g.points.n})' for g in gains]
  )
  ax.set_ylim(len(gains) - 0.4, -0.6)
  ax.set_xlabel('gain over vanilla (points)')
  style.legend(figure, ax)
  return figure


@style.drawn
def crossing(cells: Mapping[tuple[int, int], Summary]) -> Figure:
  """Draws gains, in points, as a map over (images of a class, budget M)."""
  counts, budgets = (sorted(set(axis)) for axis in zip(*cells, strict=True))
  if 0 in counts:  # All images, more than any number of them.
    counts = [*counts[1:], 0]
  size = (1.2 + 1.7 * len(budgets), 1.0 + 0.8 * len(counts))
  figure = Figure(size, layout='constrained')
  ax = figure.subplots()
  most = max(abs(gain.mean) for gain in cells.values()) or 1.0
  for (images, budget), gain in cells.items():
    x, y = budgets.index(budget), counts.index(images)
    low, high = gain.interval()
    told = f'{gain.mean:+.1f}\n'
    told += f'[{low:+.1f}, {high:+.1f}]' if gain.n > 1 else '(one seed)'
    sure = low > 0 or high < 0
    colour = (GAIN if gain.mean > 0 else LOSS) if sure else INK
    shade = 0.15 + 0.45 * abs(gain.mean) / most if sure else 0.06
    ax.add_patch(
      Rectangle(
        (x - 0.5, y - 0.5), 1, 1, fc=colour, alpha=shade, ec=PAPER, lw=2
      )
    )
    ax.text(x, y, f'{told}\nn = {gain.n}', ha='center', va='center', size=9)
  ax.set_xticks(range(len(budgets)), budgets)
  ax.set_yticks(range(len(counts)), [n or 'all' for n in counts])
  ax.set_xlim(-0.5, len(budgets) - 0.5)
  ax.set_ylim(-0.5, len(counts) - 0.5)
  ax.grid(visible=False)
  ax.set_xlabel('budget M (epochs)')
  ax.set_ylabel('images of a class')
  return figure


@style.drawn
def over_noise(
  panels: Mapping[int, Mapping[str, Mapping[float, Summary]]],
  linestyles: Mapping[str, str],
) -> Figure:
  """Draws gains, in points, by budget M, name and share of wrong labels.

  Args:
    linestyles: of the lines of some names; the control's is '--'.
  """
  figure = Figure((8, 3.8), layout='constrained')
  axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  names = list(dict.fromkeys(n for lines in panels.values() for n in lines))
  methods = [name for name in names if linestyles.get(name) != '--']
  colours = dict(zip(methods, style.colours(methods), strict=True))
  for ax, (budget, lines) in zip(axes, panels.items(), strict=True):
    ax.axhline(0, color=INK, linewidth=1)
    for name in names:
      # A name that is missing here is in the legend all the same.
      found = [one for _, one in sorted(lines.get(name, {}).items())]
      percents = [100 * share for share in sorted(lines.get(name, {}))]
      look = {'color': colours.get(name, style.COLOURS[0])}
      low, high = np.reshape([one.interval() for one in found], (-1, 2)).T
      ax.fill_between(percents, low, high, alpha=0.1, linewidth=0, **look)
      # Where bands lie on each other, their rims tell them apart.
      for rim in (low, high):
        ax.plot(percents, rim, linewidth=0.6, alpha=0.6, **look)
      ax.plot(
        percents,
        [one.mean for one in found],
        linestyle=linestyles.get(name, '-'),
        marker='o',
        label=name,
        **look,
      )
    ax.set_xticks(sorted({100 * s for line in lines.values() for s in line}))
    ax.set_title(f'M = {budget}')
    ax.set_xlabel('wrong labels (%)')
  axes[0].set_ylabel('gain over vanilla (points)')
  style.legend(figure, axes[0])
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
    means = [n.losses[kind, s].mean(0) for n in found.networks for s in SPLITS]
    # Of those that are finite, if any: fmax passes over NaN.
    if np.fmax.reduce(means, axis=None, initial=0) > _LINEAR:
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


@style.drawn
def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
  """Draws numbers of images by label and prediction, [K, K]."""
  size = 1.6 + 0.36 * len(names)
  figure = Figure((size, size), layout='constrained')
  ax = figure.subplots()
  for (label, guess), count in np.ndenumerate(counts):
    if not count:
      continue
    colour = GAIN if label == guess else LOSS
    share = count / counts[label].sum()
    place = (guess - 0.5, label - 0.5)
    ax.add_patch(Rectangle(place, 1, 1, fc=colour, alpha=0.08 + 0.5 * share))
    ax.text(guess, label, count, ha='center', va='center', size=8)
  places = range(len(names))
  ax.set_xticks(places, names, rotation=90)
  ax.set_yticks(places, names)
  ax.set_xlim(-0.5, len(names) - 0.5)
  ax.set_ylim(len(names) - 0.5, -0.5)
  ax.grid(visible=False)
  ax.set_xlabel('predicted')
  ax.set_ylabel('label')
  return figure


@style.drawn
def calibration(bins: np.ndarray) -> Figure:
  """Draws accuracy by confidence, and how many images are in each bin.

  Args:
    bins: [n, 3], images, sums of confidence, right ones.
  """
  figure = Figure((5.6, 5.2), layout='constrained')
  upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
  images, confidence, right = bins[bins[:, 0] > 0].T
  upper.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle='--')
  upper.plot(
    confidence / images, right / images, 'o-', color=GAIN, markersize=4
  )
  upper.set(ylabel='accuracy', ylim=(0, 1))
  edges = np.arange(len(bins)) / len(bins)
  width = 1 / len(bins)
  lower.bar(edges, bins[:, 0], width, align='edge', color=style.COLOURS[0])
  lower.set(xlabel='confidence', ylabel='images', xlim=(0, 1))
  return figure
