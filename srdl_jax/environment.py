# SPDX-License-Identifier: Apache-2.0
"""What a run runs on: devices, versions, commit."""

import importlib.metadata
import pathlib
import subprocess
from typing import Any

import jax

PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'tensorstore',
  'tensorflow-datasets',
  'numpy',
)


def environment(devices: list[jax.Device]) -> dict[str, Any]:
  """Returns the devices, the versions and the commit that a run used."""
  return {
    'device': {
      'platform': devices[0].platform,
      'kind': devices[0].device_kind,
      'count': len(devices),
    },
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
    'commit': _commit(),
  }


def _commit() -> str | None:
  """Returns the source's git commit, marked where files differ from it."""
  # Within someone else's repository the package's files aren't tracked.
  tracked = ['git', 'ls-files', '--error-unmatch', pathlib.Path(__file__).name]
  try:
    subprocess.run(
      tracked,
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      check=True,
    )
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=12'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      check=True,
      text=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None
