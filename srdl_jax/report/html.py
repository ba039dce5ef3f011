# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML file that needs no other."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from html import escape

from srdl_jax.report import terms
from srdl_jax.report.document import (
  INK,
  PAPER,
  Cell,
  Definitions,
  Estimate,
  Figure,
  Forest,
  Heading,
  Line,
  Part,
  Section,
  Table,
)
from srdl_jax.report.page_style import CSS

# In points: on a phone it is moved, as its letters would be too small.
_WIDE = 500
# Steps between numbers on an axis, times powers of ten.
_STEPS = (1, 2, 5, 10)


def render(title: str, sections: Sequence[Section]) -> str:
  """Returns the document as HTML: what was found, contents, the rest."""
  lines = [
    '<!doctype html>',
    '<html lang="en">',
    '<head>',
    '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<title>{escape(title)}</title>',
    f'<style>{CSS}</style>',
    '</head>',
    '<body>',
    f'<h1>{escape(title)}</h1>',
  ]
  # What can be linked to; the contents stand behind what was found.
  names = {section.name for section in sections}
  for index, section in enumerate(sections):
    if index == (sections[0].name == 'found'):
      lines += _contents(sections)
    tag = f'h{section.level}'
    name, text = escape(section.name), escape(section.title)
    lines.append(f'<{tag} id="{name}">{text}</{tag}>')
    for pictures, parts in itertools.groupby(
      section.parts, lambda part: isinstance(part, Figure)
    ):
      inner = [line for part in parts for line in _part(part, names)]
      if pictures:
        inner = ['<div class="figures">', *inner, '</div>']
      lines += inner
  return '\n'.join([*lines, '</body>', '</html>', ''])


def _contents(sections: Sequence[Section]) -> Iterator[str]:
  yield '<nav aria-label="Contents"><ul>'
  for first, second in itertools.zip_longest(sections, sections[1:]):
    title = escape(first.short or first.title)
    link = f'<a href="#{escape(first.name)}">{title}</a>'
    item = '<li class="short">' if first.short else '<li>'
    # What is below a section is a list within its item.
    after = second.level if second else 2
    if after > first.level:
      yield f'{item}{link}<ul>'
    else:
      yield f'{item}{link}</li>' + '</ul></li>' * (first.level - after)
  yield '</ul></nav>'


def _text(text: str, names: set[str]) -> str:
  """Returns a text with signs of minus, and links to the rows it names."""

  def linked(found: re.Match) -> str:
    name = found[0].lower()
    return f'<a href="#{name}">{found[0]}</a>' if name in names else found[0]

  text = re.sub(r'(?<=[ \[])-(?=\d)', '−', escape(text))
  return re.sub(r'\bR\d+\b', linked, text)


def _part(part: Part, names: set[str]) -> Iterator[str]:
  if isinstance(part, str):
    yield f'<p>{_text(part, names)}</p>'
  elif isinstance(part, tuple):
    yield '<ul>'
    yield from (f'<li>{_text(line, names)}</li>' for line in part)
    yield '</ul>'
  elif isinstance(part, Table):
    yield from _table(part, names)
  elif isinstance(part, Forest):
    yield from _forest(part, names)
  elif isinstance(part, Definitions):
    yield '<dl>'
    for name, word, means in part.items:
      yield f'<dt id="{name}">{escape(word)}</dt><dd>{escape(means)}</dd>'
    yield '</dl>'
  else:
    yield from _figure(part, names)


def _forest(forest: Forest, names: set[str]) -> Iterator[str]:
  """Yields differences as lines of a table, each with its own picture."""
  yield '<table class="forest">'
  yield f'<caption>{escape(forest.title)}</caption>'
  gain = _titled('gain (points), 95 % interval', names)
  yield (
    '<thead><tr><th scope="col" class="text">compared</th><th></th>'
    f'<th scope="col">{gain}</th><th scope="col">seeds</th></tr></thead><tbody>'
  )
  low, high = forest.span

  def at(value: float) -> str:
    return f'{100 * (value - low) / (high - low):.2f}%'

  for one in forest.lines:
    cell = Cell(one.name, marks=one.marks, link=one.link)
    number, _, ends = one.text.replace('-', '−').partition(' ')
    yield (
      f'<tr><td class="text">{_cell(cell, True)}</td><td class="plot">'
      f'{"".join(_interval(one, forest.span, at))}</td><td><strong>{number}'
      f'</strong> <span>{ends}</span></td><td>{one.n}</td></tr>'
    )
  ticks = ''.join(
    f'<text x="{at(tick)}" y="0.9rem">{_signed(tick)}</text>'
    for tick in _ticks(low, high)
  )
  picture = f'<svg aria-hidden="true">{ticks}</svg>'
  yield f'<tr class="axis"><td></td><td class="plot">{picture}</td><td></td>'
  yield '<td></td></tr></tbody></table>'


def _interval(one: Estimate, span: tuple[float, float], at) -> Iterator[str]:
  """Yields the picture of a difference, in shares of its cell's width."""
  low, high = one.ends or (one.mean, one.mean)
  side = 'up' if one.ends and low > 0 else 'down' if high < 0 else ''
  side = side if one.ends else ''
  names = ' '.join(filter(None, [side, 'hollow' if one.marks else '']))
  yield f'<svg aria-hidden="true" class="{names}">'
  yield f'<line class="zero" x1="{at(0)}" x2="{at(0)}" y1="0" y2="100%"/>'
  left, right = max(low, span[0]), min(high, span[1])
  yield f'<line x1="{at(left)}" x2="{at(right)}" y1="50%" y2="50%" '
  yield 'stroke-width="2"/>'
  yield f'<circle cx="{at(one.mean)}" cy="50%" r="4" stroke-width="2"/>'
  # An interval may go on beyond the axis.
  if low < span[0]:
    yield '<text x="0" y="75%">‹</text>'
  if high > span[1]:
    yield '<text x="100%" y="75%">›</text>'
  yield '</svg>'


def _signed(number: float) -> str:
  return f'{number:+g}'.replace('-', '−') if number else '0'


def _ticks(low: float, high: float) -> Iterator[float]:
  """Yields some six round numbers between two, 0 among them."""
  rough = (high - low) / 6
  power = 10.0 ** math.floor(math.log10(rough))
  step = power * next(s for s in _STEPS if s * power >= rough)
  for number in range(math.ceil(low / step), math.floor(high / step) + 1):
    yield number * step


def _titled(title: str, names: set[str]) -> str:
  """Returns a column's title, linked to what it means."""
  term = terms.of(title)
  text = escape(title)
  return f'<a href="#{term}">{text}</a>' if 'terms' in names and term else text


def _table(table: Table, names: set[str]) -> Iterator[str]:
  yield '<div class="table"><table>'
  titles = (
    f'<th scope="col"{_class(table, column)}>{_titled(title, names)}</th>'
    for column, title in enumerate(table.header)
  )
  yield f'<thead><tr>{"".join(titles)}</tr></thead>'
  yield '<tbody>'
  for line in table.lines:
    if isinstance(line, Heading):
      yield _heading(line, len(table.header))
    else:
      yield _line(table, line)
  yield '</tbody></table></div>'
  yield from (f'<p class="note">{_text(n, names)}</p>' for n in table.notes)


def _heading(heading: Heading, columns: int) -> str:
  text = escape(heading.text)
  if heading.detail:
    text += f' <span class="detail">{escape(heading.detail)}</span>'
  return f'<tr class="heading"><td colspan="{columns}">{text}</td></tr>'


def _line(table: Table, line: Line) -> str:
  # What has no number of its own has not been run.
  blank = any(cell.strong and not cell.text for cell in line)
  cells = (
    f'<td{_class(table, column)} data-label="{escape(title)}">'
    f'{_cell(cell, column in table.texts)}</td>'
    for column, (title, cell) in enumerate(zip(table.header, line, strict=True))
  )
  return f'<tr{" class=blank" if blank else ""}>{"".join(cells)}</tr>'


def _class(table: Table, column: int) -> str:
  names = [
    name
    for name, columns in (('text', table.texts), ('theirs', table.theirs))
    if column in columns
  ]
  return f' class="{" ".join(names)}"' if names else ''


def _cell(cell: Cell, is_text: bool) -> str:
  text = escape(cell.text)
  if is_text:
    # Long paths may be broken, names of networks not.
    text = re.sub(r'[^\s/]*-[^\s/]*', r'<span>\g<0></span>', text)
    # But not the slash that ends a span of these.
    text = re.sub('/(?!span)', '/<wbr>', text)
  else:
    text = text.replace('-', '−')
  if cell.link:
    text = f'<a href="#{escape(cell.link)}">{text}</a>'
  if text and not is_text:
    tag = 'strong' if cell.strong else 'span'
    text = f'<{tag}>{text}</{tag}>'
  marks = (f'<span class="mark">{escape(mark)}</span>' for mark in cell.marks)
  return ' '.join(filter(None, [text, *marks]))


def _figure(figure: Figure, names: set[str]) -> Iterator[str]:
  """Yields a picture in the page's colours and type."""
  svg = figure.svg[figure.svg.index('<svg') :].strip()
  svg = re.sub(r'\s*<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
  svg = svg.replace(INK, 'currentColor')
  svg = svg.replace(PAPER, 'none')
  svg = re.sub(r"font-family: '[^;\"]*", 'font-family: inherit', svg)
  # Names are of one picture; the page has several.
  svg = re.sub(r'(id="|href="#|url\(#)', rf'\g<1>{figure.name}-', svg)
  width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
  wide = ' class="wide"' if width and float(width[1]) > _WIDE else ''
  label = f'role="img" aria-label="{escape(figure.alt)}"'
  yield f'<figure{wide}>'
  yield re.sub(r' width="[^"]*" height="[^"]*"', f' {label}', svg, count=1)
  yield f'<figcaption>{_text(figure.caption, names)}</figcaption>'
  yield '</figure>'
