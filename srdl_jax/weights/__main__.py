# SPDX-License-Identifier: Apache-2.0
"""Weights in from PyTorch's files, and out as files that need no srdl_jax.

    python -m srdl_jax.weights import --from=FILE --model=resnet50 --out=DIR
    python -m srdl_jax.weights export --workdir=DIR --out=FOLDER|FILE \
        [--format=folder|safetensors|stablehlo] [--checkpoint=final]

`import` reads a state dict (.safetensors; .pth where PyTorch is installed) into
a directory that any config starts from: --config.init.from_path=DIR. `export`
writes a trained network, for which the run's data need not be there: a state
dict with PyTorch's names; or a program, uint8 images [b, H, W, C] to
probabilities [b, K], normalisation inside, for any batch size; or a folder with
both, classes, a model card and a script that predicts without this package. The
suffix of --out says which, unless --format does: none is a folder.
"""

import dataclasses
import functools
import json
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import flags
from ml_collections import ConfigDict

from srdl_jax import command, models, storage, trained
from srdl_jax import config as config_lib
from srdl_jax import weights as weights_lib
from srdl_jax.errors import CheckpointError, ConfigError
from srdl_jax.experiment import Experiment
from srdl_jax.reproduce import Setting, scales
from srdl_jax.runs import directory as run_directory
from srdl_jax.runs import environment, finished
from srdl_jax.trained import Trained
from srdl_jax.weights import folder, state_dict
from srdl_jax.weights import torch as torch_layout

# What is written, by the suffix of its name.
_FORMS = {
  '': 'folder',
  '.safetensors': 'safetensors',
  '.stablehlo': 'stablehlo',
}
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
# What changes a family's tensors, beside its name.
VARIANTS: tuple[dict[str, Any], ...] = (
  {},
  {'small_stem': True},
  {'small_stem': False},
  {'shortcut': 'identity'},
)


def import_weights(source: pathlib.Path, model: str, out: pathlib.Path) -> str:
  """Reads a PyTorch state dict into a directory; returns a line about it.

  Args:
    source: see `state_dict.read`.
    model: a key of models.MODELS.
    out: missing or empty.

  Raises:
    ConfigError: the model is unknown.
    CheckpointError: the file is damaged, or doesn't fit the model; what
      doesn't fit is named, with both shapes.
    WorkdirError: the directory isn't empty, or can't be written.
  """
  wanted = torch_layout.shapes(_like(model, 1, 3))
  found, told = state_dict.read(source)
  tensors, changes = state_dict.of_network(source, found, model, wanted)
  how = ''.join(f' ({line})' for line in (*told, *changes))
  num_classes = state_dict.num_classes_of(source, tensors)
  variables, misfits = _fit(tensors, model, num_classes)
  weights_lib.refuse_misfits(
    f'{source} is not a {model} of {num_classes} classes{how}', misfits
  )
  weights_lib.save(out, model, variables, source.name)
  return (
    f'{len(tensors)} tensors of a {model} of {num_classes} classes are in '
    f'{out}{how}; start from them with --config.init.from_path={out}'
  )


def _like(model: str, num_classes: int, channels: int, **options: Any) -> Any:
  """Returns the shapes of a network's variables."""
  network = models.create(model, num_classes, **options)
  init = functools.partial(network.init, train=False)
  # The number of pixels is of no consequence: networks pool over them all. A
  # file may tell any number of channels: nothing has them.
  images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
  return jax.eval_shape(init, jax.random.key(0), images)


def _fit(
  tensors: Mapping[str, np.ndarray], model: str, num_classes: int
) -> tuple[dict[str, Any], list[str]]:
  """Returns variables and misfits for the options that fit, or the usual."""
  found = []
  channels = state_dict.channels_of(tensors)
  for options in VARIANTS:
    try:
      like = _like(model, num_classes, channels, **options)
    except ConfigError:  # Not an option of this family.
      continue
    variables, misfits = torch_layout.from_torch(tensors, like)
    if not misfits:
      return variables, []
    found.append((variables, misfits))
  return found[0]


def to_safetensors(variables: Any, model: str, **told: str) -> bytes:
  """Returns a state dict with PyTorch's names, checked by reading it.

  Args:
    **told: more of what the file says of itself.

  Raises:
    CheckpointError: the file would hold something else.
  """
  tensors = torch_layout.to_torch(variables)
  metadata = {'format': 'pt', 'model': model, **told}
  content = safetensors.numpy.save(tensors, metadata)
  back, misfits = torch_layout.from_torch(
    safetensors.numpy.load(content), variables
  )
  same = jax.tree.map(np.array_equal, back, variables)
  if misfits or not all(jax.tree.leaves(same)):
    raise CheckpointError('The file would not hold the weights that it is of.')
  return content


def to_stablehlo(predict: Callable[[Any], Any], shape: Sequence[int]) -> bytes:
  """Returns a serialised program of probabilities, checked by running it.

  Args:
    predict: uint8 images [b, H, W, C] to probabilities [b, K].
    shape: (H, W, C).

  Raises:
    CheckpointError: the program would compute something else.
  """
  (batch,) = jax.export.symbolic_shape('b')
  images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
  exported = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(images)
  content = bytes(exported.serialize())
  again = jax.export.deserialize(bytearray(content))
  rng = np.random.default_rng(0)
  for count in (1, 3):
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    # Compiled as well: in bfloat16 an uncompiled one rounds elsewhere.
    expected = jax.jit(predict)(images)
    if not np.allclose(again.call(images), expected, rtol=1e-4, atol=1e-6):
      raise CheckpointError('The program does not compute what the model does.')
  return content


def export(
  experiment: Experiment | Trained,
  directory: pathlib.Path,
  name: str,
  form: str,
) -> bytes:
  """Returns the file of a run's checkpoint.

  Args:
    name: 'final', 'best' or 'stage_N'.
    form: 'safetensors' or 'stablehlo'.

  Raises:
    ConfigError: the name stands for several networks, or for none.
    CheckpointError: there is no such checkpoint, or it is damaged.
  """
  network, variables = trained.load_one(directory, name, experiment)
  if form == 'safetensors':
    about = json.dumps(dataclasses.asdict(experiment.artefact))
    return to_safetensors(variables, network.name, artefact=about)

  def predict(images):
    return jax.nn.softmax(network.predict_step(variables, images))

  return to_stablehlo(predict, network.image_shape)


def _folder(opened: Trained, name: str, out: pathlib.Path) -> list[str]:
  """Writes a folder of a checkpoint; returns the names of its files."""
  folder.refuse_full(out)
  weights, program = (
    export(opened, opened.workdir, name, form)
    for form in ('safetensors', 'stablehlo')
  )
  (number,) = trained.load_members(opened.workdir, name, opened)
  identity = run_directory.load_identity(opened.workdir)
  run = None
  if storage.exists(opened.workdir / run_directory.RESULT):
    run = finished.read(opened.workdir)
  return folder.write(
    out,
    weights=weights,
    program=program,
    described=opened.artefact,
    number=number,
    fields=config_lib.flatten(identity.config),
    command=_training_command(identity.config),
    run=run,
    checkpoint=name,
  )


def _training_command(config: ConfigDict) -> str:
  """Returns the command that trains a configuration, with the file that comes
  along for its data; '' where there is none."""
  if config.data.name not in command.bundled.names():
    return ''
  arguments = f'model={config.model.name},method={config.method}'
  if config.data.path and config.data.name in ('folder', 'imagenet'):
    arguments = f'path=DIR,{arguments}'
  setting = Setting(config.data.name, config.model.name, config.method)
  ours, usual = map(config_lib.flatten, (config, scales.config(setting)))
  flags_given = [
    f'--config.{name}={shlex.quote(str(config[name]))}'
    for name, value in config_lib.identity(ours).items()
    if value != usual[name]
  ]
  given = ' '.join([f'--config={config.data.name}:{arguments}', *flags_given])
  return f'srdl train {given} --workdir=DIR'


def _required(name: str) -> str:
  value = flags.FLAGS[name].value
  if not value:
    raise ConfigError(f'--{name} is missing.')
  return value


def _path(name: str) -> pathlib.Path:
  return run_directory.local(_required(name), f'--{name}')


def main(argv: Sequence[str]) -> None:
  """Imports or exports weights."""
  if len(argv) > 2:
    raise ConfigError(f'Unexpected argument {argv[2]!r}: files have flags.')
  if argv[1:] == ['import']:
    print(import_weights(_path('from'), _required('model'), _path('out')))
  elif argv[1:] == ['export']:
    directory = run_directory.resolve(_required('workdir'))
    out = _path('out')
    args = flags.FLAGS
    form = args.format or _FORMS.get(out.suffix)
    if form is None:
      raise ConfigError(
        f'--out={out}: say --format=folder, safetensors or stablehlo, or end '
        'the name in .safetensors or .stablehlo.'
      )
    environment.use_compilation_cache()
    with trained.precision([directory]):
      opened = trained.open_networks(directory, args.data_dir)
      if form == 'folder':
        print(f'{out}: {", ".join(_folder(opened, args.checkpoint, out))}')
        return
      content = export(opened, directory, args.checkpoint, form)
    storage.replace(out, content)
    if form == 'stablehlo':
      about = dataclasses.asdict(opened.artefact)
      storage.write_json(out.with_name(f'{out.name}.json'), about)
    print(f'{out}: {len(content):,} bytes')
  else:
    raise ConfigError('Say what to do: import or export.')


if __name__ == '__main__':
  flags.DEFINE_string('from', None, 'import: file to read.')
  flags.DEFINE_string('model', None, 'import: a key of models.MODELS.')
  flags.DEFINE_string(
    'out', None, 'Directory (import); folder or file (export).'
  )
  flags.DEFINE_string('workdir', None, 'export: run directory.')
  flags.DEFINE_string('checkpoint', 'final', 'export: final, best or stage_N.')
  flags.DEFINE_enum(
    'format',
    None,
    ['folder', 'safetensors', 'stablehlo'],
    'export: what is written, if not what the suffix of --out says.',
  )
  flags.DEFINE_string(
    'data_dir', None, 'export: TFDS directory, if not the one of the run.'
  )
  command.run(main, positional=True)
