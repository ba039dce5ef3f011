# SPDX-License-Identifier: Apache-2.0
"""The table of several runs."""

import copy
import pathlib
import re
import subprocess
import sys

import pytest
import tiny

from srdl_jax import report, srdl, stop_request, workdir

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """Results of real runs, one of SRDL and one of vanilla."""
  found = {}
  for method in ('srdl', 'vanilla'):
    directory = tmp_path_factory.mktemp(method)
    config = tiny.config(**{'method': method, 'epochs': 2})
    found[method] = srdl.run(config, str(directory), stop_request.StopRequest())
  return found


@pytest.fixture
def place(finished, tmp_path):
  """Writes a run's result with other accuracies, as another seed's."""

  def write(name, like, seed, last, **fields):
    result = copy.deepcopy(finished[like])
    result['config'] |= {'seed': seed, **fields}
    result['final']['test']['accuracy'] = last
    result['best']['accuracy'] = last + 0.01
    if result['ensemble']:
      result['ensemble']['test']['accuracy'] = last + 0.02
    result['stages'][0]['test']['accuracy'] = last - 0.03
    (tmp_path / name).mkdir()
    workdir.write_json(tmp_path / name / 'result.json', result)
    return str(tmp_path / name)

  return write


def cells(text):
  return [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in text.splitlines()
  ]


def test_a_row_is_a_mean_over_seeds_and_its_gain_is_paired(place):
  runs = [
    place('v1', 'vanilla', 1, 0.60),
    place('v0', 'vanilla', 0, 0.50),
    place('v2', 'vanilla', 2, 0.70),
    place('s0', 'srdl', 0, 0.51),
    place('s1', 'srdl', 1, 0.62),
    place('s2', 'srdl', 2, 0.73),
  ]
  rows, left_out = report.read(runs)
  assert not left_out
  head, _, vanilla, srdl_row = cells(report.markdown(rows))
  vanilla, srdl_row = (
    dict(zip(head, row, strict=True)) for row in (vanilla, srdl_row)
  )
  assert (vanilla['runs'], srdl_row['runs']) == ('tiny, vanilla', 'tiny, srdl')
  assert srdl_row['seeds'] == '0, 1, 2'
  # 51, 62, 73: deviations of 11. Last epoch first, best beside it.
  assert srdl_row['last epoch'] == '62.00 ± 11.00 (3)'
  assert srdl_row['best epoch'] == '63.00 ± 11.00 (3)'
  assert srdl_row['ensemble'] == '64.00 ± 11.00 (3)'
  assert srdl_row['stage one'] == '59.00 ± 11.00 (3)'
  assert vanilla['stage one'] == vanilla['ensemble'] == ''
  # Gains of 1, 2 and 3 points: 2 -+ 4.3027 / sqrt(3).
  gain = srdl_row['gain over vanilla, 95 %']
  assert gain.startswith('+2.00 [-0.48, +4.48] (3)')
  assert vanilla['gain over vanilla, 95 %'] == ''


def test_rows_of_unequal_cost_are_marked(place):
  # M = 2: the extraction pass is a third one.
  rows, _ = report.read(
    [place('v', 'vanilla', 0, 0.5), place('s', 'srdl', 0, 0.5)]
  )
  assert '+0.00 (1), at 1.50 x its cost' in report.markdown(rows)


def test_other_budgets_and_data_are_other_rows_and_no_baseline(place):
  rows, _ = report.read(
    [
      place('v', 'vanilla', 0, 0.5, epochs=300),
      place('s', 'srdl', 0, 0.6),
    ]
  )
  head, _, vanilla, srdl_row = cells(report.markdown(rows))
  assert vanilla[0] == 'tiny, vanilla, epochs=300'
  assert srdl_row[0] == 'tiny, srdl, epochs=2'
  assert srdl_row[head.index('gain over vanilla, 95 %')] == ''


def test_what_is_no_finished_run_is_named_and_the_rest_goes_on(place, tmp_path):
  good = place('s', 'srdl', 0, 0.6)
  again = place('t', 'srdl', 0, 0.7)
  (tmp_path / 'empty').mkdir()
  for name, content in (('damaged', '{'), ('foreign', '[1]')):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'result.json').write_text(content)
  names = [str(tmp_path / n) for n in ('empty', 'damaged', 'foreign')]
  rows, left_out = report.read([*names, good, again])
  assert [row.accuracies('final') for row in rows] == [{0: 0.6}]
  assert len(left_out) == 4
  for name, line in zip([*names, again], left_out, strict=True):
    assert name in line
  assert 'no finished run' in left_out[0] and 'damaged' in left_out[1]
  assert 'not the result of a run' in left_out[2]
  assert 'same seed' in left_out[3]


def test_ablations_of_distillation_share_the_vanilla_row(place):
  rows, _ = report.read(
    [
      place('v', 'vanilla', 0, 0.5),
      place('s', 'srdl', 0, 0.6, **{'distillation.temperature': 4.0}),
    ]
  )
  text = report.markdown(rows)
  assert '+10.00 (1)' in text and 'distillation.temperature=4.0' in text


def test_imported_weights_make_another_row(place):
  paths = [place('v', 'vanilla', 0, 0.5), place('s', 'srdl', 0, 0.6)]
  result = workdir.read_json(f'{paths[1]}/result.json')
  result['weights'] = 'abcdef0123456789'
  workdir.write_json(f'{paths[1]}/result.json', result)
  rows, _ = report.read(paths)
  text = report.markdown(rows)
  assert 'weights=abcdef01' in text and '+10.00' not in text


def test_a_control_is_judged_by_its_ensemble(place):
  rows, _ = report.read(
    [
      place('v', 'vanilla', 0, 0.5),
      place('e', 'srdl', 0, 0.5, method='vanilla_ensemble'),
    ]
  )
  # 0.52 of the ensemble, not 0.50 of the second half.
  assert '+2.00 (1)' in report.markdown(rows)


def test_older_results_have_the_defaults_of_later_fields(place):
  paths = [place('v', 'vanilla', 0, 0.5), place('s', 'srdl', 0, 0.6)]
  result = workdir.read_json(f'{paths[0]}/result.json')
  del result['config']['model.remat'], result['weights']
  workdir.write_json(f'{paths[0]}/result.json', result)
  rows, _ = report.read(paths)
  assert '+10.00 (1)' in report.markdown(rows)


@pytest.mark.parametrize(
  ('path', 'value'),
  [
    (('config', 'method'), 3),
    (('config', 'surplus'), 3),
    (('cost', 'training_1e16'), None),
    (('final', 'test'), {'accuracy': 'high'}),
    (('ensemble',), {}),
    (('stages',), 3),
  ],
)
def test_malformed_results_are_left_out(place, path, value):
  name = place('s', 'srdl', 0, 0.6)
  result = workdir.read_json(f'{name}/result.json')
  inner = result
  for key in path[:-1]:
    inner = inner[key]
  inner[path[-1]] = value
  workdir.write_json(f'{name}/result.json', result)
  rows, left_out = report.read([name])
  assert not rows and len(left_out) == 1
  assert name in left_out[0]


def test_validation_is_not_called_test(place):
  path = place('s', 'srdl', 0, 0.6)
  result = workdir.read_json(f'{path}/result.json')
  result['best']['split'] = 'validation'
  workdir.write_json(f'{path}/result.json', result)
  rows, _ = report.read([path])
  assert '61.00 (1), validation' in report.markdown(rows)


@pytest.mark.parametrize(
  ('arguments', 'code', 'printed'),
  [
    (['{run}'], 0, 'tiny, srdl'),
    (['{run}', '{run}/none'], 0, 'no finished run'),
    (['{run}/none'], 2, 'error: None of these'),
    ([], 2, 'error: Name the run directories'),
    (['{run}', '--out={run}/none/x.md'], 4, 'error: .*none/x.md'),
  ],
)
def test_command(place, arguments, code, printed):
  run = place('s', 'srdl', 0, 0.6)
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'srdl_jax.report',
      *(argument.format(run=run) for argument in arguments),
    ],
    capture_output=True,
    text=True,
    cwd=ROOT,
    timeout=60,
  )
  output = done.stdout + done.stderr
  assert done.returncode == code, output
  assert re.search(printed, output), output
  assert 'Traceback' not in output
