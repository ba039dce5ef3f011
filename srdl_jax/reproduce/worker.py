# SPDX-License-Identifier: Apache-2.0
"""Jobs as forks of a process that has imported what they import.

That is half of the processor time of a run on the digits.
"""

import multiprocessing
import os
import pathlib
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

# Not the commands themselves, which are run. None of it makes JAX's devices:
# their threads would be missing in a fork.
IMPORTED = ['srdl_jax.srdl', 'srdl_jax.command', 'srdl_jax.trained']


def start(
  command: Sequence[str],
  log: pathlib.Path,
  cores: Iterable[int],
  options: Mapping[str, Any],
) -> BaseProcess:
  """Starts a Python program in a session of its own.

  Args:
    command: arguments of the interpreter: -m and a module, or -c and a program.
    log: what it says is added there.
    cores: that it may use.
    options: of JAX, by the names of jax.config.
  """
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(IMPORTED)
  given = tuple(command), str(log), tuple(cores), dict(options)
  process = context.Process(target=_run, args=(*given, dict(os.environ)))
  process.start()
  return process


def _run(command, log, cores, options, environment) -> None:
  # A Ctrl-C is for the sweep, which asks its jobs to save.
  os.setsid()
  os.sched_setaffinity(0, cores)
  # As the server's environment is that of the first sweep.
  os.environ.clear()
  os.environ.update(environment)
  with open(os.devnull) as nothing, open(log, 'ab') as told:
    for number, file in enumerate((nothing, told, told)):
      os.dup2(file.fileno(), number)
  if options:
    import jax

    for name, value in options.items():
      jax.config.update(name, value)
  kind, program, *_ = command
  sys.argv = list(command[1:])
  if kind == '-m':
    runpy.run_module(program, run_name='__main__', alter_sys=True)
  else:
    exec(compile(program, '-c', 'exec'), {'__name__': '__main__'})
