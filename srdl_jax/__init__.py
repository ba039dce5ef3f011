# SPDX-License-Identifier: Apache-2.0
"""Self-Referenced Deep Learning (Lan, Zhu, Gong; ACCV 2018) in JAX.

Letters in names such as `logits_BxK`, here and in every module:

  B  examples in a batch (of one device, or of all: the docstring says which)
  N  examples in a split
  K  classes
  H, W, C  height, width and channels of an image
  D  dimensions of a feature
  S  optimiser steps in a chunk
"""
