# SPDX-License-Identifier: Apache-2.0
"""Runs Python programs in forks of a process that has imported jax.

    python tests/forked.py FD

`started.python` asks it through the socket FD. It never makes jax's devices:
their threads would be missing in a fork.
"""

import gc
import importlib
import os
import runpy
import sys
import types
from multiprocessing import connection

import compiled

# What the commands import; each imports most of the package.
IMPORTED = [
  f'srdl_jax.{name}'
  for name in (
    *('main', 'evaluate.__main__', 'flatness.__main__'),
    *('weights.__main__', 'reproduce.__main__', 'rank'),
  )
]


def serve(asked: connection.Connection) -> dict | None:
  """Forks at each request; returns in the fork with it, else at the end."""
  while True:
    try:
      request = asked.recv()
    except EOFError:
      return None
    pid = os.fork()
    if not pid:
      asked.close()
      return request
    asked.send(pid)
    asked.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def become(arguments, env, cwd, out, err) -> None:
  """Takes over what a started process would have been given."""
  os.setsid()
  os.chdir(cwd)
  os.environ.clear()
  os.environ.update(env)
  with open(os.devnull) as nothing, open(out, 'w') as o, open(err, 'w') as e:
    for number, file in enumerate((nothing, o, e)):
      os.dup2(file.fileno(), number)
  kind = arguments[0]
  sys.argv = arguments[1:] if kind in ('-m', '-c') else arguments
  paths = env.get('PYTHONPATH', '').split(os.pathsep)
  first = cwd if kind in ('-m', '-c') else os.path.dirname(kind)
  sys.path[:1] = [first, *filter(None, paths)]


def run(arguments: list[str]) -> None:
  """Runs the program as Python would."""
  if arguments[0] == '-m':
    name = arguments[1]
    package = hasattr(sys.modules.get(name), '__path__')
    # Else runpy warns that the module was imported before.
    sys.modules.pop(f'{name}.__main__' if package else name, None)
    runpy.run_module(name, run_name='__main__', alter_sys=True)
  elif arguments[0] == '-c':
    sys.argv[0] = '-c'
    sys.modules['__main__'] = types.ModuleType('__main__')
    exec(arguments[1], vars(sys.modules['__main__']))
  else:
    runpy.run_path(arguments[0], run_name='__main__')


if __name__ == '__main__':
  for name in IMPORTED:
    importlib.import_module(name)
  compiled.share()
  gc.freeze()
  if request := serve(connection.Connection(int(sys.argv[1]))):
    become(**request)
    run(request['arguments'])
