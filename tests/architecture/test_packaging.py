"""pyproject.toml, constraints.txt, Makefile and .ci/run say the same."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import konv

EXTRAS = {"torch", "viz", "test", "dev", "bench"}
TARGETS = {"demo", "test", "check", "check-full", "bench", "docs"}


@pytest.fixture(scope="session")
def project(root: Path) -> dict[str, Any]:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found: dict[str, Any] = tomllib.loads(text)["project"]
    return found


@pytest.fixture(scope="session")
def pins(root: Path) -> dict[str, str]:
    """Version by normalised name; the test below holds the form."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {_normal(name): version for name, version in (line.split("==") for line in lines)}


def test_constraints_are_names_and_versions_only(root: Path) -> None:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines == sorted(lines, key=str.lower)
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[0-9][\w.]*", line)]


def test_every_requirement_is_pinned(project: dict[str, Any], pins: dict[str, str]) -> None:
    names = {_normal(_name(line)) for line in _requirements(project)} - {"konv"}
    assert not names - pins.keys()


def test_the_core_is_three_packages(project: dict[str, Any]) -> None:
    assert {_name(line) for line in project["dependencies"]} == {"numpy", "llvmlite", "typer"}
    assert set(project["optional-dependencies"]) == EXTRAS


def test_the_second_witness_is_one_version(project: dict[str, Any], pins: dict[str, str]) -> None:
    extras = project["optional-dependencies"]
    for extra in ("test", "bench"):
        assert "torch==2.13.0" in extras[extra]
    assert pins["torch"] == "2.13.0"


def test_version(project: dict[str, Any], root: Path) -> None:
    assert project["dynamic"] == ["version"]
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{konv.__version__}]" in changes or "## [Unreleased]" in changes


def test_make_has_the_targets_and_says_what_they_do(root: Path) -> None:
    text = (root / "Makefile").read_text(encoding="utf-8")
    assert not TARGETS - set(re.findall(r"^([a-z-]+):.*?## \S", text, re.MULTILINE))


def test_the_gate_calls_the_readme_s_test_command(root: Path) -> None:
    gate = root / ".ci" / "run"
    assert re.search(r"^make test\b", gate.read_text(encoding="utf-8"), re.MULTILINE)
    assert re.search(r"^make test\b", (root / "README.md").read_text("utf-8"), re.MULTILINE)
    assert os.access(gate, os.X_OK)


def _requirements(project: dict[str, Any]) -> Iterator[str]:
    yield from project["dependencies"]
    for lines in project["optional-dependencies"].values():
        yield from lines


def _name(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
