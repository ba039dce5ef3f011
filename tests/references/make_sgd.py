# SPDX-License-Identifier: Apache-2.0
"""Makes sgd.json: the parameters that torch.optim.SGD arrives at.

    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy
    /tmp/torch/bin/python tests/references/make_sgd.py

Everything is a formula of an index, in float64, and nothing is random. The
loss, sum_i a_i w_i^2 / 2 + sin(b_i w_i), is small enough to be written down
again in the test: its gradient is a_i w_i + b_i cos(b_i w_i).
"""

import json
import pathlib

import torch

COMMAND = 'python tests/references/make_sgd.py'
RATES = [0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.1, 0.1, 0.05, 0.0, 0.02, 0.1]
CASES = [
  {'momentum': 0.9, 'weight_decay': 2e-4, 'nesterov': True},
  {'momentum': 0.9, 'weight_decay': 0.5, 'nesterov': True},
  {'momentum': 0.9, 'weight_decay': 0.5, 'nesterov': False},
  {'momentum': 0.0, 'weight_decay': 0.5, 'nesterov': False},
]


def follow(case: dict) -> list[list[float]]:
  """Returns the parameters after each step."""
  index = torch.arange(6, dtype=torch.float64)
  weights = torch.sin(1 + index).requires_grad_()
  curvature, frequency = 1 + index / 2, 2 - index / 3
  optimiser = torch.optim.SGD([weights], lr=RATES[0], **case)
  path = []
  for rate in RATES:
    optimiser.param_groups[0]['lr'] = rate
    optimiser.zero_grad()
    loss = (curvature * weights**2 / 2 + torch.sin(frequency * weights)).sum()
    loss.backward()
    optimiser.step()
    path.append(weights.detach().tolist())
  return path


def main() -> None:
  made = {
    'command': COMMAND,
    'torch': torch.__version__,
    'rates': RATES,
    'cases': [{**case, 'weights': follow(case)} for case in CASES],
  }
  path = pathlib.Path(__file__).with_name('sgd.json')
  path.write_text(json.dumps(made, indent=1) + '\n')


if __name__ == '__main__':
  main()
