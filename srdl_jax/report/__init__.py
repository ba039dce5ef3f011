# SPDX-License-Identifier: Apache-2.0
"""Finished runs beside the paper's tables: read, laid out, written.

Nothing here imports jax.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType

from srdl_jax import reproduce, storage
from srdl_jax.report import (
  arena,
  comparison,
  document,
  paper_tables,
  run_tables,
)
from srdl_jax.report import html as html_report
from srdl_jax.report.document import Figure, Part, Section
from srdl_jax.report.paper_tables import Placed
from srdl_jax.report.rows import Found, ReportRow, read
from srdl_jax.runs import directory as run_directory

__all__ = ['read', 'seeds', 'text', 'write']

TITLE = 'Self-Referenced Deep Learning: results'
_READING = (
  'Accuracies are of the test images, in %: mean over seeds ± sample standard '
  'deviation (number of seeds). The last epoch is the result. The best epoch '
  'was chosen on the split that its cell names, or else on these very images, '
  'and is no result. A gain is paired by seed; its interval is Student’s, of '
  '95 %, over the seeds that both rows have: their number stands behind it. '
  'The result of a method that is an ensemble is that of its stages together, '
  'and marked. Blank: not run, or not recorded. R1, R2, … lead to the runs '
  'behind a number. Where the test ranks a gallery, rank-1 and mAP (the mean '
  'precision at each right image) are of the queries.',
  'Cost is that of one run. TrCost: forward multiply-adds × epochs × training '
  'images, in 10¹⁶. Training FLOPs: forward and backward, as the compiler '
  'counts them, in 10¹⁶. Device time: of training, extraction and teacher, '
  'times devices; it includes compilation, which is most of a short run. '
  'Extraction passes and teachers are counted in. A mark such '
  'as “×3.3 cost” says how the TrCost of a row compares with that of the row '
  'that its gain is over, where they differ by a percent or more.',
)
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
_PROVENANCE = (
  'Of each row the fields that differ from the defaults. Data: the beginning '
  'of the fingerprint of the training split.'
)
# What is drawn and isn't a table.
_FIGURES = ('fig3', 'fig4')
# Their rows are of several budgets, or too many: no curves to lay over each
# other.
_NO_CURVES = (*_FIGURES, 'budget', *reproduce.arena.TABLES)


def sections(found: Found, figures: ModuleType | None) -> list[Section]:
  """Returns the report's sections; without `figures`, tables alone."""
  names: dict[int, str] = {}
  middle: list[Section] = []
  not_run: list[str] = []
  for scale in reproduce.SCALES:
    placed = {
      table: paper_tables.place(table, scale, found.rows)
      for table in reproduce.TABLES
    }
    named = list(_names(placed))
    for row, name in named:
      names.setdefault(row.number, name)
    if named:
      middle += _scale(scale, placed, figures)
      not_run.append(_not_run(scale, placed))
  others = [row for row in found.rows if row.number not in names]
  if others:
    middle += _others(others, found.rows, figures)
    names |= {row.number: comparison.name(row) for row in others}
  if found.flatness:
    middle.append(_flatness(found, figures))
  if found.rows:
    runs = run_tables.provenance(found.rows, names)
    title = 'Where the numbers come from'
    middle.append(Section('runs', title, (_PROVENANCE, runs)))
  if found.rows and not not_run:
    not_run.append("None of the runs is of a table of the paper's.")
  reading = (*_READING, *filter(None, not_run))
  first = [Section('reading', 'How to read this', reading)]
  if found.left_out:
    lines = tuple(dict.fromkeys(found.left_out))
    first.append(Section('left-out', 'Left out', (lines,)))
  return first + middle


def _names(
  placed: Mapping[str, Sequence[Placed]],
) -> Iterator[tuple[ReportRow, str]]:
  for table, rows in placed.items():
    title = _short(table)
    for one in rows:
      # ImageNet's table is called as its data are.
      where = ', '.join(dict.fromkeys([title, one.row.group]))
      if one.ours:
        yield one.ours, f'{one.row.name} ({where})'
      if one.teacher:
        model = reproduce.NAMES[one.row.setting.teacher.model]
        yield one.teacher, f'{model}, teacher ({where})'


def _short(table: str) -> str:
  """Returns a table's title without what it compares and what it adds."""
  return reproduce.TABLES[table].title.partition(':')[0].partition(' (')[0]


def _scale(
  scale: str,
  placed: Mapping[str, Sequence[Placed]],
  figures: ModuleType | None,
) -> Iterator[Section]:
  """Yields a section for each table of a scale that has rows."""
  title, about = f'{scale.capitalize()} scale', reproduce.SCALES[scale].meaning
  if scale != 'full':
    title += ': no reproduction of the paper'
  everything = [one for rows in placed.values() for one in rows]
  parts: list[Part] = [about, _THEIRS] if about else []
  if apart := paper_tables.beside(everything):
    parts.append(tuple(apart))
  yield Section(scale, title, tuple(parts))
  for table, rows in placed.items():
    run = sum(one.ours is not None for one in rows)
    if run and table not in _FIGURES:
      parts = [f'{run} of {len(rows)} rows have been run.']
      parts += _table(table, rows, scale, figures)
      yield Section(
        f'{scale}-{table}', reproduce.TABLES[table].title, tuple(parts), 3
      )
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


def _table(
  table: str,
  rows: Sequence[Placed],
  scale: str,
  figures: ModuleType | None,
) -> Iterator[Part]:
  """Yields what is shown of a table: its figures first."""
  if table not in reproduce.arena.TABLES:
    if table == 'budget' and figures:
      yield from figures.gains(rows, f'{scale}_budget')
    yield paper_tables.table(rows, scale)
    return
  if figures and table == 'crossing':
    yield from figures.crossing(rows, f'{scale}_{table}')
  elif figures:
    yield from figures.over_noise(rows, f'{scale}_{table}')
    yield from figures.forests(rows, f'{scale}_{table}')
  yield arena.table(rows)
  if memory := arena.memory(rows):
    yield memory


def _not_run(scale: str, placed: Mapping[str, Sequence[Placed]]) -> str:
  """Returns which tables of a scale have no run at all, or ''."""
  blank = [
    _short(table)
    for table, rows in placed.items()
    if rows and table not in _FIGURES and not any(one.ours for one in rows)
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
    drawn += figures.learning_curves(rows, f'{scale}_{name}', title)
  if drawn:
    yield Section(f'{scale}-curves', 'Learning curves', (_CURVES, *drawn), 3)


def _others(
  rows: Sequence[ReportRow],
  known: Sequence[ReportRow],
  figures: ModuleType | None,
) -> Iterator[Section]:
  table = run_tables.others(rows, known)
  about = 'Runs that are none of the rows above.'
  yield Section('others', 'Other runs', (about, table))
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


def write(out: str, found: Found) -> None:
  """Writes the report to a .html or .md file, whole or not at all.

  Raises:
    WorkdirError: it can't be written.
  """
  # It takes matplotlib, and a second.
  from srdl_jax.report import figures as report_figures

  path = run_directory.local(out, '--out')
  parts = sections(found, report_figures)
  if path.suffix == '.html':
    storage.replace(path, _bytes(html_report.render(TITLE, parts)))
    return
  folder = path.with_name(f'{path.stem}_figures')
  drawn = document.figures(parts)
  if drawn:
    with storage.failures(folder):
      folder.mkdir(exist_ok=True)
  for figure in drawn:
    storage.replace(folder / f'{figure.name}.svg', _bytes(figure.svg))
  content = document.markdown(TITLE, parts, folder.name)
  storage.replace(path, _bytes(content))


def _bytes(content: str) -> bytes:
  # The name of a directory may be no UTF-8.
  return content.encode(errors='backslashreplace')
