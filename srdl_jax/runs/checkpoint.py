# SPDX-License-Identifier: Apache-2.0
"""A run's moments on disk: kept by Orbax, verified by digests of our own.

Orbax restores a flipped bit without a word and never goes back by itself. So
the SHA-256 of every array is stored and compared at every load, and
`load_latest` goes back to what is intact.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from srdl_jax.errors import CheckpointError
from srdl_jax.runs import formats, processes
from srdl_jax.runs.record import Record
from srdl_jax.storage import bucket, files


@dataclasses.dataclass(frozen=True)
class Moment:
  """All that a run needs to go on from where it was.

  `step` counts over all stages and is the checkpoint's number. `state` nests
  numpy arrays, None or empty dicts under string keys without '/'. `progress`
  is what JSON holds; its tuples come back as lists.
  """

  step: int
  state: dict[str, Any]
  progress: dict[str, Any]

  @property
  def variables(self) -> dict[str, Any]:
    """Parameters and batch-norm statistics, for a model's `apply`."""
    return {name: self.state[name] for name in ('params', 'batch_stats')}

  @property
  def record(self) -> Record:
    """What the progress says of a stage."""
    # Imported weights have another: that is refused as foreign, by its lineage.
    names = {field.name for field in dataclasses.fields(Record)}
    return Record(**{n: v for n, v in self.progress.items() if n in names})

  @property
  def at_rest(self) -> 'Moment':
    """Without the optimiser's state, for when no training goes on from it."""
    state = {n: v for n, v in self.state.items() if n != 'opt_state'}
    return dataclasses.replace(self, state=state)


class Checkpoints(contextlib.AbstractContextManager):
  """The checkpoints of one directory: the two latest and the best.

  Every process of a run makes the same calls in the same order. They raise
  CheckpointError for a save that failed, and for what is missing or damaged,
  and WorkdirError for what a later version has written.
  """

  def __init__(
    self, directory: bucket.Path | str, *, read_only: bool = False
  ) -> None:
    """Remembers the directory; it needn't exist. Read-only, `save` refuses."""
    # As Orbax wants it.
    self._directory = bucket.absolute(directory)
    self._read_only = read_only
    self._writer: ocp.training.Checkpointer | None = None
    self._begun: tuple[Moment, dict[str, Any], futures.Future] | None = None
    self._synced: futures.Future | None = None
    self._known = _Known()

  def __exit__(self, kind: object, *_: object) -> None:
    # Why a stage ends matters more than a save that was still going on.
    with contextlib.suppress(*[CheckpointError] if kind else []):
      if kind and processes.several():
        # Orbax would wait for processes that may never come.
        self._begun = None
      self.close()

  def save(self, moment: Moment, *, score: float | None) -> None:
    """Begins to save, once the save before has finished; see `go_on`.

    A step that is there and intact stays as it is, unless this score is its
    first; a damaged one is replaced.

    Args:
      moment: its arrays don't change until `go_on` returns.
      score: higher is better; None (in mid-epoch) or NaN is never the best.

    Raises:
      CheckpointError: the save before has failed, or this one's folder.
      TypeError: the moment isn't what Moment describes.
      ValueError: the directory was opened read-only.
    """
    if self._read_only:
      raise ValueError(f'{self._directory} was opened read-only')
    # Refuses here what the thread would.
    _flat(moment.state)
    step, record = moment.step, _record(moment, score)
    self.wait()
    # All of them save or none, as Orbax's save waits for every process.
    if processes.first_says(self._suffices(step, record['score'])):
      return
    # Of unknown score, the best would be deleted by the save.
    for other in set(self.steps()) - self._known.scores.keys() - {step}:
      with contextlib.suppress(CheckpointError):
        self._read(other)
    self._known.scores[step] = record['score']
    self._known.damaged.discard(step)
    with self._failing(f'saving checkpoint {step} failed'):
      self._open_writer()
    # Training goes on meanwhile.
    self._begun = moment, record, _in_thread(_digests, moment.state)

  def go_on(self) -> None:
    """Has Orbax write what `save` was given, once a thread has hashed it.

    Call it when the devices have other work. Any other call does it, too; but
    where one of several processes fails, what Orbax has not got is dropped.
    """
    begun, self._begun = self._begun, None
    if begun is None:
      return
    moment, record, hashed = begun
    with self._failing(f'saving checkpoint {moment.step} failed'):
      record['arrays'] = hashed.result()
      self._writer.save_async(
        moment.step,
        moment.state,
        # By default Orbax skips what it is asked while another save goes on.
        force=True,
        overwrite=True,
        custom_metadata={'record': record, 'sha256': formats.digest(record)},
      )
    self._synced = _in_thread(self._sync, self._writer, moment.step)

  def wait(self) -> None:
    """Waits until the last save is on disk."""
    self.go_on()
    if self._writer is not None:
      with self._failing('the last save failed'):
        self._writer.wait()
        self._end_sync()
      processes.wait('checkpoint')

  def close(self) -> None:
    """Waits for the last save, and ends Orbax's threads."""
    try:
      self.go_on()
    finally:
      writer, self._writer = self._writer, None
      if writer is not None:
        with self._failing('the last save failed'):
          writer.close()
          self._end_sync()

  def steps(self) -> list[int]:
    """Returns the steps of all finished checkpoints, ascending."""
    self.wait()
    with self._failing('listing failed'):
      if not self._directory.exists():
        return []
      # Orbax's own listing reads metadata, and one damaged file stops it.
      names = bucket.finished(self._directory, 'commit_success.txt')
    return sorted(int(n) for n in names if re.fullmatch('0|[1-9][0-9]*', n))

  def load(self, step: int) -> Moment:
    """Returns the moment saved at one of `steps()`, the same to the bit."""
    record = self._read(step)
    with self._failing(f'checkpoint {step} is damaged: state', step):
      # Saved as numpy, so it loads without a template, on any devices.
      state = ocp.load(self._directory / str(step))
      stored, found = record['arrays'], _digests(state)
      paths = sorted(stored.keys() | found.keys())
      wrong = [path for path in paths if stored.get(path) != found.get(path)]
      if wrong:
        names = ', '.join(wrong[:3])
        raise ValueError(f'{len(wrong)} of {len(paths)} arrays differ: {names}')
    self._known.damaged.discard(step)
    return Moment(step, state, record['progress'])

  def load_latest(
    self, *, on_damaged: Callable[[CheckpointError], None]
  ) -> Moment | None:
    """Returns the newest intact moment, or None if there are no checkpoints.

    `on_damaged` is told of each newer one that is damaged.

    Raises:
      CheckpointError: there are checkpoints, and all are damaged.
    """
    steps = self.steps()
    for step in reversed(steps):
      try:
        return self.load(step)
      except CheckpointError as error:
        on_damaged(error)
    if not steps:
      return None
    raise CheckpointError(
      f'{self._directory}: every checkpoint is damaged ({steps}); restore '
      'that folder from a copy, or remove it to start again'
    )

  def load_best(self) -> Moment:
    """Returns the moment of the highest score; of equals, the earliest."""
    scores = {step: self._read(step)['score'] for step in self.steps()}
    best = _best(scores)
    if best is None:
      raise CheckpointError(f'{self._directory}: no score in {list(scores)}')
    return self.load(best)

  def digest(self, step: int) -> str:
    """Returns `digest(state)` of a checkpoint, as it was when saved."""
    return formats.digest(self._read(step)['arrays'])

  def _sync(self, writer: ocp.training.Checkpointer, step: int) -> None:
    """Waits for a save, and then for the disk: Orbax does so for arrays alone.

    A machine that lost its power had lost our digests, or the step's name.
    """
    try:
      writer.wait()
    except Exception:
      # It is raised once more in the thread that is to tell it.
      return
    if processes.is_first() and not bucket.is_bucket(self._directory):
      files.sync_all(self._directory / str(step))
      files.sync(self._directory)

  def _end_sync(self) -> None:
    synced, self._synced = self._synced, None
    if synced is not None:
      synced.result()

  def _open_writer(self) -> ocp.training.Checkpointer:
    if self._writer is None and not bucket.is_bucket(self._directory):
      files.make_folder(self._directory)
    context = ocp.Context()
    # Else threads would wait for 20 minutes for a folder that can't be made.
    context.async_options.create_directories_asynchronously = False
    # One damaged file of Orbax's metrics or metadata would stop this
    # constructor: scores are none of its metrics, and it reads no metadata.
    self._writer = self._writer or ocp.training.Checkpointer(
      self._directory,
      context=context,
      preservation_policy=self._known,
      cleanup_tmp_directories=True,
      lightweight_initialize=True,
    )
    return self._writer

  def _suffices(self, step: int, score: float | None) -> bool:
    try:
      self.load(step)
    except CheckpointError:
      return False
    return score is None or self._known.scores[step] is not None

  def _read(self, step: int) -> dict[str, Any]:
    steps = self.steps()
    if step not in steps:
      raise CheckpointError(
        f'{self._directory}: there is no checkpoint {step}, only {steps}'
      )
    # ocp.metadata would open every array for these few bytes.
    file = self._directory / str(step) / '_CHECKPOINT_METADATA'
    with self._failing(f'checkpoint {step} is damaged: {file.name}', step):
      stored = json.loads(file.read_text())['custom_metadata']
      record = stored['record']
      if record['step'] != step or formats.digest(record) != stored['sha256']:
        raise ValueError('the record is not what was saved')
    formats.refuse_newer(file, record)
    self._known.scores[step] = record['score']
    return record

  @contextlib.contextmanager
  def _failing(self, what: str, step: int | None = None) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      if step is not None:
        self._known.damaged.add(step)
      text = f'{self._directory}: {what}: {_cause(error)}'
      raise CheckpointError(text) from error


class _Known:
  """What is known of the checkpoints, and so which of them Orbax keeps.

  The two latest and the best stay, not counting damaged ones. Damaged ones
  stay until an intact one is later: the fault may be the storage's, and pass.
  """

  def __init__(self) -> None:
    self.scores: dict[int, float | None] = {}
    self.damaged: set[int] = set()

  def should_preserve(
    self, checkpoints: Sequence[ocp.training.CheckpointMetadata], **_
  ) -> list[bool]:
    steps = [checkpoint.step for checkpoint in checkpoints]
    intact = sorted(set(steps) - self.damaged)
    kept = {*intact[-2:], _best({s: self.scores.get(s) for s in intact})}
    return [step in kept or step > intact[-1] for step in steps]


def digest(state: dict[str, Any]) -> str:
  """Returns a SHA-256, in hex, over every array's path, dtype, shape, bytes.

  Raises:
    TypeError: the state isn't what Moment describes.
  """
  return formats.digest(_digests(state))


def _in_thread(work: Callable[..., Any], *its: Any) -> futures.Future:
  thread = futures.ThreadPoolExecutor(1)
  doing = thread.submit(work, *its)
  thread.shutdown(wait=False)
  return doing


def _digests(state: Any) -> dict[str, str]:
  return {path: _leaf_digest(leaf) for path, leaf in _flat(state).items()}


def _flat(tree: Any, path: str = '') -> dict[str, Any]:
  """Returns the leaves by their paths, or refuses one, see `digest`."""
  if isinstance(tree, dict) and tree:
    found = {}
    for key, value in tree.items():
      if not isinstance(key, str) or '/' in key:
        raise TypeError(f'{path or "the state"} has the key {key!r}')
      found |= _flat(value, f'{path}/{key}' if path else key)
    return found
  is_nothing = bool(path) and (tree is None or isinstance(tree, dict))
  is_array = isinstance(tree, np.ndarray) and tree.size and tree.dtype.isnative
  # Without arrays or with an empty one, Orbax fails so that the process hangs
  # at its end; it would give foreign byte order back as native.
  if not (is_nothing or is_array):
    raise TypeError(f'{path or "the state"} cannot be saved: {tree!r:.60}')
  return {path: tree}


def _leaf_digest(leaf: np.ndarray | dict | None) -> str:
  if not isinstance(leaf, np.ndarray):
    return repr(leaf)
  sha = hashlib.sha256(f'{leaf.dtype.name}{leaf.shape}'.encode())
  # bfloat16 exports no buffer, its bytes do.
  sha.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
  return sha.hexdigest()


def _record(moment: Moment, score: float | None) -> dict[str, Any]:
  record = {
    **formats.stamp(),
    'step': moment.step,
    'score': None if score is None or score != score else float(score),
    'progress': moment.progress,
  }
  # As it will be read: keys that aren't strings yet would sort differently.
  return json.loads(json.dumps(record))


def _best(scores: Mapping[int, float | None]) -> int | None:
  scored = {step: s for step, s in scores.items() if s is not None}
  return max(scored, key=lambda step: (scored[step], -step), default=None)


def _cause(error: Exception) -> str:
  # TensorStore appends its whole specification in brackets.
  text = re.sub(r' \[\w+=.*', '', str(error).partition('\n')[0])
  return f'{type(error).__name__}: {text}'
