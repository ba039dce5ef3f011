# SPDX-License-Identifier: Apache-2.0
"""The front door: commands by name, --help, configurations, wrong fields."""

import importlib.util
import os
import re
import shlex
import sys

import pytest
import started
from absl import flags
from ml_collections import config_flags

from srdl_jax import data, methods, models
from srdl_jax.command import bundled, config, given, usage
from srdl_jax.command.table import COMMANDS
from srdl_jax.errors import ConfigError
from srdl_jax.fields import FIELDS
from srdl_jax.reproduce import TABLES

OF_ML_COLLECTIONS = pytest.mark.filterwarnings('ignore:the load_module')
TAKE_CONFIG = ('train', 'cost', 'config')


def srdl(*arguments, cwd=started.ROOT):
  env = {**os.environ, 'PYTHONPATH': str(started.ROOT), 'COLUMNS': '100'}
  command = [sys.executable, '-m', 'srdl_jax', *map(str, arguments)]
  return started.run(command, cwd=cwd, env=env)


def refused(done, pattern):
  """Whether a command said one line of that pattern, and ended with 2."""
  assert done.returncode == 2 and not done.stdout, done.stderr
  assert re.fullmatch(f'error: .*({pattern}).*\n', done.stderr), done.stderr


# Commands by their names.


@pytest.mark.parametrize('arguments', [(), ('-h',), ('--help',)])
def test_alone_it_tells_the_commands(arguments):
  done = srdl(*arguments)
  assert done.returncode == 0 and not done.stderr
  for name, command in COMMANDS.items():
    assert re.search(
      f'^  {name} +{re.escape(command.line)}$', done.stdout, re.M
    )


def test_it_tells_them_without_jax():
  program = (
    'import sys; from srdl_jax import __main__ as m; sys.argv[1:] = []\n'
    'm.main(); sys.exit("jax" in sys.modules)'
  )
  env = {**os.environ, 'PYTHONPATH': str(started.ROOT)}
  assert not started.run([sys.executable, '-c', program], env=env).returncode


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_is_there(name):
  found = importlib.util.find_spec(COMMANDS[name].module)
  if found and found.submodule_search_locations:
    found = importlib.util.find_spec(f'{COMMANDS[name].module}.__main__')
  assert found, COMMANDS[name].module


def test_every_module_that_is_a_command_has_a_name():
  modules = {
    '.'.join(path.relative_to(started.ROOT).with_suffix('').parts)
    for path in (started.ROOT / 'srdl_jax').rglob('*.py')
    if '\n  command.run(main' in path.read_text()
  }
  named = {command.module for command in COMMANDS.values()}
  assert {name.removesuffix('.__main__') for name in modules} == named


def test_an_unknown_command_is_one_line():
  refused(srdl('trian'), "Unknown command 'trian'; known: demo, train, ")


def test_a_command_gets_its_arguments_and_ends_with_its_code(tmp_path):
  done = srdl('evaluate', f'--workdir={tmp_path}/none')
  assert done.returncode == 4 and 'none/config.json' in done.stderr
  done = srdl('cost', '--config=digits:method=vanilla', cwd=tmp_path)
  assert done.stdout.startswith('digits, vanilla: 1,437 training images')
  assert not done.returncode


# Configurations that come along.


def test_every_file_comes_along_by_its_name(tmp_path, monkeypatch):
  files = {path.stem for path in (started.ROOT / 'configs').glob('*.py')}
  monkeypatch.chdir(tmp_path)
  assert set(bundled.names()) == files
  for name in files:
    for form in (name, f'{name}.py', f'configs/{name}.py'):
      assert bundled.find(form) == started.ROOT / 'configs' / f'{name}.py'
    assert bundled.about(name)


def test_a_file_that_is_there_wins(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'digits').mkdir()
  assert bundled.find('digits').parent == started.ROOT / 'configs'
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'digits.py').touch()
  assert bundled.find('configs/digits.py').absolute().parent.parent == tmp_path
  (tmp_path / 'digits').rmdir()
  (tmp_path / 'digits').touch()
  assert bundled.find('digits').absolute() == tmp_path / 'digits'


@pytest.mark.parametrize('name', ['digts', 'configs/none.py', 'digits.txt', ''])
def test_a_file_that_is_not_there_names_those_that_are(name):
  with pytest.raises(
    ConfigError, match='there is no such file.*known: cifar10'
  ):
    bundled.find(name)


# Wrong fields.


def misspelt(word):
  yield word[:-1]
  yield word[1:]
  yield f'{word[:2]}{word[2:3]}{word[2:]}'
  yield f'{word[:-2]}{word[-1]}{word[-2]}'


@pytest.mark.parametrize('field', FIELDS)
def test_a_misspelt_field_names_the_right_one_at_each_level(field):
  parts = field.split('.')
  for level, part in enumerate(parts):
    for wrong in misspelt(part):
      name = '.'.join([*parts[:level], wrong, *parts[level + 1 :]])
      if name in FIELDS or name == field:
        continue
      with pytest.raises(ConfigError) as caught:
        given.check_field(name)
      told = str(caught.value)
      assert f"Unknown config field '{name}'" in told and '\n' not in told
      assert f'did you mean --config.{field}?' in told, told


def test_right_fields_are_none_to_complain_of():
  for field in FIELDS:
    given.check_field(field)


WRONG = [
  ('optimiser.learning_rte=4', 'did you mean --config.optimiser.learning_rate'),
  ('optimizer.learning_rate=4', 'you mean --config.optimiser.learning_rate'),
  ('modle.name=x', 'did you mean --config.model.name'),
  ('learning_rate=4', 'did you mean --config.optimiser.learning_rate'),
  ('seed.foo=4', '--config.seed=VALUE sets it'),
  ('model.name.foo=4', '--config.model.name=VALUE sets it'),
  ('model=resnet8', 'is a group of fields; known: model.name, model.shortcut'),
  ('modle=resnet8', r'the group model\? Known: model.name, model.shortcut'),
  ('nonsense=1', 'known: seed, method, .*, optimiser.*'),
]


@pytest.mark.parametrize(('wrong', 'pattern'), WRONG)
def test_a_wrong_field_is_told_with_the_remedy(wrong, pattern):
  with pytest.raises(ConfigError, match=pattern):
    given.resolved(['x', '--config=digits', f'--config.{wrong}'])


@pytest.mark.parametrize(
  ('arguments', 'pattern'),
  [
    *(((f'--config.{wrong}',), pattern) for wrong, pattern in WRONG[:2]),
    (('--config.seed.foo=4',), 'sets it'),
    (('--config.model=resnet8',), 'is a group of fields'),
    (('--noconfig.augment.flp',), 'did you mean --config.augment.flip'),
    (('--config.epochs=many',), 'epochs.*many'),
    (('--config.batch_size=0',), 'out of range'),
  ],
)
def test_a_wrong_command_line_is_one_line(arguments, pattern):
  done = started.python(
    '-m', 'srdl_jax.cost', '--config=configs/digits.py', *arguments
  )
  refused(done, pattern)


def test_fields_without_a_file_ask_for_it():
  with pytest.raises(ConfigError, match='--config=FILE is missing'):
    given.resolved(['x', '--config.seed=3'])


# Help.


@pytest.mark.parametrize('name', COMMANDS)
def test_help_tells_usage_examples_and_own_flags(name):
  env = {**os.environ, 'COLUMNS': '100'}
  done = started.python('-m', COMMANDS[name].module, '--help', env=env)
  assert done.returncode == 0 and not done.stderr, done.stderr
  text = done.stdout
  assert f'usage:\n  srdl {name} ' in text
  assert f'examples:\n  srdl {name} ' in text and '\nflags:\n  --' in text
  assert 'verbosity' not in text and 'pdb' not in text
  assert max(map(len, text.splitlines())) <= 100
  assert ('methods:' in text) == (name in TAKE_CONFIG)
  if name in TAKE_CONFIG:
    for field in FIELDS:
      assert re.search(f'^  {re.escape(field)} +[^ ]', text, re.M), field
    # Not those of tests, which other files of this process may have added.
    ours = [n for n in models.MODELS if n != 'tiny']
    lists = methods.METHODS, ours, data.DATASETS, bundled.names()
    for known in (*(n for names in lists for n in names), 'weight_decay'):
      assert re.search(rf'\b{known}\b', text), known
  if name == 'reproduce':
    told = text.replace('table1 to table6', ' '.join(TABLES))
    assert not [table for table in TABLES if table not in told]


@pytest.mark.parametrize('name', COMMANDS)
def test_examples_name_configurations_and_fields_that_are_there(name):
  for example in COMMANDS[name].examples:
    arguments = ['x', *shlex.split(example)]
    assert len(given.resolved(arguments)) == len(arguments)


def test_a_fields_line_has_default_meaning_and_range(monkeypatch):
  monkeypatch.setenv('COLUMNS', '100')
  lines = [line.strip() for line in usage.fields().splitlines()]
  assert re.fullmatch(
    r'optimiser.learning_rate +0.1 +initial rate\. Above 0\.',
    next(line for line in lines if line.startswith('optimiser.learn')),
  )
  text = ' '.join(' '.join(lines).split())
  assert 'cifar100 one of the data sets above.' in text
  assert 'network, one of the models above.' in text
  for field in FIELDS.values():
    # Tables of names stand above.
    meaning = field.meaning.partition('a key of')[0]
    for told in (meaning, usage.shown(field.default), field.range[1:]):
      assert ' '.join(told.split()) in text, told


# srdl config.


def resolve(*arguments):
  """Returns what `srdl config` shows of a configuration, by field."""
  values = flags.FlagValues()
  line = given.resolved(['srdl', *arguments])
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=line)
  values(line)
  made = {name: values.config[name] for name in FIELDS}
  text = config.table(
    made, set(config_flags.get_override_values(values['config']))
  )
  return made, text


@OF_ML_COLLECTIONS
def test_a_configuration_is_shown_with_what_is_not_the_default():
  made, text = resolve(
    '--config=digits:recipe=strong', '--config.schedule.decay_at=(0.3, 0.6)'
  )
  values, _, _ = text.partition('Recipes')
  marked = dict(re.findall(r'^\* (\S+) +(.*)$', values, re.M))
  differ = {n for n, v in made.items() if v != FIELDS[n].default}
  assert set(marked) == differ and 'epochs' in differ
  assert re.fullmatch(
    r'40 +default: 200; set by the configuration', marked['epochs']
  )
  assert re.fullmatch(
    r"'\(0.3, 0.6\)' +default: '\(0.5, 0.75\)'; set by the command line",
    marked['schedule.decay_at'],
  )
  for name in FIELDS:
    assert re.search(f'^[ *] {re.escape(name)} +[^ ]', text, re.M), name
  assert 'agrees with: strong.' in text


@OF_ML_COLLECTIONS
def test_the_defaults_are_the_papers_recipe():
  _, text = resolve('--config=cifar100')
  assert '\n* ' not in text.partition('Recipes')[0]
  assert 'agrees with: paper.' in text


def test_what_a_run_would_refuse_is_refused():
  def show(*arguments):
    return started.python('-m', COMMANDS['config'].module, *arguments)

  refused(show('--config=digits:method=srld'), "'srld'; known: ")
  refused(show('--config=digits:model=resnt'), "'resnt'; known: ")
  done = show('--config=digits', '--config.data.name=digit')
  refused(done, "data set 'digit'; known: ")
  done = show('--config=digits')
  assert done.returncode == 0 and done.stdout.startswith('--config=')
