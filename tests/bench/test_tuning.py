"""konv.tune: all plans measured, what wins by more than noise remembered. Times are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import konv
from konv import dispatch, llvm
from konv.bench import timing, tuning
from konv.bench.noise import Times
from konv.bench.tuning import GAIN, decide, tune
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.plan import Plan
from konv.runtime import tuned
from konv.runtime.choose import choose, modelled, offered, precision

LINE = "conv2d 1x32x12x12 o32 k3 p1"
LAYER = Conv.parse(LINE)
HOW = llvm.detect(), True, True
MODEL = modelled(LAYER, *HOW)
SECONDS = 1e-3  # of the model's choice, where times are made up


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, nothing found yet."""
    monkeypatch.setenv("KONV_CACHE_DIR", str(tmp_path / "cache"))
    tuned.renew()
    yield tmp_path / "cache"
    tuned.renew()
    dispatch.forget()


def took(seconds: float, spread: float = 0.01) -> Times:
    return Times(seconds, seconds * (1 - spread), seconds * (1 + spread), seconds / 2, 9)


Clocked = Callable[[Mapping[Plan, float]], list[list[str]]]


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    """Say how long plans take, all others twice SECONDS; returns the plans of each measurement."""

    def say(seconds: Mapping[Plan, float]) -> list[list[str]]:
        asked: list[list[str]] = []
        known = {str(plan): value for plan, value in seconds.items()}

        def alternate(runs: Mapping[str, Any], *_: object) -> dict[str, Times]:
            asked.append([name.partition(" ")[2] for name in runs])
            every = {name: known.get(name.partition(" ")[2], 2 * SECONDS) for name in runs}
            return {name: took(value) for name, value in every.items()}

        monkeypatch.setattr(timing, "alternate", alternate)
        monkeypatch.setattr(timing, "noise_of", lambda *_: ())
        return asked

    return say


def plan_of(name: str) -> Plan:
    return next(plan for plan in offered(LAYER, *HOW) if plan.algorithm == name)


def contiguous(found: list[tuning.Tuned]) -> tuning.Tuned:
    (one,) = (one for one in found if one.layout == "contiguous")
    return one


def test_the_winner_is_remembered_and_used(clocked: Clocked, place: Path) -> None:
    """In this process at once, and by one that starts afterwards; in its layout only."""
    assert MODEL.algorithm != "planar"
    asked = clocked({MODEL: SECONDS, plan_of("planar"): SECONDS / 1.5})
    x, w = np.ones(LAYER.in_shape, "float32"), np.ones(LAYER.weight_shape, "float32")
    konv.conv2d(x, w, padding=1)
    heard: list[tuning.Tuned] = []
    found = contiguous(tune(LINE, layouts=["contiguous"], seconds=0.01, heard=heard.append))
    assert heard == [found]
    assert (found.names, found.refused, found.wrong, found.stored) == ((LINE,), "", {}, True)
    decision = found.decisions["fast"]
    assert (decision.model, decision.plan, decision.changed) == (MODEL, plan_of("planar"), True)
    assert decision.gain == pytest.approx(1.5)
    assert len(asked[0]) == len(offered(LAYER, *HOW)) == len(found.seconds)
    konv.conv2d(x, w, padding=1)
    (layer,) = dispatch._layers.values()
    assert layer.request.call.plan == plan_of("planar")
    tuned.renew()
    assert choose(LAYER, *HOW) == plan_of("planar")
    assert choose(LAYER, HOW[0], False, False) == modelled(LAYER, HOW[0], False, False)
    (entry, *_) = tuned.entries()
    assert "planar" in entry.what
    assert "conv2d 1x32x32x32 o32 k3 p1" in entry.what


def test_transforms_of_all_lengths_are_one_plan(clocked: Clocked) -> None:
    """That of a layer's large images stands for them: each size has its own, found or not."""
    lines = ["conv2d 1x16x30x30 o16 k31 p15 g16", "conv2d 1x16x56x56 o16 k31 p15 g16"]
    layers = [Conv.parse(line) for line in lines]
    model = modelled(layers[0], *HOW)
    assert model.algorithm == "fourier"
    slow = next(plan for plan in offered(layers[0], *HOW) if plan.algorithm == "pencils")
    clocked({model: SECONDS, slow: SECONDS / 1.5})
    (found,) = tune(lines, layouts=["contiguous"], seconds=0.01)
    assert (found.refused, found.wrong) == ("", {})
    assert [choose(layer, *HOW).algorithm for layer in layers] == ["pencils", "pencils"]
    clocked({model: SECONDS / 1.5, slow: SECONDS})
    tune(lines, layouts=["contiguous"], seconds=0.01)
    chosen = [choose(layer, *HOW) for layer in layers]
    assert {plan.algorithm for plan in chosen} == {"fourier"}
    assert chosen[0].form != chosen[1].form


def test_what_is_far_behind_is_measured_once(clocked: Clocked) -> None:
    """The model's choices, fast and exact, and what is near the fastest get the rest of time."""
    near = plan_of("planar")
    asked = clocked({MODEL: SECONDS, near: 1.2 * SECONDS})
    tune(LINE, layouts=["contiguous"], seconds=0.01)
    with precision("exact"):
        exact = modelled(LAYER, *HOW)
    assert set(asked[1]) == {str(MODEL), str(near), str(exact)}


def test_less_than_noise_changes_nothing(clocked: Clocked, place: Path) -> None:
    clocked({MODEL: SECONDS, plan_of("planar"): SECONDS / (GAIN - 0.01)})
    found = contiguous(tune(LAYER, layouts=["contiguous"], seconds=0.01))
    assert not found.decisions["fast"].changed
    assert found.decisions["fast"].gain == 1
    assert choose(LAYER, *HOW) == MODEL


def test_tuning_again_takes_it_back(clocked: Clocked) -> None:
    clocked({MODEL: SECONDS, plan_of("planar"): SECONDS / 2})
    tune(LINE, seconds=0.01)
    assert choose(LAYER, *HOW) == plan_of("planar")
    clocked({MODEL: SECONDS})
    tune(LINE, seconds=0.01)
    assert choose(LAYER, *HOW) == MODEL
    tuned.renew()
    assert choose(LAYER, *HOW) == MODEL


def test_exact_has_a_decision_of_its_own(clocked: Clocked) -> None:
    """The fastest may not be exact; for those who want it exact another is found."""
    rough, exact = plan_of("winograd"), plan_of("planar")
    clocked({rough: SECONDS / 4, exact: SECONDS / 2, direct_plan(): SECONDS})
    found = contiguous(tune(LINE, layouts=["contiguous"], seconds=0.01))
    assert found.decisions["fast"].plan == rough
    assert found.decisions["exact"].plan == exact
    with precision("exact"):
        assert choose(LAYER, *HOW) == exact
    assert choose(LAYER, *HOW) == rough


def direct_plan() -> Plan:
    return plan_of("direct")


@pytest.mark.parametrize(
    ("new", "old", "changed"),
    [
        (took(1.0), took(1.2), True),
        (took(1.0), took(1.04), False),  # less than 5 %
        (took(1.0, 0.2), took(1.1), False),  # its slow quarter reaches the other's quick one
        (took(1.0), took(0.5), False),
    ],
)
def test_decide(new: Times, old: Times, changed: bool) -> None:
    model, other = MODEL, plan_of("planar")
    found = decide(model, [model, other], {model: old, other: new})
    assert found.changed == changed
    assert found.plan == (other if changed else model)
    assert found.model_seconds == old.median


def test_lines_that_choose_alike_are_one_layer(clocked: Clocked) -> None:
    """They differ in batch or size; small images are another layer."""
    clocked({})
    lines = [LINE, LINE.replace("12x12", "30x17"), LINE.replace("1x32", "3x32"), LINE]
    found = tune([*lines, LINE.replace("12x12", "5x5")], layouts=["contiguous"], seconds=0.01)
    assert [len(one.names) for one in found] == [3, 1]


def test_really_measured() -> None:
    """On this machine's clock, in both layouts: seconds of every plan, and a choice among them."""
    for one in tune("conv1d 2x8x30 o8 k3 p1", seconds=0.01):
        assert all(0 < seconds < 1 for seconds in one.seconds.values())
        for decision in one.decisions.values():
            assert decision.seconds == one.seconds[decision.plan]
            assert decision.model_seconds == one.seconds[decision.model]


def test_a_wrong_plan_never_wins(clocked: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it measured."""
    with precision("exact"):
        exact = modelled(LAYER, *HOW)
    others = (plan for plan in offered(LAYER, *HOW) if plan.algorithm != MODEL.algorithm)
    spoilt = next(plan for plan in others if plan != exact)
    asked = clocked({MODEL: SECONDS, spoilt: SECONDS / 9})
    spoil(monkeypatch, spoilt)
    found = contiguous(tune(LINE, layouts=["contiguous"], seconds=0.01))
    assert found.wrong.keys() == {spoilt}
    assert "off by nan" in found.wrong[spoilt]
    assert str(spoilt) not in asked[0]
    assert choose(LAYER, *HOW) == MODEL


def test_a_wrong_choice_of_the_model_is_told(
    clocked: Clocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocked({})
    spoil(monkeypatch, MODEL)
    found = contiguous(tune(LINE, layouts=["contiguous"], seconds=0.01))
    assert (found.refused, found.decisions) == ("the model's own choice is wrong", {})


def spoil(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    """Calls of this plan leave their output as it is."""
    run = tuning._Call.run

    def spoilt(call: tuning._Call) -> None:
        if call.call.plan != plan:
            run(call)

    monkeypatch.setattr(tuning._Call, "run", spoilt)


def test_what_cannot_be_measured_is_told() -> None:
    found = tune("conv2d 1x4x9x9 o4 k3 bf16", layouts=["contiguous"], seconds=0.01)
    assert "NumPy has no bfloat16" in found[0].refused
    assert not found[0].decisions


def test_without_a_cache_it_is_not_stored(
    clocked: Clocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONV_CACHE_DIR", "off")
    clocked({MODEL: SECONDS, plan_of("planar"): SECONDS / 2})
    assert not contiguous(tune(LINE, seconds=0.01)).stored
    assert choose(LAYER, *HOW) == plan_of("planar")


@pytest.mark.parametrize(
    ("layers", "keywords", "message"),
    [
        ([], {}, "Nothing to tune: no layer is given. Use 'conv2d 1x64x56x56 o64 k3 p1'."),
        (LINE, {"layouts": ["NHWC"]}, "must be some of ['contiguous', 'channels-last']"),
        (LINE, {"layouts": "contiguous"}, "layouts='contiguous' must be some of"),
        (LINE, {"seconds": 0}, "seconds=0 must be more than 0. Use 1.0, say."),
        (LINE, {"seconds": float("nan")}, "seconds=nan must be more than 0."),
        ("nowhere.txt", {}, "'nowhere.txt' is neither a file nor a convolution."),
    ],
)
def test_errors(layers: Any, keywords: Any, message: str, place: Path) -> None:
    with pytest.raises(ProblemError) as error:
        tune(layers, **keywords)
    assert message in str(error.value)
    assert not place.exists()
