# SPDX-License-Identifier: Apache-2.0
"""What the configuration says to a method, and what of it the method read."""

import dataclasses
from typing import Any


def _set_by(field: str, default: Any) -> Any:
  return dataclasses.field(default=default, metadata={'field': field})


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the configuration says to a method.

  `create` refuses what a method doesn't read, unless at its default.

  Attributes:
    epochs: M, the budget of the method.
    model: name of the network.
    teacher_model: name of another network that teaches, or ''.
    teacher_epochs: epochs of that teacher, on top of M; 0: M as well.
    teacher_imported: whether the teacher is a finished run's last network.
    split: how the budget is split over srdl's stages, in any unit.
    complete: of each of them, whether it runs a decay of its own.
    start: of each but the first (see `Stage.start`).
    keep_optimiser: of each but the first (see `Stage.keep_optimiser`).
    generations: of born-again students after the first network.
    label_smoothing: see `Stage.label_smoothing`.
    online: see `Stage.online`.
    views: augmented views of an image that a stored soft target is the mean
      of; 0: the clean image.
  """

  epochs: int
  model: str = ''
  teacher_model: str = _set_by('teacher.model', '')
  teacher_epochs: int = _set_by('teacher.epochs', 0)
  teacher_imported: bool = _set_by('teacher.workdir', False)
  split: tuple[float, ...] = _set_by('srdl.split', (1.0, 1.0))
  complete: tuple[bool, ...] = _set_by('srdl.complete', (True, True))
  start: str = _set_by('srdl.start', 'fresh')
  keep_optimiser: bool = _set_by('srdl.keep_optimiser', False)
  generations: int = _set_by('born_again.generations', 1)
  label_smoothing: float = 0.1
  online: bool = _set_by('distillation.online', False)
  views: int = _set_by('distillation.views', 0)


class ReadSettings:
  """Settings that remember what a method has read of them.

  Attributes:
    names: of the settings that have been read.
  """

  def __init__(self, settings: Settings):
    self._settings = settings
    self.names = {'epochs', 'model'}

  def __getattr__(self, name: str) -> Any:
    self.names.add(name)
    return getattr(self._settings, name)

  def left_over(self) -> list[str]:
    """Returns 'field = value' of what isn't at its default and wasn't read."""
    return [
      f'{field.metadata.get("field", field.name)} = {value!r}'
      for field in dataclasses.fields(self._settings)
      if (value := getattr(self._settings, field.name)) != field.default
      and field.name not in self.names
    ]
