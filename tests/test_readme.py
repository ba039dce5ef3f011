# SPDX-License-Identifier: Apache-2.0
"""What the README and docs/ say: commands run, links and names are there."""

import itertools
import json
import os
import re
import shlex
import sys

import numpy as np
import pytest
import sklearn.datasets
import started
from PIL import Image

from srdl_jax.command import given
from srdl_jax.command.table import COMMANDS

README = started.ROOT / 'README.md'
DOCS = sorted((started.ROOT / 'docs').glob('*.md'))
PAGES = [
  README,
  *DOCS,
  *(
    started.ROOT / name
    for name in (
      'CHANGELOG.md',
      'CONTRIBUTING.md',
      'benchmarks/README.md',
      'launch/README.md',
    )
  ),
]
SRDL = [sys.executable, '-m', 'srdl_jax']

# Commands that are run as they stand, with flags that make them short.
OWN_IMAGES = {
  'srdl train --config=folder:path=DIR,model=resnet18 --workdir=runs/mine': (
    '--config.epochs=2',
    '--config.model.name=resnet8',
    '--config.data.image_size=32',
  ),
  'srdl predict --workdir=runs/mine photo.jpg': (),
  'srdl evaluate --workdir=runs/mine --data=FOLDER --details=details': (),
  'srdl weights export --workdir=runs/mine --out=exported': (),
}
NOT_RUN = {
  'python3 -m venv .venv && . .venv/bin/activate && pip install -e . && '
  'srdl demo': 'installs: .ci/run runs it, reproduce/test_demo.py its end',
  'python3 -m venv .venv && . .venv/bin/activate && '
  "pip install -e '.[test]' && ruff check . && pytest -q -n auto": (
    'installs, and runs these tests: .ci/run runs it'
  ),
}
PROGRAMS = ('srdl', 'python', 'python3', 'pip', 'pytest', 'ruff', 'export')
# First words of blocks that are no commands: Python, and what a command prints.
PYTHON, SAMPLE = ('import', 'from'), ('digits,',)


def blocks(text):
  """Returns the indented and the fenced blocks, each a list of lines."""
  found, lines, fenced, open_ = [], text.splitlines(), False, False
  for number, line in enumerate(lines):
    if line.startswith('```'):
      fenced = not fenced
      open_ = False
      continue
    goes_on = open_ and not line.strip()
    if not (fenced or line.startswith('    ') or goes_on):
      open_ = False
      continue
    if not open_:
      # What is indented below a line of text belongs to that.
      if not fenced and number and lines[number - 1].strip():
        continue
      found.append([])
      open_ = True
    found[-1].append(line if fenced else line[4:])
  return found


def first_word(block):
  return block[0].split()[0]


def commands(text):
  """Returns the commands of the blocks, whole where a backslash broke them."""
  found = []
  for block in blocks(text):
    if first_word(block) in PROGRAMS:
      joined = '\n'.join(block).replace('\\\n', ' ')
      found += [' '.join(line.split()) for line in joined.splitlines()]
  return [line for line in found if line]


def python_block(text):
  (block,) = (b for b in blocks(text) if first_word(b) in PYTHON)
  return '\n'.join(block)


def test_blocks_are_found():
  text = (
    'a\n\n    srdl x \\\n      --y\n    pip z\n\nb\n    c\n```\nsrdl q\n```\n'
  )
  assert commands(text) == ['srdl x --y', 'pip z', 'srdl q']


def test_every_block_of_the_readme_is_of_a_kind():
  firsts = {first_word(block) for block in blocks(README.read_text())}
  assert firsts <= {*PROGRAMS, *PYTHON, *SAMPLE}


def test_every_command_of_the_readme_is_run_or_has_a_reason():
  assert not OWN_IMAGES.keys() & NOT_RUN.keys()
  found = commands(README.read_text())
  assert len(set(found)) == len(found)
  assert {*found} == OWN_IMAGES.keys() | NOT_RUN.keys()
  # They are run in the README's order.
  assert [line for line in found if line in OWN_IMAGES] == [*OWN_IMAGES]


def test_ci_finds_its_commands_by_these_words():
  script = (started.ROOT / '.ci' / 'run').read_text()
  words = re.findall(r"^ *\(?readme_command .* '(.*)'", script, re.M)
  assert len(words) == 2
  for line, word in zip(NOT_RUN, words, strict=True):
    first = next(x for x in README.read_text().splitlines() if word in x)
    assert first.strip() == line


@pytest.mark.parametrize(
  'page', [README, *DOCS], ids=lambda page: page.relative_to(started.ROOT).name
)
def test_commands_name_what_is_there(page):
  for line in commands(page.read_text()):
    arguments = shlex.split(line)
    if arguments[0] == 'srdl':
      assert arguments[1] in COMMANDS, line
      # Files of --config, and the fields behind it.
      given.resolved(arguments)


def links(text):
  bare = re.sub(r'<!--.*?-->', '', text, flags=re.S)
  return re.findall(r'\]\(([^)\s]+)\)', bare)


@pytest.mark.parametrize(
  'page', PAGES, ids=lambda page: str(page.relative_to(started.ROOT))
)
def test_links_resolve(page):
  for link in links(page.read_text()):
    if not re.match(r'\w+:', link):
      assert (page.parent / link.partition('#')[0]).exists(), link


def test_the_readme_and_the_start_link_every_page_of_docs():
  linked = {
    (page.parent / link.partition('#')[0]).resolve()
    for page in (README, README.parent / 'docs' / 'index.md')
    for link in links(page.read_text())
  }
  assert {page.resolve() for page in DOCS} <= linked


def test_the_start_shows_what_the_readme_does():
  start = blocks((started.ROOT / 'docs' / 'index.md').read_text())
  readme = blocks(README.read_text())
  assert len(start) == 2 and all(block in readme for block in start)


# As they stand.


def write_crops(folder, offset):
  """Writes FOLDER/<picture>/<n>.jpg: squares of scikit-learn's two pictures."""
  pictures = sklearn.datasets.load_sample_images()
  for file, pixels in zip(pictures.filenames, pictures.images, strict=True):
    name = os.path.splitext(os.path.basename(file))[0]
    (folder / name).mkdir(parents=True)
    places = itertools.product(range(0, 340, 80), range(0, 560, 80))
    for number, (top, left) in enumerate(places):
      part = pixels[top + offset :, left + offset :][:72, :72]
      Image.fromarray(part).save(folder / name / f'{number}.jpg')


@pytest.mark.slow
def test_own_images_to_prediction(tmp_path):
  write_crops(tmp_path / 'DIR', 0)
  write_crops(tmp_path / 'FOLDER', 8)
  os.symlink('DIR/china/0.jpg', tmp_path / 'photo.jpg')
  env = {**os.environ, 'PYTHONPATH': str(started.ROOT)}
  told = []
  for line, short in OWN_IMAGES.items():
    arguments = [*SRDL, *shlex.split(line)[1:], *short]
    done = started.run(arguments, cwd=tmp_path, env=env, check=True)
    told.append(done.stdout)
  _, predicted, evaluated, _ = told
  assert re.fullmatch(r'photo.jpg( +(china|flower) [\d.]+ %){2}\n', predicted)
  found = json.loads(evaluated)
  assert found['data'] == 'FOLDER' and found['examples'] == 70
  result = json.loads((tmp_path / 'runs/mine/result.json').read_text())
  assert result['data']['train_examples'] in range(50, 62)
  # What the README says of them.
  details = {path.name for path in (tmp_path / 'details').iterdir()}
  tables = {'predictions.csv', 'per_class.csv'}
  assert tables | {'confusion.png', 'worst.png'} <= details
  exported = {path.suffix for path in (tmp_path / 'exported').iterdir()}
  assert {'.safetensors', '.stablehlo', '.py'} <= exported
  script = [sys.executable, 'exported/predict.py', 'photo.jpg']
  bare = {name: value for name, value in env.items() if name != 'PYTHONPATH'}
  done = started.run(script, cwd=tmp_path, env=bare, check=True)
  assert {line.split()[0] for line in done.stdout.splitlines()} == {
    'china',
    'flower',
  }


@pytest.mark.slow
def test_python_of_the_readme(tmp_path):
  program = python_block(README.read_text())
  for long, short in {
    "'epochs': 40": "'epochs': 2",
    'epochs=40': 'epochs=2',
  }.items():
    assert program.count(long) == 1
    program = program.replace(long, short)
  program += '\nprint(both, own.predict(images[:3]).shape)\n'
  env = {**os.environ, 'PYTHONPATH': str(started.ROOT)}
  done = started.run(
    [sys.executable, '-c', program], cwd=tmp_path, env=env, check=True
  )
  assert (tmp_path / 'runs/python/result.json').exists()
  assert "{'accuracy': 0." in done.stdout
  *_, last = done.stdout.splitlines()
  assert re.fullmatch(r'<Run resnet8, srdl: ensemble of .*> \(3, 10\)', last)


USING = started.ROOT / 'docs' / 'using.md'


@pytest.mark.slow
def test_networks_data_and_methods_of_ones_own(tmp_path):
  text = USING.read_text()
  (mine,) = (b for b in blocks(text) if b[0] == 'import flax.linen as nn')
  (tmp_path / 'mine.py').write_text('\n'.join(mine))
  lines = [line for line in commands(text) if '--import=mine' in line]
  assert len(lines) == 2
  env = {**os.environ, 'PYTHONPATH': str(started.ROOT)}
  short = ['--config.epochs=6'], ['--json']
  for line, more in zip(lines, short, strict=True):
    arguments = [*SRDL, *shlex.split(line)[1:], *more]
    done = started.run(arguments, cwd=tmp_path, env=env, check=True)
  assert json.loads(done.stdout)['examples'] == 79
  # Without it nothing of a user's own is executed.
  bare = [word for word in shlex.split(lines[1])[1:] if 'import' not in word]
  done = started.run([*SRDL, *bare], cwd=tmp_path, env=env)
  assert done.returncode == 2 and '--import=MODULE' in done.stderr


@pytest.mark.slow
def test_python_of_using(tmp_path):
  (program,) = (
    b for b in blocks(USING.read_text()) if b[0] == 'import srdl_jax'
  )
  text = '\n'.join(program)
  assert text.count("'epochs': 20") == 1
  text = text.replace("'epochs': 20", "'epochs': 2")
  text += '\nassert again.predict(digits.test.images).shape == (360, 10)\n'
  env = {**os.environ, 'PYTHONPATH': str(started.ROOT)}
  started.run([sys.executable, '-c', text], cwd=tmp_path, env=env, check=True)


# In their order, made short.
TUTORIAL = started.ROOT / 'docs' / 'tutorial.md'
SAMPLES = ('resnet8,', 'checkpoint', 'new.png')


@pytest.mark.slow
def test_the_tutorial(tmp_path):
  env = {**os.environ, 'PYTHONPATH': str(started.ROOT)}
  said, kinds = {}, set()
  for block in blocks(TUTORIAL.read_text()):
    first = first_word(block)
    kinds.add(first)
    programs = []
    if first in PYTHON:
      programs.append(['-c', '\n'.join(block)])
    elif first in PROGRAMS:
      for line in filter(None, block):
        program, *rest = shlex.split(line.replace('epochs=60', 'epochs=2'))
        programs.append(
          ['-m', 'srdl_jax', *rest] if program == 'srdl' else rest
        )
    for program in programs:
      command = [sys.executable, *program]
      done = started.run(command, cwd=tmp_path, env=env, check=True)
      said[program[2 if program[1] == 'srdl_jax' else 0]] = done.stdout
  assert kinds <= {*PYTHON, *PROGRAMS, *SAMPLES}
  kinds = {'bands', 'checks', 'stripes'}
  assert set(re.findall(r'[a-z]{5,}', said['exported/predict.py'])) == kinds
  assert re.fullmatch(r'new.png( +\w+ [\d.]+ %){3}\n', said['predict'])
  assert json.loads(said['evaluate'])['examples'] == 120
  assert {'vanilla', 'srdl'} <= set(
    re.findall(r'resnet8, (\w+) \|', (tmp_path / 'report.md').read_text())
  )
  assert (tmp_path / 'details' / 'worst.png').exists()


def test_other_pages_programs_are_run():
  known = {USING, TUTORIAL, FAQ}
  for page in DOCS:
    if page not in known:
      firsts = [first_word(b) for b in blocks(page.read_text())]
      assert not {*firsts} & {*PYTHON}, page


FAQ = started.ROOT / 'docs' / 'faq.md'


def test_the_loss_alone():
  done = started.python('-c', python_block(FAQ.read_text()), check=True)
  # By hand: .6 of the mass at T = 3 is softened already; the label's
  # probability is 1 / (1 + e^-2 + e^-3).
  loss = re.match(r'[\d.]+', done.stdout)[0]
  soft = np.array([0.6, 0.3, 0.1])
  student = np.exp(np.array([2, 0, -1]) / 3)
  student /= student.sum()
  by_hand = np.log(1 + np.exp(-2) + np.exp(-3))
  by_hand += 9 * (soft * np.log(soft / student)).sum()
  assert float(loss) == pytest.approx(by_hand, rel=1e-5)
