"""The C sources read as plain C, and the compiled micro-kernels are where they should be."""

import re
import shutil
import subprocess

import house
import pytest

from rnnfast.cpu import _runtime

SOURCES = house.ROOT / "src" / "kernels"

sources = pytest.mark.skipif(not SOURCES.exists(), reason="the sources are not here")


@sources
def test_macros_are_upper_case():
    found = {
        name
        for path in SOURCES.glob("*.[ch]")
        for name in re.findall(r"^\s*#\s*define\s+(\w+)", path.read_text(encoding="utf-8"), re.M)
    }
    assert {"W", "UP_TO", "CELLS"} <= found
    assert {name for name in found if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name)} == set()


@sources
def test_only_the_platform_files_know_the_system():
    systems = re.compile(r"_WIN32|__linux__|__APPLE__|<(pthread|sched|unistd|windows|sys/\w+)\.h>")
    knowing = {
        path.name for path in SOURCES.glob("*.[ch]") if systems.search(path.read_text("utf-8"))
    }
    files = {path.name for path in SOURCES.glob("platform*.[ch]")}
    assert knowing == files - {"platform_windows.h"}  # which platform.h chooses


@sources
def test_memory_goes_back_where_it_came_from():
    """On Windows free cannot take what new_room gave."""
    checked = 0
    for path in set(SOURCES.glob("*.[ch]")) - set(SOURCES.glob("platform*")):
        text = path.read_text("utf-8")
        taken = set(re.findall(r"([\w.>-]+) = (?:malloc|calloc)\(", text))
        assert set(re.findall(r"\bfree\(([\w.>-]+)\)", text)) == taken, path.name
        checked += bool(taken)
    assert checked > 5


@sources
@pytest.mark.parametrize("tool", ["clang-format", "ruff"])
def test_one_version_of_each_formatter(tool):
    pins = {
        file: {*re.findall(rf"{tool}==([\d.]+)", (house.ROOT / file).read_text(encoding="utf-8"))}
        for file in ("pyproject.toml", ".pre-commit-config.yaml")
    }
    assert len(pins["pyproject.toml"]) == 1
    assert pins["pyproject.toml"] == pins[".pre-commit-config.yaml"]


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm lists the symbols")
def test_micro_kernels_begin_at_a_cache_line():
    listed = subprocess.run(["nm", _runtime.__file__], capture_output=True, text=True)
    found = re.findall(r"^([0-9a-f]+) t _?(micro_\d_\d+)$", listed.stdout, re.M)
    if not found:
        pytest.skip("the module has no symbols: it is stripped")
    assert {name for _, name in found} >= {"micro_1_1", "micro_2_2", "micro_4_1"}
    assert [name for address, name in found if int(address, 16) % 64] == []
