# SPDX-License-Identifier: Apache-2.0
"""Persons found again: from images to ranks, on a drawn Market-1501."""

import dataclasses
import json
import pathlib
import re
import shutil

import made_market
import matplotlib.image
import numpy as np
import pytest
import started
import tiny

from srdl_jax import evaluate, report, srdl
from srdl_jax.errors import (
  CheckpointError,
  ConfigError,
  DataError,
  Interrupted,
  NonFiniteLossError,
  WorkdirError,
)
from srdl_jax.report import rows, run_file
from srdl_jax.retrieval import measure as measure_lib
from srdl_jax.runs import finished, stop_request
from srdl_jax.trained import load_members, open_run

FIELDS = {
  'data.name': 'market1501',
  'data.examples_per_class': 0,
  'data.allow_differences': True,
  'data.image_size': 32,
  'epochs': 8,
  'batch_size': 32,
  'optimiser.learning_rate': 0.05,
  'optimiser.backbone_share': 0.5,
  'augment.padding': 2,
  'eval.every_epochs': 2,
  'checkpoint.every_steps': 0,
  'log.tensorboard': False,
}

# The command, which knows the tests' network.
COMMAND = """
import runpy, sys
sys.path.append('tests')
import tiny
runpy.run_module('srdl_jax.evaluate', run_name='__main__', alter_sys=True)
"""


@pytest.fixture(scope='module')
def market(tmp_path_factory):
  """The folder of official layout."""
  root = tmp_path_factory.mktemp('market')
  made_market.make(root)
  return {
    **FIELDS,
    'data.manual_dir': str(root),
    'data.data_dir': str(root / 'tfds'),
  }


def run(directory, fields, stop=None):
  stop = stop_request.StopRequest() if stop is None else stop
  return srdl.run(tiny.config(**fields), str(directory), stop)


def in_place(market):
  """Fields of a short run on the folder as it is, of one stage."""
  folder = pathlib.Path(market['data.manual_dir']) / made_market.FOLDER
  return {
    **FIELDS,
    'data.name': 'reid_folder',
    'data.path': str(folder),
    'method': 'vanilla',
    'epochs': 3,
    'eval.every_epochs': 1,
  }


@pytest.fixture(scope='module')
def trained(market, tmp_path_factory):
  """A run directory of both stages, and its result."""
  directory = tmp_path_factory.mktemp('runs') / 'srdl'
  return directory, run(directory, market)


def command(*arguments):
  return started.python('-c', COMMAND, *arguments)


def test_persons_are_found_far_above_chance(trained):
  _, found = trained
  test = found['final']['test']
  # Of 276 items 12 are right: one by chance in 23.
  assert test['rank_1_accuracy'] > 0.25
  assert test['map'] > 0.2
  # Several images tell more than one.
  assert test['multi_query_map'] > test['map']
  assert test['valid_queries'] == test['examples'] == 64
  assert (test['gallery_items'], test['junk_removed']) == (276, 20)
  said = finished.parse(found).summary
  assert (
    f'rank-1 stage 1 {found["stages"][0]["test"]["rank_1_accuracy"]:.2%}'
    in said
  )
  # Training persons are classified.
  assert found['stages'][1]['train']['accuracy'] > 0.5


def test_the_best_epoch_is_that_of_the_largest_map(trained):
  directory, found = trained
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  tested = [line for line in map(json.loads, lines) if line['split'] == 'test']
  assert [(t['stage'], t['epoch']) for t in tested] == [
    (1, 2),
    (1, 4),
    (2, 2),
    (2, 4),
  ]
  second = {t['epoch']: t['map'] for t in tested[2:]}
  best = found['best']
  assert best['map'] == second[best['epoch']] == max(second.values())


def test_a_command_measures_checkpoints_and_draws(trained, tmp_path):
  directory, found = trained
  picture = tmp_path / 'ranked.png'
  ended = command(
    f'--workdir={directory}', f'--montage={picture}', '--queries=3'
  )
  assert ended.returncode == 0, ended.stderr
  told = json.loads(ended.stdout)
  for name, value in found['final']['test'].items():
    assert told[name] == pytest.approx(value, abs=1e-6), name
  pixels = matplotlib.image.imread(picture)
  assert pixels.shape[0] > 300 and pixels.std() > 0.1
  # Both stages' features side by side are what the run called its ensemble.
  ended = command(f'--workdir={directory}', '--checkpoint=ensemble')
  told = json.loads(ended.stdout)
  expected = found['ensemble']['test']
  assert told['map'] == pytest.approx(expected['map'], abs=1e-6)
  assert told['map'] != pytest.approx(found['final']['test']['map'], abs=1e-6)


def test_settings_of_the_ranking_are_flags(trained):
  directory, found = trained
  flags = ('--normalise', '--mirror', '--re_rank', '--pooling=max')
  ended = command(f'--workdir={directory}', *flags)
  told, test = json.loads(ended.stdout), found['final']['test']
  assert told.keys() - {'checkpoint', 'split', 'ranking'} == test.keys()
  assert told['ranking'] == {
    'normalise': True,
    'mirror': True,
    're_rank': True,
    'pooling': 'max',
  }
  for name in ('map', 'multi_query_map'):
    assert 0.2 < told[name] != test[name]


def test_a_report_reads_ranks(trained):
  directory, found = trained
  values = run_file.values(finished.read(directory))
  test = found['final']['test']
  assert values['rank1'] == test['rank_1_accuracy']
  assert values['mq_map'] == test['multi_query_map']
  assert values['best_map'] == found['best']['map']
  assert values['ensemble'] == found['ensemble']['test']['rank_1_accuracy']


def test_a_report_names_ranks_and_draws_them(trained, tmp_path):
  directory, found = trained
  page = tmp_path / 'report.html'
  report.write(str(page), rows.read([str(directory)]))
  text = re.sub('</?span>', '', page.read_text())
  last = found['final']['test']
  for told, name in (
    ('rank-1', 'rank_1_accuracy'),
    ('mAP', 'map'),
    ('multi-query rank-1', 'multi_query_rank_1_accuracy'),
    ('multi-query mAP', 'multi_query_map'),
  ):
    line = re.search(rf'>tiny, srdl, {told}<.*?</tr>', text)[0]
    assert f'{100 * last[name]:.2f} (1)' in line
  assert '<svg' in text


@pytest.mark.slow
def test_an_interrupted_run_in_place_ends_the_same(
  market, tmp_path, monkeypatch
):
  fields, whole, parts = in_place(market), tmp_path / 'a', tmp_path / 'b'
  expected = run(whole, fields)
  stop, measure = stop_request.StopRequest(), evaluate.rank

  def interrupting(*arguments):
    stop.signal_name = 'SIGTERM'
    return measure(*arguments)

  with monkeypatch.context() as patch, pytest.raises(Interrupted):
    patch.setattr(evaluate, 'rank', interrupting)
    run(parts, fields, stop)
  found = run(parts, fields)
  for name in ('final', 'best'):
    assert found[name] == expected[name]
  assert found['best']['map'] >= found['final']['test']['map']
  # Twice the same network ranks as it does once.
  once = command(f'--workdir={whole}', '--normalise')
  twice = command(f'--workdir={whole}', f'--workdir={parts}')
  assert twice.returncode == 0, twice.stderr
  numbers = [json.loads(ended.stdout)['map'] for ended in (once, twice)]
  assert numbers[1] == pytest.approx(numbers[0], abs=1e-3)


def test_kept_images_choose_the_best_epoch_by_accuracy(market, tmp_path):
  found = run(tmp_path, {**in_place(market), 'data.holdout': 60, 'epochs': 1})
  assert found['best']['split'] == 'validation'
  assert found['best']['examples'] == 60 and 'accuracy' in found['best']
  assert found['final']['test']['valid_queries'] == 64


def test_features_of_several_networks_are_of_length_one_each(trained):
  directory, _ = trained
  experiment = open_run(directory, None)
  members = load_members(directory, 'ensemble', experiment)
  both = evaluate.extract_features([(experiment, members)]).query
  width = members[1]['params']['fc']['kernel'].shape[0]
  assert both.shape == (64, 2 * width)
  for half in np.split(both, 2, axis=1):
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1.0, rtol=1e-5)
  one = [(experiment, {1: members[1]})]
  alone = evaluate.extract_features(one).query
  lengths = np.linalg.norm(alone, axis=1, keepdims=True)
  np.testing.assert_allclose(
    alone / lengths, both[:, :width], rtol=1e-4, atol=1e-6
  )


def test_another_gallery_is_another_test(market, trained, tmp_path):
  directory, found = trained
  assert found['data']['ranked'] == open_run(directory, None).identity.ranked
  folder = tmp_path / made_market.FOLDER
  shutil.copytree(
    pathlib.Path(market['data.manual_dir']) / made_market.FOLDER, folder
  )
  next(iter(sorted((folder / 'bounding_box_test').glob('0*.jpg')))).unlink()
  fields = {
    **market,
    'data.manual_dir': str(tmp_path),
    'data.data_dir': str(tmp_path / 'tfds'),
  }
  with pytest.raises(WorkdirError, match='the images that are ranked'):
    run(directory, fields)
  with pytest.raises(CheckpointError, match='ranked other images'):
    open_run(directory, str(tmp_path / 'tfds'))


def test_new_identities_have_no_loss(trained):
  directory, _ = trained
  experiment = open_run(directory, None)
  with pytest.raises(ConfigError, match='identities of market1501 are new'):
    experiment.examples('test')


def test_queries_without_further_images_are_skipped_and_counted(trained):
  directory, _ = trained
  experiment = open_run(directory, None)
  members = load_members(directory, 'final', experiment)
  found = evaluate.extract_features([(experiment, members)])
  images = found.test.multi_query
  kept = (images.identities != images.identities[0]) | (
    images.cameras != images.cameras[0]
  )
  fewer = dataclasses.replace(
    images, identities=images.identities[kept], cameras=images.cameras[kept]
  )
  found = dataclasses.replace(
    found,
    test=dataclasses.replace(found.test, multi_query=fewer),
    multi_query=found.multi_query[kept],
  )
  numbers = measure_lib.metrics(found)
  assert numbers['multi_query_valid_queries'] == 63
  assert numbers['multi_query_skipped_queries'] == 1
  assert numbers['valid_queries'] == 64


def test_features_that_are_not_finite_are_named(trained):
  directory, _ = trained
  experiment = open_run(directory, None)
  members = load_members(directory, 'final', experiment)
  variables = dict(members[2])
  variables['params'] = dict(variables['params'])
  norm = variables['params']['BatchNorm_0']
  variables['params']['BatchNorm_0'] = {
    name: np.full_like(value, np.inf) for name, value in norm.items()
  }
  with pytest.raises(NonFiniteLossError, match='query image 0'):
    evaluate.rank([(experiment, {2: variables})])


def test_a_test_without_an_answer_is_refused_before_training(market, tmp_path):
  root = tmp_path / 'one_camera'
  root.mkdir()
  made_market.make(root, cameras=1, per_camera=2)
  fields = {
    **market,
    'data.manual_dir': str(root),
    'data.data_dir': str(root / 'tfds'),
  }
  with pytest.raises(DataError, match='camera'):
    run(tmp_path / 'run', fields)
  assert not (tmp_path / 'run').exists()
