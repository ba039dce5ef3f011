# SPDX-License-Identifier: Apache-2.0
"""Terminals, and what is seen on them."""

import errno
import fcntl
import io
import os
import pty
import re
import struct
import termios

import started


class Terminal(io.StringIO):
  """Keeps what a terminal of a size receives."""

  encoding = 'utf-8'

  def __init__(self, columns, rows=24):
    super().__init__()
    self._screen, self._keyboard = pty.openpty()
    self.resize(columns, rows)

  def resize(self, columns, rows=24):
    size = struct.pack('HHHH', rows, columns, 0, 0)
    fcntl.ioctl(self._keyboard, termios.TIOCSWINSZ, size)

  def isatty(self):
    return True

  def fileno(self):
    return self._keyboard

  def hang_up(self):
    os.close(self._screen)
    os.close(self._keyboard)

  def lines(self, columns):
    """Returns what is seen; see `seen`."""
    return seen(self.getvalue(), columns)[0]


def shown_by(arguments, columns):
  """Runs a program whose errors go to a terminal; returns its exit code, and
  what the terminal received."""
  screen, keyboard = pty.openpty()
  size = struct.pack('HHHH', 24, columns, 0, 0)
  fcntl.ioctl(keyboard, termios.TIOCSWINSZ, size)
  program = started.start(arguments, stderr=keyboard, cwd=started.ROOT)
  os.close(keyboard)
  received = b''
  try:
    while chunk := os.read(screen, 10000):
      received += chunk
  except OSError as error:
    assert error.errno == errno.EIO  # the terminal's other end is closed
  os.close(screen)
  return program.wait(started.SECONDS), received.decode()


def seen(received, columns):
  """Returns the lines of a terminal, and its cursor's line and column.

  None may be longer than the terminal is wide, nor the cursor be hidden.
  """
  lines, row, column = [''], 0, 0
  pieces = re.findall(r'\x1b\[([\d;]*)([A-Za-z])|([^\x1b])', received)
  plain = sum(len(c) or len(n + f) + 2 for n, f, c in pieces)
  assert plain == len(received), 'a sequence that is not expected'
  for number, final, character in pieces:
    if character == '\n':
      row, column = row + 1, 0
      lines += [''] * (row + 1 - len(lines))
    elif character == '\r':
      column = 0
    elif character:
      lines[row] = lines[row][:column].ljust(column) + (
        character + lines[row][column + 1 :]
      )
      column += 1
      assert column <= columns, lines[row]
    elif final == 'A':
      row -= int(number)
      assert row >= 0
    elif final in 'JK':
      assert number == ''
      lines[row] = lines[row][:column]
      if final == 'J':
        del lines[row + 1 :]
    else:
      assert final == 'm'
  return lines, (row, column)
