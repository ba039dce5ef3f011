# SPDX-License-Identifier: Apache-2.0
"""Weights in from PyTorch's files and out again."""

import functools
import hashlib
import itertools
import json
import pathlib
import re
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import seeded
import started
import tiny

from srdl_jax import build, models, srdl, trained
from srdl_jax import weights as weights_lib
from srdl_jax.errors import (
  CheckpointError,
  ConfigError,
  SrdlError,
  WorkdirError,
)
from srdl_jax.runs import stop_request
from srdl_jax.weights import __main__ as weights_command
from srdl_jax.weights import state_dict as state_dict_lib
from srdl_jax.weights import torch as torch_layout

ROOT = pathlib.Path(__file__).parents[2]
REFERENCES = ROOT / 'tests' / 'references'
STATE_DICTS = json.loads((REFERENCES / 'models.json').read_text())[
  'state_dicts'
]
FAMILIES = (
  'resnet8',
  'wrn10_2',
  'densenet_bc_40_12',
  'resnet18',
  'densenet121',
)


@functools.cache
def shapes(name, num_classes=10):
  """Returns the tensors' shapes by PyTorch's names."""
  like = jax.eval_shape(
    functools.partial(models.create(name, num_classes).init, train=False),
    jax.random.key(0),
    jnp.zeros((1, 32, 32, 3)),
  )
  bare = jax.tree.map(lambda x: np.empty(x.shape, bool), like)
  return {k: v.shape for k, v in torch_layout.to_torch(bare).items()}


def state_dict(name, num_classes=10):
  """Returns a state dict as PyTorch would hold it."""
  tensors = {
    key: seeded.weight(key, shape).astype(np.float32)
    for key, shape in shapes(name, num_classes).items()
  }
  tensors['bn1.num_batches_tracked'] = np.array(7, np.int64)
  return tensors


@pytest.mark.parametrize('name', STATE_DICTS)
@pytest.mark.slow
def test_every_network_has_pytorchs_state_dict(name):
  lines = sorted(f'{key} {shape}' for key, shape in shapes(name).items())
  digest = hashlib.sha256('\n'.join(lines).encode()).hexdigest()
  assert digest == STATE_DICTS[name]


def test_every_state_dict_is_a_networks():
  assert STATE_DICTS.keys() == models.MODELS.keys() - {'tiny'}


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.slow
def test_in_and_out_again_is_the_same_to_the_bit(tmp_path, name):
  before = state_dict(name)
  safetensors.numpy.save_file(before, tmp_path / 'in.safetensors')
  told = weights_command.import_weights(
    tmp_path / 'in.safetensors', name, tmp_path / 'out'
  )
  assert f'{len(before) - 1} tensors of a {name} of 10 classes' in told
  loaded = weights_lib.load(str(tmp_path / 'out'))
  assert (loaded.model, loaded.num_classes) == (name, 10)
  content = weights_command.to_safetensors(loaded.variables, name)
  after = safetensors.numpy.load(content)
  del before['bn1.num_batches_tracked']
  assert after.keys() == before.keys()
  for key, value in before.items():
    assert after[key].tobytes() == value.tobytes(), key
  assert [p.name for p in tmp_path.iterdir() if 'partial' in p.name] == []


def test_pth_files_and_load_state_dict(tmp_path, monkeypatch):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  import torch_models

  model = torch_models.create('resnet8', 10).eval()
  state = {k: torch.from_numpy(v) for k, v in state_dict('resnet8').items()}
  # As a model's named_parameters() are.
  state['fc.bias'] = torch.nn.Parameter(state['fc.bias'])
  path = tmp_path / 'in.pth'
  torch.save({'state_dict': {f'module.{k}': v for k, v in state.items()}}, path)
  weights_command.import_weights(path, 'resnet8', tmp_path / 'out')
  loaded = weights_lib.load(str(tmp_path / 'out'))
  content = weights_command.to_safetensors(loaded.variables, 'resnet8')
  tensors = safetensors.numpy.load(content)
  model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
  images = seeded.uniform('images', (2, 3, 32, 32)).astype(np.float32)
  with torch.no_grad():
    expected = model(torch.from_numpy(images)).numpy()
  found = models.create('resnet8', 10).apply(
    loaded.variables, images.transpose(0, 2, 3, 1), train=False
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def of_itself():
  content = {}
  content['model'] = content
  return content


NO_STATE_DICTS = {
  'integers': (lambda torch: {1: torch.zeros(2)}, 'not a state dict of dense'),
  'sparse': (
    lambda torch: {'fc.weight': torch.zeros(2, 2).to_sparse()},
    "not a state dict of dense tensors: 'fc.weight' is none",
  ),
  'text': (lambda torch: {'fc.weight': 'a'}, 'not a state dict of dense'),
  'a list': (lambda torch: [torch.zeros(2)], 'not a state dict of dense'),
  'in itself': (lambda torch: of_itself(), 'not a state dict of dense'),
  'no values': (
    lambda torch: {'fc.weight': torch.zeros(10, 64, device='meta')},
    'fc.weight has a shape, but no values',
  ),
  'expanded': (
    lambda torch: {'fc.weight': torch.zeros(1, 1).expand(10**6, 10**7)},
    r'fc.weight \(1000000, 10000000\) is larger than the file',
  ),
  'dimensions': (
    lambda torch: {'fc.weight': torch.zeros([1] * 65)},
    'fc.weight has 65 dimensions',
  ),
  'quantised': (
    lambda torch: {'fc.weight': torch.zeros(2).to(torch.float8_e4m3fn)},
    'fc.weight is float8_e4m3fn, not float32',
  ),
}


@pytest.mark.parametrize('kind', NO_STATE_DICTS)
def test_pth_files_that_are_no_state_dict(tmp_path, kind):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  content, pattern = NO_STATE_DICTS[kind]
  torch.save(content(torch), tmp_path / 'in.pth')
  with pytest.raises(CheckpointError, match=pattern):
    weights_command.import_weights(
      tmp_path / 'in.pth', 'resnet8', tmp_path / 'out'
    )


@pytest.mark.parametrize(
  ('wrap', 'told'),
  [
    (lambda own: {'model_state_dict': own, 'epoch': 3}, ''),
    (lambda own: {'net': own}, ''),
    (lambda own: {'state_dict': {'model': own}}, ''),
    (lambda own: {'model_ema': own}, ''),
    (
      lambda own: {'model_ema': {}, 'model': own},
      ' (model is read, not model_ema)',
    ),
  ],
)
def test_what_training_scripts_save_around_a_state_dict(tmp_path, wrap, told):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  own = {k: torch.from_numpy(v) for k, v in state_dict('resnet8').items()}
  # Of a sign that is stored apart, and of strides other than the usual ones.
  own['fc.bias'] = torch.imag(torch.conj(torch.full((10,), 1j)))
  own['fc.weight'] = torch.ones(64, 10).T
  content = wrap(own)
  torch.save(content, tmp_path / 'in.pth')
  said = weights_command.import_weights(
    tmp_path / 'in.pth', 'resnet8', tmp_path / 'out'
  )
  assert f'out{told}; start' in said
  variables = weights_lib.load(str(tmp_path / 'out')).variables
  assert set(variables['params']['fc']['bias']) == {-1.0}


class Tensor:
  """As much of PyTorch's as is asked for, where that isn't installed."""

  layout = 'strided'

  def __init__(self, values, *, is_meta=False, ndim=None):
    self._values, self.is_meta = np.asarray(values), is_meta
    self.ndim = self._values.ndim if ndim is None else ndim
    self.dtype = f'torch.{self._values.dtype}'

  def numpy(self, *, force):
    assert force and not self.is_meta and self.ndim <= 64
    return self._values


def loading(content):
  """Returns a PyTorch that loads this of any file."""
  torch = types.ModuleType('torch')
  torch.Tensor, torch.strided = Tensor, 'strided'

  def load(path, *, map_location, weights_only):
    # Else it would run what the file says.
    assert weights_only and map_location == 'cpu' and path.exists()
    return content

  torch.load = load
  return torch


LOADED = {
  'an expanded tensor': (
    Tensor(np.broadcast_to(np.float32(0), (10**6, 10**7))),
    r'fc.weight \(1000000, 10000000\) is larger than the file',
  ),
  'no values': (
    Tensor(np.float32(0), is_meta=True),
    'fc.weight has a shape, but no values',
  ),
  'dimensions': (Tensor(np.float32(0), ndim=65), 'fc.weight has 65 dimensions'),
  'half precision': (Tensor(np.float16([0])), 'fc.weight is float16, not'),
  'a number': (3, "not a state dict of dense tensors: 'fc.weight' is none"),
}


@pytest.mark.parametrize('kind', LOADED)
def test_what_a_pickle_may_hold_is_named(tmp_path, monkeypatch, kind):
  value, pattern = LOADED[kind]
  monkeypatch.setitem(sys.modules, 'torch', loading({'fc.weight': value}))
  (tmp_path / 'in.pth').write_bytes(b'x')
  with pytest.raises(CheckpointError, match=pattern):
    weights_command.import_weights(
      tmp_path / 'in.pth', 'resnet8', tmp_path / 'out'
    )


@pytest.mark.parametrize('content', [of_itself(), [], {1: Tensor(1.0)}, 'x'])
def test_pickles_of_no_names_are_refused(tmp_path, monkeypatch, content):
  monkeypatch.setitem(sys.modules, 'torch', loading(content))
  (tmp_path / 'in.CKPT').write_bytes(b'x')
  with pytest.raises(CheckpointError, match='not a state dict of dense tens'):
    weights_command.import_weights(
      tmp_path / 'in.CKPT', 'resnet8', tmp_path / 'out'
    )


@pytest.mark.parametrize('names', [['model', 'ema'], ['ema', 'state_dict']])
def test_of_several_networks_in_a_pickle_the_plain_one_is_said(
  tmp_path, monkeypatch, names
):
  own = {name: Tensor(value) for name, value in state_dict('resnet8').items()}
  content = {name: {} if name == 'ema' else {'net': own} for name in names}
  monkeypatch.setitem(sys.modules, 'torch', loading({**content, 'epoch': 3}))
  # Its size is that of what would be saved.
  (tmp_path / 'in.pth').write_bytes(bytes(10**6))
  told = weights_command.import_weights(
    tmp_path / 'in.pth', 'resnet8', tmp_path / 'out'
  )
  (plain,) = {*names} - {'ema'}
  assert f'out ({plain} is read, not ema); start' in told


def test_pth_files_that_grow_when_unpacked_are_refused(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', types.ModuleType('torch'))
  with zipfile.ZipFile(
    tmp_path / 'in.pth', 'w', zipfile.ZIP_DEFLATED
  ) as archive:
    archive.writestr('in/data/0', bytes(10**6))
  with pytest.raises(CheckpointError, match='unpacked to 1,000,000 bytes'):
    weights_command.import_weights(
      tmp_path / 'in.pth', 'resnet8', tmp_path / 'out'
    )


def test_pickles_run_nothing(tmp_path):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')

  class Harmful:
    def __reduce__(self):
      return pathlib.Path.touch, (tmp_path / 'touched',)

  torch.save({'fc.weight': Harmful()}, tmp_path / 'in.pth')
  with pytest.raises(CheckpointError, match='holds more than tensors'):
    weights_command.import_weights(
      tmp_path / 'in.pth', 'resnet8', tmp_path / 'out'
    )
  assert [path.name for path in tmp_path.iterdir()] == ['in.pth']


def test_names_of_older_densenets():
  name = 'features.denseblock1.denselayer2.norm.1.running_mean'
  assert state_dict_lib._present_name(name) == (
    'features.denseblock1.denselayer2.norm1.running_mean'
  )


PREFIXES = {
  'module.': "'module.'",
  '_orig_mod.': "'_orig_mod.'",
  'module.module._orig_mod.': "'module.module._orig_mod.'",
  'model.backbone.': "'model.backbone.'",
  'encoder.module.': "'module.', 'encoder.'",
}


def imported_of(tmp_path, tensors, model='resnet8'):
  """Returns what importing tensors says, and the tensors that it gave."""
  path = tmp_path / 'in.safetensors'
  safetensors.numpy.save_file(tensors, path)
  said = weights_command.import_weights(path, model, tmp_path / 'out')
  variables = weights_lib.load(str(tmp_path / 'out')).variables
  return said, torch_layout.to_torch(variables)


@pytest.mark.parametrize('prefix', PREFIXES)
def test_prefixes_of_names_are_taken_off_and_said(tmp_path, prefix):
  plain = state_dict('resnet8')
  given = {prefix + name: value for name, value in plain.items()}
  said, found = imported_of(tmp_path, given)
  assert f'(taken off names: {PREFIXES[prefix]})' in said
  for name, value in found.items():
    np.testing.assert_array_equal(value, plain[name])


def test_a_head_apart_inner_wrappers_and_other_things(tmp_path):
  plain = state_dict('resnet8')
  given = {
    name if name.startswith('fc.') else f'backbone.{name}': value
    for name, value in plain.items()
  }
  kernel = given.pop('backbone.layer1.0.conv1.weight')
  given['backbone.layer1._orig_mod.0.conv1.weight'] = kernel
  given |= {'loss.a': np.ones(3, np.float32), 'loss.b': np.ones(3, np.float32)}
  said, found = imported_of(tmp_path, given)
  assert "taken off names: '_orig_mod.', 'backbone.'" in said
  assert '(loss.a and 1 more left out, as other things)' in said
  np.testing.assert_array_equal(found['layer1.0.conv1.weight'], kernel)


# Bad input.


def without(tensors, name):
  return {key: value for key, value in tensors.items() if key != name}


def changed(tensors, name, value):
  return {**tensors, name: value}


def renamed(tensors, change):
  return {change(name): value for name, value in tensors.items()}


BAD = {
  'two networks': (
    lambda t: {
      **renamed(t, 'model.{}'.format),
      **renamed(t, 'ema.{}'.format),
    },
    "several networks: names begin with 'ema.' and 'model.'",
  ),
  'a name twice': (
    lambda t: changed(t, 'module.fc.bias', t['fc.bias'].copy()),
    'fc.bias and module.fc.bias are the same tensor',
  ),
  'foreign names': (
    lambda t: renamed(t, 'encoder.vit.q{}'.format),
    "holds no resnet8: names begin with 'encoder.vit.', such as "
    'encoder.vit.qbn1.bias; wanted are such as bn1.bias',
  ),
  'surplus below a prefix': (
    lambda t: renamed({**t, 'a.b': t['fc.bias'].copy()}, 'model.{}'.format),
    r"\(taken off names: 'model.'\): a.b \(10,\) is not of this network",
  ),
  'a name of two lines': (
    lambda t: changed(t, 'a\nb', np.zeros(3, np.float32)),
    r"a tensor is named 'a\\nb'",
  ),
  'many channels': (
    lambda t: changed(t, 'conv1.weight', np.zeros((1, 10**6, 1, 1), 'f4')),
    r'conv1.weight is \(1, 1000000, 1, 1\), not \(16, 1000000, 3, 3\)',
  ),
  'no channels': (
    lambda t: changed(t, 'conv1.weight', np.zeros((16, 0, 3, 3), 'f4')),
    r'conv1.weight is \(16, 0, 3, 3\), not \(16, 3, 3, 3\)',
  ),
  'many classes of nothing': (
    lambda t: changed(t, 'fc.weight', np.zeros((10**12, 0), np.float32)),
    'no classifier',
  ),
  'missing': (
    lambda t: without(t, 'layer1.0.bn1.bias'),
    r'not a resnet8 of 10 classes: layer1.0.bn1.bias \(16,\) is missing',
  ),
  'surplus': (
    lambda t: changed(t, 'layer4.0.bn1.bias', np.zeros(3, np.float32)),
    r'layer4.0.bn1.bias \(3,\) is not of this network',
  ),
  'transposed': (
    lambda t: changed(t, 'conv1.weight', t['conv1.weight'].T.copy()),
    r'conv1.weight is \(3, 3, 3, 16\), not \(16, 3, 3, 3\)',
  ),
  'transposed classifier': (
    lambda t: changed(t, 'fc.weight', t['fc.weight'].T.copy()),
    r'fc.weight is \(64, 10\), not \(64, 64\)',
  ),
  'no classifier': (
    lambda t: without(t, 'fc.weight'),
    r'no classifier, fc.weight \[K, D\] or classifier.weight',
  ),
  'NaN': (
    lambda t: changed(t, 'fc.bias', np.full(10, np.nan, np.float32)),
    'fc.bias holds a NaN',
  ),
  'half': (
    lambda t: changed(t, 'fc.bias', np.zeros(10, np.float16)),
    'fc.bias is float16, not float32: convert the file',
  ),
  'double': (
    lambda t: changed(t, 'fc.bias', np.zeros(10)),
    'fc.bias is float64, not float32: convert the file',
  ),
  'no classes': (
    lambda t: changed(t, 'fc.weight', np.zeros((0, 64), np.float32)),
    'no classifier',
  ),
  'empty': (lambda t: {}, 'no tensors'),
}


@pytest.mark.parametrize('kind', BAD)
def test_bad_tensors(tmp_path, kind):
  change, pattern = BAD[kind]
  path = tmp_path / 'in.safetensors'
  safetensors.numpy.save_file(change(state_dict('resnet8')), path)
  with pytest.raises(CheckpointError, match=pattern) as caught:
    weights_command.import_weights(path, 'resnet8', tmp_path / 'out')
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 900
  assert [p.name for p in tmp_path.iterdir()] == ['in.safetensors']


@pytest.mark.parametrize('content', [b'', b'{"a": 1}', b'\x80\x02}.', None])
@pytest.mark.parametrize('name', ['in.safetensors', 'in.pth', 'in.th', 'in'])
def test_damaged_files(tmp_path, content, name):
  path = tmp_path / name
  if content is None:
    whole = safetensors.numpy.save(state_dict('resnet8'))
    content = whole[: len(whole) // 2]
  path.write_bytes(content)
  # Without PyTorch the message is that it is needed.
  with pytest.raises(
    SrdlError, match='in.*(is damaged|PyTorch is needed|not a)'
  ):
    weights_command.import_weights(path, 'resnet8', tmp_path / 'out')
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


HEADERS = {
  'more dimensions than NumPy has': ([1] * 65, 'is damaged.*dimension'),
  'more than the file holds': ([10**15], 'is damaged.*invalid shape'),
  'a size of no integer': ([2**64 - 1, 0], 'is damaged'),
}


@pytest.mark.parametrize('kind', HEADERS)
def test_headers_that_claim_what_is_not_there(tmp_path, kind):
  shape, pattern = HEADERS[kind]
  end = 4 * (0 not in shape)
  one = {'dtype': 'F32', 'shape': shape, 'data_offsets': [0, end]}
  header = json.dumps({'fc.weight': one}).encode()
  size = len(header).to_bytes(8, 'little')
  (tmp_path / 'in.safetensors').write_bytes(size + header + bytes(end))
  with pytest.raises(CheckpointError, match=pattern) as caught:
    weights_command.import_weights(
      tmp_path / 'in.safetensors', 'resnet8', tmp_path / 'out'
    )
  assert '\n' not in str(caught.value)


def test_counts_beside_the_weights_are_left_out_and_said(tmp_path):
  path = tmp_path / 'in.safetensors'
  counts = {'epoch': np.array(7), 'seen': np.array([True])}
  safetensors.numpy.save_file(state_dict('resnet8') | counts, path)
  weights_command.import_weights(path, 'resnet8', tmp_path / 'out')
  found, told = state_dict_lib.read(path)
  assert not {*counts} & {*found}
  assert told == ['left out, whole numbers: epoch, seen']


def test_a_part_of_a_file_is_not_recommended(tmp_path):
  for n in (1, 2):
    (tmp_path / f'model-0000{n}-of-00002.safetensors').touch()
  with pytest.raises(CheckpointError, match='parts of one file: join them'):
    weights_command.import_weights(tmp_path, 'resnet8', tmp_path / 'out')


def test_no_array_is_made_of_what_a_file_claims():
  shape = jax.ShapeDtypeStruct((3, 3, 10**9, 64), jnp.float32)
  like = {'params': {'conv1': {'kernel': shape}}, 'batch_stats': {}}
  assert torch_layout.shapes(like) == {'conv1.weight': (64, 10**9, 3, 3)}


def test_files_of_other_networks_name_what_differs(tmp_path):
  path = tmp_path / 'in.safetensors'
  safetensors.numpy.save_file(state_dict('resnet20'), path)
  with pytest.raises(
    CheckpointError, match='layer1.1.bn1.*and 54 more, listed'
  ):
    weights_command.import_weights(path, 'resnet8', tmp_path / 'out')
  with pytest.raises(ConfigError, match="'resnet9'; known: resnet8"):
    weights_command.import_weights(path, 'resnet9', tmp_path / 'out')
  with pytest.raises(CheckpointError, match='there is no such file'):
    weights_command.import_weights(
      tmp_path / 'none', 'resnet8', tmp_path / 'out'
    )


def test_a_directory_in_use_is_left_alone(tmp_path):
  path = tmp_path / 'in.safetensors'
  safetensors.numpy.save_file(state_dict('resnet8'), path)
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine').write_text('x')
  with pytest.raises(SrdlError, match='out is not empty'):
    weights_command.import_weights(path, 'resnet8', tmp_path / 'out')
  assert [p.name for p in (tmp_path / 'out').iterdir()] == ['mine']


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  directory = tmp_path_factory.mktemp('finished')
  config = tiny.config(**{'model.name': 'resnet8', 'epochs': 2})
  srdl.run(config, str(directory), stop_request.StopRequest())
  return directory


@pytest.mark.parametrize(
  'options', [{'shortcut': 'identity'}, {'channels': 1}, {'small_stem': True}]
)
def test_options_of_a_family_show_in_its_tensors(tmp_path, options):
  options = dict(options)
  channels = options.pop('channels', 3)
  name = 'resnet18' if 'small_stem' in options else 'resnet8'
  like = jax.eval_shape(
    functools.partial(models.create(name, 10, **options).init, train=False),
    jax.random.key(0),
    jnp.zeros((1, 32, 32, channels)),
  )
  variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), dict(like))
  path = tmp_path / 'in.safetensors'
  path.write_bytes(weights_command.to_safetensors(variables, name))
  weights_command.import_weights(path, name, tmp_path / 'out')
  loaded = weights_lib.load(str(tmp_path / 'out'))
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)


def test_a_neighbour_of_the_directory_is_left_alone(tmp_path):
  path = tmp_path / 'in.safetensors'
  safetensors.numpy.save_file(state_dict('resnet8'), path)
  (tmp_path / 'out.partial').mkdir()
  (tmp_path / 'out.partial' / 'mine').write_text('x')
  weights_command.import_weights(path, 'resnet8', tmp_path / 'out')
  assert (tmp_path / 'out.partial' / 'mine').read_text() == 'x'
  assert len(list(tmp_path.iterdir())) == 3


# Starting from weights.


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
  """Weights of a tiny network for digits, of 10 and of 7 classes."""
  found = {}
  for num_classes in (10, 7):
    directory = tmp_path_factory.mktemp('imported') / str(num_classes)
    model = tiny.Tiny(num_classes)
    shape = jnp.zeros((1, 8, 8, 1))
    variables = model.init(jax.random.key(num_classes), shape, train=False)
    variables = jax.tree.map(np.asarray, dict(variables))
    weights_lib.save(directory, 'tiny', variables, 'a test')
    found[num_classes] = str(directory), variables
  return found


def test_one_stage_begins_with_all_of_the_weights(imported):
  directory, variables = imported[10]
  config = tiny.config(**{'init.from_path': directory, 'method': 'vanilla'})
  experiment = build.build(config)
  state = experiment.stages[0].initial_state(None)
  jax.tree.map(np.testing.assert_array_equal, state.params, variables['params'])
  assert 'from imported weights of 10 classes' in experiment.description
  assert 'new classifier' not in experiment.description


def test_a_restart_from_weights_of_the_same_classes_begins_elsewhere(imported):
  directory, variables = imported[10]
  experiment = build.build(tiny.config(**{'init.from_path': directory}))
  first, second = (s.initial_state(None).params for s in experiment.stages)
  kernels = [p['fc']['kernel'] for p in (first, second, variables['params'])]
  for one, other in itertools.combinations(kernels, 2):
    assert not np.array_equal(one, other)
  for params in (first, second):
    np.testing.assert_array_equal(
      params['Conv_0']['kernel'], variables['params']['Conv_0']['kernel']
    )
  assert 'with a new classifier of 10' in experiment.description


def test_another_number_of_classes_has_a_new_classifier(imported):
  directory, variables = imported[7]
  experiment = build.build(tiny.config(**{'init.from_path': directory}))
  first, second = (
    experiment.stages[n - 1].initial_state(None).params for n in (1, 2)
  )
  for params in (first, second):
    np.testing.assert_array_equal(
      params['Conv_0']['kernel'], variables['params']['Conv_0']['kernel']
    )
    assert params['fc']['kernel'].shape[-1] == 10
  # Each restart draws a classifier of its own.
  assert not np.array_equal(first['fc']['kernel'], second['fc']['kernel'])
  assert 'of 7 classes, with a new classifier of 10' in experiment.description


def test_what_does_not_fit_is_named_with_both_shapes(imported, monkeypatch):
  wide = functools.partial(tiny.Tiny, width=9)
  monkeypatch.setitem(models.MODELS, 'tiny', wide)
  directory, _ = imported[10]
  with pytest.raises(CheckpointError) as caught:
    build.build(tiny.config(**{'init.from_path': directory}))
  assert 'Conv_0.weight is (8, 1, 3, 3) there, (9, 1, 3, 3) here' in str(
    caught.value
  )


def test_weights_of_another_network_are_refused(imported):
  directory, _ = imported[10]
  config = tiny.config(**{'init.from_path': directory, 'model.name': 'resnet8'})
  with pytest.raises(ConfigError, match="weights of a tiny, but .* 'resnet8'"):
    build.build(config)


def test_a_file_or_a_run_to_start_from_says_how(tmp_path, finished):
  (tmp_path / 'in.safetensors').write_bytes(b'')
  for path, remedy in (
    (tmp_path / 'in.safetensors', 'srdl weights import --from=.*safetensors'),
    (finished, 'is a run: srdl weights export'),
  ):
    with pytest.raises(CheckpointError, match=f'^init.from_path.*{remedy}'):
      build.build(tiny.config(**{'init.from_path': str(path)}))


@pytest.mark.parametrize('kind', ['absent', 'training'])
def test_a_directory_without_weights_is_refused(tmp_path, finished, kind):
  path = (
    finished / 'stage_1' / 'checkpoints' if kind == 'training' else tmp_path
  )
  with pytest.raises(CheckpointError, match='no imported weights'):
    build.build(tiny.config(**{'init.from_path': str(path)}))


def test_a_run_remembers_what_it_started_from(imported, tmp_path):
  directory, _ = imported[10]
  fields = {'method': 'vanilla', 'epochs': 2, 'init.from_path': directory}
  stop = stop_request.StopRequest()
  srdl.run(tiny.config(**fields), str(tmp_path), stop)
  # Its checkpoints are evaluated without the weights' directory.
  experiment = trained.open_run(tmp_path, None)
  assert trained.load_members(tmp_path, 'final', experiment).keys() == {1}
  before = (tmp_path / 'config.json').read_bytes()
  for other in ('', imported[7][0]):
    with pytest.raises(WorkdirError, match='the weights that it starts from'):
      srdl.run(
        tiny.config(**fields | {'init.from_path': other}), str(tmp_path), stop
      )
  assert (tmp_path / 'config.json').read_bytes() == before


# Programs.


SCRIPT = """
import sys, numpy, jax
assert 'srdl_jax' not in sys.modules
program = jax.export.deserialize(bytearray(open(sys.argv[1], 'rb').read()))
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], program.call(images))
"""


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.slow
def test_programs_of_every_number_format(dtype):
  config = tiny.config(**{'model.name': 'resnet8', 'model.dtype': dtype})
  experiment = build.build(config)
  variables = experiment.stages[0].initial_state(None).variables
  step = experiment.stages[0].network.predict_step
  content = weights_command.to_stablehlo(
    lambda images: jax.nn.softmax(step(variables, images)), (8, 8, 1)
  )
  program = jax.export.deserialize(bytearray(content))
  found = program.call(experiment.dataset.test.images[:3])
  np.testing.assert_allclose(found.sum(-1), np.ones(3), rtol=1e-5)


@pytest.mark.slow
def test_a_program_runs_without_this_package(finished, tmp_path):
  out = tmp_path / 'model.stablehlo'
  call = [sys.executable, '-m', 'srdl_jax.weights', 'export']
  done = started.run(
    [*call, f'--workdir={finished}', f'--out={out}', '--format=stablehlo'],
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stderr
  experiment = trained.open_run(finished, None)
  images = experiment.dataset.test.images[:5]
  np.save(tmp_path / 'images.npy', images)
  (tmp_path / 'run.py').write_text(SCRIPT)
  names = ['run.py', 'model.stablehlo', 'images.npy', 'found.npy']
  started.run(
    [sys.executable, '-I', *(str(tmp_path / name) for name in names)],
    check=True,
    cwd=tmp_path,
  )
  found = np.load(tmp_path / 'found.npy')
  members = trained.load_members(finished, 'final', experiment)
  _, logits = next(tiny.predict(experiment, 2, members[2], 'test'))
  np.testing.assert_allclose(
    found, jax.nn.softmax(logits[:5]), rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize('name', ['final', 'best', 'stage_1'])
def test_an_exported_state_dict_is_the_checkpoints(finished, name):
  experiment = trained.open_run(finished, None)
  content = weights_command.export(experiment, finished, name, 'safetensors')
  members = trained.load_members(finished, name, experiment)
  ((_, variables),) = members.items()
  expected = torch_layout.to_torch(variables)
  for key, value in safetensors.numpy.load(content).items():
    np.testing.assert_array_equal(value, expected[key])


def test_an_ensemble_is_not_one_file(finished):
  experiment = trained.open_run(finished, None)
  with pytest.raises(ConfigError, match='several networks'):
    weights_command.export(experiment, finished, 'ensemble', 'safetensors')


@pytest.mark.parametrize(
  ('arguments', 'code', 'pattern'),
  [
    ([], 2, 'Say what to do: import or export'),
    (['import'], 2, '--from is missing'),
    (['import', '--from=x.safetensors', '--model=resnet8'], 2, '--out is miss'),
    (
      ['import', '--from=x.safetensors', '--model=resnet8', '--out=o'],
      4,
      'x.safetensors: there is no such file',
    ),
    (['export', '--workdir=none', '--out=o'], 4, 'none/config.json'),
    (['export', '--format=onnx'], 2, 'onnx'),
    (['import', 'x.safetensors'], 2, 'Unexpected argument .x.safetensors'),
  ],
)
def test_command_line(arguments, code, pattern):
  done = started.python('-m', 'srdl_jax.weights', *arguments)
  assert done.returncode == code, done.stderr
  assert re.search(f'error: .*{pattern}', done.stderr), done.stderr
  assert 'Traceback' not in done.stderr
  assert not (ROOT / 'o').exists()
