# SPDX-License-Identifier: Apache-2.0
"""Every field that changes numbers changes the right ones.

That a run with a field off its default agrees with its second writing is held
in `test_second_writing`; here, that without the field the second writing would
give other numbers, and from where on.
"""

import dataclasses
import functools
from typing import Any

import compared_runs
import jax
import jax.numpy as jnp
import made_market
import numpy as np
import pytest
import second_writing
import tiny
from compared_runs import HALVES, RUNS, SHORT
from second_writing import Part

from srdl_jax import build, evaluate, methods, models, targets
from srdl_jax.config import FIELDS
from srdl_jax.retrieval.metrics import evaluate_features
from srdl_jax.retrieval.re_ranking import ReRanking


@dataclasses.dataclass(frozen=True)
class Seen:
  """What a field does to a run that is written twice.

  Attributes:
    run: a key of RUNS, in which the field is off its default.
    other: another value.
    first: the first step at which a metric is another with that value, where
      no earlier one is; the third step is the last of most stages one.
    metric: which of them.
    parts: the run's with that value, if others.
  """

  run: str
  other: Any
  first: int
  metric: str = 'loss'
  parts: tuple[Part, ...] = ()


SEEN = {
  'seed': Seen('plain', 8, 1),
  'method': Seen('no_restart', 'srdl', 4, parts=HALVES),
  # Stage one falls at two of its 3, or of its 6, steps.
  'epochs': Seen('srdl', 3, 2, 'learning_rate', HALVES),
  'batch_size': Seen('plain', 24, 1),
  'data.name': Seen('streamed', 'digits', 1),
  'data.image_size': Seen('streamed', 20, 1),
  'data.holdout': Seen('plain', 60, 1),
  'data.classes': Seen('plain', 7, 1),
  'data.examples_per_class': Seen('plain', 12, 1),
  'data.label_noise': Seen('noise', 0.1, 1),
  'data.label_noise_seed': Seen('noise', 4, 1),
  'model.name': Seen('teacher', 'tiny', 1, parts=SHORT),
  'srdl.split': Seen(
    'three stages',
    (2, 1, 2),
    2,
    'learning_rate',
    (Part(2), Part(1, teacher=1, complete=False), Part(2, teacher=2)),
  ),
  # Stage two's part of one decay over 15 steps falls at 6, its own at 3 + 2.
  'srdl.complete': Seen(
    'three stages',
    (True, True, True),
    6,
    'learning_rate',
    (Part(1), Part(2, teacher=1), Part(2, teacher=2)),
  ),
  'srdl.start': Seen('same', 'fresh', 4, parts=HALVES),
  # Momentum shows a step later than parameters.
  'srdl.keep_optimiser': Seen(
    'kept',
    False,
    5,
    parts=(
      Part(1),
      Part(1, teacher=1, start='previous'),
      Part(1, teacher=2, start='previous'),
    ),
  ),
  'born_again.generations': Seen('born_again', 1, 7, parts=SHORT),
  'label_smoothing': Seen(
    'label_smoothing', 0.1, 1, parts=(Part(2, smoothing=0.1),)
  ),
  'teacher.model': Seen('kd', 'tiny', 1, parts=HALVES),
  'teacher.epochs': Seen(
    'kd', 2, 2, 'learning_rate', (Part(2, width=12), Part(2, teacher=1))
  ),
  'augment.flip': Seen('no flip', True, 1),
  'augment.padding': Seen('plain', 1, 1),
  'augment.least_area': Seen('streamed', 0.08, 1),
  'augment.mode': Seen('zero', 'reflect', 1),
  'optimiser.learning_rate': Seen('plain', 0.1, 1, 'learning_rate'),
  'optimiser.backbone_share': Seen('kept', 1.0, 2),
  'optimiser.momentum': Seen('plain', 0.9, 2),
  'optimiser.weight_decay': Seen('plain', 2e-4, 2),
  # Of 3 steps both fall at 1 and 2; of 6, at 2 and 4, or at 3 and 4.
  'schedule.decay_at': Seen('plain', (0.5, 0.75), 6, 'learning_rate'),
  'schedule.decay_factor': Seen('plain', 0.1, 2, 'learning_rate'),
  'distillation.temperature': Seen('plain', 3.0, 4, 'imitation'),
  'distillation.label_weight': Seen('plain', 1.0, 4),
  'distillation.views': Seen('views', 2, 4, 'imitation'),
  'distillation.online': Seen('online', False, 4, 'imitation'),
  'distillation.imitation_weight': Seen('plain', 1.0, 4),
}
# Those of sources are changed in tests/targets.
OF_SOURCES = {n for n in FIELDS if n.partition('.')[0] in targets.SOURCES}
# Fields of which a test of their own is below.
OWN_TESTS = {
  'model.shortcut',
  'model.stem',
  'model.remat',
  'model.dtype',
  'retrieval.normalise',
  'retrieval.mirror',
  'retrieval.pooling',
  'retrieval.re_rank',
}


def test_every_field_that_changes_numbers_is_here():
  changing = {name for name, field in FIELDS.items() if field.identity}
  assert set(SEEN) | OWN_TESTS | OF_SOURCES == changing
  assert not set(SEEN) & OWN_TESTS


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  folder = tmp_path_factory.mktemp('folder')
  compared_runs.save_images(folder)
  return {'folder': str(folder), 'weights': ''}


@pytest.fixture(scope='module')
def written(places):
  """A function of a run's name: its second writing."""

  @functools.cache
  def of(name):
    fields = compared_runs.fields_of(RUNS[name], places)
    return second_writing.write(fields, RUNS[name].parts)

  return of


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
  wide = functools.partial(tiny.Tiny, width=12)
  monkeypatch.setitem(models.MODELS, 'wide', wide)


def parts_of(config):
  """The stages of a method as they are told by hand."""
  widths = {'tiny': 8, 'wide': 12}
  return tuple(
    Part(
      stage.epochs,
      teacher=stage.teacher,
      complete=stage.complete,
      start=stage.start,
      keep=stage.keep_optimiser,
      smoothing=stage.label_smoothing,
      width=widths[stage.model],
    )
    for stage in methods.create(config)
  )


def first_difference(steps, others):
  """The first step that differs, from 1, and in which of its metrics."""
  for n, (step, other) in enumerate(zip(steps, others, strict=False), start=1):
    if different := {
      k for k in {*step, *other} if step.get(k) != pytest.approx(other.get(k))
    }:
      return n, different
  return min(len(steps), len(others)) + 1, {'loss'}


@pytest.mark.parametrize('name', SEEN)
def test_a_field_changes_what_it_should_and_nothing_before(
  written, places, name
):
  seen = SEEN[name]
  compared = RUNS[seen.run]
  assert compared_runs.value_of(compared, name) not in (
    FIELDS[name].default,
    seen.other,
  )
  changed = dataclasses.replace(
    compared,
    parts=seen.parts or compared.parts,
    fields={**compared.fields, name: seen.other},
  )
  if name == 'data.name':
    # Of a folder alone; and as few images as that has.
    changed.fields.update({'data.image_size': 0, 'data.examples_per_class': 4})
  config = compared_runs.config_of(changed, places)
  assert parts_of(config) == changed.parts
  fields = compared_runs.fields_of(changed, places)
  other = second_writing.write(fields, changed.parts)
  first, metrics = first_difference(written(seen.run).steps, other.steps)
  assert first == seen.first and seen.metric in metrics


def test_imported_weights_and_teachers_change_numbers(written, places):
  plain = written('plain').steps
  fields = compared_runs.fields_of(RUNS['weights'], places)
  weights = compared_runs.weights()
  begun = second_writing.write(fields, HALVES, None, weights).steps
  assert first_difference(plain, begun)[0] == 1
  fields = compared_runs.fields_of(RUNS['plain'], places)
  student = functools.partial(second_writing.write, fields, (Part(1, 0),))
  one, other = (student(written(n)).steps for n in ('plain', 'same'))
  assert first_difference(one, other) == (1, {'imitation', 'loss'})


# Networks.


def built(places, **fields):
  config = compared_runs.config_of(compared_runs.Compared((), fields), places)
  return build.build(config)


def network(places, **fields):
  return built(places, method='vanilla', **fields).stages[0].network


def kernels(network):
  leaves = jax.tree.leaves_with_path(network.like['params'])
  return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def test_the_stem_of_the_network_is_the_configured_one(places):
  first = {
    stem: kernels(
      network(places, **{'model.name': 'resnet18', 'model.stem': stem})
    )["['conv1']['kernel']"]
    for stem in ('small', 'large')
  }
  assert first['small'][:2] == (3, 3) and first['large'][:2] == (7, 7)


def test_the_shortcut_of_the_network_is_the_configured_one(places):
  with_1x1 = {
    shortcut: sum(
      shape[:2] == (1, 1)
      for shape in kernels(
        network(places, **{'model.name': 'resnet8', 'model.shortcut': shortcut})
      ).values()
    )
    for shortcut in ('projection', 'identity')
  }
  # Two changes of shape in three groups.
  assert with_1x1 == {'projection': 2, 'identity': 0}


@pytest.mark.parametrize('remat', [True, False])
def test_activations_are_computed_twice_where_asked(places, remat):
  found = network(places, **{'model.name': 'resnet8', 'model.remat': remat})
  images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.uint8)
  program = jax.make_jaxpr(found.predict_step)(found.like, images)
  names = {equation.primitive.name for equation in program.eqns}
  assert bool(names & {'checkpoint', 'remat2'}) == remat


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float64'])
def test_the_network_computes_as_precisely_as_configured(places, dtype):
  images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.uint8)
  with jax.enable_x64(dtype == 'float64'):
    found = network(places, **{'model.dtype': dtype})
    assert jax.eval_shape(found.predict_step, found.like, images).dtype == dtype


# Rankings.


@pytest.fixture(scope='module')
def market(tmp_path_factory):
  """Fields of a folder of persons, and drawn variables."""
  root = tmp_path_factory.mktemp('market')
  made_market.make(
    root,
    train_identities=2,
    test_identities=8,
    cameras=3,
    per_camera=2,
    distractors=6,
    junk=4,
  )
  fields = {
    'data.name': 'reid_folder',
    'data.path': str(root / made_market.FOLDER),
    'data.allow_differences': True,
    'data.image_size': 32,
    'data.classes': 0,
    'data.holdout': 0,
    'data.examples_per_class': 0,
    'batch_size': 4,
    'method': 'vanilla',
  }
  model = tiny.Tiny(2)
  variables = model.init(
    jax.random.key(1), jnp.zeros((1, 32, 16, 3)), train=False
  )
  return fields, variables


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def mean_precision(distances, sides):
  """mAP over queries that have a match; junk and the own camera are left."""
  found = []
  for row, who, by in zip(
    distances, sides['query_ids'], sides['query_cameras'], strict=True
  ):
    same = sides['gallery_ids'] == who
    kept = (sides['gallery_ids'] != -1) & ~(
      same & (sides['gallery_cameras'] == by)
    )
    right = same[kept][np.argsort(row[kept], kind='stable')]
    if right.any():
      places = np.flatnonzero(right) + 1
      found.append(np.mean(np.arange(1, len(places) + 1) / places))
  return np.mean(found)


RANKINGS = [
  {},
  {'normalise': True},
  {'mirror': True},
  {'pooling': 'max'},
  {'re_rank': True},
]


@pytest.fixture(scope='module')
def ranked():
  """What has been measured, by how it was ranked."""
  return {}


@pytest.mark.parametrize(
  'how', RANKINGS, ids=lambda how: ''.join(how) or 'as is'
)
def test_a_gallery_is_ranked_as_configured(places, market, ranked, how):
  fields, variables = market
  experiment = built(
    places, **fields, **{f'retrieval.{n}': v for n, v in how.items()}
  )
  measured = evaluate.evaluate([(experiment, {1: variables})], 'test')
  test, dataset = experiment.dataset.test, experiment.dataset
  stats = variables['batch_stats']['BatchNorm_0']
  end = variables['params'], (stats['mean'], stats['var'])

  def features(part):
    images = part.images[np.arange(len(part.identities))]
    seen = np.float32((images / 255 - dataset.mean) / dataset.std)
    several = [seen, seen[:, :, ::-1]] if 'mirror' in how else [seen]
    each = [
      np.array(second_writing.features(*end, x, train=False)[0], np.float64)
      for x in several
    ]
    mean = np.mean(each, axis=0)
    return unit(mean) if 'normalise' in how else mean

  query, gallery, more = map(features, test.parts)
  sides = {
    'query_ids': test.query.identities,
    'query_cameras': test.query.cameras,
    'gallery_ids': test.gallery.identities,
    'gallery_cameras': test.gallery.cameras,
  }
  pool = np.max if 'pooling' in how else np.mean
  who = np.stack([test.multi_query.identities, test.multi_query.cameras], 1)
  asked = zip(sides['query_ids'], sides['query_cameras'], strict=True)
  pooled = unit(
    np.stack([pool(unit(more)[(who == one).all(1)], axis=0) for one in asked])
  )
  if 're_rank' in how:
    # The distances themselves are written twice in `test_retrieval`.
    scores = [
      evaluate_features(x, gallery, **sides, metric=metric, re_rank=ReRanking())
      for x, metric in ((query, 'euclidean'), (pooled, 'cosine'))
    ]
    wanted = [score.map for score in scores]
  else:
    apart = np.linalg.norm(query[:, None] - gallery[None], axis=-1)
    wanted = [
      mean_precision(apart, sides),
      mean_precision(-pooled @ unit(gallery).T, sides),
    ]
  found = measured['map'], measured['multi_query_map']
  assert found == pytest.approx(wanted, rel=1e-4)
  # Each way is another.
  assert all(found != other for other in ranked.values())
  ranked[tuple(how)] = found
