# SPDX-License-Identifier: Apache-2.0
"""What several tests of reports share."""

import made_runs
import pytest


@pytest.fixture
def place(tmp_path):
  """Writes an invented run below a temporary directory."""

  def write(name, *arguments, **fields):
    found = made_runs.result(*arguments, **{'model.name': 'tiny', **fields})
    return made_runs.write(tmp_path / name, found)

  return write
