# SPDX-License-Identifier: Apache-2.0
"""One of several processes that make the run of `tiny` together.

    python tests/several.py WORKDIR EVENT [FIELD=VALUE ...] \
        --coordinator=HOST:PORT --process_count=N --process_index=I

EVENT is one of `tiny`, of process 1: the others live on. 1:FIELD=VALUE is for
process 1 alone; 1:elsewhere gives it a directory of its own, and 1:early a
clock that says that a checkpoint is due.
"""

import sys

import compiled
import tiny
from absl import flags

from srdl_jax.runs import hold, processes, saver


def main() -> None:
  """Joins the others and runs."""
  given = [text for text in sys.argv[1:] if text.startswith('--')]
  rest = [text for text in sys.argv[1:] if not text.startswith('--')]
  named = dict(text.removeprefix('--').split('=', 1) for text in given)
  compiled.share()
  # Grain's workers look at the flags.
  flags.FLAGS.mark_as_parsed()
  index = int(named.get('process_index', 0))
  if named:
    processes.initialise(
      automatic=False,
      coordinator=named['coordinator'],
      count=int(named['process_count']),
      index=index,
      heartbeat_seconds=60,
    )
  directory, event, *fields = rest
  own = [f.removeprefix('1:') for f in fields if f.startswith('1:')]
  fields = [f for f in fields if not f.startswith('1:')]
  if 'elsewhere' in own:
    hold.SECONDS_TO_SEE = 0.5
  if index and 'early' in own:
    saver.Saver.is_time = lambda _: True
  if index and 'elsewhere' in own:
    directory += '_elsewhere'
  if index:
    fields += [field for field in own if '=' in field]
  with processes.failing_at_once():
    tiny.main(directory, event if index or not named else 'none', *fields)


if __name__ == '__main__':
  main()
