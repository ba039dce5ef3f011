# SPDX-License-Identifier: Apache-2.0
"""Self-Referenced Deep Learning (Lan, Zhu, Gong; ACCV 2018) in JAX.

To be read in this order:

  srdl          Algorithm 1, for any list of stages; once more at the end
  methods       a method is a list of stages; METHODS
  fields        every field: its default, meaning, range
  config        made, changed, checked, told apart
  losses        Eq 2, 5, 6, 7
  schedules     Eq 3 and 4
  metrics       exact sums: top-k, NLL, calibration
  train_state   the state, the random restart, SGD
  augment       flip, crop, normalise
  steps         the train step
  parallel      steps over devices; one exact pass over a split
  network       what predicts images, without data or training
  experiment    what a configuration stands for: bound stages, random keys
  build         from a configuration to an experiment
  soft_targets  what a bank of soft targets means
  knowledge     what a stage's end teaches: predicted once, kept
  feed          what a step reads: resident or streamed
  evaluate      metrics of networks
  stage         one stage, from fresh to final
  main          the command

Packages:

  machine    devices, what they want otherwise, what is lacking
  command    what all commands share: names, flags, help, errors, ends
  data       data sets in an order that never changes, in memory or streamed
  models     networks by name, one family a file
  targets    where the soft targets of a step come from, one method a file
  storage    files that are whole or not there, on disks and in buckets
  runs       what a run leaves behind, and what holds its directory
  weights    tensors in and out by PyTorch's names
  retrieval  features rank a gallery: CMC and mAP
  flatness   the loss around networks
  cost       what a run costs: multiply-adds, FLOPs, the paper's TrCost
  reproduce  the paper's rows, and sweeps over them
  predict    what trained networks say of new images
  api        Python's way in: train, load, fit
  report     finished runs beside the paper's tables

Beside them: errors, __main__ (every command by its name), result (result.json),
artefact (model.json: what networks see and say), imported (a finished run that
teaches), trained (a run's networks, opened again), rank (metrics of given
features), cpu (a process's use of it), board (what TensorBoard shows of a
stage's beginning).

Letters in names such as `logits_BxK`, here and in every module:

  B  examples in a batch (of one device, or of all: the docstring says which)
  N  examples in a split
  K  classes
  H, W, C  height, width and channels of an image
  D  dimensions of a feature
  S  optimiser steps in a chunk
"""

TYPE_CHECKING = False  # What typing.TYPE_CHECKING is, without an import.
if TYPE_CHECKING:
  from srdl_jax.api import Run, fit, load, train

__all__ = ['Run', '__version__', 'fit', 'load', 'train']
__version__ = '0.2.0'


def __getattr__(name: str):
  """Loads what Python's users begin with, once it is asked for: Grain's workers
  and reports import the package, and want no jax."""
  if name in __all__:
    return getattr(__import__('srdl_jax.api', fromlist=[name]), name)
  raise AttributeError(f"module 'srdl_jax' has no attribute {name!r}")
