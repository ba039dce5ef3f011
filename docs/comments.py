# SPDX-License-Identifier: Apache-2.0
"""Comments above, or behind, a module's constants are their documentation.

An extension of Griffe, which reads the sources for the Python reference.
"""

import ast

import griffe

LONGEST_VALUE = 60


class Comments(griffe.Extension):
  """Gives constants docstrings, and keeps long values away."""

  def on_attribute_instance(self, *, node, attr, agent, **kwargs):
    del agent, kwargs
    if isinstance(node, ast.AST) and not attr.docstring:
      lines = attr.filepath.read_text('utf-8').splitlines()
      if text := comment(lines, node.lineno - 1):
        attr.docstring = griffe.Docstring(text, parent=attr)
    if len(str(attr.value)) > LONGEST_VALUE:
      attr.value = None


def comment(lines: list[str], number: int) -> str:
  """Returns the comment of a line, '' if it has none.

  Args:
    lines: of a file.
    number: of the line, from 0.
  """
  found, above = [], number
  while above and lines[above - 1].startswith('# '):
    above -= 1
    found.insert(0, lines[above][2:])
  if not found and '  # ' in lines[number]:
    found = [lines[number].rpartition('  # ')[2]]
  return ' '.join(found)
