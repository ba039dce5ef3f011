# SPDX-License-Identifier: Apache-2.0
"""What a configuration stands for, what is refused, and what is left alone."""

import functools
import json
import pathlib
import re
import runpy

import flax.linen as nn
import jax
import numpy as np
import pytest
import started
import tiny

from srdl_jax import build, data, feed, models, parallel, srdl
from srdl_jax.errors import ConfigError
from srdl_jax.experiment import Purpose
from srdl_jax.runs.stop_request import StopRequest
from srdl_jax.trained import open_run

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
SHORT = {'method': 'vanilla', 'epochs': 1, 'log.tensorboard': False}


class Linear(nn.Module):
  """One layer, of any name, behind random numbers while it is trained."""

  num_classes: int
  dtype: str = 'float32'
  axis_name: str | None = None
  dropped: float = 0.0
  head: str = 'fc'

  @nn.compact
  def __call__(self, images, train):
    x = images.reshape(len(images), -1)
    x = nn.Dropout(self.dropped, deterministic=not train)(x)
    return nn.Dense(self.num_classes, name=self.head)(x)


def test_a_network_that_draws_is_refused_on_several_devices(monkeypatch):
  monkeypatch.setitem(
    models.MODELS, 'dropping', functools.partial(Linear, dropped=0.5)
  )
  fields = {'model.name': 'dropping'}
  with pytest.raises(ConfigError, match='dropping draws random numbers while'):
    build.build(tiny.config(**fields, devices=2))
  assert build.build(tiny.config(**fields, devices=1))


@pytest.mark.parametrize('to_train', [True, False])
def test_only_who_trains_needs_the_copy_of_what_is_prepared(
  monkeypatch, to_train
):
  asked, load = [], data.load
  monkeypatch.setattr(
    data,
    'load',
    lambda *a, **source: asked.append(source) or load(*a, **source),
  )
  build.build(tiny.config(), to_train=to_train)
  assert [source['compared'] for source in asked] == [to_train]


@pytest.mark.parametrize('dropped', [0.0, 0.5])
def test_a_network_draws_anew_in_each_step(monkeypatch, dropped):
  made = functools.partial(Linear, dropped=dropped)
  monkeypatch.setitem(models.MODELS, 'dropping', made)
  fields = {
    'model.name': 'dropping',
    'augment.padding': 0,
    'augment.flip': False,
    'optimiser.learning_rate': 1e-12,
  }
  built = build.build(tiny.config(**fields, devices=1))
  stage = built.stages[0]
  state, key = stage.initial_state(None), stage.key(Purpose.AUGMENT, 0)
  with feed.open_feed(built, stage, None, 0) as given:
    rows = given.examples(0, 0, 1)
    # One batch, three times.
    _, metrics = stage.train_chunk(
      *parallel.replicate((state, given.resident), built.devices),
      np.repeat(rows, 3, 0),
      parallel.replicate(key, built.devices),
    )
  assert len(set(np.asarray(metrics['loss']).tolist())) == (3 if dropped else 1)


def test_a_share_of_the_rate_needs_a_last_layer_that_is_known(monkeypatch):
  monkeypatch.setitem(
    models.MODELS, 'headless', functools.partial(Linear, head='head')
  )
  fields = {'model.name': 'headless', 'optimiser.backbone_share': 0.1}
  with pytest.raises(ConfigError, match='last layer of headless is none of fc'):
    build.build(tiny.config(**fields))
  assert build.build(tiny.config(**{'model.name': 'headless'}))
  assert build.build(tiny.config(**{'optimiser.backbone_share': 0.1}))


def test_a_run_in_double_precision_leaves_jax_as_it_was(tmp_path):
  fields = {'model.dtype': 'float64', **SHORT}
  assert not jax.config.jax_enable_x64
  srdl.run(tiny.config(**fields), str(tmp_path / 'run'), StopRequest())
  assert not jax.config.jax_enable_x64
  leaves = jax.tree.leaves(tiny.end_of(tmp_path / 'run', 1, 5).state['params'])
  assert {str(leaf.dtype) for leaf in leaves} == {'float64'}
  fields['data.classes'] = 99
  with pytest.raises(ConfigError):
    srdl.run(tiny.config(**fields), str(tmp_path / 'none'), StopRequest())
  assert not jax.config.jax_enable_x64


def test_a_run_is_as_precise_as_configured_whoever_calls(tmp_path):
  logs = []
  for double in (False, True):
    workdir = tmp_path / str(double)
    with jax.enable_x64(double):
      srdl.run(tiny.config(**SHORT), str(workdir), StopRequest())
      assert jax.config.jax_enable_x64 == double
    logs.append((workdir / 'metrics.jsonl').read_text())
  assert logs[0] == logs[1]


def test_double_precision_is_never_switched_on_for_a_caller():
  config = tiny.config(**{'model.dtype': 'float64', **SHORT})
  with pytest.raises(ConfigError, match=r'`with jax.enable_x64\(\):`'):
    build.build(config)
  assert not jax.config.jax_enable_x64
  with jax.enable_x64():
    like = build.build(config).stages[0].network.like
  for leaf in jax.tree.leaves(like['params']):
    assert leaf.dtype == 'float64'


# Three programs of a network: the usual tests refuse it.
@pytest.mark.slow
def test_commands_read_a_run_in_double_precision(tmp_path):
  fields = {'model.dtype': 'float64', 'model.name': 'resnet8', **SHORT}
  run, out = str(tmp_path / 'run'), str(tmp_path / 'flatness.json')
  trained = srdl.run(tiny.config(**fields), run, StopRequest())
  with pytest.raises(ConfigError, match='double precision'):
    open_run(tmp_path / 'run', None)
  found = started.python('-m', 'srdl_jax.evaluate', '--workdir', run)
  nll = trained['stages'][0]['test']['nll']
  assert json.loads(found.stdout)['nll'] == pytest.approx(nll, rel=1e-12)
  for command in (
    ['weights', 'export', f'--out={tmp_path / "exported"}'],
    [
      *('flatness', '--directions=1', '--points=2', '--examples=40'),
      f'--out={out}',
    ],
  ):
    called = [f'srdl_jax.{command[0]}', *command[1:]]
    done = started.python('-m', *called, '--workdir', run)
    assert not done.returncode, done.stderr
  (curve,) = json.loads(pathlib.Path(out).read_text())['runs']
  assert curve['norm'] != float(np.float32(curve['norm']))


def test_a_callers_configuration_stays_as_it_is(tmp_path):
  teacher = str(tmp_path / 'teacher')
  srdl.run(tiny.config(**SHORT), teacher, StopRequest())
  config = tiny.config(**{**SHORT, 'method': 'kd', 'teacher.workdir': teacher})
  before = config.to_json()
  experiment = build.build(config)
  srdl.run(config, str(tmp_path / 'student'), StopRequest())
  assert config.to_json() == before
  assert experiment.config.teacher.model == 'tiny'


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_densenets_have_the_papers_epochs(name):
  get_config = runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']
  assert get_config('model=densenet_bc_190_40').epochs == 300
  assert get_config('model=resnet32').epochs == get_config().epochs == 200


@pytest.mark.parametrize('method', ['vanilla', 'cs_kd'])
@pytest.mark.parametrize('each', [1, 2, 20])
def test_a_batch_larger_than_the_data_is_told_one_that_fits(method, each):
  fields = {'method': method, 'data.examples_per_class': each}
  with pytest.raises(ConfigError) as caught:
    build.build(tiny.config(**fields, batch_size=4096))
  fits = int(
    re.search(r'; --config.batch_size=(\d+) fits', str(caught.value))[1]
  )
  if (method, each) != ('cs_kd', 1):  # A pair is of one class.
    build.build(tiny.config(**fields, batch_size=fits))
