# SPDX-License-Identifier: Apache-2.0
"""Layers as XLA's CPU backend likes them, against their plain forms."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdl_jax import cost, losses, models
from srdl_jax.models import cifar_resnet, densenet, layers, resnet, wide_resnet

# Every kind of block, projections and transitions with strides among them.
NETWORKS = {
  'basic': functools.partial(cifar_resnet.CifarResNet, 8),
  'identity': functools.partial(
    cifar_resnet.CifarResNet, 8, shortcut='identity'
  ),
  'bottleneck': functools.partial(cifar_resnet.CifarResNet, 8, bottleneck=True),
  'pre-activation': functools.partial(wide_resnet.WideResNet, 10, 1),
  'dense': functools.partial(densenet.densenet_bc, 10, 4),
}


def plain_norm(self, *, name):
  return nn.BatchNorm(
    use_running_average=not self.train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=self.dtype,
    param_dtype=self.param_dtype,
    axis_name=self.axis_name,
    name=name,
  )


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
  """Kernels' gradients are those of CPUs with narrow vectors."""
  monkeypatch.setattr(layers.cpu, 'has_narrow_vectors', lambda: True)


@pytest.fixture
def plain(monkeypatch):
  def make():
    monkeypatch.setattr(layers.Layers, 'norm', plain_norm)
    for name in ('pointwise', 'convolution'):
      monkeypatch.setattr(layers, name, jax.lax.conv_general_dilated)
    for module in (layers, cifar_resnet, wide_resnet, resnet, densenet):
      monkeypatch.setattr(module, 'relu', nn.relu)

  return make


def followed(network, variables, images, dtype):
  """Returns loss, logits, statistics and gradients of one step."""
  model = network(num_classes=10, dtype=dtype)
  labels = jnp.arange(len(images)) % 10

  def loss(params):
    logits, updates = model.apply(
      {**variables, 'params': params},
      images.astype(dtype),
      train=True,
      mutable=['batch_stats'],
    )
    return losses.cross_entropy(logits, labels), (logits, updates)

  found, gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    variables['params']
  )
  evaluated = jax.jit(functools.partial(model.apply, train=False))(
    variables, images.astype(dtype)
  )
  return {'step': found, 'gradients': gradients, 'evaluated': evaluated}


def shapes(model, images):
  # A new function each time: JAX remembers what it has traced.
  return jax.eval_shape(
    lambda: model.init(jax.random.key(0), images, train=False)
  )


@pytest.mark.parametrize('network', NETWORKS)
def test_plain_layers_come_to_the_same(network, x64, plain, drawn_variables):
  """In double precision to 1e-12 of a tensor's largest value."""
  images = np.random.default_rng(0).normal(size=(6, 8, 8, 3))
  model = NETWORKS[network](num_classes=10, dtype=jnp.float64)
  variables = drawn_variables(model, jnp.asarray(images))
  like = shapes(model, images)
  ours = followed(NETWORKS[network], variables, images, jnp.float64)
  plain()
  assert like == shapes(model, images)
  theirs = followed(NETWORKS[network], variables, images, jnp.float64)
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
  ):
    assert one.dtype == other.dtype
    largest = np.abs(other).max()
    assert np.abs(one - other).max() <= 1e-12 * largest


def convolved(convolution, strides, padding, x, kernel):
  dimensions = ('NHWC', 'HWIO', 'NHWC')
  return convolution(x, kernel, strides, padding, dimension_numbers=dimensions)


@pytest.mark.parametrize('images_at_once', [0, 2, 6])
@pytest.mark.parametrize(
  ('size', 'strides', 'padding', 'height'),
  [
    ((3, 3), (1, 1), ((1, 1), (1, 1)), 8),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), 7),
    ((7, 7), (2, 2), ((3, 3), (3, 3)), 12),
    ((3, 5), (1, 2), ((0, 1), (2, 3)), 8),
  ],
)
def test_a_convolution_has_its_gradients(
  monkeypatch, x64, images_at_once, size, strides, padding, height
):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(6, height, height + 2, 5))
  kernel = rng.normal(size=(*size, 5, 4))
  monkeypatch.setattr(layers, 'CACHE_BYTES', images_at_once * x[0].nbytes)
  ours, theirs = (
    jax.vjp(functools.partial(convolved, f, strides, padding), x, kernel)
    for f in (layers.convolution, jax.lax.conv_general_dilated)
  )
  np.testing.assert_array_equal(ours[0], theirs[0])
  weights = rng.normal(size=theirs[0].shape)
  for one, other in zip(ours[1](weights), theirs[1](weights), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-12 * np.abs(other).max())


@pytest.mark.parametrize(
  ('platform', 'dtype', 'narrow', 'loops'),
  [
    ('cpu', 'float32', True, True),
    ('cpu', 'float32', False, False),
    ('cpu', 'bfloat16', True, False),
    ('tpu', 'float32', True, False),
    ('cuda', 'float32', True, False),
  ],
)
def test_kernels_have_gradients_of_their_own_on_some_cpus_alone(
  monkeypatch, platform, dtype, narrow, loops
):
  monkeypatch.setattr(layers.cpu, 'has_narrow_vectors', lambda: narrow)
  x, kernel = jnp.ones((6, 8, 8, 5), dtype), jnp.ones((3, 3, 5, 4), dtype)
  padding = ((1, 1), (1, 1))
  gradient = jax.grad(
    lambda *a: convolved(layers.convolution, (1, 1), padding, *a).sum(), (0, 1)
  )
  lowered = (
    jax.jit(gradient).trace(x, kernel).lower(lowering_platforms=(platform,))
  )
  assert ('while' in lowered.as_text()) == loops


def test_half_precision_norms_are_as_exact(plain, drawn_variables):
  """Both compute in single precision, and round what they return."""
  x = 3 + jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 5, 8)))
  x = x.astype(jnp.bfloat16)
  make = layers.Layers(True, jnp.bfloat16)
  variables = make.norm(name=None).init(jax.random.key(0), x)
  ours, stats = make.norm(name=None).apply(variables, x, mutable='batch_stats')
  plain()
  norm = make.norm(name=None)
  theirs, others = norm.apply(variables, x, mutable='batch_stats')
  assert ours.dtype == theirs.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    ours.astype(np.float32), theirs.astype(np.float32), atol=0.02
  )
  for one, other in zip(
    jax.tree.leaves(stats), jax.tree.leaves(others), strict=True
  ):
    assert one.dtype == other.dtype == jnp.float32
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_devices_share_their_statistics(x64):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5, 5, 3)))
  make = layers.Layers(True, jnp.float64)
  variables = make.norm(name=None).init(jax.random.key(0), x)
  whole, stats = make.norm(name=None).apply(variables, x, mutable='batch_stats')
  norm = layers.Layers(True, jnp.float64, 'devices').norm(name=None)
  parts, of_parts = jax.pmap(
    lambda x: norm.apply(variables, x, mutable='batch_stats'), 'devices'
  )(x.reshape(4, 2, 5, 5, 3))
  np.testing.assert_allclose(parts.reshape(x.shape), whole, rtol=1e-12)
  jax.tree.map(
    lambda one, each: np.testing.assert_allclose(
      each, jnp.stack(4 * [one]), rtol=1e-12
    ),
    stats,
    of_parts,
  )


def test_a_channel_without_variance_stays_finite():
  """Its mean of squares may round to less than the square of its mean."""
  x = (
    jnp.full((4, 5, 5, 1000), 1.0)
    * jnp.linspace(1e3, 1e4, 1000)[None, None, None]
  )
  norm = layers.Layers(True).norm(name=None)
  found, _ = norm.init_with_output(jax.random.key(0), x)
  assert np.isfinite(found).all()


def test_what_is_no_number_stays_none():
  found = layers.relu(jnp.asarray([jnp.nan, -1.0, 0.0, 2.0, jnp.inf]))
  np.testing.assert_array_equal(found, [jnp.nan, 0.0, 0.0, 2.0, jnp.inf])
  gradient = jax.vmap(jax.grad(layers.relu))(jnp.asarray([-1.0, 0.0, 2.0]))
  np.testing.assert_array_equal(gradient, [0.0, 0.0, 1.0])


def test_a_pointwise_convolution_is_counted_as_one():
  """By `cost.flops`, which counts matrix products, too."""
  model = models.create('resnet8', 10)
  projections = 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64
  without = models.create('resnet8', 10, shortcut='identity')
  shape = (32, 32, 3)
  found = cost.multiply_adds(model, shape) - cost.multiply_adds(without, shape)
  assert found == projections
