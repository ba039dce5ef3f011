# SPDX-License-Identifier: Apache-2.0
"""A run on real images that takes seconds: tests' network and configuration.

As a program it makes such a run and, for the tests of resuming, ends its own
process at a given event:

    python tests/tiny.py WORKDIR EVENT [FIELD=VALUE ...] [beside]

With `beside`, epochs are evaluated while the next one is trained, as on an
accelerator.
"""

import json
import os
import pathlib
import signal
import sys
from typing import Any

import compiled
import flax.linen as nn
import jax.numpy as jnp

from srdl_jax import config as config_lib
from srdl_jax import models, srdl, storage
from srdl_jax import stage as stage_lib
from srdl_jax.errors import SrdlError
from srdl_jax.evaluate import beside
from srdl_jax.runs import checkpoint, stop_request
from srdl_jax.runs import directory as run_directory


class Tiny(nn.Module):
  """A convolution, a batch norm and a classifier."""

  num_classes: int
  dtype: Any = jnp.float32
  axis_name: str | None = None
  width: int = 8

  @nn.compact
  def __call__(self, images, train):
    dtypes = {'dtype': self.dtype, 'param_dtype': self.dtype}
    x = nn.Conv(self.width, (3, 3), 2, use_bias=False, **dtypes)(images)
    x = nn.BatchNorm(
      not train, momentum=0.9, axis_name=self.axis_name, **dtypes
    )(x)
    x = nn.relu(x).reshape(len(x), -1)
    return nn.Dense(self.num_classes, name='fc', **dtypes)(x)


models.MODELS['tiny'] = Tiny


def config(**fields: Any):
  """Returns a run of 20 steps on 200 digits; fields by their dotted names."""
  made = config_lib.defaults()
  made.update_from_flattened_dict(
    {
      'data.name': 'digits',
      'data.examples_per_class': 20,
      'model.name': 'tiny',
      'epochs': 4,
      'batch_size': 40,
      'augment.padding': 1,
      'eval.batch_size': 100,
      'checkpoint.every_steps': 2,
      'checkpoint.every_epochs': 1,
      'devices': 1,
      **fields,
    }
  )
  return made


def end_of(directory: pathlib.Path, number: int, step: int):
  """Returns the moment of a stage's checkpoint at a step."""
  folder = run_directory.checkpoints(directory, number)
  return checkpoint.Checkpoints(folder, read_only=True).load(step)


def predict(built, number: int, variables: Any, split: str, images=None):
  """Yields (rows, logits) of a stage's network over a split of a run."""
  examples = built.examples(split)
  return built.stages[number - 1].network.predict(
    variables,
    examples.split.images if images is None else images,
    examples.rows,
    built.config.eval.batch_size,
  )


def lines(directory: pathlib.Path, split: str) -> list[dict[str, Any]]:
  """Returns the lines of a run's metrics.jsonl of one split."""
  text = (directory / 'metrics.jsonl').read_text()
  records = [json.loads(line) for line in text.splitlines()]
  return [record for record in records if record['split'] == split]


def _kill() -> None:
  os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, action) -> None:
  """Makes `action(*args)` run before each call of owner.name."""
  original = getattr(owner, name)

  def wrapped(*args, **kwargs):
    action(*args, **kwargs)
    return original(*args, **kwargs)

  setattr(owner, name, wrapped)


def _after(owner: Any, name: str, action) -> None:
  original = getattr(owner, name)

  def wrapped(*args, **kwargs):
    returned = original(*args, **kwargs)
    action(*args, **kwargs)
    return returned

  setattr(owner, name, wrapped)


def arrange(event: str) -> None:
  """Arranges for this process to be killed, or asked to end, at an event.

  Args:
    event: 'none'; 'kill:STEP' or 'term:STEP' when the metrics of that global
      step are read; 'in_save:STEP' when that step's checkpoint is to get its
      name; 'half_bank' before the bank is marked complete; 'after_bank'; or
      'before_result'.
  """
  name, _, at = event.partition(':')
  if name in ('kill', 'term'):
    number = signal.SIGKILL if name == 'kill' else signal.SIGTERM

    def at_step(loop, epoch, pending):
      if pending is not None and pending[0] + 1 == int(at):
        os.kill(os.getpid(), number)

    _before(stage_lib._Loop, '_read', at_step)
  elif name == 'in_save':
    # Orbax gives a checkpoint its name once it is whole.
    _before(
      os,
      'rename',
      lambda _, target: pathlib.Path(target).name == at and _kill(),
    )
  elif name == 'half_bank':
    _before(
      storage,
      'write_json',
      lambda path, _: 'soft_targets' in str(path) and _kill(),
    )
  elif name == 'after_bank':
    _after(srdl, 'induce', lambda *_: _kill())
  elif name == 'before_result':
    _before(
      storage,
      'write_json',
      lambda path, _: pathlib.Path(path).name == 'result.json' and _kill(),
    )
  elif name != 'none':
    raise ValueError(event)


def main(directory: str, event: str, *fields: str) -> None:
  """Runs, and ends with the exit code that the command would have."""
  arrange(event)
  if 'beside' in fields:
    beside.HOST = ''
  settings = {
    name: json.loads(value)
    for name, value in (f.split('=', 1) for f in fields if '=' in f)
  }
  try:
    with stop_request.listen() as stop:
      srdl.run(config(**settings), directory, stop)
  except SrdlError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == '__main__':
  compiled.share()
  main(*sys.argv[1:])
