# SPDX-License-Identifier: Apache-2.0
"""Metrics of given features: CMC and mAP, single-query or multi-query.

    python -m srdl_jax.rank --features=PATH [--metric=euclidean|cosine] \
        [--multi_query=average|max] [--re_rank] [--montage=FILE.png]

PATH is a .npz file, or a folder of .npy files, with the arrays

- query [Q, D], query_ids [Q], gallery [G, D], gallery_ids [G];
- query_cameras [Q] and gallery_cameras [G], or neither: with them, images of
  the query's identity by its own camera are not ranked;
- multi_query [n, D], multi_query_ids and multi_query_cameras [n], for
  --multi_query: each query's feature is replaced by those of its identity and
  camera, pooled; the distances are then those of normalised features;
- query_images and gallery_images, uint8 [., H, W, C], for --montage.

Identities and cameras are integers; an identity of -1 in the gallery is junk,
and not ranked. Prints one JSON object: shares, not percents.
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from srdl_jax import command, retrieval, storage
from srdl_jax.errors import ConfigError
from srdl_jax.retrieval import METRICS, ReRanking
from srdl_jax.retrieval import arrays as arrays_lib
from srdl_jax.retrieval.arrays import CAMERAS, IMAGES, SIDES, Arrays
from srdl_jax.retrieval.features import refuse_other_lengths


def write_montage(
  path: pathlib.Path, arrays: Arrays, count: int, **options
) -> None:
  """Writes a picture of some queries, evenly spaced among all.

  Args:
    path: of the PNG file.
    arrays: see `arrays.read`.
    count: of queries.
    **options: of `retrieval.nearest`.

  Raises:
    DataError: images are missing.
  """
  # It takes matplotlib with it.
  from srdl_jax.retrieval import montage

  arrays_lib.require(arrays, IMAGES, '--montage')
  for side, images in zip(('query', 'gallery'), IMAGES, strict=True):
    refuse_other_lengths(**{side: arrays[side], images: arrays[images]})
  found = retrieval.nearest(**options)
  chosen = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
  rankings = {query: found[query] for query in chosen.tolist()}
  montage.montage(path, *(arrays[name] for name in IMAGES), rankings)


def rank(
  features: pathlib.Path,
  *,
  metric: str | None = None,
  multi_query: str | None = None,
  re_rank: bool = False,
  montage_file: pathlib.Path | None = None,
  montage_queries: int = 5,
) -> dict[str, str | float | bool | None]:
  """Returns what the command prints; the arguments are its flags.

  Raises:
    ConfigError: flags contradict each other; see `evaluate_features`.
    DataError: see `arrays.read` and `evaluate_features`.
  """
  if multi_query and metric == 'euclidean':
    raise ConfigError(
      'Pooled queries are normalised: --multi_query takes --metric=cosine, its '
      'default.'
    )
  arrays = arrays_lib.read(features)
  if multi_query:
    arrays = arrays_lib.pooled(arrays, multi_query)
  options = {
    'metric': metric or ('cosine' if multi_query else 'euclidean'),
    're_rank': ReRanking() if re_rank else None,
    **{name: arrays[name] for name in (*SIDES, *CAMERAS) if name in arrays},
  }
  result = retrieval.evaluate_features(**options)
  if montage_file:
    write_montage(montage_file, arrays, montage_queries, **options)
  return {
    **result.numbers(),
    'metric': options['metric'],
    'multi_query': multi_query,
    're_rank': re_rank,
  }


def main(argv: Sequence[str]) -> None:
  """Evaluates the features of --features."""
  del argv
  args = flags.FLAGS
  if not args.features:
    raise ConfigError('--features=PATH is missing.')
  result = rank(
    storage.reachable(args.features, '--features'),
    metric=args.metric,
    multi_query=args.multi_query,
    re_rank=args.re_rank,
    montage_file=args.montage and storage.expanded(args.montage, '--montage'),
    montage_queries=args.montage_queries,
  )
  print(json.dumps(result))


if __name__ == '__main__':
  flags.DEFINE_string('features', None, 'A .npz file, or a folder of .npy.')
  flags.DEFINE_enum(
    'metric', None, METRICS, 'Default: euclidean; of multi-query: cosine.'
  )
  flags.DEFINE_enum(
    'multi_query', None, ['average', 'max'], 'How images of a query are pooled.'
  )
  flags.DEFINE_boolean('re_rank', False, 'Re-rank (k-reciprocal neighbours).')
  flags.DEFINE_string('montage', None, 'PNG file of the first ten items.')
  flags.DEFINE_integer('montage_queries', 5, 'Queries in it.', lower_bound=1)
  command.run(main)
