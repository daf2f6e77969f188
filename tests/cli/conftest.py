"""How the tests of the command line call it: in this process, or as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

PROGRAM = (sys.executable, "-c", "from konv.cli import main; main()")
SOURCE = Path(__file__).resolve().parents[2] / "src"

Run = Callable[..., Result]


@pytest.fixture
def konv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder; measuring takes as few rounds as it may."""
    from konv.analyze import explain, timing
    from konv.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "SECONDS", 1e-3)
    monkeypatch.setattr(explain, "SECONDS", 1e-3)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as a program whose output goes into a pipe."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(SOURCE), **environment}
        return subprocess.run(
            [*PROGRAM, *words], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=120
        )

    return run


@pytest.fixture
def article(root: Path) -> str:
    """The path of the list of problems that the help speaks of."""
    return str(root / "problems" / "article.txt")
