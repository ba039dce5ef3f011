# SPDX-License-Identifier: Apache-2.0
"""Self-Referenced Deep Learning: Algorithm 1, for any list of stages."""

from typing import Any

from ml_collections import ConfigDict

from srdl_jax import result, run_directory, stage, workdir
from srdl_jax.build import build
from srdl_jax.checkpoint import Checkpoints
from srdl_jax.extraction import extract
from srdl_jax.log import RunLog
from srdl_jax.stop_request import StopRequest


def run(
  config: ConfigDict, directory: str, stop: StopRequest
) -> dict[str, Any]:
  """Trains the configured stages, or what is left of them.

  Args:
    config: what to train.
    directory: the run directory.
    stop: whether to save and end early.

  Returns:
    What result.json holds.
  """
  experiment = build(config)
  fingerprint = experiment.dataset.train.fingerprint
  with run_directory.claim(directory, config, fingerprint) as path:
    with RunLog(
      path,
      total_epochs=sum(s.epochs for s in experiment.stages),
      tensorboard=config.log.tensorboard,
      every_steps=config.log.every_steps,
    ) as log:
      ends, banks, seconds = [], {}, {}
      for number, plan in enumerate(experiment.stages, start=1):
        teacher = banks.get(plan.teacher)
        with Checkpoints(
          run_directory.checkpoints(path, number)
        ) as checkpoints:
          end = stage.train(
            experiment,
            number,
            previous=ends[-1] if ends else None,
            soft_logits=teacher.log_probs_NxK if teacher else None,
            checkpoints=checkpoints,
            log=log,
            stop=stop,
            profile_to=path / 'profile' if config.profile else None,
          )
        ends.append(end)
        if any(later.teacher == number for later in experiment.stages):
          target = run_directory.soft_targets(path, number)
          banks[number], seconds[number] = extract(experiment, end, target)
    found = result.assemble(experiment, ends, banks, seconds)
    workdir.write_json(path / run_directory.RESULT, found)
    return found
