# SPDX-License-Identifier: Apache-2.0
"""A CIFAR of a few images, in every form that people have it in."""

import dataclasses
import io
import pickle
import struct
import tarfile

import numpy as np

from srdl_jax.data import cifar
from srdl_jax.data.cifar_files import PIXELS

CLASSES = 3
EACH = {'train': 10, 'test': 2}
SPECS = {'cifar10': cifar.CIFAR10, 'cifar100': cifar.CIFAR100}
PICKLED = {'cifar10': 'cifar-10-batches-py', 'cifar100': 'cifar-100-python'}
BINARY = {'cifar10': 'cifar-10-batches-bin', 'cifar100': 'cifar-100-binary'}
NAMES = [f'label_{i}' for i in range(CLASSES)]


def records(name):
  """Per file, its records."""
  rng, found = np.random.default_rng(0), {}
  files = SPECS[name].files
  for split, each in EACH.items():
    labels = np.tile(np.arange(CLASSES), each)
    columns = [labels] if name == 'cifar10' else [labels // 2, labels]
    pixels = rng.integers(256, size=(len(labels), PIXELS))
    rows = np.column_stack((*columns, pixels)).astype(np.uint8)
    names = files.records[split]
    found |= dict(zip(names, np.array_split(rows, len(names)), strict=True))
  return found


def binary_files(name):
  files = {file: rows.tobytes() for file, rows in records(name).items()}
  names = ''.join(f'{n}\n' for n in NAMES).encode()
  return files | dict.fromkeys(SPECS[name].files.classes.values(), names)


class Python2(pickle._Pickler):
  """Writes texts, bytes and booleans as Python 2 did."""

  dispatch = dict(pickle._Pickler.dispatch)

  def save_text(self, value):
    content = value.encode() if isinstance(value, str) else value
    self.write(pickle.BINSTRING + struct.pack('<i', len(content)) + content)

  def save_number(self, value):
    self.write(pickle.BININT1 + bytes([value]))

  dispatch[str] = dispatch[bytes] = save_text
  dispatch[bool] = save_number


def python2(value):
  content = io.BytesIO()
  Python2(content, protocol=2).dump(value)
  return content.getvalue().replace(b'numpy._core.', b'numpy.core.')


def pickled_files(name, dumps=python2, as_bytes=False):
  meta, *keys = SPECS[name].files.pickled
  text = (lambda t: t.encode()) if as_bytes else str
  found = {meta: {text(key): [text(n) for n in NAMES] for key in keys}}
  for file, rows in records(name).items():
    batch = {text('data'): rows[:, -PIXELS:].copy()}
    for place, key in enumerate(keys):
      batch[text(key.replace('_names', 's'))] = rows[:, place].tolist()
    found[file.removesuffix('.bin')] = batch
  return {file: dumps(content) for file, content in found.items()}


def write(folder, files):
  folder.mkdir(parents=True)
  for file, content in files.items():
    (folder / file).write_bytes(content)


def pack(path, files, folder='folder'):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w:gz') as tar:
    for file, content in files.items():
      header = tarfile.TarInfo(f'{folder}/{file}')
      header.size = len(content)
      tar.addfile(header, io.BytesIO(content))


def spec_of(name, **changes):
  small = {'num_classes': CLASSES, 'per_class': EACH}
  return dataclasses.replace(SPECS[name], **{**small, **changes})
