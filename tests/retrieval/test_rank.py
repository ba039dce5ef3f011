# SPDX-License-Identifier: Apache-2.0
"""The command that evaluates a file of features."""

import json
import pathlib
import sys

import numpy as np
import odd_arrays
import pytest
import started

from srdl_jax import rank, retrieval
from srdl_jax.errors import ConfigError, DataError
from srdl_jax.retrieval import ReRanking, montage, pool_queries
from srdl_jax.retrieval import arrays as arrays_lib

ROOT = pathlib.Path(__file__).parents[2]


def made():
  """Features around ten people's; the second person's aren't in the gallery."""
  rng = np.random.default_rng(0)
  centres = rng.standard_normal((10, 8))

  def side(ids):
    features = centres[ids] + 0.6 * rng.standard_normal((len(ids), 8))
    # Not negative, as features behind a rectifier are.
    return np.abs(features), ids, rng.integers(1, 4, len(ids))

  names = ('query', 'gallery', 'multi_query')
  counts = (12, 80, 200)
  arrays = {}
  for name, count in zip(names, counts, strict=True):
    ids = rng.permutation(np.arange(count) % 10)
    if name == 'gallery':
      ids = np.where(ids == 1, -1, ids)
    arrays[name], arrays[f'{name}_ids'], arrays[f'{name}_cameras'] = side(ids)
  shades = np.arange(80, dtype=np.uint8)[:, None, None, None]
  arrays['gallery_images'] = np.broadcast_to(shades, (80, 8, 4, 3))
  arrays['query_images'] = arrays['gallery_images'][:12]
  return arrays


ARRAYS = made()
SIDES = {
  name: ARRAYS[name]
  for name in ('query', 'gallery', 'query_ids', 'gallery_ids')
} | {name: ARRAYS[name] for name in ('query_cameras', 'gallery_cameras')}


def saved(path, **changes):
  """Writes the arrays but for those that are None."""
  arrays = {**ARRAYS, **changes}
  np.savez(path, **{n: a for n, a in arrays.items() if a is not None})
  return path


def numbers(**changes):
  """What evaluate_features says of the arrays, with some replaced."""
  return retrieval.evaluate_features(**{**SIDES, **changes}).numbers()


OPTIONS = {'metric': 'euclidean', 'multi_query': None, 're_rank': False}


def test_the_command_prints_ranks_both_maps_and_counts(tmp_path):
  picture = tmp_path / 'first.png'
  ran = started.run(
    [
      *(sys.executable, '-m', 'srdl_jax.rank'),
      f'--features={saved(tmp_path / "f.npz")}',
      f'--montage={picture}',
      '--montage_queries=2',
      '--metric=cosine',
    ],
    cwd=ROOT,
  )
  assert ran.returncode == 0, ran.stderr
  (line,) = ran.stdout.splitlines()
  printed = json.loads(line)
  assert printed == {
    **numbers(metric='cosine'),
    **OPTIONS,
    'metric': 'cosine',
  }
  assert list(printed)[:6] == [
    'rank_1_accuracy',
    'rank_5_accuracy',
    'rank_10_accuracy',
    'rank_20_accuracy',
    'map',
    'map_trapezoid',
  ]
  # Two of twelve queries look for the second person: 1 and 11.
  assert printed['valid_queries'] + printed['skipped_queries'] == 12
  assert printed['skipped_queries'] == 2
  assert (printed['gallery_items'], printed['junk_removed']) == (72, 8)
  assert picture.read_bytes().startswith(b'\x89PNG')


def test_the_command_says_in_one_line_what_is_wrong(tmp_path):
  ran = started.python(
    '-m', 'srdl_jax.rank', f'--features={tmp_path / "none.npz"}'
  )
  assert ran.returncode == DataError.exit_code
  assert ran.stdout == ''
  (line,) = ran.stderr.splitlines()
  assert line.startswith('error: ') and 'none.npz' in line


@pytest.mark.parametrize('how', ['average', 'max'])
def test_multi_query_pools_images_of_the_query(tmp_path, how):
  path = saved(tmp_path / 'f.npz')
  query, *_ = pool_queries(
    ARRAYS['multi_query'],
    ARRAYS['multi_query_ids'],
    ARRAYS['multi_query_cameras'],
    how,
    query_ids=ARRAYS['query_ids'],
    query_cameras=ARRAYS['query_cameras'],
  )
  found = rank.rank(path, multi_query=how)
  expected = numbers(query=query, metric='cosine')
  assert found == {
    **expected,
    'metric': 'cosine',
    'multi_query': how,
    're_rank': False,
  }


def test_averaged_queries_find_more(tmp_path):
  path = saved(tmp_path / 'f.npz')
  single = rank.rank(path, metric='cosine')
  assert rank.rank(path, multi_query='average')['map'] > single['map'] + 0.1


def test_multi_query_without_cameras_pools_by_identity(tmp_path):
  path = saved(
    tmp_path / 'f.npz',
    **dict.fromkeys(arrays_lib.CAMERAS),
    multi_query_cameras=None,
  )
  query, *_ = pool_queries(
    ARRAYS['multi_query'],
    ARRAYS['multi_query_ids'],
    query_ids=ARRAYS['query_ids'],
  )
  none = dict.fromkeys(arrays_lib.CAMERAS)
  expected = numbers(query=query, metric='cosine', **none)
  assert rank.rank(path, multi_query='average').items() >= expected.items()


def test_re_ranking_is_asked_for(tmp_path):
  found = rank.rank(saved(tmp_path / 'f.npz'), re_rank=True)
  assert found == {
    **numbers(re_rank=ReRanking()),
    **OPTIONS,
    're_rank': True,
  }
  assert found['map'] != numbers()['map']


def test_a_folder_of_arrays_is_read_as_a_file_is(tmp_path):
  for name, array in ARRAYS.items():
    np.save(tmp_path / f'{name}.npy', array)
  (tmp_path / 'notes.txt').write_text('not an array')
  assert rank.rank(tmp_path) == {**numbers(), **OPTIONS}


def test_a_montage_shows_queries_from_first_to_last(tmp_path, monkeypatch):
  shown = []
  monkeypatch.setattr(
    montage, 'montage', lambda *arguments: shown.append(arguments)
  )
  path = saved(tmp_path / 'f.npz')
  for count in (1, 3, 99):
    rank.rank(path, montage_file=tmp_path / 'x.png', montage_queries=count)
  expected = retrieval.nearest(**SIDES)
  chosen = [[0], [0, 5, 11], list(range(12))]
  for (file, queries, gallery, rankings), rows in zip(
    shown, chosen, strict=True
  ):
    assert file == tmp_path / 'x.png'
    assert (len(queries), len(gallery)) == (12, 80)
    assert list(rankings) == rows
    for row, ranking in rankings.items():
      assert ranking.items.tolist() == expected[row].items.tolist()
      assert ranking.right.tolist() == expected[row].right.tolist()


@pytest.mark.parametrize(
  ('changes', 'options', 'error', 'text'),
  [
    ({'gallery': None}, {}, DataError, 'f.npz: gallery missing; there are'),
    (
      {'multi_query_ids': None},
      {'multi_query': 'max'},
      DataError,
      '--multi_query: multi_query_ids missing',
    ),
    (
      {'query_images': None},
      {'montage_file': pathlib.Path('x.png')},
      DataError,
      '--montage: query_images missing',
    ),
    (
      {'gallery_images': ARRAYS['query_images']},
      {'montage_file': pathlib.Path('x.png')},
      DataError,
      'gallery 80, gallery_images 12',
    ),
    ({'gallery_cameras': None}, {}, ConfigError, 'cameras of both sides'),
    (
      {},
      {'multi_query': 'max', 'metric': 'euclidean'},
      ConfigError,
      'takes --metric=cosine',
    ),
    (
      {'query': np.array([[{}]], object)},
      {},
      DataError,
      'f.npz is no .npz file of plain arrays',
    ),
    (
      {'query': np.full((12, 8), np.nan)},
      {},
      DataError,
      'query features: row 0 holds NaN',
    ),
  ],
)
def test_bad_features_are_refused(
  tmp_path, monkeypatch, changes, options, error, text
):
  monkeypatch.chdir(tmp_path)
  path = saved(tmp_path / 'f.npz', **changes)
  with pytest.raises(error, match=text) as raised:
    rank.rank(path, **options)
  assert '\n' not in str(raised.value)
  assert [file.name for file in tmp_path.iterdir()] == ['f.npz']


@pytest.mark.parametrize('kind', [*odd_arrays.DAMAGES, *odd_arrays.SHAPES])
def test_odd_files_are_refused_in_a_line(tmp_path, kind):
  path = saved(tmp_path / 'f.npz')
  if kind in odd_arrays.DAMAGES:
    odd = odd_arrays.DAMAGES[kind](path.read_bytes())
    pattern = 'f.npz is no .npz file of plain arrays, or is damaged: '
  else:
    odd = odd_arrays.shaped(path.read_bytes(), odd_arrays.SHAPES[kind])
    pattern = 'features are|ids: |gallery: '
  path.write_bytes(odd)
  for options in ({}, {'multi_query': 'max'}):
    with pytest.raises(DataError, match=pattern) as told:
      rank.rank(path, **options)
    assert '\n' not in str(told.value) and len(str(told.value)) < 500


@pytest.mark.parametrize('kind', odd_arrays.SHAPES)
@pytest.mark.parametrize(
  'name',
  ['query_ids', 'gallery_cameras', 'multi_query_ids', 'multi_query_cameras'],
)
def test_odd_identities_are_refused_in_a_line(tmp_path, name, kind):
  path = saved(tmp_path / 'f.npz', **{name: odd_arrays.SHAPES[kind]})
  with pytest.raises(DataError, match='needed') as told:
    rank.rank(path, multi_query='average')
  assert '\n' not in str(told.value)


def test_odd_images_are_refused_in_a_line(tmp_path):
  path = saved(tmp_path / 'f.npz', gallery_images=np.uint8(1))
  with pytest.raises(DataError, match='gallery_images: one for each image'):
    rank.rank(path, montage_file=tmp_path / 'x.png')


def test_numbers_beyond_int64_are_no_junk(tmp_path):
  ids = ARRAYS['gallery_ids'].astype(np.uint64)
  ids[3] = 2**64 - 1
  path = saved(tmp_path / 'f.npz', gallery_ids=ids)
  with pytest.raises(DataError, match='gallery_ids: 18446744073709551615 is'):
    rank.rank(path)


def test_orders_of_bytes_and_axes_change_nothing(tmp_path):
  changes = {
    name: np.asfortranarray(value.astype(value.dtype.newbyteorder('>')))
    for name, value in ARRAYS.items()
  }
  plain = rank.rank(saved(tmp_path / 'plain.npz'), multi_query='max')
  assert rank.rank(saved(tmp_path / 'f.npz', **changes), multi_query='max') == (
    plain
  )


@pytest.mark.parametrize('kind', ['archive', 'objects', 'cut short'])
def test_odd_arrays_of_a_folder_are_refused_in_a_line(tmp_path, kind):
  for name, value in SIDES.items():
    np.save(tmp_path / f'{name}.npy', value)
  file = tmp_path / 'query.npy'
  if kind == 'archive':
    file.write_bytes(saved(tmp_path / 'f.npz').read_bytes())
  elif kind == 'objects':
    np.save(file, np.array([{}]), allow_pickle=True)
  else:
    file.write_bytes(file.read_bytes()[:-9])
  with pytest.raises(DataError, match='of plain arrays, or is damaged') as told:
    rank.rank(tmp_path)
  assert '\n' not in str(told.value)


def test_damaged_files_are_refused(tmp_path):
  path = saved(tmp_path / 'f.npz')
  content = path.read_bytes()
  broken = bytearray(content)
  broken[len(content) // 2] ^= 1
  for bad in (b'', content[:-30], bytes(broken), b'no arrays'):
    path.write_bytes(bad)
    with pytest.raises(DataError, match='no .npz file of plain arrays'):
      rank.rank(path)
  np.save(tmp_path / 'one.npy', np.ones(3))
  with pytest.raises(DataError, match='no .npz file'):
    rank.rank(tmp_path / 'one.npy')
  empty = tmp_path / 'empty'
  empty.mkdir()
  with pytest.raises(DataError, match='missing; there are no arrays'):
    rank.rank(empty)
