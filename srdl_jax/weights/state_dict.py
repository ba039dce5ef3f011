# SPDX-License-Identifier: Apache-2.0
"""State dicts in files of anyone's: tensors by PyTorch's names."""

import collections
import contextlib
import itertools
import os
import pathlib
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors

from srdl_jax import models, storage
from srdl_jax.errors import CheckpointError, ConfigError
from srdl_jax.storage import arrays
from srdl_jax.weights import torch as torch_layout

STEMS = ('conv1', 'features.conv0')
# What a script counts beside the weights; a network here has none such.
_COUNTS = ('bool', *(f'{u}int{n}' for u in ('', 'u') for n in (8, 16, 32, 64)))
_DTYPES = {f'F{n}': f'float{n}' for n in (16, 32, 64)} | {'BF16': 'bfloat16'}
_DTYPES |= {f'I{n}': f'int{n}' for n in (8, 16, 32, 64)}
_DTYPES |= {f'U{n}': f'uint{n}' for n in (8, 16, 32, 64)} | {'BOOL': 'bool'}
_SAFE = '.safetensors'
# A tensor's name; beyond it lies damage.
_LONGEST = 300
# NumPy takes no more.
_MOST_AXES = 64
# Of the names in a message.
_FEW = 4
# Of PyTorch's pickles, as they are found; .tar is that of .pth.tar. What has
# none is read as one, too: PyTorch asks for no suffix.
_PICKLED = (
  *('.pth', '.pt', '.th', '.bin', '.ckpt', '.tar', '.pkl', '.pickle'),
  *('.pyth', '.model'),
)
# Under which training scripts keep a state dict, those of means last.
_WRAPPERS = (
  *('state_dict', 'model_state_dict', 'model', 'net', 'network', 'module'),
  *('state_dict_ema', 'model_ema', 'ema'),
)
# What torch.compile and DataParallel put before the names in a module.
_WRAPPED = re.compile(r'(^|\.)(?:(?:_orig_mod|module)\.)+')


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], list[str]]:
  """Reads the tensors of a PyTorch state dict.

  Args:
    path: a .safetensors file, or one of PyTorch's (.pth, .pt, .th, .bin, ...),
      which needs it and is loaded without running any code that it may hold.

  Returns:
    Finite float32 tensors by name, counts of batches left out; and what was
    chosen on the way.

  Raises:
    CheckpointError: the file can't be read, or a tensor isn't of float32 or
      not finite.
    ConfigError: PyTorch is needed and isn't installed.
  """
  suffix = path.suffix.lower()
  storage.reachable(path, 'weights', CheckpointError)
  if path.is_dir():
    raise CheckpointError(_of_folder(path))
  if not path.is_file():
    raise CheckpointError(f'{path}: there is no such file.')
  if suffix not in (_SAFE, *_PICKLED, ''):
    raise CheckpointError(
      f"{path}: {suffix} can't be read: give a "
      f'state dict of PyTorch, as {_SAFE} or .pth.'
    )
  found, told, counts = {}, [], []
  tensors = _safetensors(path) if suffix == _SAFE else _pickled(path, told)
  for name, dtype, value in tensors:
    if not (name.isprintable() and len(name) < _LONGEST):
      raise CheckpointError(f'{path}: a tensor is named {name!r:.99}.')
    if name.endswith(torch_layout.IGNORED):
      continue
    if dtype in _COUNTS:
      counts.append(name)
      continue
    if dtype != 'float32':
      raise CheckpointError(
        f'{path}: {name} is {dtype}, not float32: convert the file first.'
      )
    # An expanded tensor is one number in the file; memory is all of them.
    if value.nbytes > path.stat().st_size:
      raise CheckpointError(
        f'{path}: {name} {value.shape} is larger than the file.'
      )
    if not np.isfinite(value).all():
      raise CheckpointError(f'{path}: {name} holds a NaN or an infinity.')
    found[name] = value
  if not found:
    raise CheckpointError(f'{path}: there are no tensors in it.')
  if counts:
    told.append(f'left out, whole numbers: {_first(counts)}')
  return found, told


def _of_folder(path: pathlib.Path) -> str:
  """Returns what to say of a folder in place of a file."""
  inside = [
    file
    for file in sorted(path.iterdir())
    if file.suffix.lower() in (_SAFE, *_PICKLED)
  ]
  if not inside:
    return (
      f'{path} is a folder without a state dict of PyTorch: give a '
      f"{_SAFE} or .pth file; Orbax's, Flax's and TensorFlow's checkpoints "
      "can't be read."
    )
  if any(re.search(r'-\d+-of-\d+\.', file.name) for file in inside):
    return f'{path} is a folder of parts of one file: join them first.'
  if len(inside) > 1:
    names = _first([file.name for file in inside])
    return f'{path} is a folder: give one of its files ({names}).'
  return f'{path} is a folder: give {inside[0]}.'


def _first(names: Sequence[str]) -> str:
  more = f' and {len(names) - _FEW} more' if len(names) > _FEW else ''
  return ', '.join(names[:_FEW]) + more


def _safetensors(
  path: pathlib.Path,
) -> Iterator[tuple[str, str, np.ndarray | None]]:
  try:
    with safetensors.safe_open(path, framework='np') as file:
      for name in sorted(file.keys()):
        dtype = file.get_slice(name).get_dtype()
        # NumPy has no bfloat16.
        value = file.get_tensor(name) if dtype == 'F32' else None
        yield name, _DTYPES.get(dtype, dtype), value
  except (safetensors.SafetensorError, *arrays.DAMAGE) as error:
    raise CheckpointError(
      f'{path} is damaged, or no safetensors file ({arrays.reason_of(error)}).'
    ) from error


def _pickled(
  path: pathlib.Path, told: list[str]
) -> Iterator[tuple[str, str, np.ndarray | None]]:
  try:
    import torch
  except ImportError as error:
    raise ConfigError(
      f'{path}: PyTorch is needed for its files, and is not '
      f'installed. Install it, or take a {_SAFE} file.'
    ) from error
  _refuse_compressed(path)
  try:
    loaded = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:
    # Damage shows as an error of the unpickler, of zip files, or of PyTorch.
    raise CheckpointError(
      f'{path} is damaged, or holds more than tensors: PyTorch does not load '
      f'it with weights_only ({type(error).__name__}).'
    ) from error
  for name, value in _opened(path, loaded, told).items():
    if not (isinstance(value, torch.Tensor) and value.layout == torch.strided):
      raise CheckpointError(
        f'{path} is not a state dict of dense tensors: {name!r:.99} is none.'
      )
    if value.is_meta:
      raise CheckpointError(f'{path}: {name} has a shape, but no values.')
    if value.ndim > _MOST_AXES:
      raise CheckpointError(f'{path}: {name} has {value.ndim} dimensions.')
    dtype = str(value.dtype).removeprefix('torch.')
    # Forced, as some are stored with their sign apart.
    yield name, dtype, value.numpy(force=True) if dtype == 'float32' else None


def _refuse_compressed(path: pathlib.Path) -> None:
  """Raises a CheckpointError where more would be unpacked than the file holds;
  PyTorch compresses nothing, but reads what is."""
  unpacked = 0
  # An older one is no zip file; damage is found by who reads it.
  with contextlib.suppress(*arrays.DAMAGE), zipfile.ZipFile(path) as archive:
    unpacked = sum(member.file_size for member in archive.infolist())
  if unpacked > path.stat().st_size:
    raise CheckpointError(
      f'{path} is compressed, to be unpacked to {unpacked:,} bytes: save it '
      'with torch.save.'
    )


def _opened(
  path: pathlib.Path, loaded: Any, told: list[str]
) -> Mapping[str, Any]:
  """Returns the state dict of what a training script saved."""
  # Deeper than any script; a dict may hold itself.
  for _ in range(4):
    known = _WRAPPERS if isinstance(loaded, dict) else ()
    within = [name for name in known if isinstance(loaded.get(name), dict)]
    if not within:
      break
    if len(within) > 1:
      told.append(f'{within[0]} is read, not {", ".join(within[1:])}')
    loaded = loaded[within[0]]
  if not (isinstance(loaded, dict) and all(isinstance(n, str) for n in loaded)):
    raise CheckpointError(
      f'{path} is not a state dict of dense tensors, which has names.'
    )
  return loaded


def of_network(
  path: pathlib.Path,
  tensors: Mapping[str, np.ndarray],
  model: str,
  wanted: Collection[str],
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns a network's tensors by its own names, and what was done to them.

  A prefix that makes names the network's is taken off; what lacks it, and isn't
  the network's either, is left out then.

  Args:
    path: of the file, for messages.
    tensors: see `read`.
    wanted: the network's names.

  Raises:
    CheckpointError: most names aren't the network's, or several tensors have
      one.
  """
  names = {n: n if n in wanted else _present_name(n) for n in tensors}
  hits = collections.Counter(
    prefix
    for name in names.values()
    for prefix in _prefixes(name)
    if name[len(prefix) :] in wanted
  )
  most = max(hits.values(), default=0)
  # Any layer within another network may be named as one of these.
  if 2 * most < min(len(names), len(wanted)):
    raise CheckpointError(
      f'{path} holds no {model}: names begin with {_begin(names)}, such as '
      f'{min(names)}; wanted are such as {min(wanted)}.'
    )
  prefix, *rivals = sorted((p for p in hits if hits[p] == most), key=len)
  if rivals and prefix:
    raise CheckpointError(
      f'{path} holds several networks: names begin with {prefix!r} and '
      f'{rivals[0]!r}. Write one of them to a file of its own.'
    )
  own = collections.defaultdict(list)
  for name, bare in names.items():
    if bare.startswith(prefix) or bare in wanted:
      own[bare.removeprefix(prefix)].append(name)
  if twice := next((those for those in own.values() if len(those) > 1), None):
    raise CheckpointError(
      f'{path}: {" and ".join(twice[:2])} are the same tensor of a {model}: '
      'remove one.'
    )
  used = {*itertools.chain(*own.values())}
  left = [name for name in names if name not in used]
  told = _done([n for n in names if n not in wanted], prefix, left)
  return {bare: tensors[first] for bare, (first,) in own.items()}, told


def _done(
  foreign: Sequence[str], prefix: str, left: Sequence[str]
) -> list[str]:
  """Tells what was taken off names that aren't the network's, and left out."""
  wrapped = {
    found[0].lstrip('.')
    for name in foreign
    for found in _WRAPPED.finditer(name)
  }
  told = []
  if taken := [*sorted(wrapped), *filter(None, [prefix])]:
    told.append(f'taken off names: {", ".join(map(repr, taken))}')
  if left:
    more = f' and {len(left) - 1} more' if left[1:] else ''
    told.append(f'{left[0]}{more} left out, as other things')
  return told


def _present_name(name: str) -> str:
  # torchvision's published DenseNets have the names of an older version.
  name = _WRAPPED.sub(r'\1', name)
  return re.sub(r'(denselayer\d+\.(?:norm|conv))\.([12])\.', r'\1\2.', name)


def _prefixes(name: str) -> list[str]:
  parts = name.split('.')
  return ['.'.join([*parts[:n], '']) if n else '' for n in range(len(parts))]


def _begin(names: Collection[str]) -> str:
  """Returns how all names begin, or else some of the ways."""
  common = os.path.commonprefix([*names])
  if '.' in common:
    return repr(common[: common.rindex('.') + 1])
  parts = dict.fromkeys(repr(name.partition('.')[0]) for name in names)
  return ', '.join([*parts][:_FEW])


def num_classes_of(path: pathlib.Path, tensors: Mapping[str, Any]) -> int:
  """Returns the number of classes of a state dict's classifier.

  Raises:
    CheckpointError: it has none.
  """
  for classifier in models.CLASSIFIERS:
    weight = tensors.get(f'{classifier}.weight')
    # Without numbers in it, a shape may tell any number.
    if weight is not None and weight.ndim == 2 and weight.size:
      return len(weight)
  names = ' or '.join(f'{name}.weight [K, D]' for name in models.CLASSIFIERS)
  raise CheckpointError(f'{path}: there is no classifier, {names}.')


def channels_of(tensors: Mapping[str, Any]) -> int:
  """Returns the number of an image's channels; 3 where no stem tells it."""
  for stem in STEMS:
    weight = tensors.get(f'{stem}.weight')
    if weight is not None and weight.ndim == 4 and weight.size:
      return weight.shape[1]
  return 3
