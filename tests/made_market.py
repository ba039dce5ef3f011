# SPDX-License-Identifier: Apache-2.0
"""A small Market-1501 of drawn figures, in the official layout.

`python tests/made_market.py DIR` writes it.

A figure's identity shows in its clothes: colours, the shirt's texture, trousers
or a skirt, a bag. Cameras differ in tint, brightness, sharpness and in how they
cut the figure out. Identities of the test wear other clothes than those of the
training set, of the same kinds.
"""

import colorsys
import dataclasses
import io
import itertools
import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FOLDER = 'Market-1501-v15.09.15'
WIDTH, HEIGHT = 64, 128
TEXTURES = ('plain', 'across', 'down', 'checks', 'dots')


@dataclasses.dataclass(frozen=True)
class Made:
  """What is in the folder.

  Attributes:
    folder: the official folder itself; `manual_dir` is it or its parent.
    names: by official folder, the images' names, sorted.
    counts: as `checks.counts_of` tells them.
  """

  folder: pathlib.Path
  names: dict[str, list[str]]
  counts: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Clothes:
  shirt: tuple[int, int, int]
  texture: str
  trousers: tuple[int, int, int]
  skirt: bool
  bag: bool
  hair: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class _Camera:
  tint: np.ndarray
  blur: float
  tightness: float
  background: tuple[int, int, int]


def make(
  directory: pathlib.Path,
  *,
  train_identities: int = 24,
  test_identities: int = 16,
  cameras: int = 4,
  per_camera: int = 4,
  distractors: int = 20,
  junk: int = 20,
  first_camera: int = 1,
  oddities: bool = True,
  seed: int = 0,
) -> Made:
  """Writes the official folder, about 3 kB and 3 ms an image.

  Each identity of the test has one query from each camera, and `per_camera`
  images in the gallery and in gt_bbox. As in the official folder, the latter
  holds identities of the training set, too.

  Args:
    directory: where the folder goes; it exists.
    train_identities: to train on; odd numbers.
    test_identities: to look for; even numbers.
    cameras: that see every identity; at most 99.
    per_camera: images of an identity by a camera.
    distractors: images of others, called 0000.
    junk: images of parts of persons, called -1.
    first_camera: number of the first one.
    oddities: Thumbs.db, a text file, and names that end in .jpg.jpg.
    seed: of all that is random.

  Returns:
    What is in it.
  """
  rng = np.random.default_rng(seed)
  total = train_identities + test_identities
  clothes = _wardrobe(rng, total + distractors + junk)
  lenses = [_lens(rng) for _ in range(cameras)]
  views = list(itertools.product(range(cameras), range(per_camera)))
  images: dict[str, dict[str, Image.Image]] = {
    name: {}
    for name in ('bounding_box_train', 'bounding_box_test', 'query', 'gt_bbox')
  }

  def add(folder, identity, who, view, box, part=False):
    camera, shot = view
    # Identities of 0 and -1 share their numbers: frames tell them apart.
    frame = 1000 * shot + 25 * box + 100_000 * (who % 10) + who
    number = first_camera + camera
    name = f'{identity}_c{number}s1_{frame % 1_000_000:06}_{box:02}.jpg'
    image = _photograph(clothes[who], lenses[camera], rng, part)
    images[folder][name] = image

  for who in range(total):
    trained = who < train_identities
    place = who if trained else who - train_identities
    identity = f'{2 * place + (1 if trained else 2):04}'
    for view in views:
      folder = 'bounding_box_train' if trained else 'bounding_box_test'
      add(folder, identity, who, view, box=1)
      add('gt_bbox', identity, who, view, box=0)
    for camera in () if trained else range(cameras):
      add('query', identity, who, (camera, per_camera), box=0)
  for number, who in enumerate(range(total, total + distractors + junk)):
    name = '0000' if number < distractors else '-1'
    view = views[number % len(views)]
    add('bounding_box_test', name, who, view, box=2, part=name == '-1')
  return _write(directory / FOLDER, images, oddities)


def encoded(image: Image.Image) -> bytes:
  """Returns an image as a JPEG file."""
  content = io.BytesIO()
  image.save(content, 'JPEG', quality=90)
  return content.getvalue()


def _write(folder, images, oddities) -> Made:
  for name, members in images.items():
    (folder / name).mkdir(parents=True)
    if oddities:
      (folder / name / 'Thumbs.db').write_bytes(b'of a file manager')
      first = min(members)
      members[f'{first}.jpg'] = members.pop(first)
    for file, image in members.items():
      (folder / name / file).write_bytes(encoded(image))
  if oddities:
    (folder / 'readme.txt').write_text('Drawn figures, made for a test.\n')
  names = {name: sorted(members) for name, members in images.items()}
  return Made(folder, names, _counts(names))


def _counts(names: dict[str, list[str]]) -> dict[str, int]:
  train, query, gallery = (
    [int(name.partition('_c')[0]) for name in names[folder]]
    for folder in ('bounding_box_train', 'query', 'bounding_box_test')
  )
  return {
    'training images': len(train),
    'training identities': len(set(train)),
    'queries': len(query),
    'query identities': len(set(query)),
    'good gallery images': sum(identity > 0 for identity in gallery),
    'distractors': gallery.count(0),
    'junk images': gallery.count(-1),
  }


def _wardrobe(rng: np.random.Generator, count: int) -> list[_Clothes]:
  """Draws clothes, no two alike: hues are spread, and then combined."""
  kinds = itertools.product(
    range(8), TEXTURES, range(4), (False, True), (False, True)
  )
  chosen = rng.permutation(np.array(list(kinds), dtype=object))[:count]
  assert len(chosen) == count, f'{count} persons are too many'
  return [
    _Clothes(
      shirt=_colour(shirt / 8, 0.85, 0.85),
      texture=texture,
      trousers=_colour(0.12 + trousers / 4, 0.6, 0.55),
      skirt=bool(skirt),
      bag=bool(bag),
      hair=tuple(int(rng.integers(20, 120)) for _ in range(3)),
    )
    for shirt, texture, trousers, skirt, bag in chosen
  ]


def _lens(rng: np.random.Generator) -> _Camera:
  return _Camera(
    tint=rng.uniform(0.75, 1.15, 3) * rng.uniform(0.8, 1.1),
    blur=rng.uniform(0.3, 1.3),
    tightness=rng.uniform(0.85, 1.1),
    background=tuple(int(level) for level in rng.integers(90, 190, 3)),
  )


def _colour(hue: float, saturation: float, value: float):
  levels = colorsys.hsv_to_rgb(hue % 1, saturation, value)
  return tuple(round(255 * level) for level in levels)


def _photograph(
  clothes: _Clothes, camera: _Camera, rng: np.random.Generator, part: bool
) -> Image.Image:
  """Draws a figure as a camera sees it; of junk a part, far off the middle."""
  figure = Image.new('RGB', (2 * WIDTH, 2 * HEIGHT), camera.background)
  _draw(ImageDraw.Draw(figure), clothes, rng)
  scale = camera.tightness * rng.uniform(0.93, 1.07)
  wide, tall = 2 * WIDTH / scale, 2 * HEIGHT / scale
  middle = np.array([WIDTH, HEIGHT]) + rng.uniform(-6, 6, 2)
  if part:
    middle += rng.choice([-1, 1], 2) * (0.7 * WIDTH, 0.6 * HEIGHT)
  left, top = middle - (wide / 2, tall / 2)
  view = figure.transform(
    (WIDTH, HEIGHT),
    Image.Transform.EXTENT,
    (left, top, left + wide, top + tall),
    Image.Resampling.BILINEAR,
    fillcolor=camera.background,
  ).filter(ImageFilter.GaussianBlur(camera.blur))
  light = camera.tint * rng.uniform(0.9, 1.1)
  noise = rng.normal(0, 4, (HEIGHT, WIDTH, 3))
  pixels = np.asarray(view) * light + noise
  return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw(draw: ImageDraw.ImageDraw, clothes: _Clothes, rng) -> None:
  """Draws a figure of 128 x 256 pixels: walking, so legs and arms vary."""
  step, swing = (int(at) for at in rng.integers((4, -6), (14, 7)))
  skin = (205, 165, 140)
  ground = tuple(int(level) for level in rng.integers(60, 110, 3))
  draw.rectangle((0, 225, 128, 256), fill=ground)
  for side in (-1, 1):
    hip, foot = 64 + 9 * side, 64 + (9 + step) * side
    draw.line(
      (hip, 145, foot, 236), fill=skin if clothes.skirt else clothes.trousers,
      width=15,
    )  # fmt: skip
    draw.ellipse((foot - 9, 230, foot + 9, 244), fill=(35, 30, 30))
    shoulder, hand = 64 + 24 * side, 64 + (30 + swing * side) * side
    draw.line((shoulder, 66, hand, 136), fill=clothes.shirt, width=11)
    draw.ellipse((hand - 6, 132, hand + 6, 144), fill=skin)
  if clothes.skirt:
    draw.polygon(((44, 138), (84, 138), (98, 192), (30, 192)), clothes.trousers)
  else:
    draw.rectangle((45, 136, 83, 158), fill=clothes.trousers)
  draw.rounded_rectangle((40, 56, 88, 142), 8, fill=clothes.shirt)
  _pattern(draw, clothes)
  if clothes.bag:
    draw.line((44, 60, 90, 120), fill=(60, 40, 25), width=5)
    draw.rounded_rectangle((80, 112, 108, 146), 4, fill=(75, 50, 30))
  draw.ellipse((50, 20, 78, 56), fill=skin)
  draw.pieslice((48, 16, 80, 52), 180, 360, fill=clothes.hair)


def _pattern(draw: ImageDraw.ImageDraw, clothes: _Clothes) -> None:
  light = tuple(255 - (255 - level) // 4 for level in clothes.shirt)
  if clothes.texture in ('across', 'checks'):
    for top in range(62, 138, 18):
      draw.rectangle((42, top, 86, top + 7), fill=light)
  if clothes.texture in ('down', 'checks'):
    for left in range(44, 84, 16):
      draw.rectangle((left, 60, left + 6, 138), fill=light)
  if clothes.texture == 'dots':
    for left, top in itertools.product(range(46, 82, 16), range(64, 134, 18)):
      draw.ellipse((left, top, left + 9, top + 9), fill=light)


if __name__ == '__main__':
  destination = pathlib.Path(sys.argv[1])
  destination.mkdir(parents=True, exist_ok=True)
  make(destination)
