# SPDX-License-Identifier: Apache-2.0
"""Every row of the paper: it loads, its network fits, its clock is known."""

import collections
import functools
import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdl_jax import config as config_lib
from srdl_jax import data, methods, models, reproduce, schedules
from srdl_jax.errors import ConfigError
from srdl_jax.reproduce import scales

ROWS = [
  (scale, row)
  for scale in reproduce.SCALES
  for table in reproduce.TABLES
  for row in scales.rows(table, scale)
]
RUNS = {
  (setting.config, setting.fields): setting
  for _, row in ROWS
  for setting in (row.setting, row.setting.teacher)
  if setting is not None
}
ROOT = pathlib.Path(__file__).parents[2]
HIGH, MIDDLE, LOW = 0.1, 0.01, 0.001


def config_of(setting):
  config = scales.config(setting)
  config_lib.validate(config)
  if setting.teacher:
    config.teacher.workdir = 'anywhere'
  return config


@pytest.mark.parametrize('setting', RUNS.values(), ids=lambda r: r.config)
@pytest.mark.slow
def test_a_row_loads_and_its_network_fits_its_data(setting):
  config = config_of(setting)
  shape = data.shape(config.data.name)
  classes = config.data.classes or shape.num_classes
  for stage in methods.create(config):
    assert output_of(stage.model, classes, shape.image_shape) == (1, classes)


@functools.cache
def output_of(name, classes, image_shape):
  model = models.create(name, classes)
  init = functools.partial(model.init_with_output, train=False)
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  logits, _ = jax.eval_shape(init, jax.random.key(0), images)
  return logits.shape


@pytest.mark.parametrize('setting', RUNS.values(), ids=lambda r: r.config)
def test_the_schedule_of_a_row_to_its_last_step(setting):
  config = config_of(setting)
  shape = data.shape(config.data.name)
  examples = config.data.examples_per_class * (
    config.data.classes or shape.num_classes
  )
  per_epoch = (examples or shape.train_examples) // config.batch_size
  stages = methods.create(config)
  parts = [stage.epochs * per_epoch for stage in stages]
  schedule = schedules.over_stages(
    config.optimiser.learning_rate,
    parts,
    [stage.complete for stage in stages],
    decay_at=config.schedule.decay_at,
    decay_factor=config.schedule.decay_factor,
  )
  expected, start = [], 0
  for stage, steps in zip(stages, parts, strict=True):
    # Eq 4 where the stage is complete; else its part of Eq 3.
    first, length = (0, steps) if stage.complete else (start, sum(parts))
    at = np.arange(first, first + steps)
    expected.append(
      np.where(
        at < length // 2, HIGH, np.where(at < length * 3 // 4, MIDDLE, LOW)
      )
    )
    start += steps
  rates = jax.vmap(schedule)(jnp.arange(sum(parts)))
  np.testing.assert_allclose(rates, np.concatenate(expected), rtol=1e-6)
  if setting.method in ('vanilla', 'srdl', 'stage_incomplete', 'no_restart'):
    assert sum(stage.epochs for stage in stages) == config.epochs


def test_epochs_are_the_papers():
  # PAPER: CIFAR 200, DenseNet-BC 300; Tiny ImageNet 150; Market-1501 120.
  found = collections.defaultdict(set)
  for row in reproduce.TABLES['table1'].rows + reproduce.TABLES['table3'].rows:
    found[row.group, row.setting.model].add(scales.config(row.setting).epochs)
  for (group, model), epochs in found.items():
    expected = {'Tiny ImageNet': 150, 'Market-1501': 120}.get(group, 200)
    if model == 'densenet_bc_190_40' and group.startswith('CIFAR'):
      expected = 300
    assert epochs == {expected}, (group, model)


@pytest.mark.parametrize('scale', reproduce.SCALES)
def test_a_row_is_compared_with_one_of_its_table(scale):
  for table in reproduce.TABLES:
    rows = scales.rows(table, scale)
    names = [(row.group, row.name) for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
      assert not row.against or (row.group, row.against) in names


def test_gains_are_those_that_the_paper_prints():
  # Table 1's third line of each network.
  printed = {
    ('resnet32', 'CIFAR-10'): 0.59,
    ('resnet32', 'CIFAR-100'): 2.61,
    ('resnet32', 'Tiny ImageNet'): 2.20,
    ('wrn28_10', 'CIFAR-10'): 0.43,
    ('wrn28_10', 'CIFAR-100'): 1.06,
    ('wrn28_10', 'Tiny ImageNet'): 2.42,
    ('densenet_bc_190_40', 'CIFAR-10'): 0.19,
    ('densenet_bc_190_40', 'CIFAR-100'): 0.76,
    ('densenet_bc_190_40', 'Tiny ImageNet'): 1.31,
  }
  rows = reproduce.TABLES['table1'].rows
  accuracy = {(r.group, r.name): dict(r.metrics)['accuracy'] for r in rows}
  for row in rows:
    if row.against:
      gain = accuracy[row.group, row.name] - accuracy[row.group, row.against]
      expected = printed.pop((row.setting.model, row.group))
      assert gain == pytest.approx(expected, abs=1e-9)
  assert not printed


def test_tables_that_share_a_row_share_its_numbers():
  accuracy = collections.defaultdict(set)
  for table in reproduce.TABLES.values():
    for row in table.rows:
      for name, number in row.metrics:
        if number is not None:
          accuracy[row.setting.config, row.setting.fields, name].add(number)
  assert all(len(numbers) == 1 for numbers in accuracy.values())


def test_every_config_of_a_row_names_its_file_and_arguments():
  for (text, _), setting in RUNS.items():
    path, _, arguments = text.partition(':')
    assert (ROOT / path).is_file()
    assert re.fullmatch(r'model=\w+,method=\w+(,\w+=\w+)*', arguments)
    assert scales.identity(setting)['model.name'] == setting.model


def test_what_a_scale_leaves_out_is_another_network_or_data_set():
  left_in = {row.setting.model for s, row in ROWS if s == 'short'}
  assert left_in == {'resnet8'}
  for table in ('table1', 'table2', 'table4', 'table5', 'table6', 'budget'):
    assert scales.rows(table, 'short')
  # Every table has rows at the scale that only shows that all of them run.
  for table, content in reproduce.TABLES.items():
    missing = len(content.rows) - len(scales.rows(table, 'smoke'))
    # A budget of less than an epoch a stage, and one of twice the usual; two
    # of three shares of wrong labels; one count of images, and two budgets.
    few = {'budget': 4, 'noise': 34, 'crossing': 20}
    assert missing == few.get(table, 0)


def test_the_factorial_has_each_schedule_with_and_without_a_restart():
  rows = reproduce.TABLES['factorial'].rows
  plans = {}
  for row in rows:
    first, second = methods.create(scales.config(row.setting))
    plans[row.name] = first.complete, second.complete, second.start
    assert first.epochs == second.epochs == 100 and second.teacher == 1
  both = True, False
  assert set(plans.values()) == {
    *itertools.product(both, both, ('fresh', 'previous'))
  }
  for name, (first, second, start) in plans.items():
    told = ('stage one complete' in name, 'stage two complete' in name)
    assert told == (first, second)
    assert ('no restart' in name) == (start == 'previous')
  # Published ones are the same runs as in their tables.
  shared = {
    repr(row.setting)
    for table in ('table4', 'table5')
    for row in reproduce.TABLES[table].rows
  }
  assert len(shared & {repr(row.setting) for row in rows}) == len(shared) == 3


@pytest.mark.parametrize('unknown', [('table7', 'full'), ('table1', 'tiny')])
def test_unknown_tables_and_scales_are_listed(unknown):
  told = "^Unknown (table 'table7'|scale 'tiny'); known: "
  with pytest.raises(ConfigError, match=told):
    scales.rows(*unknown)


def test_a_field_that_is_none_is_named():
  setting = reproduce.Setting(
    'digits', 'resnet8', 'srdl', fields=(('sede', 1),)
  )
  with pytest.raises(ConfigError, match='sede'):
    scales.config(setting)


def test_a_missing_file_is_named():
  with pytest.raises(ConfigError, match="'none'; known: cifar10, "):
    scales.config(reproduce.Setting('none', 'resnet8', 'srdl'))


def test_the_documentation_has_the_papers_numbers():
  text = (ROOT / 'docs' / 'paper.md').read_text()
  rows = re.findall(
    r'^\| `method=(\w+)`(, ensemble)?.*?\| (\d+\.\d+) \|', text, re.M
  )
  assert len(rows) == 5
  expected = {
    (row.setting.method, metric): number
    for table in ('table1', 'table4', 'table5', 'table6')
    for row in reproduce.TABLES[table].rows
    if row.group == 'CIFAR-100' and row.setting.model == 'resnet32'
    for metric, number in row.metrics
  }
  for method, ensemble, number in rows:
    metric = 'ensemble' if ensemble else 'accuracy'
    assert float(number) == expected[method, metric]
