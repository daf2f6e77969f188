"""KONV_VERBOSE=1: one line on standard error for what happens behind a call, otherwise nothing."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from konv import log

SOURCE = Path(log.__file__).parents[1]


@pytest.fixture
def verbose() -> Iterator[None]:
    before = log.verbose
    log.set_verbose(True)
    yield
    log.set_verbose(before)


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"plan": "direct 6x4", "ms": 143.2}, "konv: compile direct 6x4 143 ms"),
        ({"what": "digest", "ms": 0.0421}, "konv: compile digest 0.0421 ms"),
        ({"conv": "conv2d", "bytes": 12}, "konv: compile conv2d bytes=12"),
        ({"what": "two\nlines"}, "konv: compile two lines"),
        ({}, "konv: compile"),
    ],
)
def test_one_line_an_event(
    verbose: None, facts: dict[str, object], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The event, then its facts: times in ms, other numbers with their names, the rest as it is."""
    log.event("compile", **facts)
    assert capsys.readouterr() == ("", line + "\n")


def test_silent_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Off, it does not even look at the facts."""

    class Fact:
        def __str__(self) -> str:
            raise AssertionError

    log.set_verbose(False)
    log.event("compile", plan=Fact())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("value", "expected"), [(None, ""), ("", ""), ("0", ""), ("off", ""), ("1", "konv: x\n")]
)
def test_the_variable_is_read_at_import(value: str | None, expected: str) -> None:
    """KONV_VERBOSE unset, empty, 0 or off is silence; anything else is not."""
    environment = {k: v for k, v in os.environ.items() if k != "KONV_VERBOSE"}
    environment |= {"PYTHONPATH": str(SOURCE)} | ({} if value is None else {"KONV_VERBOSE": value})
    code = "from konv import log; log.event('x')"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == expected


@pytest.mark.parametrize("stream", [None, "closed"])
def test_nowhere_to_write(
    verbose: None, stream: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a standard error (a window, a service) an event is lost and nothing else."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stream else None)
    log.event("compile")
