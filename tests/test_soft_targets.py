# SPDX-License-Identifier: Apache-2.0
"""The bank reads back as it was written, by example index, or not at all."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_bank import (
  LOGITS,
  MADE,
  ROWS,
  K,
  N,
  T,
  blocks_of,
  files_of,
  load,
  refusal,
  save,
)

from srdl_jax import errors, soft_targets
from srdl_jax.runs import bank as bank_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The place of a bank, whose chunks are of four rows."""
  monkeypatch.setattr(bank_files, '_CHUNK_ROWS', 4)
  return tmp_path / 'stage_1' / 'soft_targets'


def test_eq5_closed_form():
  # p = (1/4, 3/4) at T = 1; at T = 2 it is (1, sqrt 3) / (1 + sqrt 3).
  logits = np.array([[0.0, np.log(3)]])
  np.testing.assert_allclose(
    np.exp(soft_targets.soften(logits, 1.0)), [[0.25, 0.75]], rtol=1e-6
  )
  root = np.sqrt(3)
  np.testing.assert_allclose(
    np.exp(soft_targets.soften(logits, 2.0)),
    [[1 / (1 + root), root / (1 + root)]],
    rtol=1e-6,
  )


@pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0, 1e6])
def test_soften_agrees_with_jax(temperature):
  soft = soft_targets.soften(LOGITS, temperature)
  assert soft.dtype == np.float32
  np.testing.assert_allclose(
    soft, jax.nn.log_softmax(LOGITS / temperature), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('shift', [0.0, 1e4, -1e4, 1e30])
def test_soften_is_stable(shift):
  logits = np.array([[0.0, 0.0, -60.0]]) + shift
  soft = soft_targets.soften(logits, 1.0)
  third = np.log(1 / 3) if shift == 1e30 else -60 - np.log(2)
  assert soft[0, 2] == pytest.approx(third, rel=1e-6)
  assert np.exp(soft, dtype=np.float64).sum() == pytest.approx(1, abs=1e-6)


def test_soften_computes_in_float64():
  # In float32 4096.0001 is 4096, so the two classes would be equal.
  soft = soft_targets.soften(np.array([[4096.0001, 4096.0]]), 1e-4)
  assert soft[0, 1] - soft[0, 0] == pytest.approx(-1, rel=1e-4)


def test_targets_are_valid_logits_at_their_temperature():
  soft = soft_targets.soften(LOGITS, T)
  np.testing.assert_allclose(
    jax.nn.softmax(soft), jax.nn.softmax(LOGITS / T), rtol=1e-5
  )


@pytest.mark.parametrize('kind', ['numpy', 'jax', 'jit'])
@pytest.mark.parametrize('temperature', [1.0, 3.0, 20.0])
def test_other_temperatures_follow(kind, temperature):
  soft = soft_targets.soften(LOGITS, T)

  def convert(array):
    return soft_targets.at_temperature(array, T, temperature)

  found = {
    'numpy': lambda: convert(soft),
    'jax': lambda: convert(jnp.asarray(soft)),
    'jit': lambda: jax.jit(convert)(soft),
  }[kind]()
  assert isinstance(found, np.ndarray if kind == 'numpy' else jax.Array)
  assert found.dtype == np.float32
  np.testing.assert_allclose(
    found, soft_targets.soften(LOGITS, temperature), rtol=1e-5, atol=1e-6
  )


def test_other_temperature_of_float16_is_normalised_in_float32():
  half = soft_targets.soften(LOGITS, T).astype(np.float16)
  found = soft_targets.at_temperature(half, T, T)
  assert found.dtype == np.float32
  np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-6)


def test_absent_rows_stay_absent_at_other_temperatures():
  soft = soft_targets.soften(LOGITS, T)
  soft[3] = np.nan
  found = soft_targets.at_temperature(soft, T, 1.0)
  np.testing.assert_array_equal(np.isnan(found).any(axis=1), np.arange(10) == 3)


@pytest.mark.parametrize(
  'temperature', [0, -1.0, float('nan'), float('inf'), -float('inf')]
)
def test_impossible_temperature_is_a_config_error(tmp_path, temperature):
  for call in (
    lambda: soft_targets.soften(LOGITS, temperature),
    lambda: soft_targets.at_temperature(LOGITS, temperature, 1.0),
    lambda: soft_targets.at_temperature(LOGITS, 1.0, temperature),
    lambda: save(tmp_path / 'bank', temperature=temperature),
  ):
    with pytest.raises(errors.ConfigError, match='temperature'):
      call()
  assert os.listdir(tmp_path) == []


def test_row_is_example_of_the_full_split(folder):
  assert not soft_targets.is_complete(folder)
  save(folder)
  assert soft_targets.is_complete(folder)
  bank = load(folder)
  np.testing.assert_array_equal(
    bank.log_probs_NxK[ROWS], soft_targets.soften(LOGITS, T)[ROWS]
  )
  assert np.flatnonzero(bank.present_N).tolist() == ROWS.tolist()
  assert np.isnan(bank.log_probs_NxK[[3, 4, 5, 6, 7]]).all()
  assert (bank.temperature, bank.provenance) == (T, MADE)
  assert bank.log_probs_NxK.dtype == np.float32
  assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize('size', [1, 3, 5])
def test_order_and_size_of_blocks_change_no_bit(folder, tmp_path, size):
  rows = np.random.default_rng(size).permutation(ROWS)
  save(folder, blocks_of(rows, size))
  save(tmp_path / 'ordered')
  assert files_of(folder) == files_of(tmp_path / 'ordered')


def test_bank_of_other_rows_is_another_bank(folder, tmp_path):
  save(folder)
  swapped = LOGITS[[1, 0, *range(2, N)]]
  save(tmp_path / 'swapped', blocks_of(logits=swapped))
  bank, other = load(folder), load(tmp_path / 'swapped')
  np.testing.assert_array_equal(
    bank.log_probs_NxK[[0, 1]], other.log_probs_NxK[[1, 0]]
  )
  assert not np.array_equal(bank.log_probs_NxK[0], other.log_probs_NxK[0])


def test_chunks_of_the_usual_size(tmp_path):
  logits = np.random.default_rng(1).normal(size=(2500, 4))
  rows = np.arange(2500)
  options = {'num_examples': 2500, 'num_classes': 4, 'expected_rows': rows}
  save(tmp_path / 'bank', blocks_of(rows, 390, logits), **options)
  del options['expected_rows']
  bank = load(tmp_path / 'bank', **options)
  np.testing.assert_array_equal(
    bank.log_probs_NxK, soft_targets.soften(logits, T)
  )


def test_float16_is_rounding_only(folder):
  save(folder, dtype='float16')
  bank = load(folder)
  assert bank.log_probs_NxK.dtype == np.float16
  np.testing.assert_array_equal(
    bank.log_probs_NxK[ROWS],
    soft_targets.soften(LOGITS, T)[ROWS].astype(np.float16),
  )


def test_unknown_dtype_is_a_config_error(folder):
  with pytest.raises(errors.ConfigError, match="'bfloat16'"):
    save(folder, dtype='bfloat16')


def test_jax_arrays_and_lists_are_taken(folder):
  blocks = [
    (jnp.asarray(ROWS[:2]), jnp.asarray(LOGITS[ROWS[:2]], jnp.bfloat16)),
    (ROWS[2:].tolist(), LOGITS[ROWS[2:]].tolist()),
    (np.zeros(0, int), np.zeros((0, K))),
  ]
  save(folder, blocks, expected_rows=ROWS.tolist())
  rounded = np.asarray(jnp.asarray(LOGITS, jnp.bfloat16), np.float32)
  np.testing.assert_array_equal(
    load(folder).log_probs_NxK[:2], soft_targets.soften(rounded, T)[:2]
  )


def test_loaded_bank_cannot_be_written(folder):
  save(folder)
  with pytest.raises(ValueError, match='read-only'):
    load(folder).log_probs_NxK[0] = 0


def _one(row, value=0.0):
  return np.array([row]), np.full((1, K), value)


_ONE_BAD = np.where(np.arange(15).reshape(5, 3) == 10, np.nan, 0.0)


@pytest.mark.parametrize(
  ('blocks', 'reason'),
  [
    ([], '5 of 5 expected rows were not predicted, the first is row 0'),
    ([*blocks_of(ROWS[:4])], '1 of 5 .* the first is row 9'),
    ([*blocks_of(), _one(8)], 'row 8 was predicted more than once'),
    ([*blocks_of([0, 1, 1])], 'row 1 was predicted more than once'),
    ([*blocks_of([2, 1, 2], 3)], 'row 2 was predicted more than once'),
    ([*blocks_of(ROWS[:3]), _one(3)], 'row 3 is not an expected row'),
    ([_one(-1)], 'row -1 is not an expected row'),
    ([_one(N)], 'row 10 is not an expected row'),
    ([_one(1, np.nan)], 'row 1: a logit is not finite'),
    ([_one(1, np.inf)], 'row 1: a logit is not finite'),
    ([_one(1, -np.inf)], 'row 1: a logit is not finite'),
    ([(ROWS, _ONE_BAD)], 'row 8: a logit is not finite'),
    ([(np.array([0.0]), np.zeros((1, K)))], 'rows are float64'),
    ([(np.array([True]), np.zeros((1, K)))], 'rows are bool'),
    ([(np.array([[0]]), np.zeros((1, K)))], r'rows are int64 \(1, 1\)'),
    ([(np.array([0]), np.zeros((1, K + 1)))], r'shape \(1, 4\)'),
    ([(np.array([0]), np.zeros((2, K)))], r'shape \(2, 3\)'),
    ([(np.array([0]), np.zeros(K))], r'shape \(3,\)'),
  ],
)
def test_wrong_blocks_are_refused_and_change_nothing(folder, blocks, reason):
  with pytest.raises(errors.SoftTargetsError, match=reason):
    save(folder, blocks)
  assert not folder.parent.exists()
  save(folder, provenance=MADE | {'step': 6})
  before = files_of(folder)
  with pytest.raises(errors.SoftTargetsError, match=reason):
    save(folder, blocks)
  assert files_of(folder) == before
  assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize(
  ('dtype', 'gap'), [('float16', 3e5), ('float32', 1e308)]
)
def test_softened_logit_out_of_range_is_refused(folder, dtype, gap):
  logits = LOGITS.astype(np.float64)
  logits[8, 1] = -gap
  told = refusal(save, folder, blocks_of(logits=logits), dtype=dtype)
  assert f'row 8: a softened logit, as {dtype}, is not finite' in told


@pytest.mark.parametrize(
  ('rows', 'reason'),
  [
    ([0, 1, 1], 'an expected row is given twice'),
    ([0, N], 'expected rows are not in 0 … 9'),
    ([-1], 'expected rows are not in 0 … 9'),
    (np.zeros(0, int), 'expected rows are not in 0 … 9'),
    (np.ones(N, bool), 'expected rows are bool'),
    ([[0]], 'expected rows are int64'),
  ],
)
def test_wrong_expected_rows_are_refused(folder, rows, reason):
  assert reason in refusal(save, folder, expected_rows=rows)


@pytest.mark.parametrize('value', [object(), float('nan'), np.float32(1)])
def test_provenance_that_is_not_json_is_refused(folder, value):
  told = refusal(save, folder, provenance={'step': value})
  assert 'provenance is not JSON' in told


@pytest.mark.parametrize(
  ('asked', 'told'),
  [
    ({'split': 'test'}, ['split is "train", not "test"']),
    (
      {'step': 8, 'rate': 0.2},
      ['rate is 0.1, not 0.2', 'step is 7, not 8'],
    ),
    ({'more': None}, ['more is absent, not null']),
    ({'subset': 0}, ['subset is null, not 0']),
    ({'name': 'Unit'}, ['name is "\\u00dcnit", not "Unit"']),
  ],
)
def test_foreign_bank_names_each_difference(folder, asked, told):
  save(folder)
  text = refusal(load, folder, provenance=MADE | asked)
  assert text.endswith('made of something else: ' + '; '.join(told))


def test_bank_with_more_provenance_than_asked_is_foreign(folder):
  save(folder)
  asked = {key: value for key, value in MADE.items() if key != 'step'}
  assert 'step is 7, not absent' in refusal(load, folder, provenance=asked)


@pytest.mark.parametrize(
  'size', [{'num_examples': N + 1}, {'num_classes': K - 1}]
)
def test_bank_of_another_shape_is_refused(folder, size):
  save(folder)
  assert 'shape (10, 3), where ' in refusal(load, folder, **size)
