# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a lent accelerator: what is first, cut, gone on with."""

import argparse
import dataclasses
import hashlib
import json
import signal
import sys

import made_cifar
import pytest
import started
from clock import Clock

from srdl_jax import data
from srdl_jax.errors import ConfigError
from srdl_jax.runs.stop_request import StopRequest

FOLDER = started.ROOT / 'benchmarks'
FLAGS = {
  'minutes': 10,
  'patience': 3,
  'plan': False,
  'only': [],
  'dataset': 'digits',
  'data': '',
  'data_dir': '',
  'network': 'resnet8',
  'batch_size': 32,
  'images': 64,
  'steps': 2,
  'rounds': 1,
  'recipes': ['strong', 'paper'],
  'seeds': 2,
  'fields': ['epochs=2'],
  'at_once': 0,
}
ABOUT = {
  'device': {'count': 1, 'kind': 'X1'},
  'versions': {'jax': '0.1'},
  'commit': 'abc',
}


@pytest.fixture
def accelerator(monkeypatch, tmp_path):
  monkeypatch.syspath_prepend(FOLDER)
  import accelerator

  given = argparse.Namespace(**FLAGS, out=str(tmp_path))
  monkeypatch.setattr(accelerator, 'FLAGS', given)
  monkeypatch.setattr(accelerator, 'tell', lambda line: None)
  return accelerator


@pytest.fixture
def clock(accelerator, monkeypatch):
  clock = Clock()
  monkeypatch.setattr(accelerator, 'time', clock)
  return clock


def begun_by(accelerator, clock, seconds, parts, takes):
  """Works for so many seconds; returns what was begun, and what failed.

  Args:
    parts: names and needs.
    takes: seconds that each takes, or an error.
  """
  begun = []

  def measure(name, stop):
    begun.append(name)
    if takes[name] is None:
      raise accelerator.Unmeasured('no such thing')
    for _ in range(takes[name]):
      if stop:
        raise accelerator.Unmeasured('its time was over')
      clock.sleep(1)
    return {'found': name, **ABOUT}

  made = [accelerator.Part(name, needs, measure) for name, needs in parts]
  until = accelerator.Stop(clock.now + seconds, StopRequest())
  return begun, accelerator.work(made, until)


def test_what_fits_is_done_once_and_the_rest_another_time(
  accelerator, clock, tmp_path
):
  parts = [('a', 60), ('b', 90), ('c', 10), ('d', 5)]
  takes = {'a': 50, 'b': 80, 'c': 25, 'd': 5}
  call = accelerator, clock, 70, parts, takes
  # After a there is no time for b; c begins, is cut, and leaves nothing for d.
  assert begun_by(*call) == (['a', 'c'], [])
  assert [p.stem for p in sorted(tmp_path.glob('*.json'))] == ['a']
  before = (tmp_path / 'a.json').read_bytes()
  assert clock.now == 70
  assert begun_by(accelerator, clock, 130, parts, takes) == (
    ['b', 'c', 'd'],
    [],
  )
  assert (tmp_path / 'a.json').read_bytes() == before
  assert begun_by(*call) == ([], [])


def test_what_fails_has_no_file_and_stops_nothing(accelerator, clock, tmp_path):
  parts = [('a', 5), ('slow', 5), ('b', 5)]
  takes = {'a': None, 'slow': 100, 'b': 1}
  found = begun_by(accelerator, clock, 500, parts, takes)
  # One that takes more than three times what it needs is ended.
  assert found == (['a', 'slow', 'b'], ['a', 'slow'])
  assert [p.stem for p in tmp_path.glob('*.json')] == ['b']
  assert clock.now == 16


def planned(accelerator):
  return dict(accelerator.plan(accelerator.parts()))


def test_the_first_runs_come_before_other_speeds_and_seeds(accelerator):
  names = [*planned(accelerator)]
  shape = [n.partition('-seed')[0].rpartition('-')[0] or n for n in names]
  first = [
    'digits-resnet8-' + m for m in ('vanilla', 'label_smoothing', 'srdl')
  ]
  assert shape[:4] == ['correctness', 'speed', 'epoch', 'together']
  assert shape[4:7] == first and all(n.endswith('seed0') for n in names[4:7])
  # Then the recipe that comes second, then the next seed.
  assert [n[-1] for n in names[-9:]] == [*'000111111']
  assert shape[-9:] == 3 * first
  assert len({*names}) == len(names)


def test_a_plan_counts_what_was_measured(accelerator, tmp_path):
  accelerator.FLAGS.only = ['epoch', 'together', 'runs-first']
  assert {*planned(accelerator).values()} == {
    '45 s',
    'as far as time goes: epoch is not measured yet',
  }
  measured = {
    'epoch_seconds': 150.0,
    'steps_per_dispatch': 1,
    'steps_images_per_second': 100.0,
  }
  accelerator.write('epoch', measured | ABOUT, 1.0)
  *_, vanilla, smoothed, srdl = planned(accelerator).values()
  # 600 s but for the reserve and 45 s for together, and runs of two epochs.
  assert [vanilla, smoothed] == [
    'about 300 s',
    'about 300 s, 235 s of them now',
  ]
  assert srdl == 'no time'
  speeds = {'1': 100.0, '2': 150.0}
  both = {'images_per_second': speeds, 'best': 2, **ABOUT}
  accelerator.write('together', both, 1.0)
  assert [*planned(accelerator).values()] == [
    'done',
    'done',
    'about 200 s',
    'about 200 s',
    'about 200 s, 180 s of them now',
  ]


def test_an_unknown_part_and_another_networks_directory_are_refused(
  accelerator,
):
  accelerator.refuse_another()
  accelerator.FLAGS.network = 'resnet20'
  with pytest.raises(ConfigError, match='has results of .*resnet8'):
    accelerator.refuse_another()
  accelerator.FLAGS.only = ['speed']
  with pytest.raises(ConfigError, match="Unknown part 'speed'"):
    accelerator.parts()


def test_a_summary_has_no_number_that_was_not_measured(accelerator, tmp_path):
  speeds = {'product': 1234.0, 'bare_step': 1200.0}
  over = {'bare_step': 1.03}
  found = {'images_per_second': speeds, 'product_over': over, **ABOUT}
  accelerator.write('speed-tf32', found, 1.0)
  said = (tmp_path / 'summary.md').read_text().splitlines()
  tables = [line for line in said if line.startswith('|')]
  assert tables[2:] == ['| tf32 | 1,234 | 1,200 |  |  |']
  assert '- device: 1 x X1' in said and '- commit: abc' in said
  assert not any('torch' in line for line in said[:8])


def test_pieces_become_the_files_that_they_were_made_of(
  accelerator, tmp_path, monkeypatch
):
  import cifar_pieces

  spec = made_cifar.spec_of('cifar100')
  path = tmp_path / 'official' / spec.file
  files = made_cifar.binary_files('cifar100')
  made_cifar.pack(path, files)
  spec = dataclasses.replace(
    spec, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
  )
  tfds = tmp_path / 'tfds'
  spec.load(data.Location(str(tfds), str(path.parent), download=False))
  monkeypatch.setattr(cifar_pieces, '_SPEC', spec)
  monkeypatch.setattr(cifar_pieces, 'PIECE', 7)
  cifar_pieces.pack(str(tfds), tmp_path / 'pieces')
  assert len([*(tmp_path / 'pieces').glob('*.npy')]) == 6
  folder = cifar_pieces.unpack(tmp_path / 'pieces', tmp_path / 'out')
  assert {p.name: p.read_bytes() for p in folder.iterdir()} == files


# Of a GPU that isn't here, what its processes would say.
COMPARED = f"""
import json, sys
sys.path.insert(0, {str(FOLDER)!r})
import epochs, numpy as np

def compare(params, same_with):
  count = 0

  def asked(role, into, *rest, **variables):
    nonlocal count
    count += 1
    on_cpu = variables.get('JAX_PLATFORMS') == 'cpu'
    after = 1.5 if on_cpu else params
    tensors = {{'before/params/w': 1.0, 'after/params/w': after,
               'before/batch_stats/m': 0.0, 'after/batch_stats/m': 2.0}}
    np.savez(into.partition('=')[2], **tensors)
    same = same_with in variables.get('XLA_FLAGS', '')
    return {{'digest': 'a' if same else count, 'loss': 1.0,
            'device': {{'platform': 'gpu'}}}}

  epochs.asked = asked
  print(json.dumps(epochs.correctness()))

compare(1.505, '')
compare(1.505, 'deterministic_ops=true')
compare(1.515, 'nothing')
compare(float('nan'), '')
"""


def test_steps_are_compared_by_their_change_and_bits_with_and_without_a_flag():
  ended = started.run([sys.executable, '-c', COMPARED], check=True)
  near, flagged, far, broken = map(json.loads, ended.stdout.splitlines())
  # 0.005 and 0.015 of a way of 0.5; 0.02 is allowed.
  assert near['differences'] == {
    'params': pytest.approx(0.01),
    'batch_stats': 0.0,
  }
  assert near['agrees'] and near['same_bits'] and not near['tried']
  flag = '--xla_gpu_deterministic_ops=true'
  assert not flagged['same_bits']
  assert flagged['same_bits_with'] == flagged['tried'] == flag
  assert far['differences']['params'] == pytest.approx(0.03)
  assert not (far['agrees'] or far['same_bits'] or far['same_bits_with'])
  assert far['tried'] == flag
  assert broken['differences']['params'] is None and not broken['agrees']
  for found in (near, flagged, far, broken):
    assert not {'digest', 'loss'} & found.keys()


# All of it, on CPU.


def command(out, *more):
  given = FLAGS | {
    'minutes': 100,
    # Of a machine that has much else to do.
    'patience': 100,
    'recipes': ['strong'],
    'seeds': 1,
    'fields': ['epochs=40', 'data.examples_per_class=10', 'batch_size=32'],
  }
  told = [
    f'--{name}={",".join(value) if isinstance(value, list) else value}'
    for name, value in given.items()
    if value
  ]
  program = [sys.executable, str(FOLDER / 'accelerator.py'), f'--out={out}']
  return [*program, *told, *more]


def run(out, *more):
  done = started.run(command(out, *more), timeout=6000)
  assert done.returncode == 0, (done.stdout, done.stderr)
  return done


def names_begun(said):
  return [
    line.split()[1].removesuffix(':')
    for line in said.splitlines()
    if line.endswith(': started') and 'runs-' not in line
  ]


def contents(out):
  paths = [*out.glob('*.json'), *out.glob('runs/*/*.json')]
  return {path: path.read_bytes() for path in paths}


@pytest.mark.slow
def test_all_of_it_is_done_whatever_cuts_it(tmp_path):
  out = tmp_path / 'out'
  plan = run(out, '--plan').stdout.splitlines()
  assert not out.exists()
  names = [line.partition(': ')[0] for line in plan]

  # The first run is asked to end once it trains.
  process = started.start(command(out, '--only=runs-first'))
  started.wait_until(
    lambda: any(p.stat().st_size for p in out.glob('runs/*/metrics.jsonl'))
  )
  process.send_signal(signal.SIGTERM)
  assert process.wait(started.SECONDS) == 0
  assert not (out / 'runs-first.json').exists()
  (cut,) = (p.parent for p in out.glob('runs/*/metrics.jsonl'))
  assert not (cut / 'result.json').exists()
  assert [*cut.glob('stage_1/checkpoints/*')]

  # What two minutes hold, and the rest.
  some = run(out, '--minutes=2')
  before = contents(out)
  rest = run(out)
  after = contents(out)
  # Which tells of runs as they finish.
  before.pop(out / 'runs-first.json', None)
  assert before.items() <= after.items()
  begun = names_begun(some.stderr) + names_begun(rest.stderr)
  assert {*begun} == {*names}
  assert sorted(names_begun(rest.stderr), key=names.index) == names_begun(
    rest.stderr
  )
  assert 'goes on from step' in (out / 'logs' / f'{cut.name}.log').read_text()
  again = run(out)
  assert not names_begun(again.stderr) and contents(out) == after
  assert run(out, '--plan').stdout.splitlines() == [f'{n}: done' for n in names]

  for path in out.glob('*.json'):
    found = json.loads(path.read_text())
    if path.stem != 'flags':
      assert {'command', 'commit', 'versions', 'device', 'date'} <= {*found}
  found = json.loads((out / 'correctness.json').read_text())
  assert found['agrees'] and found['same_bits']
  summary = (out / 'summary.md').read_text()
  for name in ('vanilla', 'label_smoothing', 'srdl', 'bfloat16'):
    assert f'| {name} |' in summary
