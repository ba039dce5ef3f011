# SPDX-License-Identifier: Apache-2.0
"""What Griffe is to know of the sources, which it reads for the reference.

Comments above, or behind, a module's constants are their documentation; a line
of a docstring may tell of several names.
"""

import ast
import re

import griffe

LONGEST_VALUE = 60


class Comments(griffe.Extension):
  """Gives constants docstrings without long values, and each name a line."""

  def on_instance(self, *, node, obj, agent, **kwargs):
    del node, agent, kwargs
    if obj.docstring:
      obj.docstring.value = separated(obj.docstring.value)

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


def separated(text: str) -> str:
  """Returns a docstring in which 'a, b: c' has become 'a: c' and 'b: c'."""
  lines, found = text.splitlines(), []
  while lines:
    line = lines.pop(0)
    told = re.match(r'( +)([*\w]+(?:, [*\w]+)+):( .*|$)', line)
    if not told:
      found.append(line)
      continue
    indent, names, first = told.groups()
    rest = []
    while lines and lines[0].startswith(f'{indent} '):
      rest.append(lines.pop(0))
    for name in names.split(', '):
      found += [f'{indent}{name}:{first}', *rest]
  return '\n'.join(found)
