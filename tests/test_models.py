# SPDX-License-Identifier: Apache-2.0
"""The networks: parameter counts, initialisation, statistics, precision."""

import functools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdl_jax import cost, models
from srdl_jax.errors import ConfigError
from srdl_jax.models import cifar_resnet

CIFAR = (32, 32, 3)


def _count(name, num_classes, **options):
  return cost.parameters(models.create(name, num_classes, **options), CIFAR)


@functools.cache
def _initialised():
  """A ResNet-8's variables by path, such as params/conv1/kernel."""
  model = models.create('resnet8', 100)
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  return flax.traverse_util.flatten_dict(variables, sep='/')


# Counts (row 17).


@pytest.mark.parametrize(
  ('depth', 'parameters'),
  [
    (8, 78_042),
    (20, 272_474),
    (32, 466_906),
    (44, 661_338),
    (56, 855_770),
    (110, 1_730_714),
  ],
)
def test_parameters_of_ten_classes(depth, parameters):
  # With n = (depth - 2) / 6: stem 3 x 9 x 16 and its norm 32; group one n
  # blocks of 2 (16 x 9 x 16 + 32); groups two and three likewise, but their
  # first convolution has half the inputs, and they have a projection with a
  # norm; classifier 640 + 10.
  n = (depth - 2) // 6
  counted = 3 * 9 * 16 + 32 + n * 2 * (16 * 9 * 16 + 32)
  for width in (32, 64):
    counted += n * 2 * (width * 9 * width + 2 * width)
    counted -= width * 9 * width // 2
    counted += width // 2 * width + 2 * width
  assert counted + 650 == parameters
  assert _count(f'resnet{depth}', 10) == parameters


def test_parameters_of_a_hundred_classes():
  assert _count('resnet32', 100) == 472_756
  # 90 more classes of 64 weights and a bias.
  assert _count('resnet32', 100) - _count('resnet32', 10) == 90 * 65


def test_the_identity_shortcut_has_no_parameters():
  # 16 x 32 + 64 and 32 x 64 + 128 fewer.
  assert _count('resnet32', 10, shortcut='identity') == 464_154


def test_every_registered_model_is_of_its_depth():
  for name in cifar_resnet.MODELS:
    model = models.create(name, 10)
    shapes = jax.eval_shape(
      functools.partial(model.init, train=False),
      jax.random.key(0),
      jnp.zeros((1, *CIFAR)),
    )
    kernels = [
      path
      for path in flax.traverse_util.flatten_dict(shapes['params'])
      if path[-1] == 'kernel' and path[-2] != 'shortcut'
    ]
    assert name == f'resnet{len(kernels)}'


# Names and options.


def test_an_unknown_model_lists_the_known():
  with pytest.raises(ConfigError, match="'resnet31'; known: resnet8, resnet20"):
    models.create('resnet31', 10)


@pytest.mark.parametrize('depth', [2, 7, 18, 31, 33, 34])
def test_a_depth_other_than_6n_plus_2_is_an_error(depth):
  with pytest.raises(ConfigError, match=f'6n \\+ 2 .* not {depth}'):
    models.cifar_resnet.CifarResNet(depth, 10)


def test_an_unknown_shortcut_lists_the_known():
  with pytest.raises(ConfigError, match="'none'; known: projection, identity"):
    models.create('resnet8', 10, shortcut='none')


# Initialisation.


def test_convolutions_are_he_normal_over_their_outputs():
  normalised = []
  for path, value in _initialised().items():
    if path.endswith('kernel') and value.ndim == 4:
      height, width, _, outputs = value.shape
      std = math.sqrt(2 / (height * width * outputs))
      # The deviation of n draws deviates by 1 / sqrt(2 n) of itself.
      bound = 5 / math.sqrt(2 * value.size)
      assert abs(value.std() / std - 1) < bound, path
      assert abs(value.mean() / std) < 5 / math.sqrt(value.size), path
      normalised.append(np.ravel(value) / std)
  # 7 convolutions and 2 projections. Fan-in in place of fan-out would put the
  # stem at 2.3 and the first convolutions of a group at 1.4.
  assert len(normalised) == 9
  draws = np.concatenate(normalised)
  # Not truncated: of 77,000 normal draws, the largest is near 4.4.
  assert 4 < abs(draws).max() < 6


def test_the_classifier_is_uniform_in_one_over_the_root_of_64():
  kernel = np.asarray(_initialised()['params/classifier/kernel'])
  bias = np.asarray(_initialised()['params/classifier/bias'])
  assert kernel.shape == (64, 100)
  for values in (kernel, bias):
    assert abs(values).max() <= 1 / 8
    # The largest of n uniform draws is above 1 - 10 / n but for e^-10.
    assert abs(values).max() > (1 - 10 / values.size) / 8
    # A uniform deviation is bound / sqrt(3).
    assert values.std() == pytest.approx(
      1 / 8 / math.sqrt(3), rel=3 / math.sqrt(values.size)
    )


def test_norms_start_as_the_identity():
  starts = {'scale': 1, 'bias': 0, 'mean': 0, 'var': 1}
  seen = 0
  for path, value in _initialised().items():
    *_, module, name = path.split('/')
    if 'bn' in module:
      np.testing.assert_array_equal(value, np.full(value.shape, starts[name]))
      seen += 1
  # 7 norms and 2 of projections, four arrays each.
  assert seen == 4 * 9


# Batch norm (row 5).


def test_running_statistics_move_by_a_tenth(x64, drawn_variables):
  model = models.create('resnet8', 10, dtype=jnp.float64)
  images = jnp.asarray(np.sin(np.arange(2 * 8 * 8 * 3)).reshape(2, 8, 8, 3))
  variables = drawn_variables(model, images)
  before = flax.traverse_util.flatten_dict(variables['batch_stats'])
  apply = jax.jit(
    functools.partial(
      model.apply,
      train=True,
      mutable=['batch_stats', 'intermediates'],
      capture_intermediates=True,
    )
  )
  _, updates = apply(variables, images)
  after = flax.traverse_util.flatten_dict(updates['batch_stats'])
  outputs = updates['intermediates']
  normed = {'bn1': 'conv1', 'bn2': 'conv2', 'shortcut_bn': 'shortcut'}
  for (*block, name, statistic), value in after.items():
    module = outputs
    for part in (*block, normed[name]):
      module = module[part]
    batch = np.asarray(module['__call__'][0])
    # The variance is that of the batch as it is, over B H W.
    batch = {'mean': batch.mean, 'var': batch.var}[statistic]((0, 1, 2))
    expected = 0.9 * before[*block, name, statistic] + 0.1 * batch
    np.testing.assert_allclose(value, expected, rtol=1e-10)
  # 7 norms and 2 of projections.
  assert len(after) == 2 * 9


def test_evaluation_sees_each_example_alone(drawn_variables):
  model = models.create('resnet8', 10)
  images = jnp.asarray(
    np.sin(np.arange(4 * 8 * 8 * 3)).reshape(4, 8, 8, 3), jnp.float32
  )
  variables = drawn_variables(model, images)
  apply = jax.jit(functools.partial(model.apply, train=False))
  whole = apply(variables, images)
  reversed_ = apply(variables, images[::-1])
  np.testing.assert_allclose(reversed_[::-1], whole, rtol=1e-5, atol=1e-6)
  others = images.at[1:].set(0.0)
  np.testing.assert_allclose(
    apply(variables, others)[0], whole[0], rtol=1e-5, atol=1e-6
  )


# Precision.


@pytest.mark.parametrize(
  ('compute', 'kept'),
  [
    ('float32', 'float32'),
    ('bfloat16', 'float32'),
    ('float64', 'float64'),
  ],
)
def test_parameters_statistics_and_logits_are_at_least_float32(
  compute, kept, x64
):
  model = models.create('resnet8', 10, dtype=jnp.dtype(compute))
  images = jnp.zeros((2, 8, 8, 3), kept)
  variables = jax.eval_shape(
    functools.partial(model.init, train=False), jax.random.key(0), images
  )
  apply = functools.partial(
    model.apply,
    mutable=['batch_stats', 'intermediates'],
    capture_intermediates=True,
  )
  for train in (True, False):
    logits, updates = jax.eval_shape(
      functools.partial(apply, train=train), variables, images
    )
    inside = updates.pop('intermediates')
    leaves = jax.tree.leaves((logits, variables['params']))
    if train:
      leaves += jax.tree.leaves(updates)
    assert {str(leaf.dtype) for leaf in leaves} == {kept}
    computed = inside['group3_block0']['conv2']['__call__'][0]
    assert computed.dtype == compute
    assert inside['group3_block0']['bn2']['__call__'][0].dtype == compute
  assert logits.shape == (2, 10)


# Shortcuts.


def test_the_identity_shortcut_subsamples_and_pads_channels():
  block = models.cifar_resnet.BasicBlock(
    width=4, stride=2, shortcut='identity', conv=None, norm=None
  )
  x = jnp.arange(1.0, 33.0).reshape(1, 4, 4, 2)
  found = block.apply({}, x, method='_shortcut')
  # Every other pixel; one channel of zeros on each side.
  expected = np.zeros((1, 2, 2, 4))
  expected[..., 1:3] = x[:, ::2, ::2]
  np.testing.assert_array_equal(found, expected)


def test_the_shape_is_halved_twice_and_pooled():
  model = models.create('resnet8', 7)
  variables = jax.eval_shape(
    functools.partial(model.init, train=False),
    jax.random.key(0),
    jnp.zeros((1, *CIFAR)),
  )
  logits, captured = jax.eval_shape(
    functools.partial(
      model.apply, train=False, capture_intermediates=True, mutable=True
    ),
    variables,
    jnp.zeros((2, *CIFAR)),
  )
  shapes = [
    captured['intermediates'][f'group{group}_block0']['__call__'][0].shape
    for group in (1, 2, 3)
  ]
  assert shapes == [(2, 32, 32, 16), (2, 16, 16, 32), (2, 8, 8, 64)]
  assert logits.shape == (2, 7)
