# SPDX-License-Identifier: Apache-2.0
"""Finished runs beside the paper's tables: read, laid out, written.

Nothing here imports jax.
"""

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType

from srdl_jax import reproduce, storage
from srdl_jax.report import (
  arena,
  comparison,
  document,
  findings,
  paper_tables,
  run_pages,
  run_tables,
  terms,
)
from srdl_jax.report import html as html_report
from srdl_jax.report.document import Figure, Part, Section
from srdl_jax.report.paper_tables import Placed
from srdl_jax.report.rows import Found, ReportRow, read
from srdl_jax.runs import directory as run_directory

__all__ = ['read', 'seeds', 'text', 'write']

TITLE = 'Self-Referenced Deep Learning: results'
_THEIRS = (
  'The paper’s numbers are of its own networks, data and recipe: ours are not '
  'to be compared with them.'
)
_CURVES = (
  'Thick lines are means over seeds, thin ones single seeds. Dotted: a stage '
  'ends. Dashed: a stage that trains another network than the run’s last, the '
  'teacher of knowledge distillation; stages of the same network are solid, '
  'whether they teach or not. Training accuracy is that of the epoch’s '
  'augmented batches while it trains, with the labels that train, wrong ones '
  'included.'
)
_REASONS = (
  'Of the last epoch, on the test images; soft targets and agreement with the '
  'teacher on the training images.'
)
_GAINS = (
  'Each point is the mean difference in accuracy of two rows, paired by seed; '
  'its line is the 95 % interval.'
)
# What is drawn and isn't a table.
_FIGURES = ('fig3', 'fig4')
# Their rows are of several budgets, or too many: no curves to lay over each
# other.
_NO_CURVES = (*_FIGURES, 'budget', *reproduce.arena.TABLES)


def sections(found: Found, figures: ModuleType | None) -> list[Section]:
  """Returns the report's sections; without `figures`, tables alone."""
  names: dict[int, str] = {}
  tables: list[Section] = []
  groups: list[findings.Group] = []
  commands: list[str] = []
  not_run: list[str] = []
  for scale in reproduce.SCALES:
    placed = {
      table: paper_tables.place(table, scale, found.rows)
      for table in reproduce.TABLES
    }
    drawn = {t: rows for t, rows in placed.items() if t not in _FIGURES}
    shown, home, told = findings.arranged(drawn, scale)
    # A row is called as the table has it that shows it whole.
    named = list(_names({t: placed[t] for t in (*shown, *placed)}))
    for row, name in named:
      names.setdefault(row.number, name)
    if named:
      groups += findings.of_tables(placed, shown, scale)
      tables += _scale(scale, placed, (shown, home, told), figures)
      not_run.append(_not_run(scale, drawn))
      what = ' '.join(shown or [t for t in placed if _has_run(placed[t])])
      commands.append(f'srdl reproduce {what} --scale={scale} --workdir=DIR')
  others = [row for row in found.rows if row.number not in names]
  if others:
    groups += findings.of_others(others, found.rows)
    tables += _others(others, found.rows, figures)
    names |= {row.number: comparison.name(row) for row in others}
  if found.flatness:
    tables.append(_flatness(found, figures))
  left_out = list(found.left_out)
  if found.rows:
    tables += run_pages.sections(found.rows, names, figures, left_out)
  facts = findings.provenance(found.rows, commands, bool(others))
  first = list(_first(found, groups, facts, figures))
  lines = tuple(filter(None, dict.fromkeys([*left_out, *not_run])))
  if lines:
    first.append(Section('left-out', 'What is not here', (lines,)))
  whole = first + tables
  return [*whole, *terms.section(whole)]


def _first(
  found: Found,
  groups: Sequence[findings.Group],
  facts: Iterable[str],
  figures: ModuleType | None,
) -> Iterator[Section]:
  """Yields what was found, in sentences and in a plot."""
  if not found.rows:
    return
  told = [line for group in groups for line in findings.of_group(group)]
  if not told:
    told = [*findings.of_rows(found.rows)]
    why = 'No two rows differ in the method alone'
    if len(found.rows) == 1:
      why = 'There is nothing to compare it with'
    told.append(f'{why}: nothing is said of a gain.')
  yield Section('found', 'What was found', (tuple(told), *facts))
  if plots := tuple(findings.forests(groups, figures)):
    yield Section('gains', 'All paired gains', (_GAINS, *plots))


def _has_run(rows: Sequence[Placed]) -> bool:
  return any(one.ours for one in rows)


def _names(
  placed: Mapping[str, Sequence[Placed]],
) -> Iterator[tuple[ReportRow, str]]:
  for table, rows in placed.items():
    title = findings.short(table)
    for one in rows:
      # ImageNet's table is called as its data are.
      where = ', '.join(dict.fromkeys([title, one.row.group]))
      if one.ours:
        yield one.ours, f'{one.row.name} ({where})'
      if one.teacher:
        model = reproduce.NAMES[one.row.setting.teacher.model]
        yield one.teacher, f'{model}, teacher ({where})'


def _scale(
  scale: str,
  placed: Mapping[str, Sequence[Placed]],
  arranged: tuple[list[str], dict[int, str], dict[str, list[str]]],
  figures: ModuleType | None,
) -> Iterator[Section]:
  """Yields a section for each table of a scale that has rows of its own."""
  shown, home, told = arranged
  title, about = f'{scale.capitalize()} scale', reproduce.SCALES[scale].meaning
  if scale != 'full':
    title += ': no reproduction of the paper'
  # The names of rows are those of the tables that show them whole.
  order = {table: placed[table] for table in (*shown, *placed)}
  everything = [one for rows in order.values() for one in rows]
  parts: list[Part] = [about, _THEIRS] if about else []
  if told:
    parts.append(findings.elsewhere(told, scale))
  if apart := paper_tables.beside(everything):
    parts.append(tuple(apart))
  yield Section(scale, title, tuple(parts))
  for table in (*shown, *told):
    rows = placed[table]
    where = {
      f'r{number}': (f'{scale}-{there}', findings.short(there))
      for number, there in home.items()
      if there != table
    }
    parts = list(_pictures(table, rows, scale, figures))
    if table in shown:
      kept = findings.run_rows(rows, scale)
      run = sum(one.ours is not None for one in rows)
      few = '' if len(kept) == len(rows) else ' The others are left out.'
      parts.insert(0, f'{run} of {len(rows)} rows have been run.{few}')
      for one in _tables(table, kept, scale):
        parts.append(findings.lightened(one, where))
    if parts:
      name = f'{scale}-{table}'
      yield Section(name, reproduce.TABLES[table].title, tuple(parts), 3)
  yield from _beside(scale, placed, everything, figures)


def _beside(
  scale: str,
  placed: Mapping[str, Sequence[Placed]],
  everything: Sequence[Placed],
  figures: ModuleType | None,
) -> Iterator[Section]:
  """Yields what a scale has besides its tables."""
  if once := paper_tables.once(everything):
    reasons = paper_tables.reasons(once)
    title = 'Why it may work'
    yield Section(f'{scale}-reasons', title, (_REASONS, reasons), 3)
  pairs = placed.get('table2', ())
  if any(one.teacher or one.ours and one.row.setting.teacher for one in pairs):
    yield Section(
      f'{scale}-teachers', 'Teacher check', (paper_tables.teachers(pairs),), 3
    )
  if figures:
    rates = tuple(figures.schedules(placed.get('fig3', ()), f'{scale}_fig3'))
    if rates:
      title = reproduce.TABLES['fig3'].title
      yield Section(f'{scale}-fig3', title, rates, 3)
    compared = {t: rows for t, rows in placed.items() if t not in _NO_CURVES}
    yield from _curves(scale, figures.comparisons(compared), figures)


def _pictures(
  table: str,
  rows: Sequence[Placed],
  scale: str,
  figures: ModuleType | None,
) -> Iterator[Part]:
  """Yields what is drawn of a table beside its forest plot."""
  if not figures:
    return
  if table == 'budget':
    yield from figures.gains(rows, f'{scale}_budget')
  elif table == 'crossing':
    yield from figures.crossing(rows, f'{scale}_{table}')
  elif table in reproduce.arena.TABLES:
    yield from figures.over_noise(rows, f'{scale}_{table}')


def _tables(
  table: str, rows: Sequence[Placed], scale: str
) -> Iterator[document.Table]:
  if table not in reproduce.arena.TABLES:
    yield paper_tables.table(rows, scale)
    return
  yield arena.table(rows)
  if memory := arena.memory(rows):
    yield memory


def _not_run(scale: str, placed: Mapping[str, Sequence[Placed]]) -> str:
  """Returns which tables of a scale have no run at all, or ''."""
  blank = [
    findings.short(table)
    for table, rows in placed.items()
    if rows and not _has_run(rows)
  ]
  if not blank:
    return ''
  return f'{scale.capitalize()} scale: no run at all of {"; ".join(blank)}.'


def _curves(
  scale: str,
  compared: Iterable[tuple[str, str, Mapping[str, ReportRow]]],
  figures: ModuleType,
) -> Iterator[Section]:
  """Yields the section of some comparisons, if there is a curve of any."""
  drawn: list[Figure] = []
  for name, title, rows in compared:
    # What is alone has its curves in its own page.
    if len(rows) > 1:
      drawn += figures.learning_curves(rows, f'{scale}_{name}', title)
  if drawn:
    yield Section(f'{scale}-curves', 'Learning curves', (_CURVES, *drawn), 3)


def _others(
  rows: Sequence[ReportRow],
  known: Sequence[ReportRow],
  figures: ModuleType | None,
) -> Iterator[Section]:
  table = run_tables.others(rows, known)
  beside = len(rows) < len(known)
  about = ('Runs that are none of the rows above.',) if beside else ()
  title = 'Other runs' if beside else 'Results'
  yield Section('others', title, (*about, table))
  if figures:
    compared = run_tables.comparisons(rows, known)
    yield from _curves('others', compared, figures)


def _flatness(found: Found, figures: ModuleType | None) -> Section:
  parts: list[Part] = []
  for index, one in enumerate(found.flatness, 1):
    if figures:
      parts.append(figures.flatness(one, f'flatness_{index}'))
    parts.append(run_tables.flatness(one))
  return Section('flatness', reproduce.TABLES['fig4'].title, tuple(parts))


def text(found: Found) -> str:
  """Returns the report's tables as Markdown."""
  return document.markdown(TITLE, sections(found, None), None)


def write(out: str, found: Found) -> list[pathlib.Path]:
  """Writes the report to a .html or .md file, whole or not at all.

  Returns:
    The file and, of Markdown with figures, their folder.

  Raises:
    WorkdirError: it can't be written.
  """
  # It takes matplotlib, and a second.
  from srdl_jax.report import figures as report_figures

  path = run_directory.local(out, '--out')
  parts = sections(found, report_figures)
  if path.suffix == '.html':
    storage.replace(path, _bytes(html_report.render(TITLE, parts)))
    return [path]
  folder = path.with_name(f'{path.stem}_figures')
  drawn = document.figures(parts)
  if drawn:
    with storage.failures(folder):
      folder.mkdir(exist_ok=True)
  for figure in drawn:
    storage.replace(folder / f'{figure.name}.svg', _bytes(figure.svg))
  content = document.markdown(TITLE, parts, folder.name)
  storage.replace(path, _bytes(content))
  return [path, folder] if drawn else [path]


def _bytes(content: str) -> bytes:
  # The name of a directory may be no UTF-8.
  return content.encode(errors='backslashreplace')
