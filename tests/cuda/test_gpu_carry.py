"""What travels to a GPU: kernels compiled without one, modules, and what finds them there."""

import shutil

import compiled
import pytest
from cases import PATIENCE

pytest.importorskip("benchmarks", reason="an installed rnnfast has no benchmarks")

from planted import ROOT, environment

from benchmarks.cuda import carry, runner


@pytest.mark.rest
def test_kernels_and_modules_travel(tmp_path, monkeypatch):
    """They are packed, come out the same elsewhere, and a bare checkout works with them."""
    for side in ("here", "there"):
        ignored = shutil.ignore_patterns("*.so") if side == "there" else None
        shutil.copytree(ROOT / "rnnfast", tmp_path / side / "rnnfast", ignore=ignored)
    be_at(monkeypatch, tmp_path / "here")
    carry.KERNELS.mkdir(parents=True)
    (carry.KERNELS / "k.cubin").write_bytes(b"code")
    carry.pack()
    archive = carry.ARCHIVE
    be_at(monkeypatch, tmp_path / "there")
    carry.FOLDER.mkdir()
    shutil.copy(archive, carry.ARCHIVE)
    carry.unpack()
    assert (carry.KERNELS / "k.cubin").read_bytes() == b"code"
    assert carry.count(carry.KERNELS) == 1
    said, own = [], environment(PYTHONPATH=str(carry.ROOT))
    for _ in range(2):
        carry.build(said.append, own, seconds=PATIENCE)
    assert said == ["rnnfast: the carried modules work here", "rnnfast: already built"]


def be_at(monkeypatch, root):
    """carry's places in another checkout."""
    folder = root / ".carry"
    places = {"KERNELS": "kernels", "MODULES": "modules", "ARCHIVE": "compiled.tar.xz"}
    for name, path in {"ROOT": root, "FOLDER": folder}.items():
        monkeypatch.setattr(carry, name, path)
    for name, path in places.items():
        monkeypatch.setattr(carry, name, folder / path)


def test_a_build_that_fails_says_why(tmp_path, monkeypatch):
    be_at(monkeypatch, tmp_path)
    (tmp_path / "rnnfast").mkdir()
    (tmp_path / "rnnfast" / "__init__.py").write_text("raise ImportError('not built')")
    (tmp_path / "setup.py").write_text("raise SystemExit('no compiler here')")
    with pytest.raises(SystemExit, match="rnnfast cannot be built: no compiler here"):
        carry.build(print, environment(PYTHONPATH=""), seconds=PATIENCE)


needs_numba = pytest.mark.skipif(
    compiled.why_missing() is not None, reason="the cuda-compile extra is not installed"
)


@needs_numba
@pytest.mark.rest
def test_recording(tmp_path):
    """What a suite asks for is compiled into the library's own cache, once."""
    suite = runner.Suite("sweep", each=120, total=240, dry=True, on="benchmarks.cuda.record")
    suite.environment = environment(RNNFAST_CACHE=str(tmp_path / "kernels"))
    first, files = suite.names()[:1], []
    for _ in range(2):
        result = runner.run(suite, tmp_path / "sweep.json", first)
        assert result["items"]
        paths = sorted((tmp_path / "kernels").iterdir())
        files.append([(path.name, path.stat().st_mtime_ns) for path in paths])
    assert files[0] and files[0] == files[1]
    assert any(path.suffix == ".cubin" and path.read_bytes()[:4] == b"\x7fELF" for path in paths)


@needs_numba
def test_kernels_of_another_toolchain(tmp_path, monkeypatch):
    """They are used where their folder says what has made them, else compiled afresh."""
    from rnnfast.cuda import kept, runtime

    class Counting(runtime.Compiler):
        made = 0

        def compile(self, *arguments):
            Counting.made += 1
            return "name", b".entry name(", ""

    def empty_kernel(x):
        pass

    def ask():
        Counting((9, 0)).cubin(empty_kernel, "*f", 32)
        return Counting.made

    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(kept, "toolchain", lambda: "numba-cuda 1, cuda-core 1")
    assert [ask(), ask()] == [1, 1]
    monkeypatch.setattr(kept, "toolchain", lambda: "numba-cuda 2, cuda-core 2")
    assert ask() == 2
    (tmp_path / "toolchain").write_text("numba-cuda 1, cuda-core 1")
    assert ask() == 2
