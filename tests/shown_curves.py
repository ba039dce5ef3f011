# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows of a folder, without TensorBoard."""

import struct

from tensorboardX.proto import event_pb2


def points(folder, kinds=('simple_value',)):
  """What TensorBoard shows: a session's start drops the steps from its on.

  Args:
    kinds: of summaries: curves have simple_value, others image, histo and
      tensor, which are texts, and None, for what runs are compared by.

  Returns:
    [(tag, step, value)]; where there is no value, what describes it.
  """
  points = []
  for path in sorted(folder.iterdir()):
    data, offset = path.read_bytes(), 0
    while offset < len(data):
      (size,) = struct.unpack_from('<Q', data, offset)
      event = event_pb2.Event.FromString(data[offset + 12 :][:size])
      offset += 16 + size
      if event.HasField('session_log'):
        points = [point for point in points if point[1] < event.step]
      for value in event.summary.value:
        kind = value.WhichOneof('value')
        if kind in kinds:
          told = getattr(value, kind or 'metadata')
          points.append((value.tag, event.step, told))
  return points
