# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds by hand, and the paper's TrCost."""

import flax.linen as nn
import pytest

from srdl_jax import cost, models

CIFAR = (32, 32, 3)


class One(nn.Module):
  """A single layer."""

  layer: nn.Module

  @nn.compact
  def __call__(self, images, train):
    del train
    return self.layer(images)


@pytest.mark.parametrize(
  ('layer', 'expected'),
  [
    # 16 x 16 outputs of 32 channels, each of 8 x 3 x 3 products; the
    # taps on the padding count too.
    (nn.Conv(32, (3, 3), padding=1), 16 * 16 * 32 * 8 * 9),
    # Stride 2: 8 x 8 outputs.
    (nn.Conv(32, (3, 3), strides=2, padding=1), 8 * 8 * 32 * 8 * 9),
    (nn.Conv(32, (1, 1)), 16 * 16 * 32 * 8),
    # No padding: 14 x 14 outputs.
    (nn.Conv(32, (3, 3), padding='VALID'), 14 * 14 * 32 * 8 * 9),
    # Four groups: each output sees 2 channels.
    (nn.Conv(32, (3, 3), feature_group_count=4), 16 * 16 * 32 * 2 * 9),
    # A matrix product at each of the pixels; its bias is no product.
    (nn.Dense(5), 16 * 16 * 8 * 5),
    (nn.LayerNorm(), 0),
  ],
  ids=['conv', 'stride', '1x1', 'valid', 'groups', 'dense', 'norm'],
)
def test_multiply_adds_of_a_layer(layer, expected):
  assert cost.multiply_adds(One(layer), (16, 16, 8)) == expected


def test_functions_within_functions_are_counted():
  # nn.jit traces to an inner program.
  layer = nn.jit(nn.Conv)(4, (1, 1))
  assert cost.multiply_adds(One(layer), (2, 2, 3)) == 2 * 2 * 4 * 3


@pytest.mark.parametrize(
  ('name', 'published'), [('resnet32', 69.1e6), ('resnet110', 253e6)]
)
def test_multiply_adds_of_the_papers_resnets(name, published):
  # Every 3 x 3 convolution has 16^2 x 9 x 32^2 products, as the pixels fall
  # by four where the channels double twice; but the stem has 3 inputs, and
  # the first of groups two and three half of the channels. Projections have
  # 16 x 32 x 16^2 and 32 x 64 x 8^2, the classifier 64 x 10.
  n = (int(name.removeprefix('resnet')) - 2) // 6
  full = 16 * 16 * 9 * 32 * 32
  counted = 3 * 16 * 9 * 32 * 32 + (6 * n - 2) * full + 2 * full // 2
  counted += 16 * 32 * 16 * 16 + 32 * 64 * 8 * 8 + 64 * 10
  assert cost.multiply_adds(models.create(name, 10), CIFAR) == counted
  assert counted == pytest.approx(published, rel=1e-3)


def test_parameters_are_not_statistics():
  # Scale and bias of three channels; mean and variance aren't trained.
  layer = nn.BatchNorm(use_running_average=True)
  assert cost.parameters(One(layer), (4, 4, 3)) == 6


def test_trcost_is_forward_times_epochs_times_examples():
  # Row 23: ResNet-32 on CIFAR, 69.1M x 200 x 50,000 = 0.069 in 1e16.
  found = cost.training_cost([(69_100_000, 200)], examples=50_000)
  assert found == pytest.approx(0.0691, rel=1e-12)


def test_trcost_of_srdl_adds_one_pass():
  # Two stages of half the budget cost as much as one, and the extraction one
  # epoch's forward pass: 1 / 150 < 0.67 %.
  srdl = cost.training_cost([(10**8, 76), (10**8, 75)], examples=1000)
  vanilla = cost.training_cost([(10**8, 150)], examples=1000)
  assert srdl / vanilla - 1 == pytest.approx(1 / 150, rel=1e-9)
  assert srdl / vanilla < 1.0067
