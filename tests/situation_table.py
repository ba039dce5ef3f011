# SPDX-License-Identifier: Apache-2.0
"""Tables of situations that end in an error, and what provokes it.

The situations themselves are in situations_of_*.py; test_error_texts.py
compares what they say.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import made_market
import numpy as np
import pytest
import tiny

from srdl_jax import build, srdl, storage
from srdl_jax import weights as weights_lib
from srdl_jax.runs import formats
from srdl_jax.runs.stop_request import StopRequest


class Shared:
  """What situations share, each made when it is first asked for."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  def once(
    self, name: str, make: Callable[[pathlib.Path], Any]
  ) -> pathlib.Path:
    """Returns a folder, which is missing when `make` is called with it."""
    if not (self.folder / name).exists():
      make(self.folder / name)
    return self.folder / name

  @functools.cached_property
  def experiment(self):
    """Of the finished run."""
    fields = {**SHORT, 'checkpoint.every_steps': 2}
    return build.build(tiny.config(**fields))

  @functools.cached_property
  def run(self) -> pathlib.Path:
    """A finished run of both stages: steps 1 to 5, and 6 to 10."""
    with pytest.MonkeyPatch.context() as patch:
      run_compiled(patch, self.experiment, self.folder / 'run')
    return self.folder / 'run'

  @functools.cached_property
  def weights(self) -> pathlib.Path:
    """Imported weights of the tiny network for digits."""
    init = functools.partial(tiny.Tiny(10).init, train=False)
    images = np.zeros((1, 8, 8, 1), np.float32)
    like = jax.eval_shape(init, jax.random.key(0), images)
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), dict(like))
    weights_lib.save(self.folder / 'weights', 'tiny', variables, 'a test')
    return self.folder / 'weights'

  @functools.cached_property
  def market(self) -> made_market.Made:
    """Persons: 4 to train on, 3 to look for, by 2 cameras."""
    (self.folder / 'market').mkdir()
    return made_market.make(
      self.folder / 'market',
      train_identities=4,
      test_identities=3,
      cameras=2,
      per_camera=2,
      distractors=3,
      junk=2,
      oddities=False,
    )


@dataclasses.dataclass
class Place:
  """What a situation has for its own.

  Attributes:
    folder: empty.
    shared: what it must not change.
    patch: undone at its end.
  """

  folder: pathlib.Path
  shared: Shared
  patch: pytest.MonkeyPatch

  def run(self, *, finished: bool = True, stages: int = 2) -> pathlib.Path:
    """A copy of the finished run, or of what there was before its end."""
    directory = self.folder / 'run'
    shutil.copytree(self.shared.run, directory)
    if not finished:
      (directory / 'result.json').unlink()
    for number in range(stages + 1, 3):
      shutil.rmtree(directory / f'stage_{number}')
    return directory

  def market(self) -> pathlib.Path:
    """A copy of the persons' folder."""
    copy = self.folder / 'market'
    shutil.copytree(self.shared.market.folder, copy)
    return copy

  def filled(self, values: dict[str, Any]) -> dict[str, Any]:
    """Values by names, whose texts may say {tmp} and {shared.run}."""
    paths = {'tmp': self.folder, 'shared': self.shared}
    return {
      name: value.format(**paths) if isinstance(value, str) else value
      for name, value in values.items()
    }


Provoke = Callable[[Place], Any]


@dataclasses.dataclass(frozen=True)
class Situation:
  """What provokes an error.

  Attributes:
    provoke: called with a Place.
    others: a pattern of what other libraries say in the text, '' if nothing.
  """

  provoke: Provoke
  others: str = ''


class Table(dict[str, Situation]):
  """Situations by name."""

  def add(self, group: str, rows: dict[str, Provoke], others: str = '') -> None:
    """Adds 'group: row' for each row; for `others` see Situation."""
    for title, provoke in rows.items():
      assert f'{group}: {title}' not in self, title
      self[f'{group}: {title}'] = Situation(provoke, others)


# Two epochs, and a train step that is soon compiled.
SHORT = {
  'epochs': 2,
  'log.tensorboard': False,
  'augment.flip': False,
  'augment.padding': 0,
}


def run(
  directory: pathlib.Path | str,
  stop: StopRequest | None = None,
  **fields: Any,
) -> None:
  """Runs the tiny configuration, made shorter; fields by dotted names."""
  config = tiny.config(**{**SHORT, **fields})
  srdl.run(config, str(directory), stop or StopRequest())


def run_compiled(
  patch: pytest.MonkeyPatch,
  experiment: Any,
  directory: pathlib.Path,
  stop: StopRequest | None = None,
) -> None:
  """Runs an experiment; what it has compiled before is not compiled again."""
  patch.setattr(srdl, 'build', lambda config: experiment)
  srdl.run(experiment.config, str(directory), stop or StopRequest())


def dotted(fields: dict[str, Any]) -> dict[str, Any]:
  """Returns fields by dotted names, of names with '__' in place of '.'."""
  return {name.replace('__', '.'): value for name, value in fields.items()}


def refused(**fields: Any) -> Provoke:
  """A configuration that a run refuses before it writes anything.

  For the names of fields see `dotted`, for their values `Place.filled`.
  """

  def provoke(place):
    try:
      run(place.folder / 'run', **dotted(place.filled(fields)))
    finally:
      assert not (place.folder / 'run').exists()

  return provoke


def rewrite(file: pathlib.Path, **changes: Any) -> None:
  """Changes names of a JSON file."""
  storage.write_json(file, {**storage.read_json(file), **changes})


def seal(directory: pathlib.Path, change: Callable[[dict], Any]) -> None:
  """Changes what a run has found, and its digest with it."""
  found = storage.read_json(directory / 'result.json')
  change(found)
  del found['digest']
  storage.write_json(directory / 'result.json', formats.sealed(found))


def forge(
  directory: pathlib.Path, step: int, change: Callable[[dict], Any]
) -> None:
  """Changes what a checkpoint remembers, and its digest with it."""
  file = directory / str(step) / '_CHECKPOINT_METADATA'
  content = json.loads(file.read_text())
  stored = content['custom_metadata']
  change(stored['record'])
  text = json.dumps(stored['record'], sort_keys=True)
  stored['sha256'] = hashlib.sha256(text.encode()).hexdigest()
  file.write_text(json.dumps(content))


def lineage(**changes: Any) -> Callable[[dict], Any]:
  """A change of what a checkpoint says that it is of; for `forge`."""
  return lambda record: record['progress']['lineage'].update(changes)


class Asked(StopRequest):
  """As if a signal had come before the run began."""

  def __init__(self) -> None:
    super().__init__()
    self.signal_name = 'SIGTERM'
