# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML file that needs no other."""

import itertools
import re
from collections.abc import Iterator, Sequence
from html import escape

from srdl_jax.report.document import (
  INK,
  PAPER,
  Cell,
  Figure,
  Heading,
  Line,
  Part,
  Section,
  Table,
)

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1f2328; --soft: #59636e; --rule: #d1d9e0; --band: #f3f5f7;
  --link: #0059b3; --mark: #7a4b00; --mark-band: #fff1d6; --page: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e8eb; --soft: #a0a8b1; --rule: #3d444d; --band: #23282e;
    --link: #6cb2ff; --mark: #ffce80; --mark-band: #46340f; --page: #171a1e;
  }
}
body {
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Liberation Sans", sans-serif;
  color: var(--ink); background: var(--page);
  max-width: 84rem; margin: 0 auto; padding: 1.5rem;
}
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { font-size: 1.35rem; margin: 3rem 0 .75rem; padding-top: 1rem;
  border-top: 2px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; }
p, li { max-width: 46rem; }
p { margin: .5rem 0 .75rem; }
a { color: var(--link); text-decoration-thickness: 1px; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav > ul { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; }
nav ul ul { font-size: .9rem; }
.table { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
td > span, td > strong, td > a { white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom;
  border-bottom: 2px solid var(--rule); }
.text { text-align: left; }
td.text:first-child { min-width: 13rem; }
.theirs, .blank, .note, .detail, figcaption { color: var(--soft); }
th.theirs { font-weight: 400; }
.heading td { background: var(--band); font-weight: 600; text-align: left; }
.detail { font-weight: 400; font-size: .8125rem; white-space: normal; }
.note { font-size: .875rem; margin: .25rem 0; }
.mark { font-size: .75rem; padding: .05rem .35rem; border-radius: .25rem;
  color: var(--mark); background: var(--mark-band); white-space: nowrap; }
:target td { background: var(--mark-band); }
.figures { display: grid; gap: 1.5rem 2.5rem; margin: 1rem 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(36rem, 100%), 1fr)); }
figure { margin: 0; max-width: 50rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: .875rem; margin-top: .4rem; }
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  :root { --ink: #000; --soft: #444; --rule: #bbb; --band: #eee;
    --link: #000; --mark: #000; --mark-band: #eee; --page: #fff; }
  html { font-size: 9pt; }
  body { font-size: 1rem; padding: 0; max-width: none; }
  th, td { padding: .15rem .35rem; }
  td.text:first-child { min-width: 0; }
  .figures { grid-template-columns: 1fr 1fr; }
  .table { overflow: visible; }
  tr, figure { break-inside: avoid; }
  h2, h3, h3 + p { break-after: avoid; }
}
"""


def render(title: str, sections: Sequence[Section]) -> str:
  """Returns the document as HTML."""
  lines = [
    '<!doctype html>',
    '<html lang="en">',
    '<head>',
    '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<title>{escape(title)}</title>',
    f'<style>{_STYLE}</style>',
    '</head>',
    '<body>',
    f'<h1>{escape(title)}</h1>',
    *_contents(sections),
  ]
  for section in sections:
    tag = f'h{section.level}'
    name, text = escape(section.name), escape(section.title)
    lines.append(f'<{tag} id="{name}">{text}</{tag}>')
    for pictures, parts in itertools.groupby(
      section.parts, lambda part: isinstance(part, Figure)
    ):
      inner = [line for part in parts for line in _part(part)]
      if pictures:
        inner = ['<div class="figures">', *inner, '</div>']
      lines += inner
  return '\n'.join([*lines, '</body>', '</html>', ''])


def _contents(sections: Sequence[Section]) -> Iterator[str]:
  yield '<nav aria-label="Contents"><ul>'
  for first, second in itertools.zip_longest(sections, sections[1:]):
    link = f'<a href="#{escape(first.name)}">{escape(first.title)}</a>'
    # What is below a section is a list within its item.
    after = second.level if second else 2
    if after > first.level:
      yield f'<li>{link}<ul>'
    else:
      yield f'<li>{link}</li>' + '</ul></li>' * (first.level - after)
  yield '</ul></nav>'


def _part(part: Part) -> Iterator[str]:
  if isinstance(part, str):
    yield f'<p>{escape(part)}</p>'
  elif isinstance(part, tuple):
    yield '<ul>'
    yield from (f'<li>{escape(line)}</li>' for line in part)
    yield '</ul>'
  elif isinstance(part, Table):
    yield from _table(part)
  else:
    yield from _figure(part)


def _table(table: Table) -> Iterator[str]:
  yield '<div class="table"><table>'
  names = (
    f'<th scope="col"{_class(table, column)}>{escape(name)}</th>'
    for column, name in enumerate(table.header)
  )
  yield f'<thead><tr>{"".join(names)}</tr></thead>'
  yield '<tbody>'
  for line in table.lines:
    if isinstance(line, Heading):
      yield _heading(line, len(table.header))
    else:
      yield _line(table, line)
  yield '</tbody></table></div>'
  yield from (f'<p class="note">{escape(note)}</p>' for note in table.notes)


def _heading(heading: Heading, columns: int) -> str:
  name = f' id="{escape(heading.name)}"' if heading.name else ''
  text = escape(heading.text)
  if heading.detail:
    text += f' <span class="detail">{escape(heading.detail)}</span>'
  return f'<tr class="heading"{name}><td colspan="{columns}">{text}</td></tr>'


def _line(table: Table, line: Line) -> str:
  # What has no number of its own has not been run.
  blank = any(cell.strong and not cell.text for cell in line)
  cells = (
    f'<td{_class(table, column)}>{_cell(cell, column in table.texts)}</td>'
    for column, cell in enumerate(line)
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


def _figure(figure: Figure) -> Iterator[str]:
  """Yields a picture in the page's colours and type."""
  svg = figure.svg[figure.svg.index('<svg') :].strip()
  svg = re.sub(r'\s*<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
  svg = svg.replace(INK, 'currentColor')
  svg = svg.replace(PAPER, 'none')
  svg = re.sub(r"font-family: '[^;\"]*", 'font-family: inherit', svg)
  # Names are of one picture; the page has several.
  svg = re.sub(r'(id="|href="#|url\(#)', rf'\g<1>{figure.name}-', svg)
  label = f'role="img" aria-label="{escape(figure.alt)}"'
  yield '<figure>'
  yield re.sub(r' width="[^"]*" height="[^"]*"', f' {label}', svg, count=1)
  yield f'<figcaption>{escape(figure.caption)}</figcaption>'
  yield '</figure>'
