# SPDX-License-Identifier: Apache-2.0
"""SGD as the paper uses it; the rate comes from the caller's clock."""

import jax
import optax


def scale_by_given_rate() -> optax.GradientTransformationExtraArgs:
  """Scales updates by minus the `learning_rate` given to `update`.

  An optimiser's own count is no clock for a run of several stages: a restart
  resets it, and a schedule that reads it would begin anew.
  """

  def update(updates, state, params=None, *, learning_rate, **unused):
    del params, unused
    return jax.tree.map(lambda u: -learning_rate * u, updates), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def sgd(
  *, momentum: float, weight_decay: float, nesterov: bool = True
) -> optax.GradientTransformationExtraArgs:
  """Returns SGD equal, step by step, to torch.optim.SGD.

  Weight decay is coupled (added to the gradient before the momentum) and
  applies to all parameters, batch-norm's and biases among them; the rate
  multiplies after the momentum.

  Args:
    momentum: 0.9 in the paper.
    weight_decay: 2e-4 in the paper.
    nesterov: whether the momentum is Nesterov's.

  Returns:
    A transformation whose `update` takes the keyword `learning_rate`.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(decay=momentum, nesterov=nesterov),
    scale_by_given_rate(),
  )
