# SPDX-License-Identifier: Apache-2.0
"""docs/keys.py tells every key that a run writes, and none that none does."""

import importlib.util
import json
import re

import made_market
import pytest
import started
import tiny

from srdl_jax import models, srdl
from srdl_jax.fields import FIELDS
from srdl_jax.runs import environment, stop_request

SHORT = {
  'epochs': 2,
  'data.examples_per_class': 8,
  'checkpoint.every_steps': 0,
  'log.tensorboard': False,
}
NOISY = {'data.label_noise': 0.3}
IMPORTED = {'method': 'kd', 'teacher.model': 'tiny'}
RUNS = {
  'srdl': {**NOISY, 'data.holdout': 20},
  'online': {'distillation.online': True},
  'teacher': NOISY,
  'imported': {**NOISY, **IMPORTED},
  'imported online': {**NOISY, **IMPORTED, 'distillation.online': True},
  'mean teacher': {'method': 'mean_teacher', 'epochs': 1},
  'options': {
    'method': 'vanilla',
    'model.name': 'optioned',
    'model.shortcut': 'identity',
    'model.stem': 'small',
    'epochs': 1,
  },
  'persons': {
    'data.name': 'market1501',
    'data.examples_per_class': 0,
    'data.allow_differences': True,
    'data.image_size': 32,
    'optimiser.learning_rate': 0.01,
  },
}


class Optioned(tiny.Tiny):
  """Has the options that families have."""

  shortcut: str = ''
  small_stem: bool = False


# There is none on a CPU.
OF_ACCELERATORS = 'peak_memory_bytes.device'


def load():
  spec = importlib.util.spec_from_file_location(
    'keys', started.ROOT / 'docs' / 'keys.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


KEYS = load()
OPEN = {
  'FIELD': FIELDS,
  'NETWORK': models.MODELS,
  'PACKAGE': environment.PACKAGES,
  'OPTION': environment.OPTIONS,
}


def paths(value, place=''):
  """Yields the way to each value that is no object, nor a list of them."""
  if isinstance(value, dict):
    for name, inner in value.items():
      yield from paths(inner, f'{place}.{name}' if place else name)
  elif isinstance(value, list) and value and isinstance(value[0], dict):
    for inner in value:
      yield from paths(inner, f'{place}[]')
  else:
    yield place


def meant(table):
  """Yields (as it is told, way, words) of all that a table's keys stand for."""

  def spelled(key):
    word = next(iter(re.findall(r'\b[A-Z]{4,}\b', key)), None)
    names = {**KEYS.WORDS, **OPEN}.get(word, ())
    if word is None:
      yield key, ()
    for name in names:
      for way, words in spelled(key.replace(word, name, 1)):
        yield way, ((word, name), *words)

  for key in table:
    yield from ((key, way, words) for way, words in spelled(key))


def test_tables_are_spelled_out():
  found = {way for _, way, _ in meant({'a.NOISE': ('', ''), 'b[].c': ('', '')})}
  assert found == {*(f'a.{name}' for name in KEYS.NOISE), 'b[].c'}
  assert {*paths({'a': [{'b': 1}, {'c.d': [2, 3]}], 'e': {}})} == {
    'a[].b',
    'a[].c.d',
  }


def test_every_word_is_explained():
  told = {
    word
    for groups in KEYS.FILES.values()
    for table in groups.values()
    for key in {*table, *KEYS.BANK, *KEYS.ENVIRONMENT}
    for word in re.findall(r'\b[A-Z]{4,}\b', key)
  }
  assert told == KEYS.WORDS.keys() | OPEN.keys()
  assert KEYS.TITLES.keys() == KEYS.WORDS.keys()
  assert KEYS.OPEN.keys() == OPEN.keys() and KEYS.ABOUT.keys() == {*KEYS.FILES}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """Ways to all that runs write, by the files' names."""
  # Other tests ask what there is.
  models.MODELS['optioned'] = Optioned
  root = tmp_path_factory.mktemp('runs')
  made_market.make(root)
  found = {name: set() for name in KEYS.FILES}
  for name, fields in RUNS.items():
    given = {**SHORT, **fields}
    if name.startswith('imported'):
      given['teacher.workdir'] = str(root / 'teacher')
    if name == 'persons':
      given |= {'data.manual_dir': str(root), 'data.data_dir': str(root)}
    config, directory = tiny.config(**given), root / name
    srdl.run(config, str(directory), stop_request.StopRequest())
    for file in found:
      text = (directory / file).read_text()
      lines = text.splitlines() if file.endswith('.jsonl') else [text]
      for line in lines:
        found[file] |= {*paths(json.loads(line))}
  yield found
  del models.MODELS['optioned']


@pytest.mark.slow
@pytest.mark.parametrize('file', KEYS.FILES)
def test_runs_write_what_is_told_and_nothing_else(written, file):
  table = {k: v for one in KEYS.FILES[file].values() for k, v in one.items()}
  told = list(meant(table))
  ways = {way for _, way, _ in told}
  assert not written[file] - ways
  seen = [one for one in told if one[1] in written[file]]
  assert {*table} - {key for key, _, _ in seen} <= {OF_ACCELERATORS}
  # Each name that a word stands for is somewhere.
  used = {pair for _, _, words in told for pair in words}
  unseen = used - {pair for _, _, words in seen for pair in words}
  assert not {pair for pair in unseen if pair[0] != 'NETWORK'}
