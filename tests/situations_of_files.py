# SPDX-License-Identifier: Apache-2.0
"""Situations of files: checkpoints, soft targets, weights."""

import functools
import json
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import safetensors.numpy
import tiny
from situation_table import (
  Provoke,
  Table,
  forge,
  lineage,
  refused,
  rewrite,
  run,
)

from srdl_jax import feed, models, soft_targets, trained
from srdl_jax.runs import checkpoint
from srdl_jax.runs import directory as run_directory
from srdl_jax.weights import __main__ as weights_command
from srdl_jax.weights import torch as torch_layout

TABLE = Table()


# ---- Checkpoints.


def checkpoints(directory: pathlib.Path, stage: int = 2):
  return checkpoint.Checkpoints(
    run_directory.checkpoints(directory, stage), read_only=True
  )


def state(value: float = 1.0) -> dict[str, Any]:
  return {'params': {'w': np.full(2, value, np.float32)}, 'batch_stats': {}}


def saved(
  directory: pathlib.Path, step: int, progress: dict[str, Any] | None = None
) -> pathlib.Path:
  moment = checkpoint.Moment(step, state(), progress or {})
  with checkpoint.Checkpoints(directory) as several:
    several.save(moment, score=None)
  return directory


def forged(change: Callable[[dict], Any]) -> Provoke:
  """Goes on from a run whose last checkpoint remembers something else."""

  def provoke(place):
    directory = place.run(finished=False)
    forge(directory / 'stage_2' / 'checkpoints', 10, change)
    run(directory)

  return provoke


def damaged_record(place):
  directory = place.run()
  file = directory / 'stage_2/checkpoints/10/_CHECKPOINT_METADATA'
  content = json.loads(file.read_text())
  content['custom_metadata']['record']['score'] = 2.0
  file.write_text(json.dumps(content))
  checkpoints(directory).load(10)


def damaged_arrays(place):
  directory = saved(place.folder / 'stage_1' / 'checkpoints', 3)
  forge(directory, 3, lambda record: record['arrays'].update({'params/w': 'x'}))
  checkpoints(place.folder, 1).load(3)


def damaged_metadata(place):
  directory = place.run()
  file = directory / 'stage_2/checkpoints/10/_CHECKPOINT_METADATA'
  file.write_text('{')
  checkpoints(directory).load_best()


def all_damaged(place):
  directory = place.run(finished=False, stages=1)
  for file in directory.glob('stage_1/checkpoints/*/_CHECKPOINT_METADATA'):
    file.write_text('{')
  run(directory)


def no_score(place):
  saved(place.folder / 'stage_1' / 'checkpoints', 3)
  checkpoints(place.folder, 1).load_best()


def saved_below_a_file(place):
  (place.folder / 'file').write_text('mine')
  saved(place.folder / 'file' / 'checkpoints', 1)


def members_of(name: str, stages: int = 2) -> Provoke:
  return lambda place: trained.load_members(
    place.run(stages=stages), name, place.shared.experiment
  )


def half_trained(place):
  directory = place.run()
  shutil.rmtree(directory / 'stage_2' / 'checkpoints' / '10')
  trained.load_members(directory, 'final', place.shared.experiment)


TABLE.add(
  'checkpoint',
  {
    'missing': lambda p: checkpoints(p.shared.run).load(7),
    'missing, none there': lambda p: checkpoints(p.folder).load(7),
    'of another run': forged(lineage(run='another')),
    'of other data and stage': forged(lineage(data='other', stage=1)),
    'of another teacher': forged(lineage(teacher='another')),
    'of other weights': forged(lineage(weights='others')),
    'damaged record': damaged_record,
    'damaged arrays': damaged_arrays,
    'all damaged': all_damaged,
    'none has a score': no_score,
    'of an unknown name': members_of('stage_3'),
    'of one stage twice': members_of('final,stage_2'),
    'of no trained stage': members_of('final', stages=1),
    'of a half-trained stage': half_trained,
    'none is the best': members_of('best', stages=1),
  },
)
TABLE.add(
  'checkpoint',
  {'damaged metadata': damaged_metadata},
  others='(?<=_CHECKPOINT_METADATA: JSONDecodeError: ).*',
)
TABLE.add(
  'checkpoint',
  {'saved below a file': saved_below_a_file},
  others='(?<= failed: ).*',
)


# ---- Soft targets.

N, K = 10, 3
ROWS = np.array([0, 1, 2, 8, 9])
MADE = {'dataset': 'digits', 'step': 7, 'rate': 0.1, 'subset': None}
LOGITS = np.linspace(-4, 4, N * K, dtype=np.float32).reshape(N, K)


def blocks(rows=ROWS, logits=LOGITS):
  return [(np.asarray(rows), logits[np.asarray(rows)])]


def one(row: int, value: float = 0.0, columns: int = K):
  return [(np.array([row]), np.full((1, columns), value))]


def save(folder: pathlib.Path, given=None, **changes: Any) -> pathlib.Path:
  options = {
    'num_examples': N,
    'num_classes': K,
    'temperature': 3.0,
    'provenance': MADE,
    'expected_rows': ROWS,
  }
  given = blocks() if given is None else given
  soft_targets.save(folder / 'bank', given, **{**options, **changes})
  return folder / 'bank'


def unsaved(given=None, **changes: Any) -> Provoke:
  return lambda place: save(place.folder, given, **changes)


def unloaded(
  damage: Callable[[pathlib.Path], Any] = lambda bank: None, **changes: Any
) -> Provoke:
  options = {'num_examples': N, 'num_classes': K, 'provenance': MADE}

  def provoke(place):
    bank = save(place.folder)
    damage(bank)
    soft_targets.load(bank, **{**options, **changes})

  return provoke


def flip(file: pathlib.Path) -> None:
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 4
  file.write_bytes(content)


def other_content(bank):
  rewrite(bank / 'COMPLETE', content='another')


def other_metadata(bank):
  file = bank / 'log_probs' / 'zarr.json'
  file.write_text(file.read_text().replace('0.1', '0.2'))


def files_of_someone(place):
  (place.folder / 'bank').mkdir()
  (place.folder / 'bank' / 'mine.txt').write_text('mine')
  save(place.folder)


def bank_below_a_file(place):
  (place.folder / 'file').write_text('mine')
  save(place.folder / 'file')


def bank_of_another_run(place):
  directory = place.run(finished=False, stages=1)
  bank = run_directory.soft_targets(directory, 1)
  shutil.rmtree(bank)
  save(bank.parent)
  (bank.parent / 'bank').rename(bank)
  run(directory)


def mean_of_views(place):
  bank = soft_targets.Bank(LOGITS, 3.0, {'views': {'count': 2}})
  feed.to_learn_from(bank, 2.0)


TABLE.add(
  'soft targets',
  {
    'no rows': unsaved([]),
    'one row is missing': unsaved(blocks(ROWS[:4])),
    'row twice': unsaved([*blocks(), *one(8)]),
    'row twice in a block': unsaved(blocks([0, 1, 1])),
    'unexpected row': unsaved(one(3)),
    'negative row': unsaved(one(-1)),
    'row beyond the end': unsaved(one(N)),
    'NaN': unsaved(one(1, np.nan)),
    'infinity': unsaved(one(1, np.inf)),
    'rows of a real type': unsaved([(np.array([0.0]), np.zeros((1, K)))]),
    'rows in a matrix': unsaved([(np.array([[0]]), np.zeros((1, K)))]),
    'logits of other classes': unsaved(one(0, columns=K + 1)),
    'logits of other rows': unsaved([(np.array([0]), np.zeros((2, K)))]),
    'out of the range of float16': unsaved(
      blocks(logits=LOGITS * 1e6), dtype='float16'
    ),
    'unknown type': unsaved(dtype='bfloat16'),
    'temperature of 0': unsaved(temperature=0.0),
    'infinite temperature': lambda p: soft_targets.at_temperature(
      LOGITS, 1.0, np.inf
    ),
    'expected row twice': unsaved(expected_rows=[0, 1, 1]),
    'expected row beyond the end': unsaved(expected_rows=[0, N]),
    'no expected row': unsaved(expected_rows=np.zeros(0, int)),
    'expected rows of another type': unsaved(expected_rows=np.ones(N, bool)),
    'in the place of other files': files_of_someone,
    'missing': lambda p: soft_targets.load(
      p.folder / 'none', num_examples=N, num_classes=K, provenance=MADE
    ),
    'unfinished': unloaded(lambda bank: (bank / 'COMPLETE').unlink()),
    'of another step and rate': unloaded(
      provenance={**MADE, 'step': 8, 'rate': 0.2}
    ),
    'of more and of less': unloaded(
      provenance={'dataset': 'digits', 'step': 7, 'subset': 0, 'more': None}
    ),
    'of other examples': unloaded(num_examples=N + 1),
    'of other classes': unloaded(num_classes=K - 1),
    'marker of another format': unloaded(
      lambda bank: rewrite(bank / 'COMPLETE', format=9)
    ),
    'other metadata': unloaded(other_metadata),
    'other values': unloaded(other_content),
    'no metadata': unloaded(
      lambda bank: (bank / 'log_probs' / 'zarr.json').unlink()
    ),
    'mean of views at another temperature': mean_of_views,
  },
)
TABLE.add(
  'soft targets',
  {'of another run': bank_of_another_run},
  others='[0-9a-f]{64}',
)
TABLE.add(
  'soft targets',
  {'marker is damaged': unloaded(lambda b: (b / 'COMPLETE').write_text('{'))},
  others=r'(?<=not JSON: ).*(?=\): remove it or)',
)
TABLE.add(
  'soft targets',
  {
    'damaged chunk': unloaded(
      lambda b: flip(b / 'log_probs' / 'c' / '0' / '0')
    ),
    'lost chunk': unloaded(lambda b: (b / 'log_probs/c/0/0').unlink()),
  },
  others='(?<=damaged, ).*(?=: it is made)',
)
TABLE.add(
  'soft targets',
  {'below a file': bank_below_a_file},
  others='(?<=cannot be written: ).*',
)
TABLE.add(
  'soft targets',
  {'provenance is no JSON': unsaved(provenance={'step': object()})},
  others='(?<=is not JSON: ).*',
)


# ---- Weights in and out.


def state_dict(name: str = 'resnet8') -> dict[str, np.ndarray]:
  init = functools.partial(models.create(name, 10).init, train=False)
  images = np.zeros((1, 32, 32, 3), np.float32)
  like = jax.eval_shape(init, jax.random.key(0), images)
  tensors = torch_layout.to_torch(
    jax.tree.map(lambda x: np.ones(x.shape, np.float32), dict(like))
  )
  return {key: np.ascontiguousarray(value) for key, value in tensors.items()}


def imported(
  change: Callable[[dict], dict], model: str = 'resnet8', of: str = 'resnet8'
) -> Provoke:
  def provoke(place):
    file = place.folder / 'in.safetensors'
    safetensors.numpy.save_file(change(state_dict(of)), file)
    weights_command.import_weights(file, model, place.folder / 'out')

  return provoke


def without(name: str) -> Callable[[dict], dict]:
  return lambda tensors: {k: v for k, v in tensors.items() if k != name}


def with_tensor(name: str, value: np.ndarray) -> Callable[[dict], dict]:
  return lambda tensors: {**tensors, name: value}


def import_file(name: str, content: bytes) -> Provoke:
  def provoke(place):
    place.patch.setitem(sys.modules, 'torch', None)
    (place.folder / name).write_bytes(content)
    weights_command.import_weights(
      place.folder / name, 'resnet8', place.folder / 'out'
    )

  return provoke


def import_folder(*names: str) -> Provoke:
  def provoke(place):
    for name in names:
      (place.folder / name).write_bytes(b'')
    weights_command.import_weights(place.folder, 'resnet8', place.folder)

  return provoke


def import_into_a_full_folder(place):
  (place.folder / 'out').mkdir()
  (place.folder / 'out' / 'mine').write_text('mine')
  imported(dict)(place)


def start_from_training(place):
  saved(place.folder / 'weights', 0)
  refused(init__from_path='{tmp}/weights')(place)


def start_from_what_does_not_fit(place):
  wide = functools.partial(tiny.Tiny, width=9)
  place.patch.setitem(models.MODELS, 'tiny', wide)
  refused(init__from_path='{shared.weights}')(place)


TABLE.add(
  'weights',
  {
    'no file': lambda p: weights_command.import_weights(
      p.folder / 'none.safetensors', 'resnet8', p.folder / 'out'
    ),
    'unknown model': imported(dict, model='resnet9'),
    'missing tensor': imported(without('layer1.0.bn1.bias')),
    'surplus tensor': imported(
      with_tensor('layer4.0.bn1.bias', np.zeros(3, np.float32))
    ),
    'tensor of another shape': imported(
      with_tensor('fc.bias', np.zeros(11, np.float32))
    ),
    'of another network': imported(dict, of='resnet20'),
    'no classifier': imported(without('fc.weight')),
    'no classes': imported(
      with_tensor('fc.weight', np.zeros((0, 64), np.float32))
    ),
    'NaN': imported(with_tensor('fc.bias', np.full(10, np.nan, np.float32))),
    'half precision': imported(with_tensor('fc.bias', np.zeros(10, 'f2'))),
    'integers': imported(with_tensor('fc.bias', np.zeros(10, 'i4'))),
    'no tensors': imported(lambda tensors: {}),
    'of another suffix': import_file('in.npz', b''),
    'of no suffix': import_file('in', b''),
    'a folder of a state dict': import_folder('config.json', 'a.SafeTensors'),
    'a folder of several': import_folder('a.bin', 'b.bin', 'c.json'),
    'a folder of none': import_folder('checkpoint', 'a.index'),
    'of names that have a prefix': imported(
      lambda t: {f'a.b.c{name}': value for name, value in t.items()}
    ),
    'of two networks': imported(
      lambda t: {f'{a}.{name}': t[name] for a in 'ab' for name in t}
    ),
    'without PyTorch': import_file('in.pth', b'x'),
    'into a full folder': import_into_a_full_folder,
    'start from no weights': refused(init__from_path='{tmp}/none'),
    'start from a file': refused(
      init__from_path=f'{pathlib.Path(__file__).parent}/tiny.py'
    ),
    'start from a run': refused(init__from_path='{shared.run}'),
    "start from a run's checkpoints": refused(
      init__from_path='{shared.run}/stage_1/checkpoints'
    ),
    'start from a checkpoint of training': start_from_training,
    'start from another network': refused(
      init__from_path='{shared.weights}', model__name='resnet8'
    ),
    'start from what does not fit': start_from_what_does_not_fit,
    'an ensemble exported': lambda p: weights_command.export(
      p.shared.experiment, p.shared.run, 'ensemble', 'safetensors'
    ),
  },
)
TABLE.add(
  'weights',
  {'damaged file': import_file('in.safetensors', b'{"a": 1}')},
  others=r'(?<=no safetensors file \().*(?=\)\.$)',
)
