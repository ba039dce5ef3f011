# SPDX-License-Identifier: Apache-2.0
"""The steps, alone and mapped over devices, in one dispatch or several."""

import functools
import itertools
import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdl_jax import (
  augment,
  losses,
  machine,
  methods,
  models,
  parallel,
  schedules,
  steps,
  train_state,
)
from srdl_jax import config as config_lib
from srdl_jax.errors import ConfigError
from srdl_jax.experiment import Purpose, key_for
from srdl_jax.network import CLASSIFICATION, Network
from srdl_jax.targets import Source, Stored

T = 3.0
SOURCE = Stored(T)
SGD = train_state.sgd(momentum=0.9, weight_decay=2e-4)
CLOSE = {'rtol': 1e-5, 'atol': 1e-6}
assert_close = functools.partial(
  jax.tree.map, functools.partial(np.testing.assert_allclose, **CLOSE)
)


class Tiny(nn.Module):
  """Batch norm of the pixels and a classifier."""

  num_classes: int = 10
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train):
    x = images.reshape(len(images), -1)
    x = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, axis_name=self.axis_name
    )(x)
    return nn.Dense(self.num_classes)(x)


@pytest.fixture
def state(drawn_variables):
  """A tiny network's state at global step 5."""
  variables = drawn_variables(Tiny(), jnp.zeros((1, 8, 8, 1)))
  return train_state.from_variables(Tiny(), SGD, variables, step=5)


@pytest.fixture
def normalise(tiny_digits):
  return augment.Normalise(tiny_digits.mean, tiny_digits.std)


@pytest.fixture
def batch(tiny_digits, normalise):
  return {
    'image': normalise(jnp.asarray(tiny_digits.train.images[:8])),
    'label': jnp.asarray(tiny_digits.train.labels[:8]),
    'index': jnp.arange(8),
    'soft_logits': None,
  }


def _bank(rows=48, classes=10):
  """Log-probabilities [N, K] that differ between any two rows."""
  index = np.arange(rows * classes).reshape(rows, classes)
  return np.asarray(jax.nn.log_softmax(np.float32(np.sin(1.7 * index))))


def _constant(rate):
  return lambda step: jnp.float32(rate)


@functools.partial(jax.jit, static_argnames=('schedule',))
def _step(state, batch, schedule):
  taught = batch['soft_logits'] is not None
  source = SOURCE if taught else Source(T)
  return steps.train_step(state, batch, schedule=schedule, source=source)


RATE = _constant(0.1)


@jax.jit
def _train_logits(state, batch):
  logits, updates = state.apply_fn(
    state.variables, batch['image'], train=True, mutable=['batch_stats']
  )
  return logits, updates['batch_stats']


# The step on one device.


def test_without_targets_the_step_is_on_eq2(state, batch):
  logits, batch_stats = _train_logits(state, batch)
  after, metrics = _step(state, batch, RATE)
  expected = losses.cross_entropy(logits, batch['label'])
  hits = (np.argmax(logits, 1) == batch['label']).mean()
  assert_close(
    metrics,
    {
      'loss': expected,
      'cross_entropy': expected,
      'accuracy': hits,
      'learning_rate': 0.1,
    },
  )
  assert after.step == 6
  assert_close(after.batch_stats, batch_stats)


def test_with_targets_the_step_is_on_eq7(state, batch):
  logits, _ = _train_logits(state, batch)
  soft = _bank(8)
  _, metrics = _step(state, {**batch, 'soft_logits': soft}, RATE)
  ce = losses.cross_entropy(logits, batch['label'])
  kl = losses.imitation(logits, soft, T)
  assert kl > 0.01
  np.testing.assert_allclose(metrics['loss'], ce + 9 * kl, rtol=1e-5)
  np.testing.assert_allclose(metrics['imitation'], kl, rtol=1e-5)


def test_own_targets_leave_the_step_of_eq2(state, batch):
  logits, _ = _train_logits(state, batch)
  own, metrics = _step(state, {**batch, 'soft_logits': logits / T}, RATE)
  alone, _ = _step(state, batch, RATE)
  assert abs(metrics['imitation']) < 1e-6
  assert_close(own.params, alone.params)


def test_the_update_is_that_of_the_gradient_at_the_given_rate(state, batch):
  # The classifier's bias has the gradient sum_b (p - onehot) / B + d w; its
  # first update under Nesterov's momentum is 1.9 times that.
  logits, _ = _train_logits(state, batch)
  before = state.params['Dense_0']['bias']
  after, _ = _step(state, batch, _constant(0.02))
  onehot = np.eye(10)[batch['label']]
  gradient = (jax.nn.softmax(logits) - onehot).mean(0) + 2e-4 * before
  np.testing.assert_allclose(
    after.params['Dense_0']['bias'] - before,
    -0.02 * 1.9 * gradient,
    rtol=1e-4,
    atol=1e-7,
  )


def test_a_weight_of_the_labels_reaches_the_loss(state, batch):
  step = functools.partial(
    steps.train_step,
    schedule=RATE,
    source=Stored(2.0, label_weight=0.1, imitation_weight=0.9),
  )
  _, metrics = jax.jit(step)(state, {**batch, 'soft_logits': _bank(8)})
  expected = 0.1 * metrics['cross_entropy'] + 0.9 * 4 * metrics['imitation']
  np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float64'])
def test_a_step_changes_no_type(dtype, x64):
  # Else a scan over steps is refused, and a dispatch compiles twice.
  model = models.create('resnet8', 10, dtype=jnp.dtype(dtype))
  kept = jnp.promote_types(dtype, jnp.float32)
  before = jax.eval_shape(
    lambda: train_state.fresh(model, SGD, jax.random.key(0), (8, 8, 1))
  )
  shapes = {
    'image': jax.ShapeDtypeStruct((4, 8, 8, 1), kept),
    'label': jax.ShapeDtypeStruct((4,), jnp.int32),
    'index': jax.ShapeDtypeStruct((4,), jnp.int32),
    'soft_logits': jax.ShapeDtypeStruct((4, 10), jnp.float32),
  }
  schedule = schedules.step_decay(0.1, 8)
  after, metrics = jax.eval_shape(
    functools.partial(steps.train_step, schedule=schedule, source=SOURCE),
    before,
    shapes,
  )
  assert jax.tree.map(str, after) == jax.tree.map(str, before)
  floats = [x for x in jax.tree.leaves(before) if x.dtype != jnp.int32]
  assert {str(leaf.dtype) for leaf in floats} == {str(kept)}
  assert {str(m.dtype) for m in metrics.values()} == {str(kept)}


# Restart and clock.


def test_a_restart_draws_parameters_anew_and_keeps_the_clock():
  fresh = functools.partial(
    train_state.fresh, Tiny(), SGD, image_shape=(8, 8, 1)
  )
  one = fresh(key=jax.random.key(1))
  two = fresh(key=jax.random.key(2), step=40)
  again = fresh(key=jax.random.key(1), step=40)
  kernels = [s.params['Dense_0']['kernel'] for s in (one, two, again)]
  assert abs(kernels[0] - kernels[1]).max() > 0.1
  np.testing.assert_array_equal(kernels[0], kernels[2])
  assert (one.step, two.step) == (0, 40)
  for leaf in jax.tree.leaves(two.opt_state):
    np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
  norm = two.batch_stats['BatchNorm_0']
  np.testing.assert_array_equal(norm['mean'], np.zeros(64))
  np.testing.assert_array_equal(norm['var'], np.ones(64))


def test_no_restart_keeps_parameters_and_statistics_alone(state, batch):
  trained, _ = _step(state, batch, RATE)
  kept = train_state.from_variables(Tiny(), SGD, trained.variables, step=40)
  assert_equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)
  assert_equal(kept.variables, trained.variables)
  assert kept.step == 40
  momenta = [jax.tree.leaves(s.opt_state) for s in (trained, kept)]
  assert max(abs(leaf).max() for leaf in momenta[0]) > 0.01
  assert max(abs(leaf).max() for leaf in momenta[1]) == 0


HIGH, MIDDLE, LOW = 0.1, 0.01, 0.001


@pytest.mark.parametrize(
  ('method', 'expected'),
  [
    ('srdl', [HIGH, HIGH, MIDDLE, LOW] * 2),
    ('no_restart', [HIGH, HIGH, MIDDLE, LOW] * 2),
    ('stage_incomplete', [HIGH] * 4 + [MIDDLE] * 2 + [LOW] * 2),
  ],
)
def test_the_applied_rate_at_every_step(
  method, expected, batch, drawn_variables
):
  # Without momentum and decay, the classifier's bias moves by minus the rate
  # times sum_b (p - onehot) / B: what is applied is read off the parameters.
  plain = train_state.sgd(momentum=0.0, weight_decay=0.0, nesterov=False)
  config = config_lib.defaults()
  config.update(method=method, epochs=8)
  stages = methods.create(config)
  schedule = schedules.over_stages(
    0.1, [s.epochs for s in stages], [s.complete for s in stages]
  )
  new = drawn_variables(Tiny(), batch['image'])
  onehot = np.eye(10)[batch['label']]
  state, step, applied, reported = None, 0, [], []
  for stage in stages:
    kept = state.variables if stage.start == 'previous' else new
    state = train_state.from_variables(Tiny(), plain, kept, step)
    for _ in range(stage.epochs):
      before, (logits, _) = state, _train_logits(state, batch)
      state, metrics = _step(state, batch, schedule)
      gradient = (jax.nn.softmax(logits) - onehot).mean(0)
      biases = [s.params['Dense_0']['bias'] for s in (before, state)]
      place = abs(gradient).argmax()
      applied.append((biases[0] - biases[1])[place] / gradient[place])
      reported.append(metrics['learning_rate'])
      step += 1
  np.testing.assert_allclose(reported, expected, rtol=1e-6)
  np.testing.assert_allclose(applied, expected, rtol=5e-3)


# Batches from resident arrays.


def _resident(dataset, soft_logits):
  return {
    'image': jnp.asarray(dataset.train.images),
    'label': jnp.asarray(dataset.train.labels),
    'soft_logits': soft_logits,
  }


def _unchanged(key, images, index):
  del key, index
  return images


def test_a_batch_holds_each_rows_own_image_label_and_targets(tiny_digits):
  rows = jnp.array([30, 2, 47, 0])
  key, bank = jax.random.key(0), jnp.asarray(_bank())
  flip_and_crop = functools.partial(augment.flip_and_crop, flip=True, padding=1)
  assemble = functools.partial(
    steps.augmented_step,
    augment=flip_and_crop,
    normalise=lambda images: images,
    step=lambda state, batch: (state, batch),
  )
  _, batch = jax.jit(assemble)(None, _resident(tiny_digits, bank), rows, key)
  train = tiny_digits.train
  np.testing.assert_array_equal(batch['index'], rows)
  np.testing.assert_array_equal(batch['label'], train.labels[rows])
  np.testing.assert_array_equal(batch['soft_logits'], bank[rows])
  np.testing.assert_array_equal(
    batch['image'], jax.jit(flip_and_crop)(key, train.images[rows], rows)
  )


def test_permuted_rows_of_the_bank_change_the_loss(
  state, tiny_digits, normalise
):
  # The targets are the network's own at T: the right rows give a divergence
  # of zero, those of other images don't.
  resident = _resident(tiny_digits, None)
  clean = {'image': normalise(resident['image']), 'label': resident['label']}
  own = _train_logits(state, clean)[0] / T
  rows = jnp.arange(48)[::-1]
  step = jax.jit(
    functools.partial(
      steps.augmented_step,
      augment=_unchanged,
      normalise=normalise,
      step=functools.partial(steps.train_step, schedule=RATE, source=SOURCE),
    )
  )
  found = {}
  for name, bank in (('own', own), ('others', jnp.roll(own, 1, axis=0))):
    _, found[name] = step(
      state, {**resident, 'soft_logits': bank}, rows, jax.random.key(0)
    )
  assert abs(found['own']['imitation']) < 1e-6
  assert found['others']['imitation'] > 0.01
  assert found['others']['loss'] > found['own']['loss'] + 0.05


def test_a_bank_is_read_by_index_and_none_stays_none():
  resident = {
    'image': jnp.arange(8),
    'label': jnp.arange(8),
    'soft_logits': jnp.asarray(_bank())[:8],
  }
  rows = jnp.array([5, 5, 0])
  found = steps.gather(resident, rows)
  np.testing.assert_array_equal(found['soft_logits'], _bank()[[5, 5, 0]])
  for name in ('image', 'label', 'index'):
    np.testing.assert_array_equal(found[name], rows)
  assert SOURCE.targets({}, found, None) is found['soft_logits']
  labels_alone = steps.gather(resident | {'soft_logits': None}, rows)
  assert labels_alone['soft_logits'] is None
  assert Source(T).targets({}, labels_alone, None) is None
  with pytest.raises(ValueError, match='taught stage has no soft targets'):
    SOURCE.targets({}, labels_alone, None)


# Devices.


def _counts():
  return pytest.mark.parametrize('count', [1, 2, 4])


@_counts()
def test_predict_gives_every_row_once_in_order(
  count, state, tiny_digits, normalise
):
  images = tiny_digits.train.images
  apply = jax.jit(functools.partial(Tiny().apply, train=False))
  expected = np.asarray(apply(state.variables, normalise(images)))
  devices = machine.choose_devices(count, 8)
  network = Network(
    'tiny',
    Tiny(),
    (8, 8, 1),
    10,
    normalise,
    CLASSIFICATION,
    devices,
  )
  all_rows = np.arange(48)
  # Fewer than a batch, one batch, full batches, and a remainder; a subset in
  # an order of its own.
  for rows in (
    all_rows[:3],
    all_rows[:8],
    all_rows,
    all_rows[:45],
    all_rows[40::-3],
  ):
    blocks = list(network.predict(state.variables, images, rows, 8))
    assert len(blocks) == -(-len(rows) // 8)
    np.testing.assert_array_equal(np.concatenate([r for r, _ in blocks]), rows)
    np.testing.assert_allclose(
      np.concatenate([outputs for _, outputs in blocks]),
      expected[rows],
      **CLOSE,
    )


@pytest.fixture(scope='module')
def three_steps(tiny_digits, drawn_variables):
  """A function of devices and steps a dispatch: ResNet-8 after three steps."""
  model = models.create('resnet8', 10, axis_name=parallel.AXIS)
  variables = drawn_variables(model, jnp.zeros((1, 8, 8, 1)))
  start = parallel.to_host(
    train_state.from_variables(model, SGD, variables, step=0)
  )
  resident = parallel.to_host(_resident(tiny_digits, _bank()))
  rows_SxB = np.arange(48)[::2].reshape(3, 8)

  @functools.cache
  def run(count, size):
    devices = machine.choose_devices(count, 8)
    chunk = parallel.map_train(
      functools.partial(
        steps.augmented_step,
        augment=functools.partial(augment.flip_and_crop, flip=True, padding=1),
        normalise=augment.Normalise(tiny_digits.mean, tiny_digits.std),
        step=functools.partial(
          steps.train_step,
          schedule=schedules.step_decay(0.1, 4),
          source=SOURCE,
          axis_name=parallel.AXIS,
        ),
      ),
      devices,
    )
    put = functools.partial(parallel.replicate, devices=devices)
    state, resident_, key = put(start), put(resident), put(jax.random.key(0))
    metrics = []
    for first in range(0, 3, size):
      rows = rows_SxB[first : first + size]
      state, found = chunk(state, resident_, rows, key)
      metrics.append(parallel.to_host(found))
    joined = {k: np.concatenate([m[k] for m in metrics]) for k in metrics[0]}
    return parallel.to_host(state), joined

  return run


def _assert_same_run(one, other):
  for a, b in zip(one, other, strict=True):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
      a,
      b,
    )


@pytest.mark.parametrize('count', [2, 4])
def test_the_number_of_devices_changes_nothing(three_steps, count):
  _assert_same_run(three_steps(count, 1), three_steps(1, 1))


def test_a_scan_of_three_steps_is_three_steps(three_steps):
  _assert_same_run(three_steps(1, 3), three_steps(1, 1))


def test_three_steps_follow_the_clock_and_train(three_steps):
  state, metrics = three_steps(1, 1)
  assert state.step == 3
  np.testing.assert_allclose(
    metrics['learning_rate'], [HIGH, HIGH, MIDDLE], rtol=1e-6
  )
  assert all(values.shape == (3,) for values in metrics.values())
  assert (metrics['imitation'] > 0).all()
  moved = [abs(leaf).max() for leaf in jax.tree.leaves(state.opt_state)]
  assert min(moved) > 0


def test_consecutive_examples_of_a_batch_go_to_one_device():
  rows = np.arange(8)
  for count in (1, 2, 4):
    found = parallel.split(rows, machine.choose_devices(count, 8))
    assert found.shape == (count, 8 // count)
    np.testing.assert_array_equal(found.ravel(), rows)


def test_devices_are_the_first():
  every = jax.devices()
  assert len(every) == 4
  for count in range(1, 5):
    assert machine.choose_devices(count, 8) == every[:count]
  with pytest.raises(ConfigError, match='devices = 5, but 4 cpu device'):
    machine.choose_devices(5, 8)


@pytest.mark.parametrize(
  ('batch_size', 'count'),
  # 32 images each at least; parts of equal size; one always takes part.
  [(128, 4), (127, 1), (129, 3), (126, 3), (96, 3), (64, 2), (63, 1), (1, 1)],
)
def test_as_many_cpu_devices_as_share_a_batch_well(batch_size, count):
  assert machine.choose_devices(0, batch_size) == jax.devices()[:count]


@pytest.mark.parametrize(
  ('batch_size', 'count'), [(128, 4), (132, 3), (70, 1), (126, 3), (7, 1)]
)
def test_pairs_stay_on_one_device(batch_size, count):
  assert machine.choose_devices(0, batch_size, 2) == jax.devices()[:count]


def test_a_dispatch_is_one_step_on_cpu_unless_asked():
  found = [machine.steps_per_dispatch(n, 390, jax.devices()) for n in (0, 1, 7)]
  assert found == [1, 1, 7]


@pytest.mark.parametrize(
  ('epoch_steps', 'expected'),
  # An epoch in one; in equal parts; 787 is prime, so with a remainder.
  [(98, 98), (1, 1), (390, 78), (1000, 100), (787, 100)],
)
def test_a_dispatch_on_an_accelerator_leaves_no_remainder(
  epoch_steps, expected
):
  accelerator = [types.SimpleNamespace(platform='gpu')]
  found = machine.steps_per_dispatch(0, epoch_steps, accelerator)
  assert found == expected


def test_keys_are_of_one_kind_whatever_jax_is_told():
  expected = jax.random.key_data(key_for(3, Purpose.AUGMENT, 1, 2))
  kind = jax.config.jax_default_prng_impl
  try:
    jax.config.update('jax_default_prng_impl', 'rbg')
    found = jax.random.key_data(key_for(3, Purpose.AUGMENT, 1, 2))
  finally:
    jax.config.update('jax_default_prng_impl', kind)
  np.testing.assert_array_equal(found, expected)


def test_keys_follow_from_all_of_their_counts():
  counts = itertools.product((0, 1), Purpose, (1, 2), (0, 1))
  keys = {jax.random.key_data(key_for(*count)).tobytes() for count in counts}
  assert len(keys) == 2 * len(Purpose) * 2 * 2
