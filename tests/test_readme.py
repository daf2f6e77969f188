"""Every command and every line of code in the README runs, and prints what stands below it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TWINS = ("README.md", "README.zh-CN.md")
MOST_LINES = 100


@dataclass(frozen=True)
class Block:
    """A fenced block; `prints` is the block of language `text` right below it, if there is one."""

    line: int
    language: str
    code: str
    prints: str | None = None


def blocks(name: str) -> list[Block]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found: list[Block] = []
    end = -1
    for match in re.finditer(r"^```(\w*)\n(.*?)^```\n", text, re.MULTILINE | re.DOTALL):
        language, code = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        if language == "text" and not text[end : match.start()].strip():
            found[-1] = Block(found[-1].line, found[-1].language, found[-1].code, prints=code)
        else:
            found.append(Block(line, language, code))
        end = match.end()
    return found


def commands() -> list[tuple[str, str | None]]:
    """Each line of the bash blocks; what stands below a block belongs to its only line."""
    found: list[tuple[str, str | None]] = []
    for block in blocks("README.md"):
        if block.language == "bash":
            lines = [line for line in block.code.splitlines() if shlex.split(line, comments=True)]
            assert block.prints is None or len(lines) == 1, "one command above an output"
            found += [(line, block.prints) for line in lines]
    return found


def run(*command: str, folder: Path) -> str:
    """What a command prints, in an empty folder; it must succeed, and silently on stderr."""
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def konv(arguments: list[str], folder: Path) -> str:
    """What the installed program prints; from a bare checkout, what its module prints."""
    program = Path(sys.executable).with_name("konv")
    if program.is_file():
        return run(str(program), *arguments, folder=folder)
    start = "from konv.cli import main; main()"
    return run(sys.executable, "-W", "error", "-c", start, *arguments, folder=folder)


def make_target_exists(words: list[str]) -> None:
    """The suite is itself a target, so targets are looked up rather than run."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert words
    assert not set(words) - set(targets)


def pip_would_install(words: list[str]) -> None:
    """This project, with extras that it has; the gate installs the wheel for real."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    match words:
        case ["install", what]:
            form = re.fullmatch(r"\.(?:\[([\w,]+)\])?", what)
            assert form, f"{what} is not this project"
            extras = set((form[1] or "").split(",")) - {""}
            assert not extras - set(project["optional-dependencies"])
        case _:
            pytest.fail(f"pip {words}: a README needs pip install alone")


@pytest.mark.parametrize(("line", "prints"), commands(), ids=lambda v: v or "")
def test_commands_run(line: str, prints: str | None, tmp_path: Path) -> None:
    program, *words = shlex.split(line, comments=True)
    match program:
        case "konv":
            output = konv(words, tmp_path)
            assert output.strip()
            assert prints is None or output.rstrip() == prints.rstrip()
        case "make":
            make_target_exists(words)
        case "pip":
            pip_would_install(words)
        case _:
            pytest.fail(f"{line!r} is run by no test: teach this one, or leave it out")


@pytest.mark.parametrize(
    "block",
    [b for b in blocks("README.md") if b.language == "python"],
    ids=lambda b: f"line {b.line}",
)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    output = run(sys.executable, "-W", "error", "-c", block.code, folder=tmp_path)
    assert block.prints is None or output == block.prints


def test_blocks_are_of_a_kind_that_is_tested() -> None:
    found = blocks("README.md")
    assert {b.language for b in found} == {"bash", "python"}
    assert any(b.prints for b in found)


@pytest.mark.parametrize("name", TWINS)
def test_at_most_100_lines(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_twins_have_the_same_headings_and_code() -> None:
    english, chinese = (_prose((ROOT / name).read_text(encoding="utf-8")) for name in TWINS)
    levels = [[len(h) for h in re.findall(r"^(#+) ", t, re.MULTILINE)] for t in (english, chinese)]
    assert levels[0] == levels[1]
    assert [(b.language, b.code, b.prints) for b in blocks(TWINS[0])] == [
        (b.language, b.code, b.prints) for b in blocks(TWINS[1])
    ]


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```\n", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", [*TWINS, "CONTRIBUTING.md", "SECURITY.md", "docs/map.md"])
def test_links_lead_to_files(name: str) -> None:
    path = ROOT / name
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert not [link for link in inside if not (path.parent / link).exists()]
