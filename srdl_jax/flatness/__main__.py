# SPDX-License-Identifier: Apache-2.0
"""How flat the loss is around the networks that runs ended in (Figure 4).

    python -m srdl_jax.flatness --workdir=DIR --workdir=DIR --out=flatness.json

Writes the mean cross-entropy of theta + d v as JSON, for d from 0 to
--max_distance along random directions v, on clean training and test images, in
evaluation mode: batch norm keeps its statistics. Directions are of two kinds:

  literal            uniform on the unit sphere of all parameters, as in the
                     paper. A distance means less in a network of larger norm:
                     the norms are written, too.
  filter_normalised  each filter of v is as long as that filter of theta (Li et
                     al. 2018), and the networks are theta + alpha v for alpha
                     from 0 to 1.

The images are drawn once, from those that all runs trained on and from the test
split; the draws of directions are the same for all runs of one network.
"""

import dataclasses
import errno
import functools
import math
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from srdl_jax import command, storage, trained
from srdl_jax import config as config_lib
from srdl_jax.errors import ConfigError
from srdl_jax.experiment import Experiment
from srdl_jax.flatness import SPLITS, landscape
from srdl_jax.network import Network
from srdl_jax.runs import checkpoint, environment, finished
from srdl_jax.runs import directory as run_directory


@dataclasses.dataclass(frozen=True)
class Solution:
  """A network that a run found.

  Attributes:
    train_rows: that the run was trained on.
    about: what the JSON says of it, but for its curves.
  """

  network: Network
  variables: Any
  train_rows: np.ndarray
  about: dict[str, Any]


def load(
  given: str, name: str, data_dir: str | None
) -> tuple[Experiment, Solution]:
  """Returns a run's experiment and the network of one of its checkpoints.

  Args:
    given: run directory.
    name: 'final', 'best' or 'stage_N'.
    data_dir: TFDS directory, if not the one that the run used.

  Raises:
    ConfigError: the name stands for several networks, or for none.
    WorkdirError: there is no such run or checkpoint, or it is damaged.
  """
  directory = run_directory.resolve(given)
  experiment = trained.open_run(directory, data_dir)
  network, variables = trained.load_one(directory, name, experiment)
  config = experiment.config
  result = directory / run_directory.RESULT
  params = variables['params']
  about = {
    'workdir': given,
    'name': f'{network.name}, {config.method}',
    'seed': config.seed,
    'config': config_lib.identity(config_lib.flatten(config)),
    'weights': experiment.identity.weights,
    'teacher': experiment.identity.teacher,
    'checkpoint': name,
    'digest': checkpoint.digest(variables),
    'commit': finished.read(directory).commit if result.exists() else None,
    'norm': landscape.norm(params),
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(params)),
  }
  return experiment, Solution(network, variables, experiment.train_rows, about)


def load_all(
  workdirs: Sequence[str], name: str, data_dir: str | None
) -> tuple[Experiment, list[Solution]]:
  """Returns the first run's experiment, and the networks of all: see `load`.

  Raises:
    ConfigError: the runs are of different data.
  """
  first, solution = load(workdirs[0], name, data_dir)
  solutions = [solution]
  for given in workdirs[1:]:
    # One data set in memory is enough, of however many runs.
    other, solution = load(given, name, data_dir)
    solutions.append(solution)
    pairs = zip(_data(first).items(), _data(other).values(), strict=True)
    different = [
      f'{what} ({there!r} there, {here!r} here)'
      for (what, there), here in pairs
      if there != here
    ]
    if different:
      raise ConfigError(
        f"{given} cannot be compared with {workdirs[0]}: the runs' data differ "
        f'in {", ".join(different)}.'
      )
  return first, solutions


def _data(experiment: Experiment) -> dict[str, Any]:
  dataset = experiment.dataset
  return {
    'name': dataset.name,
    'version': dataset.version,
    'num_classes': dataset.num_classes,
    'train_fingerprint': dataset.train.fingerprint,
    'test_fingerprint': dataset.test.fingerprint,
  }


def place_images(
  experiment: Experiment, solutions: Sequence[Solution], count: int, seed: int
) -> dict[str, landscape.Images]:
  """Puts the images of both splits on the device.

  Args:
    experiment: of one of the runs.
    solutions: of all; training images are those that all were trained on.
    count: images drawn of each split, by the seed; 0: all.

  Raises:
    ConfigError: they have no training image in common.
  """
  common = functools.reduce(np.intersect1d, [s.train_rows for s in solutions])
  if not len(common):
    raise ConfigError('The runs have no training image in common.')
  chosen = {'train': common, 'test': experiment.examples('test').rows}
  if count:
    for split, rows in chosen.items():
      drawn = np.random.default_rng(seed).permutation(rows)[:count]
      chosen[split] = np.sort(drawn)
  # One size of batch for both splits; a few images need no large one.
  size = min(experiment.config.eval.batch_size, max(map(len, chosen.values())))
  placed = {}
  for split, rows in chosen.items():
    source = experiment.examples(split).split
    placed[split] = landscape.place(source.images, source.labels, rows, size)
  return placed


def measure(solutions: Sequence[Solution], **how: Any) -> list[dict[str, Any]]:
  """Returns what the JSON says of each run: see `landscape.curves`."""
  # Runs of one network share a program.
  compiled = {
    s.network.model: landscape.compile_losses(s.network.predict_step)
    for s in solutions
  }
  runs = []
  for s in solutions:
    found = landscape.curves(compiled[s.network.model], s.variables, **how)
    runs.append({**s.about, 'curves': found})
  return runs


def table(runs: Sequence[dict[str, Any]]) -> str:
  """Returns the means over directions at the start, the middle and the end."""
  ends = ('at theta', 'middle', 'end')
  header = ['run', 'norm', 'directions']
  header += [f'{split}, {end}' for split in SPLITS for end in ends]
  lines = [header, ['---'] * len(header)]
  for run in runs:
    for kind, splits in run['curves'].items():
      cells = [f'{run["name"]} ({run["workdir"]})', f'{run["norm"]:.4g}', kind]
      for split in SPLITS:
        # A loss that isn't finite is None, and makes its mean nan.
        means = np.array(splits[split], float).mean(axis=0)
        cells += [f'{means[n]:.4g}' for n in (0, len(means) // 2, -1)]
      lines.append(cells)
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def main(_argv: Sequence[str]) -> None:
  """Writes the curves of the runs that the command line names."""
  args = flags.FLAGS
  if not args.workdir:
    raise ConfigError('--workdir=DIR is missing; it may be given repeatedly.')
  if not args.out:
    raise ConfigError('--out=FILE is missing.')
  if not 0 < args.max_distance < math.inf:
    raise ConfigError(f'--max_distance={args.max_distance} must be above 0.')
  out = _writable(args.out)
  with trained.precision(map(run_directory.resolve, args.workdir)):
    content = _measure_all(args)
  storage.write_json(out, content)
  print(table(content['runs']))


def _measure_all(args) -> dict[str, Any]:
  """Returns what the JSON holds."""
  experiment, solutions = load_all(args.workdir, args.checkpoint, args.data_dir)
  shapes = [jax.tree.map(np.shape, s.variables['params']) for s in solutions]
  if any(other != shapes[0] for other in shapes):
    storage.say(
      'These are different networks: compare them along filter-normalised '
      'directions alone.'
    )
  splits = place_images(experiment, solutions, args.examples, args.seed)
  distances = {
    'literal': np.linspace(0.0, args.max_distance, args.points).tolist(),
    'filter_normalised': np.linspace(0.0, 1.0, args.points).tolist(),
  }
  directions = len(solutions) * len(distances) * args.directions
  told = storage.Told('flatness', 'directions', directions)
  runs = measure(
    solutions,
    splits=splits,
    distances=distances,
    directions=args.directions,
    seed=args.seed,
    tell=told.add,
  )
  told.close()
  return {
    'directions': args.directions,
    'seed': args.seed,
    'distances': distances['literal'],
    'alphas': distances['filter_normalised'],
    'examples': {split: images.count for split, images in splits.items()},
    'data': _data(experiment),
    'runs': runs,
    **environment.environment(experiment.devices[:1]),
    'command': f'python -m srdl_jax.flatness {shlex.join(sys.argv[1:])}',
  }


def _writable(name: str) -> pathlib.Path:
  """Returns the path of a file that can be written, or raises WorkdirError."""
  path = storage.expanded(name, '--out').absolute()
  # An hour's work is not to be lost to a folder that isn't there.
  with storage.failures(path):
    if path.is_dir():
      raise IsADirectoryError(errno.EISDIR, 'it is a directory')
    tempfile.TemporaryFile(dir=path.parent).close()
  return path


if __name__ == '__main__':
  flags.DEFINE_multi_string('workdir', [], 'Run directory; may be repeated.')
  flags.DEFINE_string('out', None, 'JSON file to write.')
  flags.DEFINE_string('checkpoint', 'final', 'final, best, stage_1, ...')
  flags.DEFINE_integer('directions', 20, 'Of each kind.', lower_bound=1)
  flags.DEFINE_integer('points', 11, 'Along a direction.', lower_bound=2)
  flags.DEFINE_float('max_distance', 5.0, 'Of the literal directions.')
  flags.DEFINE_integer(
    'examples', 2000, 'Images drawn of each split; 0: all.', lower_bound=0
  )
  flags.DEFINE_integer('seed', 0, 'Of directions and images.', lower_bound=0)
  flags.DEFINE_string('data_dir', None, "TFDS directory, if not the runs' own.")
  command.run(main)
