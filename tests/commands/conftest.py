"""What several tests of commands run with."""

import pytest
from shell import LINES


@pytest.fixture
def text(tmp_path):
    """A text to train on."""
    path = tmp_path / "text.txt"
    path.write_text(LINES * 40, encoding="utf-8")
    return str(path)
