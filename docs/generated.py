# SPDX-License-Identifier: Apache-2.0
"""What of the documentation is made while MkDocs builds it: a hook of its.

Files that lie elsewhere become pages, tables are filled in where a page says
`<!-- made: NAME -->`, links of the repository become the site's, and formulas
MathML, which browsers draw without a script.
"""

import ast
import collections
import html
import importlib.util
import pathlib
import posixpath
import re

import latex2mathml.converter
from mkdocs.structure.files import File

from srdl_jax.fields import FIELDS

ROOT = pathlib.Path(__file__).parent.parent
# Pages whose text lies outside of docs/.
ELSEWHERE = {
  'changelog.md': 'CHANGELOG.md',
  'contributing.md': 'CONTRIBUTING.md',
  'launch.md': 'launch/README.md',
  'benchmarks.md': 'benchmarks/README.md',
}
# Pages of the Python reference: title, and the modules in their order.
PYTHON = {
  'algorithm': (
    'The algorithm',
    'methods fields config losses schedules metrics augment train_state steps '
    'soft_targets network errors',
  ),
  'command': ('command and predict', 'command predict'),
  'cost': ('cost', 'cost'),
  'data': ('data', 'data'),
  'evaluate': ('evaluate', 'evaluate'),
  'flatness': ('flatness', 'flatness'),
  'machine': ('machine', 'machine'),
  'models': ('models', 'models'),
  'report': ('report', 'report'),
  'reproduce': ('reproduce', 'reproduce'),
  'retrieval': ('retrieval', 'retrieval'),
  'runs': ('runs', 'runs'),
  'storage': ('storage', 'storage'),
  'targets': ('targets', 'targets targets.source'),
  'weights': ('weights', 'weights'),
}


def on_files(files, config):
  """Adds the pages that no file of docs/ is."""
  made = {
    page: (ROOT / path).read_text('utf-8') for page, path in ELSEWHERE.items()
  }
  made |= {f'python/{name}.md': reference(*of) for name, of in PYTHON.items()}
  for page, text in made.items():
    files.append(File.generated(config, page, content=text))
  return files


def on_page_markdown(markdown, page, config, files):
  """Fills in what is made, and has links mean pages."""
  del config, files
  place = page.file.src_uri
  text = re.sub(
    r'<!-- made: (\w+) -->', lambda found: MADE[found[1]](), markdown
  )
  return re.sub(
    r'(!?)\[([^\]]*)\]\(([^)\s]+)\)',
    lambda found: _link(place, *found.groups()) or found[0],
    _indented(text),
  )


def _indented(text: str) -> str:
  """Returns Markdown in which what belongs to an item of a list is indented by
  four, as Python-Markdown wants it, where GitHub is content with two."""
  lines, item, fenced = [], False, False
  for line in text.splitlines():
    fenced ^= line.startswith('```')
    item = not fenced and (
      line.startswith('- ') or (item and line[:2] in ('', '  '))
    )
    inside = item and line[:2] == '  '
    lines.append(f'  {line}' if inside else line)
  return '\n'.join(lines)


def on_page_content(content, page, config, files):
  """Draws formulas, and tells where long lines and names may be broken.

  Formulas are \\(...\\) within a line, \\[...\\] on one of their own.
  """
  del page, config, files
  content = re.sub(
    r'(<pre><span></span><code)(>[^\n]*\n</code>)',
    r'\1 class="one-line"\2',
    content,
  )
  content = re.sub(
    r'<td><code>[\w.\[\]]+</code>',
    lambda found: re.sub(r'(\.|_)(?=\w)', r'\1<wbr>', found[0]),
    content,
  )
  return re.sub(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>',
    lambda found: _formula(html.unescape(found[2]), found[1] == 'div'),
    content,
    flags=re.DOTALL,
  )


def _formula(tex: str, block: bool) -> str:
  display = 'block' if block else 'inline'
  drawn = latex2mathml.converter.convert(tex.strip(), display=display)
  return f'<div class="formula">{drawn}</div>' if block else drawn


def _link(place: str, image: str, text: str, target: str) -> str | None:
  """Returns what a link becomes that doesn't lead to a page of docs/.

  Args:
    place: the page.

  Returns:
    The text alone where the site has no such page, and the page's title in
    place of a file's name; None where the link is right as it stands.
  """
  path, hash_, anchor = target.partition('#')
  if image or not path or re.match(r'\w+:', path) or place[:7] == 'python/':
    return None
  folder = posixpath.dirname(ELSEWHERE.get(place, f'docs/{place}'))
  there = posixpath.normpath(posixpath.join(folder, path))
  pages = {file: page for page, file in ELSEWHERE.items()}
  pages['README.md'] = 'index.md'
  if there.startswith('docs/'):
    found = there.removeprefix('docs/')
  elif there in pages:
    found = pages[there]
  else:
    return text
  if text.endswith('.md'):
    text = _title(found)
  return f'[{text}]({found}{hash_}{anchor})'


def _title(page: str) -> str:
  path = ROOT / ELSEWHERE.get(page, f'docs/{page}')
  return path.read_text('utf-8').splitlines()[0].removeprefix('# ')


def settings() -> str:
  """Returns a table of fields for each group of them, as Markdown."""
  groups = collections.defaultdict(list)
  for name, field in FIELDS.items():
    group, dot, _ = name.partition('.')
    groups[group if dot else ''].append((name, field))
  lines = []
  for group, fields in groups.items():
    title = f'`{group}`' if group else 'Of the run'
    lines += ['', f'## {title}', '']
    lines += [
      '| field | default | range | meaning |',
      '|---|---|---|---|',
    ]
    for name, field in fields:
      marks = '' if field.identity else ' °'
      since = f' (since {field.since})' if field.since != '0.1.0' else ''
      kind = type(field.default)
      limits = field.range or {bool: 'True or False'}.get(kind, kind.__name__)
      # What is to be done where it isn't so is for the message.
      limits = limits.partition(':')[0]
      cells = f'`{name}`{marks}', f'`{field.default!r}`', limits
      lines.append(_row(*cells, f'{field.meaning}{since}'))
  return '\n'.join(lines)


def keys() -> str:
  """Returns the glossary of what a run writes, as Markdown."""
  spec = importlib.util.spec_from_file_location('keys', ROOT / 'docs/keys.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  lines = []
  for file, groups in module.FILES.items():
    lines += ['', f'## {file}', '', module.ABOUT[file]]
    for title, entries in groups.items():
      lines += ['', f'### {title}'] if title else []
      lines += _table(entries)
  lines += ['', '## What words in capitals stand for']
  for word, entries in module.WORDS.items():
    lines += ['', f'### {module.TITLES[word]}', *_table(entries)]
  lines += ['', *(f'- `{word}`: {of}.' for word, of in module.OPEN.items())]
  return '\n'.join(lines)


def _table(entries) -> list[str]:
  return [
    '',
    '| key | unit | meaning |',
    '|---|---|---|',
    *(_row(f'`{key}`', *about) for key, about in entries.items()),
  ]


def _row(*cells: str) -> str:
  return f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |'


def reference(title: str, modules: str) -> str:
  """Returns a page of what modules show, for mkdocstrings."""
  return '\n'.join([f'# {title}', *map(shown, modules.split())])


def python() -> str:
  """Returns what `import srdl_jax` shows."""
  return shown('api')


def shown(module: str) -> str:
  """Returns what a module shows, and the modules that its face names."""
  path = ROOT / 'srdl_jax' / module.replace('.', '/')
  package = path.is_dir()
  file = path / '__init__.py' if package else path.with_suffix('.py')
  listed = _listed(ast.parse(file.read_text('utf-8')))
  inner = [name for name in listed if package and _is_module(path / name)]
  own = [name for name in listed if name not in inner]
  lines = ['', f'::: srdl_jax.{module}']
  if listed:
    lines += ['    options:', f'      members: {own!r}']
  for name in inner:
    lines += [shown(f'{module}.{name}')]
  return '\n'.join(lines)


def _listed(tree: ast.Module) -> list[str]:
  """Returns the names in a module's __all__; none where it has none."""
  for node in tree.body:
    if isinstance(node, ast.Assign) and '__all__' in ast.unparse(node.targets):
      return ast.literal_eval(node.value)
  return []


def _is_module(path: pathlib.Path) -> bool:
  return path.is_dir() or path.with_suffix('.py').is_file()


MADE = {'settings': settings, 'keys': keys, 'python': python}
