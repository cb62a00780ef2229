"""Downloads, against a server of our own: resumed, refused, broken off, altered."""

import hashlib
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rnnfast.io import cache_folder
from rnnfast.text.download import CORPORA, download, fetch, parse_checksums

CONTENT = np.random.default_rng(0).bytes(300_000)
SUM = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves server.content; breaks off after server.limit bytes; server.ranges or not."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        if server.status != 200:
            self.send_error(server.status)
            return
        first = 0
        if server.ranges and (wanted := self.headers.get("Range")):
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            if first >= len(server.content):
                self.send_error(416)
                return
        body = server.content[first:]
        self.send_response(206 if first else 200)
        if first:
            shown = first + server.shift
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {shown}-{last}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.limit])

    def log_message(self, *args):
        pass


@contextmanager
def serving(content=CONTENT, ranges=True, limit=None, status=200, shift=0):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.ranges, server.limit = content, ranges, limit
    server.status, server.shift, server.requests = status, shift, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("RNNFAST_CACHE", "RNNFAST_DATA_URL", "RNNFAST_DATA_SHA256"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.txt"


@pytest.fixture
def part(tmp_path):
    return tmp_path / "file.txt.part"


def test_download(path):
    with serving() as server:
        download(f"{server.url}/a/file.txt", path, SUM)
        assert server.requests == [("/a/file.txt", None)]
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(path, part, ranges):
    with serving(limit=100_000, ranges=ranges) as server:
        with pytest.raises(ConnectionError, match="broke off after 100,000 of 300,000 bytes"):
            download(f"{server.url}/x", path, SUM)
        assert not path.exists()
        assert part.read_bytes() == CONTENT[:100_000]
        server.limit = None
        download(f"{server.url}/x", path, SUM)
        assert server.requests == [("/x", None), ("/x", "bytes=100000-")]
    assert path.read_bytes() == CONTENT
    assert not part.exists()


def test_a_part_that_is_complete_or_too_long(path, part):
    part.write_bytes(CONTENT)
    download("http://127.0.0.1:1/never asked", path, SUM)
    assert path.read_bytes() == CONTENT
    path.unlink()
    part.write_bytes(CONTENT + b"more")
    with serving() as server:
        download(f"{server.url}/x", path, SUM)
        assert server.requests == [("/x", f"bytes={len(CONTENT) + 4}-"), ("/x", None)]
    assert path.read_bytes() == CONTENT


def test_wrong_content_is_removed(path, part):
    with serving(b"something else") as server:
        with pytest.raises(
            ValueError, match=f"wrong content, expected SHA-256 {SUM}, got [0-9a-f]"
        ):
            download(f"{server.url}/x", path, SUM)
        part.write_bytes(b"older")  # a beginning that does not belong to what follows
        with pytest.raises(ValueError, match="wrong content"):
            download(f"{server.url}/x", path, SUM)
    assert os.listdir(path.parent) == []


def test_errors_of_server_and_network(path):
    with (
        serving(status=404) as server,
        pytest.raises(ConnectionError, match="the server answers 404 Not Found"),
    ):
        download(f"{server.url}/x", path, SUM)
    with pytest.raises(ConnectionError, match=r"cannot be reached .*put the file at .*file\.txt"):
        download("http://127.0.0.1:1/x", path, SUM)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        download("http://no-such-host.invalid/x", path, SUM)
    assert os.listdir(path.parent) == []


def test_a_server_that_sends_another_range(path, part):
    part.write_bytes(CONTENT[:1000])
    with (
        serving(shift=1) as server,
        pytest.raises(ConnectionError, match="another range"),
    ):
        download(f"{server.url}/x", path, SUM)
    assert part.read_bytes() == CONTENT[:1000]


def test_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))
    lines = []
    with serving() as server:
        options = {"url": server.url, "sha256": {"input.txt": SUM}, "write": lines.append}
        for _ in range(2):
            (path,) = fetch("tinyshakespeare", **options)
        assert server.requests == [("/input.txt", None)]
        assert path == str(tmp_path / "tinyshakespeare" / "input.txt")
        assert lines == [f"{path}: 300,000 bytes", f"{path}: already there"]

        monkeypatch.setenv("RNNFAST_DATA_URL", server.url + "/base/")
        sums = ",".join(f"ptb.{split}.txt={SUM}" for split in ("train", "valid", "test"))
        monkeypatch.setenv("RNNFAST_DATA_SHA256", sums)
        paths = fetch("ptb", tmp_path / "other", write=lines.append)
        assert [os.path.basename(p) for p in paths] == list(CORPORA["ptb"].files)
        assert server.requests[1] == ("/base/ptb.train.txt", None)


def test_fetch_checks_its_arguments(tmp_path):
    for arguments, options, message in [
        (("wikipedia",), {}, "name must be one of"),
        (("ptb",), {"url": "file:///etc"}, "url must start with http"),
        (("ptb",), {"url": "http://x", "sha256": {"y": SUM}}, "sha256 must name one of"),
    ]:
        with pytest.raises(ValueError, match=f"fetch: {message}"):
            fetch(*arguments, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_checksums_as_text():
    assert parse_checksums("") == {}
    assert parse_checksums(f"a.txt={SUM.upper()}, b={SUM}") == {"a.txt": SUM, "b": SUM}
    for wrong in ("a.txt", "a.txt=12", f"a={SUM}0", "a=" + "g" * 64):
        with pytest.raises(ValueError, match="expected FILE=CHECKSUM"):
            parse_checksums(wrong)


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == os.path.join("/x", "rnnfast")
    monkeypatch.setenv("RNNFAST_CACHE", "/y")
    assert cache_folder() == "/y"
    monkeypatch.delenv("RNNFAST_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().startswith(os.path.expanduser("~"))


def test_the_checksums_are_those_of_the_texts_known():
    """RNNFAST_TEST_DATA names a folder with ptb/ptb.*.txt and tinyshakespeare.txt."""
    folder = os.environ.get("RNNFAST_TEST_DATA")
    if not folder:
        pytest.skip("RNNFAST_TEST_DATA is not set")
    known = {f"ptb/{file}": s for file, s in CORPORA["ptb"].files.items()}
    known["tinyshakespeare.txt"] = CORPORA["tinyshakespeare"].files["input.txt"]
    for file, checksum in known.items():
        with open(os.path.join(folder, file), "rb") as text:
            assert hashlib.file_digest(text, "sha256").hexdigest() == checksum
