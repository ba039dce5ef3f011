# SPDX-License-Identifier: Apache-2.0
"""Makes models.json: what the PyTorch networks compute, in float64.

    python -m venv torch && torch/bin/pip install torch==2.13.0 numpy
    torch/bin/pip install --no-deps torchvision==0.28.0
    PYTHONPATH=benchmarks torch/bin/python tests/references/make_models.py

A small member of each family, its tensors, images and labels from a formula
(seeded.py). For each tensor stands its norm and a random projection: logits in
evaluation mode, gradients of the first step, and parameters and statistics
after three steps of SGD. Of every registered network there is a digest of the
names and shapes in its state dict, at ten classes.

PyTorch's running variance is the unbiased one, n / (n - 1) times the batch's,
with n = B H W. Flax's is the batch's as it is, so what three steps have added
is divided by that here; the two agree otherwise.
"""

import hashlib
import json
import pathlib

import numpy as np
import seeded
import torch
import torch_models

HERE = pathlib.Path(__file__).parent

COMMAND = 'PYTHONPATH=benchmarks python tests/references/make_models.py'
CLASSES, BATCH, STEPS = 10, 4, 3
SGD = {'lr': 0.01, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 2e-4}


REGISTERED = (
  *(f'resnet{depth}' for depth in (8, 20, 32, 44, 56, 110)),
  'resnet110_bottleneck',
  *(f'wrn{k}' for k in ('10_2', '16_2', '16_4', '16_8', '28_10')),
  *(f'wrn{k}' for k in ('40_2', '40_4')),
  *(f'densenet_bc_{k}' for k in ('40_12', '100_12', '190_40')),
  *(f'resnet{depth}' for depth in (18, 34, 50, 101)),
  *(f'densenet{depth}' for depth in (121, 169, 201)),
)


def state_dict_digest(name: str) -> str:
  """Returns a SHA-256 over 'name shape' lines, counts of batches left out."""
  with torch.device('meta'):
    state = torch_models.create(name, CLASSES).state_dict()
  lines = sorted(
    f'{key} {tuple(value.shape)}'
    for key, value in state.items()
    if not key.endswith('num_batches_tracked')
  )
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def members() -> dict[str, tuple[torch.nn.Module, int]]:
  """Returns networks, and the size of their images."""
  vision = torch_models.torchvision_models()
  resnet, densenet = vision.resnet, vision.densenet
  basic = resnet.ResNet(resnet.BasicBlock, [2, 1, 1, 1], CLASSES)
  basic.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
  basic.maxpool = torch.nn.Identity()
  # The last group would be most of the time; the basic one has it.
  bottleneck = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], CLASSES)
  bottleneck.layer4 = torch.nn.Identity()
  bottleneck.fc = torch.nn.Linear(1024, CLASSES)
  return {
    'cifar_resnet': (torch_models.CifarResNet(14, CLASSES), 12),
    'cifar_resnet_identity': (
      torch_models.CifarResNet(8, CLASSES, projection=False),
      12,
    ),
    'cifar_resnet_bottleneck': (
      torch_models.CifarResNet(8, CLASSES, bottleneck=True),
      12,
    ),
    'wide_resnet': (torch_models.WideResNet(16, 2, CLASSES), 12),
    'densenet_bc': (torch_models.DenseNetBC(16, 6, CLASSES), 12),
    'resnet_basic_small_stem': (basic, 8),
    'resnet_bottleneck': (bottleneck, 17),
    'densenet': (
      densenet.DenseNet(8, (2, 1, 1, 1), 16, num_classes=CLASSES),
      33,
    ),
  }


def count_pixels(model: torch.nn.Module) -> dict[str, int]:
  """Returns a table that a forward pass fills: B H W by norm."""
  pixels: dict[str, int] = {}
  for name, module in model.named_modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      module.register_forward_hook(
        lambda _, args, out, name=name: pixels.update(
          {name: out.numel() // out.shape[1]}
        )
      )
  return pixels


def fingerprints(tensors) -> dict[str, list[float]]:
  return {
    name: seeded.fingerprint(name, tensor.detach().numpy())
    for name, tensor in tensors
  }


def compute(name: str, model: torch.nn.Module, size: int) -> dict:
  """Returns the reference values of one network."""
  model.double()
  started = {}
  for key, tensor in model.state_dict().items():
    if not key.endswith('num_batches_tracked'):
      started[key] = seeded.weight(key, tuple(tensor.shape))
      tensor.copy_(torch.from_numpy(started[key]))
  shape = (BATCH, 3, size, size)
  images = torch.from_numpy(seeded.uniform(f'{name} images', shape))
  labels = torch.arange(BATCH) * 3 % CLASSES
  pixels = count_pixels(model)
  found = {'size': size, 'losses': []}
  with torch.no_grad():
    logits = model.eval()(images)
  found['logits'] = seeded.fingerprint('logits', logits.numpy())
  optimiser = torch.optim.SGD(model.parameters(), **SGD)
  model.train()
  for step in range(STEPS):
    optimiser.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    found['losses'].append(loss.item())
    if step == 0:
      found['gradients'] = fingerprints(
        (key, p.grad) for key, p in model.named_parameters()
      )
    optimiser.step()
  after = {}
  for key, tensor in model.state_dict().items():
    if key in started:
      value = tensor.numpy()
      if key.endswith('running_var'):
        n = pixels[key.removesuffix('.running_var')]
        kept = 0.9**STEPS * started[key]
        value = kept + (value - kept) * (n - 1) / n
      after[key] = seeded.fingerprint(key, value)
  return {**found, 'after': after}


def main() -> None:
  torch.use_deterministic_algorithms(True)
  record = {
    'command': COMMAND,
    'torch': torch.__version__,
    'numpy': np.__version__,
    'sgd': SGD,
    'state_dicts': {name: state_dict_digest(name) for name in REGISTERED},
    'models': {
      name: compute(name, model, size)
      for name, (model, size) in members().items()
    },
  }
  text = json.dumps(record, indent=0)
  (HERE / 'models.json').write_text(text + '\n')


if __name__ == '__main__':
  main()
