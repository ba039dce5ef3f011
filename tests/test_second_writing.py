# SPDX-License-Identifier: Apache-2.0
"""A whole run of two stages agrees with a second, plain writing of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from srdl_jax import data, srdl
from srdl_jax.runs import stop_request

# Off their defaults, so that none can be left unread. Both decays fall within
# each stage, M is odd, and no batch divides the examples.
SEED, EPOCHS, BATCH = 7, 5, 32
CLASSES, HOLDOUT, PER_CLASS = 8, 70, 13
RATE, DECAY_AT, DECAY_FACTOR = 0.2, (0.4, 0.7), 0.3
MOMENTUM, WEIGHT_DECAY = 0.8, 0.02
T, LABEL_WEIGHT, IMITATION_WEIGHT = 2.5, 0.6, 1.4
PADDING = 2
FIELDS = {
  'seed': SEED,
  'epochs': EPOCHS,
  'batch_size': BATCH,
  'data.classes': CLASSES,
  'data.holdout': HOLDOUT,
  'data.examples_per_class': PER_CLASS,
  'optimiser.learning_rate': RATE,
  'optimiser.momentum': MOMENTUM,
  'optimiser.weight_decay': WEIGHT_DECAY,
  'schedule.decay_at': DECAY_AT,
  'schedule.decay_factor': DECAY_FACTOR,
  'distillation.temperature': T,
  'distillation.label_weight': LABEL_WEIGHT,
  'distillation.imitation_weight': IMITATION_WEIGHT,
  'augment.padding': PADDING,
  'eval.batch_size': 40,
}
INITIALISE, AUGMENT = 0, 1

# The one thing that is not written again: how new parameters are drawn.
begin = jax.jit(functools.partial(tiny.Tiny(CLASSES).init, train=False))


def key_of(*counts):
  """The key of a purpose, a stage and, maybe, an epoch."""
  return functools.reduce(jax.random.fold_in, counts, jax.random.key(SEED))


def shuffled(rows, *words):
  """Rows in the order of a stage and an epoch, or of the hold-out's words."""
  generator = np.random.Philox(np.random.SeedSequence((SEED, *words)))
  return rows[np.random.Generator(generator).permutation(len(rows))]


def choose(labels_N):
  """The rows to train on and those held out, ascending."""
  used = np.flatnonzero(labels_N < CLASSES)
  held = np.sort(shuffled(used, 0, 0, 1)[:HOLDOUT])
  rest = np.setdiff1d(used, held)
  firsts = [rest[labels_N[rest] == k][:PER_CLASS] for k in range(CLASSES)]
  return np.sort(np.concatenate(firsts)), held


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0))
def draws(key, row):
  """Whether to flip an example, and where its crop begins."""
  flip_key, crop_key = jax.random.split(jax.random.fold_in(key, row))
  flip = jax.random.randint(flip_key, (), 0, 2)
  return flip, jax.random.randint(crop_key, (2,), 0, 2 * PADDING + 1)


def flip_and_crop(image, flip, corner, mode):
  """A crop of the padded image [8, 8, 1], then its mirror image or not."""
  top, left = corner - PADDING
  y, x = np.ogrid[top : top + 8, left : left + 8]
  # Reflected about the pixels 0 and 7, which aren't repeated.
  crop = image[7 - abs(7 - abs(y)), 7 - abs(7 - abs(x))]
  if mode == 'zero':
    crop = crop * ((y == y.clip(0, 7)) & (x == x.clip(0, 7)))[..., None]
  return crop[:, ::-1] if flip else crop


def log_softmax(logits_BxK):
  shifted_BxK = logits_BxK - logits_BxK.max(1, keepdims=True)
  return shifted_BxK - jnp.log(jnp.exp(shifted_BxK).sum(1, keepdims=True))


def forward(params, running, images, train):
  """Logits [B, K], and the running mean and variance [C] afterwards."""
  x = jax.lax.conv_general_dilated(
    images,
    params['Conv_0']['kernel'],
    window_strides=(2, 2),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  mean, var = running
  if train:
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    running = 0.9 * running[0] + 0.1 * mean, 0.9 * running[1] + 0.1 * var
  norm, fc = params['BatchNorm_0'], params['fc']
  factor = norm['scale'] / jnp.sqrt(var + 1e-5)
  shift = norm['bias'] - mean * factor
  x = x * factor.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)
  x = jnp.maximum(x, 0).reshape(len(x), -1)
  return x @ fc['kernel'] + fc['bias'].reshape(1, -1), running


@jax.jit
@functools.partial(jax.grad, has_aux=True)
def gradient(params, running, images, labels_B, soft_BxK):
  logits_BxK, running = forward(params, running, images, train=True)
  log_p_BxK = log_softmax(logits_BxK)
  # Eq 2.
  loss = ce = -log_p_BxK[jnp.arange(BATCH), labels_B].mean()
  right_B = logits_BxK.argmax(1) == labels_B
  told = {'cross_entropy': ce, 'accuracy': right_B.mean()}
  if soft_BxK is not None:
    # Eq 6 and 7.
    log_ratio_BxK = jnp.log(soft_BxK) - log_softmax(logits_BxK / T)
    told['imitation'] = kl = (soft_BxK * log_ratio_BxK).sum(1).mean()
    loss = LABEL_WEIGHT * ce + IMITATION_WEIGHT * T**2 * kl
  return loss, ({**told, 'loss': loss}, running)


@jax.jit
def predict(params, running, images):
  """Log-probabilities [N, K], and those softened by T (Eq 5)."""
  logits_NxK, _ = forward(params, running, images, train=False)
  return log_softmax(logits_NxK), log_softmax(logits_NxK / T)


def sgd(params, velocity, grad, rate):
  """Nesterov's momentum; weight decay is a part of the gradient."""
  each = jax.tree.map
  grad = each(lambda g, p: np.array(g) + WEIGHT_DECAY * p, grad, params)
  velocity = each(lambda v, g: MOMENTUM * v + g, velocity, grad)
  step = each(lambda g, v: g + MOMENTUM * v, grad, velocity)
  return each(lambda p, s: p - rate * s, params, step), velocity


def second_writing(mode):
  """What each step, and the held-out examples after each epoch, give."""
  train = data.load('digits').train
  images, labels_N = train.images, train.labels
  # Of all training pixels in [0, 1], to four digits.
  mean, std = round(images.mean() / 255, 4), round(images.std() / 255, 4)

  def normalise(images):
    return np.float32((images / 255 - mean) / std)

  rows, held = choose(labels_N)
  per_epoch = len(rows) // BATCH
  steps, evaluations, soft_NxK = [], [], None
  for stage, epochs in (1, EPOCHS // 2), (2, EPOCHS - EPOCHS // 2):
    # The random restart of Algorithm 1.
    params = begin(key_of(INITIALISE, stage), jnp.zeros((1, 8, 8, 1)))['params']
    running = np.zeros(8, np.float32), np.ones(8, np.float32)
    params = jax.tree.map(np.array, params)
    velocity = jax.tree.map(np.zeros_like, params)
    # Eq 3, anew in each stage: Eq 4.
    decays = [int(at * epochs * per_epoch) for at in DECAY_AT]
    for done in range(epochs * per_epoch):
      epoch, number = divmod(done, per_epoch)
      rate = RATE * DECAY_FACTOR ** sum(done >= at for at in decays)
      batch = shuffled(rows, stage, epoch)[number * BATCH :][:BATCH]
      drawn = map(np.array, draws(key_of(AUGMENT, stage, epoch), batch))
      augmented = [
        flip_and_crop(images[row], flip, corner, mode)
        for row, flip, corner in zip(batch, *drawn, strict=True)
      ]
      grad, (told, running) = gradient(
        params,
        running,
        normalise(np.stack(augmented)),
        labels_N[batch],
        None if soft_NxK is None else soft_NxK[batch],
      )
      params, velocity = sgd(params, velocity, grad, rate)
      place = {'stage': stage, 'epoch': epoch + 1, 'step': len(steps) + 1}
      steps.append({**place, **told, 'learning_rate': rate})
      if number + 1 == per_epoch:
        log_p_NxK, log_soft_NxK = map(
          np.array, predict(params, running, normalise(images))
        )
        own_N = log_p_NxK[held, labels_N[held]]
        right_N = log_p_NxK[held].argmax(1) == labels_N[held]
        scores = {'accuracy': right_N.mean(), 'nll': -own_N.mean()}
        evaluations.append({**place, **scores, 'examples': HOLDOUT})
    soft_NxK = np.exp(log_soft_NxK)
  return steps, evaluations


def agree(lines, expected):
  for line, values in zip(lines, expected, strict=True):
    found = {name: line[name] for name in values}
    wanted = {name: float(value) for name, value in values.items()}
    where = f'{line["split"]}, step {line["step"]}'
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-6), where


@pytest.mark.parametrize('mode', ['reflect', 'zero'])
def test_a_run_agrees_with_its_second_writing(mode, tmp_path):
  config = tiny.config(**FIELDS, **{'augment.mode': mode})
  srdl.run(config, str(tmp_path), stop_request.StopRequest())
  steps, evaluations = second_writing(mode)
  trained = tiny.lines(tmp_path, 'train')
  agree(trained, steps)
  assert [{*line} - {'split'} for line in trained] == [{*s} for s in steps]
  agree(tiny.lines(tmp_path, 'validation'), evaluations)
