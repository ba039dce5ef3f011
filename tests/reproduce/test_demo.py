# SPDX-License-Identifier: Apache-2.0
"""The first minute: its rows, its table, and all of it."""

import json
import os
import re
import sys
import types

import pytest
import started

from srdl_jax.reproduce import arena, demo, scales

ROWS = scales.rows(demo.TABLE, demo.SCALE)


def made(accuracy, nll, memorised=None):
  noise = {} if memorised is None else {'memorised': memorised}
  return types.SimpleNamespace(
    final={'accuracy': accuracy, 'nll': nll},
    stages=[types.SimpleNamespace(noise=noise)],
  )


def test_rows_cost_the_same_but_for_the_control():
  assert len(ROWS) == 8
  costs = {row.name.partition(', ')[2]: demo._work(row.setting) for row in ROWS}
  vanilla, half, *others = costs.values()
  assert half == pytest.approx(vanilla / 2)
  # A pass that predicts costs a third of an epoch, and an epoch in TrCost.
  assert others == pytest.approx([vanilla] * 2, rel=1 / 24 + 1e-9)
  assert list(costs)[:2] == [arena.VANILLA, arena.HALF]


def test_other_tables_have_no_rows_of_it():
  assert not scales.rows('table1', demo.SCALE)


def test_the_table_pairs_by_seed():
  runs = {}
  for row in ROWS:
    clean = 'wrong' not in row.group
    shift = 0.01 * [r.name for r in ROWS].index(row.name)
    runs[row] = {
      seed: made(0.5 + shift + 0.1 * seed, 1.0, None if clean else 0.25)
      for seed in range(3)
    }
  lines = demo.table(ROWS, runs).splitlines()
  assert all(len(line) <= 80 for line in lines)
  assert len(lines) == 2 * (3 + 4)
  # Means of 0.53, 0.63, 0.73; three seeds that differ alike: no spread.
  found = ' '.join(lines[6].split())
  assert found == 'SRDL 63.0 % 1.00 +3.0 ± 0.0 +2.0 ± 0.0'
  assert lines[3].split() == ['vanilla', '60.0', '%', '1.00']
  assert lines[-1].endswith('25 %')


@pytest.mark.slow
def test_one_command_shows_whether_it_helps(tmp_path):
  call = [sys.executable, '-m', 'srdl_jax', 'demo', '--workdir=demo']
  told = started.run(call, cwd=tmp_path, env=_env(), check=True)
  rows = re.findall(r'^  (vanilla|label smoothing|SRDL)', told.stdout, re.M)
  assert len(rows) == 8 and (tmp_path / 'demo/report.html').exists()
  run = re.search(r'srdl evaluate --workdir=(\S+) --details', told.stdout)[1]
  assert (tmp_path / run / 'model.json').exists()
  record = json.loads((tmp_path / run / 'config.json').read_text())['config']
  assert (record['method'], record['data.label_noise']) == ('srdl', 0)
  # Again: all is there.
  again = started.run(call, cwd=tmp_path, env=_env(), check=True)
  assert again.stdout == told.stdout


def _env():
  # Without the flags of tests, which compile faster and run much slower.
  ours = {n: v for n, v in os.environ.items() if not n.startswith('XLA_')}
  return {**ours, 'PYTHONPATH': str(started.ROOT)}
