# SPDX-License-Identifier: Apache-2.0
"""An odd run is left out of a report with a line, and never ends it."""

import json
import os
import pathlib
import shutil

import pytest

from srdl_jax import report

RUN = pathlib.Path(__file__).parents[1] / 'references/runs_format_1/finished'
BRACKETS = '[' * 200_000 + ']' * 200_000
# As JSON has them, and as Python's reader takes them.
NUMBERS = ('1e400', '-1e400', 'NaN', f'1{"0" * 29}', '9' * 5000, '-1', '1e308')
PLACES = (
  *(('seed',), ('steps_per_epoch',), ('final', 'test', 'accuracy')),
  *(('stages', 0, 'epochs'), ('stages', 0, 'steps'), ('best', 'epoch')),
  *(('cost', 'training_1e16'), ('cost', 'seconds', 'train')),
  *(('schedule', 0, 0), ('schedule', 0, 1), ('device', 'count')),
  *(('config', 'epochs'), ('config', 'seed'), ('config', 'batch_size')),
)
EVALUATION = ('stage', 'epoch', 'step', 'accuracy')


def rewrite(file, place, text):
  """Puts a text in a place of a JSON file."""
  content = json.loads(file.read_text())
  at = content
  for key in place[:-1]:
    at = at[key]
  at[place[-1]] = '<odd>'
  file.write_text(json.dumps(content).replace('"<odd>"', text))


def reported(folder, tmp_path):
  """Returns what was found, once both kinds of reports are written."""
  found = report.read([str(folder)])
  report.text(found)
  for name in ('report.md', 'report.html'):
    report.write(str(tmp_path / name), found)
    assert (tmp_path / name).read_text(encoding='utf-8')
  return found


@pytest.fixture
def runs(tmp_path):
  """A folder of a good run, and of a copy to be spoilt."""
  for name in ('good', 'odd'):
    shutil.copytree(RUN, tmp_path / 'runs' / name)
  # Of another seed, so that both are reported.
  for file in ('result.json', 'config.json'):
    rewrite(tmp_path / 'runs' / 'odd' / file, ('config', 'seed'), '7')
  return tmp_path / 'runs'


def assert_good_is_reported(found, runs):
  assert str(runs / 'good') in [
    run.workdir for row in found.rows for run in row.runs.values()
  ]


def test_a_directory_whose_name_is_no_text(runs, tmp_path):
  (runs / 'odd').rename(os.fsdecode(os.fsencode(runs) + b'/odd\xff'))
  found = reported(runs, tmp_path)
  assert sum(len(row.runs) for row in found.rows) == 2
  assert r'odd\udcff' in (tmp_path / 'report.md').read_text()


@pytest.mark.parametrize('content', [BRACKETS, '{"a":' * 200_000, '\0', '"x"'])
@pytest.mark.parametrize(
  'name', ['result.json', 'config.json', 'metrics.jsonl', 'flatness.json']
)
def test_a_file_that_is_odd(runs, tmp_path, name, content):
  (runs / 'odd' / name).write_text(content + '\n')
  found = reported(runs, tmp_path)
  assert_good_is_reported(found, runs)
  assert any(str(runs / 'odd' / name) in line for line in found.left_out)


@pytest.mark.parametrize('place', PLACES, ids=str)
def test_a_number_that_is_odd(runs, tmp_path, place):
  whole = (runs / 'odd' / 'result.json').read_text()
  for number in NUMBERS:
    (runs / 'odd' / 'result.json').write_text(whole)
    rewrite(runs / 'odd' / 'result.json', place, number)
    found = report.read([str(runs)])
    report.text(found)
    assert_good_is_reported(found, runs)
    # It is left out, or may be what it says.
    count = sum(len(row.runs) for row in found.rows)
    assert count == 2 or found.left_out


@pytest.mark.parametrize('key', EVALUATION)
def test_a_line_of_a_log_that_is_odd(runs, tmp_path, key):
  file = runs / 'odd' / 'metrics.jsonl'
  lines = file.read_text().splitlines()
  at = next(n for n, line in enumerate(lines) if '"train_epoch"' in line)
  for number in NUMBERS:
    line = json.loads(lines[at]) | {key: '<odd>'}
    text = json.dumps(line).replace('"<odd>"', number)
    file.write_text('\n'.join([*lines[:at], text, *lines[at + 1 :]]) + '\n')
    assert_good_is_reported(reported(runs, tmp_path), runs)


def test_what_nobody_has_thought_of(runs, monkeypatch):
  def read(directory):
    if directory.name == 'odd':
      raise RuntimeError('odd\nindeed')
    return original(directory)

  original = report.rows.finished.read
  monkeypatch.setattr(report.rows.finished, 'read', read)
  found = report.read([str(runs)])
  assert_good_is_reported(found, runs)
  assert found.left_out == [
    f'{runs / "odd"} cannot be read: RuntimeError: odd indeed'
  ]
