# SPDX-License-Identifier: Apache-2.0
"""Files of arrays as nobody has written them: damaged, or of anyone's."""

import io
import zipfile

import numpy as np


def _of_all(content, change):
  """Returns a .npz file with the members changed, by their arrays."""
  out = io.BytesIO()
  with (
    zipfile.ZipFile(io.BytesIO(content)) as old,
    zipfile.ZipFile(out, 'w') as new,
  ):
    for name in old.namelist():
      new.writestr(name, change(old.read(name)))
  return out.getvalue()


def _headers(content, local, central, value):
  """Returns a zip file with a byte of all headers of members changed."""
  changed = bytearray(content)
  for mark, offset in ((b'PK\3\4', local), (b'PK\1\2', central)):
    at = content.find(mark)
    while at >= 0:
      changed[at + offset] = value
      at = content.find(mark, at + 1)
  return bytes(changed)


def _array(value, **options):
  out = io.BytesIO()
  np.save(out, value, **options)
  return out.getvalue()


def _claiming(rows):
  out = io.BytesIO()
  about = {'descr': '<i8', 'fortran_order': False, 'shape': (rows,)}
  np.lib.format.write_array_header_1_0(out, about)
  return out.getvalue() + bytes(64)


def _header(text):
  return b'\x93NUMPY\1\0' + len(text).to_bytes(2, 'little') + text


# What becomes of a .npz file's bytes.
DAMAGES = {
  'nothing': lambda content: b'',
  'cut short': lambda content: content[:-50],
  'one array, no archive': lambda content: _array(np.ones(3)),
  'encrypted': lambda content: _headers(content, 6, 8, 1),
  'of a later version': lambda content: _headers(content, 4, 6, 99),
  'of an unknown compression': lambda content: _headers(content, 8, 10, 99),
  'said to be compressed': lambda content: _headers(content, 8, 10, 8),
  'said to be of bzip2': lambda content: _headers(content, 8, 10, 12),
  'said to be of lzma': lambda content: _headers(content, 8, 10, 14),
  'no arrays in it': lambda content: _of_all(content, lambda _: b'text'),
  'objects': lambda content: _of_all(
    content, lambda _: _array(np.array([{}]), allow_pickle=True)
  ),
  'more rows than memory': lambda content: _of_all(
    content, lambda _: _claiming(10**15)
  ),
  'more rows than there are': lambda content: _of_all(
    content, lambda _: _claiming(10**5)
  ),
  'rows of no integer': lambda content: _of_all(
    content, lambda _: _claiming(2**70)
  ),
  'a header of brackets': lambda content: _of_all(
    content, lambda _: _header(b'(' * 9000)
  ),
  'a header of another kind': lambda content: _of_all(
    content, lambda _: _header(b"{'descr': 3, 'x': [\n")
  ),
}
# What may be read, and is of no use.
SHAPES = {
  'single numbers': np.float64(1),
  'texts': np.array(['a', 'b']),
  'bytes': np.array([b'a', b'b']),
  'no numbers': np.full(3, np.nan),
  'complex numbers': np.ones(3, complex),
  'records': np.zeros(3, [('a', 'i4')]),
  'dates': np.zeros(3, 'M8[s]'),
  'nothing at all': np.zeros((0,)),
  'cubes': np.zeros((2, 2, 2), np.int32),
}


def shaped(content, value):
  """Returns a .npz file of the same names, with one array for all."""
  return _of_all(content, lambda _: _array(value))
