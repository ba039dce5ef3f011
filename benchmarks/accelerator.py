# SPDX-License-Identifier: Apache-2.0
"""All that matters on an accelerator that is there for some minutes.

    python benchmarks/accelerator.py --minutes=12 --out=DIR [--plan] \\
        [--data=DIR] [--data_dir=DIR] [--at_once=N] [--only=PART,...]
    python benchmarks/accelerator.py --pack=DIR [--data_dir=DIR]

What is worth most comes first. Each result is a file of DIR once it is there;
the same command goes on where time was over, and repeats nothing:

- `correctness`: benchmarks/epochs.py: two train steps against the CPU's, and
  the bits of a run of --steps steps against those of the same run again.
- `speed-...`: benchmarks/train_step.py in one precision, next to PyTorch where
  that has CUDA; `graphs` are PyTorch's CUDA graphs.
- `epoch`: benchmarks/epochs.py: an epoch with all that a run does, and its
  train steps alone; `dispatch-N`: those in calls of N steps.
- `together`: the same, images/s of one, two and three processes that train at
  once. Runs take the best number, unless --at_once says how many.
- `runs-...`: --dataset by vanilla, label smoothing and SRDL, by each of
  --recipes, seed by seed, in ordinary run directories. What is left of the
  speeds comes after those of the first recipe and seed. Those that time cuts
  are saved, and gone on with.

What couldn't be measured has no file; its log is in DIR/logs. DIR/summary.md
shows all there is. --plan says what fits into the time, and runs nothing.

--data names a copy of the data set (docs/data.md) or what --pack writes of a
TFDS directory: CIFAR-100 as uint8 arrays below 64 MiB each. It is prepared in
DIR/data, once. benchmarks/README.md says which packages that takes.
"""

import ast
import contextlib
import dataclasses
import datetime
import functools
import importlib.util
import json
import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import accelerator_summary
from absl import app, flags, logging

from srdl_jax import cpu, storage
from srdl_jax.errors import ConfigError, Interrupted, SrdlError, unknown
from srdl_jax.reproduce import Row, Setting, scales, sweep
from srdl_jax.runs import finished, stop_request

HERE = pathlib.Path(__file__).resolve().parent
FLAGS = flags.FLAGS
METHODS = ('vanilla', 'label_smoothing', 'srdl')
# Seconds: to save the runs that are cut; and that a run is worth beginning for.
RESERVE, WORTH_A_RUN = 20, 20
Found = dict[str, Any]


class Unmeasured(Exception):
  """A part brought no result; the text says why."""


class Stop(stop_request.StopRequest):
  """Asks to end at a time, or where another one does."""

  def __init__(self, until: float, other: stop_request.StopRequest):
    super().__init__()
    self.until, self._other = until, other

  def __bool__(self) -> bool:
    return bool(self._other) or time.monotonic() >= self.until

  @property
  def seconds_left(self) -> float:
    return self.until - time.monotonic()


@dataclasses.dataclass(frozen=True)
class Part:
  """Something to measure, or runs to train.

  Attributes:
    name: its file is `name`.json.
    needs: seconds that it is begun with at least, and planned for.
    measure: from its name and when to stop to what is written.
    jobs: the runs, of a part that trains.
  """

  name: str
  needs: float
  measure: Callable[[str, Stop], Found]
  jobs: tuple[sweep.Job, ...] = ()

  @property
  def is_done(self) -> bool:
    if self.jobs:
      return all(job.is_done for job in self.jobs)
    return result_file(self.name).exists()


def out() -> pathlib.Path:
  return pathlib.Path(FLAGS.out).absolute()


def result_file(name: str) -> pathlib.Path:
  return out() / f'{name}.json'


def result_of(name: str) -> Found:
  """Returns what a part has written, nothing if it hasn't."""
  path = result_file(name)
  return storage.read_json(path) if path.exists() else {}


def at_once() -> int:
  return FLAGS.at_once or result_of('together').get('best', 1)


def tell(line: str) -> None:
  storage.say(f'{time.strftime("%H:%M:%S")} {line}')


def last_line(arguments: Sequence[str], name: str, stop: Stop) -> str:
  """Runs a Python program, of which nothing is left; returns its last line.

  Raises:
    Unmeasured: it fails, or `stop` ends it.
  """
  log = out() / 'logs' / f'{name}.log'
  log.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile('w+') as said, open(log, 'a') as told:
    process = subprocess.Popen(
      [sys.executable, *arguments],
      stdout=said,
      stderr=told,
      start_new_session=True,
    )
    try:
      while process.poll() is None:
        if stop:
          raise Unmeasured('its time was over')
        time.sleep(0.1)
    finally:
      # What it has started, too.
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    said.seek(0)
    lines = said.read().splitlines()
  if process.returncode or not lines:
    line = sweep.last_line(log)
    raise Unmeasured(f'exit code {process.returncode}: {line} (log: {log})')
  return lines[-1]


def printed(arguments: Sequence[str], name: str, stop: Stop) -> Found:
  """Returns the JSON that a benchmark prints, and its command."""
  file, *rest = arguments
  found = json.loads(last_line([str(HERE / file), *rest], name, stop))
  return {'ran': shlex.join(['python', f'benchmarks/{file}', *rest]), **found}


def parts() -> list[Part]:
  """Returns all parts that --only doesn't leave out.

  Raises:
    ConfigError: it names one that there isn't.
  """
  same = [f'--batch_size={FLAGS.batch_size}', f'--rounds={FLAGS.rounds}']
  same.append(f'--model={FLAGS.network}')
  speed = ['train_step.py', *same, f'--steps={FLAGS.steps}']
  epochs = ['epochs.py', *same, f'--images={FLAGS.images}']

  def asked(name: str, needs: float, *arguments: str) -> Part:
    return Part(name, needs, functools.partial(printed, arguments))

  def trained(name: str, jobs: tuple[sweep.Job, ...]) -> Part:
    return Part(name, WORTH_A_RUN, functools.partial(train, jobs), jobs)

  jobs, first = runs(), len(METHODS)
  alone = [*epochs, '--as=epoch']
  # In a loop XLA's CPU backend takes many times as long.
  on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu' or cpu.is_alone()
  lengths = [1] if on_cpu else sorted({1, 10, FLAGS.images // FLAGS.batch_size})
  made = [
    asked(
      'correctness', 60, *epochs, '--as=correctness', f'--many={FLAGS.steps}'
    ),
    asked('speed-tf32', 90, *speed, '--precision=tf32'),
    asked('epoch', 45, *alone),
    asked('together', 45, *epochs, '--as=together'),
    *prepared(),
    trained('runs-first', jobs[:first]),
    asked('speed-bfloat16', 90, *speed, '--precision=bfloat16'),
    asked('speed-float32', 90, *speed, '--precision=float32'),
    *(
      asked(f'dispatch-{n}', 45, *alone, f'--steps_per_dispatch={n}')
      for n in lengths
    ),
  ]
  if importlib.util.find_spec('torch'):
    graphs = '--precision=tf32', '--graphs'
    made.append(asked('speed-tf32-graphs', 120, *speed, *graphs))
  if jobs[first:]:
    made.append(trained('runs-rest', jobs[first:]))
  names = [part.name for part in made]
  if strange := [name for name in FLAGS.only if name not in names]:
    raise ConfigError(unknown('part', strange[0], names))
  return [part for part in made if part.name in (FLAGS.only or names)]


def prepared() -> list[Part]:
  """Returns what prepares --data, if it is given."""
  if not FLAGS.data:
    return []
  place, copy = out() / 'data', pathlib.Path(FLAGS.data).absolute()

  def prepare(name: str, stop: Stop) -> Found:
    import cifar_pieces

    folder = copy
    if (copy / cifar_pieces.NAMES).exists():
      folder = place / 'cifar-100-binary'
      cifar_pieces.unpack(copy, folder)
    where = f'--manual_dir={folder}', f'--data_dir={place}', '--nodownload'
    program = ['-m', 'srdl_jax.data.prepare', FLAGS.dataset, *where]
    return {'told': last_line(program, name, stop)}

  return [Part('data', 60, prepare)]


def fields() -> tuple[tuple[str, Any], ...]:
  """Returns what --fields sets: Python's values, or else texts."""
  found: dict[str, Any] = {}
  for item in FLAGS.fields:
    name, _, found[name] = item.partition('=')
    with contextlib.suppress(ValueError, SyntaxError):
      found[name] = ast.literal_eval(found[name])
  return tuple(found.items())


def runs() -> tuple[sweep.Job, ...]:
  """Returns the runs: seed by seed, and recipe by recipe."""
  named = FLAGS.dataset, FLAGS.network
  rows = [
    Row('', method, Setting(*named, method, recipe, fields()), ())
    for recipe in FLAGS.recipes
    for method in METHODS
  ]
  extra = [('data.data_dir', FLAGS.data_dir)] if FLAGS.data_dir else []
  if FLAGS.data:
    extra = [('data.data_dir', out() / 'data'), ('data.download', False)]
  jobs = sweep.run_jobs(
    out(),
    rows,
    lambda row: FLAGS.seeds,
    extra=lambda setting: extra,
    work=lambda setting: scales.config(setting).epochs,
  )
  return tuple(jobs)


def train(jobs: Sequence[sweep.Job], name: str, stop: Stop) -> Found:
  """Trains runs; returns those that are finished.

  Raises:
    Unmeasured: none is.
  """
  del name
  if (slots := at_once()) > 1:
    # Else the first would take the memory of all.
    os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  failed = {}
  with contextlib.suppress(Interrupted):
    failed = sweep.Sweep(out(), jobs, slots, tell).run(stop)
  done = [job for job in jobs if job.is_done]
  if not done:
    why = next(iter(failed.values()), 'its time was over')
    raise Unmeasured(f'no run is finished: {why}')
  told = finished.load(done[0].done.parent)
  return {
    'at_once': slots,
    'failed': failed,
    'runs': [finished_run(job) for job in done],
    **{key: told[key] for key in ('device', 'versions', 'commit')},
  }


def finished_run(job: sweep.Job) -> Found:
  run = finished.read(job.done.parent)
  return {
    'run': job.name,
    'ran': shlex.join(['python', *map(str, job.command)]),
    'method': run.fields['method'],
    'weight_decay': run.fields['optimiser.weight_decay'],
    'seed': run.seed,
    'accuracy': run.final['accuracy'],
    'train_seconds': run.cost.train_seconds,
    'evaluate_seconds': run.cost.evaluate_seconds,
    'extract_seconds': run.cost.extract_seconds,
  }


def plan(found: Sequence[Part]) -> Iterator[tuple[str, str]]:
  """Yields each part's and run's name, and what will become of it."""
  left = FLAGS.minutes * 60 - RESERVE
  seconds = result_of('epoch').get('epoch_seconds')
  speeds = result_of('together').get('images_per_second', {})
  if seconds and (faster := speeds.get(str(at_once()))):
    seconds *= speeds['1'] / faster
  for part in found:
    if part.is_done and not part.jobs:
      yield part.name, 'done'
    elif not part.jobs:
      fits = left >= part.needs
      yield part.name, f'{part.needs:.0f} s' if fits else 'no time'
      left -= part.needs if fits else 0
    for job in part.jobs:
      if job.is_done:
        yield job.name, 'done'
      elif left < part.needs:
        yield job.name, 'no time'
      elif not seconds:
        yield job.name, 'as far as time goes: epoch is not measured yet'
      else:
        needs = job.work * seconds
        cut = f', {left:.0f} s of them now' if needs > left else ''
        yield job.name, f'about {needs:.0f} s{cut}'
        left -= min(needs, left)


def work(found: Sequence[Part], stop: Stop) -> list[str]:
  """Does what isn't done and fits into the time; returns what failed."""
  failed = []
  for part in found:
    if part.is_done:
      continue
    if stop or stop.seconds_left < part.needs:
      tell(f'{part.name}: left for another time')
      continue
    tell(f'{part.name}: started')
    begun = time.monotonic()
    most = math.inf if part.jobs else FLAGS.patience * part.needs
    try:
      measured = part.measure(
        part.name, Stop(min(begun + most, stop.until), stop)
      )
    except Unmeasured as error:
      tell(f'{part.name}: {error}')
      if not stop:
        failed.append(part.name)
      continue
    failed += measured.pop('failed', [])
    if not measured.get('agrees', True):
      failed.append(part.name)
    write(part.name, measured, time.monotonic() - begun)
    tell(f'{part.name}: there' if part.is_done else f'{part.name}: goes on')
  return failed


def write(name: str, measured: Found, seconds: float) -> None:
  """Writes a part's file, and the summary of all."""
  program = ['python', 'benchmarks/accelerator.py', *sys.argv[1:]]
  about = {
    'part': name,
    'command': shlex.join(program),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'seconds': seconds,
  }
  storage.write_json(result_file(name), about | measured)
  paths = sorted(out().glob('*.json'))
  text = accelerator_summary.of({p.stem: storage.read_json(p) for p in paths})
  storage.replace(out() / 'summary.md', text.encode())


def refuse_another() -> None:
  """Raises a ConfigError where results are of other networks or sizes."""
  names = 'network', 'dataset', 'batch_size', 'images', 'steps', 'rounds'
  ours, path = {n: getattr(FLAGS, n) for n in names}, result_file('flags')
  theirs = storage.read_json(path) if path.exists() else ours
  if ours != theirs:
    raise ConfigError(f'{out()} has results of {theirs}: give another --out.')
  if not FLAGS.plan:
    out().mkdir(parents=True, exist_ok=True)
    storage.write_json(path, ours)


def main(argv: Sequence[str]) -> None:
  begun = time.monotonic()
  del argv
  logging.set_verbosity(logging.WARNING)
  if FLAGS.pack:
    import cifar_pieces

    cifar_pieces.pack(FLAGS.data_dir, pathlib.Path(FLAGS.pack))
    return
  if not FLAGS.out:
    raise ConfigError('--out=DIR is missing.')
  found = parts()
  refuse_another()
  if FLAGS.plan:
    for name, what in plan(found):
      print(f'{name}: {what}')
    return
  with stop_request.listen() as heard:
    until = begun + FLAGS.minutes * 60 - RESERVE
    failed = work(found, Stop(until, heard))
  if left := [part.name for part in found if not part.is_done]:
    tell(f'not done: {", ".join(left)}')
  if failed:
    sys.exit(f'error: {", ".join(failed)} failed')


if __name__ == '__main__':
  # Not where a run's process imports this file: it has flags of its own.
  flags.DEFINE_float('minutes', 12, 'How long all may take.')
  flags.DEFINE_string('out', None, 'Directory of the results.')
  flags.DEFINE_float('patience', 3, 'Times its plan that a part may take.')
  flags.DEFINE_boolean('plan', False, 'Say what would be done.')
  flags.DEFINE_list('only', [], 'Names of parts.')
  flags.DEFINE_string('dataset', 'cifar100', 'A file of configs/.')
  flags.DEFINE_string('data', '', 'A copy of the data set, or its pieces.')
  flags.DEFINE_string('data_dir', '', 'TFDS directory.')
  flags.DEFINE_string('pack', '', 'Write the pieces of CIFAR-100 there.')
  flags.DEFINE_string('network', 'resnet32', 'A key of models.MODELS.')
  flags.DEFINE_integer('batch_size', 128, 'Images in a step that is timed.')
  flags.DEFINE_integer('images', 50_000, 'Images of an epoch that is timed.')
  flags.DEFINE_integer('steps', 200, 'Steps of a turn, or trained twice.')
  flags.DEFINE_integer('rounds', 5, 'Turns and epochs that are counted.')
  flags.DEFINE_list('recipes', ['strong', 'paper'], 'Of the runs.')
  flags.DEFINE_integer('seeds', 5, 'Of each method and recipe.')
  flags.DEFINE_list('fields', [], 'Fields of all runs, such as epochs=60.')
  flags.DEFINE_integer('at_once', 0, 'Runs at once; 0: as `together` found.')
  try:
    app.run(main)
  except SrdlError as error:
    sys.exit(f'error: {error}')
