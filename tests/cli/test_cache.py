"""konv cache: shows what is there, fills it, empties it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from konv import llvm
from konv.geometry import Conv
from konv.runtime.choose import choices

LINE = "conv2d 1x16x20x20 o24 k3 p1"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test, and no kernel in memory that would hide it."""
    from konv.runtime import code

    monkeypatch.setattr(code, "_kernels", {})
    place = tmp_path / "cache"
    monkeypatch.setenv("KONV_CACHE_DIR", str(place))
    return place


def test_from_empty_to_warm_to_empty(konv, folder: Path) -> None:
    assert "not made yet" in konv("cache", "show").stdout
    assert "compiled now" in konv("cache", "warm", LINE).stdout
    found = json.loads(konv("cache", "show", "--json").stdout)
    assert found["folder"] == str(folder)
    assert len(found["entries"]) >= 2  # a kernel for each layout
    assert found["bytes"] == sum(entry["bytes"] for entry in found["entries"])
    assert all(entry["sound"] for entry in found["entries"])
    text = konv("cache", "show").stdout
    assert " now\n" in text
    assert max(map(len, text.splitlines())) <= 80
    assert f"{len(found['entries'])} files deleted" in konv("cache", "clear").stdout
    assert json.loads(konv("cache", "show", "--json").stdout)["entries"] == []


def test_warm_makes_what_the_layer_needs(konv, folder: Path) -> None:
    """After it, the layer compiles nothing."""
    import numpy as np

    from konv.functional import conv2d
    from konv.runtime import code, store

    konv("cache", "warm", LINE)
    before = {entry.name for entry in store.entries()}
    code._kernels.clear()
    conv2d(np.ones((1, 16, 9, 9), np.float32), np.ones((24, 16, 3, 3), np.float32), padding=1)
    assert {entry.name for entry in store.entries()} == before


def test_warm_a_file(konv, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text(f"# two lines, one layer\n{LINE}\n{LINE}  # again\n")
    layouts = ((True, True), (False, False))
    plans = {p for pair in layouts for p in choices(Conv.parse(LINE), llvm.detect(), *pair)}
    assert konv("cache", "warm", "two.txt").stdout.startswith(f"{len(plans)} kernels, ")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nowhere.txt", "there is no file nowhere.txt"),
        ("bad.txt", "bad.txt: line 2: "),
        ("nonsense", "'nonsense' is not a token"),
    ],
)
def test_errors(konv, tmp_path: Path, folder: Path, what: str, message: str) -> None:
    (tmp_path / "bad.txt").write_text(f"{LINE}\nconv2d\n")
    result = konv("cache", "warm", what)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not folder.exists()


def test_off(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONV_CACHE_DIR", "off")
    assert "the cache is off" in konv("cache", "show").stdout
    assert json.loads(konv("cache", "show", "--json").stdout)["folder"] is None
    assert konv("cache", "clear").exit_code == 0
