# SPDX-License-Identifier: Apache-2.0
"""Learning rates over the global step of a run (Eq 3 and 4, Figure 3)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax


def step_decay(
  rate: float,
  steps: int,
  *,
  decay_at: Sequence[float] = (0.5, 0.75),
  decay_factor: float = 0.1,
) -> optax.Schedule:
  """Returns the step decay f_step(t, M) over one budget (Eq 3).

  Args:
    steps: the length M of the schedule, in optimiser steps.
    decay_at: fractions of the length; a boundary is floor(fraction x steps),
      and the lower rate holds from that step on.
    decay_factor: the rate is multiplied by it at each boundary.

  Returns:
    A function from the step within the schedule, from 0, to the rate.

    >>> [round(float(step_decay(0.1, 8)(t)), 4) for t in (3, 4, 5, 6)]
    [0.1, 0.01, 0.01, 0.001]
  """
  scales: dict[int, float] = {}
  for fraction in decay_at:
    # Boundaries of a very short schedule may coincide.
    # Rounded first: 0.29 x 100 is a little below 29 in floating point.
    boundary = int(round(fraction * steps, 9))
    scales[boundary] = scales.get(boundary, 1.0) * decay_factor
  return optax.piecewise_constant_schedule(rate, scales)


def changes(schedule: optax.Schedule, steps: int) -> list[list[float]]:
  """Returns [step, rate] wherever the rate of a schedule takes a new value.

  Args:
    schedule: rate by step.
    steps: how many, from 0.
  """
  rates = np.asarray(jax.vmap(schedule)(jnp.arange(steps)))
  new = np.flatnonzero(np.diff(rates, prepend=np.nan) != 0)
  return [[int(step), float(rates[step])] for step in new]


def over_stages(
  rate: float,
  stage_steps: Sequence[int],
  complete: Sequence[bool],
  *,
  decay_at: Sequence[float] = (0.5, 0.75),
  decay_factor: float = 0.1,
) -> optax.Schedule:
  """Returns the rate over the global step of a run of several stages.

  A complete stage runs a whole decay of its own over its own steps (Eq 4, the
  stage-complete schedule: two concatenated decays for SRDL); an incomplete
  one follows a single decay over all stages (Eq 3; Table 4).

  Args:
    stage_steps: optimiser steps of each stage.
    complete: for each stage, whether its decay is its own.
    decay_at: see `step_decay`.
    decay_factor: see `step_decay`.

  Returns:
    A function from the global step, from 0 and never reset, to the rate.
  """
  decay = {'decay_at': decay_at, 'decay_factor': decay_factor}
  whole = step_decay(rate, sum(stage_steps), **decay)
  starts = [sum(stage_steps[:i]) for i in range(len(stage_steps))]
  pieces = [
    step_decay(rate, steps, **decay)
    if own
    else (lambda step, start=start: whole(step + start))
    for steps, own, start in zip(stage_steps, complete, starts, strict=True)
  ]
  return optax.join_schedules(pieces, starts[1:])
