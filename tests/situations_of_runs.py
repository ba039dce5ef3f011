# SPDX-License-Identifier: Apache-2.0
"""Situations of configurations, run directories and training."""

import functools
import importlib.util
import pathlib
import shutil
import sys
from typing import Any

import jax
import tiny
from ml_collections import ConfigDict
from situation_table import (
  SHORT,
  Asked,
  Place,
  Provoke,
  Table,
  dotted,
  forge,
  lineage,
  refused,
  rewrite,
  run,
  run_compiled,
  seal,
)

from srdl_jax import build, cost, imported, machine, methods, models, storage
from srdl_jax import config as config_lib
from srdl_jax.reproduce import sweep
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import processes
from srdl_jax.runs.stop_request import StopRequest
from srdl_jax.storage import bucket
from srdl_jax.targets import SOURCES

ROOT = pathlib.Path(__file__).resolve().parents[1]
TABLE = Table()


# ---- Fields and arguments.

WRONG = {
  'seed': -1,
  'epochs': 0,
  'batch_size': 0,
  'data.manual_dir': 'gs://bucket/x',
  'data.path': 's3://bucket/x',
  'data.image_size': -1,
  'data.workers': -1,
  'data.holdout': -1,
  'data.classes': -1,
  'data.examples_per_class': -1,
  'model.shortcut': 'none',
  'model.stem': 'none',
  'model.dtype': 'float16',
  'init.from_path': 'gs://bucket/x',
  'srdl.split': (1.0,),
  'srdl.complete': (1, 0),
  'srdl.start': 'warm',
  'born_again.generations': 0,
  'label_smoothing': 1.0,
  'data.label_noise': 1.0,
  'data.label_noise_seed': -1,
  'ols.imitation_weight': 1.5,
  'ps_kd.alpha': -0.5,
  'tf_kd.temperature': 0.0,
  'tf_kd.alpha': 1.5,
  'tf_kd.correct': 1.0,
  'cs_kd.temperature': 0.0,
  'cs_kd.imitation_weight': -1.0,
  'dlb.temperature': 0.0,
  'dlb.imitation_weight': -1.0,
  'ddgsd.temperature': 0.0,
  'ddgsd.imitation_weight': -1.0,
  'mean_teacher.temperature': 0.0,
  'mean_teacher.imitation_weight': -1.0,
  'mean_teacher.rise': 1.5,
  'mean_teacher.decay': 1.0,
  'ema.decay': 1.0,
  'teacher.epochs': -1,
  'teacher.workdir': 'gs://bucket/x',
  'augment.padding': -1,
  'augment.least_area': 0.0,
  'augment.mode': 'wrap',
  'optimiser.learning_rate': 0.0,
  'optimiser.backbone_share': -0.1,
  'optimiser.momentum': 1.0,
  'optimiser.weight_decay': -0.1,
  'schedule.decay_at': (0.75, 0.5),
  'schedule.decay_factor': 0.0,
  'distillation.temperature': float('nan'),
  'distillation.label_weight': -1.0,
  'distillation.views': -1,
  'distillation.imitation_weight': float('inf'),
  'retrieval.pooling': 'median',
  'eval.every_epochs': 0,
  'eval.batch_size': 0,
  'checkpoint.every_seconds': -1.0,
  'checkpoint.every_epochs': -1,
  'checkpoint.every_steps': -1,
  'log.every_steps': 0,
  'steps_per_dispatch': -1,
  'devices': -1,
}


def out_of_range(name: str, value: Any) -> Provoke:
  config = config_lib.defaults()
  config.update_from_flattened_dict({name: value})
  return lambda place: config_lib.validate(config)


def arguments(text: str, file: str = '') -> Provoke:
  """Of --config=FILE:text, or of any file."""

  def provoke(place):
    if not file:
      return config_lib.apply_arguments(config_lib.defaults(), text)
    path = ROOT / 'configs' / f'{file}.py'
    spec = importlib.util.spec_from_file_location('some_config', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(text)

  return provoke


def in_a_kilobyte(place):
  place.patch.setattr(machine, 'total_memory', lambda: 1000)
  refused(batch_size=10)(place)


TABLE.add('field', {name: out_of_range(name, WRONG[name]) for name in WRONG})
TABLE.add(
  'field of another kind',
  {
    'a number that is true': out_of_range('epochs', True),
    'nothing': out_of_range('method', None),
    'a rate that is true': lambda p: config_lib.changed(
      {'optimiser.learning_rate': True}
    ),
  },
)
TABLE.add(
  'machine',
  {
    'more steps than are counted': refused(epochs=2**31),
    'a larger batch than memory': in_a_kilobyte,
    'no home': refused(init__from_path='~no_such_user/x'),
    'another encoding': lambda p: run(p.folder / 'caf\udce9'),
  },
)
TABLE.add(
  'record of fields',
  {
    'unknown': lambda p: config_lib.from_flat({'seed': 1, 'a.b': 2, 'c': 3}),
    'missing': lambda p: config_lib.validate(ConfigDict({'seed': 1})),
  },
)
TABLE.add(
  'record of fields',
  {'of another type': lambda p: config_lib.from_flat({'epochs': 'many'})},
  others="(?<=^epochs = 'many': ).*",
)
TABLE.add(
  'argument',
  {
    'without a value': arguments('model='),
    'without a name': arguments('=resnet8'),
    'no equals sign': arguments('method=srdl,resnet32'),
    'unknown': arguments('network=resnet8'),
    'twice': arguments('model=resnet8,model=resnet20'),
    'unknown recipe': arguments('recipe=weak'),
    'path twice': arguments('path=a,path=b', 'folder'),
    'size of no number': arguments('size=big', 'folder'),
    'unknown, of a folder': arguments('path=a,folder=b', 'folder'),
  },
)


# ---- Configurations that cannot be run.


VANILLA = functools.partial(refused, method='vanilla')
KD = functools.partial(refused, method='kd', teacher__workdir='{shared.run}')

TABLE.add(
  'method',
  {
    'unknown': refused(method='srld'),
    'too few epochs': refused(epochs=1),
    'too few epochs, three stages': refused(
      srdl__split=(1.0, 1.0, 1.0), srdl__complete=(True,) * 3
    ),
    'other numbers of shares': refused(srdl__split=(1.0, 1.0, 1.0)),
    'no teacher': refused(method='kd'),
    'unknown teacher': refused(method='kd', teacher__model='resnet9'),
    'unused teacher.model': refused(teacher__model='resnet8'),
    'unused teacher.epochs': refused(teacher__epochs=3),
    'unused teacher.workdir': KD(method='srdl'),
    'unused srdl.split': VANILLA(srdl__split=(1.0, 2.0)),
    'unused srdl.complete': VANILLA(srdl__complete=(True, False)),
    'unused srdl.start': VANILLA(srdl__start='same'),
    'unused srdl.keep_optimiser': VANILLA(srdl__keep_optimiser=True),
    'unused born_again.generations': VANILLA(born_again__generations=2),
    'unused distillation.online': VANILLA(distillation__online=True),
    'unused distillation.views': VANILLA(distillation__views=2),
    'unused, of a source': VANILLA(ema__decay=0.9),
    'unused by a source': refused(method='dlb', distillation__temperature=2.0),
    'several unused': VANILLA(srdl__start='same', teacher__epochs=3),
    'views of an online teacher': refused(
      distillation__views=2, distillation__online=True
    ),
  },
)


def planned(*stages: methods.Stage) -> Provoke:
  def provoke(place):
    method = methods.Method(lambda config: stages)
    place.patch.setitem(methods.METHODS, 'new', method)
    run(place.folder / 'run', method='new')

  return provoke


TABLE.add(
  'stages of a new method',
  {
    'unknown start': planned(methods.Stage(1), methods.Stage(1, start='warm')),
    'later teacher': planned(methods.Stage(1), methods.Stage(1, teacher=2)),
    'first goes on': planned(methods.Stage(1, start='previous')),
    'a teacher for labels alone': planned(
      methods.Stage(1), methods.Stage(1, teacher=1, source='ema')
    ),
    'no teacher for a bank': planned(methods.Stage(1, source='top_two')),
    'unknown source': planned(methods.Stage(1, source='tea_leaves')),
    'other network': planned(
      methods.Stage(1, model='resnet8'), methods.Stage(1, start='previous')
    ),
  },
)
TABLE.add(
  'model',
  {
    'unknown': refused(model__name='resnet9'),
    'no such option: stem': refused(model__name='resnet8', model__stem='small'),
    'no such option: shortcut': refused(
      model__name='wrn16_2', model__shortcut='identity'
    ),
    'images too small': refused(model__name='densenet121'),
    'unknown shortcut': lambda p: models.create('resnet8', 10, shortcut='none'),
    'depth of a CIFAR ResNet': lambda p: models.cifar_resnet.CifarResNet(
      31, 10
    ),
    'depth of a Wide ResNet': lambda p: models.wide_resnet.WideResNet(
      27, 10, 10
    ),
    'depth of a DenseNet-BC': lambda p: models.densenet.densenet_bc(99, 12, 10),
  },
)


def several_processes(place: Place) -> None:
  place.patch.setattr(jax, 'process_count', lambda: 2)
  build.build(tiny.config(devices=1))


TABLE.add(
  'batch and devices',
  {
    'batch not divisible': refused(batch_size=42, devices=4),
    'batch larger than the data': refused(batch_size=240),
    'more devices than there are': refused(devices=64),
    'not all devices of several processes': several_processes,
    'an odd part in pairs': refused(method='dlb', batch_size=20, devices=4),
  },
)
TABLE.add(
  'examples',
  {
    'all held out': refused(data__holdout=1437),
    'too few of a class': refused(data__examples_per_class=5000),
    'too many classes': refused(data__classes=11),
    'one class': refused(data__classes=1),
    'two classes for top-2 targets': refused(method='pll', data__classes=2),
    'one image of a class in pairs': refused(
      method='cs_kd', data__examples_per_class=1, batch_size=10
    ),
    'a table too large': lambda place: SOURCES['ps_kd'](alpha=0.8).refuse(
      examples=1_281_167, classes=1000
    ),
    'padding as wide as images': refused(augment__padding=8),
    'size of resident images': refused(data__image_size=16),
  },
)


# ---- A run's cost, told without its data.


def costs(**fields: Any) -> Provoke:
  return lambda place: cost.describe(tiny.config(**fields))


TABLE.add(
  'cost',
  {
    'unknown data set': costs(**{'data.name': 'cifar'}),
    'data set of unknown shape': costs(**{'data.name': 'folder'}),
    'all held out': costs(**{'data.holdout': 1437}),
    'unknown model': costs(**{'model.name': 'resnet9'}),
    'no run of the teacher': costs(**{'teacher.workdir': 'no/run'}),
  },
)


# ---- An imported teacher.


def learn(place: Place) -> None:
  """From a copy of the finished run."""
  directory = str(place.folder / 'run')
  fields = {'method': 'kd', 'teacher.workdir': directory}
  run(place.folder / 'student', **fields)


def teacher_unfinished(place):
  place.run(finished=False)
  learn(place)


def teacher_of_another_program(place):
  (place.run() / 'result.json').write_text('{}')
  learn(place)


def teacher_without_checkpoint(place):
  shutil.rmtree(place.run() / 'stage_2' / 'checkpoints' / '10')
  learn(place)


def of_other_data(directory):
  rewrite(directory / 'config.json', fingerprint='another')
  seal(directory, lambda found: found['data'].update(fingerprint='another'))
  return directory


def teacher_of_other_record(place):
  of_other_data(place.run())
  learn(place)


def teacher_of_other_result(place):
  rewrite(place.run() / 'config.json', fingerprint='another')
  learn(place)


def teacher_of_other_data(place):
  directory = of_other_data(place.run())
  forge(
    directory / 'stage_2' / 'checkpoints',
    10,
    lineage(data='another'),
  )
  learn(place)


TABLE.add(
  'teacher',
  {
    'no run': KD(teacher__workdir='{tmp}/none'),
    'URL': lambda p: imported.name_network(
      tiny.config(**{'teacher.workdir': 'gs://bucket/x'})
    ),
    'unfinished': teacher_unfinished,
    'of another program': teacher_of_another_program,
    'without its last checkpoint': teacher_without_checkpoint,
    'another network': KD(teacher__model='resnet8'),
    'epochs of its own': KD(teacher__epochs=3),
    'record of other data': teacher_of_other_record,
    'other data': teacher_of_other_data,
    'result of other data': teacher_of_other_result,
    'other classes': KD(data__classes=5),
    'other labels': KD(data__label_noise=0.2, data__label_noise_seed=3),
    'other examples': KD(data__examples_per_class=10, batch_size=20),
    'other hold-out': KD(data__holdout=20, seed=1),
  },
)


# ---- Run directories.


def changed_record(**changes: Any) -> Provoke:
  def provoke(place):
    directory = place.run()
    rewrite(directory / 'config.json', **changes)
    run(directory)

  return provoke


def another_run(**fields: Any) -> Provoke:
  return lambda place: run(place.shared.run, **dotted(fields))


def record(content: str) -> Provoke:
  def provoke(place):
    (place.folder / 'config.json').write_text(content)
    run(place.folder)

  return provoke


def workdir_is_a_file(place):
  (place.folder / 'run').write_text('mine')
  run(place.folder / 'run')


def workdir_below_a_file(place):
  (place.folder / 'file').write_text('mine')
  run(place.folder / 'file' / 'run')


def lock_is_a_folder(place):
  (place.folder / '.lock').mkdir()
  run(place.folder)


def workdir_in_use(place):
  with storage.lock(place.shared.run):
    run(place.shared.run)


def stages_without_a_record(place):
  (place.run() / 'config.json').unlink()
  run(place.folder / 'run')


def damaged_log(place):
  directory = place.run(finished=False, stages=1)
  log = directory / 'metrics.jsonl'
  lines = log.read_text().splitlines()
  log.write_text('\n'.join([*lines[:2], '{"stage": 1', *lines[2:], '']))
  run(directory)


def without_gcsfs(place):
  place.patch.setitem(sys.modules, 'gcsfs', None)
  bucket._prepare.cache_clear()
  try:
    run('gs://bucket/run')
  finally:
    bucket._prepare.cache_clear()


def json_in_no_folder(place):
  storage.write_json(place.folder / 'none' / 'x.json', {})


def json_in_place_of_a_folder(place):
  (place.folder / 'x.json').mkdir()
  storage.write_json(place.folder / 'x.json', {})


def damaged_json(place):
  (place.folder / 'x.json').write_text('{"a": 1')
  storage.read_json(place.folder / 'x.json')


def times_of_another_shape(place):
  directory = place.run(finished=False)
  (directory / 'stage_1' / 'extraction.json').write_text('[3.5]')
  run(directory)


TABLE.add(
  'workdir',
  {
    'times of another shape': times_of_another_shape,
    'record of two values': record('{"config": {"epochs": 1, "epochs": 2}}'),
    'record without a number': record('{"config": {"epochs": NaN}}'),
    'another seed': another_run(seed=1),
    'another method': another_run(method='vanilla'),
    'several other fields': another_run(
      epochs=6, batch_size=20, optimiser__momentum=0.5
    ),
    'other data': changed_record(fingerprint='another'),
    'other weights': changed_record(weights='others'),
    'another teacher': changed_record(teacher='another'),
    'other images that are ranked': changed_record(ranked='others'),
    'a file': workdir_is_a_file,
    'below a file': workdir_below_a_file,
    'in use': workdir_in_use,
    'lock is a folder': lock_is_a_folder,
    'record of nothing': record('{}'),
    'record of unknown fields': record(
      '{"config": {"a": 1}, "fingerprint": "x"}'
    ),
    'record out of range': record(
      '{"config": {"epochs": 0}, "fingerprint": "x"}'
    ),
    'stages without a record': stages_without_a_record,
    'damaged log': damaged_log,
    'another URL': lambda p: run('s3://bucket/run'),
    'bucket without a folder': lambda p: run('gs://bucket'),
    'bucket with steps up': lambda p: run('gs://bucket/../run'),
    'bucket without gcsfs': without_gcsfs,
  },
)
TABLE.add(
  'workdir',
  {
    'record is a list': record('[]'),
    'record is null': record('null'),
  },
  others=r'(?<=of this program \().*(?=\)\.$)',
)
TABLE.add(
  'workdir',
  {'record of a list': record('{"config": {"seed": []}, "fingerprint": "x"}')},
  others=r'(?<=seed = \(\): ).*(?=\)\.$)',
)
TABLE.add(
  'workdir',
  {'record is damaged': record('{"config": ')},
  others=r'(?<=not JSON: ).*(?=\): remove)',
)
TABLE.add(
  'JSON file',
  {
    'missing': lambda p: storage.read_json(p.folder / 'x.json'),
    'a folder': lambda p: storage.read_json(p.folder),
    'written into no folder': json_in_no_folder,
    'written in place of a folder': json_in_place_of_a_folder,
  },
)
TABLE.add(
  'JSON file',
  {'damaged': damaged_json},
  others=r'(?<=not JSON: ).*(?=\): remove)',
)


# ---- Several processes.


def one_of_several(**given: Any) -> Provoke:
  alone = dict.fromkeys(('coordinator', 'count', 'index'))
  usual = {'automatic': False, **alone, 'heartbeat_seconds': 10}
  return lambda place: processes.initialise(**{**usual, **given})


def not_found(error: Exception) -> Provoke:
  def provoke(place):
    def fail(*args, **kwargs):
      raise error

    place.patch.setattr(jax.distributed, 'initialize', fail)
    one_of_several(automatic=True)(place)

  return provoke


def differing(*same: bool) -> Provoke:
  """Processes that do, or do not, have the same in turn."""

  def provoke(place):
    answers = iter(same)
    place.patch.setattr(processes, 'all_have', lambda text: next(answers))
    run(place.folder / 'run')

  return provoke


def not_shared(place):
  place.patch.setattr(processes, 'any_says', lambda flag: True)
  run(place.folder / 'run')


TABLE.add(
  'processes',
  {
    'coordinator alone': one_of_several(coordinator='localhost:1'),
    'count and index alone': one_of_several(count=2, index=0),
    'by hand and automatic': one_of_several(automatic=True, count=2),
    'no environment': not_found(ValueError('reason\nand more')),
    'one is late': not_found(RuntimeError('reason\nand more')),
    'other configurations': differing(False),
    'other data': differing(True, False),
    'other checkpoints': differing(True, True, False),
    'other directories': not_shared,
  },
)


# ---- Training that ends early.


def asked_after_stage_1(place):
  run(place.run(finished=False, stages=1), Asked())


def asked_by_another_process(place):
  stop = StopRequest()
  stop.agreed = True
  stop.end_if_asked('somewhere')


def asked_while_predicting(place):
  directory = place.run(finished=False, stages=1)
  shutil.rmtree(run_directory.soft_targets(directory, 1))
  run(directory, Asked())


def sweep_asked(place):
  jobs = [sweep.Job('a', ('-c', ''), place.folder / 'a' / 'done')]
  sweep.Sweep(place.folder, jobs).run(Asked())


TABLE.add(
  'interrupted',
  {
    'in an epoch': lambda p: run_compiled(
      p.patch, p.shared.experiment, p.folder / 'run', Asked()
    ),
    'after stage 1': asked_after_stage_1,
    'while predicting soft targets': asked_while_predicting,
    'another process': asked_by_another_process,
    'a sweep': sweep_asked,
  },
)


@functools.cache
def diverging():
  """An experiment whose first step leaves no finite parameter."""
  fields = {
    'method': 'vanilla',
    'optimiser.learning_rate': 3e38,
    'optimiser.backbone_share': 1e3,
  }
  return build.build(tiny.config(**fields, **SHORT))


def diverged(every_steps: int) -> Provoke:
  """A parameter is looked at when it is saved, a loss at each step."""

  def provoke(place):
    experiment = diverging()
    experiment.config.checkpoint.every_steps = every_steps
    run_compiled(place.patch, experiment, place.folder / 'run')

  return provoke


TABLE.add('diverged', {'loss': diverged(0), 'parameter': diverged(1)})
