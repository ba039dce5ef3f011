# SPDX-License-Identifier: Apache-2.0
"""Makes error_texts.json: what errors say today, and their exit codes.

    python tests/references/make_error_texts.py

A change of that file is a change of what users are told.
"""

import json
import os
import pathlib
import sys
import tempfile

from absl import flags

TESTS = pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
  """Provokes every situation of test_error_texts, and writes the file."""
  sys.path[:0] = [str(TESTS.parent), str(TESTS)]
  import conftest

  # Before jax is imported, as for the test.
  os.environ.update(conftest.ENVIRONMENT)
  flags.FLAGS.mark_as_parsed()
  import test_error_texts

  with tempfile.TemporaryDirectory() as folder:
    found = test_error_texts.everything(pathlib.Path(folder).resolve())
  text = json.dumps(found, indent=2, ensure_ascii=False)
  test_error_texts.GOLDEN.write_text(f'{text}\n')


if __name__ == '__main__':
  main()
