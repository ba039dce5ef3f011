# SPDX-License-Identifier: Apache-2.0
"""The networks in PyTorch, to compare with: same names, same parameters.

Those for small images are written here as their authors describe them; those
for large images are torchvision's, where it is installed.
"""

import torch
from torch import nn
from torch.nn import functional as F


def _conv(inputs: int, width: int, size: int, stride: int = 1) -> nn.Conv2d:
  return nn.Conv2d(inputs, width, size, stride, (size - 1) // 2, bias=False)


class PadChannels(nn.Module):
  """The parameter-free shortcut: subsampled, zero channels on both sides."""

  def __init__(self, extra: int, stride: int):
    super().__init__()
    self.extra, self.stride = extra, stride

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = x[:, :, :: self.stride, :: self.stride]
    low = self.extra // 2
    return F.pad(x, (0, 0, 0, 0, low, self.extra - low))


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions and a shortcut."""

  expansion = 1

  def __init__(self, inputs: int, width: int, stride: int, projection: bool):
    super().__init__()
    self.conv1 = _conv(inputs, width, 3, stride)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = _conv(width, width, 3)
    self.bn2 = nn.BatchNorm2d(width)
    self.downsample = self.shortcut(inputs, width, stride, projection)

  def shortcut(self, inputs, width, stride, projection) -> nn.Module:
    outputs = width * self.expansion
    if stride == 1 and inputs == outputs:
      return nn.Identity()
    if not projection:
      return PadChannels(outputs - inputs, stride)
    return nn.Sequential(
      _conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.bn1(self.conv1(x)))
    return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(BasicBlock):
  """1 x 1, 3 x 3 and 1 x 1 convolutions, the last four times as wide."""

  expansion = 4

  def __init__(self, inputs: int, width: int, stride: int, projection: bool):
    super().__init__(inputs, width, stride, projection)
    self.conv1 = _conv(inputs, width, 1)
    self.conv2 = _conv(width, width, 3, stride)
    self.conv3 = _conv(width, 4 * width, 1)
    self.bn3 = nn.BatchNorm2d(4 * width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.bn1(self.conv1(x)))
    y = F.relu(self.bn2(self.conv2(y)))
    return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class CifarResNet(nn.Module):
  """He et al. 2016, section 4.2."""

  def __init__(
    self,
    depth: int,
    num_classes: int,
    bottleneck: bool = False,
    projection: bool = True,
  ):
    super().__init__()
    block = Bottleneck if bottleneck else BasicBlock
    self.conv1, self.bn1 = _conv(3, 16, 3), nn.BatchNorm2d(16)
    inputs = 16
    for group, width in enumerate((16, 32, 64), start=1):
      layers = []
      for i in range((depth - 2) // 6):
        stride = 2 if group > 1 and i == 0 else 1
        layers.append(block(inputs, width, stride, projection))
        inputs = width * block.expansion
      self.add_module(f'layer{group}', nn.Sequential(*layers))
    self.fc = nn.Linear(inputs, num_classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(self.bn1(self.conv1(x)))
    x = self.layer3(self.layer2(self.layer1(x)))
    return self.fc(x.mean((2, 3)))


class PreActivationBlock(nn.Module):
  """Of a Wide ResNet; the projection takes the activated input."""

  def __init__(self, inputs: int, width: int, stride: int):
    super().__init__()
    self.bn1 = nn.BatchNorm2d(inputs)
    self.conv1 = _conv(inputs, width, 3, stride)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv2 = _conv(width, width, 3)
    self.convShortcut = (
      _conv(inputs, width, 1, stride) if inputs != width else None
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.bn1(x))
    x = self.convShortcut(y) if self.convShortcut else x
    return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
  """Zagoruyko and Komodakis 2016."""

  def __init__(self, depth: int, widen: int, num_classes: int):
    super().__init__()
    self.conv1 = _conv(3, 16, 3)
    inputs = 16
    for group, width in enumerate((16, 32, 64), start=1):
      layers = []
      for i in range((depth - 4) // 6):
        stride = 2 if group > 1 and i == 0 else 1
        layers.append(PreActivationBlock(inputs, width * widen, stride))
        inputs = width * widen
      block = nn.Module()
      block.layer = nn.Sequential(*layers)
      self.add_module(f'block{group}', block)
    self.bn1 = nn.BatchNorm2d(inputs)
    self.fc = nn.Linear(inputs, num_classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = self.conv1(x)
    for block in (self.block1, self.block2, self.block3):
      x = block.layer(x)
    return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class DenseLayer(nn.Module):
  """Adds k channels to its input."""

  def __init__(self, inputs: int, growth: int):
    super().__init__()
    self.norm1 = nn.BatchNorm2d(inputs)
    self.conv1 = _conv(inputs, 4 * growth, 1)
    self.norm2 = nn.BatchNorm2d(4 * growth)
    self.conv2 = _conv(4 * growth, growth, 3)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = self.conv1(F.relu(self.norm1(x)))
    return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class DenseNetBC(nn.Module):
  """Huang et al. 2017, for small images."""

  def __init__(self, depth: int, growth: int, num_classes: int):
    super().__init__()
    channels = 2 * growth
    layers: dict[str, nn.Module] = {'conv0': _conv(3, channels, 3)}
    for block in (1, 2, 3):
      dense = nn.Sequential()
      for i in range(1, (depth - 4) // 6 + 1):
        dense.add_module(f'denselayer{i}', DenseLayer(channels, growth))
        channels += growth
      layers[f'denseblock{block}'] = dense
      if block < 3:
        transition = nn.Sequential()
        transition.add_module('norm', nn.BatchNorm2d(channels))
        transition.add_module('relu', nn.ReLU())
        transition.add_module('conv', _conv(channels, channels // 2, 1))
        transition.add_module('pool', nn.AvgPool2d(2))
        layers[f'transition{block}'] = transition
        channels //= 2
    layers['norm5'] = nn.BatchNorm2d(channels)
    self.features = nn.Sequential()
    for name, layer in layers.items():
      self.features.add_module(name, layer)
    self.classifier = nn.Linear(channels, num_classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.classifier(F.relu(self.features(x)).mean((2, 3)))


def torchvision_models():
  """Returns torchvision.models, also where its compiled operations fail.

  Raises:
    ImportError: torchvision isn't installed.
  """
  # A torchvision built for another PyTorch registers operations that aren't
  # there; its networks need none of them.
  register = torch.library.register_fake
  torch.library.register_fake = lambda *_, **__: lambda function: function
  try:
    from torchvision import models
  finally:
    torch.library.register_fake = register
  return models


def create(name: str, num_classes: int) -> nn.Module:
  """Returns the network that `srdl_jax.models.create` has under this name.

  Raises:
    ImportError: it is torchvision's, which isn't installed.
  """
  if name.startswith('wrn'):
    depth, widen = map(int, name.removeprefix('wrn').split('_'))
    return WideResNet(depth, widen, num_classes)
  if name.startswith('densenet_bc_'):
    depth, growth = map(int, name.removeprefix('densenet_bc_').split('_'))
    return DenseNetBC(depth, growth, num_classes)
  if name in ('resnet18', 'resnet34', 'resnet50', 'resnet101') or (
    name.startswith('densenet')
  ):
    return getattr(torchvision_models(), name)(num_classes=num_classes)
  depth, _, kind = name.removeprefix('resnet').partition('_')
  return CifarResNet(int(depth), num_classes, kind == 'bottleneck')
