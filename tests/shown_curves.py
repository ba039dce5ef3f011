# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows of a folder, without TensorBoard."""

import struct

from tensorboardX.proto import event_pb2


def points(folder):
  """What TensorBoard shows: a session's start drops the steps from its on."""
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
        points.append((value.tag, event.step, value.simple_value))
  return points
