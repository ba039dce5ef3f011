# SPDX-License-Identifier: Apache-2.0
"""The loss around networks (Figure 4), by closed forms and on real runs."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import started
import tiny

from srdl_jax import evaluate, models, network, srdl, trained
from srdl_jax.errors import CheckpointError, ConfigError
from srdl_jax.flatness import KINDS, landscape
from srdl_jax.flatness import __main__ as flatness_command
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import stop_request

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = """
import runpy, sys
sys.path.append('tests')
import functools
import tiny
tiny.models.MODELS['wide'] = functools.partial(tiny.Tiny, width=12)
runpy.run_module('srdl_jax.flatness', run_name='__main__', alter_sys=True)
"""


def run(directory, **fields):
  config = tiny.config(**{'epochs': 2, **fields})
  srdl.run(config, str(directory), stop_request.StopRequest())
  return directory


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run of SRDL and one of vanilla."""
  folder = tmp_path_factory.mktemp('runs')
  return [run(folder / name, method=name) for name in ('srdl', 'vanilla')]


@pytest.fixture(scope='module')
def loaded(finished):
  return flatness_command.load_all([str(d) for d in finished], 'final', None)


@pytest.fixture
def resnet(drawn_variables):
  """Parameters of convolutions, batch norms and a classifier."""
  model = models.create('resnet8', 10)
  return drawn_variables(model, jnp.zeros((1, 8, 8, 3)))['params']


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_literal_directions_have_unit_length(resnet):
  v, w = (flat(landscape.direction('literal', resnet, 0, n)) for n in (0, 1))
  for one in (v, w):
    assert one.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(np.float64(one)), 1, rtol=1e-6)
  # Independent directions in D dimensions have a cosine of about 1 / sqrt(D).
  assert abs(v @ w) < 4 / np.sqrt(v.size)


def test_literal_directions_are_the_same_for_all_parameters(resnet):
  others = jax.tree.map(lambda theta: 3 * theta + 1, resnet)
  v, same, reseeded = (
    flat(landscape.direction('literal', params, seed, 5))
    for params, seed in ((resnet, 0), (others, 0), (resnet, 1))
  )
  np.testing.assert_array_equal(v, same)
  assert abs(v @ reseeded) < 4 / np.sqrt(v.size)


def test_filters_of_a_direction_are_as_long_as_those_of_theta(resnet):
  v = landscape.direction('filter_normalised', resnet, 0, 0)
  draw = landscape.direction('literal', resnet, 0, 0)

  def check(theta, v, draw):
    if theta.ndim == 1:
      assert not v.any()
      return
    for n in range(theta.shape[-1]):
      filters = [np.float64(x[..., n]).ravel() for x in (theta, v, draw)]
      lengths = [np.linalg.norm(x) for x in filters]
      np.testing.assert_allclose(lengths[1], lengths[0], rtol=1e-6)
      # It is the literal draw of the same number, only longer or shorter.
      cosine = filters[1] @ filters[2] / lengths[1] / lengths[2]
      np.testing.assert_allclose(cosine, 1, rtol=1e-6)

  jax.tree.map(check, resnet, v, draw)


def test_losses_along_a_direction_of_logistic_regression(x64):
  # Two classes, z = W x: the loss is log(1 + exp(-m)) of the margin m = (w_y -
  # w_other) x, which moves by d (v_y - v_other) x.
  rng = np.random.default_rng(0)
  images, labels = rng.standard_normal((7, 3)), rng.integers(0, 2, 7)
  variables = {'params': {'kernel': rng.standard_normal((3, 2))}}
  losses_at = landscape.compile_losses(
    lambda variables, images: images @ variables['params']['kernel']
  )
  distances = {kind: [0.0, 0.7, 5.0] for kind in KINDS}
  rows = np.array([6, 0, 1, 3, 4])
  # Blocks of two: the last one is half empty.
  splits = {'train': landscape.place(images, labels, rows, 2)}
  found = landscape.curves(
    losses_at, variables, splits, distances, directions=2, seed=3
  )
  for kind, steps_along in distances.items():
    for number in range(2):
      v = landscape.direction(kind, variables['params'], 3, number)['kernel']
      for n, d in enumerate(steps_along):
        z = images[rows] @ (variables['params']['kernel'] + d * np.asarray(v))
        y = labels[rows]
        margin = z[np.arange(5), y] - z[np.arange(5), 1 - y]
        expected = np.log1p(np.exp(-margin)).mean()
        loss = found[kind]['train'][number][n]
        np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_only_parameters_move(drawn_variables):
  model = tiny.Tiny(10)
  rng = np.random.default_rng(0)
  images = rng.standard_normal((6, 8, 8, 1)).astype(np.float32)
  variables = drawn_variables(model, jnp.asarray(images))
  before = jax.tree.map(np.copy, variables)
  step = functools.partial(model.apply, train=False)
  found = landscape.curves(
    landscape.compile_losses(step),
    variables,
    {'test': landscape.place(images, np.arange(6), np.arange(6), 6)},
    {'literal': [0.0, 3.0]},
    directions=1,
    seed=0,
  )
  jax.tree.map(np.testing.assert_array_equal, variables, before)
  v = landscape.direction('literal', variables['params'], 0, 0)
  moved = jax.tree.map(lambda theta, v: theta + 3 * v, variables['params'], v)
  logits = model.apply({**variables, 'params': moved}, images, train=False)
  expected = -jax.nn.log_softmax(logits)[np.arange(6), np.arange(6)].mean()
  np.testing.assert_allclose(found['literal']['test'][0][1], expected, 1e-5)


def test_losses_that_are_not_finite_are_null():
  variables = {'params': {'kernel': np.ones((3, 2), np.float32)}}
  losses_at = landscape.compile_losses(
    lambda variables, images: images @ variables['params']['kernel']
  )
  images = np.full((1, 3), 100, np.float32)
  splits = {'test': landscape.place(images, np.zeros(1, int), np.arange(1), 1)}
  distances = {'literal': [0.0, 1e38]}
  found = landscape.curves(losses_at, variables, splits, distances, 1, seed=0)
  ((at_theta, far),) = found['literal']['test']
  np.testing.assert_allclose(at_theta, np.log(2), rtol=1e-5)
  assert far is None


def test_curves_begin_at_the_runs_own_losses(finished, loaded):
  experiment, solutions = loaded
  splits = flatness_command.place_images(experiment, solutions, 0, seed=0)
  runs = flatness_command.measure(
    solutions,
    splits=splits,
    distances={'literal': [0.0, 1.0], 'filter_normalised': [0.0, 0.1]},
    directions=2,
    seed=0,
  )
  for directory, found in zip(finished, runs, strict=True):
    own = trained.open_run(directory, None)
    members = trained.load_members(directory, 'final', own)
    for split in flatness_command.SPLITS:
      metrics = evaluate.evaluate([(own, members)], split)
      assert splits[split].count == metrics['examples']
      for kind in KINDS:
        starts = [line[0] for line in found['curves'][kind][split]]
        np.testing.assert_allclose(starts, [metrics['nll']] * 2, rtol=1e-5)
    (variables,) = members.values()
    norm = np.linalg.norm(np.float64(flat(variables['params'])))
    np.testing.assert_allclose(found['norm'], norm, rtol=1e-12)
    assert found['parameters'] == flat(variables['params']).size


def test_one_network_is_compiled_once(loaded, monkeypatch):
  experiment, solutions = loaded
  traced, original = [], network.Network.predict_step

  def predict_step(own, variables, images):
    traced.append(images.shape)
    return original(own, variables, images)

  monkeypatch.setattr(network.Network, 'predict_step', predict_step)
  splits = flatness_command.place_images(experiment, solutions, 0, seed=0)
  flatness_command.measure(
    solutions,
    splits=splits,
    distances={
      'literal': np.linspace(0, 5, 7).tolist(),
      'filter_normalised': np.linspace(0, 1, 4).tolist(),
    },
    directions=3,
    seed=1,
  )
  assert traced == [(100, 8, 8, 1)]


def test_images_are_a_draw_from_those_that_all_runs_trained_on(loaded):
  experiment, (one, other) = loaded
  few = dataclasses.replace(other, train_rows=one.train_rows[50:150])
  images = experiment.dataset.train.images
  known = {images[row].tobytes(): row for row in few.train_rows}

  def rows(seed):
    placed = flatness_command.place_images(experiment, [one, few], 30, seed)
    assert placed['train'].count == placed['test'].count == 30
    block, _ = placed['train'].blocks[0]
    return [known[np.asarray(image).tobytes()] for image in block[:30]]

  drawn = rows(0)
  assert drawn == sorted(set(drawn)) == rows(0) != rows(1)
  none = dataclasses.replace(other, train_rows=np.array([-1]))
  with pytest.raises(ConfigError, match='no training image in common'):
    flatness_command.place_images(experiment, [one, none], 30, 0)


def test_runs_of_different_classes_are_refused(finished, tmp_path):
  other = run(tmp_path, **{'data.classes': 5, 'method': 'vanilla'})
  with pytest.raises(ConfigError, match=r'num_classes \(10 there, 5 here\)'):
    flatness_command.load_all([str(finished[0]), str(other)], 'final', None)


def test_unfinished_runs_and_ensembles_are_refused(finished, tmp_path):
  with pytest.raises(ConfigError, match="'ensemble' is several networks"):
    flatness_command.load(str(finished[0]), 'ensemble', None)
  config = run_directory.CONFIG
  (tmp_path / config).write_text((finished[0] / config).read_text())
  with pytest.raises(CheckpointError, match='not been trained to its end'):
    flatness_command.load(str(tmp_path), 'final', None)


def test_command(finished, tmp_path, monkeypatch):
  network = functools.partial(tiny.Tiny, width=12)
  monkeypatch.setitem(models.MODELS, 'wide', network)
  wide = run(tmp_path / 'w', **{'method': 'vanilla', 'model.name': 'wide'})
  out = tmp_path / 'flatness.json'
  out.write_text('an older file')
  done = started.run(
    [
      *(sys.executable, '-c', COMMAND),
      *(f'--workdir={directory}' for directory in [*finished, wide]),
      f'--out={out}',
      '--directions=2',
      '--points=3',
      '--max_distance=4',
      '--examples=40',
    ],
    cwd=ROOT,
    env={**os.environ, 'PYTHONWARNINGS': 'error'},
  )
  assert done.returncode == 0, done.stderr
  line = 'These are different networks: .*|flatness: .* of 12 directions, .*'
  assert re.fullmatch(f'(({line})\n)+', done.stderr), done.stderr
  found = json.loads(out.read_text())
  assert found['distances'] == [0, 2, 4] and found['alphas'] == [0, 0.5, 1]
  assert found['examples'] == {'train': 40, 'test': 40}
  assert found['directions'] == 2 and found['seed'] == 0
  assert found['device']['platform'] == 'cpu' and 'commit' in found
  assert '--points=3' in found['command']
  names = ['tiny, srdl', 'tiny, vanilla', 'wide, vanilla']
  assert [run['name'] for run in found['runs']] == names
  assert found['runs'][0]['workdir'] == str(finished[0])
  for about in found['runs']:
    assert about['seed'] == 0 and about['checkpoint'] == 'final'
    assert about['config']['epochs'] == 2 and about['config']['seed'] == 0
    assert about['weights'] is None and about['teacher'] is None
    for kind in KINDS:
      for split in flatness_command.SPLITS:
        losses = np.array(about['curves'][kind][split], float)
        assert losses.shape == (2, 3) and (losses > 0).all()
        assert losses[0, 0] == losses[1, 0] and losses[0, 2] != losses[1, 2]
  _, _, *lines = done.stdout.splitlines()
  assert len(lines) == 6
  _, name, norm, kind, *cells, _ = (c.strip() for c in lines[0].split('|'))
  assert name == f'tiny, srdl ({finished[0]})' and kind == 'literal'
  assert norm == f'{found["runs"][0]["norm"]:.4g}'
  means = np.mean(found['runs'][0]['curves']['literal']['test'], axis=0)
  assert cells[3:] == [f'{mean:.4g}' for mean in means]
  assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [out.name]


@pytest.mark.parametrize(
  ('arguments', 'code', 'pattern'),
  [
    (['--out=o'], 2, '--workdir=DIR is missing'),
    (['--workdir=x'], 2, '--out=FILE is missing'),
    (['--workdir=x', '--out=o', '--points=1'], 2, 'points=1'),
    (['--workdir=x', '--out=o', '--directions=0'], 2, 'directions=0'),
    (['--workdir=x', '--out=o', '--examples=-1'], 2, 'examples=-1'),
    (['--workdir=x', '--out=o', '--max_distance=nan'], 2, 'nan must be above'),
    (['--workdir=x', '--out=none/o'], 4, 'none/o cannot be written: No such'),
    (['--workdir=x', '--out=tests'], 4, 'tests cannot be written: it is a'),
    (['--workdir=x', '--out=o'], 4, 'x/config.json cannot be read'),
  ],
)
def test_command_line(arguments, code, pattern):
  done = started.python('-m', 'srdl_jax.flatness', *arguments)
  assert done.returncode == code, done.stderr
  assert re.search(f'error: .*({pattern})', done.stderr), done.stderr
  assert 'Traceback' not in done.stderr and done.stderr.count('\n') == 1
  assert not (ROOT / 'o').exists()
