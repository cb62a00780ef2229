"""`rnnfast data`: download a corpus."""

from collections.abc import Sequence

from rnnfast.commands.arguments import Commands, add_command
from rnnfast.text import download
from rnnfast.text.download import CORPORA


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    command = add_command(
        commands,
        "data",
        fetch,
        "download a corpus",
        "Download a corpus into a cache folder and print the paths of its files. The same command "
        "continues an interrupted download. "
        + " ".join(f"{name}: {corpus.what}." for name, corpus in CORPORA.items()),
    )
    option = command.add_argument
    option("name", choices=tuple(CORPORA), help="name of the corpus")
    what = "folder for the files (default: RNNFAST_CACHE, else the user's cache folder)"
    option("--folder", metavar="DIR", help=what)
    what = "address of the folder to download from (default: RNNFAST_DATA_URL, else the usual one)"
    option("--url", metavar="URL", help=what)
    what = "expected checksum of a file, may be repeated (default: RNNFAST_DATA_SHA256, else the "
    what += "usual one)"
    option("--sha256", action="append", metavar="FILE=SUM", help=what)


def fetch(
    name: str,
    folder: str | None = None,
    url: str | None = None,
    sha256: Sequence[str] | None = None,
) -> None:
    """Download a corpus.

    Parameters
    ----------
    name : str
        A corpus in `rnnfast.text.download.CORPORA`.
    folder : str, optional
        Folder for the files. None is the cache folder.
    url : str, optional
        Address of the folder to download from.
    sha256 : sequence of str, optional
        Expected checksums, each "FILE=SUM".

    See Also
    --------
    rnnfast.text.download.fetch : The function behind it, with all errors.
    """
    sums = None if not sha256 else download.parse_checksums(",".join(sha256))
    download.fetch(name, folder, url=url, sha256=sums)
