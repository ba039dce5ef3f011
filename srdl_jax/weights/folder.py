# SPDX-License-Identifier: Apache-2.0
"""A trained network as a folder that needs nothing of this package."""

import dataclasses
import pathlib
from typing import Any

from srdl_jax import artefact, storage
from srdl_jax import config as config_lib
from srdl_jax.artefact import Artefact
from srdl_jax.errors import WorkdirError
from srdl_jax.runs.finished import FinishedRun

WEIGHTS, PROGRAM, SCRIPT = 'model.safetensors', 'model.stablehlo', 'predict.py'
# Needs jax, flatbuffers, numpy and pillow.
_SCRIPT = '''"""Says what an image shows: python predict.py IMAGE"""

import json
import pathlib
import sys

if len(sys.argv) != 2:
  sys.exit(__doc__)

import jax
import numpy
from PIL import Image, ImageOps

folder = pathlib.Path(__file__).parent
about = json.loads((folder / 'model.json').read_text())
height, width, channels = about['image_shape']
image = ImageOps.exif_transpose(Image.open(sys.argv[1]))
if image.mode.startswith('I'):  # 16 bits, of which convert would clip.
  image = Image.fromarray((numpy.asarray(image) >> 8).astype(numpy.uint8))
image = image.convert('RGB')
linear = Image.Resampling.BILINEAR
if about['resize']:  # The shorter side; the centre is cut out.
  scale = about['resize'] / min(image.size)
  size = [max(int(side * scale + 1e-6), width) for side in image.size]
  image = image.resize(size, linear)
  left = round((image.width - width) / 2)
  top = round((image.height - height) / 2)
  image = image.crop((left, top, left + width, top + height))
else:
  image = image.resize((width, height), linear)
image = image.convert('L' if channels == 1 else 'RGB')
pixels = numpy.asarray(image, numpy.uint8).reshape(1, height, width, channels)
program = (folder / 'model.stablehlo').read_bytes()
said = numpy.asarray(jax.export.deserialize(bytearray(program)).call(pixels))[0]
for label in said.argsort()[::-1][:3]:
  print(f'{about["classes"][label]}  {said[label]:.1%}')
'''
_CARD = """# {model}, trained on {data} by `{method}`

{about}

- `{weights}`: parameters and statistics by PyTorch's names;
  `load_state_dict` takes them.
- `{program}`: a StableHLO program of uint8 images [b, {shape}] to
  probabilities [b, {classes}], normalisation inside.
- `{script}`: predicts an image with it, `python {script} IMAGE`; wants
  jax, flatbuffers, numpy and pillow.
- `model.json`: classes by label, image size, how images are cut, mean and
  deviation.

## Metrics

{metrics}

## Training

{training}

{command}
"""


def refuse_full(folder: pathlib.Path) -> None:
  """Raises a WorkdirError where a folder has something in it."""
  with storage.failures(folder):
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
      raise WorkdirError(f'{folder} is not empty: give another folder.')


def write(
  folder: pathlib.Path,
  *,
  weights: bytes,
  program: bytes,
  described: Artefact,
  number: int,
  fields: dict[str, Any],
  command: str,
  run: FinishedRun | None,
  checkpoint: str,
) -> list[str]:
  """Writes the folder, all of it or nothing; returns the files' names.

  Args:
    folder: see `refuse_full`.
    weights, program: see `weights.__main__.export`.
    described: of the run.
    number: of the stage whose network it is.
    fields: of the run's configuration, flat.
    command: that trains the same; '' where there is none.
    run: what result.json says, None where the run isn't finished.
    checkpoint: its name.

  Raises:
    WorkdirError: it can't be written.
  """
  own = described.networks[number - 1]
  card = _card(described, own['model'], fields, command, run, checkpoint)
  files = {
    WEIGHTS: weights,
    PROGRAM: program,
    SCRIPT: _SCRIPT.encode(),
    'README.md': card.encode(),
  }
  folder = folder.absolute()
  with storage.failures(folder), storage.new_folder(folder) as draft:
    draft.mkdir(exist_ok=True)
    for name, content in files.items():
      (draft / name).write_bytes(content)
    artefact.write(draft, dataclasses.replace(described, networks=(own,)))
  return [*files, artefact.FILE]


def _card(
  described: Artefact,
  model: str,
  fields: dict[str, Any],
  command: str,
  run: FinishedRun | None,
  checkpoint: str,
) -> str:
  about = f'The checkpoint `{checkpoint}` of a run with seed {fields["seed"]}'
  training = 'The run was not finished when this was written.'
  metrics = 'Of the finished run alone they are known.'
  if run is not None:
    about += f', of version {run.version} (commit {run.commit or "unknown"})'
    training = (
      f'{run.train_examples or "?"} images, '
      f'{sum(stage.epochs for stage in run.stages)} epochs in all, '
      f'{run.cost.train_seconds:,.0f} s on {run.device_count} '
      f'{run.device_kind}.'
    )
    metrics = _metrics(run)
  how = f'    {command}'
  if not command:
    unusual = config_lib.told(config_lib.identity(fields))
    lines = (f'    {name} = {value!r}' for name, value in unusual.items())
    how = '\n'.join(["The fields that aren't at their defaults:", '', *lines])
  return _CARD.format(
    model=model,
    data=described.data['name'],
    method=fields['method'],
    about=f'{about}.',
    weights=WEIGHTS,
    program=PROGRAM,
    script=SCRIPT,
    shape=', '.join(map(str, described.image_shape)),
    classes=len(described.classes),
    metrics=metrics,
    training=training,
    command=how,
  )


def _metrics(run: FinishedRun) -> str:
  """Returns the test metrics of the run's networks as a table."""
  columns = {f'stage {n}': s.test for n, s in enumerate(run.stages, start=1)}
  if run.ensemble:
    columns['ensemble'] = run.ensemble
  lines = [
    'Of the test, after the last epoch of each stage; shares are fractions.',
    '',
    f'| | {" | ".join(columns)} |',
    f'|---|{"---:|" * len(columns)}',
  ]
  for name in run.final:
    values = (its.get(name, '') for its in columns.values())
    cells = (f'{v:.4f}' if isinstance(v, float) else f'{v}' for v in values)
    lines.append(f'| {name} | {" | ".join(cells)} |')
  return '\n'.join(lines)
