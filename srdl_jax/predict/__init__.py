# SPDX-License-Identifier: Apache-2.0
"""What trained networks say of new images."""

import dataclasses
import glob
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from srdl_jax import evaluate, storage, trained
from srdl_jax.data import folder_files
from srdl_jax.errors import DataError
from srdl_jax.network import Member

__all__ = ['Said', 'find', 'of_files', 'together']


_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Said:
  """Predictions.

  Attributes:
    files: of the images that could be read, [n].
    probabilities: mean over the networks, float64 [n, K].
    classes: their names, by label.
    titles: the names with what they mean.
    faults: why the other files can't be read; each names its own.
  """

  files: tuple[str, ...]
  probabilities: np.ndarray
  classes: tuple[str, ...]
  titles: tuple[str, ...]
  faults: tuple[str, ...]

  def refuse_faults(self) -> None:
    """Raises a DataError if there are any."""
    if self.faults:
      raise DataError(
        f'{len(self.faults)} of {len(self.files) + len(self.faults)} file(s): '
        f'{folder_files.listed(self.faults, _SHOWN)}.'
      )

  def best(self, row: int, count: int) -> list[tuple[int, float]]:
    """Returns a file's most probable labels, with their probabilities."""
    shares = self.probabilities[row]
    order = np.argsort(-shares, kind='stable')[:count]
    return [(int(n), float(shares[n])) for n in order]


def find(given: Sequence[str]) -> list[str]:
  """Returns the files that names stand for, each once, in their order.

  Args:
    given: files; folders, for all the images below them; or patterns with * or
      **.

  Raises:
    DataError: one stands for no file.
  """
  found: dict[str, None] = {}
  for one in given:
    path = str(storage.expanded(one, 'image'))
    if os.path.isdir(path):
      files = sorted(_below(path))
    elif _is_file(path):
      files = [path]
    else:
      files = sorted(filter(_is_file, glob.glob(path, recursive=True)))
    if '**' in path:
      # It follows links that lead back, again and again: the shortest is taken.
      once = {os.path.realpath(n): n for n in sorted(files, key=len)[::-1]}
      files = sorted(once.values())
    if not files:
      raise DataError(f'{one}: there is no such image, nor one below it.')
    found |= dict.fromkeys(files)
  return list(found)


def _is_file(path: str) -> bool:
  """Returns whether it is one, or a broken link, which reading will name."""
  broken = os.path.islink(path) and not os.path.exists(path)
  return os.path.isfile(path) or broken


def _below(folder: str, above: tuple[str, ...] = ()) -> list[str]:
  """Returns the images below a folder; links are followed, but no ring."""
  here = os.path.realpath(folder)
  if here in above:
    raise DataError(f'{folder}: this link leads back to {here}; remove it.')
  found = []
  for name, kind in folder_files.entries(pathlib.Path(folder)).items():
    path = os.path.join(folder, name)
    if kind == folder_files.FOLDER:
      found += _below(path, (*above, here))
    elif name.lower().endswith(folder_files.SUFFIXES):
      found.append(path)
  return found


def together(members: Sequence[Member]) -> np.ndarray:
  """Returns the mean of some networks' probabilities, float64 [n, K]."""
  blocks = [evaluate.mean_of(said) for _, said in evaluate.said(members)]
  return np.exp(np.concatenate(blocks))


def of_files(opened: trained.Opened, files: Sequence[str]) -> Said:
  """Returns what networks of runs say of image files, together.

  Args:
    opened: see `trained.open_classifiers`.
    files: paths of images of any size and kind; see `images.NewImages`.
  """
  # Paths may lie anywhere: an absolute one stands whatever folder it is below.
  records = folder_files.Files('', tuple(map(os.path.abspath, files)))
  labels, faults = np.zeros(len(files), np.int32), {}
  members = [
    member
    for run, variables in opened
    for member in run.members(variables, records, labels, faults=faults)
  ]
  shares = together(members)
  read = [n for n in range(len(files)) if n not in faults]
  artefact = opened[0][0].artefact
  return Said(
    files=tuple(files[n] for n in read),
    probabilities=shares[read],
    classes=artefact.classes,
    titles=artefact.titles,
    faults=tuple(faults[n] for n in sorted(faults)),
  )
