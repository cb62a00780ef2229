"""Corpora that `rnnfast data NAME` downloads into a cache folder. None is part of the package.

A download is written to `<file>.part` and renamed once its SHA-256 has been verified. `fetch`
resumes an interrupted download if the server supports HTTP ranges.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rnnfast.io.bars import bar
from rnnfast.io.files import StrPath, cache_folder, remove, replace

CHUNK = 1 << 16
TIMEOUT = 30.0  # seconds without a byte


class Corpus(NamedTuple):
    """A corpus on the web.

    Attributes
    ----------
    url : str
        URL of the folder.
    files : dict
        File name -> SHA-256, hexadecimal.
    what : str
        One line of description.
    """

    url: str
    files: dict[str, str]
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


def fetch(
    name: str,
    folder: StrPath | None = None,
    *,
    url: str | None = None,
    sha256: Mapping[str, str] | None = None,
    write: Callable[[str], Any] = print,
) -> list[str]:
    """Download the files of a corpus. Existing files are kept.

    Parameters
    ----------
    name : str
        A key of CORPORA.
    folder : str or PathLike, optional
        Destination; by default ``<cache_folder()>/<name>``.
    url : str, optional
        URL of the source folder; by default RNNFAST_DATA_URL, else the corpus's own URL.
    sha256 : mapping, optional
        File name -> checksum, in place of the corpus's own checksums; by default those in
        RNNFAST_DATA_SHA256, written FILE=CHECKSUM,FILE=CHECKSUM.
    write : callable
        Gets one line per file.

    Returns
    -------
    list of str
        The paths of the files.

    Raises
    ------
    ValueError
        For wrong arguments or a wrong checksum. The downloaded data are removed then.
    OSError
        If the network or the disk fails. The downloaded data are kept, so that the next call can
        resume.
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
        sums[file] = checksum.lower()
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


def parse_checksums(text: str) -> dict[str, str]:
    """Parse checksums written FILE=CHECKSUM,FILE=CHECKSUM.

    Parameters
    ----------
    text : str

    Returns
    -------
    dict
        File name -> SHA-256, lower case.

    Raises
    ------
    ValueError
        If a part is not FILE=CHECKSUM with 64 hexadecimal digits.

    Examples
    --------
    >>> sums = parse_checksums("a.txt=" + "12AB" * 16)
    >>> sums["a.txt"][:8]
    '12ab12ab'
    """
    sums = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        file, _, checksum = part.partition("=")
        checksum = checksum.strip().lower()
        if len(checksum) != 64 or set(checksum) - set("0123456789abcdef"):
            raise ValueError(f"expected FILE=CHECKSUM with 64 hexadecimal digits, got {part!r}")
        sums[file.strip()] = checksum
    return sums


def download(url: str, path: str, sha256: str, *, timeout: float = TIMEOUT) -> None:
    """Download one file. An existing ``<path>.part`` is resumed.

    Parameters
    ----------
    url : str
    path : str
        Destination.
    sha256 : str
        Expected checksum, hexadecimal.
    timeout : float
        Seconds without a byte before the connection is given up.

    Raises
    ------
    OSError, ValueError
        See `fetch`.
    """
    part = f"{path}.part"
    have = os.path.getsize(part) if os.path.exists(part) else 0
    if have and _checksum(part) == sha256:  # all of it came, only the new name was missing
        replace(part, path)
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
        remove(part)
        raise ValueError(f"{url}: wrong content, expected SHA-256 {sha256}, got {found}")
    replace(part, path)


def _receive(url: str, part: str, have: int, timeout: float) -> None:
    """Append the missing bytes to `part`, which has `have` bytes, or start from the beginning."""
    headers = {"User-Agent": "rnnfast", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: the file is not longer than `have`
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
        name = os.path.basename(part).removesuffix(".part")
        shown = bar(desc=name, initial=have, total=total, unit="B", unit_scale=True)
        with open(part, "ab" if continued else "wb") as file, shown:
            while chunk := _read(answer):
                file.write(chunk)
                have += len(chunk)
                shown.update(len(chunk))
    if total is not None and have < total:
        raise ConnectionError(
            f"{url}: the connection broke off after {have:,} of {total:,} bytes; "
            "run it again to go on from there"
        )


def _read(answer: Any) -> bytes:
    """The next bytes of a response; none at its end, complete or not."""
    try:
        chunk: bytes = answer.read(CHUNK)
        return chunk
    except (http.client.IncompleteRead, ConnectionResetError):
        return b""


def _checksum(path: str) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
