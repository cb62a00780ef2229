"""`rnnfast data`: download a corpus."""

from rnnfast.commands.arguments import add_command
from rnnfast.text import download
from rnnfast.text.download import CORPORA


def add(commands):
    command = add_command(
        commands,
        "data",
        fetch,
        "download a corpus",
        "Download a corpus into a cache folder and print where its files are. An interrupted "
        "download is continued by the same command. "
        + " ".join(f"{name}: {corpus.what}." for name, corpus in CORPORA.items()),
    )
    option = command.add_argument
    option("name", choices=tuple(CORPORA), help="which")
    what = "where to (default: RNNFAST_CACHE, else the user's cache folder)"
    option("--folder", metavar="DIR", help=what)
    what = "another folder to get the files from (default: RNNFAST_DATA_URL, else the usual one)"
    option("--url", metavar="URL", help=what)
    what = "another checksum for a file, may be repeated (default: RNNFAST_DATA_SHA256)"
    option("--sha256", action="append", metavar="FILE=SUM", help=what)


def fetch(name, folder=None, url=None, sha256=None):
    """Download a corpus; see rnnfast.text.download."""
    sums = None if not sha256 else download.parse_checksums(",".join(sha256))
    download.fetch(name, folder, url=url, sha256=sums)
