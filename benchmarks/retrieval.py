# SPDX-License-Identifier: Apache-2.0
"""Seconds and memory of CMC and mAP from features, beside plain NumPy.

    python benchmarks/retrieval.py [--size=market|msmt17] [--rounds=3] \
        [--dimensions=512] [--numpy_queries=N]

Made features of as many queries, items, identities and cameras as the data set
has. By turns, in one process:

- `ours`: `retrieval.evaluate_features`, distances included;
- `numpy_product`, `jax_product`: the bare matrix product of the same sizes, in
  blocks of queries that are thrown away;
- `numpy`, once: whole matrices of distances, of their order and of matches, as
  toolkits have it, for --numpy_queries (0: all); seconds are scaled up to all.

Prints one JSON line: the first call of ours, which compiles, and the growth of
the process's memory in it (where Linux tells); medians of the rounds, on the
clock and in processor time of all threads; and the ratios of ours, round by
round, to the faster product of the round, and of NumPy's version to ours. On a
busy machine read the ratios of processor time.
"""

import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import app, flags

from srdl_jax import retrieval
from srdl_jax.runs.environment import environment

SIZE = flags.DEFINE_enum('size', 'market', ['market', 'msmt17'], 'Data set.')
ROUNDS = flags.DEFINE_integer('rounds', 3, 'Rounds.', lower_bound=1)
DIMENSIONS = flags.DEFINE_integer('dimensions', 512, 'Of a feature.')
NUMPY_QUERIES = flags.DEFINE_integer(
  'numpy_queries', None, 'Queries of plain NumPy; default: all, msmt17 2000.'
)

# Queries, items, identities, cameras.
SIZES = {'market': (3368, 15913, 751, 6), 'msmt17': (11659, 82161, 3060, 15)}
NOISE, BLOCK = 3.0, 256
STATUS = pathlib.Path('/proc/self/status')
Spent = tuple[float, float]


def made() -> dict[str, np.ndarray]:
  """Returns the arguments of `evaluate_features`: people with noise."""
  queries, items, people, cameras = SIZES[SIZE.value]
  rng = np.random.default_rng(0)
  shape = (people, DIMENSIONS.value)
  centres = rng.standard_normal(shape, dtype=np.float32)

  def side(count: int) -> tuple[np.ndarray, ...]:
    ids = rng.integers(people, size=count)
    features = rng.standard_normal((count, shape[1]), dtype=np.float32)
    features *= NOISE
    for start in range(0, count, BLOCK):
      features[start : start + BLOCK] += centres[ids[start : start + BLOCK]]
    return features, ids, rng.integers(cameras, size=count)

  names = ('', '_ids', '_cameras')
  return {
    f'{who}{name}': array
    for who, count in (('query', queries), ('gallery', items))
    for name, array in zip(names, side(count), strict=True)
  }


def memory(line: str) -> float | None:
  """Returns VmRSS (now) or VmHWM (the most) in MiB; None where unknown."""
  if not STATUS.is_file():
    return None
  (found,) = (t for t in STATUS.read_text().splitlines() if t.startswith(line))
  return int(found.split()[1]) / 1024


def growth(work: Callable[[], object]) -> float | None:
  """Returns by how much memory grows at most while working, in MiB."""
  before = memory('VmRSS')
  try:
    # Makes the most memory so far what is used now.
    pathlib.Path('/proc/self/clear_refs').write_text('5')
  except OSError:
    before = None
  work()
  return None if before is None else memory('VmHWM') - before


def spent(work: Callable[[], object]) -> Spent:
  """Returns seconds on the clock and of all processors."""
  begun, cpu = time.monotonic(), time.process_time()
  work()
  return time.monotonic() - begun, time.process_time() - cpu


def numpy_product(query: np.ndarray, gallery: np.ndarray) -> None:
  for start in range(0, len(query), BLOCK):
    query[start : start + BLOCK] @ gallery.T


def jax_product(query: np.ndarray, gallery: jax.Array) -> None:
  for start in range(0, len(query), BLOCK):
    _product(query[start : start + BLOCK], gallery).block_until_ready()


@jax.jit
def _product(rows: jax.Array, gallery: jax.Array) -> jax.Array:
  return jax.lax.dot_general(
    rows, gallery, (((1,), (1,)), ((), ())), precision='highest'
  )


def numpy_version(
  query: np.ndarray,
  gallery: np.ndarray,
  query_ids: np.ndarray,
  gallery_ids: np.ndarray,
  query_cameras: np.ndarray,
  gallery_cameras: np.ndarray,
) -> float:
  """Returns mAP by whole matrices."""
  squares = [np.square(side).sum(axis=1) for side in (query, gallery)]
  dist = squares[0][:, None] + squares[1] - 2 * query @ gallery.T
  order = np.argsort(dist, axis=1)
  matches = gallery_ids[order] == query_ids[:, None]
  precisions = []
  for row, match in enumerate(matches):
    kept = ~match | (gallery_cameras[order[row]] != query_cameras[row])
    places = np.flatnonzero(match[kept]) + 1
    if len(places):
      precisions.append(np.mean(np.arange(1, len(places) + 1) / places))
  return float(np.mean(precisions))


def take_turns(arrays: dict[str, np.ndarray]) -> dict[str, list[Spent]]:
  query, gallery = arrays['query'], arrays['gallery']
  on_device = jax.numpy.asarray(gallery)
  runs = {
    'ours': lambda: retrieval.evaluate_features(**arrays),
    'numpy_product': lambda: numpy_product(query, gallery),
    'jax_product': lambda: jax_product(query, on_device),
  }
  jax_product(query[: BLOCK + len(query) % BLOCK], on_device)  # Compiles.
  rounds = [
    {name: spent(run) for name, run in runs.items()}
    for _ in range(ROUNDS.value)
  ]
  return {name: [found[name] for found in rounds] for name in runs}


def ratios(times: dict[str, list[Spent]], clock: int) -> list[float]:
  """Returns ours over the faster product, round by round."""
  return [
    ours[clock] / min(a[clock], b[clock])
    for ours, a, b in zip(*times.values(), strict=True)
  ]


def summary(times: dict[str, list[Spent]], plain: Spent) -> dict:
  """Returns medians and ratios, of the clock and of processor time."""
  result = {}
  for clock, name in enumerate(('seconds', 'processor_seconds')):
    medians = {
      who: statistics.median(one[clock] for one in found)
      for who, found in times.items()
    }
    to_product = ratios(times, clock)
    result[name] = {
      **medians,
      'numpy': plain[clock],
      'ours_over_product': statistics.median(to_product),
      'least_ours_over_product': min(to_product),
      'numpy_over_ours': plain[clock] / medians['ours'],
    }
  return result


def main(argv: Sequence[str]) -> None:
  del argv
  arrays = made()
  around = environment(jax.devices()[:1])
  results = []
  first = growth(
    lambda: results.append(
      spent(lambda: results.append(retrieval.evaluate_features(**arrays)))
    )
  )
  ours, first_spent = results
  times = take_turns(arrays)
  queries = len(arrays['query'])
  asked = NUMPY_QUERIES.value
  if asked is None:
    asked = 2000 if SIZE.value == 'msmt17' else 0
  asked = min(asked or queries, queries)
  part = {
    name: array[:asked] if name.startswith('query') else array
    for name, array in arrays.items()
  }
  maps = []
  plain = spent(lambda: maps.append(numpy_version(**part)))
  scaled = tuple(one * queries / asked for one in plain)
  same = np.nanmean(ours.average_precision[:asked])
  print(
    json.dumps(
      {
        'size': SIZE.value,
        'dimensions': DIMENSIONS.value,
        **summary(times, scaled),
        'first_call': dict(
          zip(('seconds', 'processor_seconds'), first_spent, strict=True)
        ),
        'memory_growth_mib': first,
        'numpy_queries': asked,
        'map_differs_from_numpy': abs(float(same) - maps[0]),
        **ours.numbers(),
        'rounds': ROUNDS.value,
        'cores': os.cpu_count(),
        'load': os.getloadavg()[0],
        **around,
      }
    )
  )


if __name__ == '__main__':
  app.run(main)
