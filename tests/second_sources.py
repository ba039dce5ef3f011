# SPDX-License-Identifier: Apache-2.0
"""Methods that are sources, written a second time in plain NumPy.

From their formulas: nothing of `srdl_jax.targets` nor of the orders of
`srdl_jax.data.sampling` is in it. What is said of a batch is computed before
its gradient is, so that no gradient can reach a target.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import second_writing
from second_writing import generator, key_of, log_softmax

NOISE, PAIRS = 4, 5
Taught = collections.namedtuple(
  'Taught', 'log_soft temperature label_weight imitation_weight'
)
ALONE = Taught(None, 1.0, 1.0, 0.0)


# Orders: numbers of n rows of N images, where i + N is another view of i.


def once(drawn, epoch):
  order = generator(drawn.seed, drawn.stage, epoch).permutation(len(drawn.rows))
  return drawn.rows[order]


def new_rows(drawn, epoch):
  """Half a batch a step: two epochs go through the rows once."""
  half = drawn.batch_size // 2
  begin = 0 if epoch % 2 == 0 else drawn.steps * half
  rows = once(drawn, epoch // 2)[begin:][: drawn.steps * half]
  return [rows[i * half :][:half] for i in range(drawn.steps)]


def twice(drawn, epoch):
  rows = np.concatenate(new_rows(drawn, epoch))
  return [number for row in rows for number in (row, row + drawn.count)]


def again(drawn, epoch):
  batches = [b for e in range(epoch + 1) for b in new_rows(drawn, e)]
  before = [batches[0], *batches]
  numbers = []
  for step in range(epoch * drawn.steps, (epoch + 1) * drawn.steps):
    for old, new in zip(before[step], batches[step], strict=True):
      numbers += [old + drawn.count, new]
  return numbers


def pairs(drawn, epoch):
  draw = generator(drawn.seed, drawn.stage, epoch, PAIRS)
  rows = draw.permutation(drawn.rows)
  found = []
  for label in sorted(set(drawn.labels[rows].tolist())):
    members = [row for row in rows if drawn.labels[row] == label]
    if len(members) % 2:
      members.append(members[0] + drawn.count)
    found += [members[i : i + 2] for i in range(0, len(members), 2)]
  numbers = np.ravel([found[i] for i in draw.permutation(len(found))])
  return numbers[: drawn.steps * drawn.batch_size]


class Drawn:
  """What a part's examples are drawn from."""

  def __init__(self, f, examples, stage):
    count = len(examples.labels)
    rows, _ = second_writing.choose(f, examples.labels, 10)
    self.seed, self.stage, self.batch_size = f['seed'], stage, f['batch_size']
    self.rows, self.count = rows, count
    self.labels = examples.labels.copy()
    self.steps = len(rows) // self.batch_size
    draw = generator(f['data.label_noise_seed'], 0, 0, NOISE)
    wrong = draw.permutation(rows)[: round(f['data.label_noise'] * len(rows))]
    shift = draw.integers(1, 10, len(wrong))
    self.labels[wrong] = (self.labels[wrong] + shift) % 10


# Methods.


class Labels:
  """Labels alone; what the others are told when they are made."""

  order = staticmethod(once)

  def __init__(self, f, drawn, epochs, variables):
    self.f, self.drawn, self.epochs = f, drawn, epochs
    self.mean = variables

  def taught(self, step, numbers, images, said):
    return ALONE

  def end(self, step, numbers, said, variables):
    pass

  def result(self, variables):
    return variables


class Ols(Labels):
  """0.5 CE(y) + 0.5 CE(S[y]), S the mean of what was said rightly."""

  def __init__(self, *rest):
    super().__init__(*rest)
    self.S, self.right = None, collections.defaultdict(list)

  def taught(self, step, numbers, images, said):
    if self.S is None:
      return Taught(np.full(said.shape, np.nan), 1.0, 1.0, 0.0)
    weight = self.f['ols.imitation_weight']
    log_S = np.log(self.S)[self.drawn.labels[numbers]]
    return Taught(log_S, 1.0, 1 - weight, weight)

  def end(self, step, numbers, said, variables):
    for number, logits in zip(numbers, said, strict=True):
      label = self.drawn.labels[number]
      if logits.argmax() == label:
        self.right[label].append(np.exp(log_softmax(logits[None])[0]))
    if (step + 1) % self.drawn.steps == 0:
      uniform = [np.full(10, 0.1)]
      each = [self.right.get(k, uniform) for k in range(10)]
      self.S = np.stack([np.mean(said, 0) for said in each])
      self.right.clear()


class PsKd(Labels):
  """CE((1 - a) y + a P), a = alpha (e + 1) / E."""

  def __init__(self, *rest):
    super().__init__(*rest)
    self.said = {}

  def taught(self, step, numbers, images, said):
    epoch = step // self.drawn.steps
    a = self.f['ps_kd.alpha'] * (epoch + 1) / self.epochs
    unknown = np.full(10, np.nan)
    known = np.stack([self.said.get(n, unknown) for n in numbers])
    return Taught(log_softmax(known), 1.0, 1 - a, a)

  def end(self, step, numbers, said, variables):
    self.said |= zip(numbers.tolist(), said, strict=True)


class TfKd(Labels):
  """(1 - alpha) CE + alpha KL(p_d at T || p at T)."""

  def taught(self, step, numbers, images, said):
    t, alpha = self.f['tf_kd.temperature'], self.f['tf_kd.alpha']
    a = self.f['tf_kd.correct']
    p = np.full((len(numbers), 10), (1 - a) / 9)
    p[np.arange(len(numbers)), self.drawn.labels[numbers]] = a
    softened = p ** (1 / t)
    softened /= softened.sum(1, keepdims=True)
    return Taught(np.log(softened), t, 1 - alpha, alpha / t**2)


class Neighbour(Labels):
  """CE + lambda T^2 KL(the other || this)."""

  name = 'cs_kd'
  order = staticmethod(pairs)

  def taught(self, step, numbers, images, said):
    t = self.f[f'{self.name}.temperature']
    other = [i + 1 if i % 2 == 0 else i - 1 for i in range(len(said))]
    weight = self.f[f'{self.name}.imitation_weight']
    return Taught(log_softmax(said[other] / t), t, 1.0, weight)


class View(Neighbour):
  """CE + lambda T^2 KL(the other view || this)."""

  name = 'ddgsd'
  order = staticmethod(twice)


class Dlb(Labels):
  """CE + alpha T^2 KL(a step before || now), of what comes again."""

  order = staticmethod(again)

  def __init__(self, *rest):
    super().__init__(*rest)
    self.last = {}

  def taught(self, step, numbers, images, said):
    t = self.f['dlb.temperature']
    log_soft = np.full(said.shape, np.nan)
    for i, number in enumerate(numbers):
      if number >= self.drawn.count and step > 0:
        row = number - self.drawn.count
        log_soft[i] = log_softmax(self.last[row][None] / t)
    return Taught(log_soft, t, 1.0, self.f['dlb.imitation_weight'])

  def end(self, step, numbers, said, variables):
    new = numbers < self.drawn.count
    self.last = dict(zip(numbers[new].tolist(), said[new], strict=True))


class Ema(Labels):
  """The result is the mean of what the network was."""

  name = 'ema'

  def taught(self, step, numbers, images, said):
    params, running = self.mean
    # By the batch's own statistics, which move its running ones.
    self.says, running = second_writing.forward(
      params, running, images, train=True
    )
    self.mean = params, running
    return ALONE

  def end(self, step, numbers, said, variables):
    move = max(1 / (step + 2), 1 - self.f[f'{self.name}.decay'])
    params, running = self.mean
    params = jax.tree.map(
      lambda m, x: (1 - move) * np.array(m) + move * np.array(x),
      params,
      variables[0],
    )
    self.mean = params, running

  def result(self, variables):
    return self.mean


class MeanTeacher(Ema):
  """CE + w T^2 KL(what the mean says || student), w rising."""

  name = 'mean_teacher'

  def taught(self, step, numbers, images, said):
    t = self.f['mean_teacher.temperature']
    length = self.f['mean_teacher.rise'] * self.epochs * self.drawn.steps
    rest = 1 - min(step / length, 1)
    weight = self.f['mean_teacher.imitation_weight'] * np.exp(-5 * rest**2)
    super().taught(step, numbers, images, said)
    mean_says = np.array(self.says, np.float64)
    return Taught(log_softmax(mean_says / t), t, 1.0, weight)

  def result(self, variables):
    return variables


class Pll(Labels):
  """CE with 1/2 on each of the teacher's two best classes."""

  teacher_says = None

  def taught(self, step, numbers, images, said):
    log_soft = np.full(said.shape, -np.inf)
    for i, number in enumerate(numbers):
      log_soft[i, np.argsort(self.teacher_says[number])[-2:]] = np.log(0.5)
    return Taught(log_soft, 1.0, 0.0, 1.0)


METHODS = {
  'ols': [Ols],
  'ps_kd': [PsKd],
  'tf_kd': [TfKd],
  'cs_kd': [Neighbour],
  'dlb': [Dlb],
  'ddgsd': [View],
  'mean_teacher': [MeanTeacher],
  'ema': [Ema],
  'pll': [Labels, Pll],
}


# The run.


@jax.jit
def said_of(params, running, images):
  return second_writing.forward(params, running, images, train=True)[0]


@jax.jit
def gradient(params, running, images, label_B, log_soft_BxK, told):
  """Of the loss, with what it is made of.

  Args:
    log_soft_BxK: rows of NaN are of images that labels alone teach.
    told: T, and the weights of labels and imitation where they are taught.
  """

  def loss_of(params):
    t, label_weight, imitation_weight = told
    logits, after = second_writing.forward(params, running, images, train=True)
    is_label = (jnp.arange(10).reshape(1, -1) == label_B.reshape(-1, 1)) * 1.0
    ce_B = -(log_softmax(logits) * is_label).sum(1)
    known_B = jnp.isfinite(log_soft_BxK).any(1)
    p = jnp.where(known_B.reshape(-1, 1), jnp.exp(log_soft_BxK), 0)
    log_p = jnp.where(p > 0, log_soft_BxK, 0)
    kl_B = (p * (log_p - log_softmax(logits / t))).sum(1)
    kl = kl_B.sum() / jnp.maximum(known_B.sum(), 1)
    taught_label = jnp.where(known_B, label_weight * ce_B, ce_B).mean()
    loss = taught_label + imitation_weight * t**2 * kl
    right = (logits.argmax(1) == label_B).mean(dtype=loss.dtype)
    values = {'loss': loss, 'cross_entropy': ce_B.mean(), 'imitation': kl}
    return loss, ({**values, 'accuracy': right}, after)

  return jax.grad(loss_of, has_aux=True)(params)


def evaluated(examples, f, variables, right):
  rows = np.arange(len(examples.test_labels))
  images = second_writing.normalised(f, examples, examples.tested(rows))
  log_p = log_softmax(second_writing.predict(variables, images))
  return {
    'accuracy': (log_p.argmax(1) == right).mean(),
    'nll': -log_p[rows, right].mean(),
  }


class Run:
  """A run, from the fields of its configuration.

  Attributes:
    steps, evaluations: as lines of metrics.jsonl.
    method: of the last stage, at its end.
  """

  def __init__(self, f):
    self.f, self.examples = f, second_writing.Digits()
    self.steps, self.evaluations = [], []
    kinds = METHODS[f['method']]
    for number, kind in enumerate(kinds, start=1):
      self._stage(number, kind, f['epochs'] // len(kinds))

  def _stage(self, number, kind, epochs):
    f, examples = self.f, self.examples
    drawn = Drawn(f, examples, number)
    begin = second_writing._begin(10, 8, f['model.dtype'], (8, 8, 1))
    params = jax.tree.map(np.array, begin(key_of(f['seed'], 0, number)))
    variables = params, (np.zeros(8), np.ones(8))
    velocity = jax.tree.map(np.zeros_like, params)
    self.method = method = kind(f, drawn, epochs, variables)
    if kind is Pll:
      clean = second_writing.normalised(f, examples, examples.images)
      method.teacher_says = second_writing.predict(self.end, clean)
    total = epochs * drawn.steps
    for step in range(total):
      epoch, place = divmod(step, drawn.steps)
      numbers = np.asarray(method.order(drawn, epoch))
      numbers = numbers[place * drawn.batch_size :][: drawn.batch_size]
      rate = second_writing.rate_at(f, [total], 1, True, step)
      variables, velocity, values = self._step(
        step, numbers, variables, velocity, epoch, rate
      )
      at = {'stage': number, 'epoch': epoch + 1, 'step': len(self.steps) + 1}
      self.steps.append({**at, **values, 'learning_rate': rate})
      if place + 1 == drawn.steps:
        found = evaluated(
          examples, f, method.result(variables), examples.test_labels
        )
        self.evaluations.append({**at, 'split': 'test', **found})
    self.end = variables

  def _step(self, step, numbers, variables, velocity, epoch, rate):
    f, examples, method = self.f, self.examples, self.method
    drawn = method.drawn
    rows = numbers % drawn.count
    key = key_of(f['seed'], second_writing.AUGMENT, drawn.stage, epoch)
    images = second_writing.augmented(f, key, examples.images[rows], numbers)
    images = second_writing.normalised(f, examples, images)
    said = np.array(said_of(*variables, images))
    taught = method.taught(step, numbers, images, said)
    log_soft = taught.log_soft
    if log_soft is None:
      log_soft = np.full(said.shape, np.nan)
    grad, (values, running) = gradient(
      *variables, images, drawn.labels[rows], log_soft, taught[1:]
    )
    params, velocity = second_writing.sgd(f, variables[0], velocity, grad, rate)
    variables = params, running
    method.end(step, numbers, said, variables)
    values = {n: float(v) for n, v in values.items()}
    if taught is ALONE:
      del values['imitation']
    return variables, velocity, values
