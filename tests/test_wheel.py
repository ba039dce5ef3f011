# SPDX-License-Identifier: Apache-2.0
"""What is installed is whole: it needs no checkout, and knows its commit."""

import configparser
import os
import pathlib
import shutil
import sys
import zipfile

import pytest
import started

SOURCES = ('srdl_jax', 'configs', 'setup.py', 'pyproject.toml', 'README.md')
BUILD = 'from setuptools import build_meta as b; print(b.build_{}({!r}))'
COMMIT = (
  'import jax\n'
  'from srdl_jax.runs import environment\n'
  "print(environment.environment(jax.devices())['commit'])"
)


def git(folder, *arguments):
  identity = ('-c', 'user.name=a', '-c', 'user.email=a@example.org')
  command = ['git', *identity, '-C', str(folder), *arguments]
  return started.run(command, check=True).stdout.strip()


def copy(folder):
  """Returns a repository of these sources, and its commit."""
  folder.mkdir()
  for name in SOURCES:
    source, target = started.ROOT / name, folder / name
    if source.is_dir():
      passing = shutil.ignore_patterns('__pycache__')
      shutil.copytree(source, target, ignore=passing)
    else:
      shutil.copy(source, target)
  git(folder, 'init', '--quiet')
  git(folder, 'add', '.')
  git(folder, 'commit', '--quiet', '--message=All of it')
  return folder, git(folder, 'rev-parse', '--short=12', 'HEAD')


def built(kind, sources, folder):
  program = BUILD.format(kind, str(folder))
  done = started.run([sys.executable, '-c', program], cwd=sources, check=True)
  return folder / done.stdout.split()[-1]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Returns the commit of the sources, and the wheel, unpacked elsewhere."""
  folder = tmp_path_factory.mktemp('wheel')
  sources, commit = copy(folder / 'sources')
  wheel = built('wheel', sources, folder)
  # Nothing was written that git would call a change of the sources.
  assert not (sources / 'srdl_jax' / '_commit').exists()
  zipfile.ZipFile(wheel).extractall(folder / 'installed')
  yield commit, sources, folder / 'installed'


def run(installed, directory, *arguments):
  env = {**os.environ, 'PYTHONPATH': str(installed)}
  command = [sys.executable, *map(str, arguments)]
  return started.run(command, cwd=directory, env=env, check=True).stdout


def installed_files(folder):
  return {path.name for path in pathlib.Path(folder).rglob('*.py')}


@pytest.mark.slow
def test_a_wheel_has_everything(made):
  commit, sources, installed = made
  assert installed_files(sources / 'srdl_jax') <= installed_files(installed)
  configs = installed / 'srdl_jax' / 'configs'
  assert installed_files(configs) == installed_files(sources / 'configs')
  (told,) = installed.glob('*.dist-info/entry_points.txt')
  scripts = configparser.ConfigParser()
  scripts.read(told)
  assert scripts['console_scripts']['srdl'] == 'srdl_jax.__main__:main'


@pytest.mark.slow
@pytest.mark.parametrize(
  ('arguments', 'told'),
  [
    (['cost', '--config=cifar100'], 'cifar100, srdl: 50,000 training images'),
    (
      ['cost', '--config=configs/cifar100.py:model=resnet8,method=vanilla'],
      'cifar100, vanilla: 50,000',
    ),
    (
      ['reproduce', 'table1', '--scale=smoke', '--dry-run'],
      '--config=configs/digits.py:model=resnet8,method=srdl',
    ),
    (['cost', '--help'], 'Tiny ImageNet: Tables 1 and 2'),
  ],
)
def test_it_works_from_an_empty_directory(made, tmp_path, arguments, told):
  _, _, installed = made
  assert told in run(installed, tmp_path, '-m', 'srdl_jax', *arguments)
  assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_runs_of_it_record_its_commit(made, tmp_path):
  commit, _, installed = made
  assert run(installed, tmp_path, '-c', COMMIT).strip() == commit


@pytest.mark.slow
def test_a_wheel_of_an_sdist_knows_the_commit_too(made, tmp_path):
  commit, sources, _ = made
  archive = built('sdist', sources, tmp_path)
  shutil.unpack_archive(archive, tmp_path, filter='data')
  (unpacked,) = (p for p in tmp_path.iterdir() if p.is_dir())
  wheel = zipfile.ZipFile(built('wheel', unpacked, tmp_path))
  assert wheel.read('srdl_jax/_commit').decode().strip() == commit
  assert 'srdl_jax/configs/cifar100.py' in wheel.namelist()


@pytest.mark.slow
def test_an_editable_install_is_found_from_beside_the_checkout(tmp_path):
  """Whose folder has the package's name, and none of its modules in it."""
  sources, _ = copy(tmp_path / 'srdl_jax')
  wheel = built('editable', sources, tmp_path)
  zipfile.ZipFile(wheel).extractall(tmp_path / 'site')
  program = (
    'import site, sys; sys.path.insert(0, ""); '
    f'site.addsitedir({str(tmp_path / "site")!r}); '
    'import srdl_jax; print(srdl_jax.__version__)'
  )
  # Without what else is installed here.
  call = [sys.executable, '-S', '-c', program]
  told = started.run(call, cwd=tmp_path, check=True)
  assert told.stdout.strip()
