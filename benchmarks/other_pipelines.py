# SPDX-License-Identifier: Apache-2.0
"""The streamed pipeline's work in PyTorch and in tf.data, to compare with.

Both read JPEGs of class folders in random order, crop at random as Inception
does, resize to a square (bilinear), mirror at random, and batch.
"""

import pathlib
from collections.abc import Iterator

from srdl_jax.data.images import IMAGENET_MEAN, IMAGENET_STD

# Of a crop: as shares of the area, and width over height.
AREAS, ASPECTS = (0.08, 1.0), (3 / 4, 4 / 3)


def torch_batches(
  root: pathlib.Path, size: int, batch_size: int, workers: int, count: int
) -> dict[str, Iterator]:
  """Returns DataLoaders' iterators; none where PyTorch isn't installed.

  Args:
    root: of the class folders.
    size: of the crops, in pixels.
    batch_size: images in a batch.
    workers: processes that each of them starts.
    count: batches in all.
  """
  try:
    import torch
    import torch_models

    torch_models.torchvision_models()
    from torchvision import datasets, transforms
  except ImportError:
    return {}
  view = [
    transforms.RandomResizedCrop(size, AREAS, ASPECTS, antialias=True),
    transforms.RandomHorizontalFlip(),
  ]
  normalised = [
    transforms.ToTensor(),
    transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
  ]
  endings = {'pytorch': [transforms.PILToTensor()], 'pytorch_float': normalised}

  def loader(ending: list) -> Iterator:
    images = datasets.ImageFolder(root, transforms.Compose([*view, *ending]))
    order = torch.utils.data.RandomSampler(
      images, replacement=True, num_samples=count * batch_size
    )
    return iter(
      torch.utils.data.DataLoader(
        images, batch_size, sampler=order, num_workers=workers
      )
    )

  return {name: loader(ending) for name, ending in endings.items()}


def tf_batches(
  root: pathlib.Path, size: int, batch_size: int, workers: int
) -> dict[str, Iterator]:
  """Returns endless iterators of tf.data; none without TensorFlow.

  Args:
    root, size, batch_size: see `torch_batches`.
    workers: threads that each of them has.
  """
  try:
    import tensorflow as tf
  except ImportError:
    return {}
  paths = sorted(str(path) for path in root.glob('*/*.jpg'))

  def batches(dct: str, antialias: bool) -> Iterator:
    def view(path):
      content = tf.io.read_file(path)
      begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(content),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.0,
        aspect_ratio_range=ASPECTS,
        area_range=AREAS,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
      )
      window = tf.concat([begin[:2], extent[:2]], 0)
      image = tf.image.decode_and_crop_jpeg(
        content, window, channels=3, dct_method=dct
      )
      image = tf.image.resize(image, [size, size], antialias=antialias)
      image = tf.image.random_flip_left_right(image)
      return tf.saturate_cast(tf.round(image), tf.uint8)

    images = tf.data.Dataset.from_tensor_slices(paths)
    images = images.shuffle(len(paths)).repeat()
    images = images.map(view, num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    made = images.batch(batch_size, drop_remainder=True)
    return made.prefetch(2).with_options(options).as_numpy_iterator()

  return {
    'tf_data': batches('INTEGER_ACCURATE', antialias=True),
    'tf_data_usual': batches('INTEGER_FAST', antialias=False),
  }
