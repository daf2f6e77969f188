"""bench/run_networks.py: figures of networks that agree, kept and shown again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import run_networks
from networks import NETWORKS, inference
from torch import nn

SMALL = {
    name: replace(
        network, build=network.small, shape=network.small_shape, training=network.small_shape
    )
    for name, network in NETWORKS.items()
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (run_networks,):
        monkeypatch.setattr(module, "NETWORKS", SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_a_run_is_printed_kept_and_shown(
    training: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.json"
    more = ["--training"] if training else ["--layers"]
    for name in ("dcgan_generator", "unet"):
        run_networks.main([name, "--budget", "0.01", "--json", str(path), *more])
    printed = capsys.readouterr().out
    assert "geometric mean of 2 networks" in printed
    assert printed.count("of the convolutions' time left to PyTorch") == 2
    assert ("of 5 convolutions by konv" in printed) != training
    found = json.loads(path.read_text("utf-8"))
    assert [row["name"] for row in found["rows"]] == ["dcgan_generator", "unet"]
    for row in found["rows"]:
        assert set(row["times"]) == {"torch contiguous", "torch channels-last", "konv"}
        assert not row["wrong"]
        assert 0 <= row["left"] <= 1
    run_networks.main([str(path)])
    shown = capsys.readouterr().out
    assert "geometric mean of 2 networks" in shown
    assert all(row["name"] in shown for row in found["rows"])


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_networks.main(["vgg"])
    assert "vgg is none of resnet50" in capsys.readouterr().err


def test_who_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that returns something else is named, with how far off it is."""

    def doubled(model: nn.Module, x: object) -> inference.Run:
        return lambda: 2 * inference._quietly(model, x)()  # type: ignore[arg-type]

    monkeypatch.setattr(inference, "_compiled", doubled)
    runs, wrong, _ = inference.runs(SMALL["dcgan_generator"], ("compiled",))
    assert "compiled" not in runs
    assert wrong["compiled"].startswith("off by 1.0e+00")
