# SPDX-License-Identifier: Apache-2.0
"""A run written a second time, in plain NumPy and a little JAX.

Nothing of the package is in it but the digits and how new parameters are drawn.
What a method does is told by hand, as a list of parts; every other number comes
from the fields of the configuration, by their dotted names.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from srdl_jax import data

# What keys, and the generators of the host, are for.
INITIALISE, AUGMENT, VIEW = 0, 1, 2
HOLDOUT, CROP, VIEWED, NOISE = 1, 2, 3, 4


@dataclasses.dataclass(frozen=True)
class Part:
  """A stage, told by hand; its teacher is a part, from 1, or 0: `taught_by`."""

  epochs: int
  teacher: int | None = None
  complete: bool = True
  start: str = 'fresh'
  keep: bool = False
  smoothing: float = 0.0
  width: int = 8


@dataclasses.dataclass(frozen=True)
class Written:
  """What each step and each evaluation give, and the parts' ends, from 1.

  An end is parameters, and running mean and variance.
  """

  fields: dict[str, Any]
  steps: list[dict[str, Any]]
  evaluations: list[dict[str, Any]]
  ends: dict[int, Any]

  def best(self, number):
    """The first of a part's evaluations of the highest accuracy."""
    own = [e for e in self.evaluations if e['stage'] == number]
    return own[int(np.argmax([e['accuracy'] for e in own]))]


def key_of(seed, *counts):
  """The key of a purpose, a stage and, maybe, an epoch or a view."""
  return functools.reduce(jax.random.fold_in, counts, jax.random.key(seed))


def generator(*words):
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


# Images.


class Digits:
  """Images in memory: nothing is cropped on the host."""

  def __init__(self):
    loaded = data.load('digits')
    self.images, self.labels = loaded.train.images, loaded.train.labels
    self.test_images, self.test_labels = loaded.test.images, loaded.test.labels
    # Of all training pixels in [0, 1], to four digits.
    self.mean = round(self.images.mean() / 255, 4)
    self.std = round(self.images.std() / 255, 4)

  def clean(self, rows):
    return self.images[rows]

  def cropped(self, rows, *words):
    del words
    return self.images[rows]

  def tested(self, rows):
    return self.test_images[rows]


class Folder:
  """PNG files of train/<class>/ and val/<class>/, read when asked for."""

  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

  def __init__(self, path, size, least_area):
    self.size, self.least_area = size, least_area
    self.files, self.labels = self._find(pathlib.Path(path) / 'train')
    self.test_files, self.test_labels = self._find(pathlib.Path(path) / 'val')

  def _find(self, directory):
    files = sorted(directory.glob('*/*.png'))
    names = sorted({file.parent.name for file in files})
    return files, np.array([names.index(file.parent.name) for file in files])

  def _part(self, file, box):
    image = Image.open(file).convert('RGB')
    size = self.size, self.size
    box = box(*image.size)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))

  def _middle(self, wide, tall):
    # 256 pixels for 224; the longer side is rounded down.
    shorter = round(self.size * 256 / 224)
    to = [shorter * side // min(wide, tall) for side in (wide, tall)]
    left, top = (round((side - self.size) / 2) for side in to)
    x, y = wide / to[0], tall / to[1]
    right, bottom = left + self.size, top + self.size
    return left * x, top * y, right * x, bottom * y

  def _random(self, rng, wide, tall):
    while True:
      area = wide * tall * rng.uniform(self.least_area, 1)
      aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
      w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
      if w <= wide and h <= tall:
        top, left = rng.integers(tall - h + 1), rng.integers(wide - w + 1)
        return left, top, left + w, top + h

  def clean(self, rows):
    return np.stack([self._part(self.files[r], self._middle) for r in rows])

  def tested(self, rows):
    files = [self.test_files[r] for r in rows]
    return np.stack([self._part(file, self._middle) for file in files])

  def cropped(self, rows, *words):
    boxes = [
      functools.partial(self._random, generator(*words, int(r))) for r in rows
    ]
    pairs = zip(rows, boxes, strict=True)
    return np.stack([self._part(self.files[r], box) for r, box in pairs])


def images_of(f):
  if f['data.name'] == 'digits':
    return Digits()
  size, least_area = f['data.image_size'], f['augment.least_area']
  return Folder(f['data.path'], size, least_area)


def choose(f, labels_N, classes):
  """The rows to train on and those held out, ascending."""
  used = np.flatnonzero(labels_N < classes)
  order = generator(f['seed'], 0, 0, HOLDOUT).permutation(len(used))
  held = np.sort(used[order[: f['data.holdout']]])
  rest = np.setdiff1d(used, held)
  most = f['data.examples_per_class'] or len(rest)
  firsts = [rest[labels_N[rest] == k][:most] for k in range(classes)]
  return np.sort(np.concatenate(firsts)), held


def noisy(f, labels_N, rows, classes):
  """The labels that train: a share of the rows has another class's."""
  rng = generator(f['data.label_noise_seed'], 0, 0, NOISE)
  wrong = rng.permutation(rows)[: round(f['data.label_noise'] * len(rows))]
  steps = rng.integers(1, classes, len(wrong))
  labels_N = np.array(labels_N)
  for row, step in zip(wrong, steps, strict=True):
    labels_N[row] = (labels_N[row] + step) % classes
  return labels_N


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, None))
def draws(key, row, places):
  """Whether to flip an example, and where its crop begins."""
  flip_key, crop_key = jax.random.split(jax.random.fold_in(key, row))
  flip = jax.random.randint(flip_key, (), 0, 2, jnp.int32)
  return flip, jax.random.randint(crop_key, (2,), 0, places, jnp.int32)


def flip_and_crop(image, flip, corner, mode):
  """A crop that begins at a corner, then its mirror image or not."""
  n = len(image) - 1
  top, left = corner
  y, x = np.ogrid[top : top + n + 1, left : left + n + 1]
  # Reflected about the pixels 0 and n, which aren't repeated.
  crop = image[n - abs(n - abs(y)), n - abs(n - abs(x))]
  if mode == 'zero':
    crop = crop * ((y == y.clip(0, n)) & (x == x.clip(0, n)))[..., None]
  return crop[:, ::-1] if flip else crop


def augmented(f, key, images, rows):
  padding = f['augment.padding']
  flips, corners = map(np.array, draws(key, rows, 2 * padding + 1))
  flips = flips * f['augment.flip']
  each = zip(images, flips, corners - padding, strict=True)
  mode = f['augment.mode']
  return np.stack([flip_and_crop(*one, mode) for one in each])


def normalised(f, examples, images):
  scaled = (images / 255 - examples.mean) / examples.std
  return scaled.astype(f['model.dtype'])


# The network and its loss.


@functools.cache
def _begin(classes, width, dtype, shape):
  # The one thing that is not written again: how new parameters are drawn.
  model = tiny.Tiny(classes, width=width, dtype=jnp.dtype(dtype))
  init = jax.jit(functools.partial(model.init, train=False))
  return lambda key: init(key, jnp.zeros((1, *shape)))['params']


def log_softmax(logits_BxK):
  shifted_BxK = logits_BxK - logits_BxK.max(1, keepdims=True)
  xp = np if isinstance(logits_BxK, np.ndarray) else jnp
  return shifted_BxK - xp.log(xp.exp(shifted_BxK).sum(1, keepdims=True))


def features(params, running, images, train):
  """What the classifier gets [B, D]; running mean and variance afterwards."""
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
  norm = params['BatchNorm_0']
  factor = norm['scale'] / jnp.sqrt(var + 1e-5)
  shift = norm['bias'] - mean * factor
  x = x * factor.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)
  return jnp.maximum(x, 0).reshape(len(x), -1), running


def forward(params, running, images, train):
  """Logits [B, K], and the running mean and variance [C] afterwards."""
  x, running = features(params, running, images, train)
  fc = params['fc']
  return x @ fc['kernel'] + fc['bias'].reshape(1, -1), running


@jax.jit
@functools.partial(jax.grad, has_aux=True)
def gradient(params, running, images, labels_B, log_soft_BxK, told):
  """told: T, the weights of labels and imitation, and the smoothing."""
  temperature, label_weight, imitation_weight, smoothing = told
  logits_BxK, running = forward(params, running, images, train=True)
  log_p_BxK = log_softmax(logits_BxK)
  # Eq 2.
  own = log_p_BxK[jnp.arange(len(labels_B)), labels_B].mean()
  ce = -(1 - smoothing) * own - smoothing * log_p_BxK.mean()
  right_B = logits_BxK.argmax(1) == labels_B
  loss, values = ce, {'cross_entropy': ce, 'accuracy': right_B.mean()}
  if log_soft_BxK is not None:
    # Eq 6 and 7.
    log_ratio_BxK = log_soft_BxK - log_softmax(logits_BxK / temperature)
    kl = (jnp.exp(log_soft_BxK) * log_ratio_BxK).sum(1).mean()
    values['imitation'] = kl
    loss = label_weight * ce + imitation_weight * temperature**2 * kl
  return loss, ({**values, 'loss': loss}, running)


@jax.jit
def _evaluated(params, running, images):
  return forward(params, running, images, train=False)[0]


def predict(end, images):
  """Logits [N, K] of an end, in double precision."""
  return np.array(_evaluated(*end, images), np.float64)


def sgd(f, params, velocity, grad, rate):
  """Nesterov's momentum; weight decay is a part of the gradient."""
  momentum, decay = f['optimiser.momentum'], f['optimiser.weight_decay']
  each = jax.tree.map
  grad = each(lambda g, p: np.array(g) + decay * p, grad, params)
  velocity = each(lambda v, g: momentum * v + g, velocity, grad)
  step = each(lambda g, v: g + momentum * v, grad, velocity)
  shares = {n: 1 if n == 'fc' else f['optimiser.backbone_share'] for n in step}
  params = {
    n: each(lambda p, s, n=n: p - rate * shares[n] * s, params[n], step[n])
    for n in params
  }
  return params, velocity


# The run.


def rate_at(f, lengths, number, complete, done):
  """Eq 3, over a part's own steps (Eq 4) or over all of them."""
  before = sum(lengths[: number - 1])
  steps, at = lengths[number - 1], done
  if not complete:
    steps, at = sum(lengths), before + done
  falls = [int(round(x * steps, 9)) for x in f['schedule.decay_at']]
  factor = f['schedule.decay_factor'] ** sum(at >= fall for fall in falls)
  return f['optimiser.learning_rate'] * factor


def soft_targets(f, examples, rows, end, number, its):
  """log p~ [N, K] of a teacher, at its own temperature (Eq 5).

  its: the fields of the run that trained it.
  """
  seed, temperature = its['seed'], its['distillation.temperature']
  views, mean = f['distillation.views'], 0.0
  for view in range(views or 1):
    images = examples.clean(rows)
    if views:
      images = examples.cropped(rows, seed, number, view, VIEWED)
      images = augmented(f, key_of(seed, VIEW, number, view), images, rows)
    logits = predict(end, normalised(f, examples, images))
    mean = mean + np.exp(log_softmax(logits / temperature)) / (views or 1)
  bank = np.full((len(examples.labels), mean.shape[1]), np.nan)
  # Large banks are kept in half precision.
  kept = np.float32 if f['data.name'] == 'digits' else np.float16
  bank[rows] = np.log(mean).astype(kept)
  return bank


def write(fields, parts, taught_by=None, weights=None):
  """Returns what a run of these parts is to give.

  Args:
    fields: all of a configuration's, by their dotted names.
    taught_by: the finished run, as it was written, whose end is teacher 0.
    weights: parameters and statistics that fresh parts begin with.
  """
  with jax.enable_x64(fields['model.dtype'] == 'float64'):
    return _write(dict(fields), parts, taught_by, weights)


def _write(f, parts, taught_by, weights):
  examples, batch_size = images_of(f), f['batch_size']
  labels, dtype = examples.labels, f['model.dtype']
  classes = f['data.classes'] or int(labels.max()) + 1
  rows, held = choose(f, labels, classes)
  trained = noisy(f, labels, rows, classes)
  tested, split = held, 'validation'
  if not len(held):
    tested, split = np.flatnonzero(examples.test_labels < classes), 'test'
  shape = examples.clean(rows[:1]).shape[1:]
  per_epoch = len(rows) // batch_size
  lengths = [part.epochs * per_epoch for part in parts]
  steps, evaluations, ends = [], [], {}
  if taught_by is not None:
    ends[0] = taught_by.ends[max(taught_by.ends)]
  for number, part in enumerate(parts, start=1):
    begin = _begin(classes, part.width, dtype, shape)
    if part.start == 'previous':
      params, running = ends[number - 1]
    else:
      # The random restart of Algorithm 1, or what part one began with.
      origin = 1 if part.start == 'same' else number
      params = begin(key_of(f['seed'], INITIALISE, origin))
      params = jax.tree.map(np.array, params)
      running = np.zeros(part.width, dtype), np.ones(part.width, dtype)
      if weights is not None:
        given, running = weights
        # A classifier of other classes stays as it was drawn.
        params = jax.tree.map(
          lambda p, g: g if p.shape == g.shape else p, params, given
        )
    if not part.keep:
      velocity = jax.tree.map(np.zeros_like, params)
    taught, online = part.teacher is not None, f['distillation.online']
    if taught and not online:
      its = taught_by.fields if part.teacher == 0 else f
      bank = soft_targets(
        f, examples, rows, ends[part.teacher], part.teacher, its
      )
      ratio = its['distillation.temperature'] / f['distillation.temperature']
    for done in range(lengths[number - 1]):
      epoch, place = divmod(done, per_epoch)
      order = generator(f['seed'], number, epoch).permutation(len(rows))
      batch = rows[order[place * batch_size :][:batch_size]]
      images = examples.cropped(batch, f['seed'], number, epoch, CROP)
      key = key_of(f['seed'], AUGMENT, number, epoch)
      images = normalised(f, examples, augmented(f, key, images, batch))
      log_soft = None
      if taught and online:
        logits = predict(ends[part.teacher], images)
        log_soft = log_softmax(logits / f['distillation.temperature'])
      elif taught:
        log_soft = log_softmax(bank[batch] * ratio)
      rate = rate_at(f, lengths, number, part.complete, done)
      grad, (values, running) = gradient(
        params,
        running,
        images,
        trained[batch],
        None if log_soft is None else log_soft.astype(dtype),
        (
          f['distillation.temperature'],
          f['distillation.label_weight'],
          f['distillation.imitation_weight'],
          part.smoothing,
        ),
      )
      params, velocity = sgd(f, params, velocity, grad, rate)
      at = {'stage': number, 'epoch': epoch + 1, 'step': len(steps) + 1}
      values = {n: float(v) for n, v in values.items()}
      steps.append({**at, **values, 'learning_rate': rate})
      if place + 1 == per_epoch:
        right = labels[tested] if len(held) else examples.test_labels[tested]
        images = (examples.clean if len(held) else examples.tested)(tested)
        images = normalised(f, examples, images)
        log_p = log_softmax(predict((params, running), images))
        evaluations.append({
          **at,
          'split': split,
          'accuracy': (log_p.argmax(1) == right).mean(),
          'nll': -log_p[np.arange(len(right)), right].mean(),
          'examples': len(right),
        })  # fmt: skip
    ends[number] = params, running
  return Written(f, steps, evaluations, ends)


def agree(lines, expected, rel):
  """Asserts that lines of metrics.jsonl are those that are expected."""
  for line, values in zip(lines, expected, strict=True):
    values = dict(values)
    assert line['split'] == values.pop('split', 'train')
    found = {name: line[name] for name in values}
    wanted = {name: float(value) for name, value in values.items()}
    where = f'{line["split"]}, step {line["step"]}'
    assert found == pytest.approx(wanted, rel=rel, abs=rel / 10), where
