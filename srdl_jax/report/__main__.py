# SPDX-License-Identifier: Apache-2.0
"""Runs beside the paper's tables, as HTML or Markdown.

    python -m srdl_jax.report DIR... [--out=report.html | --out=report.md]

A DIR is a run directory, or holds some anywhere below it, or is or holds a
flatness.json; what can be no run, such as last time's report, is passed over,
so that DIR/* may be given. Runs that differ in nothing but the seed are one
row. The last epoch is the result; the best one stands beside it. The HTML file
needs no other; beside the Markdown there is a folder of figures, if it has any.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from srdl_jax import command, report, storage
from srdl_jax.errors import ConfigError

# Of the names in a line.
_FEW = 6


def main(argv: Sequence[str]) -> None:
  """Reports the runs that the command line names."""
  directories = argv[1:]
  if not directories:
    raise ConfigError('Name the run directories: python -m srdl_jax.report DIR')
  out = flags.FLAGS.out
  if out and pathlib.Path(out).suffix not in ('.html', '.md'):
    raise ConfigError(f'--out={out}: name a file that ends in .html or .md.')
  found = report.read(directories)
  for line in found.left_out:
    storage.say(f'left out: {line}')
  passed = ', '.join(found.passed_over[:_FEW])
  if more := len(found.passed_over[_FEW:]):
    passed += f' and {more} more'
  if not found.rows and not found.flatness:
    raise ConfigError(
      'None of these directories holds a finished run'
      f'{passed and f"; no runs are {passed}"}.'
    )
  if passed:
    storage.say(f'passed over, as no runs: {passed}')
  if out:
    for path in report.write(out, found):
      storage.say(f'written: {path}')
  else:
    print(report.text(found), end='')


if __name__ == '__main__':
  flags.DEFINE_string(
    'out', None, 'File to write, .html or .md, instead of printing tables.'
  )
  command.run(main, positional=True)
