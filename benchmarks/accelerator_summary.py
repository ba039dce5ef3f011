# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/accelerator.py has found, as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Results = Mapping[str, Mapping[str, Any]]


def of(files: Results) -> str:
  """Returns a page of what is there; what isn't has no row.

  Args:
    files: contents of the files, by their names without '.json'.
  """
  results = {name: found for name, found in files.items() if 'part' in found}
  parts = [_head, _correctness, _speeds, _epochs, _together, _runs]
  return '\n'.join(line for part in parts for line in part(results))


def _table(
  columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> Iterator[str]:
  if rows:
    for row in [columns, ['---'] * len(columns), *rows]:
      yield f'| {" | ".join(row)} |'
    yield ''


def _head(results: Results) -> Iterator[str]:
  yield '# On an accelerator'
  yield ''
  results = {n: f for n, f in results.items() if 'device' in f}
  told = {
    'device': [
      f'{f["device"]["count"]} x {f["device"]["kind"]}'
      for f in results.values()
    ],
    'commit': [f'{f["commit"] or ""}' for f in results.values()],
    'jax': [f['versions']['jax'] for f in results.values()],
    'torch': [f['torch'] for f in results.values() if 'torch' in f],
    'date': sorted(f['date'][:10] for f in results.values()),
    'command': [f'`{f["command"]}`' for f in results.values()],
  }
  for name, values in told.items():
    if said := ', '.join(filter(None, dict.fromkeys(values))):
      yield f'- {name}: {said}'
  yield ''


def _correctness(results: Results) -> Iterator[str]:
  if not (found := results.get('correctness')):
    return
  agrees = 'agree' if found['agrees'] else 'DO NOT AGREE'
  told = ', '.join(
    f'{name} by {"no number" if share is None else f"{share:.1e}"} of their '
    f'change ({found["tolerances"][name]:.0e} allowed)'
    for name, share in found['differences'].items()
  )
  yield f'Two steps of the accelerator and of the CPU {agrees}: {told}.'
  same = 'in the same bits'
  if flag := found['same_bits_with']:
    same = f'in other bits; in the same with {flag}'
  elif not found['same_bits']:
    same = (
      f'in other bits{", also with " * bool(found["tried"])}{found["tried"]}'
    )
  yield f'{found["many"]} steps, trained twice, ended {same}.'
  yield ''


def _speeds(results: Results) -> Iterator[str]:
  rows = []
  for name, found in results.items():
    if name.startswith('speed-'):
      speeds, over = found['images_per_second'], found['product_over']
      cells = [_number(speeds.get(n)) for n in ('product', 'bare_step')]
      cells.append(_number(speeds.get('pytorch')))
      ratio = f'{over["pytorch"]:.2f}' if 'pytorch' in over else ''
      rows.append([name.removeprefix('speed-'), *cells, ratio])
  columns = ['images/s', 'product', 'bare step', 'PyTorch', 'over PyTorch']
  yield from _table(columns, rows)


def _epochs(results: Results) -> Iterator[str]:
  rows = [
    [
      str(found['steps_per_dispatch']),
      _number(found['steps_images_per_second']),
      _number(found.get('epoch_images_per_second')),
      _share(found.get('share_without_steps')),
    ]
    for name, found in results.items()
    if name == 'epoch' or name.startswith('dispatch-')
  ]
  columns = ['steps in a call', 'images/s, steps alone', 'whole epochs']
  yield from _table([*columns, 'share without steps'], rows)


def _together(results: Results) -> Iterator[str]:
  speeds = results.get('together', {}).get('images_per_second', {})
  rows = [[count, _number(speed)] for count, speed in speeds.items()]
  yield from _table(['processes at once', 'images/s of all'], rows)


def _runs(results: Results) -> Iterator[str]:
  rows = [
    [
      run['method'],
      f'{run["weight_decay"]:g}',
      str(run['seed']),
      f'{100 * run["accuracy"]:.2f}',
      f'{run["train_seconds"]:.0f}',
      str(found['at_once']),
    ]
    for found in results.values()
    for run in found.get('runs', ())
  ]
  columns = ['method', 'weight decay', 'seed', 'accuracy, %', 'seconds']
  yield from _table([*columns, 'runs at once'], rows)


def _number(value: float | None) -> str:
  return '' if value is None else f'{value:,.0f}'


def _share(value: float | None) -> str:
  return '' if value is None else f'{100 * value:.1f} %'
