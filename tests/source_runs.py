# SPDX-License-Identifier: Apache-2.0
"""Short runs of methods that are sources, each made once for a file."""

import functools

import jax
import tiny

from srdl_jax import methods, srdl
from srdl_jax.runs import stop_request

# Those of one stage with fields of their own, and those that have a bank.
NAMES = [
  *('ols', 'ps_kd', 'tf_kd', 'cs_kd', 'dlb', 'ddgsd', 'mean_teacher', 'ema'),
  *('pll', 'srdl'),
]
# Off their defaults. 170 images, of which an epoch's 3 steps see 144.
FIELDS = {
  'seed': 3,
  'epochs': 4,
  'batch_size': 48,
  'data.examples_per_class': 17,
  'data.label_noise': 0.1,
  'data.label_noise_seed': 5,
  'model.dtype': 'float64',
  'optimiser.learning_rate': 0.05,
  'optimiser.weight_decay': 0.02,
  'schedule.decay_at': (0.6, 0.8),
  'schedule.decay_factor': 0.3,
  'checkpoint.every_steps': 0,
  'checkpoint.every_epochs': 10,
  'log.tensorboard': False,
}
OWN = {
  'ols.imitation_weight': 0.3,
  'ps_kd.alpha': 0.6,
  'tf_kd.temperature': 4.0,
  'tf_kd.alpha': 0.4,
  'tf_kd.correct': 0.8,
  'cs_kd.temperature': 2.5,
  'cs_kd.imitation_weight': 1.5,
  'dlb.temperature': 2.0,
  'dlb.imitation_weight': 1.7,
  'ddgsd.temperature': 3.5,
  'ddgsd.imitation_weight': 0.7,
  'mean_teacher.temperature': 2.2,
  'mean_teacher.imitation_weight': 1.6,
  'mean_teacher.rise': 0.5,
  'mean_teacher.decay': 0.7,
  'ema.decay': 0.8,
}


def fields_of(method, **fields):
  """Returns the fields of a run; `fields` by their dotted names."""
  read = methods.METHODS[method].reads
  own = {name: value for name, value in OWN.items() if name in read}
  return {**FIELDS, **own, 'method': method, **fields}


def run(directory, method, **fields):
  """Makes a run, or what is left of it."""
  config = tiny.config(**fields_of(method, **fields))
  return srdl.run(config, str(directory), stop_request.StopRequest())


def end_of(directory, number=1, stages=1):
  """Returns the moment at which a stage ends."""
  steps = 3 * FIELDS['epochs'] // stages
  return tiny.end_of(directory, number, number * steps)


def remembering(tmp_path_factory):
  """A function of a method and fields: the run's directory, made once."""

  @functools.cache
  def made(method, **fields):
    directory = tmp_path_factory.mktemp(method)
    run(directory, method, **fields)
    return directory

  return made


def leaves(moment):
  """Returns arrays by their paths, of what a step changes."""
  names = 'params', 'batch_stats', 'memory'
  state = {n: moment.state[n] for n in names if n in moment.state}
  flat, _ = jax.tree_util.tree_flatten_with_path(state)
  return {jax.tree_util.keystr(path): leaf for path, leaf in flat}
