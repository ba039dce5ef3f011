# SPDX-License-Identifier: Apache-2.0
"""Images/s of the streamed training pipeline, and of PyTorch's DataLoader.

    python benchmarks/input_pipeline.py [--workers=2] [--batch_size=32] \
        [--steps=20] [--rounds=5] [--images=400]

Made JPEGs of ImageNet's sizes are read, decoded, cropped at random and resized
to 224 x 224 pixels, in batches, by

- `processes`: `pipeline.batches` with --workers processes;
- `threads`: the same with threads of one process, as many as cores;
- `pytorch`: a DataLoader with --workers processes over an ImageFolder:
  RandomResizedCrop, RandomHorizontalFlip, PILToTensor: uint8, as ours;
- `pytorch_float`: the usual recipe: ToTensor and Normalize in place of
  PILToTensor. Ours normalises on the device;
- `tf_data`: tf.data with --workers threads: decode_and_crop_jpeg with the
  accurate DCT, as Pillow's, antialiased resize, uint8;
- `tf_data_usual`: its defaults: the fast DCT, and no antialiasing.

Ours mirrors images on the device, too. They take turns in one process. Each
round first uses up what was made ahead, and ends when that is made again:
neither the start of workers nor what was made during another's turn is
counted. Prints one JSON line: medians of images/s, of the seconds of a core
that an image takes (of all processes together), and of each round's ratios, in
which above 1 is for ours. Where other programs share the cores, images/s tell
how many threads ask for them; read the seconds then. Per core means per worker,
or per core where there are fewer.

`bank` is the time that looking up a batch's soft targets takes, [256, 1000]
of a bank of 100,000 float16 rows, over the time in which `processes` makes 256
images: as they are stored, and brought to another temperature.

PyTorch takes part where it is installed with torchvision, TensorFlow where it
is installed.
"""

import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import other_pipelines
from absl import app, flags
from PIL import Image

from srdl_jax.data import folder_files, pipeline, sampling
from srdl_jax.data.images import StreamedImages

CORES = len(os.sched_getaffinity(0))
WORKERS = flags.DEFINE_integer(
  'workers', CORES, 'Processes that decode.', lower_bound=1
)
BATCH = flags.DEFINE_integer('batch_size', 32, 'Images in a batch.')
STEPS = flags.DEFINE_integer('steps', 20, 'Batches in a round.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds that are counted.')
IMAGES = flags.DEFINE_integer('images', 400, 'JPEGs, at least a batch.')

SIZE = 224
OURS = ('processes', 'threads')
# Batches a worker may have ready, or in work: more than any of them has. Six
# were counted after a pause for `processes`, two for PyTorch.
AHEAD = 10
QUALITY = 96
# (width, height) and its share. ImageNet's mean is about 470 x 390.
SIZES = (
  ((500, 375), 0.5),
  ((375, 500), 0.15),
  ((500, 333), 0.15),
  ((320, 240), 0.12),
  ((800, 600), 0.05),
  ((1600, 1200), 0.03),
)
BANK_ROWS, CLASSES, LOOKED_UP, LOOKUPS = 100_000, 1000, 256, 50
PACKAGES = ('grain', 'pillow', 'torch', 'torchvision')
# TensorFlow's package for CPU alone has a name of its own.
TF_PACKAGES = ('tensorflow', 'tensorflow-cpu')
# Images/s, and core seconds an image.
Speed = tuple[float, float]
Round = Callable[[], Speed]


def write_images(directory: pathlib.Path) -> dict[str, Any]:
  """Makes JPEGs in a class folder out of two photographs.

  Returns:
    Their mean size in bytes and megapixels.
  """
  from sklearn import datasets

  rng = np.random.default_rng(0)
  photographs = datasets.load_sample_images().images
  # Mirrored side by side: large enough to be scaled down, which keeps the
  # detail that fresh photographs have.
  mosaics = [
    Image.fromarray(np.pad(p, ((0, 1281), (0, 1920), (0, 0)), 'symmetric'))
    for p in photographs
  ]
  directory.mkdir()
  sizes, shares = zip(*SIZES, strict=True)
  bounds = np.cumsum(shares)[:-1]
  pixels = written = 0
  for number in range(IMAGES.value):
    # The same mix whatever the number.
    wide, high = sizes[np.searchsorted(bounds, (number * 0.618034) % 1)]
    mosaic = mosaics[rng.integers(len(mosaics))]
    most = min(mosaic.width / wide, mosaic.height / high, 2.0)
    scale = rng.uniform(1.0, most)
    left = rng.uniform(0, mosaic.width - wide * scale)
    top = rng.uniform(0, mosaic.height - high * scale)
    box = (left, top, left + wide * scale, top + high * scale)
    image = mosaic.resize((wide, high), Image.Resampling.LANCZOS, box)
    path = directory / f'{number:05}.jpg'
    image.save(path, quality=QUALITY)
    pixels += wide * high
    written += path.stat().st_size
  return {
    'count': IMAGES.value,
    'mean_bytes': written / IMAGES.value,
    'mean_megapixels': pixels / IMAGES.value / 1e6,
  }


def core_seconds() -> float:
  """Returns the core seconds that this process and its workers have used."""
  workers = (worker.pid for worker in multiprocessing.active_children())
  ticks = 0
  for name in ('self', *workers):
    # The name, in brackets, may hold anything.
    told = pathlib.Path(f'/proc/{name}/stat').read_text().rpartition(')')[2]
    ticks += sum(map(int, told.split()[11:13]))
  return ticks / os.sysconf('SC_CLK_TCK')


def timed_round(batches: Iterator) -> Round:
  """Returns a function that times STEPS batches."""
  ahead = AHEAD * WORKERS.value
  images = STEPS.value * BATCH.value

  def run() -> Speed:
    for _ in range(ahead):
      next(batches)
    begun, used = time.monotonic(), core_seconds()
    for _ in range(STEPS.value):
      next(batches)
    spent, used = time.monotonic() - begun, core_seconds() - used
    # It works ahead now, not while another is measured.
    time.sleep(ahead * spent / STEPS.value + 0.2)
    return images / spent, used / images

  return run


def needed() -> int:
  """Batches that one of the competitors makes in all."""
  a_round = STEPS.value + AHEAD * WORKERS.value
  return (ROUNDS.value + 1) * a_round + AHEAD * WORKERS.value


def our_batches(root: pathlib.Path, workers: int) -> Iterator:
  """Returns the iterator that a streamed stage reads from."""
  paths = sorted(str(p.relative_to(root)) for p in root.glob('*/*.jpg'))
  records = folder_files.Files(str(root), tuple(paths))
  images = StreamedImages(records, size=SIZE, resize=256, orient=True)
  source = pipeline.TrainingViews(
    images=images,
    drawn=sampling.Drawn(
      0, 1, np.arange(len(paths)), np.zeros(len(paths)), BATCH.value
    ),
    epochs=-(-needed() // (len(paths) // BATCH.value)),
    own=np.arange(BATCH.value),
  )
  return pipeline.batches(source, BATCH.value, workers=workers)


def take_turns(root: pathlib.Path) -> dict[str, list[Speed]]:
  """Returns each competitor's speed by round, without the first."""
  common = (root, SIZE, BATCH.value, WORKERS.value)
  # PyTorch's come first: it forks, which threads of this process might upset.
  competitors = other_pipelines.torch_batches(*common, needed())
  competitors['processes'] = our_batches(root, WORKERS.value)
  competitors['threads'] = our_batches(root, 0)
  competitors |= other_pipelines.tf_batches(*common)
  runs = {name: timed_round(b) for name, b in competitors.items()}
  speeds = {name: [] for name in runs}
  for _ in range(ROUNDS.value + 1):
    for name, run in runs.items():
      speeds[name].append(run())
  for name in OURS:
    competitors[name].close()
  return {name: found[1:] for name, found in speeds.items()}


def lookup_seconds() -> dict[str, float]:
  """Returns the median time in which a batch's soft targets are looked up."""
  from srdl_jax import feed, soft_targets

  rng = np.random.default_rng(0)
  logits = rng.standard_normal((1000, CLASSES)).astype(np.float32)
  part = soft_targets.soften(logits, 3.0).astype(np.float16)
  bank = soft_targets.Bank(
    np.tile(part, (BANK_ROWS // 1000, 1)), 3.0, {'views': 0}
  )
  times = {'as_stored': [], 'other_temperature': []}
  for _ in range(LOOKUPS):
    rows = rng.integers(BANK_ROWS, size=LOOKED_UP)
    for name, temperature in zip(times, (3.0, 2.0), strict=True):
      begun = time.monotonic()
      feed.to_learn_from(bank, temperature, rows)
      times[name].append(time.monotonic() - begun)
  return {name: statistics.median(found) for name, found in times.items()}


def ratios(found: dict[str, list[float]], better: int) -> dict[str, float]:
  """Returns the medians of ours over each other's, round by round.

  Args:
    found: by competitor and round.
    better: 1 where more is better, else -1: for theirs over ours.
  """
  return {
    f'{ours}_over_{theirs}': statistics.median(
      (a / b) ** better for a, b in zip(found[ours], found[theirs], strict=True)
    )
    for ours in OURS
    for theirs in found
    if theirs not in OURS
  }


def versions() -> dict[str, str]:
  found = {}
  for name in (*PACKAGES, *TF_PACKAGES):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def main(argv: Sequence[str]) -> None:
  del argv
  with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    files = write_images(root / 'class')
    found = take_turns(root)
  speeds, used = (
    {name: [speed[at] for speed in rounds] for name, rounds in found.items()}
    for at in range(2)
  )
  medians = {name: statistics.median(s) for name, s in speeds.items()}
  cores = min(WORKERS.value, CORES)
  looked_up = lookup_seconds()
  a_batch = LOOKED_UP / medians['processes']
  # It imports JAX, which no worker should.
  import jax

  from srdl_jax.runs.environment import environment

  around = environment(jax.devices('cpu')[:1])
  print(
    json.dumps(
      {
        'images_per_second': medians,
        'images_per_second_per_core': {
          name: speed / cores for name, speed in medians.items()
        },
        'core_seconds_an_image': {
          name: statistics.median(seconds) for name, seconds in used.items()
        },
        'ratios': ratios(speeds, 1),
        'core_seconds_ratios': ratios(used, -1),
        'bank': {
          'seconds': looked_up,
          'share': {name: s / a_batch for name, s in looked_up.items()},
        },
        'files': files,
        'workers': WORKERS.value,
        'cores': CORES,
        'batch_size': BATCH.value,
        'steps': STEPS.value,
        'rounds': ROUNDS.value,
        **around,
        'versions': {**around['versions'], **versions()},
      }
    )
  )


if __name__ == '__main__':
  app.run(main)
