# SPDX-License-Identifier: Apache-2.0
"""Whole runs agree, step by step, with a second, plain writing of them."""

import dataclasses
import functools
import json

import compared_runs
import jax
import numpy as np
import pytest
import second_sources
import second_writing
import tiny
from compared_runs import RUNS, SLOW

from srdl_jax import (
  build,
  feed,
  knowledge,
  methods,
  models,
  soft_targets,
  srdl,
)
from srdl_jax import steps as train_steps
from srdl_jax.runs import bank, stop_request
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs.checkpoint import Checkpoints


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  """Where the made images and weights are."""
  folder = tmp_path_factory.mktemp('folder')
  compared_runs.save_images(folder)
  weights = tmp_path_factory.mktemp('weights') / 'made'
  compared_runs.save_weights(weights)
  return {'folder': str(folder), 'weights': str(weights)}


@pytest.fixture(scope='module')
def made(places, tmp_path_factory):
  """A function of a run's name: its directory, its result, and as written."""

  @functools.cache
  def of(name):
    compared = RUNS[name]
    taught_by = None
    if compared.taught_by:
      directory, _, taught_by = of(compared.taught_by)
      places[compared.taught_by] = str(directory)
    config = compared_runs.config_of(compared, places)
    fields = compared_runs.fields_of(compared, places)
    directory = tmp_path_factory.mktemp(name.replace(' ', '_'))
    found = srdl.run(config, str(directory), stop_request.StopRequest())
    weights = compared_runs.weights() if compared.weights else None
    written = second_writing.write(fields, compared.parts, taught_by, weights)
    return directory, found, written

  with pytest.MonkeyPatch.context() as patch:
    wide = functools.partial(tiny.Tiny, width=12)
    patch.setitem(models.MODELS, 'wide', wide)
    yield of


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in RUNS
  ],
)
def test_a_run_agrees_with_its_second_writing(made, name):
  directory, found, written = made(name)
  rel = RUNS[name].rel
  trained = tiny.lines(directory, 'train')
  second_writing.agree(trained, written.steps, rel)
  assert [{*line} - {'split'} for line in trained] == [
    {*step} for step in written.steps
  ]
  split = written.evaluations[0]['split']
  second_writing.agree(tiny.lines(directory, split), written.evaluations, rel)
  for number, stage in enumerate(found['stages'], start=1):
    best = written.best(number)
    assert stage['best']['epoch'] == best['epoch']
    assert stage['best']['accuracy'] == pytest.approx(best['accuracy'])


def test_double_precision_is_double(made):
  # With labels alone, as a bank is kept in single precision.
  directory, _, written = made('devices')
  second_writing.agree(
    tiny.lines(directory, 'train')[:3], written.steps[:3], 1e-12
  )


def test_the_best_is_the_earliest_of_equal_scores(made):
  directory, found, written = made('vanilla')
  scores = {line['accuracy'] for line in tiny.lines(directory, 'validation')}
  assert len(scores) == 1 and len(written.evaluations) == 3
  assert found['best']['epoch'] == 1
  folder = run_directory.checkpoints(directory, 1)
  with Checkpoints(folder, read_only=True) as checkpoints:
    assert checkpoints.load_best().step == written.best(1)['step'] == 3


def test_the_last_epoch_teaches_and_not_the_best(made):
  # What the agreement of the run holds.
  _, found, written = made('srdl')
  assert found['stages'][0]['best']['epoch'] == written.best(1)['epoch'] == 1


def test_a_bank_has_the_temperature_of_its_teacher(made):
  # Of 2.5, one student's, a bank would serve that student as well.
  made('imported')
  teacher, _, _ = made('teacher')
  target = run_directory.soft_targets(teacher, 2)
  assert bank.read_attributes(target)['temperature'] == 4.0


@pytest.mark.parametrize(
  ('name', 'kept'), [('plain', 'float32'), ('streamed', 'float16')]
)
def test_a_bank_of_many_images_is_kept_in_half_precision(made, name, kept):
  # Which changes the steps by less than may be told from rounding.
  directory, _, _ = made(name)
  file = run_directory.soft_targets(directory, 1) / 'log_probs/zarr.json'
  assert json.loads(file.read_text())['data_type'] == kept


def test_every_method_has_been_written_twice():
  written = {compared_runs.value_of(run, 'method') for run in RUNS.values()}
  assert written | {*second_sources.METHODS} == {*methods.METHODS}


# The rows of a bank, on their way to the step.


@pytest.mark.parametrize('name', ['no flip', 'streamed'])
@pytest.mark.parametrize(
  'change', ['rolled', pytest.param('permuted', marks=pytest.mark.slow)]
)
def test_targets_of_other_images_are_noticed(
  made, places, tmp_path, monkeypatch, name, change
):
  _, _, written = made(name)
  original = srdl.induce

  def induce(experiment, *rest):
    taught = original(experiment, *rest)
    rows = experiment.train_rows
    log_probs = taught.bank.log_probs_NxK.copy()
    others = {
      'rolled': np.roll(rows, 1),
      'permuted': np.random.default_rng(0).permutation(rows),
    }
    log_probs[rows] = log_probs[others[change]]
    changed = dataclasses.replace(taught.bank, log_probs_NxK=log_probs)
    return dataclasses.replace(taught, bank=changed)

  monkeypatch.setattr(srdl, 'induce', induce)
  config = compared_runs.config_of(RUNS[name], places)
  srdl.run(config, str(tmp_path), stop_request.StopRequest())
  trained, rel = tiny.lines(tmp_path, 'train'), RUNS[name].rel
  first = next(n for n, s in enumerate(written.steps) if s['stage'] == 2)
  second_writing.agree(trained[:first], written.steps[:first], rel)
  # The same network and images.
  line, step = trained[first], written.steps[first]
  assert line['cross_entropy'] == pytest.approx(step['cross_entropy'], rel)
  assert line['imitation'] != pytest.approx(step['imitation'], 100 * rel)


@pytest.mark.parametrize('temperature', [2.5, 4.0])
@pytest.mark.parametrize('name', ['plain', 'streamed'])
def test_a_step_gets_image_label_and_targets_of_one_row(
  places, name, temperature
):
  fields = compared_runs.fields_of(RUNS[name], places)
  experiment = build.build(compared_runs.config_of(RUNS[name], places))
  labels = experiment.dataset.train.labels
  count, classes = len(labels), experiment.dataset.num_classes
  # Row i tells i.
  logits = np.float32(np.sin(1.7 * np.arange(count * classes)))
  logits = logits.reshape(count, classes)
  softened = soft_targets.soften(logits, temperature)
  stored = soft_targets.Bank(softened, temperature, {'views': 0})
  taught = knowledge.Knowledge(None, stored, None)
  images = second_writing.images_of(fields)
  rows = experiment.train_rows
  size, steps = experiment.config.batch_size, experiment.steps_per_epoch
  expected = second_writing.log_softmax(logits / 2.5)
  with feed.open_feed(experiment, experiment.stages[1], taught, 0) as opened:
    for epoch in range(experiment.plan[1].epochs):
      found = opened.examples(epoch, 0, steps)
      order = second_writing.generator(7, 2, epoch).permutation(len(rows))
      for step in range(steps):
        mine = rows[order[step * size :][:size]]
        batch = train_steps.gather(
          opened.resident, jax.tree.map(lambda x, n=step: x[n], found)
        )
        np.testing.assert_array_equal(batch['index'], mine)
        np.testing.assert_array_equal(batch['label'], labels[mine])
        np.testing.assert_array_equal(
          batch['image'],
          images.cropped(mine, 7, 2, epoch, second_writing.CROP),
        )
        np.testing.assert_allclose(
          batch['soft_logits'], expected[mine], rtol=1e-5, atol=1e-6
        )
