# SPDX-License-Identifier: Apache-2.0
"""The ladder of the package: a file imports only from lower rungs."""

import ast
import pathlib
import re
import sys

import started

PACKAGE = pathlib.Path(__file__).parent.parent / 'srdl_jax'

RUNGS = (
  ('errors', 'fields', 'paper', 'settings'),
  ('bucket', 'command', 'processes'),
  (
    'config',
    'losses',
    'schedules',
    'metrics',
    'augment',
    'models',
    'plan',
    'randomness',
    'stop_request',
    'data',
    'train_state',
    'optimiser',
    'workdir',
    'parallel',
    'predict',
    'progress',
    'checkpoint',
    'pace',
    'environment',
    'seeds',
    'torch_layout',
    'landscape',
    'retrieval_features',
  ),
  (
    'mirror',
    'profiling',
    'tensorboard',
    'bank_files',
    'steps',
    'run_directory',
    'stage_record',
    'pretrained',
    'flops',
    'scales',
    'retrieval_task',
    'retrieval_distances',
  ),
  (
    'claim',
    'log',
    'soft_targets',
    'teacher',
    'sweep',
    'reporting',
    'speed',
    'examples',
    're_ranking',
  ),
  ('experiment', 'retrieval'),
  ('build', 'montage'),
  ('ranking', 'cost'),
  ('evaluate',),
  ('extraction',),
  ('analysis', 'feed'),
  ('stage',),
  ('result',),
  ('srdl',),
  ('main', 'report', 'weights', 'flatness', 'reproduce', 'rank'),
)
RUNG_OF = {name: rung for rung, names in enumerate(RUNGS) for name in names}


def modules():
  for path in sorted(PACKAGE.rglob('*.py')):
    name = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    if name != '__init__':
      yield name, path


def imported(path):
  """Yields the package's own modules that a file imports, by first name."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == 'srdl_jax':
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      package, _, rest = node.module.partition('.')
      if package == 'srdl_jax':
        yield rest.split('.')[0]
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith('srdl_jax.'):
          yield alias.name.split('.')[1]


def test_every_module_stands_on_a_rung():
  assert {name for name, _ in modules()} == set(RUNG_OF)


def test_imports_go_down_the_ladder():
  wrong = [
    f'{path.name} [{RUNG_OF[name]}] imports {other} [{RUNG_OF[other]}]'
    for name, path in modules()
    for other in imported(path)
    if other != name and RUNG_OF[other] >= RUNG_OF[name]
  ]
  assert not wrong, wrong


def test_package_imports_nothing_at_its_top():
  tree = ast.parse((PACKAGE / '__init__.py').read_text())
  assert not [
    n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)
  ]


def test_config_stops_at_the_upper_rungs():
  users = {
    name
    for name, path in modules()
    if re.search(r'\bConfigDict\b', path.read_text())
  }
  assert users <= {
    'config',
    'run_directory',
    'command',
    'scales',
    'teacher',
    'experiment',
    'examples',
    'build',
    'stage',
    'srdl',
  }


def test_algorithm_1_fits_on_a_screen():
  assert len((PACKAGE / 'srdl.py').read_text().splitlines()) <= 80


def test_files_and_functions_stay_readable():
  for _, path in modules():
    text = path.read_text()
    assert len(text.splitlines()) <= 300, path.name
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef):
        docstring = ast.get_docstring(node) or ''
        length = node.end_lineno - node.lineno - len(docstring.splitlines())
        assert length < 60, (path.name, node.name)


def test_a_run_starts_without_what_it_does_not_need():
  program = """
import sys
from srdl_jax import data, main
data.load('digits')
print(*{'matplotlib', 'pandas', 'sklearn', 'tensorflow'} & {*sys.modules})
"""
  ended = started.run(
    [sys.executable, '-c', program], check=True, cwd=PACKAGE.parent
  )
  assert ended.stdout.split() == []


def test_reports_are_made_without_jax():
  program = 'import sys, srdl_jax.report; assert "jax" not in sys.modules'
  started.run([sys.executable, '-c', program], check=True, cwd=PACKAGE.parent)


def test_tests_start_processes_and_measure_time_in_one_place():
  """It ends what they leave, and none may be too slow for a busy machine."""
  for path in pathlib.Path(__file__).parent.glob('*.py'):
    if path.name in ('started.py', 'clock.py'):
      continue
    tree = [*ast.walk(ast.parse(path.read_text()))]
    imported = [
      a.name for n in tree if isinstance(n, ast.Import) for a in n.names
    ]
    assert 'subprocess' not in imported, path.name
    used = {node.attr for node in tree if isinstance(node, ast.Attribute)}
    assert not used & {'monotonic', 'perf_counter', 'process_time'}, path.name
