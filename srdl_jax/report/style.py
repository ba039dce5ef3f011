# SPDX-License-Identifier: Apache-2.0
"""How every picture of the report looks: colours, type, SVG."""

import functools
import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from srdl_jax.report.document import INK, PAPER

P = ParamSpec('P')
# A grey, and Okabe and Ito's, which the colour-blind tell apart.
COLOURS = (
  '#7a7a7a',
  '#0072b2',
  '#d55e00',
  '#009e73',
  '#cc79a7',
  '#e69f00',
  '#56b4e9',
)
_METHODS = ('vanilla', 'srdl')
# Of what is compared in a forest plot, by arena.KINDS.
KINDS = (COLOURS[1], COLOURS[0], COLOURS[5], COLOURS[2])
_STYLE = {
  # Letters stay text, so that a page's type and readers reach them.
  'svg.fonttype': 'none',
  # Names may hold a dollar.
  'text.parse_math': False,
  # Without it, names within a file are random.
  'svg.hashsalt': 'srdl_jax',
  'font.family': 'sans-serif',
  'font.sans-serif': ['DejaVu Sans'],
  'font.size': 10,
  'axes.titlesize': 10,
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'figure.facecolor': PAPER,
  'axes.facecolor': 'none',
  'axes.grid': True,
  'axes.edgecolor': INK,
  'axes.labelcolor': INK,
  'text.color': INK,
  'xtick.color': INK,
  'ytick.color': INK,
  'grid.color': '#888888',
  'grid.alpha': 0.25,
  'legend.frameon': False,
  'lines.solid_capstyle': 'round',
}


def drawn(draw: Callable[P, Figure]) -> Callable[P, str]:
  """Makes a function that draws a figure return it as SVG.

  The text is the same each time, without a date.
  """

  @functools.wraps(draw)
  def as_svg(*args: P.args, **kwargs: P.kwargs) -> str:
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
      draw(*args, **kwargs).savefig(
        file,
        format='svg',
        metadata={'Date': None, 'Creator': None},
      )
    return _smaller(file.getvalue())

  return as_svg


def _smaller(svg: str) -> str:
  # Hundredths of a point are enough, and most names are never referred to.
  svg = re.sub(
    r' d="[^"]*"',
    lambda path: re.sub(r'(\d\.\d\d)\d+', r'\1', path[0]).replace('\n', ''),
    svg,
  )
  return re.sub(
    r' id="([^"]+)"', lambda id: id[0] if f'#{id[1]}' in svg else '', svg
  )


def colours(names: Sequence[str]) -> list[str]:
  """Returns a colour for each line: vanilla and SRDL have the same always.

  Args:
    names: of the lines; the method is what stands behind the last comma.
  """
  methods = [name.rpartition(', ')[2].lower() for name in names]
  rest = itertools.cycle(COLOURS[len(_METHODS) :])
  return [
    COLOURS[_METHODS.index(method)]
    if method in _METHODS and method not in methods[:n]
    else next(rest)
    for n, method in enumerate(methods)
  ]


def plain_numbers(axis: Axis) -> None:
  """Writes 0.001 where a logarithmic axis would write a power."""
  axis.set_major_formatter(lambda value, _: f'{value:g}')
  axis.minorticks_off()


def legend(figure: Figure, ax: Axes) -> None:
  """Puts the names of an axes' lines above the figure."""
  handles, labels = ax.get_legend_handles_labels()
  columns = 100 // (max(map(len, labels), default=0) + 8)
  figure.legend(handles, labels, loc='outside upper left', ncols=columns or 1)
