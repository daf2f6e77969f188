"""The examples run, and print what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def run(root: Path, *command: str) -> str:
    """What a program prints, in a Python that finds konv in this tree."""
    paths = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True, text=True, timeout=180, cwd=root,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_article(root: Path) -> None:
    """The article's four snippets: the shapes that it prints, and the parameters of the kernels."""
    text = run(root, "examples/article.py")
    assert re.findall(r"output shape +(.*)", text) == [
        "(1, 1, 3, 3)", "(1, 1, 6, 6)", "(1, 1, 4, 4)", "(1, 2, 4, 4)",
    ]  # fmt: skip
    assert re.findall(r"input shape +(.*)", text) == ["(1, 1, 5, 5)"] * 3 + ["(1, 4, 5, 5)"]
    assert re.findall(r"kernel parameters (.*)", text) == [
        "(1, 1, 2, 2)", "(1, 1, 2, 2)", "(1, 1, 2, 2)", "(2, 2, 2, 2)",
    ]  # fmt: skip
    assert text.count("tensor(") == 4


@pytest.mark.slow
def test_ddp(root: Path) -> None:
    """Two processes have the gradients of one."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    text = run(root, *launch, "examples/ddp.py")
    steps = re.findall(r"step (\d): loss ([\d.]+), gradients (\S+) apart", text)
    assert [step for step, *_ in steps] == ["0", "1", "2"]
    assert all(float(far) < 1e-4 for *_, far in steps)
    assert float(steps[2][1]) < float(steps[0][1])
