# SPDX-License-Identifier: Apache-2.0
"""Flip, crop and normalisation: listed values, all draws, own keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdl_jax import augment
from srdl_jax.experiment import Purpose, key_for

# Each pixel of this image has a value of its own.
IMAGE = np.arange(25, dtype=np.uint8).reshape(5, 5, 1) + 10
KEY = jax.random.key(3)


def _batch(count):
  """Images [B, 5, 5, 3] that all differ."""
  values = np.arange(count * 75) * 7 % 251
  return values.reshape(count, 5, 5, 3).astype(np.uint8)


@functools.cache
def _crops(count, padding, mode):
  """Crops of IMAGE by as many keys."""
  return _augmented(IMAGE, count, padding=padding, mode=mode)


def _augmented(image, count, *, flip=False, padding=0, mode='reflect'):
  """An image by as many keys."""
  augmented = functools.partial(
    augment.flip_and_crop, flip=flip, padding=padding, mode=mode
  )
  images = np.broadcast_to(image, (count, *image.shape))
  return np.asarray(jax.jit(augmented)(KEY, images, np.arange(count)))


def _windows(padded):
  """Every crop of 5 x 5 that there is, by its offset."""
  places = len(padded) - 4
  return {
    (top, left): padded[top : top + 5, left : left + 5]
    for top in range(places)
    for left in range(places)
  }


def _offsets(crops, padded):
  """Where each crop was taken; a crop that is no window is a KeyError."""
  by_bytes = {w.tobytes(): place for place, w in _windows(padded).items()}
  assert len(by_bytes) == len(_windows(padded))
  return [by_bytes[crop.tobytes()] for crop in crops]


# Normalisation.


def test_normalisation_in_closed_form():
  # 0, 51 and 255 are 0, 0.2 and 1; mean 0.2, std 0.4, then mean 0, std 1.
  images = np.uint8([[[[0, 0], [51, 51], [255, 255]]]])
  found = augment.Normalise((0.2, 0.0), (0.4, 1.0))(jnp.asarray(images))
  assert found.dtype == jnp.float32
  expected = [[[[-0.5, 0], [0, 0.2], [2, 1]]]]
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_normalised_pixels_have_mean_zero_and_deviation_one(x64):
  images = _batch(16)
  mean = (images / 255).mean(axis=(0, 1, 2))
  std = (images / 255).std(axis=(0, 1, 2))
  found = augment.Normalise(mean, std, jnp.float64)(jnp.asarray(images))
  assert found.dtype == jnp.float64
  np.testing.assert_allclose(found.mean((0, 1, 2)), np.zeros(3), atol=1e-12)
  np.testing.assert_allclose(found.std((0, 1, 2)), np.ones(3), rtol=1e-12)


# Crop.


def test_reflection_does_not_repeat_the_edge():
  # A row 10 11 12 13 14, reflected by 2: 12 11 | 10 11 12 13 14 | 13 12.
  padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), 'reflect')
  assert padded[2, :, 0].tolist() == [12, 11, 10, 11, 12, 13, 14, 13, 12]
  places = set(_offsets(_crops(600, 2, 'reflect'), padded))
  assert places == set(_windows(padded))


def test_zero_padding_is_black_before_normalisation():
  padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), 'constant')
  crops = _crops(600, 2, 'zero')
  assert set(_offsets(crops, padded)) == set(_windows(padded))
  # A black pixel is -mean / std once normalised, not 0.
  corner = crops[np.argmax(crops[:, 0, 0, 0] == 0)]
  found = augment.Normalise((0.25,), (0.5,))(jnp.asarray(corner))
  np.testing.assert_allclose(found[0, 0], [-0.5], rtol=1e-6)


def test_offsets_are_uniform():
  # 25 places, 2500 draws: 100 each. The sum of (n - 100)^2 / 100 has a
  # chi-square distribution of 24 degrees of freedom, which exceeds 51.2 once
  # in a thousand; offsets that left one row out would give above 500.
  padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), 'reflect')
  places = _offsets(_crops(2500, 2, 'reflect'), padded)
  counts = np.array([places.count(place) for place in _windows(padded)])
  assert ((counts - 100) ** 2 / 100).sum() < 51.2


def test_padding_of_four_is_the_papers_crop():
  number = np.arange(32 * 32).reshape(32, 32)
  image = np.stack([number // 256, number % 256], -1).astype(np.uint8)
  padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), 'reflect')
  tops = set()
  for found in _augmented(image, 64, padding=4):
    matches = [
      (top, left)
      for top in range(9)
      for left in range(9)
      if (padded[top : top + 32, left : left + 32] == found).all()
    ]
    assert len(matches) == 1
    tops.add(matches[0][0])
  assert tops == set(range(9))


# Flip.


def test_flip_mirrors_columns_half_of_the_time():
  found = _augmented(IMAGE, 400, flip=True)
  mirrored = (found == IMAGE[:, ::-1]).all((1, 2, 3))
  same = (found == IMAGE).all((1, 2, 3))
  np.testing.assert_array_equal(mirrored, ~same)
  # 400 fair draws have a deviation of 10.
  assert abs(mirrored.sum() - 200) < 40


# Each example has its own key.

flip_and_crop = jax.jit(
  functools.partial(augment.flip_and_crop, flip=True, padding=2)
)


def test_augmentation_does_not_depend_on_the_rest_of_the_batch():
  images, index = _batch(12), np.arange(12) + 40
  whole = flip_and_crop(KEY, images, index)
  order = np.array([7, 0, 11, 3, 4, 9, 1, 2, 10, 5, 8, 6])
  shuffled = flip_and_crop(KEY, images[order], index[order])
  np.testing.assert_array_equal(shuffled, whole[order])
  for row in (0, 7):
    one = slice(row, row + 1)
    alone = flip_and_crop(KEY, images[one], index[one])
    np.testing.assert_array_equal(alone, whole[one])


@pytest.mark.parametrize('count', [1, 2, 4])
def test_augmentation_does_not_depend_on_the_number_of_devices(count):
  images, index = _batch(12), np.arange(12) + 40
  mapped = jax.pmap(
    flip_and_crop, in_axes=(None, 0, 0), devices=jax.devices()[:count]
  )
  found = mapped(
    KEY,
    images.reshape(count, -1, 5, 5, 3),
    index.reshape(count, -1),
  )
  np.testing.assert_array_equal(
    np.asarray(found).reshape(images.shape),
    flip_and_crop(KEY, images, index),
  )


def test_examples_of_a_batch_are_augmented_differently():
  images = np.broadcast_to(IMAGE, (40, 5, 5, 1))
  found = np.asarray(flip_and_crop(KEY, images, np.arange(40)))
  # 50 outcomes are equally likely; 40 draws of them have 28 different ones
  # on average, with a deviation of 2.2.
  assert len({image.tobytes() for image in found}) > 15


def test_augmentation_differs_between_seeds_stages_and_epochs():
  images, index = _batch(12), np.arange(12)
  found = {
    np.asarray(
      flip_and_crop(key_for(seed, Purpose.AUGMENT, stage, epoch), images, index)
    ).tobytes()
    for seed in (0, 1)
    for stage in (1, 2)
    for epoch in (0, 1)
  }
  assert len(found) == 8


def test_flip_and_crop_are_drawn_independently():
  # Of each image, whether it is mirrored and its offset: all 50 pairs come.
  padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), 'reflect')
  # A crop of a reflected image may be its own mirror; the top rows aren't.
  outcome = {
    window.tobytes(): (place, mirrored)
    for place, whole in _windows(padded).items()
    for mirrored, window in ((0, whole), (1, whole[:, ::-1]))
  }
  images = np.broadcast_to(IMAGE, (1000, 5, 5, 1))
  found = np.asarray(flip_and_crop(KEY, images, np.arange(1000)))
  seen = {outcome[image.tobytes()] for image in found}
  assert seen == set(outcome.values())


def test_without_flip_nothing_is_mirrored():
  images = np.broadcast_to(IMAGE, (40, 5, 5, 1))
  found = augment.flip_and_crop(
    KEY, images, np.arange(40), flip=False, padding=0
  )
  np.testing.assert_array_equal(found, images)


def test_augmentation_stays_in_uint8():
  found = flip_and_crop(KEY, _batch(2), np.arange(2))
  assert found.dtype == jnp.uint8
