"""konv tune: what it prints, keeps and forgets."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from konv import dispatch, llvm
from konv.bench import timing, tuning
from konv.bench.noise import Times
from konv.geometry import Conv
from konv.runtime import tuned
from konv.runtime.choose import choose, modelled, precision

LINE = "conv2d 1x32x12x12 o32 k3 p1"
SMALL = ("--budget", "0.01", "--layout", "contiguous")
HOW = llvm.detect(), True, True


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KONV_CACHE_DIR", str(tmp_path / "cache"))
    tuned.renew()
    yield tmp_path / "cache"
    tuned.renew()
    dispatch.forget()


@pytest.fixture
def planar_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up times: planar takes 40 us, everything else a millisecond."""

    def alternate(runs: dict[str, object], *_: object) -> dict[str, Times]:
        each = {name: 4e-5 if "planar" in name else 1e-3 for name in runs}
        return {name: Times(s, 0.99 * s, 1.01 * s, s, 9) for name, s in each.items()}

    monkeypatch.setattr(timing, "alternate", alternate)
    monkeypatch.setattr(timing, "noise_of", lambda *_: ())


def changed() -> int:
    """How often the model would not have chosen planar: fast, and exact."""
    fast = modelled(Conv.parse(LINE), *HOW)
    with precision("exact"):
        exact = modelled(Conv.parse(LINE), *HOW)
    return [plan.algorithm != "planar" for plan in (fast, exact)].count(True)


@pytest.mark.usefixtures("planar_wins")
def test_from_tuning_to_forgetting(konv, folder: Path) -> None:
    result = konv("tune", LINE, *SMALL)
    assert result.exit_code == 0, result.output
    text = result.stdout
    row = r"^  contiguous +winograd \d+x\d +1 +planar \d+x\d +0\.0400 +25\.00 x$"
    assert re.search(row, text, re.MULTILINE), text
    assert f"{changed()} of 2 choices are other than the model's." in text
    assert "may differ in the last bits" in text
    assert f"Kept in {folder}; konv tune --forget undoes it." in text
    assert max(map(len, text.replace(str(folder), "").splitlines())) <= 80
    assert choose(Conv.parse(LINE), *HOW).algorithm == "planar"

    explained = konv("explain", LINE).stdout
    assert re.search(r"algorithm +planar \(tuned\) +winograd\n", explained)
    plans = json.loads(konv("explain", LINE, "--json").stdout)["plans"]
    assert (plans["contiguous"]["tuned"], plans["channels_last"]["tuned"]) == (True, False)
    shown = konv("cache", "show").stdout
    assert re.search(rf"tuned +{changed()}: choice", shown)
    assert "tuned conv2d 1x32x32x32 o32 k3 p1, contiguous: planar" in shown
    assert max(map(len, shown.replace(str(folder), "").splitlines())) <= 80
    doctor = json.loads(konv("doctor", "--no-time", "--json").stdout)["cache"]
    assert doctor["tuned"] == changed()

    choices = "choice" if changed() == 1 else "choices"
    assert konv("tune", "--forget").stdout == f"{changed()} {choices} forgotten.\n"
    assert choose(Conv.parse(LINE), *HOW) == modelled(Conv.parse(LINE), *HOW)
    assert "tuned" not in konv("explain", LINE).stdout
    assert konv("tune", "--forget").stdout == "0 choices forgotten.\n"


@pytest.mark.usefixtures("planar_wins")
def test_nothing_that_wins(konv) -> None:
    """All plans of planar take as long, so the model's own stays."""
    line = "conv2d 1x3x40x40 o8 k3 p1"
    text = konv("tune", line, *SMALL).stdout
    assert re.search(r"^  contiguous +planar \S+ +0\.0400  as chosen$", text, re.MULTILINE)
    assert "0 of 1 choices are other than the model's." in text
    assert "Kept" not in text


def test_forget_first_then_measure(konv, tmp_path: Path) -> None:
    """A file of lines, both layouts; really measured."""
    tuned.remember("old", HOW[0], "a plan", "in words")
    (tmp_path / "two.txt").write_text("conv1d 1x8x30 o8 k3\nconv2d 1x8x9x9 o8 k1  # mine\n")
    text = konv("tune", "two.txt", "--forget", "--budget", "0.01").stdout
    assert text.startswith("1 choice forgotten.\nlayer  ")
    assert "\nmine\n" in text
    assert "\nconv1d 1x8x30 o8 k3\n" in text
    assert text.count("\n  contiguous ") >= 2
    assert text.count("\n  channels-last ") >= 2
    assert max(map(len, text.splitlines())) <= 80 or "Kept in" in text


def test_json(konv) -> None:
    result = konv("tune", LINE, *SMALL, "--json")
    (one,) = json.loads(result.stdout)
    assert (one["layers"], one["layout"], one["wrong"], one["refused"]) == (
        [LINE], "contiguous", {}, None,
    )  # fmt: skip
    decision = one["decisions"]["fast"]
    assert decision["model"] == repr(modelled(Conv.parse(LINE), *HOW))
    assert decision["changed"] == (decision["plan"] != decision["model"])
    assert {each["plan"] for each in one["seconds"]} >= {decision["plan"], decision["model"]}


def test_a_wrong_plan_is_told_and_fails(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning._Call, "run", lambda _: None)
    result = konv("tune", LINE, *SMALL)
    assert result.exit_code == 1
    assert "the model's own choice is wrong" in result.stdout
    assert "WRONG: winograd" in result.stdout


def test_said_if_it_will_not_be_used(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONV_TUNED", "0")
    assert "KONV_TUNED is off" in konv("tune", LINE, *SMALL).stdout


@pytest.mark.usefixtures("planar_wins")
def test_said_if_it_is_not_kept(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONV_CACHE_DIR", "off")
    assert "They could not be kept" in konv("tune", LINE, *SMALL).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Nothing to tune: no layer is given."),
        ("'conv2d 1x4x9x9 o4 k3' --layout NHWC", "layout='NHWC' is unknown. Use contiguous, "),
        ("'conv2d 1x4x9x9 o4 k3' --budget 0", "seconds=0.0 must be more than 0."),
        ("nonsense", "'nonsense' is neither a file nor a convolution."),
    ],
)
def test_errors(konv, folder: Path, words: str, message: str) -> None:
    result = konv("tune", *shlex.split(words))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not folder.exists()


@pytest.mark.usefixtures("planar_wins")
def test_help_ends_with_examples_that_run(konv, root: Path, tmp_path: Path) -> None:
    result = konv("tune", "--help")
    assert max(map(len, result.stdout.splitlines())) <= 82
    assert "last bits" in result.stdout
    examples = re.findall(r"^ +konv (.+)$", result.stdout.partition("Examples:")[2], re.MULTILINE)
    assert len(examples) == 4
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "resnet50.txt").write_text("conv2d 1x8x9x9 o8 k1\n")
    for example in examples:
        run = konv(*shlex.split(example))
        assert run.exit_code == 0, f"{example}: {run.output}"
