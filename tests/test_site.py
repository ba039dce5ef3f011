# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site: made without a warning, whole, by itself."""

import ast
import importlib.util
import os
import re
import sys

import pytest
import started
import tiny

from srdl_jax import cost, methods
from srdl_jax.fields import FIELDS
from srdl_jax.methods import METHODS

DOCS = started.ROOT / 'docs'
PACKAGE = started.ROOT / 'srdl_jax'
METHODS_PAGE = (DOCS / 'methods.md').read_text()


def sections():
  """Returns what the page of methods says of each, by its name."""
  parts = re.split(r'^### `(\w+)`\n', METHODS_PAGE, flags=re.M)[1:]
  texts = [part.partition('\n## ')[0] for part in parts[1::2]]
  return dict(zip(parts[::2], texts, strict=True))


def test_every_method_has_a_paragraph_a_formula_a_cost_and_a_source():
  assert sections().keys() == METHODS.keys()
  for name, text in sections().items():
    formula = r'\A\n\w.*?\n\n\$\$\n.*?\n\$\$\n\nCost: .*?\.\sSource: \S'
    assert re.search(formula, text, re.S), name


@pytest.mark.parametrize('name', [n for n in METHODS if n != 'kd'])
def test_costs_are_what_is_counted(name):
  """In epochs of vanilla training, for M = 24 and two generations."""
  given = {'method': name, 'epochs': 24}
  generations = 'born_again.generations' in METHODS[name].reads
  if generations:
    given['born_again.generations'] = 2
  plan = methods.create(tiny.config(**given))
  work = cost.work(plan, {'tiny': tiny.Tiny(10)}, (8, 8, 1))
  told = re.search(r'Cost: ([^;,.]+?)(;|,|\.| for G)', sections()[name])[1]
  told = re.sub(r'(?<=[\d)]) M', ' * M', told)
  epochs = eval(told, {'M': 24, 'G': 2})
  assert cost.units(work, 1) / 3 == pytest.approx(epochs), told


def test_questions_are_one_click_from_the_start():
  start = (DOCS / 'index.md').read_text()
  assert '](faq.md)' in start
  questions = re.findall(r'^## (.*)', (DOCS / 'faq.md').read_text(), re.M)
  assert len(questions) == len({*questions}) > 15


def test_every_page_is_in_the_navigation():
  lines = (started.ROOT / 'mkdocs.yml').read_text().partition('\nnav:')[2]
  listed = re.findall(r'[\w/]+\.md', lines)
  assert len(listed) == len({*listed})
  assert {path.name for path in DOCS.glob('*.md')} <= {*listed}


def faces():
  """Yields (module, name) of what packages show that is no module."""
  for path in PACKAGE.rglob('__init__.py'):
    for node in ast.parse(path.read_text()).body:
      if path.parent != PACKAGE and isinstance(node, ast.Assign):
        if ast.unparse(node.targets[0]) != '__all__':
          continue
        module = '.'.join(path.parent.relative_to(PACKAGE.parent).parts)
        for name in ast.literal_eval(node.value):
          inner = path.parent / name
          if not (inner.is_dir() or inner.with_suffix('.py').is_file()):
            yield module, name


# Loaders by their names in DATASETS: docs/data.md tells of them.
NOT_SHOWN = {'srdl_jax.data.persons'}


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  if importlib.util.find_spec('mkdocs') is None:
    pytest.skip("mkdocs isn't there: pip install -e '.[docs]'")
  folder = tmp_path_factory.mktemp('site')
  env = {
    **os.environ,
    'PYTHONPATH': str(started.ROOT),
    'NO_MKDOCS_2_WARNING': '1',
  }
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', folder]
  done = started.run(command, cwd=started.ROOT, env=env)
  assert done.returncode == 0, done.stderr
  return folder


def page(site, name):
  return (site / name).read_text().replace('<wbr>', '')


@pytest.mark.slow
def test_sources_are_no_pages(site):
  kept = {path.suffix for path in site.rglob('*') if path.is_file()}
  assert not kept & {'.py', '.pyc', '.md', '.xz'}


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site):
  foreign = r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(?:https?:)?//'
  for path in site.rglob('*.html'):
    assert not re.search(foreign, path.read_text()), path
  styles = [path.read_text() for path in site.rglob('*.css')]
  assert styles and not any(re.search(r'url\(.?http', s) for s in styles)


@pytest.mark.slow
def test_formulas_are_drawn(site):
  text = page(site, 'methods.html')
  assert 'arithmatex' not in text and '\\mathrm' not in text
  assert text.count('<math') > METHODS_PAGE.count('\n$$\n') / 2


@pytest.mark.slow
def test_tables_are_made(site):
  for name in ('settings.html', 'files.html'):
    assert 'made:' not in page(site, name)
  settings = page(site, 'settings.html')
  for name in FIELDS:
    assert f'<code>{name}</code>' in settings, name
  assert '<code>stages[].noise.NOISE</code>' in page(site, 'files.html')


@pytest.mark.slow
def test_what_packages_show_has_its_place_and_its_docstring(site):
  text = ''.join(p.read_text() for p in sorted(site.glob('python*/*.html')))
  text += page(site, 'python.html')
  for module, name in faces():
    if module in NOT_SHOWN:
      continue
    _, found, rest = text.partition(f'id="{module}.{name}"')
    assert found, (module, name)
    said = rest.partition('<div class="doc doc-contents')[2][:400]
    assert '<p>' in said.partition('doc-heading')[0], (module, name)
  # A line that tells of two names tells of each.
  data = page(site, 'python/data.html')
  for name in ('mean', 'std'):
    line = re.search(f'>{name}</span></code></b>.*?</p>', data, re.S)[0]
    assert 'per channel' in line


@pytest.mark.slow
def test_files_that_lie_elsewhere_are_pages(site):
  contributing = page(site, 'contributing.html')
  assert '<h2 id="add-a-method">' in contributing
  assert '0.2.0' in page(site, 'changelog.html')
  # An item of a list holds a block, as on GitHub.
  assert '<code>FROM python' in page(site, 'launch.html')
  # Links of the repository are the site's, and name pages by their titles.
  training = page(site, 'training.html')
  assert '<a href="launch.html">Several machines</a>' in training
  assert not re.findall(r'href="[^":]*\.md[^"]*"', training + contributing)
