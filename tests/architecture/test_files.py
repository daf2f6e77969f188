"""Files are short, are named for what they hold, and mention no machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from architecture.source import FILES, PACKAGE, ROOT

WANTED, END = 200, 400
DRAWERS = {"util", "utils", "helper", "helpers", "common", "misc", "v2"}

# Written with character classes, so that this file does not contain what it looks for.
MACHINE = re.compile(
    r"(?<![\w.~}])/(?:[h]ome|[U]sers|[r]oot|[w]ork|[f]arm|[m]nt|[v]env)/[\w.]"
    r"|\b[A-Z]:\\[\w]"
    r"|[p]ypi[.]org|[p]ythonhosted[.]org|[r]egistry[.]npmjs|[d]eb[.]debian|[d]ownload[.]pytorch"
    r"|[.][.]/[s]hared\b"
)


def _ours() -> tuple[Path, ...]:
    """The files of the repository: those git would carry; without git, those in its own folders."""
    try:
        command = ("git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        folders = ("src", "tests", "problems", "docs", "bench", "examples", ".ci")
        paths = [*ROOT.glob("*"), *(p for name in folders for p in (ROOT / name).rglob("*"))]
        paths = [p for p in paths if "__pycache__" not in p.parts]
    return tuple(sorted(p for p in paths if p.is_file()))


OURS = _ours()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert _lines(path) <= END


def test_list_the_files_over_200_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Not a failure: a list to look at, shown with the tests."""
    long = sorted((-_lines(p), p.relative_to(ROOT)) for p in FILES if _lines(p) > WANTED)
    with capsys.disabled():
        for lines, path in long:
            print(f"\n{-lines} lines, {WANTED} wanted: {path}", end="")  # noqa: T201
    assert all(-lines <= END for lines, _ in long)


def test_no_drawers() -> None:
    code = [p.relative_to(ROOT) for p in OURS if p.suffix == ".py"]
    words = {p: set(re.split(r"[/_.]", str(p))) & DRAWERS for p in code}
    assert not {p: found for p, found in words.items() if found}


@pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_machine_and_no_registry_is_named(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # an image
    found = [(text.count("\n", 0, m.start()) + 1, m.group()) for m in MACHINE.finditer(text)]
    assert not found


@pytest.mark.parametrize(
    "text",
    ["/" + "home/ann/konv", "see /" + "work/x", "C:" + "\\dir", "https://py" + "pi.org/x"],
)
def test_the_words_are_found(text: str) -> None:
    assert MACHINE.search(text)


@pytest.mark.parametrize("text", ["~/.cache/konv", "src/work/x", "a/b", "an N:M ratio"])
def test_other_words_are_not(text: str) -> None:
    assert not MACHINE.search(text)


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")
