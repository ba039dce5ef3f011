# SPDX-License-Identifier: Apache-2.0
"""Situations after training: evaluation, rankings, reports, sweeps."""

import dataclasses
import pathlib
import types
from collections.abc import Callable
from typing import Any

import jax
import made_runs
import numpy as np
import tiny
from absl import flags
from situation_table import (
  Provoke,
  Table,
  dotted,
  forge,
  lineage,
  rewrite,
  seal,
)

from srdl_jax import (
  build,
  command,
  evaluate,
  flatness,
  main,
  rank,
  report,
  retrieval,
  storage,
  trained,
)
from srdl_jax import config as config_lib
from srdl_jax.evaluate import __main__ as evaluate_command
from srdl_jax.flatness import __main__ as flatness_command
from srdl_jax.report import __main__ as report_command
from srdl_jax.report import rows, run_file
from srdl_jax.reproduce import __main__ as reproduce_command
from srdl_jax.reproduce import scales, sweep
from srdl_jax.retrieval import ReRanking, montage, pool_queries
from srdl_jax.runs import finished
from srdl_jax.runs.stop_request import StopRequest
from srdl_jax.weights import __main__ as weights_command

TABLE = Table()


# ---- Evaluation of runs.


def trained_on_other_data(place):
  directory = place.run()
  rewrite(directory / 'config.json', fingerprint='another')
  trained.open_run(directory, None)


def ranked_other_images(place):
  directory = place.run()
  rewrite(directory / 'config.json', ranked='others')
  trained.open_run(directory, None)


def built(**fields: Any):
  config = tiny.config(**dotted(fields))
  return build.build(config)


def other_examples(split: str) -> Provoke:
  return lambda place: evaluate.evaluate(
    [(built(), {}), (built(data__classes=5), {})], split
  )


def persons(folder: pathlib.Path, **fields: Any):
  usual = {
    'data__name': 'reid_folder',
    'data__path': str(folder),
    'data__image_size': 32,
    'data__examples_per_class': 0,
    'method': 'vanilla',
    'batch_size': 4,
  }
  return built(**{**usual, **fields})


def other_galleries(place):
  folder = place.market()
  min((folder / 'bounding_box_test').glob('0*')).unlink()
  first, second = persons(place.shared.market.folder), persons(folder)
  evaluate.evaluate([(first, {}), (second, {})], 'test')


def infinite_features(place):
  experiment = persons(place.shared.market.folder)
  variables = experiment.stages[0].initial_state(None).variables
  broken = jax.tree.map(lambda x: np.full(x.shape, np.inf), variables)
  evaluate.evaluate([(experiment, {1: broken})], 'test')


def compared_with_other_classes(place):
  directory = place.run()
  config = config_lib.from_flat(
    storage.read_json(directory / 'config.json')['config']
  )
  config.data.classes, config.data.examples_per_class = 5, 40
  rewrite(directory / 'config.json', config=config_lib.flatten(config))
  seal(directory, lambda r: r.update(config=config_lib.flatten(config)))
  forge(
    directory / 'stage_2' / 'checkpoints',
    10,
    lineage(run=config_lib.digest(config)),
  )
  flatness_command.load_all(
    [str(place.shared.run), str(directory)], 'final', None
  )


def no_image_in_common(place):
  experiment, solution = flatness_command.load(
    str(place.shared.run), 'final', None
  )
  other = dataclasses.replace(solution, train_rows=np.array([-1]))
  flatness_command.place_images(experiment, [solution, other], 0, 0)


TABLE.add(
  'evaluation',
  {
    'no run': lambda p: trained.open_run(p.folder / 'none', None),
    'other data': trained_on_other_data,
    'other images to rank': ranked_other_images,
    'runs of other test examples': other_examples('test'),
    'runs of other training examples': other_examples('train'),
    'runs of other galleries': other_galleries,
    'persons classified': lambda p: persons(p.shared.market.folder).examples(
      'test'
    ),
    'features are not finite': infinite_features,
    'flatness of an ensemble': lambda p: flatness_command.load(
      str(p.shared.run), 'ensemble', None
    ),
    'flatness of other data': compared_with_other_classes,
    'flatness without a common image': no_image_in_common,
  },
)


# ---- Rankings.

GOOD = {
  'query': np.eye(3),
  'gallery': np.arange(12.0).reshape(4, 3) + 1,
  'query_ids': [1, 2, 3],
  'gallery_ids': [1, 2, 3, 4],
  'query_cameras': [1, 1, 1],
  'gallery_cameras': [2, 2, 2, 2],
}


def ranked(**changes: Any) -> Provoke:
  return lambda place: retrieval.evaluate_features(**{**GOOD, **changes})


def distances(dist: np.ndarray) -> Provoke:
  labels = {name: GOOD[name] for name in list(GOOD)[2:]}
  return lambda place: retrieval.evaluate_ranking(dist, **labels)


def pooled(**changes: Any) -> Provoke:
  good = {'features': np.eye(2), 'ids': [1, 1]}
  return lambda place: pool_queries(**{**good, **changes})


def with_value(name: str, value: float) -> dict[str, np.ndarray]:
  array = GOOD[name].copy()
  array[2, 1] = value
  return {name: array}


def rank_file(changes: dict[str, Any] | None = None, **options: Any) -> Provoke:
  """A file of features for the command; None leaves an array out."""
  arrays = {**GOOD, 'multi_query': np.eye(3), **(changes or {})}

  def provoke(place):
    file = place.folder / 'f.npz'
    np.savez(file, **{n: a for n, a in arrays.items() if a is not None})
    rank.rank(file, **options)

  return provoke


def rank_text(place):
  (place.folder / 'f.npz').write_text('no arrays')
  rank.rank(place.folder / 'f.npz')


IMAGES = np.zeros((4, 8, 4, 3), np.uint8)
PICTURE = {'montage_file': pathlib.Path('x.png')}

TABLE.add(
  'ranking',
  {
    'no query in the gallery': ranked(gallery_ids=[5, 6, 7, 8]),
    'same camera alone': ranked(gallery_cameras=[1] * 4),
    'all junk': ranked(gallery_ids=[-1] * 4),
    'NaN': ranked(**with_value('query', np.nan)),
    'too large': ranked(**with_value('gallery', 1e30)),
    'zero by cosine': ranked(query=np.zeros((3, 3)), metric='cosine'),
    'other number of queries': ranked(query=np.eye(2, 3)),
    'other dimensions': ranked(query=np.ones((3, 2))),
    'features in a list': ranked(query=np.ones(3)),
    'features of text': ranked(gallery=np.full((4, 3), 'a')),
    'complex features': ranked(gallery=np.ones((4, 3), complex)),
    'other number of cameras': ranked(query_cameras=[1, 1]),
    'other number of identities': ranked(gallery_ids=[1, 2, 3]),
    'identities of a real type': ranked(query_ids=[1.0, 2.0, 3.0]),
    'identities in a matrix': ranked(query_ids=[[1, 2, 3]]),
    'cameras of one side': ranked(query_cameras=None),
    'unknown metric': ranked(metric='manhattan'),
    'no ranks': ranked(ranks=()),
    'rank of 0': ranked(ranks=(1, 0)),
    'distances of another shape': distances(np.ones((4, 3))),
    'complex distances': distances(np.ones((3, 4), complex)),
    'NaN distance': distances(np.where(np.eye(3, 4), np.nan, 1)),
    'nothing shown': lambda p: retrieval.nearest(**GOOD, count=0),
    'unknown pooling': pooled(how='median'),
    'pooling of other identities': pooled(ids=[1]),
    'pooling of other cameras': pooled(cameras=[1, 2, 3]),
    'nothing to pool': pooled(query_ids=[1, 9]),
    'nothing to pool by a camera': pooled(
      cameras=[1, 2], query_ids=[1], query_cameras=[3]
    ),
    'cameras of no queries': pooled(query_cameras=[9]),
    'cameras of queries alone': pooled(query_ids=[1], query_cameras=[1]),
    'pooled to zero': pooled(features=[[1, 0], [-1, 0]]),
    'k1 of 0': lambda p: ReRanking(0, 1),
    'k2 above k1': lambda p: ReRanking(5, 7),
    'weight above 1': lambda p: ReRanking(5, 2, 1.5),
    'file is missing': lambda p: rank.rank(p.folder / 'none.npz'),
    'empty folder': lambda p: rank.rank(p.folder),
    'array is missing': rank_file({'gallery': None, 'query_ids': None}),
    'arrays of several queries are missing': rank_file(multi_query='max'),
    'several queries by another metric': rank_file(
      multi_query='max', metric='euclidean'
    ),
    'images are missing': rank_file(**PICTURE),
    'images of others': rank_file(
      {'query_images': IMAGES[:3], 'gallery_images': IMAGES[:3]}, **PICTURE
    ),
    'picture of another format': lambda p: montage.montage(
      p.folder / 'x.jpg', IMAGES, IMAGES, {}
    ),
    'picture of nothing': lambda p: montage.montage(
      p.folder / 'x.png', IMAGES, IMAGES, {}
    ),
  },
)
TABLE.add(
  'ranking',
  {'file is damaged': rank_text},
  others=r'(?<=or is damaged: ).*(?=\.$)',
)


# ---- Reports.


def wrong_result(**changes: Any) -> Provoke:
  def provoke(place):
    made_runs.write(place.folder / 'run', made_runs.result())
    rewrite(place.folder / 'run' / 'result.json', **changes)
    finished.read(place.folder / 'run')

  return provoke


def wrong_curves(
  change: Callable[[pathlib.Path], Any],
) -> Provoke:
  def provoke(place):
    made_runs.write(place.folder / 'run', made_runs.result())
    change(place.folder / 'run' / 'metrics.jsonl')
    found = finished.read(place.folder / 'run')
    run_file.curves(found)

  return provoke


def unfinished_run(place):
  directory = place.run(finished=False)
  finished.read(directory)


def another_flatness(place):
  storage.write_json(place.folder / 'flatness.json', {'runs': []})
  flatness.read(place.folder / 'flatness.json')


def cut_curves(file):
  lines = file.read_text().splitlines(keepends=True)
  file.write_text(''.join(lines[:-3]))


def written_into_no_folder(place):
  found = rows.Found([], [], [])
  report.write(str(place.folder / 'none' / 'report.html'), found)


TABLE.add(
  'report',
  {
    'no run': lambda p: finished.read(p.folder),
    'unfinished run': unfinished_run,
    'result of another program': wrong_result(final=None),
    'result that is not finite': wrong_result(cost={}),
    'result of unknown fields': wrong_result(config={'a': 1}),
    'no curves': wrong_curves(pathlib.Path.unlink),
    'damaged curves': wrong_curves(lambda f: f.write_text('{"test"\n')),
    'curves cut short': wrong_curves(cut_curves),
    'another file of flatness': another_flatness,
    'written into no folder': written_into_no_folder,
    'written to a URL': lambda p: report.write('gs://bucket/x.html', None),
  },
)


# ---- Sweeps.


def damaged_job(place):
  (place.folder / 'done').write_text('{')
  job = sweep.Job('a', (), place.folder / 'done')
  reproduce_command.refuse_damaged([job])


def sweep_in_a_file(place):
  (place.folder / 'file').write_text('mine')
  stop = StopRequest()
  sweep.Sweep(place.folder / 'file', []).run(stop)


def row_of_unknown_fields(place):
  setting = scales.rows('table1', 'full')[0].setting
  fields = (('no.such', 1),)
  scales.config(dataclasses.replace(setting, fields=fields))


def row_of_no_file(place):
  setting = scales.rows('table1', 'full')[0].setting
  scales.config(dataclasses.replace(setting, file='none'))


def no_speed(place):
  started = reproduce_command.subprocess
  failed = started.CompletedProcess([], 1, '', 'Traceback\nreason\n')
  place.patch.setattr(started, 'run', lambda *args, **kwargs: failed)
  reproduce_command.measured_apart()


TABLE.add(
  'sweep',
  {
    'unknown table': lambda p: reproduce_command.choose(['table7'], 'full', ''),
    'unknown scale': lambda p: reproduce_command.choose(['table1'], 'half', ''),
    'no such row': lambda p: reproduce_command.choose(
      ['table4'], 'full', 'vanila'
    ),
    'no weights of a network': lambda p: scales.possible(
      scales.rows('table3', 'full'), 'no'
    ),
    'in a file': sweep_in_a_file,
    'row of no file': row_of_no_file,
    'no speed': no_speed,
  },
)
TABLE.add(
  'sweep',
  {'row of unknown fields': row_of_unknown_fields},
  others='(?<=method=vanilla: ).*',
)
TABLE.add(
  'sweep',
  {'damaged result': damaged_job},
  others=r'(?<=not JSON: ).*(?=\): remove)',
)


# ---- What commands refuse by themselves.


class Flags(types.SimpleNamespace):
  """Flags by name, as absl gives them."""

  def __getitem__(self, name: str) -> types.SimpleNamespace:
    value = getattr(self, name.replace('-', '_'))
    return types.SimpleNamespace(value=value)


def called(module: types.ModuleType, *arguments: str, **given: Any) -> Provoke:
  """A command's main with some of its flags; for texts see Place.filled."""

  def provoke(place):
    filled = {
      name: list(place.filled(dict(enumerate(value))).values())
      if isinstance(value, list)
      else value
      for name, value in place.filled(given).items()
    }
    place.patch.setattr(flags, 'FLAGS', Flags(**filled))
    module.main([module.__name__, *arguments])

  return provoke


def evaluated(*workdirs: str, **given: Any) -> Provoke:
  usual = {
    'checkpoint': 'final',
    'split': 'test',
    'data_dir': None,
    'data': None,
    'details': None,
    'json': True,
    'montage': None,
    'normalise': None,
    'mirror': None,
    're_rank': None,
    'pooling': None,
  }
  return called(evaluate_command, workdir=[*workdirs], **{**usual, **given})


def flattened(*workdirs: str, **given: Any) -> Provoke:
  usual = {
    'out': '{tmp}/out.json',
    'max_distance': 5.0,
    'checkpoint': 'final',
    'data_dir': None,
  }
  return called(flatness_command, workdir=[*workdirs], **{**usual, **given})


def reproduced(*tables: str, **given: Any) -> Provoke:
  usual = {
    'workdir': '{tmp}/sweep',
    'scale': 'smoke',
    'rows': '',
    'shard': '1/1',
    'seeds': 1,
    'jobs': 1,
    'weights': None,
    'data_dir': None,
    'dry_run': False,
  }
  return called(reproduce_command, *tables, **{**usual, **given})


def failed_jobs(place):
  place.patch.setattr(
    sweep.Sweep, 'run', lambda self, stop: {'a': 'it failed', 'b': 'a failed'}
  )
  reproduced('table4')(place)


def jobs_of_another_program(place):
  (row, *_) = reproduce_command.choose(['table4'], 'smoke', '')
  done = sweep.directory(place.folder / 'sweep', row.setting, 0)
  done.mkdir(parents=True)
  (done / 'result.json').write_text('{}')
  reproduced('table4', dry_run=True)(place)


def main_without_workdir(place):
  place.patch.setattr(command, 'given_config', config_lib.defaults)
  called(main, workdir=None)(place)


TABLE.add(
  'command main',
  {
    'no configuration': called(main, config=None),
    'no workdir': main_without_workdir,
  },
)
TABLE.add(
  'command evaluate',
  {
    'no workdir': evaluated(),
    'a run twice': evaluated('{shared.run}', '{shared.run}:stage_1'),
    'nothing held out': evaluated('{shared.run}', split='validation'),
    'an unknown checkpoint': evaluated('{shared.run}', checkpoint='last'),
    'flags of rankings': evaluated('{shared.run}', re_rank=True),
  },
)
TABLE.add(
  'command flatness',
  {
    'no workdir': flattened(),
    'no file': flattened('x', out=None),
    'distance of 0': flattened('x', max_distance=0.0),
    'file in no folder': flattened('x', out='{tmp}/none/out.json'),
    'file is a folder': flattened('x', out='{tmp}'),
    'no run': flattened('{tmp}/none'),
  },
)
TABLE.add('command rank', {'no features': called(rank, features=None)})
TABLE.add(
  'command report',
  {
    'no directory': called(report_command),
    'file of another kind': called(report_command, 'x', out='x.pdf'),
  },
)
TABLE.add(
  'command weights',
  {
    'nothing to do': called(weights_command),
    'import of an argument': called(weights_command, 'import', 'x.safetensors'),
    'import of no file': called(weights_command, 'import', **{'from': None}),
    'import of no model': called(
      weights_command, 'import', **{'from': 'x', 'model': None}
    ),
    'import into nothing': called(
      weights_command,
      'import',
      **{'from': 'x', 'model': 'resnet8', 'out': None},
    ),
    'export of no run': called(weights_command, 'export', workdir=None),
    'export into nothing': called(
      weights_command, 'export', workdir='x', out=None
    ),
  },
)
TABLE.add(
  'command reproduce',
  {
    'nothing named': reproduced(),
    'no workdir': reproduced('table1', workdir=None),
    'part of no number': reproduced('table1', shard='1'),
    'part beyond the last': reproduced('table1', shard='3/2'),
    'unknown table': reproduced('table7'),
    'rows that no scale has': reproduced('table3', scale='short'),
    'rows that need weights': reproduced('table3', scale='full'),
    'URL': reproduced('table4', workdir='gs://bucket/x'),
    'failed jobs': failed_jobs,
  },
)
TABLE.add(
  'command reproduce',
  {'a result of another program': jobs_of_another_program},
  others='(?<=/sweep/runs/).*(?=/result.json)',
)
