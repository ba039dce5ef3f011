# SPDX-License-Identifier: Apache-2.0
"""A network as a folder that needs nothing of this package."""

import json
import re
import shutil
import sys

import numpy as np
import photos
import pytest
import safetensors
import started
from PIL import Image

from srdl_jax import artefact, predict, trained


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A run whose images are gone."""
  fields = {'model.name': 'resnet8', 'epochs': 2, 'data.image_size': 31}
  place = tmp_path_factory.mktemp('exported')
  return photos.train_and_remove(place, **fields)


def _export(place, *more):
  return started.python(
    *('-m', 'srdl_jax.weights', 'export', f'--workdir={place / "run"}'), *more
  )


@pytest.mark.slow
def test_it_predicts_what_the_run_does_without_the_package(place, tmp_path):
  done = _export(place, f'--out={tmp_path / "out"}', '--checkpoint=stage_1')
  assert done.returncode == 0, done.stderr
  names = done.stdout.partition(': ')[2].strip().split(', ')
  out = tmp_path / 'out'
  assert sorted(names) == sorted(path.name for path in out.iterdir())
  described = artefact.read(out)
  assert described.classes == photos.CLASSES and len(described.networks) == 1
  rng = np.random.default_rng(3)
  files = []
  # Margins that are odd, upright and lying, large and small.
  for number, size in enumerate([(41, 36), (36, 41), (97, 31), (20, 20)]):
    files.append(tmp_path / f'{number}.png')
    photos.draw(rng, number % 3, size).save(files[-1])
  files.append(tmp_path / 'deep.png')
  deep = rng.integers(0, 65536, (40, 50), np.uint16)
  Image.fromarray(deep).save(files[-1])
  files.append(tmp_path / 'palette.png')
  photos.draw(rng, 2, (40, 50)).quantize(64).save(files[-1])
  opened = trained.open_classifiers({place / 'run': 'stage_1'})
  said = predict.of_files(opened, [str(file) for file in files])
  for row, file in enumerate(files):
    told = started.run(
      [sys.executable, '-I', str(out / 'predict.py'), str(file)], cwd=tmp_path
    )
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert len(lines) == 3
    for line, (label, share) in zip(lines, said.best(row, 3), strict=True):
      name, told_share = line.split()
      assert name == photos.CLASSES[label]
      # Resizing in one go and cutting afterwards differ by a level.
      assert float(told_share.rstrip('%')) == pytest.approx(100 * share, abs=2)


@pytest.mark.slow
def test_its_card_tells_metrics_and_how_it_was_trained(place, tmp_path):
  out = tmp_path / 'out'
  assert _export(place, f'--out={out}').returncode == 0
  card = (out / 'README.md').read_text()
  result = json.loads((place / 'run' / 'result.json').read_text())
  for stage in result['stages']:
    assert f'{stage["test"]["nll"]:.4f}' in card
  command = re.search('^    srdl train (.*) --workdir=DIR$', card, re.M)[1]
  start = '--config=folder:path=DIR,model=resnet8,method=srdl '
  assert command.startswith(start)
  assert '--config.data.image_size=31 ' in f'{command} '
  # Nothing is written over.
  before = {path: path.read_bytes() for path in out.iterdir()}
  again = _export(place, f'--out={out}')
  assert again.returncode == 4 and 'is not empty' in again.stderr
  assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.slow
def test_an_unfinished_run_is_exported_without_metrics(place, tmp_path):
  shutil.copytree(place / 'run', tmp_path / 'run')
  (tmp_path / 'run' / 'result.json').unlink()
  assert _export(tmp_path, f'--out={tmp_path / "out"}').returncode == 0
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert 'was not finished' in card


@pytest.mark.slow
def test_files_alone_carry_what_the_network_sees_and_says(place, tmp_path):
  expected = json.loads((place / 'run' / 'model.json').read_text())
  for name in ('a.safetensors', 'a.stablehlo'):
    assert _export(place, f'--out={tmp_path / name}').returncode == 0
  with safetensors.safe_open(tmp_path / 'a.safetensors', 'np') as file:
    told = json.loads(file.metadata()['artefact'])
  beside = json.loads((tmp_path / 'a.stablehlo.json').read_text())
  assert told == beside == {name: expected[name] for name in told}
  assert told['classes'] == list(photos.CLASSES)


@pytest.mark.parametrize(
  ('arguments', 'code', 'message'),
  [
    (['--out=a/resnet-v1.0'], 2, 'say --format=folder, safetensors'),
    (['--out=gs://bucket/a'], 4, '--out'),
    (['--out=a', '--checkpoint=ensemble'], 2, 'several networks'),
  ],
)
def test_bad_command_lines_are_one_line(place, arguments, code, message):
  told = _export(place, *arguments)
  assert told.returncode == code and message in told.stderr, told.stderr
  assert len(told.stderr.splitlines()) == 1
