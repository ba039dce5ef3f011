# SPDX-License-Identifier: Apache-2.0
"""What is done otherwise on a TPU, computed on CPU: it gives the same bits."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import tiny

from srdl_jax import augment, build, feed, parallel
from srdl_jax.experiment import Purpose
from srdl_jax.machine import tpu

KEY = jax.random.key(5)


def _as_on_a_tpu(*args, default, tpu):
  del default
  return tpu(*args)


def _augmented(images, **options):
  """As many augmentations as there are images, compiled anew."""
  index = np.arange(len(images))

  def augmented(key):
    return augment.flip_and_crop(key, images, index, **options)

  return np.asarray(jax.jit(augmented)(KEY))


@pytest.mark.parametrize('mode', augment.PADDINGS)
@pytest.mark.parametrize(
  ('shape', 'padding'),
  # Of 800 draws each, all 50 of the first are seen, and all 18 of the last.
  [((5, 5, 1), 2), ((3, 5, 4), 2), ((32, 24, 3), 4), ((2, 2, 3), 1)],
)
def test_products_cut_the_bits_of_slices(monkeypatch, shape, padding, mode):
  images = np.random.default_rng(0).integers(0, 256, (800, *shape), np.uint8)
  options = {'flip': True, 'padding': padding, 'mode': mode}
  slices = _augmented(images, **options)
  monkeypatch.setattr(jax.lax, 'platform_dependent', _as_on_a_tpu)
  products = _augmented(images, **options)
  assert products.dtype == np.uint8
  np.testing.assert_array_equal(products, slices)
  assert (products != images).any((1, 2, 3)).mean() > 0.5


def test_every_value_of_a_pixel_survives():
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  found = tpu.window(
    images, np.zeros(1, np.int32), np.full((1, 2), 3), padding=3, mode='zero'
  )
  np.testing.assert_array_equal(found, images)


def test_images_in_rows_are_read_by_their_numbers():
  images = np.random.default_rng(1).integers(0, 256, (9, 4, 6, 3), np.uint8)
  flat = tpu.laid_out(images)
  assert len(flat) == 9 and flat.rows.shape == (9, 72)
  assert np.shares_memory(flat.rows, images)
  for index in (np.array([8, 0, 8]), np.array([[1, 2], [3, 4]])):
    np.testing.assert_array_equal(flat[index], images[index])


@pytest.mark.parametrize(
  ('shape', 'dtype', 'is_flat'),
  [
    ((2, 32, 32, 3), np.uint8, True),
    ((2, 96, 96, 3), np.uint8, True),
    ((2, 128, 256, 1), np.uint8, True),
    ((2, 256, 128, 3), np.uint8, False),
    ((2, 224, 224, 3), np.uint8, False),
    # A label, a soft target and a kernel aren't images.
    ((2,), np.int32, False),
    ((2, 100), np.float16, False),
    ((3, 3, 16, 16), np.float32, False),
  ],
)
def test_what_is_laid_out_in_rows(shape, dtype, is_flat):
  array = np.zeros(shape, dtype)
  found = tpu.laid_out(array)
  assert isinstance(found, tpu.FlatImages) == is_flat
  assert is_flat or found is array


def _trained(built, resident):
  """A state after three steps, and their metrics."""
  stage = built.stages[0]
  state = parallel.replicate(stage.initial_state(None), built.devices)
  key = parallel.replicate(stage.key(Purpose.AUGMENT, 0), built.devices)
  with feed.open_feed(built, stage, None, 0) as given:
    kept, rows = given.resident, given.examples(0, 0, 3)
  kept = {**kept, 'image': resident(np.asarray(kept['image']))}
  kept = parallel.replicate(kept, built.devices)
  state, metrics = stage.train_chunk(state, kept, rows, key)
  return parallel.to_host((state.saved(), metrics))


@pytest.mark.parametrize('devices', [1, 2])
def test_training_comes_to_the_same_bits(monkeypatch, devices):
  config = tiny.config(devices=devices)
  plain = _trained(build.build(config), np.asarray)
  monkeypatch.setattr(jax.lax, 'platform_dependent', _as_on_a_tpu)
  on_tpu = _trained(build.build(config), tpu.laid_out)
  jax.tree.map(np.testing.assert_array_equal, on_tpu, plain)


@pytest.mark.parametrize('platform', ['cpu', 'gpu', 'tpu'])
def test_a_tpu_alone_is_given_rows(monkeypatch, platform):
  built = build.build(tiny.config())
  device = types.SimpleNamespace(platform=platform)
  built = dataclasses.replace(built, devices=[device])
  monkeypatch.setattr(parallel, 'replicate', lambda tree, _: tree)
  with feed.open_feed(built, built.stages[0], None, 0) as given:
    image = given.resident['image']
  assert isinstance(image, tpu.FlatImages) == (platform == 'tpu')
