# SPDX-License-Identifier: Apache-2.0
"""Where the soft targets of a train step come from: one small file a source."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from srdl_jax.targets.cs_kd import ClassWise
from srdl_jax.targets.ddgsd import TwoViews
from srdl_jax.targets.dlb import LastBatch
from srdl_jax.targets.ema import Mean
from srdl_jax.targets.mean_teacher import MeanTeacher
from srdl_jax.targets.ols import OnlineLabelSmoothing
from srdl_jax.targets.online import Online
from srdl_jax.targets.ps_kd import ProgressiveSelfDistillation
from srdl_jax.targets.source import Clock, Source
from srdl_jax.targets.stored import Stored
from srdl_jax.targets.tf_kd import VirtualTeacher
from srdl_jax.targets.top_two import TopTwo

__all__ = ['SOURCES', 'Clock', 'Source', 'create']

# By the names that stages give: see methods.Stage.source; '' is labels alone.
SOURCES: dict[str, type[Source]] = {
  '': Source,
  'bank': Stored,
  'online': Online,
  'top_two': TopTwo,
  'ols': OnlineLabelSmoothing,
  'ps_kd': ProgressiveSelfDistillation,
  'tf_kd': VirtualTeacher,
  'cs_kd': ClassWise,
  'dlb': LastBatch,
  'ddgsd': TwoViews,
  'mean_teacher': MeanTeacher,
  'ema': Mean,
}


def create(name: str, config: Mapping[str, Any], **bound: Any) -> Source:
  """Returns a source with the fields of its section of a configuration.

  Args:
    name: a key of SOURCES.
    **bound: what isn't configured, such as `apply`: see `Source`.
  """
  kind = SOURCES[name]
  section = config[kind.section] if kind.section else {}
  fields = [f.name for f in dataclasses.fields(kind) if f.name in section]
  return kind(**{name: section[name] for name in fields}, **bound)
