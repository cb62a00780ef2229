"""The corpora that `rnnfast data NAME` fetches on request, into a cache folder; none is shipped.

A download goes to `<file>.part` and gets its name when its SHA-256 is right. An interrupted one
is continued where it stopped, if the server knows HTTP ranges, by calling `fetch` again.
"""

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

from rnnfast.io.files import cache_folder

CHUNK = 1 << 16
TIMEOUT = 30.0  # seconds without a byte


class Corpus(NamedTuple):
    url: str  # of the folder
    files: dict  # name -> SHA-256, hexadecimal
    what: str


CORPORA = {
    "ptb": Corpus(
        "https://raw.githubusercontent.com/tomsercu/lstm/master/data",
        {
            "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        },
        "Penn Treebank as word models use it: 929,589 words to train on, 10,000 different",
    ),
    "tinyshakespeare": Corpus(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare",
        {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
        "1,115,394 characters from Shakespeare's plays, 65 different",
    ),
}


def fetch(name, folder=None, *, url=None, sha256=None, write=print):
    """Download the files of a corpus that are not there yet -> their paths.

    name: one of CORPORA. folder: where to; None is `<cache_folder()>/<name>`.
    url: the folder they come from, else RNNFAST_DATA_URL, else the corpus's own.
    sha256: {file: checksum} in place of the corpus's own, else RNNFAST_DATA_SHA256, which is
    written FILE=CHECKSUM,FILE=CHECKSUM.

    ValueError for wrong arguments or a wrong checksum (what was downloaded is removed then),
    OSError where the network or the disk fails (what was downloaded is kept, to be continued).
    """
    if name not in CORPORA:
        raise ValueError(f"fetch: name must be one of {tuple(CORPORA)}, got {name!r}")
    corpus = CORPORA[name]
    url = url or os.environ.get("RNNFAST_DATA_URL") or corpus.url
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"fetch: url must start with http:// or https://, got {url!r}")
    sums = dict(corpus.files)
    if sha256 is None:
        sha256 = parse_checksums(os.environ.get("RNNFAST_DATA_SHA256", ""))
    for file, checksum in sha256.items():
        if file not in sums:
            raise ValueError(f"fetch: sha256 must name one of {tuple(sums)}, got {file!r}")
        sums[file] = checksum
    folder = os.fspath(folder or os.path.join(cache_folder(), name))
    os.makedirs(folder, exist_ok=True)

    paths = []
    for file, checksum in sums.items():
        path = os.path.join(folder, file)
        paths.append(path)
        if os.path.exists(path):
            write(f"{path}: already there")
            continue
        download(f"{url.rstrip('/')}/{file}", path, checksum)
        write(f"{path}: {os.path.getsize(path):,} bytes")
    return paths


def parse_checksums(text):
    """ "a.txt=12ab...,b.txt=34cd..." -> {"a.txt": "12ab...", ...}. ValueError if it is not that."""
    sums = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        file, _, checksum = part.partition("=")
        checksum = checksum.strip().lower()
        if len(checksum) != 64 or set(checksum) - set("0123456789abcdef"):
            raise ValueError(f"expected FILE=CHECKSUM with 64 hexadecimal digits, got {part!r}")
        sums[file.strip()] = checksum
    return sums


def download(url, path, sha256, *, timeout=TIMEOUT):
    """Get `url` into `path`, going on from `<path>.part` if that is there; errors as `fetch`."""
    part = f"{path}.part"
    have = os.path.getsize(part) if os.path.exists(part) else 0
    if have and _checksum(part) == sha256:  # all of it came, only the new name was missing
        os.replace(part, path)
        return
    try:
        _receive(url, part, have, timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise ConnectionError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise ConnectionError(
            f"{url}: cannot be reached ({reason}); try again, or put the file at {path}"
        ) from None
    found = _checksum(part)
    if found != sha256:
        os.unlink(part)
        raise ValueError(f"{url}: wrong content, expected SHA-256 {sha256}, got {found}")
    os.replace(part, path)


def _receive(url, part, have, timeout):
    """Append to the first `have` bytes of `part` what is missing, or start anew."""
    headers = {"User-Agent": "rnnfast", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: the file does not go on there
            raise
        error.close()
        _receive(url, part, 0, timeout)
        return
    with answer:
        continued = answer.status == 206
        if continued and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException("it sends another range than it was asked for")
        have = have if continued else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        with open(part, "ab" if continued else "wb") as file, _bar(part, have, total) as bar:
            while chunk := _read(answer):
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    if total is not None and have < total:
        raise ConnectionError(
            f"{url}: the connection broke off after {have:,} of {total:,} bytes; "
            "run it again to go on from there"
        )


def _read(answer):
    """The next bytes; none at the end, wherever that is."""
    try:
        return answer.read(CHUNK)
    except (http.client.IncompleteRead, ConnectionResetError):
        return b""


def _bar(part, have, total):
    from tqdm import tqdm

    name = os.path.basename(part).removesuffix(".part")
    options = {"unit": "B", "unit_scale": True, "leave": False, "disable": None}
    return tqdm(desc=name, initial=have, total=total, file=sys.stderr, **options)


def _checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
