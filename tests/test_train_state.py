# SPDX-License-Identifier: Apache-2.0
"""SGD against torch.optim.SGD, step by step, and by its formula; a start."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srdl_jax import models, train_state

# Made by references/make_sgd.py, which names its torch and its command.
MADE = json.loads(
  pathlib.Path(__file__)
  .with_name('references')
  .joinpath('sgd.json')
  .read_text()
)


def _options(case):
  return {k: v for k, v in case.items() if k != 'weights'}


@pytest.mark.parametrize('case', MADE['cases'], ids=lambda c: str(_options(c)))
def test_sgd_equals_torch_at_every_step(case, x64):
  tx = train_state.sgd(**_options(case))
  index = jnp.arange(6, dtype=jnp.float64)
  weights = jnp.sin(1 + index)
  state = tx.init(weights)

  def loss(w):
    return jnp.sum((1 + index / 2) * w**2 / 2 + jnp.sin((2 - index / 3) * w))

  @jax.jit
  def step(weights, state, rate):
    updates, state = tx.update(
      jax.grad(loss)(weights), state, weights, learning_rate=rate
    )
    return optax.apply_updates(weights, updates), state

  for rate, expected in zip(MADE['rates'], case['weights'], strict=True):
    weights, state = step(weights, state, rate)
    np.testing.assert_allclose(weights, expected, rtol=1e-12, atol=1e-15)


def test_decay_is_coupled_and_on_all_parameters(x64):
  # Without gradients, the decay alone goes through Nesterov's momentum: at
  # the first step the trace is v = d w, and the update -rate (d w + 0.9 v).
  params = {
    'conv': {'kernel': jnp.full((3, 3, 1, 2), 2.0)},
    'bn': {'scale': jnp.array([1.0, -3.0]), 'bias': jnp.array([0.5, 4.0])},
    'classifier': {'kernel': jnp.ones((2, 2)), 'bias': jnp.array([5.0, 0.0])},
  }
  tx = train_state.sgd(momentum=0.9, weight_decay=2e-4)
  none = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(none, tx.init(params), params, learning_rate=0.1)
  jax.tree.map(
    lambda u, p: np.testing.assert_allclose(
      u, -0.1 * 1.9 * 2e-4 * p, rtol=1e-12
    ),
    updates,
    params,
  )


def test_the_rate_multiplies_after_the_momentum(x64):
  # g = 1 at both steps, no decay. Trace: 1, then 1.9. Nesterov's updates are
  # g + 0.9 v: 1.9 and 2.71. With the rate inside the trace, the second would
  # hold 0.81 of the first rate.
  tx = train_state.sgd(momentum=0.9, weight_decay=0.0)
  weight = jnp.zeros(())
  state = tx.init(weight)
  first, state = tx.update(jnp.ones(()), state, weight, learning_rate=1.0)
  second, _ = tx.update(jnp.ones(()), state, weight, learning_rate=0.01)
  np.testing.assert_allclose([first, second], [-1.9, -0.0271], rtol=1e-12)


def test_the_optimiser_has_no_clock_of_its_own():
  # Its state is the momentum: one array like each parameter, from zero.
  params = {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)}
  state = train_state.sgd(momentum=0.9, weight_decay=0.1).init(params)
  leaves = jax.tree.leaves(state)
  assert sorted(leaf.shape for leaf in leaves) == [(2, 3), (3,)]
  assert all((leaf == 0).all() for leaf in leaves)


def test_an_update_without_a_rate_is_an_error():
  tx = train_state.sgd(momentum=0.9, weight_decay=0.1)
  weight = jnp.ones(3)
  with pytest.raises(TypeError, match='learning_rate'):
    tx.update(weight, tx.init(weight), weight)


def test_the_backbone_learns_at_a_share_of_the_rate(x64):
  # g = 1 everywhere, no decay: Nesterov's first update is 1.9 times the rate.
  layer = {'kernel': jnp.zeros((2, 2)), 'bias': jnp.zeros(2)}
  params = {'layer1.0': {'conv1': layer}, 'fc': layer}
  tx = train_state.sgd(
    momentum=0.9, weight_decay=0.0, backbone_share=0.1, heads=('fc',)
  )
  ones = jax.tree.map(jnp.ones_like, params)
  updates, state = tx.update(ones, tx.init(params), params, learning_rate=0.05)
  for leaf in jax.tree.leaves(updates['fc']):
    np.testing.assert_allclose(leaf, -1.9 * 0.05, rtol=1e-12)
  for leaf in jax.tree.leaves(updates['layer1.0']):
    np.testing.assert_allclose(leaf, -1.9 * 0.005, rtol=1e-12)
  # The second: 1 + 0.9 (1 + 0.9) = 2.71, the momentum being the same for both.
  updates, _ = tx.update(ones, state, params, learning_rate=0.05)
  np.testing.assert_allclose(updates['fc']['bias'], -2.71 * 0.05, rtol=1e-12)
  np.testing.assert_allclose(
    updates['layer1.0']['conv1']['bias'], -2.71 * 0.005, rtol=1e-12
  )


def test_a_start_is_drawn_as_the_usual_optimisations_do():
  """It is compiled with fewer, as that takes seconds and not minutes."""
  model, shape = models.create('resnet8', 10), (8, 8, 1)
  key = jax.random.key(3)
  usual = jax.jit(
    lambda: model.init(key, jnp.zeros((1, *shape)), train=False),
    compiler_options={'xla_backend_optimization_level': 2},
  )()
  found = train_state.fresh(model, optax.identity(), key, shape).variables
  jax.tree.map(np.testing.assert_array_equal, found, dict(usual))
