# SPDX-License-Identifier: Apache-2.0
"""New images, by the networks of runs."""

import functools
import json
import os

import numpy as np
import photos
import pytest
import started
from PIL import Image

from srdl_jax import data, predict, srdl, trained
from srdl_jax.errors import ConfigError, DataError
from srdl_jax.predict import __main__ as predict_command
from srdl_jax.runs import stop_request


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """new/<class>/<n>.png, and a run whose images are gone."""
  return photos.train_and_remove(tmp_path_factory.mktemp('predict'))


def said_of(place, files, name='final'):
  opened = trained.open_classifiers({place / 'run': name})
  return predict.of_files(opened, [str(file) for file in files])


def test_photos_get_the_names_of_their_classes(place):
  files = predict.find([str(place / 'new')])
  said = said_of(place, files)
  assert said.files == tuple(files) and len(files) == 12
  np.testing.assert_allclose(said.probabilities.sum(-1), np.ones(12), rtol=1e-6)
  best = [said.classes[said.best(row, 1)[0][0]] for row in range(12)]
  labels = [file.split('/')[-2] for file in files]
  right = [one == two for one, two in zip(best, labels, strict=True)]
  # Colours are learnt in eight epochs.
  assert sum(right) >= 10


def test_an_ensemble_is_the_mean_of_probabilities(place):
  files = predict.find([str(place / 'new')])
  one, two, both = (
    said_of(place, files, name).probabilities
    for name in ('stage_1', 'stage_2', 'ensemble')
  )
  assert np.abs(one - two).max() > 1e-3
  np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-6)


def test_images_are_cut_as_those_that_were_tested(place, tmp_path):
  """The same pixels through a data set and through a file of its size."""
  opened = trained.open_networks(place / 'run')
  rng = np.random.default_rng(0)
  image = photos.draw(rng, 1, size=(40, 30))
  image.save(tmp_path / 'a.png')
  variables = trained.load_members(place / 'run', 'final', opened)
  (member,) = opened.members(
    variables,
    data.folder_files.Files(str(tmp_path), ('a.png',)),
    np.zeros(1, int),
  )
  view = data.images.StreamedImages(
    data.folder_files.Files(str(tmp_path), ('a.png',)),
    size=opened.artefact.image_shape[0],
    resize=opened.artefact.resize,
  )
  seen = member.examples.split.images
  np.testing.assert_array_equal(seen[np.arange(1)], view[np.arange(1)])


def test_grey_images_of_the_size_are_seen_as_they_are(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  files = data.folder_files.Files(str(tmp_path), ('a.png',))
  seen = data.images.NewImages(files, (8, 8, 1), 8)
  np.testing.assert_array_equal(seen[0], pixels[..., None])


def test_images_are_stretched_where_nothing_is_cut(tmp_path):
  Image.new('RGB', (10, 40), (1, 2, 3)).save(tmp_path / 'a.png')
  files = data.folder_files.Files(str(tmp_path), ('a.png',))
  seen = data.images.NewImages(files, (6, 4, 3), 0)
  assert seen.shape == (1, 6, 4, 3)
  np.testing.assert_array_equal(seen[0], np.full((6, 4, 3), (1, 2, 3)))


def test_files_that_cannot_be_read_are_named_and_others_predicted(place):
  good = str(place / 'new' / 'sky' / '0.png')
  bad = place / 'bad.png'
  bad.write_bytes(b'no image')
  said = said_of(place, [bad, good])
  assert said.files == (good,) and len(said.probabilities) == 1
  alone = said_of(place, [good]).probabilities
  # A batch of two rounds otherwise than one of one.
  np.testing.assert_allclose(said.probabilities, alone, rtol=1e-3)
  (fault,) = said.faults
  assert str(bad) in fault
  with pytest.raises(DataError, match=r'1 of 2 file\(s\): .*bad.png'):
    said.refuse_faults()


def test_names_stand_for_files(tmp_path):
  names = 'b/2.JPG', 'b/1.png', 'b/c/3.webp', 'b/notes.txt', 'a.png'
  for name in (*names, 'b/._1.png'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()

  def found(*names):
    names = predict.find([str(tmp_path / name) for name in names])
    return [os.path.relpath(name, tmp_path) for name in names]

  assert found('b') == ['b/1.png', 'b/2.JPG', 'b/c/3.webp']
  assert found('*.png') == ['a.png'] and found('**/*.png')[-1] == 'b/1.png'
  # A file that is named is taken, whatever its name; each once.
  assert found('b/notes.txt', 'b/1.png', 'b')[:2] == ['b/notes.txt', 'b/1.png']
  assert len(found('b/1.png', 'b')) == 3
  (tmp_path / 'more').symlink_to(tmp_path / 'b')
  assert found('more') == ['more/1.png', 'more/2.JPG', 'more/c/3.webp']
  for nothing in ('none.png', '*.gif', 'a' * 300, '~no_such_user'):
    with pytest.raises(DataError, match='there is no such image'):
      found(nothing)


def test_links_that_lead_nowhere_or_back_are_named(place, tmp_path):
  file = tmp_path / 'b' / '1.png'
  file.parent.mkdir()
  file.touch()
  for name, target in (('gone.png', '/nowhere'), ('ring.png', 'ring.png')):
    (tmp_path / name).symlink_to(target)
  names = [str(tmp_path / 'gone.png'), str(tmp_path / 'ring.png')]
  assert predict.find(names) == predict.find([str(tmp_path / '*.png')]) == names
  assert predict.find([str(tmp_path)]) == [str(file), *names]
  gone, ring = said_of(place, [*names, place / 'new/sky/0.png']).faults
  assert 'gone.png: No such file' in gone
  assert 'ring.png: Too many levels of symbolic links' in ring
  (tmp_path / 'b' / 'back').symlink_to(tmp_path)
  with pytest.raises(DataError, match=f'b/back: .* leads back to {tmp_path};'):
    predict.find([str(tmp_path)])
  assert predict.find([str(tmp_path / 'b' / '**' / '1.png')]) == [str(file)]


def test_networks_of_other_classes_are_not_asked_together(place, tmp_path):
  photos.write(tmp_path / 'images')
  (tmp_path / 'images' / 'sky').rename(tmp_path / 'images' / 'wood')
  config = photos.config(tmp_path / 'images', method='vanilla', epochs=1)
  srdl.run(config, str(tmp_path / 'run'), stop_request.StopRequest())
  names = {place / 'run': 'final', tmp_path / 'run': 'final'}
  with pytest.raises(ConfigError, match='know other classes'):
    trained.open_classifiers(names)


def test_command_line(place):
  file = place / 'new' / 'grass' / '0.png'
  call = ['-m', 'srdl_jax.predict', f'--workdir={place / "run"}']
  python = functools.partial(started.python, cwd=started.ROOT / 'tests')
  told = python(*call, file)
  assert told.returncode == 2 and "Unknown model 'tiny'" in told.stderr
  assert told.stderr.endswith('come by --import=MODULE.\n')
  call.append('--import=tiny')
  expected = said_of(place, [file]).best(0, 2)
  label, share = expected[0]
  name = photos.CLASSES[label]
  table = python(*call, '--top=2', file, check=True)
  assert table.stdout.startswith(
    f'…{str(file)[-47:]}   {name} {100 * share:.1f} %'
  )
  told = python(*call, '--top=2', '--format=json', file, check=True)
  assert json.loads(told.stdout) == {
    'file': str(file),
    'predictions': [
      {'class': photos.CLASSES[n], 'probability': p} for n, p in expected
    ],
  }
  told = python(*call, '--top=2', '--format=csv', file, check=True)
  header, line = told.stdout.splitlines()
  assert header == 'file,class_1,probability_1,class_2,probability_2'
  assert line.split(',')[1] == name
  (place / 'bad.png').write_bytes(b'')
  told = python(*call, place / 'bad.png', file)
  assert told.returncode == 3 and 'bad.png' in told.stderr
  assert name in told.stdout
  told = python(*call)
  assert told.returncode == 2 and 'Name images' in told.stderr


def test_one_image_is_not_decoded_as_often_as_a_batch_is_long(place):
  opened = trained.open_networks(place / 'run')
  variables = trained.load_members(place / 'run', 'final', opened)
  files = data.folder_files.Files('', (str(place / 'new/sky/0.png'),))
  (member,) = opened.members(variables, files, np.zeros(1, np.int32))
  assert opened.batch_size > member.batch_size == 1


def test_codes_are_shown_with_what_they_mean(place):
  said = predict.Said(
    files=('a.png',),
    probabilities=np.array([[0.25, 0.75]]),
    classes=('n1', 'n2'),
    titles=('n1', 'n2 (tench)'),
    faults=(),
  )
  told = predict_command._told
  assert [told(said, *one) for one in said.best(0, 2)] == [
    {'class': 'n2', 'probability': 0.75, 'title': 'n2 (tench)'},
    {'class': 'n1', 'probability': 0.25},
  ]
