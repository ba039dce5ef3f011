# SPDX-License-Identifier: Apache-2.0
"""Which runs a report finds, which are one row, and which it leaves out."""

import json

import made_runs
import numpy as np
import pytest
import started

from srdl_jax import flatness, storage
from srdl_jax.errors import WorkdirError
from srdl_jax.report import rows, run_file


@pytest.fixture
def place(tmp_path):
  """Writes an invented run below a temporary directory."""

  def write(name, *arguments, **fields):
    found = made_runs.result(*arguments, **fields)
    return made_runs.write(tmp_path / name, found)

  return write


def change(directory, *path, to):
  """Changes a value of a result, by the keys that lead to it."""
  found = inner = storage.read_json(f'{directory}/result.json')
  *path, last = path
  for key in path:
    inner = inner[key]
  inner[last] = to
  made_runs.change(directory, found)


def seeds(found):
  return [sorted(row.runs) for row in found.rows]


def test_runs_that_differ_in_the_seed_are_a_row(place):
  names = [place(f's{n}', 'srdl', n, 0.5 + n / 10) for n in (2, 0, 1)]
  found = rows.read([*names, place('v', 'vanilla', 0, 0.4)])
  assert seeds(found) == [[0, 1, 2], [0]]
  assert found.rows[0].values('accuracy') == pytest.approx(
    {0: 0.5, 1: 0.6, 2: 0.7}
  )
  assert [row.number for row in found.rows] == [1, 2]
  assert not found.left_out


@pytest.mark.parametrize(
  ('path', 'value'),
  [
    (('config', 'epochs'), 100),
    (('config', 'data.examples_per_class'), 5),
    (('data', 'fingerprint'), 'other'),
    (('weights',), 'digest'),
    # As many fields as you like agree: what was trained longer is no seed.
    (('cost', 'training_1e16'), 0.003),
    (('teacher',), {'model': 'resnet110', 'checkpoint': 'digest'}),
  ],
)
def test_what_differs_in_budget_data_or_start_is_not_averaged(
  place, path, value
):
  names = [place(f's{n}', 'srdl', n, 0.5) for n in range(2)]
  change(names[1], *path, to=value)
  assert seeds(rows.read(names)) == [[0], [1]]


def test_fields_that_leave_the_numbers_alone_make_no_row(place):
  names = [
    place('a', 'srdl', 0, 0.5),
    place('b', 'srdl', 1, 0.5, **{'data.data_dir': '/elsewhere', 'devices': 2}),
  ]
  assert seeds(rows.read(names)) == [[0, 1]]


def test_runs_are_found_below_a_directory(place, tmp_path):
  place('sweep/table1/a', 'srdl', 0, 0.5)
  place('sweep/table1/b', 'srdl', 1, 0.5)
  # Neither what belongs to a run's stages, nor what is hidden.
  place('sweep/table1/a/stage_1/x', 'srdl', 2, 0.5)
  place('sweep/.trash/c', 'srdl', 3, 0.5)
  found = rows.read([str(tmp_path / 'sweep')])
  assert seeds(found) == [[0, 1]]
  run = found.rows[0].runs[1]
  assert run.workdir == str(tmp_path / 'sweep/table1/b')
  assert not found.left_out


def test_a_run_in_two_directories_counts_once(place, tmp_path):
  run = place('sweep/a', 'srdl', 0, 0.5)
  (tmp_path / 'link').symlink_to(run)
  found = rows.read([str(tmp_path / 'sweep'), run, str(tmp_path / 'link')])
  assert seeds(found) == [[0]] and not found.left_out


def test_what_is_no_finished_run_is_named_and_the_rest_goes_on(place, tmp_path):
  good = place('good', 'srdl', 0, 0.6)
  again = place('again', 'srdl', 0, 0.7)
  unfinished = place('unfinished', 'srdl', 1, 0.7)
  (tmp_path / 'unfinished/result.json').unlink()
  (tmp_path / 'empty').mkdir()
  for name, file, content in (
    ('damaged', 'result.json', '{'),
    ('foreign', 'result.json', '[1]'),
    ('theirs', 'config.json', '{"model_type": "gpt2"}'),
  ):
    (tmp_path / name).mkdir()
    (tmp_path / name / file).write_text(content)
  reasons = {
    str(tmp_path / 'missing'): 'No such file',
    str(tmp_path / 'empty'): 'no finished run',
    str(tmp_path / 'damaged'): 'damaged',
    str(tmp_path / 'foreign'): 'not the result of a run',
    str(tmp_path / 'theirs'): 'not the record of a run',
    unfinished: 'no finished run',
    'gs://bucket/run': 'no URL',
  }
  found = rows.read([*reasons, good, again])
  assert [row.values('accuracy') for row in found.rows] == [{0: 0.6}]
  reasons[again] = (
    f'{good} is a run of the same configuration and the same seed'
  )
  assert len(found.left_out) == len(reasons)
  for line, (name, reason) in zip(found.left_out, reasons.items(), strict=True):
    assert name in line and reason in line


@pytest.mark.parametrize(
  ('path', 'value'),
  [
    (('config', 'method'), 3),
    (('config', 'surplus'), 3),
    (('cost', 'training_1e16'), None),
    (('final', 'test'), {'accuracy': 'high'}),
    (('final', 'test', 'accuracy'), float('1e999')),
    (('ensemble',), {}),
    (('stages',), 3),
    (('stages',), []),
    (('stages', 0, 'test'), {}),
    (('stages', 0, 'epochs'), 10**29),
    (('stages', 1, 'teacher'), 7),
    (('stages', 1, 'teacher'), '1'),
    (('stages', 1, 'teacher'), 0),
    (('final', 'test'), {'nll': 1.0}),
    (('best',), {'split': 'test'}),
    (('ensemble', 'test'), {}),
    (('cost', 'training_flops'), 'many'),
    (('cost', 'units'), 0),
    (('data', 'train_examples'), -1),
    (('stages', 0, 'noise'), {'memorised': 'all'}),
    (('config', 'seed'), 10**29),
    (('schedule',), [[0, float('1e999')]]),
    (('steps_per_epoch',), 0),
  ],
)
def test_malformed_results_are_left_out(tmp_path, path, value):
  found = inner = made_runs.result()
  for key in path[:-1]:
    inner = inner[key]
  inner[path[-1]] = value
  (tmp_path / 'result.json').write_text(json.dumps(found))
  read = rows.read([str(tmp_path)])
  assert not read.rows and len(read.left_out) == 1
  assert str(tmp_path) in read.left_out[0]
  # It is read, and then misses something.
  told = read.left_out[0]
  assert 'damaged' not in told or 'is no number of it' in told


def test_older_results_lack_names_and_fields(place):
  name = place('old', 'srdl', 0, 0.5)
  found = storage.read_json(f'{name}/result.json')
  del found['config']['model.remat'], found['weights']
  del found['schedule'], found['steps_per_epoch'], found['teacher']
  del found['cost']['training_flops'], found['ensemble']['test']['disagreement']
  for stage in found['stages']:
    for new in ('teacher', 'agreement', 'soft_targets', 'model'):
      stage.pop(new, None)
  made_runs.change(name, found)
  (row,) = rows.read([name]).rows
  assert row.values('accuracy') == {0: 0.5}
  assert row.first.schedule == ()
  for new in ('training_flops', 'agreement', 'soft_target_entropy'):
    assert row.values(new) == {}


def test_values_are_where_result_json_has_them(place):
  name = place('a', 'srdl', 0, 0.5)
  change(name, 'device', 'count', to=4)
  (row,) = rows.read([name]).rows
  values = run_file.values(row.first)
  expected = {
    'accuracy': 0.5,
    'best_accuracy': 0.51,
    'ensemble': 0.52,
    'stage_one': 0.47,
    'nll': 1.25,
    'disagreement': 0.25,
    'agreement': 0.9,
    'soft_target_entropy': 1.5,
    'train_cross_entropy': 0.1637 / 2,
    'teacher_cross_entropy': 0.1637,
    # Training and extraction on four devices; evaluation is none of the cost.
    'device_seconds': (10 + 2) * 4,
  }
  assert {key: values[key] for key in expected} == pytest.approx(expected)
  assert row.first.cost.training_1e16 == 0.002


def test_an_imported_teacher_is_told_of(place):
  names = [place(f'k{n}', 'kd', n, 0.5) for n in range(2)]
  for name in names:
    change(name, 'cost', 'seconds', 'teacher', to=100.0)
  (row,) = rows.read(names).rows
  assert row.values('teacher_cross_entropy') == {0: 0.0087, 1: 0.0087}
  assert row.values('soft_target_entropy') == {0: 1.1, 1: 1.1}
  assert row.values('device_seconds') == {0: 112.0, 1: 112.0}
  assert row.one_teacher
  # A teacher of its own for each seed.
  change(names[1], 'teacher', 'checkpoint', to='d2')
  (row,) = rows.read(names).rows
  assert sorted(row.runs) == [0, 1] and not row.one_teacher


def test_curves_are_over_the_epochs_of_the_whole_run(place):
  (row,) = rows.read([place('a', 'srdl', 0, 0.6)]).rows
  found = run_file.curves(row.first)
  first, second = found['test']
  # Two epochs a stage; the second one's are the third and the fourth.
  assert [epoch for epoch, _ in first + second] == [1, 2, 3, 4]
  assert [value for _, value in second] == pytest.approx([0.3, 0.6])
  assert found['train_epoch'] == found['test']
  assert row.first.schedule == ((0.0, 0.1), (1.0, 0.01))


@pytest.mark.parametrize(
  'line',
  ['{"split": "test", "stage"', '{"split": "test", "stage": 9, "epoch": 1}'],
)
def test_damaged_curves_are_named(place, tmp_path, line):
  (row,) = rows.read([place('a', 'srdl', 0, 0.6)]).rows
  with open(tmp_path / 'a/metrics.jsonl', 'a') as file:
    file.write(line + '\n')
  with pytest.raises(WorkdirError, match=r'metrics.jsonl.*line 13'):
    run_file.curves(row.first)


def cut(log):
  """Cuts within the last line, of which the name of the split is lost."""
  log.write_text(log.read_text()[:-45])


def shorten(log):
  """Cuts between two lines."""
  log.write_text(''.join(log.read_text().splitlines(True)[:9]))


@pytest.mark.parametrize(
  ('harm', 'reason'),
  [
    (lambda log: log.unlink(), 'is missing'),
    (cut, 'is damaged in line 12'),
    (shorten, 'lacks epochs of the finished run'),
    (lambda log: log.write_text(''), 'lacks epochs of the finished run'),
  ],
)
def test_a_run_without_a_whole_log_is_a_row_and_said(
  place, tmp_path, harm, reason
):
  name = place('a', 'srdl', 0, 0.6)
  log = tmp_path / 'a/metrics.jsonl'
  harm(log)
  found = rows.read([name])
  assert found.rows[0].values('accuracy') == {0: 0.6}
  assert found.left_out == [f'{log} {reason}: no curve is drawn of it.']


def test_a_finished_run_needs_no_config_json(place, tmp_path):
  name = place('a', 'srdl', 0, 0.6)
  (tmp_path / 'a/config.json').unlink()
  found = rows.read([name])
  assert seeds(found) == [[0]] and not found.left_out


def test_of_two_runs_of_a_seed_the_first_given_is_kept(place):
  first, second = place('z', 'srdl', 0, 0.6), place('a', 'srdl', 0, 0.7)
  found = rows.read([first, second])
  assert found.rows[0].values('accuracy') == {0: 0.6}
  assert found.left_out == [
    f'{second}: {first} is a run of the same configuration and the same seed, '
    '0, and is kept, as it comes first in the order given; their final '
    'accuracies differ: 60.00 % there, 70.00 % here.'
  ]
  found = rows.read([second, first])
  assert found.rows[0].values('accuracy') == {0: 0.7}
  change(first, 'final', 'test', 'accuracy', to=0.7)
  (line,) = rows.read([second, first]).left_out
  assert line.endswith('; their final accuracies are the same.')


def test_flatness_is_found_too(place, tmp_path):
  place('sweep/a', 'srdl', 0, 0.5)
  storage.write_json(tmp_path / 'sweep/flatness.json', made_runs.flatness())
  found = rows.read([str(tmp_path)])
  assert len(found.rows) == 1 and not found.left_out
  (one,) = found.flatness
  assert one.distances['filter_normalised'].tolist() == [0.0, 1.0]
  losses = one.networks[0].losses['literal', 'train']
  # What wasn't finite is no number.
  np.testing.assert_array_equal(losses, [[0.5, 1.0], [0.5, np.nan]])


def grouped(tmp_path, *runs):
  """Returns workdirs by the labels of Figure 4."""
  content = made_runs.flatness()
  (one,) = content['runs']
  content['runs'] = [{**one, **run} for run in runs]
  storage.write_json(tmp_path / 'flatness.json', content)
  (found,) = rows.read([str(tmp_path)]).flatness
  return {
    label: [network.workdir for network in group]
    for label, group in flatness.groups(found).items()
  }


def test_only_seeds_of_one_configuration_are_a_group_of_figure_4(tmp_path):
  def run(name, seed, epochs, **rest):
    config = {'seed': seed, 'epochs': epochs, 'method': 'srdl'}
    return {'workdir': name, 'seed': seed, 'config': config, **rest}

  assert grouped(tmp_path, run('a', 0, 4), run('b', 1, 2), run('c', 1, 4)) == {
    'resnet8, srdl, M = 4': ['a', 'c'],
    'resnet8, srdl, M = 2': ['b'],
  }
  # A name that is all one configuration needs no more.
  assert grouped(tmp_path, run('a', 0, 4), run('b', 1, 4)) == {
    'resnet8, srdl': ['a', 'b']
  }
  digest = 'abcdef0123456789'
  assert list(
    grouped(tmp_path, run('a', 0, 4), run('b', 1, 4, weights=digest))
  ) == ['resnet8, srdl, weights=None', 'resnet8, srdl, weights=abcdef01']


def test_older_flatness_groups_what_may_be_seeds_alone(tmp_path):
  runs = [{'workdir': name, 'seed': n} for n, name in enumerate('ab')]
  assert grouped(tmp_path, *runs) == {'resnet8, srdl': ['a', 'b']}
  # A seed that comes twice is of another run, so that none is known a seed.
  again = {'workdir': 'c', 'seed': 0}
  assert grouped(tmp_path, *runs, again) == {
    f'resnet8, srdl, {name}': [name] for name in 'abc'
  }
  assert grouped(tmp_path, again, again | {'seed': 1}, again) == {
    'resnet8, srdl, c, seed 0, network 1': ['c'],
    'resnet8, srdl, c, seed 1': ['c'],
    'resnet8, srdl, c, seed 0, network 3': ['c'],
  }
  # Networks of another size are another configuration.
  assert grouped(tmp_path, runs[0], {**runs[1], 'parameters': 7}) == {
    'resnet8, srdl, parameters=100': ['a'],
    'resnet8, srdl, parameters=7': ['b'],
  }


def test_what_a_glob_gives_beside_runs_is_passed_over(place, tmp_path):
  place('a', 'srdl', 0, 0.5)
  # A sweep's runs lie deeper, beside its logs.
  place('sweep/runs/b', 'srdl', 1, 0.5)
  storage.write_json(tmp_path / 'flatness.json', made_runs.flatness())
  others = ['README.md', 'notes.txt', 'out', 'report.html', 'report.md']
  for name in (*others, 'logs/a.log', 'report_figures/fig3.svg'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('of no use')
  (tmp_path / 'begun').mkdir()
  names = sorted(str(path) for path in tmp_path.iterdir())
  found = rows.read(names)
  assert seeds(found) == [[0, 1]] and len(found.flatness) == 1
  assert found.left_out == [f'{tmp_path}/begun: no finished run in it.']
  passed = sorted(
    str(tmp_path / name) for name in (*others, 'logs', 'report_figures')
  )
  assert found.passed_over == passed
  done = started.python('-m', 'srdl_jax.report', *names)
  assert done.stderr.splitlines() == [
    f'left out: {tmp_path}/begun: no finished run in it.',
    f'passed over, as no runs: {", ".join(passed[:6])} and 1 more',
  ]
  assert '50.00' in done.stdout
  done = started.python('-m', 'srdl_jax.report', *passed)
  assert done.returncode == 2 and done.stderr.splitlines() == [
    'error: None of these directories holds a finished run; no runs are '
    f'{", ".join(passed[:6])} and 1 more.'
  ]


def test_files_are_read_as_well_as_directories(place, tmp_path):
  run = place('a', 'srdl', 0, 0.5)
  for name in ('flatness.json', 'mine.json'):
    storage.write_json(tmp_path / name, made_runs.flatness())
  given = [tmp_path / 'flatness.json', tmp_path / 'mine.json']
  found = rows.read([*map(str, given), f'{run}/result.json'])
  assert [one.path for one in found.flatness] == [str(path) for path in given]
  assert seeds(found) == [[0]] and not found.left_out
  found = rows.read([f'{run}/config.json'])
  assert not found.flatness and 'srdl_jax.flatness writes' in found.left_out[0]


@pytest.mark.parametrize(
  'changes',
  [
    {'runs': [{'config': 3}]},
    {'directions': 3},
    {'distances': [0.0]},
    {'runs': [{'name': 'x'}]},
    {'examples': None},
  ],
)
def test_malformed_flatness_is_left_out(tmp_path, changes):
  storage.write_json(tmp_path / 'flatness.json', made_runs.flatness() | changes)
  found = rows.read([str(tmp_path)])
  assert not found.flatness
  assert len(found.left_out) == 1 and 'flatness.json' in found.left_out[0]
