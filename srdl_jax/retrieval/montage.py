# SPDX-License-Identifier: Apache-2.0
"""A picture of rankings: queries, and what was found nearest to them."""

import io
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from srdl_jax import storage
from srdl_jax.errors import ConfigError
from srdl_jax.retrieval.metrics import Nearest

Images = np.ndarray | Callable[[int], np.ndarray]
# Of Okabe and Ito's colours, which the colour-blind tell apart; dashes and
# marks say the same without colour.
RIGHT = {'edgecolor': '#0072b2', 'linestyle': '-'}
WRONG = {'edgecolor': '#d55e00', 'linestyle': (0, (2.5, 1.5))}
QUERY = {'edgecolor': '#1f2328', 'linestyle': '-'}
MARKS = {True: '✓', False: '✗'}
# What is behind an image's height and width.
_DEEP = ((), (1,), (3,), (4,))
# Inches.
_WIDTH, _TITLE, _MARGIN = 0.9, 0.3, 0.15


def montage(
  path: pathlib.Path,
  query_images: Images,
  gallery_images: Images,
  rankings: Mapping[int, Nearest],
) -> None:
  """Writes what `draw` draws to a PNG file, which is replaced at once.

  Raises:
    ConfigError: there is no query to show, or the name isn't that of a PNG.
    WorkdirError: the file can't be written.
  """
  if path.suffix.lower() != '.png':
    raise ConfigError(f'{path}: give a name that ends in .png.')
  content = io.BytesIO()
  figure = draw(query_images, gallery_images, rankings)
  # Without the name and version of the program: equal input, equal file.
  figure.savefig(content, format='png', dpi=150, metadata={'Software': None})
  storage.replace(path, content.getvalue())


def draw(
  query_images: Images, gallery_images: Images, rankings: Mapping[int, Nearest]
) -> Figure:
  """Draws each query with its nearest items on its right.

  Args:
    query_images, gallery_images: uint8 [n, H, W, C], or a function of the row
      that returns one; they may differ in size.
    rankings: by the query's row (see `retrieval.nearest`): what is removed for
      a query isn't in them.

  Raises:
    ConfigError: there is no query to show.
  """
  if not rankings:
    raise ConfigError('There is no query to show.')
  columns = max(len(ranking.items) for ranking in rankings.values()) + 1
  first = _image(query_images, next(iter(rankings)))
  height = _WIDTH * first.shape[0] / first.shape[1] + _TITLE
  size = (columns * _WIDTH + 2 * _MARGIN, len(rankings) * height + 2 * _TITLE)
  figure = Figure(figsize=(max(size[0], 5), size[1]), layout='constrained')
  axes = figure.subplots(len(rankings), columns, squeeze=False)
  for row, (query, ranking) in zip(axes, rankings.items(), strict=True):
    _show(row[0], _image(query_images, query), f'query {query}', QUERY)
    found = zip(ranking.items.tolist(), ranking.right.tolist(), strict=True)
    for n, (item, right) in enumerate(found, start=1):
      title, frame = f'{n} {MARKS[right]}', RIGHT if right else WRONG
      _show(row[n], _image(gallery_images, item), title, frame)
    for empty in row[len(ranking.items) + 1 :]:
      empty.set_axis_off()
  figure.supxlabel(
    f'{MARKS[True]} solid blue: the same identity    '
    f'{MARKS[False]} dashed orange: another',
    fontsize=8,
  )
  return figure


def _image(images: Images, row: int) -> np.ndarray:
  image = np.asarray(images(row) if callable(images) else images[row])
  if image.ndim not in (2, 3) or not image.size or image.shape[2:] not in _DEEP:
    raise ConfigError(
      f'An image of shape {image.shape} cannot be drawn: [H, W], or [H, W, C] '
      'with 1, 3 or 4 channels, is needed.'
    )
  return image


def _show(ax: Axes, image: np.ndarray, title: str, frame: dict) -> None:
  ax.imshow(image, cmap='gray', vmin=0, vmax=255)
  ax.set(xticks=[], yticks=[])
  ax.set_title(title, fontsize=8, color=frame['edgecolor'])
  for spine in ax.spines.values():
    # Other ends of dashes would fill the gaps between them.
    spine.set(linewidth=2.5, capstyle='butt', **frame)
