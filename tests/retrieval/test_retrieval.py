# SPDX-License-Identifier: Apache-2.0
"""CMC, mAP and re-ranking against second writings, and derived by hand."""

import math

import numpy as np
import pytest

from srdl_jax import retrieval
from srdl_jax.errors import ConfigError, DataError
from srdl_jax.retrieval import (
  ReRanking,
  distances,
  evaluate_features,
  evaluate_ranking,
  pool_queries,
  re_ranking,
)

# A second writing: one query at a time, one item after the other.


def ranking(row, query, gallery):
  """(index, is a match) of what is left, in order; identity and camera each."""
  left = []
  for index, (identity, camera) in enumerate(gallery):
    own_camera = camera is not None and camera == query[1]
    if identity == -1 or (identity == query[0] and own_camera):
      continue
    # Plain numbers, which Python compares exactly.
    left.append((row[index].item(), index, identity == query[0]))
  return [(index, match) for _, index, match in sorted(left)]


def average_precisions(matches):
  """Both, by walking down the ranking as the curve is drawn."""
  total, found, mean, area = sum(matches), 0, 0.0, 0.0
  recall_before, precision_before = 0.0, 1.0
  for seen, match in enumerate(matches, start=1):
    found += match
    recall, precision = found / total, found / seen
    mean += precision / total if match else 0
    area += (recall - recall_before) * (precision_before + precision) / 2
    recall_before, precision_before = recall, precision
  return mean, area


def people_of(ids, cameras):
  """(identity, camera) of each image."""
  cameras = [None] * len(ids) if cameras is None else cameras
  return list(zip(ids, cameras, strict=True))


def brute_force(dist, query_ids, gallery_ids, query_cameras, gallery_cameras):
  """(mean precision, trapezoid, first match from 1) by query; None: skipped."""
  gallery = people_of(gallery_ids, gallery_cameras)
  results = []
  queries = people_of(query_ids, query_cameras)
  for row, query in zip(dist, queries, strict=True):
    matches = [match for _, match in ranking(row, query, gallery)]
    if not any(matches):
      results.append(None)
      continue
    results.append((*average_precisions(matches), matches.index(True) + 1))
  return results


def assert_same(result, expected, ranks=retrieval.RANKS):
  valid = [found for found in expected if found is not None]
  assert result.valid_queries == len(valid)
  assert result.skipped_queries == len(expected) - len(valid)
  for n, found in enumerate(expected):
    own = (
      result.average_precision[n],
      result.average_precision_trapezoid[n],
      result.first_match_rank[n],
    )
    if found is None:
      assert np.isnan(own[0]) and np.isnan(own[1]) and own[2] == 0
    else:
      assert own == pytest.approx(found, rel=1e-13)
      assert own[2] == found[2]
  assert list(result.cmc) == list(ranks)
  for rank, share in result.cmc.items():
    assert share == np.mean([first <= rank for *_, first in valid])
  for name, column in (('map', 0), ('map_trapezoid', 1)):
    mean = np.mean([found[column] for found in valid])
    assert getattr(result, name) == pytest.approx(mean, rel=1e-13)


def refusal(query_ids, gallery_ids):
  """What is to be said where no query is valid."""
  kept = set(gallery_ids.tolist()) - {-1}
  if not kept:
    return 'Nothing is left'
  known = kept & set(query_ids.tolist())
  return 'because of the ' + ('cameras' if known else 'identities')


def draw_people(rng):
  """Identities from -1 (junk) and 0 (distractors), cameras or None."""
  queries, items = rng.integers(1, 13), rng.integers(1, 41)
  people = rng.integers(1, 9)
  query_ids = rng.integers(0 if rng.random() < 0.2 else 1, people + 1, queries)
  gallery_ids = rng.integers(-1, people + 1, items)
  if rng.random() < 0.1:
    gallery_ids = rng.integers(-1, 1, items)
  if rng.random() < 0.2:
    return query_ids, gallery_ids, None, None
  cameras = rng.integers(1, 5)
  return (
    query_ids,
    gallery_ids,
    rng.integers(0, cameras, queries),
    rng.integers(0, cameras, items),
  )


def draw_distances(rng, shape):
  """Ties, both zeros, neighbours in the last bit, infinities, any real type."""
  dtype = rng.choice(['f2', 'f4', 'f8', 'i4', 'u1'])
  if dtype in ('i4', 'u1'):
    return rng.integers(0, rng.choice([2, 200]), shape).astype(dtype)
  one, tiny = np.ones(2, dtype), np.finfo(dtype).smallest_subnormal
  values = [
    0.0,
    -0.0,
    tiny,
    -tiny,
    1.0,
    np.nextafter(one, 2 * one)[0],
    np.nextafter(one, 0 * one)[0],
    3.5,
    np.inf,
    -np.inf,
  ]
  if rng.random() < 0.3:
    values = rng.standard_normal(1000)
  return rng.choice(np.array(values, dtype), shape)


@pytest.mark.parametrize('seed', range(8))
def test_random_rankings_are_those_of_the_second_writing(seed):
  rng = np.random.default_rng([6, seed])
  refused = skipped = 0
  for _ in range(60):
    people = draw_people(rng)
    dist = draw_distances(rng, (len(people[0]), len(people[1])))
    expected = brute_force(dist, *people)
    if not any(expected):
      refused += 1
      with pytest.raises(DataError, match=refusal(*people[:2])):
        evaluate_ranking(dist, *people)
      continue
    result = evaluate_ranking(dist, *people)
    assert_same(result, expected)
    assert result.junk_removed == (people[1] == -1).sum()
    assert result.gallery_items == (people[1] != -1).sum()
    skipped += result.skipped_queries
  assert refused and skipped


@pytest.mark.parametrize('metric', ['euclidean', 'cosine'])
@pytest.mark.parametrize('seed', range(3))
def test_random_features_are_those_of_the_second_writing(metric, seed):
  rng = np.random.default_rng([7, seed])
  for _ in range(25):
    people = draw_people(rng)
    shapes = [(len(ids), 4) for ids in people[:2]]
    if metric == 'euclidean':
      # Squared distances of small integers are exact, and often equal.
      query, gallery = (rng.integers(-2, 3, shape) for shape in shapes)
      dist = ((query[:, None] - gallery[None]) ** 2).sum(axis=2)
    else:
      # One of four coordinates isn't zero: cosines are -1, 0 or 1.
      query, gallery = (
        rng.choice([-2.0, 4.0], (len(ids), 1))
        * np.eye(4)[rng.integers(0, 4, len(ids))]
        for ids in people[:2]
      )
      dist = -np.sign(query) @ np.sign(gallery).T
    expected = brute_force(dist, *people)
    if any(expected):
      result = evaluate_features(query, gallery, *people, metric=metric)
      assert_same(result, expected)


def test_ranks_are_any_positive_integers():
  rng = np.random.default_rng(0)
  dist, ids = rng.random((9, 30)), np.arange(30) % 6
  ranks = (7, 1, np.int64(2), 100)
  result = evaluate_ranking(dist, ids[:9], ids, ranks=ranks)
  assert_same(result, brute_force(dist, ids[:9], ids, None, None), ranks)
  assert result.cmc[100] == 1


# Derived by hand.


def one_query(matches, **options):
  """A query of identity 1 whose ranking has matches as given."""
  ids = np.where(matches, 1, 2)
  dist = np.arange(len(ids), dtype=np.float32)[None]
  return evaluate_ranking(dist, [1], ids, **options)


@pytest.mark.parametrize(
  ('matches', 'mean', 'trapezoid'),
  [
    ([1], 1, 1),
    ([1, 0, 0], 1, 1),
    # Precision at the match is 1/2, just before it 0: (0 + 1/2) / 2.
    ([0, 1], 1 / 2, 1 / 4),
    # At the third item: 1/3; before it 0/2.
    ([0, 0, 1], 1 / 3, 1 / 6),
    # Matches at 1 and 3: precisions 1 and 2/3. Trapezoids: (1 + 1) / 2, then
    # (1/2 + 2/3) / 2 = 7/12; each over a recall of 1/2.
    ([1, 0, 1, 0], 5 / 6, 19 / 24),
    # Matches at 2 and 3: 1/2 and 2/3; (0 + 1/2) / 2 and (1/2 + 2/3) / 2.
    ([0, 1, 1], 7 / 12, (1 / 4 + 7 / 12) / 2),
    ([1, 1, 1], 1, 1),
  ],
)
def test_both_average_precisions_by_hand(matches, mean, trapezoid):
  result = one_query(matches)
  assert result.map == pytest.approx(mean, rel=1e-15)
  assert result.map_trapezoid == pytest.approx(trapezoid, rel=1e-15)
  assert result.first_match_rank.tolist() == [matches.index(1) + 1]


def test_cmc_by_hand():
  # First matches at 1, 2, 5 and 3 of five items each.
  ids = np.array([1, 2, 2, 4, 3])
  dist = np.arange(5.0)[None].repeat(4, axis=0)
  result = evaluate_ranking(dist, [1, 2, 3, 2], ids, ranks=(1, 2, 4, 5, 20))
  # The query of identity 1 has it at 1, of 2 at 2 (twice), of 3 at 5.
  assert result.first_match_rank.tolist() == [1, 2, 5, 2]
  assert result.cmc == {1: 0.25, 2: 0.75, 4: 0.75, 5: 1, 20: 1}


def test_cmc_holds_its_last_value_where_fewer_items_remain_than_ranks():
  result = one_query([0, 1], ranks=(1, 2, 3, 50))
  assert result.cmc == {1: 0, 2: 1, 3: 1, 50: 1}


def test_junk_and_the_own_camera_are_removed_and_distractors_stay():
  # By distance: junk, the own camera's, a distractor, a match, another person.
  ids, cameras = np.array([-1, 1, 0, 1, 2]), np.array([1, 3, 3, 1, 3])
  dist = np.arange(5.0)[None]
  result = evaluate_ranking(dist, [1], ids, [3], cameras)
  # Distractor, match: precision 1/2.
  assert (result.first_match_rank[0], result.map) == (2, 0.5)
  assert (result.gallery_items, result.junk_removed) == (4, 1)
  # Without cameras the second item is a match: 1 and 2/3.
  assert evaluate_ranking(dist, [1], ids).map == pytest.approx(5 / 6)


def test_skipped_queries_count_in_no_mean():
  # The second query's identity isn't there; the third's is under its camera.
  ids, cameras = np.array([2, 1, 3]), np.array([1, 1, 2])
  dist = np.arange(3.0)[None].repeat(3, axis=0)
  result = evaluate_ranking(dist, [1, 9, 3], ids, [2, 2, 2], cameras)
  assert (result.valid_queries, result.skipped_queries) == (1, 2)
  assert (result.map, result.cmc[1], result.cmc[5]) == (0.5, 0, 1)
  assert result.first_match_rank.tolist() == [2, 0, 0]


@pytest.mark.parametrize(('order', 'rank'), [([1, 2], 1), ([2, 1], 2)])
@pytest.mark.parametrize('pair', [(0.0, 0.0), (0.0, -0.0), (-0.0, 0.0)])
def test_equal_distances_stand_in_the_order_of_the_gallery(order, rank, pair):
  result = evaluate_ranking(np.array([pair]), [1], order)
  assert result.first_match_rank.tolist() == [rank]


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_distances_that_differ_in_the_last_bit_differ(dtype):
  one = np.array([1], dtype)
  above = np.nextafter(one, 2 * one)[0]
  result = evaluate_ranking(np.array([[above, 1]], dtype), [1], [2, 1])
  assert result.first_match_rank.tolist() == [1]


def test_numbers_are_for_json():
  numbers = one_query([0, 1], ranks=(1, 5)).numbers()
  assert numbers == {
    'rank_1_accuracy': 0,
    'rank_5_accuracy': 1,
    'map': 0.5,
    'map_trapezoid': 0.25,
    'valid_queries': 1,
    'skipped_queries': 0,
    'gallery_items': 2,
    'junk_removed': 0,
  }


# Blocks.


def people(count, seed=0):
  """Features around 20 people's, identities, cameras."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, 20, count)
  centres = np.random.default_rng(9).standard_normal((20, 16))
  features = centres[ids] + rng.standard_normal((count, 16))
  return features.astype(np.float32), ids, rng.integers(0, 3, count)


def per_query(result):
  return np.stack(
    [
      result.average_precision,
      result.average_precision_trapezoid,
      result.first_match_rank,
    ]
  )


@pytest.mark.parametrize('metric', ['euclidean', 'cosine'])
def test_how_queries_are_divided_changes_no_bit(metric):
  query, query_ids, query_cameras = people(300)
  gallery, ids, cameras = people(2100, seed=1)

  def of(rows):
    return per_query(
      evaluate_features(
        query[rows],
        gallery,
        query_ids[rows],
        ids,
        query_cameras[rows],
        cameras,
        metric=metric,
      )
    )

  every = np.arange(300)
  whole = of(every)
  # The first tile is full, the second not; queries stand in other places.
  for pieces in ([every[:1], every[1:8], every[8:]], [every[::-1]]):
    for rows in pieces:
      np.testing.assert_array_equal(of(rows), whole[:, rows])


@pytest.mark.parametrize('size', [1, 7, 64, 1000])
def test_blocks_of_any_size_give_the_same_result(monkeypatch, size):
  query, query_ids, query_cameras = people(70)
  gallery, ids, cameras = people(500, seed=1)
  # Exact distances: another tile might round others differently.
  query, gallery = np.round(query), np.round(gallery)
  dist = ((query[:, None] - gallery[None]) ** 2).sum(axis=2)
  labels = (query_ids, ids, query_cameras, cameras)
  usual = evaluate_ranking(dist, *labels)
  monkeypatch.setattr(distances, 'QUERIES', size)
  monkeypatch.setattr(distances, 'ITEMS', size + 10)
  for found in (
    evaluate_ranking(dist, *labels),
    evaluate_features(query, gallery, *labels),
  ):
    np.testing.assert_array_equal(per_query(found), per_query(usual))
    assert found.numbers() == usual.numbers()


def test_distances_are_squared_and_never_negative():
  query, *_ = people(5)
  gallery = np.concatenate([query, people(2050, seed=1)[0]])
  (block,) = distances.blocks(query, gallery)
  dist = np.concatenate(block, axis=1)
  wide = query[:, None].astype(float) - gallery[None].astype(float)
  np.testing.assert_allclose(dist, (wide**2).sum(axis=2), rtol=1e-5, atol=1e-4)
  assert dist.dtype == np.float32 and dist.min() >= 0


def test_cosine_distance_is_twice_one_minus_the_cosine():
  ready = distances.prepare([[3.0, 4.0]], [[1, 0], [-6, -8]], 'cosine')
  (block,) = distances.blocks(*ready)
  np.testing.assert_allclose(block[0], [[0.8, 4]], rtol=1e-6)


def test_products_are_of_the_highest_precision():
  shapes = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
  program = distances._tile.lower(*shapes, *shapes).as_text()
  assert 'precision = [HIGHEST, HIGHEST]' in program


@pytest.mark.parametrize('dtype', [np.float64, np.float16, np.int16])
def test_features_may_be_of_any_real_type(dtype):
  query, query_ids, _ = people(20)
  gallery, ids, _ = people(90, seed=1)
  rounded = [np.round(query), np.round(gallery)]
  usual = evaluate_features(*rounded, query_ids, ids)
  other = [features.astype(dtype) for features in rounded]
  assert per_query(evaluate_features(*other, query_ids, ids)).tolist() == (
    per_query(usual).tolist()
  )


# The first items.


def test_nearest_is_the_head_of_the_ranking():
  rng = np.random.default_rng(1)
  for _ in range(40):
    labels = draw_people(rng)
    query, gallery = (
      rng.integers(-1, 2, (len(ids), 4)).astype(float) for ids in labels[:2]
    )
    if not (labels[1] != -1).any():
      continue
    dist = ((query[:, None] - gallery[None]) ** 2).sum(axis=2)
    queries = people_of(labels[0], labels[2])
    items = people_of(labels[1], labels[3])
    found = retrieval.nearest(query, gallery, *labels, count=7)
    for row, who, ours in zip(dist, queries, found, strict=True):
      expected = ranking(row, who, items)[:7]
      assert ours.items.tolist() == [index for index, _ in expected]
      assert ours.right.tolist() == [match for _, match in expected]


# Multi-query.


def test_pooled_queries_by_hand():
  # Normalised: (1, 0) and (3/5, 4/5) of identity 5 under camera 1.
  features = np.array([[2.0, 0.0], [6.0, 8.0], [0.0, 5.0]])
  ids, cameras = [5, 5, 5], [1, 1, 2]
  query, query_ids, query_cameras = pool_queries(features, ids, cameras)
  assert query_ids.tolist() == [5, 5] and query_cameras.tolist() == [1, 2]
  # Their mean is (4/5, 2/5), of length sqrt(4/5).
  expected = np.array([[0.8, 0.4], [0, math.sqrt(0.8)]]) / math.sqrt(0.8)
  np.testing.assert_allclose(query, expected, rtol=1e-6)
  # The largest of each dimension: (1, 4/5), of length sqrt(41) / 5.
  query, *_ = pool_queries(features, ids, cameras, 'max')
  expected = np.array([[5, 4], [0, math.sqrt(41)]]) / math.sqrt(41)
  np.testing.assert_allclose(query, expected, rtol=1e-6)
  # Without cameras all three are one query: (8, 9) / 15.
  query, _, none = pool_queries(features, ids)
  assert none is None
  np.testing.assert_allclose(query, [[8, 9]] / np.sqrt(145), rtol=1e-6)


def test_pooled_queries_stand_as_asked():
  features = np.eye(4)
  ids, cameras = [3, 3, 1, 7], [2, 1, 2, 2]
  query, found, found_cameras = pool_queries(
    features,
    ids,
    cameras,
    query_ids=[7, 3, 7, 3],
    query_cameras=[2, 2, 2, 1],
  )
  np.testing.assert_array_equal(query, np.eye(4)[[3, 0, 3, 1]])
  assert found.tolist() == [7, 3, 7, 3]
  assert found_cameras.tolist() == [2, 2, 2, 1]


def test_multi_query_by_hand():
  # Identity 1 lies at 45 degrees; its query image alone, at 0, is nearer to
  # identity 2 at 20 degrees. With the image at 80 the mean is at 40.
  def at(*degrees):
    return np.array(
      [[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees]
    )

  gallery, ids = at(45, 20), [1, 2]
  single = evaluate_features(at(0), gallery, [1], ids, metric='cosine')
  assert (single.cmc[1], single.map) == (0, 0.5)
  query, query_ids, _ = pool_queries(3 * at(0, 80), [1, 1])
  multi = evaluate_features(query, gallery, query_ids, ids, metric='cosine')
  assert (multi.cmc[1], multi.map) == (1, 1)


# Re-ranking: a second writing with whole matrices.


def re_ranked(query, gallery, k1, k2, weight):
  everything = np.concatenate([query, gallery]).astype(float)
  count = len(everything)
  square = ((everything[:, None] - everything[None]) ** 2).sum(axis=2)
  # Every image is its own first neighbour; then by distance, then by number.
  nearest = [
    [i] + [j for j in np.argsort(square[i], kind='stable') if j != i]
    for i in range(count)
  ]
  largest = square.max(axis=1, keepdims=True)
  square = square / np.where(largest > 0, largest, 1)

  def reciprocal(i, k):
    return {j for j in nearest[i][: k + 1] if i in nearest[j][: k + 1]}

  weights = np.zeros((count, count))
  for i in range(count):
    own = reciprocal(i, k1)
    extended = set(own)
    for j in own:
      theirs = reciprocal(j, round(min(k1, count - 1) / 2))
      if len(theirs & own) > 2 / 3 * len(theirs):
        extended |= theirs
    columns = sorted(extended)
    weights[i, columns] = np.exp(-square[i, columns])
    weights[i] /= weights[i].sum()
  if k2 > 1:
    weights = np.stack([weights[near[:k2]].mean(axis=0) for near in nearest])
  a, b = weights[: len(query), None], weights[None, len(query) :]
  jaccard = 1 - np.minimum(a, b).sum(axis=2) / np.maximum(a, b).sum(axis=2)
  original = square[: len(query), len(query) :]
  return (1 - weight) * jaccard + weight * original


@pytest.mark.parametrize(
  ('k1', 'k2', 'weight'),
  [
    (20, 6, 0.3),
    (5, 2, 0.0),
    (7, 1, 0.5),
    (3, 4, 0.3),
    (100, 3, 0.3),
    (1, 1, 1),
  ],
)
@pytest.mark.parametrize(('scale', 'dimensions'), [(0.4, 16), (3, 16), (1, 2)])
def test_re_ranking_is_that_of_the_second_writing(
  k1, k2, weight, scale, dimensions
):
  # Whole numbers: distances are exact. With the small scale they are often
  # equal, and so are images of two dimensions.
  query, gallery = (
    np.round(scale * people(count, seed)[0][:, :dimensions])
    for count, seed in ((9, 0), (60, 1))
  )
  found = re_ranking.blocks(query, gallery, ReRanking(k1, k2, weight))
  dist = np.concatenate([part for block in found for part in block])
  expected = re_ranked(query, gallery, k1, k2, weight)
  np.testing.assert_allclose(dist, expected, rtol=1e-6, atol=1e-6)


def test_re_ranking_of_equal_images_is_all_zero():
  same = np.ones((30, 3), np.float32)
  ((dist,),) = re_ranking.blocks(same[:4], same, ReRanking(3, 2))
  assert dist.shape == (4, 30) and np.isfinite(dist).all()


def test_re_ranking_takes_neighbours_of_the_kept_gallery_only():
  query, query_ids, query_cameras = people(30)
  gallery, ids, cameras = people(200, seed=1)
  ids = np.where(np.arange(200) % 5 == 0, -1, ids)
  kept = ids != -1
  labels = query_cameras, cameras
  found = evaluate_features(
    query, gallery, query_ids, ids, *labels, re_rank=ReRanking()
  )
  dist = re_ranked(query, gallery[kept], 20, 6, 0.3)
  expected = evaluate_ranking(
    dist, query_ids, ids[kept], query_cameras, cameras[kept]
  )
  assert found.map == pytest.approx(expected.map, rel=1e-3)
  plain = evaluate_features(query, gallery, query_ids, ids, *labels)
  assert found.map > plain.map + 0.02
  assert found.junk_removed == 40


# Bad input.

GOOD = {
  'query': np.eye(3),
  'gallery': np.arange(12.0).reshape(4, 3) + 1,
  'query_ids': [1, 2, 3],
  'gallery_ids': [1, 2, 3, 4],
  'query_cameras': [1, 1, 1],
  'gallery_cameras': [2, 2, 2, 2],
}


def with_value(name, value, row=2):
  array = GOOD[name].copy()
  array[row, 1] = value
  return {name: array}


@pytest.mark.parametrize(
  ('change', 'error', 'text'),
  [
    ({'gallery_ids': [5, 6, 7, 8]}, DataError, 'because of the identities'),
    ({'gallery_cameras': [1] * 4}, DataError, r'cameras: 3 of 3 queries'),
    ({'gallery_ids': [-1] * 4}, DataError, 'all of its 4 items are junk'),
    (with_value('query', np.nan), DataError, 'query features: row 2 holds'),
    (with_value('gallery', np.inf, 3), DataError, 'gallery features: row 3'),
    (with_value('gallery', -np.inf), DataError, 'gallery features: row 2'),
    (with_value('query', 1e30), DataError, 'row 2 .* range of float32'),
    (with_value('query', 1e300), DataError, 'row 2 .* range of float32'),
    (
      {'query': np.zeros((3, 3)), 'metric': 'cosine'},
      DataError,
      'row 0 is zero',
    ),
    ({'query': np.eye(2)}, DataError, 'query 2, query_ids 3'),
    ({'query': np.ones((3, 2))}, DataError, '2 dimensions, gallery features 3'),
    ({'query': np.ones(3)}, DataError, r'dimensions\], not \[3\]'),
    ({'query': np.ones((3, 0))}, DataError, r'not \[3, 0\]'),
    ({'gallery': np.full((4, 3), 'a')}, DataError, 'not real numbers'),
    ({'gallery': np.ones((4, 3), complex)}, DataError, 'not real numbers'),
    ({'gallery_ids': [1, 2, 3]}, DataError, 'gallery_ids 3, gallery_cameras 4'),
    ({'query_cameras': [1, 1]}, DataError, 'query_ids 3, query_cameras 2'),
    ({'query_ids': [1.0, 2.0, 3.0]}, DataError, 'query_ids: one integer'),
    ({'query_ids': [[1, 2, 3]]}, DataError, r'query_ids: .* \[1, 3\]'),
    ({'query_cameras': None}, ConfigError, 'cameras of both sides'),
    ({'metric': 'manhattan'}, ConfigError, "'manhattan'; known: euclidean"),
    ({'ranks': ()}, ConfigError, r'not \(\)'),
    ({'ranks': 5}, ConfigError, 'not 5'),
    ({'ranks': (1, 0)}, ConfigError, '0 is none'),
    ({'ranks': (1, 2.5)}, ConfigError, '2.5 is none'),
    ({'ranks': (True,)}, ConfigError, 'True is none'),
  ],
)
def test_bad_features_are_refused_in_one_line(change, error, text):
  with pytest.raises(error, match=text) as raised:
    evaluate_features(**{**GOOD, **change})
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('dist', 'text'),
  [
    (np.ones((4, 3)), r'\[4, 3\]; .* \[3, 4\]'),
    (np.ones(12), r'\[12\]; '),
    (np.ones((3, 4), complex), 'complex128, not real'),
    (
      np.where(np.arange(12).reshape(3, 4) == 9, np.nan, 1),
      'query 2 to item 1',
    ),
  ],
)
def test_bad_distances_are_refused(dist, text):
  labels = {name: GOOD[name] for name in list(GOOD)[2:]}
  with pytest.raises(DataError, match=text):
    evaluate_ranking(dist, **labels)


def test_nan_is_found_behind_junk_too():
  dist = np.array([[1.0, 2.0, np.nan]])
  with pytest.raises(DataError, match='query 0 to item 2'):
    evaluate_ranking(dist, [1], [-1, 1, 2])
  # The distance to junk is never looked at.
  assert evaluate_ranking(dist, [1], [1, 2, -1]).map == 1


def test_no_query_at_all_is_an_error():
  with pytest.raises(DataError, match='none of the 0 queries'):
    evaluate_ranking(np.ones((0, 2)), [], [1, 2])


@pytest.mark.parametrize(
  ('options', 'error', 'text'),
  [
    ({'how': 'median'}, ConfigError, "'median'; known: average, max"),
    ({'ids': [1]}, DataError, 'features 2, ids 1'),
    ({'cameras': [1, 2, 3]}, DataError, 'ids 2, cameras 3'),
    ({'query_ids': [1, 9]}, DataError, 'for query 1: identity 9'),
    ({'query_cameras': [9]}, ConfigError, 'without query_ids'),
    ({'query_ids': [1], 'query_cameras': [1]}, ConfigError, 'or of none'),
    ({'features': [[1, 0], [-1, 0]]}, DataError, 'pooled features: row 0 is z'),
    ({'features': [[0, 0], [1, 0]]}, DataError, 'multi-query features: row 0'),
  ],
)
def test_bad_pooling_is_refused(options, error, text):
  good = {'features': np.eye(2), 'ids': [1, 1]}
  with pytest.raises(error, match=text):
    pool_queries(**{**good, **options})


@pytest.mark.parametrize('values', [(0, 1), (5, 0), (5, 7), (5, 2, 1.5)])
def test_bad_re_ranking_is_refused(values):
  with pytest.raises(ConfigError):
    ReRanking(*values)


def test_at_least_one_item_is_shown():
  with pytest.raises(ConfigError, match='not 0'):
    retrieval.nearest(np.eye(2), np.eye(2), [1, 2], [1, 2], count=0)
