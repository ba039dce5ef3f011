# SPDX-License-Identifier: Apache-2.0
"""Self-Referenced Deep Learning: Algorithm 1, for any list of stages."""

import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from srdl_jax import artefact, result, stage, storage
from srdl_jax.build import build
from srdl_jax.experiment import Experiment
from srdl_jax.imported import name_network
from srdl_jax.knowledge import induce, induce_imported, still_needed
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import finished, hold, processes
from srdl_jax.runs.checkpoint import Checkpoints
from srdl_jax.runs.log import RunLog
from srdl_jax.runs.stop_request import StopRequest


def run(
  config: ConfigDict, directory: str, stop: StopRequest
) -> dict[str, Any]:
  """Trains what is left, in its own precision, unless `stop` ends it early;
  returns what result.json holds."""
  path = run_directory.resolve(directory)
  config = name_network(config)
  # Known before the data set is read, which may mean to fetch it.
  run_directory.refuse_another(path, config)
  stop.agreed = False if processes.several() else None
  with jax.enable_x64(config.model.dtype == 'float64'):
    experiment = build(config)
    test_data = experiment.dataset.test.fingerprint
    with hold.claim(path, experiment.identity, test_data):
      if processes.first_says(storage.exists(path / run_directory.RESULT)):
        processes.tell(f'{path} is finished; its result:')
      else:
        processes.tell(experiment.introduction)
        artefact.write(path, experiment.artefact)
        hold.finish(path, train(experiment, path, stop))
      return finished.load(path)


def train(
  experiment: Experiment, path: pathlib.Path, stop: StopRequest
) -> dict[str, Any]:
  """Algorithm 1: trains stage by stage; some teach later ones."""
  config = experiment.config
  ends, knowledge = [], induce_imported(experiment, path, stop)
  with RunLog(
    path,
    total_epochs=sum(plan.epochs for plan in experiment.plan),
    tensorboard=config.log.tensorboard,
    every_steps=config.log.every_steps,
  ) as log:
    for bound in experiment.stages:
      folder = run_directory.checkpoints(path, bound.number)
      with Checkpoints(folder) as checkpoints:
        end = stage.train(
          experiment,
          bound,
          previous=ends[-1] if ends else None,
          knowledge=knowledge.get(bound.plan.teacher),
          checkpoints=checkpoints,
          log=log,
          stop=stop,
          profile_to=path / 'profile' if config.profile else None,
        )
      ends = [*(before.at_rest for before in ends), end]
      knowledge = still_needed(knowledge, experiment.plan[bound.number :])
      if any(later.teacher == bound.number for later in experiment.plan):
        views = config.distillation.views
        target = run_directory.soft_targets(path, bound.number, views)
        teacher = experiment.teacher(bound.number, end)
        knowledge[bound.number] = induce(experiment, teacher, target, stop)
        stop.agree(processes.any_says)
        stop.end_if_asked(f'after stage {bound.number}')
    return log.finished(result.assemble(experiment, ends, knowledge))
