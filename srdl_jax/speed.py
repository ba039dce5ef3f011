# SPDX-License-Identifier: Apache-2.0
"""How fast this machine trains, for estimates of time."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp

from srdl_jax import flops, models
from srdl_jax.errors import SrdlError


def measured_apart() -> float:
  """Returns `train_speed` as another process measures it.

  This one then neither holds an accelerator nor has to have one.

  Raises:
    SrdlError: it can't be measured.
  """
  program = 'from srdl_jax import speed; print(speed.train_speed())'
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=False
  )
  if done.returncode:
    reason = done.stderr.strip().splitlines()[-1:]
    raise SrdlError(f'The speed cannot be measured: {"".join(reason)}')
  return float(done.stdout)


def train_speed(batch: int = 64, steps: int = 3) -> float:
  """Returns the forward multiply-adds, in 1e16, trained in a second here.

  Of ResNet-20 on images of 32 x 32 pixels.

  Args:
    batch: images in a step.
    steps: that are timed.
  """
  model = models.create('resnet20', 100)
  images = jnp.zeros((batch, 32, 32, 3))
  variables = model.init(jax.random.key(0), images, train=False)

  @jax.jit
  def gradient(params):
    def loss(params):
      logits, _ = model.apply(
        {**variables, 'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.mean(logits**2)

    return jax.grad(loss)(params)

  jax.block_until_ready(gradient(variables['params']))
  begun = time.monotonic()
  for _ in range(steps):
    jax.block_until_ready(gradient(variables['params']))
  seconds = (time.monotonic() - begun) / steps
  return flops.multiply_adds(model, (32, 32, 3)) * batch / 1e16 / seconds
