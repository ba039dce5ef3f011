# SPDX-License-Identifier: Apache-2.0
"""The house: a ladder of units, faces of packages, files that can be read."""

import ast
import collections
import graphlib
import importlib
import pathlib
import re
import sys

import pytest
import started

PACKAGE = pathlib.Path(__file__).parent.parent / 'srdl_jax'
# A unit is a module of the package or a package in it; it imports from units
# in lines above its own. A package's command stands apart.
LADDER = """
errors fields machine.tpu
machine cpu config storage metrics losses schedules augment targets
models methods
data train_state parallel
steps runs command
network
weights retrieval flatness reproduce
soft_targets report
imported artefact
experiment
build knowledge
trained
evaluate feed cost board
predict weights.folder
stage
result
srdl
api
main rank cost.__main__ predict.__main__ weights.__main__
flatness.__main__ reproduce.__main__ reproduce.demo report.__main__
data.prepare command.config __main__
"""
RUNG = {u: n for n, line in enumerate(LADDER.split('\n')) for u in line.split()}
# What else than errors, and themselves, they may know.
PURE = {
  'storage': set(),
  'models': {'cpu'},
  'targets': set(),
  'flatness.landscape': set(),
  'retrieval.distances': {'cpu'},
  'retrieval.features': set(),
  'retrieval.metrics': set(),
  'retrieval.montage': {'storage'},
  'retrieval.re_ranking': set(),
  'retrieval.measure': {'data', 'network', 'runs.processes'},
}


def name_of(path):
  parts = path.relative_to(PACKAGE).with_suffix('').parts
  return '.'.join(parts).removesuffix('__init__').removesuffix('.')


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob('*.py'))}
PACKAGES = {name for name, path in FILES.items() if path.stem == '__init__'}


def unit_of(module):
  return module if module in RUNG else module.partition('.')[0]


def imports(module, *, at_start=False):
  """Yields (package or module, name) of what a file imports of the package."""
  nodes = [ast.parse(FILES[module].read_text())]
  while nodes:
    node = nodes.pop()
    if isinstance(node, ast.ImportFrom):
      # One way to write an import is enough to be read.
      assert not node.level, module
      if node.module.partition('.')[0] == 'srdl_jax':
        source = node.module.removeprefix('srdl_jax').removeprefix('.')
        yield from ((source, alias.name) for alias in node.names)
    if isinstance(node, ast.Import):
      names = {alias.name.partition('.')[0] for alias in node.names}
      assert 'srdl_jax' not in names, module
    later = isinstance(node, ast.FunctionDef) or (
      isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)
    )
    if not (at_start and later):
      nodes += ast.iter_child_nodes(node)


def target(source, name):
  """Returns the module that an import loads."""
  inner = f'{source}.{name}'.removeprefix('.')
  return inner if inner in FILES else source


def test_every_unit_has_a_rung():
  assert {unit_of(module) for module in FILES} - {''} == set(RUNG)


def test_imports_go_up_the_ladder():
  wrong = [
    f'{module} imports {there}'
    # The package itself imports for type checkers alone.
    for module in set(FILES) - {''}
    for there in {target(*one) for one in imports(module)} - {''}
    if unit_of(there) != unit_of(module)
    and RUNG[unit_of(there)] >= RUNG[unit_of(module)]
  ]
  assert not wrong, wrong


def test_no_imports_go_in_a_circle():
  graph = {}
  for module in FILES:
    graph[module] = set()
    for there in {target(*one) for one in imports(module, at_start=True)}:
      # A package's own files are loaded when its face is, in part.
      faces = {p for p in PACKAGES if p and f'{there}.'.startswith(f'{p}.')}
      own = {p for p in PACKAGES if f'{module}.'.startswith(f'{p}.')}
      graph[module] |= {there, *(faces - own)} - {module}
  graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize('package', sorted(PACKAGES - {''}))
def test_only_its_face_is_seen_from_outside(package):
  face = set(importlib.import_module(f'srdl_jax.{package}').__all__)
  hidden = [
    f'{module} imports {seen} of {package}'
    for module in FILES
    if not f'{module}.'.startswith(f'{package}.')
    for source, name in imports(module)
    if f'{source}.'.startswith(f'{package}.')
    and (seen := f'{source}.{name}'.split('.')[package.count('.') + 1])
    not in face
  ]
  assert not hidden, hidden


@pytest.mark.parametrize('module', PURE)
def test_what_is_pure_knows_little(module):
  own = module.partition('.')[0]
  known = {
    target(*one)
    for name in FILES
    if f'{name}.'.startswith(f'{module}.')
    for one in imports(name)
  }
  allowed = {'errors', *PURE[module]}
  assert {m for m in known if m.partition('.')[0] != own} <= allowed


def test_package_imports_nothing_at_its_top():
  tree = ast.parse(FILES[''].read_text())
  assert not [
    node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
  ]


def test_config_dicts_stop_at_the_upper_rungs():
  users = {
    name
    for name, path in FILES.items()
    if re.search(r'\bConfigDict\b', path.read_text())
  }
  assert users <= {
    'config',
    'command.given',
    'methods',
    'api',
    'artefact',
    'build',
    'cost',
    'experiment',
    'imported',
    'stage',
    'srdl',
    'runs.directory',
    'reproduce.scales',
    'weights.__main__',
  }


def test_the_flat_folder_is_a_table_of_contents():
  flat = [path for path in FILES.values() if path.parent == PACKAGE]
  assert len(flat) <= 30
  told = set(re.findall(r'^  (\w\w+)  +\S', FILES[''].read_text(), re.M))
  beside = {'errors', '__main__', 'result', 'trained', 'imported'}
  beside |= {'rank', 'cpu', 'artefact', 'board'}
  packages = {name for name in PACKAGES if name and '.' not in name}
  assert told == {path.stem for path in flat} - beside - {'__init__'} | packages


def lines_of(module):
  return FILES[module].read_text().splitlines()


def test_the_core_is_read_in_an_afternoon():
  order, _, _ = FILES[''].read_text().partition('Packages:')
  core = re.findall(r'^  (\w+)  +\S', order, re.M)
  assert core[0] == 'srdl' and len(lines_of('srdl')) <= 80
  assert len(core) <= 20
  assert sum(len(lines_of(module)) for module in core) <= 3900


def test_no_two_classes_have_one_name():
  places = collections.defaultdict(list)
  for module, path in FILES.items():
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ClassDef):
        places[node.name.lstrip('_')].append(module)
  assert not {name: at for name, at in places.items() if len(at) > 1}


def test_files_and_functions_stay_readable():
  for name, path in FILES.items():
    text = path.read_text()
    assert len(text.splitlines()) <= 450, name
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef):
        docstring = ast.get_docstring(node) or ''
        length = node.end_lineno - node.lineno - len(docstring.splitlines())
        assert length < 60, (name, node.name)


def loaded_by(program):
  """Returns the modules that are loaded once a program has run."""
  program += '\nimport sys\nprint(*sys.modules)'
  ended = started.run(
    [sys.executable, '-c', program], check=True, cwd=PACKAGE.parent
  )
  return set(ended.stdout.split())


def test_a_run_starts_without_what_it_does_not_need():
  loaded = loaded_by("from srdl_jax import data, main\ndata.load('digits')")
  assert not loaded & {'matplotlib', 'pandas', 'sklearn', 'tensorflow'}


def test_reports_are_made_without_jax():
  loaded = loaded_by(
    'from srdl_jax import report\nfrom srdl_jax.report import figures, __main__'
  )
  assert 'srdl_jax.report.__main__' in loaded and 'jax' not in loaded


def test_tests_start_processes_and_measure_time_in_one_place():
  """It ends what they leave, and none may be too slow for a busy machine."""
  for path in pathlib.Path(__file__).parent.rglob('*.py'):
    if path.name in ('started.py', 'clock.py'):
      continue
    imported, used = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import | ast.ImportFrom):
        imported |= {alias.name for alias in node.names}
        imported.add(getattr(node, 'module', None))
      if isinstance(node, ast.Attribute):
        used.add(node.attr)
    clocks = {'monotonic', 'perf_counter', 'process_time'}
    assert not imported & {'subprocess', *clocks}, path.name
    assert not used & clocks, path.name


def names_in(module):
  """Returns the names that a module defines or imports, at any depth."""
  found = set()
  for node in ast.walk(ast.parse(FILES[module].read_text())):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      found.add(node.name)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      found.add(node.id)
    if isinstance(node, ast.Import | ast.ImportFrom):
      found |= {alias.asname or alias.name for alias in node.names}
  return found


def test_tests_and_benchmarks_import_what_is_there():
  """Also in programs that they start: elsewhere an older package may lie."""
  root = PACKAGE.parent
  for path in [*root.glob('tests/**/*.py'), *root.glob('benchmarks/*.py')]:
    text = path.read_text().replace('\\n', '\n')
    for source, names in re.findall(
      r'from srdl_jax([\w.]*) import (\w+(?:, \w+)*)', text
    ):
      for name in names.split(', '):
        module = target(source.removeprefix('.'), name)
        assert module in FILES, (path.name, source)
        if module == source.removeprefix('.'):
          assert name in names_in(module), (path.name, source, name)


def test_what_is_said_to_travel_through_functions_goes_through_those():
  text = (PACKAGE.parent / 'CONTRIBUTING.md').read_text()
  _, _, text = text.partition('## How a … travels')
  *traces, _ = re.split(r'^\*\*|^## ', text, flags=re.M)[1:7]
  most = {'temp': 9, 'split': 7, 'CIFAR': 11, 'ImageNet': 16, 'soft': 10}
  assert len(traces) == len(most)
  for trace, (name, count) in zip(traces, most.items(), strict=True):
    title, _, path = trace.partition('**')
    assert name in title
    places = re.findall(r'`([\w.]+)`', path.partition('The teacher')[0])
    files = set()
    for place in re.findall(r'`([\w.]+)`', path):
      module = max(
        (m for m in FILES if f'{place}.'.startswith(f'{m}.')), key=len
      )
      owner = importlib.import_module(f'srdl_jax.{module}')
      for part in place.removeprefix(f'{module}.').split('.'):
        owner = getattr(owner, part)
      files |= {module} if place in places else set()
    assert len(files) <= count, (name, len(files))
