# SPDX-License-Identifier: Apache-2.0
"""When a moment is saved, and which before it."""

import pytest

from srdl_jax.runs import saver as saver_lib
from srdl_jax.runs.checkpoint import Moment


class Kept:
  """Checkpoints and a log that note what is asked of them."""

  def __init__(self):
    self.asked = []

  def settle(self):
    self.asked.append('settle')

  def save(self, moment, *, score):
    self.asked.append((moment.step, score))

  def wait(self):
    self.asked.append('wait')


def moment(step, accuracy=None):
  said = {} if accuracy is None else {'step': step, 'accuracy': accuracy}
  return Moment(step, {}, {'evaluation': said})


@pytest.fixture
def kept():
  return Kept()


def create(kept, seconds=0.0):
  return saver_lib.Saver(kept, kept, score='accuracy', every_seconds=seconds)


def test_the_clock_begins_anew_with_each_moment(kept, monkeypatch):
  now = 1000.0
  monkeypatch.setattr(saver_lib.time, 'monotonic', lambda: now)
  saver, never = create(kept, 60.0), create(kept)
  assert not saver.is_time()
  now = 1060.0
  assert saver.is_time() and not never.is_time()
  saver.save(moment(1))
  assert not saver.is_time()
  now = 1119.0
  # What stays in memory would be lost.
  saver.keep(moment(2, 0.5))
  assert not saver.is_time()
  now = 1120.0
  assert saver.is_time()


def test_the_log_is_on_the_disk_before_each_moment(kept):
  saver = create(kept)
  saver.keep(moment(1, 0.5))
  saver.keep(moment(2, 0.6))
  saver.save(moment(3))
  assert kept.asked == ['settle', (2, 0.6), 'settle', (3, None)]
  kept.asked.clear()
  saver.keep(moment(4, 0.7))
  saver.save(moment(5, 0.8), is_best=True)
  saver.finish()
  assert kept.asked == ['settle', (5, 0.8), 'wait']
  kept.asked.clear()
  saver.keep(moment(6, 0.9))
  saver.finish()
  assert kept.asked == ['settle', (6, 0.9), 'wait']


def test_the_score_is_that_of_the_moment_itself(kept):
  """A moment within an epoch holds what was evaluated before it."""
  said = {'step': 5, 'accuracy': 0.5}
  create(kept).save(Moment(7, {}, {'evaluation': said}))
  assert kept.asked[-1] == (7, None)
