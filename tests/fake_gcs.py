# SPDX-License-Identifier: Apache-2.0
"""A bucket in memory, behind the part of Google's JSON API that is used here.

The clients are the real ones: gcsfs (of epath), google-cloud-storage (of
Orbax) and TensorStore, which `Bucket.environment` sends to it. An object is
replaced whole, listings are consistent, and nothing can be renamed, as in the
real service. As a program it serves until it is killed, and prints, as JSON,
the environment of its clients:

    python tests/fake_gcs.py
"""

import contextlib
import dataclasses
import http.server
import itertools
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator

BUCKET = 'bucket'
_TIME = '2026-01-01T00:00:00.000Z'
_PATH = re.compile(r'(/upload|/download)?/storage/v1/b/([^/]+)(/o(?:/(.+))?)?')
_LENGTH = re.compile(r'bytes (?:\d+-\d+|\*)/(\d+|\*)')


@dataclasses.dataclass(frozen=True)
class Object:
  """An object's content, and the number of its writing."""

  content: bytes
  generation: int


class Bucket:
  """The objects of gs://bucket, and the requests that were made of it.

  Attributes:
    objects: by name.
    requests: (method, name or prefix, status) of each, in order; the method
      of one for an object's content is READ.
    refused: a name for which nothing but an error is returned.
    url: of the service.
  """

  def __init__(self, url: str = ''):
    self.objects: dict[str, Object] = {}
    self.requests: list[tuple[str, str, int]] = []
    self.refused = ''
    self.url = url
    self.lock = threading.Lock()
    self._generations = itertools.count(1)

  @property
  def environment(self) -> dict[str, str]:
    """What sends the clients here, without credentials."""
    return {
      'STORAGE_EMULATOR_HOST': self.url,
      'TENSORSTORE_GCS_HTTP_URL': self.url,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'none',
      'FSSPEC_GCS_TOKEN': 'anon',
      # It looks for the kind of the bucket over gRPC.
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
    }

  def names(self, prefix: str = '') -> list[str]:
    """Returns the names that begin so, in order."""
    with self.lock:
      return sorted(name for name in self.objects if name.startswith(prefix))

  def put(self, name: str, content: bytes) -> Object:
    """Replaces an object."""
    with self.lock:
      self.objects[name] = Object(content, next(self._generations))
      return self.objects[name]

  def listing(self, asked: dict[str, str]) -> dict:
    """Returns the answer to a request for a list of objects."""
    prefix, delimiter = asked.get('prefix', ''), asked.get('delimiter')
    items, prefixes = [], {}
    for name in self.names(prefix):
      if not asked.get('startOffset', '') <= name:
        continue
      if 'endOffset' in asked and not name < asked['endOffset']:
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        prefixes[prefix + rest.split(delimiter)[0] + delimiter] = None
      else:
        items.append(self.about(name))
    found = {'kind': 'storage#objects', 'items': items}
    return found | {'prefixes': list(prefixes)}

  def about(self, name: str) -> dict[str, str]:
    """Returns an object's metadata."""
    found = self.objects[name]
    return {
      'kind': 'storage#object',
      'name': name,
      'bucket': BUCKET,
      'size': str(len(found.content)),
      'generation': str(found.generation),
      'metageneration': '1',
      'timeCreated': _TIME,
      'updated': _TIME,
    }


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers one connection's requests."""

  protocol_version = 'HTTP/1.1'
  # The answer's head and body are two writes, which would wait for each other.
  disable_nagle_algorithm = True
  bucket: Bucket
  uploads: dict[str, tuple[str, bytearray]]

  def do_GET(self) -> None:
    """Of the bucket, a list, an object or what is known of it."""
    kind, name, asked = self._parse()
    if kind == 'bucket':
      self._send(200, {'kind': 'storage#bucket', 'name': BUCKET, 'id': BUCKET})
    elif kind == 'objects':
      self._send(200, self.bucket.listing(asked))
    elif name not in self.bucket.objects:
      self._send(404, {'error': {'code': 404, 'message': f'no {name}'}})
    elif asked.get('alt') == 'media':
      self._media(name, asked)
    else:
      self._send(200, self.bucket.about(name))

  def do_POST(self) -> None:
    """Of an object's new content, or of the beginning of an upload."""
    kind, name, asked = self._parse()
    body = self._body()
    if 'upload_id' in asked:
      self._chunk(asked['upload_id'], body)
    elif asked.get('uploadType') == 'multipart':
      name, content = self._parts(body)
      self._store(name, content, asked)
    elif asked.get('uploadType') == 'resumable':
      upload = str(len(self.uploads))
      name = asked.get('name') or json.loads(body)['name']
      self.uploads[upload] = name, bytearray()
      place = f'{self.bucket.url}/upload/storage/v1/b/{BUCKET}/o'
      query = f'uploadType=resumable&upload_id={upload}'
      self._send(200, {}, {'Location': f'{place}?{query}'})
    else:
      self._store(asked['name'], body, asked)

  do_PUT = do_POST

  def do_DELETE(self) -> None:
    """Of an object."""
    _, name, asked = self._parse()
    with self.bucket.lock:
      found = self.bucket.objects.get(name)
      fits = self._fits(found, asked)
      if found and fits:
        del self.bucket.objects[name]
    self._send(204 if found and fits else 412 if found else 404, {})

  def _parse(self) -> tuple[str, str, dict[str, str]]:
    url = urllib.parse.urlsplit(self.path)
    asked = dict(urllib.parse.parse_qsl(url.query))
    match = _PATH.fullmatch(url.path)
    name = urllib.parse.unquote(match[4] or '') if match else ''
    kind = 'object' if name else 'objects' if match and match[3] else 'bucket'
    self.about = name or asked.get('name') or asked.get('prefix', '')
    self.verb = self.command
    return kind, name, asked

  def _body(self) -> bytes:
    if self.headers.get('Transfer-Encoding') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    parts = []
    while size := int(self.rfile.readline().split(b';')[0], 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b''.join(parts)

  def _parts(self, body: bytes) -> tuple[str, bytes]:
    """Splits name and content of an upload in one request."""
    kind = self.headers['Content-Type']
    mark = b'--' + re.search('boundary="?([^";]+)', kind)[1].encode()
    _, about, rest = body.split(mark, 2)
    # The content may hold anything, the mark included.
    rest = rest[: rest.rindex(mark)]
    content = re.split(rb'(\r?\n)\1', rest, maxsplit=1)[2]
    name = json.loads(re.split(rb'(\r?\n)\1', about, maxsplit=1)[2])['name']
    return name, re.sub(rb'\r?\n\Z', b'', content)

  def _chunk(self, upload: str, body: bytes) -> None:
    name, content = self.uploads[upload]
    content += body
    total = _LENGTH.fullmatch(self.headers.get('Content-Range', ''))[1]
    if total == '*' or len(content) < int(total):
      last = {'Range': f'bytes=0-{len(content) - 1}'}
      self._send(308, {}, last)
    else:
      self.about = name
      self._store(name, bytes(content), {})

  def _fits(self, found: Object | None, asked: dict[str, str]) -> bool:
    wanted = asked.get('ifGenerationMatch')
    return wanted is None or int(wanted) == (found.generation if found else 0)

  def _store(self, name: str, content: bytes, asked: dict[str, str]) -> None:
    self.about = name
    if not self._fits(self.bucket.objects.get(name), asked):
      self._send(412, {'error': {'code': 412, 'message': 'conditionNotMet'}})
    elif self.bucket.refused and self.bucket.refused in name:
      self._send(403, {'error': {'code': 403, 'message': 'not allowed'}})
    else:
      self.bucket.put(name, content)
      self._send(200, self.bucket.about(name))

  def _media(self, name: str, asked: dict[str, str]) -> None:
    self.verb = 'READ'
    found = self.bucket.objects[name]
    unwanted = asked.get('ifGenerationNotMatch')
    if not self._fits(found, asked):
      return self._send(412, {})
    if unwanted is not None and int(unwanted) == found.generation:
      return self._send(304, b'')
    known = {'x-goog-generation': str(found.generation)}
    size, content = len(found.content), found.content
    given = re.fullmatch(
      r'bytes=(\d*)-(\d*)', self.headers.get('Range', '').strip()
    )
    if not given or not size:
      return self._send(200, content, known)
    if not given[1]:
      first, last = max(0, size - int(given[2])), size - 1
    else:
      first = int(given[1])
      last = min(int(given[2] or size - 1), size - 1)
    if first > last:
      return self._send(416, b'')
    known['Content-Range'] = f'bytes {first}-{last}/{size}'
    self._send(206, content[first : last + 1], known)

  def _send(
    self,
    status: int,
    content: dict | bytes,
    known: dict[str, str] | None = None,
  ) -> None:
    self.bucket.requests.append((self.verb, self.about, status))
    kind = 'application/octet-stream'
    if isinstance(content, dict):
      content, kind = json.dumps(content).encode(), 'application/json'
    self.send_response(status)
    for key, value in (known or {}).items():
      self.send_header(key, value)
    self.send_header('Content-Type', kind)
    if status not in (204, 304):
      self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if status not in (204, 304):
      self.wfile.write(content)

  def log_message(self, *_) -> None:
    """Says nothing."""


class _Server(http.server.ThreadingHTTPServer):
  """Has a thread for each connection."""

  daemon_threads = True

  def handle_error(self, *_) -> None:
    """Says nothing: a client may be killed, or lose interest."""


@contextlib.contextmanager
def serve() -> Iterator[Bucket]:
  """Serves an empty bucket on a free port of this machine."""
  bucket = Bucket()
  kind = type('Handler', (_Handler,), {'bucket': bucket, 'uploads': {}})
  server = _Server(('127.0.0.1', 0), kind)
  bucket.url = f'http://127.0.0.1:{server.server_address[1]}'
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield bucket
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


if __name__ == '__main__':
  with serve() as service:
    print(json.dumps(service.environment), flush=True)
    while True:
      time.sleep(60)
