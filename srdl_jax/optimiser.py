# SPDX-License-Identifier: Apache-2.0
"""SGD as the paper uses it; the rate comes from the caller's clock."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import optax


def scale_by_given_rate(
  share: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
  """Scales updates by minus the `learning_rate` given to `update`.

  An optimiser's own count is no clock for a run of several stages: a restart
  resets it, and a schedule that reads it would begin anew.

  Args:
    share: of the rate that is applied.
  """

  def update(updates, state, params=None, *, learning_rate, **unused):
    del params, unused
    # A Python number, so that the rate keeps its type.
    return jax.tree.map(lambda u: -share * learning_rate * u, updates), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def sgd(
  *,
  momentum: float,
  weight_decay: float,
  nesterov: bool = True,
  backbone_share: float = 1.0,
  heads: Collection[str] = (),
) -> optax.GradientTransformationExtraArgs:
  """Returns SGD equal, step by step, to torch.optim.SGD.

  Weight decay is coupled (added to the gradient before the momentum) and
  applies to all parameters, batch-norm's and biases among them; the rate
  multiplies after the momentum.

  Args:
    momentum: 0.9 in the paper.
    weight_decay: 2e-4 in the paper.
    nesterov: whether the momentum is Nesterov's.
    backbone_share: share of the rate for all parameters but the head's, which
      imported weights want.
    heads: names that the last layer may have, at the top of the parameters.

  Returns:
    A transformation whose `update` takes the keyword `learning_rate`.
  """
  rate = scale_by_given_rate()
  if backbone_share != 1.0:
    parts = {'head': rate, 'backbone': scale_by_given_rate(backbone_share)}
    rate = optax.partition(parts, functools.partial(_part_names, heads))
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(decay=momentum, nesterov=nesterov),
    rate,
  )


def _part_names(
  heads: Collection[str], params: Mapping[str, Any]
) -> dict[str, str]:
  return {name: 'head' if name in heads else 'backbone' for name in params}
