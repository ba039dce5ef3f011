# SPDX-License-Identifier: Apache-2.0
"""Tests of the downloader, against servers on this machine."""

import dataclasses
import hashlib
import http.server
import re
import socket
import threading

import pytest

from srdl_jax.data import fetching
from srdl_jax.errors import DataError

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclasses.dataclass
class Site:
  """A file on a server, what the server does wrong, and what it was asked."""

  url: str = ''
  honours_range: bool = True
  status: int = 0
  cut_after: int | None = None
  stall_after: int | None = None
  ranges: list[str | None] = dataclasses.field(default_factory=list)
  released: threading.Event = dataclasses.field(default_factory=threading.Event)


def _handler(site):
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked = self.headers.get('Range')
      site.ranges.append(asked)
      start = int(re.search(r'\d+', asked).group()) if asked else 0
      if site.status:
        self.send_error(site.status)
      elif not site.honours_range or not asked:
        self._send(200, CONTENT)
      elif start >= len(CONTENT):
        self.send_error(416)
      else:
        self._send(206, CONTENT[start:], start)

    def _send(self, status, body, start=0):
      self.send_response(status)
      self.send_header('Content-Length', str(len(body)))
      if status == 206:
        last = start + len(body) - 1
        self.send_header(
          'Content-Range', f'bytes {start}-{last}/{len(CONTENT)}'
        )
      self.end_headers()
      if site.stall_after is not None:
        self.wfile.write(body[: site.stall_after])
        site.released.wait(600)
      else:
        self.wfile.write(body[: site.cut_after])

    def log_message(self, *args):
      del args

  return Handler


@pytest.fixture
def site():
  site = Site()
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _handler(site))
  site.url = f'http://127.0.0.1:{server.server_address[1]}/file.tar.gz'
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield site
  site.released.set()
  server.shutdown()
  server.server_close()
  thread.join()


def test_fetches_checks_and_reports_progress(site, tmp_path, capsys):
  path = fetching.fetch(site.url, tmp_path / 'file.tar.gz', sha256=SHA256)
  assert path.read_bytes() == CONTENT
  assert [p.name for p in tmp_path.iterdir()] == ['file.tar.gz']
  told = r'file.tar.gz: 0.00 of 0.00 GB, .* MB/s, done\n'
  assert re.fullmatch(told, capsys.readouterr().err)


def test_a_file_that_is_there_is_not_fetched(site, tmp_path):
  (tmp_path / 'f').write_bytes(CONTENT)
  fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  assert site.ranges == []


def test_another_file_at_the_destination_stays(site, tmp_path):
  (tmp_path / 'f').write_bytes(b'mine')
  with pytest.raises(DataError, match='expected sha256'):
    fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  assert (tmp_path / 'f').read_bytes() == b'mine'
  assert site.ranges == []


def test_a_cut_connection_is_an_error_and_the_next_call_resumes(site, tmp_path):
  site.cut_after = 300_000
  with pytest.raises(DataError, match=f'{site.url}.*{len(CONTENT)}') as caught:
    fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  assert '300000' in str(caught.value)
  assert [p.name for p in tmp_path.iterdir()] == ['f.part']
  site.cut_after = None
  fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  assert (tmp_path / 'f').read_bytes() == CONTENT
  assert site.ranges == [None, 'bytes=300000-']
  assert [p.name for p in tmp_path.iterdir()] == ['f']


def test_starts_again_where_the_server_ignores_ranges(site, tmp_path):
  site.honours_range = False
  (tmp_path / 'f.part').write_bytes(CONTENT[:1000])
  fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  assert (tmp_path / 'f').read_bytes() == CONTENT
  assert site.ranges == ['bytes=1000-']


def test_starts_again_where_the_part_is_too_long(site, tmp_path):
  (tmp_path / 'f.part').write_bytes(CONTENT + b'more')
  fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  assert (tmp_path / 'f').read_bytes() == CONTENT
  assert site.ranges == [f'bytes={len(CONTENT) + 4}-', None]


def test_a_wrong_checksum_names_both_and_leaves_nothing(site, tmp_path):
  other = hashlib.sha256(b'other').hexdigest()
  with pytest.raises(DataError, match=f'expected.*{other}.*got {SHA256}'):
    fetching.fetch(site.url, tmp_path / 'f', sha256=other)
  assert list(tmp_path.iterdir()) == []


def test_a_damaged_part_is_found_out_and_then_fetched_anew(site, tmp_path):
  (tmp_path / 'f.part').write_bytes(b'x' * 1000)
  with pytest.raises(DataError, match='expected sha256'):
    fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  assert (tmp_path / 'f').read_bytes() == CONTENT


@pytest.mark.parametrize('status', [403, 404, 503])
def test_http_errors_are_named(site, tmp_path, status):
  site.status = status
  with pytest.raises(DataError, match=f'{site.url}: HTTP status {status}'):
    fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_times_out(tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as silent:
    url = f'http://127.0.0.1:{silent.getsockname()[1]}/f'
    with pytest.raises(DataError, match='no answer or no data for 0.3 s'):
      fetching.fetch(url, tmp_path / 'f', sha256=SHA256, timeout=0.3)


def test_a_stalled_download_times_out_and_keeps_its_part(site, tmp_path):
  site.stall_after = 5000
  with pytest.raises(DataError, match='no answer or no data for 0.3 s'):
    fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256, timeout=0.3)
  assert (tmp_path / 'f.part').read_bytes() == CONTENT[:5000]
  site.stall_after = None
  fetching.fetch(site.url, tmp_path / 'f', sha256=SHA256)
  assert (tmp_path / 'f').read_bytes() == CONTENT
  assert site.ranges == [None, 'bytes=5000-']


def test_a_slow_name_look_up_times_out(tmp_path, monkeypatch):
  done = threading.Event()

  def slow(*args, **kwargs):
    del args, kwargs
    done.wait(600)
    raise socket.gaierror('gave up')

  monkeypatch.setattr(socket, 'getaddrinfo', slow)
  with pytest.raises(DataError, match='no answer or no data for 0.2 s'):
    fetching.fetch(
      'http://nowhere.invalid/f', tmp_path / 'f', sha256=SHA256, timeout=0.2
    )
  # It has not waited for the look-up, which goes on.
  done.set()


def test_a_refused_connection_is_named(tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  url = f'http://127.0.0.1:{port}/f'
  with pytest.raises(DataError, match=f'{url}: .*refused'):
    fetching.fetch(url, tmp_path / 'f', sha256=SHA256)


@pytest.mark.parametrize('url', ['no-scheme', 'odd://host/f'])
def test_an_address_that_is_none_is_named(tmp_path, url):
  with pytest.raises(DataError, match=f'could not download {url}'):
    fetching.fetch(url, tmp_path / 'f', sha256=SHA256)


def test_a_folder_that_cannot_be_written_is_named(site, tmp_path):
  with pytest.raises(DataError, match='gone'):
    fetching.fetch(site.url, tmp_path / 'gone' / 'f', sha256=SHA256)
