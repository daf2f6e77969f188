"""The benchmark as a whole: what is checked is timed, what is wrong is not, reports can be kept."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from bench.fakes import Fake, nan, one_off, report
from typer.testing import CliRunner

from konv.bench import Report, Settings, bench, read, text, timing
from konv.bench.closing import closing, render
from konv.bench.peers import LIBRARIES, installed
from konv.bench.plot import draw
from konv.cli import Commands
from konv.cli import bench as command
from konv.errors import ProblemError
from konv.runtime.execute import Weights

TINY = ["conv2d 1x4x7x9 o6 k3 s2 p1", "tconv2d 1x4x5x5 o4 k4 s2 p1 g2  # up"]
QUICK = Settings(budget=0.001, peers=("torch",))
QUIET = {"date": "2026-11-28", "budget": 0.1}


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds are enough to see that it works, and no line is repeated for a busy machine."""
    monkeypatch.setattr(timing, "TURN", 1e-5)
    monkeypatch.setattr(timing, "AGAIN", 0)
    monkeypatch.setattr(timing, "WINDOWS", 0)


def told(report: Report) -> str:
    return "\n".join(text.plain(line) for line in render(report))


def test_all_competitors_are_checked_and_timed() -> None:
    heard = []
    found = bench(
        read(TINY),
        replace(QUICK, cold=True),
        heard=lambda _, row: heard.append(row),
    )
    assert [row.name for row in found.rows] == ["conv2d 1x4x7x9 o6 k3 s2 p1", "up"]
    assert tuple(heard) == found.rows
    names = [c.name for c in found.competitors]
    assert names == [f"{a} {b}" for a in ("konv", "torch") for b in ("contiguous", "channels-last")]
    for row in found.rows:
        assert row.checked == "all outputs, konv.reference"
        assert not row.wrong
        assert not row.refused
        assert [m.working_set for m in row.measured] == ["warm", "cold"]
        for measured in row.measured:
            assert list(measured.times) == names
            assert all(0 < t.least <= t.median < 1 for t in measured.times.values())
            assert all(t.calls >= timing.ROUNDS for t in measured.times.values())
    assert found.rooflines["float32"].peak_flops > 1e8


@pytest.mark.parametrize("spoil", [one_off, nan, lambda y: y[:, :, 1:], np.zeros_like])
def test_a_wrong_answer_is_told_and_not_timed(spoil: Any) -> None:
    right, wrong = Fake("right"), Fake("wrong", spoil)
    found = bench(read(TINY), QUICK, [right, wrong])
    assert wrong.calls == len(TINY)  # once for each line, to be checked
    assert right.calls > len(TINY) * timing.ROUNDS
    for row in found.rows:
        assert set(row.wrong) == {"wrong contiguous"}
        assert set(row.measured[0].times) == {"right contiguous"}
    assert "WRONG" in told(found)
    assert "wrong contiguous is WRONG:" in told(found)


def test_a_competitor_that_fails_ends_nothing() -> None:
    def fail(_: Any) -> Any:
        raise RuntimeError("could not create a primitive\nand a stack")

    found = bench(read(TINY[:1]), QUICK, [Fake("broken", fail), Fake("right")])
    (row,) = found.rows
    assert row.refused == {"broken contiguous": "RuntimeError: could not create a primitive"}
    assert set(row.measured[0].times) == {"right contiguous"}
    assert "could not create" in told(found)


def test_a_dtype_that_nobody_has_is_a_row_too() -> None:
    (row,) = bench(read(["conv2d 1x2x5x5 o2 k3 bf16"]), QUICK).rows
    assert "no bfloat16" in row.refused["konv contiguous"]
    assert not row.measured


def test_konv_is_measured_alone_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = bench(read(TINY[:1]), replace(QUICK, peers=("konv",)))
    assert {c.library for c in found.competitors} == {"konv"}
    assert set(found.rows[0].measured[0].times) == {"konv contiguous", "konv channels-last"}
    assert "mean" not in told(found).replace("means", "")


def test_prepared_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call asks whether the weights are still those that were packed, and the report says so."""
    asked = []
    monkeypatch.setattr(Weights, "packed", lambda *_: asked.append(1))
    found = bench(read(TINY), replace(QUICK, prepared=True, peers=("konv",), cold=True))
    assert all(not row.refused and len(row.measured) == 2 for row in found.rows)
    assert not asked
    assert "prepared layers" in told(found)
    assert "prepared layers" not in told(replace(found, settings={"threads": 1, **QUIET}))


def test_batch_only_and_threads() -> None:
    wanted = Settings(budget=0.001, batch=3, only="UP", threads=1)
    found = bench(read(TINY), wanted, [Fake()])
    assert [row.line for row in found.rows] == ["tconv2d 3x4x5x5 o4 k4 s2 p1 g2"]
    assert found.settings["threads"] == 1
    with pytest.raises(ProblemError, match="leaves none of 2 lines"):
        bench(read(TINY), Settings(only="nothing"))


def test_a_report_survives_json(tmp_path: Path) -> None:
    found = bench(read(TINY), QUICK, [Fake(), Fake("wrong", nan)])
    found.write(tmp_path / "results" / "kept.json")
    kept = Report.read(tmp_path / "results" / "kept.json")
    assert kept == found
    assert told(kept) == told(found)


@pytest.mark.parametrize("written", ["[]", "{}", '{"format": 0}', '{"format": 1}', "x", '"format"'])
def test_what_is_no_report_is_refused(tmp_path: Path, written: str) -> None:
    (tmp_path / "a.json").write_text(written)
    with pytest.raises(ProblemError, match=r"a\.json"):
        Report.read(tmp_path / "a.json")


@pytest.mark.parametrize("libraries", [["konv"], ["konv", "torch"], LIBRARIES])
def test_text_fits_100_columns(root: Path, libraries: list[str]) -> None:
    problems = read([str(file) for file in sorted((root / "problems").glob("*.txt"))])
    lines = told(report(problems, libraries, cold=True)).splitlines()
    assert max(map(len, lines)) <= text.WIDTH
    assert len(lines) > 2 * len(problems)


def test_noise_is_marked_and_explained(root: Path) -> None:
    made = report(read([str(root / "problems/article.txt")]), ["konv", "torch"])
    marked = [line for line in told(made).splitlines() if line.endswith(" *")]
    noisy = [row for row in made.rows if "7x7" in row.name]
    assert len(marked) == len(noisy) > 0
    assert told(made).count("other programs took 50% of a core") == len(noisy)
    said = [text.plain(line) for line in closing(made)]
    assert any(line.split()[:3] == ["all", "2.00", "2.00"] for line in said)
    quiet = len(made.rows) - len(noisy)
    assert any(line.endswith(f"{quiet:>8}      0") and "all but" in line for line in said)
    assert not any("do not rely" in line for line in said)


def test_a_report_that_is_mostly_noise_says_so() -> None:
    made = report(read(["conv2d 1x3x9x9 o4 k3  # stem 7x7"]), ["konv", "torch"])
    assert "1 of 1 measurements are noisy: do not rely on them." in told(made)


def test_of_many_libraries_the_faster_layout_is_told(root: Path) -> None:
    """A column each, the fastest of them in bold, and how the times come about."""
    made = report(read(TINY), LIBRARIES)
    (row,) = text.row_lines(made, made.rows[1])
    assert [words.strip() for words, _ in row][:9] == [
        "up", "1.000", "1.000", "2.000", "3.000", "4.000", "5.000", "6.000", "7.000",
    ]  # fmt: skip
    assert [words.strip() for words, style in row if style == "bold"] == ["2.000"]
    said = " ".join(told(made).split())
    for heading in ("onnx open", "compil rt vino ncnn jax best", "those of the faster one"):
        assert heading in said


@pytest.mark.parametrize("libraries", [["konv"], ["konv", "torch"], LIBRARIES])
def test_the_figure_is_drawn(tmp_path: Path, libraries: list[str]) -> None:
    draw(report(read(TINY), libraries), tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "<svg" in drawn
    assert len(drawn) > 2_000
    assert ("2.00 torch" in drawn) == (len(libraries) > 2)  # which of several is the fastest


def app() -> typer.Typer:
    """The command in a group that treats errors as konv does."""
    made = typer.Typer(cls=Commands, rich_markup_mode=None)
    made.callback()(lambda: None)
    command.register(made)
    return made


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app(), ["bench", *arguments])


def test_the_command_measures_keeps_and_shows(tmp_path: Path) -> None:
    kept, figure = tmp_path / "kept.json", tmp_path / "figure.png"
    done = run(
        *TINY, "--budget", "0.001", "--peers", "torch", "--json", str(kept), "--plot", str(figure)
    )
    assert done.exit_code == 0, done.output
    assert json.loads(kept.read_text())["format"] == 1
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert run(str(kept)).output == done.output
    assert "\x1b" not in done.output  # plain in a pipe


def test_the_command_fails_if_an_answer_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = (*installed(("torch",)), Fake("wrong", one_off))
    monkeypatch.setattr("konv.bench.session.installed", lambda _: peers)
    assert run(TINY[0], "--budget", "0.001").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.txt"], "neither a file nor a convolution"),
        (["nowhere.json"], "no file nowhere.json"),
        (["conv2d 1x4x7x9"], "no token"),
        ([TINY[0], "--only", "depthwise", "--peers", "konv"], "leaves none"),
        ([TINY[0], "--peers", "torch,cudnn"], "'cudnn' is no peer. Choose from konv, torch,"),
        ([], "Nothing to measure"),
    ],
)
def test_errors_of_the_command_teach(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_run_py_is_the_same_command(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / "bench" / "run.py"), "--help"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "konv bench" in done.stdout
    assert "--budget" in done.stdout
