# SPDX-License-Identifier: Apache-2.0
"""A small bank of soft targets, with absent rows, and what refuses it."""

import numpy as np
import pytest

from srdl_jax import errors, soft_targets

N, K, T = 10, 3, 3.0
SIZE = {'num_examples': N, 'num_classes': K}
# With chunks of four rows one chunk, 4 to 7, has no row at all.
ROWS = np.array([0, 1, 2, 8, 9])
MADE = {
  'dataset': 'cifar100',
  'split': 'train',
  'rows': 'sha256:12',
  'step': 7,
  'rate': 0.1,
  'subset': None,
  'name': 'Ünit',
}
LOGITS = np.random.default_rng(0).normal(size=(N, K)).astype(np.float32) * 4


def blocks_of(rows=ROWS, size=2, logits=LOGITS):
  for start in range(0, len(rows), size):
    part = np.asarray(rows[start : start + size])
    yield part, logits[part]


def save(folder, blocks=None, **changed):
  options = SIZE | {
    'temperature': T,
    'provenance': MADE,
    'expected_rows': ROWS,
  }
  blocks = blocks_of() if blocks is None else blocks
  soft_targets.save(folder, blocks, **options | changed)


def load(folder, **changed):
  return soft_targets.load(folder, **SIZE | {'provenance': MADE} | changed)


def refusal(call, *args, **options):
  with pytest.raises(errors.SoftTargetsError) as caught:
    call(*args, **options)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def files_of(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }
