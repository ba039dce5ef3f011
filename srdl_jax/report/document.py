# SPDX-License-Identifier: Apache-2.0
"""What a report consists of, whatever it is written as; and Markdown."""

import dataclasses
from collections.abc import Sequence

# Of what is no data in a figure, and what it stands on; a page may replace them
# by its own.
INK = '#1f2328'
PAPER = '#ffffff'


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell of a table.

  Attributes:
    text: '' is blank.
    strong: whether it is what the row is about.
    marks: what a reader must not overlook about it, each in a few words.
    link: name of what it refers to, '' for nothing.
  """

  text: str = ''
  strong: bool = False
  marks: tuple[str, ...] = ()
  link: str = ''


@dataclasses.dataclass(frozen=True)
class Heading:
  """A line across a table.

  Attributes:
    detail: in smaller type behind it.
  """

  text: str
  detail: str = ''


Line = tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Table:
  """A table.

  Attributes:
    lines: each a cell a column, or a heading.
    texts: columns, from 0, that hold text; the others hold numbers.
    theirs: columns that hold others' numbers.
  """

  header: tuple[str, ...]
  lines: tuple[Line | Heading, ...]
  notes: tuple[str, ...] = ()
  texts: tuple[int, ...] = (0,)
  theirs: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Figure:
  """A picture.

  Attributes:
    name: of its file, without '.svg'.
    svg: a whole SVG file.
    alt: what it shows, for those who don't see it.
  """

  name: str
  svg: str
  alt: str
  caption: str


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A difference with its interval, in points.

  Attributes:
    name: of what is compared, with what.
    ends: of the interval; None where there is one seed.
    n: seeds that both have.
    marks: see `Cell`.
    link: see `Cell`.
  """

  name: str
  mean: float
  ends: tuple[float, float] | None
  n: int
  marks: tuple[str, ...] = ()
  link: str = ''

  @property
  def text(self) -> str:
    """As '+1.2 [+0.3, +2.1]'."""
    ends = '[{:+.1f}, {:+.1f}]'.format(*self.ends) if self.ends else ''
    return f'{self.mean:+.1f} {ends}'.strip()


@dataclasses.dataclass(frozen=True)
class Forest:
  """Differences of one group, each a line of a forest plot.

  Attributes:
    title: what they have in common.
    span: ends of the axis, which several plots share.
    figure: the plot as a picture; None draws none.
  """

  title: str
  lines: tuple[Estimate, ...]
  span: tuple[float, float]
  figure: Figure | None = None


@dataclasses.dataclass(frozen=True)
class Definitions:
  """Words and what they mean: (name that links refer to, word, meaning)."""

  items: tuple[tuple[str, str, str], ...]


# A paragraph, a list of lines, a table or a picture.
Part = str | tuple[str, ...] | Table | Figure | Forest | Definitions


@dataclasses.dataclass(frozen=True)
class Section:
  """A part with a title.

  Attributes:
    name: that links refer to; no other section has it.
    level: 2 for the largest, 3 for one below it.
    short: title in the contents, where it isn't the whole.
  """

  name: str
  title: str
  parts: tuple[Part, ...]
  level: int = 2
  short: str = ''


def figures(sections: Sequence[Section]) -> list[Figure]:
  """Returns all figures, in their order."""
  parts = (part for section in sections for part in section.parts)
  drawn = (p.figure if isinstance(p, Forest) else p for p in parts)
  return [part for part in drawn if isinstance(part, Figure)]


def markdown(
  title: str, sections: Sequence[Section], figures: str | None
) -> str:
  """Returns the document in Markdown.

  Args:
    figures: folder, relative to the file, where its SVG files are; None leaves
      figures out.
  """
  blocks = [f'# {_plain(title)}']
  for section in sections:
    blocks.append(f'{"#" * section.level} {_plain(section.title)}')
    for part in section.parts:
      blocks += _blocks(part, figures)
  return '\n\n'.join(blocks) + '\n'


def _blocks(part: Part, figures: str | None) -> list[str]:
  if isinstance(part, str):
    return [_plain(part)]
  if isinstance(part, tuple):
    return ['\n'.join(f'- {_plain(line)}' for line in part)]
  if isinstance(part, Table):
    return [_table(part), *map(_plain, part.notes)]
  if isinstance(part, Definitions):
    told = (f'- **{_plain(w)}**: {_plain(means)}' for _, w, means in part.items)
    return ['\n'.join(told)]
  if isinstance(part, Forest):
    picture = _blocks(part.figure, figures) if part.figure else []
    return [f'**{_plain(part.title)}**', _forest(part), *picture]
  if figures is None:
    return []
  image = f'![{_plain(part.alt)}]({figures}/{part.name}.svg)'
  return [image, _plain(part.caption)]


def _forest(forest: Forest) -> str:
  header = ('compared', 'gain (points), 95 % interval', 'seeds')
  lines = (
    (Cell(one.name, marks=one.marks), Cell(one.text), Cell(f'{one.n}'))
    for one in forest.lines
  )
  return _table(Table(header, tuple(lines)))


def _table(table: Table) -> str:
  rules = [
    '---' if column in table.texts else '--:'
    for column in range(len(table.header))
  ]
  lines = [_line(map(_plain, table.header)), _line(rules)]
  for line in table.lines:
    if isinstance(line, Heading):
      detail = f' {_plain(line.detail)}' if line.detail else ''
      cells = [f'**{_plain(line.text)}**{detail}']
      cells += [''] * (len(table.header) - 1)
    else:
      cells = [_cell(cell) for cell in line]
    lines.append(_line(cells))
  return '\n'.join(lines)


def _cell(cell: Cell) -> str:
  text = _plain(cell.text)
  if cell.strong and text:
    text = f'**{text}**'
  return ', '.join(filter(None, [text, *map(_plain, cell.marks)]))


def _line(cells) -> str:
  return f'| {" | ".join(cells)} |'


def _plain(text: str) -> str:
  """Returns text that Markdown shows as it is, on one line."""
  text = ' '.join(text.split())
  for sign in '\\`*<|':
    text = text.replace(sign, f'\\{sign}')
  return text
