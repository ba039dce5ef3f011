# SPDX-License-Identifier: Apache-2.0
"""The CIFAR ResNet with projection shortcuts, in PyTorch, to compare with."""

import torch
from torch import nn


class Block(nn.Module):
  """Two 3 x 3 convolutions and a shortcut."""

  def __init__(self, inputs: int, width: int, stride: int):
    super().__init__()
    self.path = nn.Sequential(
      nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
      nn.BatchNorm2d(width),
      nn.ReLU(inplace=True),
      nn.Conv2d(width, width, 3, 1, 1, bias=False),
      nn.BatchNorm2d(width),
    )
    self.shortcut = nn.Identity()
    if stride != 1 or inputs != width:
      self.shortcut = nn.Sequential(
        nn.Conv2d(inputs, width, 1, stride, bias=False),
        nn.BatchNorm2d(width),
      )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(self.path(x) + self.shortcut(x))


def cifar_resnet(depth: int, classes: int) -> nn.Module:
  """Returns the network of depth 6n + 2 for images [B, 3, H, W]."""
  layers: list[nn.Module] = [
    nn.Conv2d(3, 16, 3, 1, 1, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(),
  ]
  inputs = 16
  for width in (16, 32, 64):
    for block in range((depth - 2) // 6):
      stride = 2 if width > 16 and block == 0 else 1
      layers.append(Block(inputs, width, stride))
      inputs = width
  pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
  return nn.Sequential(*layers, *pool)
