# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds and FLOPs by hand, the paper's TrCost, and the command."""

import functools
import inspect
import os
import pathlib
import re
import runpy
import sys

import flax.linen as nn
import jax
import pytest
import started
import tensorflow_datasets as tfds
import tiny

from srdl_jax import build, cost, data, methods, models, result
from srdl_jax import config as config_lib
from srdl_jax.data.cifar import CIFAR10, CIFAR100
from srdl_jax.errors import ConfigError
from srdl_jax.targets import SOURCES

ROOT = pathlib.Path(__file__).resolve().parents[1]
CIFAR = (32, 32, 3)


class One(nn.Module):
  """A single layer."""

  layer: nn.Module

  @nn.compact
  def __call__(self, images, train):
    del train
    return self.layer(images)


# Multiply-adds.


@pytest.mark.parametrize(
  ('layer', 'expected'),
  [
    # 16 x 16 outputs of 32 channels, each of 8 x 3 x 3 products; the
    # taps on the padding count too.
    (nn.Conv(32, (3, 3), padding=1), 16 * 16 * 32 * 8 * 9),
    # Stride 2: 8 x 8 outputs.
    (nn.Conv(32, (3, 3), strides=2, padding=1), 8 * 8 * 32 * 8 * 9),
    (nn.Conv(32, (1, 1)), 16 * 16 * 32 * 8),
    # No padding: 14 x 14 outputs.
    (nn.Conv(32, (3, 3), padding='VALID'), 14 * 14 * 32 * 8 * 9),
    # Four groups: each output sees 2 channels.
    (nn.Conv(32, (3, 3), feature_group_count=4), 16 * 16 * 32 * 2 * 9),
    # A matrix product at each of the pixels; its bias is no product.
    (nn.Dense(5), 16 * 16 * 8 * 5),
    (nn.LayerNorm(), 0),
  ],
  ids=['conv', 'stride', '1x1', 'valid', 'groups', 'dense', 'norm'],
)
def test_multiply_adds_of_a_layer(layer, expected):
  assert cost.multiply_adds(One(layer), (16, 16, 8)) == expected


def test_functions_within_functions_are_counted():
  # nn.jit traces to an inner program.
  layer = nn.jit(nn.Conv)(4, (1, 1))
  assert cost.multiply_adds(One(layer), (2, 2, 3)) == 2 * 2 * 4 * 3


def resnet(depth, num_classes):
  """A CIFAR ResNet's multiply-adds, by hand."""
  # Every 3 x 3 convolution has 16^2 x 9 x 32^2 products, as the pixels fall
  # by four where the channels double twice; but the stem has 3 inputs, and
  # the first of groups two and three half of the channels. Projections have
  # 16 x 32 x 16^2 and 32 x 64 x 8^2, the classifier 64 a class.
  n = (depth - 2) // 6
  full = 16 * 16 * 9 * 32 * 32
  counted = 3 * 16 * 9 * 32 * 32 + (6 * n - 2) * full + 2 * full // 2
  return counted + 16 * 32 * 16 * 16 + 32 * 64 * 8 * 8 + 64 * num_classes


@functools.cache
def forward(name, num_classes=10, size=32):
  model = models.create(name, num_classes)
  return cost.multiply_adds(model, (size, size, 3))


@pytest.mark.parametrize('depth', [32, 110])
def test_multiply_adds_of_cifar_resnets_follow_from_their_layers(depth):
  assert forward(f'resnet{depth}') == resnet(depth, 10)


@pytest.mark.parametrize(
  ('network', 'exact', 'published'),
  [
    # In millions for the CIFAR ResNets, else in 1e9. Those for images of 224
    # pixels are in torchvision's table of weights.
    (('resnet32',), 69_124_736, '69.1'),
    (('resnet110',), 253_149_824, '253'),
    (('wrn28_10',), 5_243_328_768, '5.24'),
    pytest.param(
      *(('densenet_bc_190_40',), 9_301_945_740, '9.3'), marks=pytest.mark.slow
    ),
    (('resnet50', 1000, 224), 4_089_184_256, '4.089'),
    (('densenet121', 1000, 224), 2_834_161_664, '2.834'),
    pytest.param(
      *(('densenet201', 1000, 224), 4_291_365_888, '4.291'),
      marks=pytest.mark.slow,
    ),
  ],
  ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_multiply_adds_of_the_papers_networks(network, exact, published):
  assert forward(*network) == exact
  unit = 1e6 if exact < 1e9 else 1e9
  decimals = len(published.partition('.')[2])
  assert f'{exact / unit:.{decimals}f}' == published


def test_parameters_are_not_statistics():
  # Scale and bias of three channels; mean and variance aren't trained.
  layer = nn.BatchNorm(use_running_average=True)
  assert cost.parameters(One(layer), (4, 4, 3)) == 6


# The compiler's FLOPs.


def taps(size, stride):
  """Products of a 3 x 3 kernel, padded by 1, that meet the image."""
  side = sum(
    0 <= stride * output + tap - 1 < size
    for output in range(size // stride)
    for tap in range(3)
  )
  return side**2


def all_taps(size, stride):
  """Those on the padding, too."""
  return 9 * (size // stride) ** 2


def resnet8(taps):
  """Multiply-adds of each layer, and all other FLOPs, in evaluation."""
  products = [taps(32, 1) * 3 * 16]
  # A norm scales and shifts: 2 an element; its factor, scale times
  # 1 / sqrt(variance + epsilon), and its offset, bias less mean times factor,
  # are 4 a channel. A ReLU compares and chooses: 2.
  others = 32 * 32 * 16 * 4 + 4 * 16
  size, inputs = 32, 16
  for width, stride in ((16, 1), (32, 2), (64, 2)):
    outputs = (size // stride) ** 2 * width
    products.append(taps(size, stride) * inputs * width)
    products.append(taps(size // stride, 1) * width * width)
    # Two norms, a sum with the shortcut, and two ReLUs.
    others += outputs * (2 * 2 + 1 + 2 * 2) + 2 * 4 * width
    if stride == 2:
      products.append(outputs * inputs)
      others += outputs * 2 + 4 * width
    size, inputs = size // stride, width
  products.append(64 * 10)
  # The mean of 8 x 8 pixels is 63 sums and a quotient; the bias.
  return products, others + 64 * 64 + 10


def test_compiler_counts_two_flops_a_product_but_none_on_the_padding():
  model = models.create('resnet8', 10)
  assert cost.multiply_adds(model, CIFAR) == sum(resnet8(all_taps)[0])
  products, others = resnet8(taps)
  # XLA adds in float32.
  expected = pytest.approx(2 * sum(products) + others, rel=1e-6)
  assert cost.forward_flops(model, CIFAR) == expected
  # On such images the padding outweighs norms and sums: 7 % against 2 %.
  padding = sum(resnet8(all_taps)[0]) - sum(products)
  assert 2 * padding > others > 0


def test_compiler_counts_three_passes_but_two_for_the_first_layer():
  # A product's gradient is one with respect to its kernel and one with
  # respect to its input, which the stem doesn't need. Norms have statistics
  # to find, and all else a gradient too: between 2 and 6 times as much.
  products, others = resnet8(taps)
  passes = 2 * (3 * sum(products) - products[0])
  found = cost.train_flops(models.create('resnet8', 10), CIFAR)
  assert passes + 2 * others < found < passes + 6 * others


class Perceptron(nn.Module):
  """Two matrix products, without statistics."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, train):
    del train
    x = nn.Dense(256, use_bias=False)(images.reshape(len(images), -1))
    return nn.Dense(100, use_bias=False)(x)


def test_training_flops_of_two_matrix_products():
  first, second = 32 * 32 * 3 * 256, 256 * 100
  assert cost.forward_flops(Perceptron(), CIFAR) == 2 * (first + second)
  passes = 2 * (2 * first + 3 * second)
  found = cost.train_flops(Perceptron(), CIFAR)
  # The loss and its gradient are some operations a class.
  assert 0 < found - passes < 10 * 100


def test_networks_of_a_run_are_counted_as_if_on_one_device():
  model = models.create('resnet8', 10, axis_name='devices')
  alone = models.create('resnet8', 10)
  assert cost.train_flops(model, CIFAR) == cost.train_flops(alone, CIFAR)


@pytest.mark.parametrize('reported', [None, {}, []])
def test_a_count_that_is_not_reported_is_none(monkeypatch, reported):
  monkeypatch.setattr(
    jax.stages.Lowered, 'cost_analysis', lambda self: reported
  )
  assert cost.forward_flops(Perceptron(), CIFAR) is None


def test_without_a_cpu_backend_the_run_is_counted_in_multiply_adds(monkeypatch):
  def no_backend(backend):
    raise RuntimeError(f'Unknown backend {backend}')

  monkeypatch.setattr(jax, 'local_devices', no_backend)
  stage = methods.Stage(3, model='mlp')
  counted = cost.work([stage], {'mlp': Perceptron()}, CIFAR)
  assert counted[0].forward_flops is None and counted[0].train_flops is None
  assert cost.training_flops(counted, 10) is None
  rows = cells(cost.table(counted, 10))
  assert rows['training FLOPs (1e16)'] == ['unknown', 'unknown']
  assert rows['forward FLOPs, an image'] == ['unknown', '']
  assert rows['forward multiply-adds, an image'] == ['812,032', '']


# TrCost.


def work(*stages):
  """Stages of (epochs, extractions) of a network with simple counts."""
  counts = (10, 10**8, 2 * 10**8, 6 * 10**8)
  return [cost.Work('net', *stage, *counts) for stage in stages]


def test_trcost_is_forward_times_epochs_times_examples():
  # 1e8 x 200 x 50,000.
  assert cost.training_cost(work((200, 0)), 50_000) == pytest.approx(0.1)


def test_trcost_of_srdl_adds_one_pass():
  # Two stages of half the budget cost as much as one, and the extraction one
  # epoch's forward pass: 1 / 150 < 0.67 %.
  srdl = cost.training_cost(work((75, 1), (75, 0)), 1000)
  vanilla = cost.training_cost(work((150, 0)), 1000)
  assert srdl / vanilla - 1 == pytest.approx(1 / 150, rel=1e-9)
  assert srdl / vanilla < 1.0067


def test_extraction_has_no_backward_pass():
  # 150 epochs of 6e8 FLOPs and a pass of 2e8, for 1,000 images each.
  found = cost.training_flops(work((75, 1), (75, 0)), 1000)
  assert found == (150 * 6 + 2) * 10**8 * 1000


def test_only_stages_that_teach_are_extracted_from():
  stages = [
    methods.Stage(2, model='mlp'),
    methods.Stage(3, model='mlp', teacher=1, source='bank'),
  ]
  stages += [methods.Stage(4, model='mlp', teacher=1, source='bank')]
  counted = cost.work(stages, {'mlp': Perceptron()}, CIFAR)
  assert [(s.epochs, s.extractions) for s in counted] == [
    (2, 1),
    (3, 0),
    (4, 0),
  ]
  assert {s.parameters for s in counted} == {32 * 32 * 3 * 256 + 256 * 100}


# The command, and result.json.


def cells(text):
  """A table's cells by the name of their row."""
  rows = re.findall(r'^\| *(.*?) *\|(.*)\|$', text, re.M)
  return {name: [c.strip() for c in rest.split('|')] for name, rest in rows}


def configured(arguments, **fields):
  """What the command prints for configs/cifar100.py."""
  module = runpy.run_path(str(ROOT / 'configs' / 'cifar100.py'))
  config = module['get_config'](arguments)
  config.update_from_flattened_dict(fields)
  return cost.describe(config)


@pytest.fixture
def no_data(monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError('the data set was read')

  monkeypatch.setattr(data, 'load', refuse)


@pytest.mark.parametrize(
  ('arguments', 'passes', 'printed'),
  [
    # Depth, and passes: epochs and the extraction, of each stage.
    ('model=resnet32,method=srdl', [(32, 101), (32, 100)], '0.06948'),
    ('model=resnet8,method=vanilla', [(8, 200)], '0.01251'),
    (
      'model=resnet8,method=kd,teacher=resnet20',
      [(20, 201), (8, 200)],
      '0.05353',
    ),
  ],
)
@pytest.mark.slow
def test_command_adds_teachers_and_extraction(
  no_data, arguments, passes, printed
):
  rows = cells(configured(arguments))
  each = [resnet(depth, 100) * n * 50_000 / 1e16 for depth, n in passes]
  assert rows['TrCost (1e16)'][:-1] == [f'{c:#.4g}' for c in each]
  assert rows['TrCost (1e16)'][-1] == f'{sum(each):#.4g}' == printed
  assert rows['network'] == [*(f'resnet{depth}' for depth, _ in passes), '']
  multiply_adds = [f'{resnet(depth, 100):,}' for depth, _ in passes]
  assert rows['forward multiply-adds, an image'] == [*multiply_adds, '']
  # All stages but the last teach.
  extractions = [1] * (len(passes) - 1) + [0]
  epochs = [n - x for (_, n), x in zip(passes, extractions, strict=True)]
  for name, column in (('epochs', epochs), ('extraction passes', extractions)):
    assert rows[name] == [str(n) for n in [*column, sum(column)]]


def test_command_prints_the_compilers_counts(no_data):
  rows = cells(configured('model=resnet8,method=srdl'))
  model = models.create('resnet8', 100)
  forward_, training = (
    count(model, CIFAR) for count in (cost.forward_flops, cost.train_flops)
  )
  assert rows['forward FLOPs, an image'] == [f'{forward_:,}'] * 2 + ['']
  assert rows['forward + backward, an image'] == [f'{training:,}'] * 2 + ['']
  run = forward_ * 201 * 50_000 / 1e16
  assert rows['forward FLOPs (1e16)'][-1] == f'{run:#.4g}'
  run = (training * 200 + forward_) * 50_000 / 1e16
  assert rows['training FLOPs (1e16)'][-1] == f'{run:#.4g}'


@pytest.mark.parametrize(
  ('fields', 'images', 'parameters'),
  [
    ({'data.holdout': 5000}, 45_000, 83_892),
    ({'data.examples_per_class': 25}, 2500, 83_892),
    ({'data.holdout': 5000, 'data.examples_per_class': 25}, 2500, 83_892),
    # Ninety rows of 64 weights and a bias fewer.
    ({'data.name': 'cifar10'}, 50_000, 83_892 - 90 * 65),
    # Its inputs have one channel instead of three.
    ({'data.name': 'digits'}, 1437, 83_892 - 90 * 65 - 2 * 9 * 16),
    # No projections, 16 x 32 and 32 x 64 with two norms.
    (
      {'model.shortcut': 'identity', 'model.dtype': 'float64'},
      50_000,
      83_892 - 16 * 32 - 32 * 64 - 2 * 32 - 2 * 64,
    ),
  ],
)
def test_command_respects_the_fields_of_data_and_model(
  no_data, fields, images, parameters
):
  text = configured('model=resnet8,method=vanilla', **fields)
  assert f': {images:,} training images' in text.splitlines()[0]
  rows = cells(text)
  assert rows['parameters'] == [f'{parameters:,}', '']
  multiply_adds = int(
    rows['forward multiply-adds, an image'][0].replace(',', '')
  )
  expected = multiply_adds * 200 * images / 1e16
  assert rows['TrCost (1e16)'][-1] == f'{expected:#.4g}'


@pytest.mark.parametrize(
  ('fields', 'pattern'),
  [
    ({'data.name': 'cifar'}, "'cifar'; known: cifar10, cifar100, digits"),
    ({'data.holdout': 50_000}, 'holdout=50000 leaves nothing'),
    ({'data.examples_per_class': 501}, 'has 500 examples'),
    ({'epochs': 1}, 'epochs = 1 leaves stage 1'),
    ({'epochs': 0}, 'epochs = 0 is out of range'),
    ({'model.name': 'wrn28_10', 'model.shortcut': 'identity'}, 'shortcut'),
  ],
)
def test_command_refuses_what_a_run_refuses(no_data, fields, pattern):
  with pytest.raises(ConfigError, match=pattern):
    configured('', **fields)


def test_command_needs_no_data_on_disk(tmp_path):
  config = '--config=configs/cifar100.py:model=resnet8'
  done = started.run(
    [sys.executable, '-m', 'srdl_jax.cost', config],
    cwd=ROOT,
    env=os.environ | {'TFDS_DATA_DIR': str(tmp_path), 'HOME': str(tmp_path)},
  )
  assert done.returncode == 0, done.stderr
  # 201 passes of 12.5M multiply-adds for 50,000 images.
  expected = f'{resnet(8, 100) * 201 * 50_000 / 1e16:#.4g}'
  assert cells(done.stdout)['TrCost (1e16)'][-1] == expected == '0.01257'
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('arguments', 'pattern'),
  [
    (['--config=configs/cifar100.py:model=resnet33'], "'resnet33'; known: .*"),
    (['--config=configs/none.py'], '--config=configs/none.py: there is no'),
    ([], '--config=FILE is missing'),
  ],
)
def test_bad_command_line(arguments, pattern):
  done = started.python('-m', 'srdl_jax.cost', *arguments)
  assert done.returncode == 2 and not done.stdout
  assert re.match(f'error: .*{pattern}', done.stderr)
  assert done.stderr.count('\n') == 1


def test_result_holds_what_the_command_prints():
  config = tiny.config(**{'model.name': 'resnet8', 'data.holdout': 37})
  experiment = build.build(config)
  seconds = {'seconds': {'train': 8.0, 'evaluate': 1.0}}
  stages = [
    {**seconds, 'extraction_seconds': 2.0, 'last_epoch_seconds': 4.0},
    seconds,
  ]
  found = result._cost(experiment, stages)
  rows = cells(cost.describe(config))
  parameters = found['parameters']['resnet8']
  assert rows['parameters'] == [f'{parameters:,}'] * 2 + ['']
  multiply_adds = found['forward_multiply_adds']['resnet8']
  # 2 + 2 epochs and a pass over 200 images, of 8 x 8 pixels.
  assert found['training_1e16'] == multiply_adds * 5 * 200 / 1e16
  assert rows['TrCost (1e16)'][-1] == f'{found["training_1e16"]:#.4g}'
  flops = found['training_flops'] / 1e16
  assert rows['training FLOPs (1e16)'][-1] == f'{flops:#.4g}'
  model = models.create('resnet8', 10)
  training = cost.train_flops(model, (8, 8, 1))
  once = cost.forward_flops(model, (8, 8, 1))
  assert found['training_flops'] == (4 * training + once) * 200
  assert found['extraction_share'] == 2 / 20
  assert found['extraction_epochs'] == [0.5]


@pytest.mark.parametrize('method', methods.METHODS)
def test_command_counts_the_stages_of_a_run(method):
  teacher = {'teacher.model': 'tiny', 'teacher.epochs': 3}
  config = tiny.config(method=method, **(teacher if method == 'kd' else {}))
  stages = build.build(config).plan
  rows = cells(cost.describe(config))
  assert rows['epochs'][:-1] == [str(stage.epochs) for stage in stages]
  teachers = {stage.teacher for stage in stages}
  assert rows['extraction passes'][:-1] == [
    # A network that teaches itself predicts in each step.
    str(int(n in teachers) + SOURCES[stage.source].forwards * stage.epochs)
    for n, stage in enumerate(stages, start=1)
  ]


# What is known of a data set before it is read.


def test_the_side_of_streamed_images_is_counted():
  config = config_lib.defaults()
  config.update_from_flattened_dict(
    {
      'data.name': 'imagenet',
      'data.image_size': 64,
      'model.name': 'resnet50',
      'method': 'vanilla',
      'epochs': 2,
    }
  )
  forward = cost.multiply_adds(models.create('resnet50', 1000), (64, 64, 3))
  work = forward * 2 * 1_281_167 / 1e16
  assert cost.own_training_cost(config) == pytest.approx(work)


def test_smaller_upright_images_stay_upright():
  config = config_lib.defaults()
  config.update_from_flattened_dict(
    {
      'data.name': 'market1501',
      'data.image_size': 64,
      'model.name': 'resnet50',
      'method': 'vanilla',
      'epochs': 2,
    }
  )
  forward = cost.multiply_adds(models.create('resnet50', 751), (64, 32, 3))
  work = forward * 2 * 12_936 / 1e16
  assert cost.own_training_cost(config) == pytest.approx(work)


def test_every_data_set_has_its_shape():
  # What lies in a folder is known once it has been looked at.
  unknown = {name for name in data.DATASETS if not data.DATASETS[name].shape}
  assert unknown == {'folder', 'reid_folder'}


def test_shape_of_the_digits():
  digits = data.load('digits')
  assert data.shape('digits') == data.Shape(
    digits.train.images.shape[1:], digits.num_classes, len(digits.train.labels)
  )


@pytest.mark.parametrize(
  ('spec', 'description', 'classes'),
  [
    # In all, and of each class.
    (
      CIFAR10,
      r'are (\d+) training images and 10000 test images',
      1,
    ),
    (
      CIFAR100,
      r'are (\d+) training images and 100 testing',
      100,
    ),
  ],
  ids=['cifar10', 'cifar100'],
)
def test_shape_of_cifar_is_as_the_authors_of_tfds_say(
  spec, description, classes
):
  module = sys.modules[tfds.builder_cls(spec.name).__module__]
  text = re.sub(r'"\s*"', '', inspect.getsource(module))
  examples = int(re.search(description, text)[1]) * classes
  shape = data.Shape(CIFAR, spec.num_classes, examples)
  assert data.shape(spec.name) == shape


# docs/cost.md.


# Row of the page: network, epochs on CIFAR, teacher.
ROWS = {
  'ResNet-32': ('resnet32', 200, None),
  'WRN-28-10': ('wrn28_10', 200, None),
  'DenseNet-BC': ('densenet_bc_190_40', 300, None),
  'ResNet-32, KD from WRN-28-10': ('resnet32', 200, 'wrn28_10'),
  'ResNet-32, KD from ResNet-110': ('resnet32', 200, 'resnet110'),
}
FEATURES = {
  'resnet32': 64,
  'resnet110': 64,
  'wrn28_10': 640,
  'densenet_bc_190_40': 2190,
}


def scaled(name, num_classes, size):
  """Multiply-adds at another size: all but the classifier go by the pixels."""
  body = forward(name) - 10 * FEATURES[name]
  return body * (size // 32) ** 2 + num_classes * FEATURES[name]


def test_all_but_the_classifier_goes_by_the_pixels():
  for name in ('resnet32', 'wrn28_10'):
    assert forward(name, 200, 64) == scaled(name, 200, 64)


@pytest.mark.parametrize('name', ROWS)
def test_documented_costs_are_the_formulas(name):
  network, cifar_epochs, teacher = ROWS[name]
  rows = cells((ROOT / 'docs' / 'cost.md').read_text())
  # Classes, pixels a side, examples, epochs.
  columns = [
    (10, 32, 50_000, cifar_epochs),
    (100, 32, 50_000, cifar_epochs),
    (200, 64, 100_000, 150),
  ]
  for method in [''] if teacher else [', vanilla', ', SRDL']:
    expected = []
    for classes, size, examples, epochs in columns:
      extractions = int(method == ', SRDL')
      total = (epochs + extractions) * scaled(network, classes, size)
      if teacher:
        total += (epochs + 1) * scaled(teacher, classes, size)
      expected.append(f'{total * examples / 1e16:#.4g}')
    # The paper's stand between ours.
    assert rows[name + method][1::2] == expected
