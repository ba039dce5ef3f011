# SPDX-License-Identifier: Apache-2.0
"""Every family against its PyTorch original (tests/references/models.json)."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from srdl_jax import losses, models, train_state
from srdl_jax.models import cifar_resnet, densenet, resnet, wide_resnet
from srdl_jax.weights import torch as torch_layout

REFERENCES = pathlib.Path(__file__).parents[1] / 'references'
REFERENCE = json.loads((REFERENCES / 'models.json').read_text())
CLASSES, BATCH, STEPS = 10, 4, 3
MEMBERS = {
  'cifar_resnet': functools.partial(cifar_resnet.CifarResNet, 14),
  'cifar_resnet_identity': functools.partial(
    cifar_resnet.CifarResNet, 8, shortcut='identity'
  ),
  'cifar_resnet_bottleneck': functools.partial(
    cifar_resnet.CifarResNet, 8, bottleneck=True
  ),
  'wide_resnet': functools.partial(wide_resnet.WideResNet, 16, 2),
  'densenet_bc': functools.partial(densenet.densenet_bc, 16, 6),
  'resnet_basic_small_stem': functools.partial(
    resnet.ResNet, (2, 1, 1, 1), False, small_stem=True
  ),
  'resnet_bottleneck': functools.partial(resnet.ResNet, (1, 1, 1), True),
  'densenet': functools.partial(densenet.DenseNet, (2, 1, 1, 1), 8),
}


def seeded_variables(model, shape, dtype):
  """Returns the variables that the reference has, from their formula."""
  like = jax.eval_shape(
    functools.partial(model.init, train=False),
    jax.random.key(0),
    jnp.zeros(shape, dtype),
  )
  tensors = {
    name: seeded.weight(name, value.shape).astype(dtype)
    for name, value in torch_layout.to_torch(
      jax.tree.map(lambda x: np.empty(x.shape, bool), like)
    ).items()
  }
  variables, misfits = torch_layout.from_torch(tensors, like)
  assert not misfits
  return variables


def follow(name, dtype, steps):
  """Does what make_models.py did, and returns the same values."""
  expected = REFERENCE['models'][name]
  model = MEMBERS[name](num_classes=CLASSES, dtype=jnp.dtype(dtype))
  size = expected['size']
  images = seeded.uniform(f'{name} images', (BATCH, 3, size, size))
  images = images.transpose(0, 2, 3, 1).astype(dtype)
  labels = jnp.arange(BATCH) * 3 % CLASSES
  variables = seeded_variables(model, images.shape, dtype)
  logits = jax.jit(functools.partial(model.apply, train=False))(
    variables, images
  )

  def loss_fn(params, batch_stats):
    logits, updates = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return losses.cross_entropy(logits, labels), updates['batch_stats']

  sgd = REFERENCE['sgd']
  rate = jnp.asarray(sgd['lr'], dtype)

  @jax.jit
  def step(state):
    (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, state.batch_stats
    )
    state = state.apply_gradients(
      grads=grads, learning_rate=rate, batch_stats=stats
    )
    return state, loss, grads

  state = train_state.from_variables(
    model,
    train_state.sgd(momentum=sgd['momentum'], weight_decay=sgd['weight_decay']),
    variables,
    0,
  )
  values, gradients = [], None
  for _ in range(steps):
    state, loss, grads = step(state)
    gradients = grads if gradients is None else gradients
    values.append(float(loss))
  gradients = {'params': gradients, 'batch_stats': {}}
  return {
    'logits': {'logits': seeded.fingerprint('logits', logits)},
    'gradients': fingerprints(gradients),
    'after': fingerprints(state.variables),
    'losses': values,
  }


def fingerprints(variables):
  return {
    key: seeded.fingerprint(key, value)
    for key, value in torch_layout.to_torch(variables).items()
  }


def assert_close(found, expected, tolerance):
  """Norms and projections are each within the tolerance of the norm."""
  assert found.keys() == expected.keys()
  for key, (norm, projection) in expected.items():
    error = np.subtract(found[key], (norm, projection))
    assert np.all(abs(error) <= tolerance * norm), (key, error, norm)


# What takes long: the fast suite compares the plainest and the densest family.
SLOW = {
  'resnet_basic_small_stem',
  'cifar_resnet_bottleneck',
  'resnet_bottleneck',
  'wide_resnet',
  'densenet',
}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in MEMBERS
  ],
)
def test_forward_gradients_and_three_steps(name, x64):
  expected, found = REFERENCE['models'][name], follow(name, 'float64', STEPS)
  np.testing.assert_allclose(found['losses'], expected['losses'], rtol=1e-9)
  assert_close(found['logits'], {'logits': expected['logits']}, 1e-9)
  assert_close(found['gradients'], expected['gradients'], 1e-9)
  assert_close(found['after'], expected['after'], 1e-9)


# Families differ by their layers, which double precision compares: one of all
# kinds, concatenation too, stands for all.
def test_single_precision():
  name = 'densenet_bc'
  expected, found = REFERENCE['models'][name], follow(name, 'float32', STEPS)
  assert found['losses'][0] == pytest.approx(expected['losses'][0], rel=1e-5)
  assert_close(found['logits'], {'logits': expected['logits']}, 1e-5)
  # Where an activation is within rounding of zero, its gradient is there in
  # one library and not in the other; elsewhere they agree to 1e-6.
  assert_close(found['gradients'], expected['gradients'], 2e-2)
  assert_close(found['after'], expected['after'], 5e-3)


def test_every_family_has_a_reference():
  assert MEMBERS.keys() == REFERENCE['models'].keys()
  registered = {
    type(models.create(n, 10)) for n in models.MODELS.keys() - {'tiny'}
  }
  compared = {type(member(num_classes=10)) for member in MEMBERS.values()}
  assert registered == compared


def test_a_name_and_its_layout():
  rng = np.random.default_rng(0)
  variables = {
    'params': {
      'layer1.0': {
        'conv1': {'kernel': rng.random((3, 5, 2, 4))},
        'bn1': {'scale': rng.random(4), 'bias': rng.random(4)},
      },
      'fc': {'kernel': rng.random((4, 7)), 'bias': rng.random(7)},
    },
    'batch_stats': {
      'layer1.0': {'bn1': {'mean': rng.random(4), 'var': rng.random(4)}}
    },
  }
  tensors = torch_layout.to_torch(variables)
  assert {name: value.shape for name, value in tensors.items()} == {
    'layer1.0.conv1.weight': (4, 2, 3, 5),
    'layer1.0.bn1.weight': (4,),
    'layer1.0.bn1.bias': (4,),
    'layer1.0.bn1.running_mean': (4,),
    'layer1.0.bn1.running_var': (4,),
    'fc.weight': (7, 4),
    'fc.bias': (7,),
  }
  kernel = variables['params']['layer1.0']['conv1']['kernel']
  assert tensors['layer1.0.conv1.weight'][3, 1, 2, 4] == kernel[2, 4, 1, 3]
  back, misfits = torch_layout.from_torch(tensors, variables)
  assert not misfits
  jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_what_does_not_fit_is_named_with_both_shapes():
  like = {
    'params': {'fc': {'kernel': np.zeros((4, 7)), 'bias': np.zeros(7)}},
    'batch_stats': {},
  }
  tensors = {
    'fc.weight': np.zeros((4, 7)),
    'head.bias': np.zeros(3),
    'bn1.num_batches_tracked': np.zeros(()),
  }
  variables, misfits = torch_layout.from_torch(tensors, like)
  assert misfits == [
    'fc.weight is (4, 7), not (7, 4)',
    'fc.bias (7,) is missing',
    'head.bias (3,) is not of this network',
  ]
  assert variables == {}
