# SPDX-License-Identifier: Apache-2.0
"""Self-Referenced Deep Learning: Algorithm 1, for any list of stages."""

import pathlib
import time
from typing import Any

from ml_collections import ConfigDict

from srdl_jax import result, run_directory, soft_targets, stage, workdir
from srdl_jax.build import Experiment, build
from srdl_jax.checkpoint import Checkpoints, Moment, digest
from srdl_jax.evaluate import evaluate, variables
from srdl_jax.log import RunLog
from srdl_jax.stop_request import StopRequest


def run(config: ConfigDict, directory: str, stop: StopRequest) -> dict[str, Any]:
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
        with Checkpoints(run_directory.checkpoints(path, number)) as checkpoints:
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


def extract(
    experiment: Experiment, end: Moment, path: pathlib.Path
) -> tuple[soft_targets.Bank, float]:
  """Stores a stage's predictions of its training examples, and reads them.

  One pass in evaluation mode over clean images, every example once (Eq 5).

  Returns:
    The soft targets, and the seconds that making them took.
  """
  size = {
      'num_examples': len(experiment.dataset.train.labels),
      'num_classes': experiment.dataset.num_classes,
  }
  provenance = experiment.provenance(digest(end.state))
  timing = path.with_name('extraction.json')
  if not soft_targets.is_complete(path):
    # Compiles, if no evaluation has.
    next(experiment.predict(variables(end), 'train'))
    begun = time.monotonic()
    soft_targets.save(
        path,
        experiment.predict(variables(end), 'train'),
        temperature=experiment.config.distillation.temperature,
        provenance=provenance,
        expected_rows=experiment.train_rows,
        **size,
    )
    workdir.write_json(timing, {'seconds': time.monotonic() - begun})
  bank = soft_targets.load(path, provenance=provenance, **size)
  return bank, workdir.read_json(timing)['seconds']
