# SPDX-License-Identifier: Apache-2.0
"""Formats: what is newer is refused, and a changed default changes no run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny

from srdl_jax import (
  __version__,
  config,
  methods,
  srdl,
  storage,
  trained,
)
from srdl_jax.errors import WorkdirError
from srdl_jax.report import rows
from srdl_jax.runs import checkpoint, formats, stop_request
from srdl_jax.runs import directory as run_directory

FIELDS = {'data.examples_per_class': 4, 'epochs': 2}
# Those of version 0.1.0; no line ever changes.
BORN = {
  'seed': 0,
  'method': 'srdl',
  'epochs': 200,
  'batch_size': 128,
  'data.name': 'cifar100',
  'data.image_size': 0,
  'data.holdout': 0,
  'data.classes': 0,
  'data.examples_per_class': 0,
  'model.name': 'resnet32',
  'model.shortcut': '',
  'model.stem': '',
  'model.remat': False,
  'model.dtype': 'float32',
  'srdl.split': (1.0, 1.0),
  'srdl.complete': (True, True),
  'srdl.start': 'fresh',
  'srdl.keep_optimiser': False,
  'born_again.generations': 1,
  'label_smoothing': 0.1,
  'teacher.model': '',
  'teacher.epochs': 0,
  'augment.flip': True,
  'augment.padding': 4,
  'augment.least_area': 0.08,
  'augment.mode': 'reflect',
  'optimiser.learning_rate': 0.1,
  'optimiser.backbone_share': 1.0,
  'optimiser.momentum': 0.9,
  'optimiser.weight_decay': 0.0002,
  'schedule.decay_at': (0.5, 0.75),
  'schedule.decay_factor': 0.1,
  'distillation.temperature': 3.0,
  'distillation.label_weight': 1.0,
  'distillation.views': 0,
  'distillation.online': False,
  'distillation.imitation_weight': 1.0,
  'retrieval.normalise': False,
  'retrieval.mirror': False,
  'retrieval.pooling': 'average',
  'retrieval.re_rank': False,
}


def run(directory, **fields):
  return srdl.run(
    tiny.config(**{**FIELDS, **fields}),
    str(directory),
    stop_request.StopRequest(),
  )


def half_done(finished, directory):
  """Returns a copy of a run, as a kill within stage two would leave it."""
  shutil.copytree(finished, directory)
  shutil.rmtree(directory / 'stage_2')
  (directory / 'result.json').unlink()
  return directory


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  directory = tmp_path_factory.mktemp('formats') / 'run'
  run(directory)
  return directory


def test_records_say_their_format_and_version(finished):
  stamp = {'format': 2, 'version': __version__}
  record = storage.read_json(finished / 'config.json')
  assert record.items() >= stamp.items()
  steps = sorted(finished.glob('stage_*/checkpoints/*/_CHECKPOINT_METADATA'))
  assert len(steps) >= 2
  for path in steps:
    stored = json.loads(path.read_text())['custom_metadata']['record']
    assert stored.items() >= stamp.items()


def test_a_directory_of_a_later_format_is_refused(finished, tmp_path):
  directory = half_done(finished, tmp_path / 'run')
  path = directory / 'config.json'
  record = {**storage.read_json(path), 'format': 3, 'version': '9.1'}
  storage.write_json(path, record)
  message = (
    f'config.json is of format 3, written by version 9.1; .*{__version__}'
  )
  with pytest.raises(WorkdirError, match=message):
    run(directory)
  with pytest.raises(WorkdirError, match=message):
    trained.open_run(directory, None)
  assert storage.read_json(path) == record
  assert not (directory / 'stage_2').exists()


def test_a_checkpoint_of_a_later_format_is_not_called_damaged(
  tmp_path, monkeypatch
):
  state = {'params': {'fc': {}}, 'batch_stats': {}}
  state['params']['fc']['bias'] = np.ones(3, 'float32')
  moment = checkpoint.Moment(step=1, state=state, progress={})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(moment, score=None)
    monkeypatch.setattr(formats, 'FORMAT', 3)
    checkpoints.save(dataclasses.replace(moment, step=2), score=None)
  monkeypatch.undo()
  told = []
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.load(1).step == 1
    # An earlier one would go on from steps that have been done.
    with pytest.raises(WorkdirError, match='METADATA is of format 3'):
      checkpoints.load_latest(on_damaged=told.append)
  assert not told


def test_a_changed_default_leaves_runs_theirs(finished, tmp_path, monkeypatch):
  directory = half_done(finished, tmp_path / 'run')
  field = config.FIELDS['optimiser.momentum']
  later = {'optimiser.momentum': dataclasses.replace(field, default=0.5)}
  monkeypatch.setattr(config, 'FIELDS', {**config.FIELDS, **later})
  assert config.defaults().optimiser.momentum == 0.5
  with pytest.raises(WorkdirError, match=r'momentum \(0.9 there, 0.5 here\)'):
    run(directory)
  result = run(directory, **{'optimiser.momentum': 0.9})
  assert result['final'] == storage.read_json(finished / 'result.json')['final']
  # A record from before the field says nothing, and means what was done then.
  path = directory / 'config.json'
  record = storage.read_json(path)
  del record['config']['optimiser.momentum']
  storage.write_json(path, record)
  assert run_directory.load_identity(directory).config.optimiser.momentum == 0.9


def test_no_field_forgets_what_it_was_born_with():
  fields = {n: f for n, f in config.FIELDS.items() if f.identity}
  assert {n: fields[n].born for n in BORN} == BORN
  # Later ones say so: a sweep's directories are told by the first alone.
  assert {n for n, f in fields.items() if f.since == '0.1.0'} == set(BORN)


@pytest.mark.parametrize(
  ('name', 'value'),
  [('label_smoothing', 0.2), ('srdl.start', 'same'), ('distillation.views', 2)],
)
def test_methods_have_no_use_for_a_default_old_or_new(name, value, monkeypatch):
  field = config.FIELDS[name]
  later = {name: dataclasses.replace(field, default=value)}
  monkeypatch.setattr(config, 'FIELDS', {**config.FIELDS, **later})
  for given in ({}, {name: field.born}):
    (stage,) = methods.create(tiny.config(method='vanilla', **given))
    assert stage.epochs == 4


def test_a_report_leaves_out_what_a_later_version_wrote(finished, tmp_path):
  directory = tmp_path / 'run'
  shutil.copytree(finished, directory)
  assert rows.read([str(directory)]).rows
  path = directory / 'config.json'
  storage.write_json(path, {**storage.read_json(path), 'format': 3})
  found = rows.read([str(directory)])
  assert not found.rows and 'of format 3' in found.left_out[0]


def test_digests_of_version_0_1_0_stay():
  changed = config.defaults()
  changed.seed = 3
  changed.distillation.temperature = 2.0
  changed.srdl.split = (1.0, 1.0, 2.0)
  assert config.digest(changed) == (
    'da7a4505298f28e84f387339cccbfca3e02e8eb4d9fd74ec658dd879a2296650'
  )
