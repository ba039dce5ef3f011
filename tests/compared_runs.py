# SPDX-License-Identifier: Apache-2.0
"""Runs of which each step is compared with a second writing of it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from PIL import Image
from second_writing import Part

from srdl_jax import config as config_lib
from srdl_jax import weights as weights_lib

# Off their defaults, so that none can be left unread. Both decays fall within
# a stage of two epochs or more, M is odd, and no batch divides the examples.
FIELDS = {
  'seed': 7,
  'epochs': 3,
  'batch_size': 32,
  'data.classes': 8,
  'data.holdout': 70,
  'data.examples_per_class': 13,
  'optimiser.learning_rate': 0.2,
  'optimiser.momentum': 0.8,
  'optimiser.weight_decay': 0.02,
  'schedule.decay_at': (0.4, 0.7),
  'schedule.decay_factor': 0.3,
  'distillation.temperature': 2.5,
  'distillation.label_weight': 0.6,
  'distillation.imitation_weight': 1.4,
  'augment.padding': 2,
  'eval.batch_size': 40,
  'checkpoint.every_steps': 0,
  'log.tensorboard': False,
}
# What a run on the made folder differs in.
FOLDER = {
  'data.name': 'folder',
  'data.classes': 0,
  'data.holdout': 0,
  'data.examples_per_class': 0,
  'data.image_size': 16,
  'batch_size': 16,
  'optimiser.learning_rate': 0.05,
  'augment.padding': 0,
  'augment.least_area': 0.3,
  'epochs': 2,
}
KD = {'method': 'kd', 'data.holdout': 0}


@dataclasses.dataclass(frozen=True)
class Compared:
  """A run: what its stages are, told by hand, and its fields.

  Attributes:
    taught_by: the run that is its teacher.workdir.
    weights: whether it begins with made weights, of ten classes.
    rel: how near its numbers are.
  """

  parts: tuple[Part, ...]
  fields: dict[str, Any] = dataclasses.field(default_factory=dict)
  taught_by: str = ''
  weights: bool = False
  rel: float = 1e-5


HALVES = Part(1), Part(2, teacher=1)
SHORT = Part(1), Part(1, teacher=1)
RUNS: dict[str, Compared] = {
  # With this seed, stage one's best epoch isn't its last, which teaches.
  'srdl': Compared((Part(2), Part(3, teacher=1)), {'epochs': 5, 'seed': 9}),
  'plain': Compared(HALVES),
  'zero': Compared(SHORT, {'augment.mode': 'zero', 'epochs': 2}),
  'no flip': Compared(SHORT, {'augment.flip': False, 'epochs': 2}),
  'online': Compared(
    (Part(1), Part(1, teacher=1), Part(1, teacher=2)),
    {
      'distillation.online': True,
      'srdl.split': (1, 1, 1),
      'srdl.complete': (True, True, True),
    },
  ),
  'views': Compared(HALVES, {'distillation.views': 3}),
  'three stages': Compared(
    (Part(1), Part(2, teacher=1, complete=False), Part(2, teacher=2)),
    {
      'epochs': 5,
      'srdl.split': (1, 2, 2),
      'srdl.complete': (True, False, True),
    },
  ),
  'same': Compared(
    (Part(1), Part(2, teacher=1, start='same')), {'srdl.start': 'same'}
  ),
  'kept': Compared(
    (
      Part(1),
      Part(1, teacher=1, start='previous', keep=True),
      Part(1, teacher=2, start='previous', keep=True),
    ),
    {
      'srdl.split': (1, 1, 1),
      'srdl.complete': (True, True, True),
      'srdl.start': 'previous',
      'srdl.keep_optimiser': True,
      'optimiser.backbone_share': 0.4,
    },
  ),
  'weights': Compared(HALVES, weights=True),
  'noise': Compared(
    SHORT,
    {'epochs': 2, 'data.label_noise': 0.4, 'data.label_noise_seed': 3},
  ),
  # Two dispatches an epoch, on four devices. The bank is in single precision.
  'devices': Compared(
    HALVES,
    {'devices': 4, 'steps_per_dispatch': 2, 'model.dtype': 'float64'},
    rel=1e-6,
  ),
  'online on devices': Compared(
    SHORT,
    {'epochs': 2, 'devices': 4, 'distillation.online': True},
    rel=1e-4,
  ),
  # The other methods.
  'stage_incomplete': Compared(
    (Part(1, complete=False), Part(2, teacher=1, complete=False)),
    {'method': 'stage_incomplete'},
  ),
  'no_restart': Compared(
    (Part(1), Part(2, teacher=1, start='previous')), {'method': 'no_restart'}
  ),
  'same_initialisation': Compared(
    (Part(1), Part(2, teacher=1, start='same')),
    {'method': 'same_initialisation'},
  ),
  'vanilla_ensemble': Compared(
    (Part(1), Part(2)), {'method': 'vanilla_ensemble'}
  ),
  'label_smoothing': Compared(
    (Part(2, smoothing=0.3),),
    {'method': 'label_smoothing', 'label_smoothing': 0.3, 'epochs': 2},
  ),
  'self_kd': Compared(SHORT, {'method': 'self_kd', 'epochs': 1}),
  'born_again': Compared(
    (Part(1), Part(1, teacher=1), Part(1, teacher=2)),
    {'method': 'born_again', 'born_again.generations': 2, 'epochs': 1},
  ),
  'born_again_equal_budget': Compared(
    (Part(1), Part(1, teacher=1), Part(1, teacher=2)),
    {'method': 'born_again_equal_budget', 'born_again.generations': 2},
  ),
  # Of equal scores.
  'vanilla': Compared(
    (Part(3),), {'method': 'vanilla', 'optimiser.learning_rate': 1e-7}
  ),
  'kd': Compared(
    (Part(1, width=12), Part(2, teacher=1)),
    {**KD, 'epochs': 2, 'teacher.model': 'wide', 'teacher.epochs': 1},
  ),
  'teacher': Compared(
    (Part(1, width=12), Part(1, width=12, teacher=1)),
    {
      'data.holdout': 0,
      'epochs': 2,
      'seed': 3,
      'model.name': 'wide',
      'distillation.temperature': 4.0,
    },
  ),
  'imported': Compared(
    (Part(2, teacher=0),), {**KD, 'epochs': 2}, taught_by='teacher'
  ),
  'imported views': Compared(
    (Part(1, teacher=0),),
    {
      **KD,
      'epochs': 1,
      'distillation.views': 2,
      'distillation.temperature': 4.0,
    },
    taught_by='teacher',
  ),
  'imported online': Compared(
    (Part(1, teacher=0),),
    {**KD, 'epochs': 1, 'distillation.online': True},
    taught_by='teacher',
  ),
  # Of half precision, a last bit may fall either way.
  'streamed': Compared(HALVES, {**FOLDER, 'epochs': 3}, rel=1e-4),
  'streamed views': Compared(
    SHORT,
    {**FOLDER, 'distillation.views': 2},
    rel=1e-4,
  ),
  'streamed online': Compared(
    SHORT,
    {
      **FOLDER,
      'distillation.online': True,
      'steps_per_dispatch': 2,
      'devices': 2,
    },
  ),
}

# Others join the same; `test_methods` holds which plans are alike.
SLOW = {
  'same',
  'online on devices',
  'self_kd',
  'born_again_equal_budget',
  'vanilla_ensemble',
}


def value_of(compared, name):
  """The value of a field of a run."""
  given = {**FIELDS, **compared.fields}
  return given.get(name, config_lib.flatten(tiny.config())[name])


def config_of(compared, places):
  """The configuration of a run.

  places: 'folder', 'weights' and those of runs that teach, as strings.
  """
  given = {**FIELDS, **compared.fields}
  if given.get('data.name') == 'folder':
    given['data.path'] = places['folder']
  if compared.weights:
    given['init.from_path'] = places['weights']
  if compared.taught_by:
    given['teacher.workdir'] = places[compared.taught_by]
  return tiny.config(**given)


def fields_of(compared, places):
  """All fields of a run, by their dotted names."""
  return config_lib.flatten(config_of(compared, places))


@functools.cache
def weights():
  """Parameters, mean and variance of a network of ten classes."""
  rng = np.random.default_rng(5)
  model = tiny.Tiny(10)
  like = jax.eval_shape(
    functools.partial(model.init, train=False),
    jax.random.key(0),
    jnp.zeros((1, 8, 8, 1)),
  )
  drawn = jax.tree.map(
    lambda x: np.float32(rng.uniform(0.1, 0.5, x.shape)), like
  )
  stats = drawn['batch_stats']['BatchNorm_0']
  return drawn['params'], (stats['mean'], stats['var'])


def save_weights(directory):
  params, (mean, var) = weights()
  stats = {'BatchNorm_0': {'mean': mean, 'var': var}}
  variables = {'params': params, 'batch_stats': stats}
  weights_lib.save(directory, 'tiny', variables, 'a test')


def save_images(root):
  """Writes 40 and 12 smooth PNGs of three shapes, in four classes."""
  rng = np.random.default_rng(6)
  for split, count in (('train', 10), ('val', 3)):
    for label in 'dbca':
      (root / split / label).mkdir(parents=True)
      tint = rng.uniform(0.4, 1, 3)
      for number in range(count):
        size = ((40, 30), (30, 42), (36, 36))[number % 3]
        coarse = np.uint8(rng.integers(0, 256, (4, 5, 3)) * tint)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(root / split / label / f'{number * 7 % 10}.png')
