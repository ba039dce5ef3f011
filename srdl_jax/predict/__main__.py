# SPDX-License-Identifier: Apache-2.0
"""Says what images show, by the networks of runs.

    python -m srdl_jax.predict --workdir=DIR [--checkpoint=final] \
        [--top=3] [--format=table|csv|json] FILE|FOLDER|PATTERN ...

prints each image's most probable classes and their probabilities: as a table,
as CSV, or a JSON object a line. Images may have any size; of a FOLDER all below
it are taken. Several runs or checkpoints, named as in evaluate, say it
together, by the mean of their probabilities. Files that can't be read are
named, the others predicted, and the exit code is 3.
"""

import csv
import json
import sys
from collections.abc import Sequence

from absl import flags

from srdl_jax import command, cpu, predict, trained
from srdl_jax.errors import ConfigError
from srdl_jax.runs import environment

# Of a table's first column; longer names are cut at their beginning.
_WIDTH = 48


def _table(said: predict.Said, top: int) -> None:
  width = min(_WIDTH, max(map(len, said.files), default=0))
  for row, file in enumerate(said.files):
    name = file if len(file) <= width else f'…{file[1 - width :]}'
    best = '   '.join(
      f'{said.titles[n]} {100 * p:.1f} %' for n, p in said.best(row, top)
    )
    print(f'{name:<{width}}   {best}')


def _csv(said: predict.Said, top: int) -> None:
  writer = csv.writer(sys.stdout, lineterminator='\n')
  places = range(1, min(top, len(said.classes)) + 1)
  titles = [f'{what}_{n}' for n in places for what in ('class', 'probability')]
  writer.writerow(['file', *titles])
  for row, file in enumerate(said.files):
    best = [
      cell
      for n, p in said.best(row, top)
      for cell in (said.classes[n], f'{p:.6g}')
    ]
    writer.writerow([file, *best])


def _told(said: predict.Said, label: int, share: float) -> dict[str, object]:
  name, title = said.classes[label], said.titles[label]
  told = {'class': name, 'probability': share}
  return told if title == name else {**told, 'title': title}


def _json(said: predict.Said, top: int) -> None:
  for row, file in enumerate(said.files):
    best = [_told(said, n, p) for n, p in said.best(row, top)]
    print(json.dumps({'file': file, 'predictions': best}))


_FORMATS = {'table': _table, 'csv': _csv, 'json': _json}


def main(argv: Sequence[str]) -> None:
  """Predicts the classes of images."""
  args = flags.FLAGS
  if len(argv) < 2:
    raise ConfigError('Name images, folders of them, or patterns.')
  cpu.prepare()
  environment.use_compilation_cache()
  names = trained.chosen(args.workdir, args.checkpoint)
  files = predict.find(argv[1:])
  with trained.precision(names):
    said = predict.of_files(
      trained.open_classifiers(names, args.data_dir), files
    )
  _FORMATS[args.format](said, args.top)
  said.refuse_faults()


if __name__ == '__main__':
  flags.DEFINE_multi_string(
    'workdir', [], 'Run directory; several: the mean of their probabilities.'
  )
  flags.DEFINE_string(
    'checkpoint', 'final', 'final, best, stage_1, ..., ensemble, or several.'
  )
  flags.DEFINE_integer('top', 3, 'Classes of each image.', lower_bound=1)
  flags.DEFINE_string(
    'data_dir', None, 'Of a run that has no model.json: where its data are.'
  )
  flags.DEFINE_enum('format', 'table', list(_FORMATS), 'What is printed.')
  command.run(main, positional=True)
