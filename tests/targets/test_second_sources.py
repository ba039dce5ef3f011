# SPDX-License-Identifier: Apache-2.0
"""Each source's runs agree, step by step, with a second writing of them."""

import functools
import json

import jax
import numpy as np
import pytest
import second_sources
import second_writing
import source_runs
import tiny

from srdl_jax import config as config_lib

REL = 1e-9


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  return source_runs.remembering(tmp_path_factory)


@pytest.fixture(scope='module')
def written():
  """A function of a method and fields: its run, as written again."""

  @functools.cache
  def of(method, **fields):
    config = tiny.config(**source_runs.fields_of(method, **fields))
    with jax.enable_x64(True):
      return second_sources.Run(config_lib.flatten(config))

  return of


@pytest.mark.parametrize('method', second_sources.METHODS)
def test_every_step_agrees_with_its_second_writing(made, written, method):
  again = written(method)
  trained = tiny.lines(made(method), 'train')
  second_writing.agree(trained, again.steps, REL)
  assert [{*line} - {'split'} for line in trained] == [
    {*step} for step in again.steps
  ]


@pytest.mark.parametrize('method', second_sources.METHODS)
def test_what_is_evaluated_agrees_with_its_second_writing(
  made, written, method
):
  found = tiny.lines(made(method), 'test')
  expected = written(method).evaluations
  second_writing.agree(found, expected, REL)


def test_every_source_has_been_written_twice():
  written = set(second_sources.METHODS)
  assert written == {*source_runs.NAMES} - {'srdl'}


def test_all_own_fields_are_off_their_defaults():
  sections = {f'{name}.' for name in second_sources.METHODS}
  own = {n for n in config_lib.FIELDS if n[: n.find('.') + 1] in sections}
  assert own == source_runs.OWN.keys()
  for name, value in source_runs.OWN.items():
    assert value != config_lib.FIELDS[name].default


def test_the_mean_is_tested_beside_its_student(made, written):
  directory, run = made('mean_teacher'), written('mean_teacher')
  (stage,) = json.loads((directory / 'result.json').read_text())['stages']
  right = run.examples.test_labels
  both = (stage['test'], run.end), (stage['others']['mean'], run.method.mean)
  with jax.enable_x64(True):
    for found, variables in both:
      again = second_sources.evaluated(run.examples, run.f, variables, right)
      found = {name: found[name] for name in again}
      assert found == pytest.approx(again, rel=REL)
  assert stage['others'].keys() == {'mean'}
  assert both[0][0]['nll'] != pytest.approx(both[1][0]['nll'], rel=1e-3)


@pytest.mark.parametrize(
  'method', sorted({*second_sources.METHODS} - {'mean_teacher'})
)
def test_nothing_stands_beside_other_results(made, method):
  result = json.loads((made(method) / 'result.json').read_text())
  assert all('others' not in stage for stage in result['stages'])


def test_what_was_said_of_an_image_is_remembered(made, written):
  # Rows of P of images that no epoch has seen are unknown, as in the other.
  memory = source_runs.end_of(made('ps_kd')).state['memory']['said']
  said = written('ps_kd').method.said
  known = np.flatnonzero(~np.isnan(memory).any(1))
  np.testing.assert_array_equal(known, sorted(said))
  expected = np.stack([said[row] for row in known])
  np.testing.assert_allclose(memory[known], expected, rtol=REL, atol=REL)


def test_what_was_said_of_a_class_is_remembered(made, written):
  memory = source_runs.end_of(made('ols')).state['memory']
  S = written('ols').method.S
  np.testing.assert_allclose(
    second_writing.log_softmax(memory['log_S']), np.log(S), rtol=REL
  )
  # A class with none that was right, and others.
  uniform = (S == 0.1).all(1)
  assert uniform.any() and not uniform.all()
  assert not memory['sums'].any() and not memory['counts'].any()


def test_what_was_said_of_the_last_batch_is_remembered(made, written):
  memory = source_runs.end_of(made('dlb')).state['memory']
  last = written('dlb').method.last
  np.testing.assert_array_equal(memory['index'], [*last])
  np.testing.assert_allclose(memory['said'], [*last.values()], rtol=REL)
