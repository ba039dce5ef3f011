# SPDX-License-Identifier: Apache-2.0
"""Small photos of three classes in a folder, and a run on them."""

import pathlib
import shutil

import numpy as np
import tiny
from PIL import Image

from srdl_jax import srdl
from srdl_jax.runs import stop_request

CLASSES = ('brick', 'grass', 'sky')
SIZE = 16


def draw(rng: np.random.Generator, label: int, size=(24, 20)) -> Image.Image:
  """Draws noise around the colour of a class; `size` is width and height."""
  pixels = rng.integers(0, 120, (size[1], size[0], 3))
  pixels[..., label] += 120
  return Image.fromarray(pixels.astype(np.uint8))


def write(folder: pathlib.Path, count: int = 10, seed: int = 0) -> None:
  """Writes FOLDER/<class>/<n>.png, `count` of each class."""
  rng = np.random.default_rng(seed)
  for label, name in enumerate(CLASSES):
    (folder / name).mkdir(parents=True)
    for number in range(count):
      draw(rng, label).save(folder / name / f'{number}.png')


def config(folder: pathlib.Path, **fields):
  """Returns a run on such a folder."""
  return tiny.config(
    **{
      'data.name': 'folder',
      'data.path': str(folder),
      'data.image_size': SIZE,
      'data.examples_per_class': 0,
      'data.workers': 0,
      'augment.padding': 0,
      'batch_size': 8,
      'epochs': 8,
      # Else a network of these few pixels diverges.
      'optimiser.learning_rate': 0.01,
      **fields,
    }
  )


def train_and_remove(place: pathlib.Path, **fields) -> pathlib.Path:
  """Makes a run on photos, PLACE/run, and takes these away; returns `place`.

  Others of the same classes are in PLACE/new.
  """
  write(place / 'images')
  write(place / 'new', count=4, seed=1)
  made = config(place / 'images', **fields)
  srdl.run(made, str(place / 'run'), stop_request.StopRequest())
  shutil.rmtree(place / 'images')
  return place
