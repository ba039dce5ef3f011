# SPDX-License-Identifier: Apache-2.0
"""The networks: parameter counts, initialisation, statistics, precision."""

import functools
import math
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdl_jax import augment, cost, models
from srdl_jax.errors import ConfigError
from srdl_jax.models import cifar_resnet, densenet, resnet, wide_resnet
from srdl_jax.models.layers import BasicBlock, Layers
from srdl_jax.network import CLASSIFICATION, Network

CIFAR = (32, 32, 3)


def _shapes(name, **options):
  return jax.eval_shape(
    functools.partial(models.create(name, 10, **options).init, train=False),
    jax.random.key(0),
    jnp.zeros((1, *CIFAR)),
  )


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


# Parameters at so many classes. Rows 17 to 20 of the paper's networks; where
# the paper has none, torchvision's, or the layer-by-layer counts below.
COUNTS = {
  'resnet8': {10: 78_042},
  'resnet20': {10: 272_474},
  'resnet32': {10: 466_906, 100: 472_756},
  'resnet44': {10: 661_338},
  'resnet56': {10: 855_770},
  'resnet110': {10: 1_730_714},
  'resnet110_bottleneck': {10: 1_704_154},
  'wrn10_2': {10: 303_706},
  'wrn16_2': {10: 691_674},
  'wrn16_4': {10: 2_748_890},
  'wrn16_8': {10: 10_961_370},
  'wrn28_10': {10: 36_479_194, 100: 36_536_884},
  'wrn40_2': {10: 2_243_546},
  'wrn40_4': {10: 8_949_210},
  'densenet_bc_40_12': {10: 176_122},
  'densenet_bc_100_12': {10: 769_162},
  'densenet_bc_190_40': {10: 25_624_430},
  'resnet18': {1000: 11_689_512},
  'resnet34': {1000: 21_797_672},
  'resnet50': {1000: 25_557_032, 751: 25_046_831},
  'resnet101': {1000: 44_549_160},
  'densenet121': {1000: 7_978_856, 751: 7_723_631},
  'densenet169': {1000: 14_149_480},
  'densenet201': {1000: 20_013_928},
}


def test_every_registered_model_has_its_count():
  assert COUNTS.keys() == models.MODELS.keys() - {'tiny'}


# Networks that take long to trace.
LARGE = {'densenet_bc_190_40', 'densenet169', 'densenet201', 'resnet101'}


@pytest.mark.parametrize(
  ('name', 'num_classes'),
  [
    pytest.param(n, k, marks=[pytest.mark.slow] * (n in LARGE))
    for n in COUNTS
    for k in COUNTS[n]
  ],
)
def test_parameters(name, num_classes):
  assert _count(name, num_classes) == COUNTS[name][num_classes]


@pytest.mark.parametrize('depth', [8, 20, 32, 44, 56, 110])
def test_counts_of_cifar_resnets_follow_from_their_layers(depth):
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
  assert counted + 650 == COUNTS[f'resnet{depth}'][10]


@pytest.mark.parametrize('name', [n for n in COUNTS if n.startswith('wrn')])
def test_counts_of_wide_resnets_follow_from_their_layers(name):
  depth, widen = map(int, name.removeprefix('wrn').split('_'))
  # Stem, then n blocks of two norms and two convolutions a group, the first
  # of which has the inputs of the group before and a bare projection; a norm;
  # classifier.
  n, inputs, counted = (depth - 4) // 6, 16, 3 * 9 * 16
  for width in (16 * widen, 32 * widen, 64 * widen):
    counted += inputs * width
    for _ in range(n):
      counted += 2 * inputs + inputs * 9 * width + 2 * width + width * 9 * width
      inputs = width
  counted += 2 * inputs + 10 * inputs + 10
  assert counted == COUNTS[name][10]


@pytest.mark.parametrize(
  'name', [n for n in COUNTS if n.startswith('densenet_bc')]
)
def test_counts_of_densenet_bc_follow_from_their_layers(name):
  depth, k = map(int, name.removeprefix('densenet_bc_').split('_'))
  # Stem of 2k; a layer of c inputs has norms of c and 4k, 4kc and 9 x 4k x k
  # weights; between the blocks a norm and half of the channels.
  channels, counted = 2 * k, 3 * 9 * 2 * k
  for block in range(3):
    for _ in range((depth - 4) // 6):
      counted += 2 * channels + channels * 4 * k + 8 * k + 9 * 4 * k * k
      channels += k
    if block < 2:
      counted += 2 * channels + channels * (channels // 2)
      channels //= 2
  counted += 2 * channels + 10 * channels + 10
  assert counted == COUNTS[name][10]


def test_the_identity_shortcut_has_no_parameters():
  # 16 x 32 + 64 and 32 x 64 + 128 fewer.
  assert _count('resnet32', 10, shortcut='identity') == 464_154


@pytest.mark.parametrize('name', [*resnet.MODELS, *densenet.MODELS])
@pytest.mark.slow
def test_a_small_stem_is_3_x_3(name):
  options = {'small_stem': True}
  params = _shapes(name, **options)['params']
  stem = params['conv1' if name in resnet.MODELS else 'features.conv0']
  assert stem['kernel'].shape[:2] == (3, 3)


@pytest.mark.parametrize(
  ('name', 'layers'),
  [
    ('resnet32', 32),
    ('resnet110', 110),
    # Its name counts two layers a block, of which there are three.
    ('resnet110_bottleneck', 164),
    ('wrn28_10', 28),
    ('densenet_bc_190_40', 190),
    ('resnet50', 50),
    ('resnet101', 101),
    ('densenet121', 121),
    ('densenet201', 201),
  ],
)
@pytest.mark.slow
def test_a_network_is_as_deep_as_its_name(name, layers):
  paths = flax.traverse_util.flatten_dict(_shapes(name)['params'])
  # A Wide ResNet counts its projections and not its classifier.
  uncounted = 'fc' if name.startswith('wrn') else 'downsample.0'
  kernels = [
    path for path in paths if path[-1] == 'kernel' and path[-2] != uncounted
  ]
  assert len(kernels) == layers


# Names and options.


def test_an_unknown_model_lists_the_known():
  with pytest.raises(ConfigError, match="'resnet31'; known: resnet8, resnet20"):
    models.create('resnet31', 10)


@pytest.mark.parametrize('depth', [2, 7, 18, 31, 33, 34])
def test_a_depth_other_than_6n_plus_2_is_an_error(depth):
  with pytest.raises(ConfigError, match=f'6n \\+ 2 .* not {depth}'):
    models.cifar_resnet.CifarResNet(depth, 10)


@pytest.mark.parametrize('depth', [4, 9, 27, 30])
def test_a_wide_resnet_has_depth_6n_plus_4(depth):
  with pytest.raises(ConfigError, match=f'6n \\+ 4 .* not {depth}'):
    wide_resnet.WideResNet(depth, 10, 10)


@pytest.mark.parametrize('depth', [4, 9, 99, 121])
def test_a_densenet_bc_has_depth_6n_plus_4(depth):
  with pytest.raises(ConfigError, match=f'6n \\+ 4 .* not {depth}'):
    densenet.densenet_bc(depth, 12, 10)


def test_an_option_that_a_family_lacks_is_an_error():
  with pytest.raises(ConfigError, match="'wrn16_2' has no option 'shortcut'"):
    models.create('wrn16_2', 10, shortcut='identity')


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
  # Of 77,000 normal draws the largest is near 4.3; truncated ones end at 2.3.
  assert 3.5 < abs(draws).max() < 6


def test_the_classifier_is_uniform_in_one_over_the_root_of_64():
  kernel = np.asarray(_initialised()['params/fc/kernel'])
  bias = np.asarray(_initialised()['params/fc/bias'])
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
    if module.startswith('bn') or module == 'downsample.1':
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
  normed = {'bn1': 'conv1', 'bn2': 'conv2', 'downsample.1': 'downsample.0'}
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
    computed = inside['layer3.0']['conv2']['__call__'][0]
    assert computed.dtype == compute
    assert inside['layer3.0']['bn2']['__call__'][0].dtype == compute
  assert logits.shape == (2, 10)


@pytest.mark.parametrize(
  'name', ['wrn10_2', 'densenet_bc_40_12', 'resnet18', 'densenet121']
)
def test_other_families_keep_float32_around_bfloat16(name):
  model = models.create(name, 10, dtype=jnp.bfloat16)
  images = jnp.zeros((2, 32, 32, 3))
  init = functools.partial(model.init, train=True)
  variables = jax.eval_shape(init, jax.random.key(0), images)
  logits, updates = jax.eval_shape(
    functools.partial(
      model.apply,
      train=True,
      mutable=['batch_stats', 'intermediates'],
      capture_intermediates=True,
    ),
    variables,
    images,
  )
  inside = flax.traverse_util.flatten_dict(updates.pop('intermediates'))
  leaves = jax.tree.leaves((logits, variables, updates))
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}
  kept = {('fc',), ('classifier',), ()}
  for (*path, _), (output, *_) in inside.items():
    expected = 'float32' if tuple(path) in kept else 'bfloat16'
    assert output.dtype == expected, path


# Rematerialisation.


SMALL = {
  'cifar_resnet': functools.partial(cifar_resnet.CifarResNet, 8),
  'wide_resnet': functools.partial(wide_resnet.WideResNet, 10, 1),
  'resnet': functools.partial(resnet.ResNet, (1, 1), True),
  'densenet': functools.partial(densenet.DenseNet, (2, 1), 4),
}


@pytest.mark.parametrize('family', SMALL)
@pytest.mark.slow
def test_remat_changes_no_number(family, drawn_variables):
  images = jnp.asarray(
    np.sin(np.arange(2 * 16 * 16 * 3)).reshape(2, 16, 16, 3), jnp.float32
  )
  plain, remat = (
    SMALL[family](num_classes=10, remat=remat) for remat in (False, True)
  )
  variables = drawn_variables(plain, images)
  programs = []

  def loss(model, params):
    logits, updates = model.apply(
      {**variables, 'params': params},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return jnp.sum(logits**2), updates

  found = []
  for model in (plain, remat):
    function = jax.grad(functools.partial(loss, model), has_aux=True)
    programs.append(str(jax.make_jaxpr(function)(variables['params'])))
    found.append(jax.jit(function)(variables['params']))
  # JAX names the operation remat or checkpoint.
  recomputed = [bool(re.search('remat|checkpoint', p)) for p in programs]
  assert recomputed == [False, True]
  for one, other in zip(*map(jax.tree.leaves, found), strict=True):
    scale = abs(np.asarray(one)).max() + 1e-6
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4 * scale)


# Features.


@pytest.mark.parametrize('family', SMALL)
@pytest.mark.parametrize('mirrored', [False, True])
def test_features_are_what_the_classifier_is_given(
  family, mirrored, drawn_variables
):
  images = np.random.default_rng(0).integers(
    256, size=(2, 16, 16, 3), dtype=np.uint8
  )
  model = SMALL[family](num_classes=10)
  variables = drawn_variables(model, jnp.zeros((2, 16, 16, 3)))
  ((name, layer),) = (
    (k, v) for k, v in variables['params'].items() if k in models.CLASSIFIERS
  )
  assert name == ('classifier' if family == 'densenet' else 'fc')

  network = Network(
    family,
    model,
    (16, 16, 3),
    10,
    augment.Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    CLASSIFICATION,
    jax.devices()[:1],
  )
  blocks = network.features(
    variables, images, np.arange(2), 2, mirrored=mirrored
  )
  ((_, found),) = blocks
  # The classifier is linear: of the mean feature it gives the mean logits.
  logits = model.apply(variables, network.normalise(images), train=False)
  if mirrored:
    flipped = network.normalise(images[:, :, ::-1])
    logits = (logits + model.apply(variables, flipped, train=False)) / 2
  assert found.shape == (2, layer['kernel'].shape[0])
  again = np.asarray(found) @ layer['kernel'] + np.asarray(layer['bias'])
  np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-4)


# Shortcuts.


def test_the_identity_shortcut_subsamples_and_pads_channels():
  block = BasicBlock(Layers(train=False), 4, stride=2, projection=False)
  x = jnp.arange(1.0, 33.0).reshape(1, 4, 4, 2)
  found = block.apply({}, x, 4, method='_shortcut')
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
    captured['intermediates'][f'layer{group}.0']['__call__'][0].shape
    for group in (1, 2, 3)
  ]
  assert shapes == [(2, 32, 32, 16), (2, 16, 16, 32), (2, 8, 8, 64)]
  assert logits.shape == (2, 7)
