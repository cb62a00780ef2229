"""The rooms of the package import from each other as CONTRIBUTING.md allows, and in no circle."""

import house
import pytest

pytestmark = pytest.mark.skipif(not house.PACKAGE.exists(), reason="the sources are not here")


def test_imports_are_those_of_the_table():
    text = (house.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    allowed, found = house.table(text), house.arrows()
    assert allowed.keys() == found.keys()
    assert found == allowed


def test_no_room_imports_from_above():
    stories = house.floors(house.arrows())
    assert {"checks", "version", "cpu"} <= set(stories[0])
    with pytest.raises(ValueError, match="each other: \\['a', 'b'\\]"):
        house.floors({"a": {"b"}, "b": {"a"}, "c": set()})


def test_arrows_that_others_imply_are_not_drawn():
    arrows = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "c"}}
    assert house.direct(arrows) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}}


def test_new_arrows_are_found(tmp_path, monkeypatch):
    package = tmp_path / "rnnfast"
    (package / "layers").mkdir(parents=True)
    for file, text in {
        "__init__.py": "from rnnfast.layers import Affine\n",
        "plot.py": "def late():\n    import rnnfast.layers.affine\n",
        "layers/__init__.py": "from rnnfast import plot, Affine\nimport numpy\n",
    }.items():
        (package / file).write_text(text)
    monkeypatch.setattr(house, "ROOT", tmp_path)
    monkeypatch.setattr(house, "PACKAGE", package)
    assert house.arrows() == {
        "rnnfast": {"layers"},
        "plot": {"layers"},
        "layers": {"plot", "rnnfast"},
    }


def test_the_picture_shows_these_rooms(tmp_path):
    pytest.importorskip("matplotlib")
    house.draw(house.arrows(), tmp_path / "house.svg")
    now = (tmp_path / "house.svg").read_text(encoding="utf-8")
    shown = (house.ROOT / "docs" / "house.svg").read_text(encoding="utf-8")
    for text in now, shown:
        assert all(f"<!-- {name} -->" in text for name in house.rooms())
    assert now.count("<g id=") == shown.count("<g id=")  # an arrow more or less
