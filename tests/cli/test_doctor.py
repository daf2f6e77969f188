"""konv doctor: says what a bug report needs, and finds what is broken."""

from __future__ import annotations

import json
import platform

import numpy as np
import pytest


def test_json(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONV_VERBOSE", "0")
    result = konv("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["numpy"] == np.__version__
    assert set(found["self_test"].values()) == {"ok"}
    assert {"ordinary", "transposed", "dilated", "grouped", "depthwise"} <= set(found["self_test"])
    assert found["processor"]["vector_bytes"] in (16, 32, 64)
    assert found["threads"]["threads"] >= 1
    assert found["settings"]["KONV_VERBOSE"] == "0"
    assert found["roofline"]["peak_flops"] > 1e8
    assert found["roofline"]["bandwidth"] > 1e8


def test_text(konv) -> None:
    text = konv("doctor", "--no-time").stdout
    for part in ("Versions", "Processor", "Threads", "Cache", "Settings", "Self-test"):
        assert f"\n{part}\n" in f"\n{text}"
    assert max(map(len, text.splitlines())) <= 80


def test_a_wrong_kernel_is_found(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, the others still reported."""
    from konv import functional

    right = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *a, **k: right(*a, **k) * 1.01)
    result = konv("doctor", "--no-time")
    assert result.exit_code == 1
    assert "wrong by up to" in result.stdout
    assert "Versions" in result.stdout


def test_a_part_that_fails_is_reported(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    from konv.analyze import doctor

    def broken() -> None:
        raise OSError("no such processor")

    monkeypatch.setattr(doctor, "processor", broken)
    result = konv("doctor", "--no-time")
    assert result.exit_code == 1
    assert "OSError: no such processor" in result.stdout
    assert "Self-test" in result.stdout
