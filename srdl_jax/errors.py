# SPDX-License-Identifier: Apache-2.0
"""The known errors: each is one readable line and an exit code."""

from collections.abc import Iterable

# Of every command, and what they mean.
EXIT_CODES = {
  0: 'finished',
  1: 'a bug in this program (a traceback is printed)',
  2: 'bad configuration or command line',
  3: 'data set missing, damaged, or in a form that cannot be read',
  4: 'workdir, checkpoint or soft targets foreign, damaged, locked '
  'or unwritable',
  5: 'training diverged: a loss was not finite',
  6: 'some jobs of a sweep failed; the others are done',
  75: 'interrupted; everything is saved: run the same command again',
  130: 'interrupted at once, by a second Ctrl-C or before the run began',
}


class SrdlError(Exception):
  """A known error. Its text names the thing at fault and the remedy."""

  exit_code = 1


class ConfigError(SrdlError):
  """A wrong field, value, argument or flag."""

  exit_code = 2


class DataError(SrdlError):
  """A data set that is missing, damaged or in the wrong form."""

  exit_code = 3


class WorkdirError(SrdlError):
  """A run directory that is locked, foreign or cannot be written."""

  exit_code = 4


class CheckpointError(WorkdirError):
  """A checkpoint that is missing, damaged or of another model."""


class SoftTargetsError(WorkdirError):
  """A bank of soft targets that is incomplete, damaged or foreign."""


class NonFiniteLossError(SrdlError):
  """A loss became NaN or infinite."""

  exit_code = 5


class SweepError(SrdlError):
  """Some jobs of a sweep failed."""

  exit_code = 6


class Interrupted(SrdlError):
  """The run was asked to stop; it saved, and can be run again."""

  exit_code = 75


def unknown(
  kind: str, name: object, known: Iterable[str], *, own: bool = False
) -> str:
  """Returns the text for a name that isn't one of those known.

  Args:
    kind: what is named, such as 'data set'.
    name: what was given.
    known: the names there are, in the order in which they are told.
    own: whether a user's module may add others.
  """
  text = f'Unknown {kind} {name!r}; known: {", ".join(known)}.'
  return f'{text} Those of your own come by --import=MODULE.' if own else text
