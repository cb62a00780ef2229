"""Notebooks whose code is the same run once, in whatever language their text and options are."""

from jupyter_cache.cache.main import JupyterCacheBase
from myst_nb.core.execute import cache


class OutputsOfCode(JupyterCacheBase):
    """Stored outputs that are found by the code of the cells alone.

    The original compares their options, too, and gives a cell the stored ones. But alternative
    texts are options, and each language has its own.
    """

    def create_hashed_notebook(self, nb, nb_metadata=("kernelspec",), cell_metadata=()):
        """Hash the code, without options."""
        return super().create_hashed_notebook(nb, nb_metadata, cell_metadata)

    def merge_match_into_notebook(
        self, nb, nb_meta=("kernelspec", "language_info", "widgets"), cell_meta=()
    ):
        """Add stored outputs to a notebook, whose cells keep their options."""
        return super().merge_match_into_notebook(nb, nb_meta, cell_meta)


def setup(app):
    """Let MyST-NB store outputs so."""
    cache.get_cache = OutputsOfCode
    return {"parallel_read_safe": True, "parallel_write_safe": True}
