"""The command line as a whole: help, examples, pipes, terminals, what is imported when."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import PROGRAM, SOURCE

COMMANDS = (
    "compare", "explain", "solve", "doctor", "cache show", "cache clear", "cache warm",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples_that_run(konv, root: Path, tmp_path: Path, command: str) -> None:
    from PIL import Image

    result = konv(*command.split(), "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 82
    examples = re.findall(r"^ +(konv .+)$", result.stdout.partition("Examples:")[2], re.MULTILINE)
    assert examples
    Image.new("RGB", (40, 30), "orange").save(tmp_path / "cat.jpg")
    (tmp_path / "problems").symlink_to(root / "problems")
    cheap = [e for e in examples if "compare" not in e or "--no-time" in e]
    for example in cheap:
        run = konv(*shlex.split(example)[1:])
        assert run.exit_code == 0, f"{example}: {run.output}"


def test_version(konv) -> None:
    import konv as package

    assert konv("--version").stdout == f"konv {package.__version__}\n"


def test_no_command_prints_the_help(konv) -> None:
    assert "compare" in konv().output


def test_help_imports_nothing_heavy() -> None:
    """So that it comes at once."""
    code = (
        "import sys\nfrom konv.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'llvmlite', 'torch', 'matplotlib', 'rich', 'PIL', 'skimage'}\n"
        "print('HEAVY', *sorted(heavy & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.endswith("HEAVY\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        ("compare --no-time --no-figure --size 16", "torch matplotlib skimage"),
        ("explain conv2d 1x4x8x8 o4 k3", "torch matplotlib"),
        ("solve --out 28 --size 56 --kernel 3 --stride 2", "torch numpy llvmlite"),
        ("cache show", "torch numpy llvmlite"),
        ("doctor --no-time", "torch matplotlib"),
    ],
)
def test_commands_import_what_they_use(words: str, absent: str) -> None:
    code = (
        f"import sys\nfrom konv.cli import app\ntry: app({words.split()!r})\n"
        f"except SystemExit as end: assert not end.code\n"
        f"print('HEAVY', *sorted(set({absent.split()!r}) & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.endswith("HEAVY\n"), done.stdout[-300:] + done.stderr


def test_a_pipe_gets_plain_text(program) -> None:
    """No escape codes and 80 columns, however wide the terminal beside it is."""
    done = program("compare", "--no-time", "--no-figure", "--size", "16", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not re.search(r" $", done.stdout, re.MULTILINE)


def test_an_error_is_one_line_and_no_traceback(program) -> None:
    done = program("explain", "conv2d", "1x64x56x56", "o128", "k3", "g3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("konv: groups=3 does not divide in_channels=64")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    """konv explain --asm | head -1"""
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    words = (*PROGRAM, "explain", "conv2d 1x16x9x9 o16 k3", "--asm")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.readline()
        child.stdout.close()
        assert b"Traceback" not in child.stderr.read()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_gets_colours_in_its_width(tmp_path: Path) -> None:
    import pty

    main, other = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "TERM": "xterm-256color", "COLUMNS": "80"}
    env.pop("NO_COLOR", None)
    words = ["compare", "--no-time", "--no-figure", "--size", "16"]
    with subprocess.Popen([*PROGRAM, *words], stdout=other, stderr=other, env=env) as child:
        os.close(other)
        written = b""
        while True:
            try:
                some = os.read(main, 65536)
            except OSError:  # Linux says it so when the other end is closed
                break
            if not some:
                break
            written += some
    os.close(main)
    assert child.returncode == 0
    text = written.decode()
    assert "\x1b[1;36m" in text
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 80
