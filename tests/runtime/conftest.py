"""A cold cache, one with an entry, and what konv says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runtime.caching import CODE, KEY

from konv import log
from konv.runtime import store


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that does not exist yet."""
    monkeypatch.setenv("KONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("KONV_CACHE_BYTES", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def kept(place: Path) -> Path:
    """A file of the cache that holds CODE under KEY."""
    store.keep(KEY, CODE, "direct 6x4")
    assert store.fetch(KEY) == CODE
    return place / f"{KEY}.konv"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What KONV_VERBOSE=1 would have shown so far."""
    before = log.verbose
    log.set_verbose(True)
    yield lambda: capsys.readouterr().err
    log.set_verbose(before)
