# SPDX-License-Identifier: Apache-2.0
"""What a run has trained, opened again: with its data, or without."""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from srdl_jax import artefact, build, data, machine, methods, storage, targets
from srdl_jax import config as config_lib
from srdl_jax.artefact import Artefact
from srdl_jax.data import images
from srdl_jax.data.images import EncodedImages
from srdl_jax.errors import CheckpointError, ConfigError, SrdlError, unknown
from srdl_jax.experiment import BoundStage, Experiment
from srdl_jax.network import RETRIEVAL, Member, Network
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished
from srdl_jax.runs.checkpoint import Checkpoints
from srdl_jax.targets import Source


def precision(
  workdirs: Iterable[pathlib.Path],
) -> contextlib.AbstractContextManager[None]:
  """A context that JAX computes in as it did when these runs were trained."""
  dtypes = {run_directory.load_identity(w).config.model.dtype for w in workdirs}
  return jax.enable_x64('float64' in dtypes)


_NAME = r'(final|best|ensemble|stage_\d+)'
_NAMES = re.compile(f'{_NAME}(,{_NAME})*')


def chosen(given: Iterable[str], checkpoint: str) -> dict[pathlib.Path, str]:
  """Returns names of checkpoints by run: what DIR or DIR:stage_1 stand for.

  Args:
    checkpoint: of those that name none.

  Raises:
    ConfigError: a run is given twice, or none is.
  """
  names = {}
  for one in given:
    path, _, name = one.rpartition(':')
    named = path and _NAMES.fullmatch(name)
    # A directory's own name may end so.
    if not named or storage.exists(run_directory.resolve(one)):
      path, name = one, checkpoint
    workdir = storage.absolute(run_directory.resolve(path))
    if workdir in names:
      raise ConfigError(f'{path} is given twice: name its checkpoints at once.')
    names[workdir] = name
  if not names:
    raise ConfigError('--workdir=DIR is missing.')
  return names


def open_run(workdir: pathlib.Path, data_dir: str | None) -> Experiment:
  """Returns the experiment of a run, to read its checkpoints with.

  Args:
    data_dir: TFDS directory, or directory of images, if not the one that the
      run used.

  Raises:
    CheckpointError: the run was trained on other data.
    ConfigError: the run is of float64, and JAX isn't: see `precision`.
  """
  identity = run_directory.load_identity(workdir)
  config = identity.config
  config.devices = min(_devices(workdir), jax.device_count())
  # Reading must not fetch.
  config.data.download = False
  if data_dir is not None and config.data.name in data.PREPARED:
    config.data.data_dir = data_dir
  elif data_dir is not None and config.data.path:
    config.data.path = data_dir
  elif data_dir is not None:
    config.data.data_dir = data_dir
  experiment = build.build(config, to_train=False)
  if experiment.dataset.train.fingerprint != identity.fingerprint:
    raise CheckpointError(
      f'{workdir} was trained on other data: its fingerprint is '
      f"{identity.fingerprint}, this {experiment.dataset.name}'s is "
      f'{experiment.dataset.train.fingerprint}.'
    )
  if experiment.identity.ranked != identity.ranked:
    raise CheckpointError(
      f'{workdir} ranked other images than those of this '
      f'{experiment.dataset.name}.'
    )
  return experiment


@dataclasses.dataclass(frozen=True)
class TrainedStage:
  """What it takes to read and use the network that a stage ends in.

  Attributes:
    number: from 1.
    end_step: global step at which it ends.
    config_digest, fingerprint: of the run and of its training split, which its
      checkpoints must have.
    source: of its soft targets, whose memory may hold its result.
  """

  number: int
  network: Network
  end_step: int
  config_digest: str
  fingerprint: str
  source: Source


@dataclasses.dataclass(frozen=True)
class Trained:
  """A run's networks without its data.

  Attributes:
    artefact: what they see and say.
    batch_size: images that are predicted at once.
  """

  workdir: pathlib.Path
  artefact: Artefact
  stages: tuple[TrainedStage, ...]
  batch_size: int

  def refuse_retrieval(self) -> None:
    """Raises a ConfigError where the networks tell persons apart."""
    if self.artefact.task == RETRIEVAL:
      raise ConfigError(
        f'{self.workdir} ranks images of persons, whom it has never seen: it '
        'names no class of other images.'
      )

  def members(
    self,
    variables: Mapping[int, Any],
    records: EncodedImages,
    labels: np.ndarray,
    **options: Any,
  ) -> list[Member]:
    """Returns networks with new images as they see them.

    Args:
      variables: see `load_members`.
      records: the images, of any size.
      labels: int [N].
      **options: of `images.NewImages`.
    """
    new = images.NewImages(
      records, self.artefact.image_shape, self.artefact.resize, **options
    )
    split = data.Split('new', new, labels, '')
    rows = np.arange(len(labels))
    return self.with_examples(variables, data.Subset(split, rows))

  def with_examples(
    self, variables: Mapping[int, Any], examples: data.Subset
  ) -> list[Member]:
    """Returns networks, of which the variables are given by their stages'
    numbers, and the examples that they are evaluated on."""
    # A batch is filled up: of one image 500 would be decoded and predicted.
    size = max(1, min(self.batch_size, len(examples.rows)))
    return [
      Member(self.stages[n - 1].network, its, examples, size)
      for n, its in variables.items()
    ]


def open_networks(
  workdir: pathlib.Path, data_dir: str | None = None
) -> Trained:
  """Returns a run's networks, for which its data need not be there.

  Args:
    data_dir: see `open_run`; where a run of an earlier version has no
      model.json, its data tell.

  Raises:
    CheckpointError: the record is of other data than the run's.
    ConfigError: see `open_run`.
  """
  identity = run_directory.load_identity(workdir)
  config, described = identity.config, artefact.read(workdir)
  if described is None:
    described = open_run(workdir, data_dir).artefact
  if described.data['fingerprint'] != identity.fingerprint:
    raise CheckpointError(
      f'{workdir}/{artefact.FILE} is of another run than '
      f'{run_directory.CONFIG} beside it: move it away.'
    )
  count = min(_devices(workdir), jax.device_count())
  devices = machine.choose_devices(count, config.batch_size)
  plan, steps = methods.create(config), 0
  networks = {
    name: artefact.create_network(config, name, described, devices)
    for name in {stage.model: None for stage in plan}
  }
  stages = []
  for number, stage in enumerate(plan, start=1):
    steps += stage.epochs * (
      described.data['train_examples'] // config.batch_size
    )
    stages.append(
      TrainedStage(
        number,
        networks[stage.model],
        steps,
        config_lib.digest(config),
        identity.fingerprint,
        targets.create(stage.source, config),
      )
    )
  return Trained(workdir, described, tuple(stages), config.eval.batch_size)


Opened = Sequence[tuple[Trained, Mapping[int, Any]]]


def open_classifiers(
  names: Mapping[pathlib.Path, str], data_dir: str | None = None
) -> Opened:
  """Returns networks that name classes, and their variables, of some runs.

  Args:
    names: of checkpoints, by run: see `chosen`.
    data_dir: see `open_networks`.

  Raises:
    ConfigError: they know other classes, or tell persons apart.
  """
  opened = []
  for workdir, name in names.items():
    run = open_networks(workdir, data_dir)
    run.refuse_retrieval()
    if opened and run.artefact.classes != opened[0][0].artefact.classes:
      raise ConfigError(
        f'{workdir} and {opened[0][0].workdir} know other classes: name runs '
        'of the same ones.'
      )
    opened.append((run, load_members(workdir, name, run)))
  return opened


def _devices(workdir: pathlib.Path) -> int:
  """Returns how many devices a run used of this kind, to find its digits with:
  another number rounds otherwise; 0 if it isn't known."""
  with contextlib.suppress(SrdlError):
    run = finished.read(workdir)
    if run.device_kind == jax.devices()[0].device_kind:
      return run.device_count
  return 0


def load_members(
  workdir: pathlib.Path,
  name: str,
  experiment: Experiment | Trained,
) -> dict[int, Any]:
  """Loads the network(s) that a checkpoint name stands for.

  Args:
    name: 'final', 'best' (of the last stage), 'stage_N' (the end of a stage),
      'ensemble' (the ends of all stages), or several, with commas.

  Returns:
    Parameters and statistics of each, by the number of the stage.

  Raises:
    ConfigError: the name is unknown.
    CheckpointError: it isn't there yet, or is damaged.
  """
  stages = len(experiment.stages)
  ends = {f'stage_{n}': [n] for n in range(1, stages + 1)}
  ends |= {'final': [stages], 'ensemble': list(range(1, stages + 1))}
  members: dict[int, Any] = {}
  for part in name.split(','):
    if part != 'best' and part not in ends:
      raise ConfigError(unknown('checkpoint', part, ['best', *ends]))
    for number in ends.get(part, [stages]):
      if number in members:
        raise ConfigError(f'{name!r} names stage {number} twice.')
      members[number] = _load(workdir, part, experiment.stages[number - 1])
  return members


def load_one(
  workdir: pathlib.Path, name: str, experiment: Experiment | Trained
) -> tuple[Network, Any]:
  """Returns the network of one checkpoint, and its variables.

  Args:
    workdir, name, experiment: see `load_members`.

  Raises:
    ConfigError: the name stands for several networks, or for none.
    CheckpointError: it isn't there yet, or is damaged.
  """
  members = load_members(workdir, name, experiment)
  if len(members) > 1:
    raise ConfigError(f'{name!r} is several networks: choose one stage_N.')
  ((number, variables),) = members.items()
  return experiment.stages[number - 1].network, variables


def _load(workdir, name: str, stage: BoundStage | TrainedStage) -> Any:
  directory = run_directory.checkpoints(workdir, stage.number)
  with Checkpoints(directory, read_only=True) as checkpoints:
    if name == 'best':
      moment = checkpoints.load_best()
    else:
      if stage.end_step not in (saved := checkpoints.steps()):
        raise CheckpointError(
          f'{directory}: the stage has not been trained to its end, step '
          f'{stage.end_step}; its checkpoints are at {saved or "no step"}. The '
          "run's own command trains what is left."
        )
      moment = checkpoints.load(stage.end_step)
  # What taught it need not be there any more.
  lineage = {
    'run': stage.config_digest,
    'data': stage.fingerprint,
    'stage': stage.number,
  }
  moment.record.refuse_foreign(moment.step, lineage)
  memory = moment.state.get('memory', {})
  return stage.source.result(memory, moment.variables)
