"""What tuning has found: used where it holds, and nothing but a miss where it does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runtime.caching import NOBODY, child, files, printed

import konv
from konv import dispatch, llvm, log
from konv.geometry import Conv
from konv.kernels import by_name
from konv.plan import Plan
from konv.runtime import fingerprint, sealed, store, tuned
from konv.runtime.choose import (
    choices,
    choose,
    found,
    layer_text,
    modelled,
    offered,
    pin,
    precision,
)
from konv.runtime.typical import typical

LAYER = Conv.parse("conv2d 1x32x24x24 o32 k3 p1")
HERE = llvm.detect()
HOW = HERE, True, True


@pytest.fixture(autouse=True)
def afresh(place: Path) -> Iterator[None]:
    """A cache for each test, and nothing in memory that would hide it."""
    tuned.renew()
    yield
    tuned.renew()
    dispatch.forget()


def other_plan(exact: bool = False) -> Plan:
    """One that the model would not choose."""
    model = modelled(LAYER, *HOW)
    every = (plan for plan in offered(LAYER, *HOW) if by_name(plan.algorithm).exact == exact)
    return next(plan for plan in every if plan != model)


def remember(plan: Plan, conv: Conv = LAYER) -> Path:
    """Remember it, and forget that this process knows."""
    assert tuned.remember(layer_text(conv, True, True), HERE, repr(plan), "tuned, in words")
    tuned.renew()
    (path,) = (p for p in store.folder().iterdir() if p.suffix == ".tuned")  # type: ignore[union-attr]
    return path


def test_what_was_found_is_chosen() -> None:
    """At every size of its class and any batch; elsewhere the model's choice stays."""
    plan, model = other_plan(), modelled(LAYER, *HOW)
    small = LAYER.with_size(5, 5)
    elsewhere = choose(LAYER, HERE, False, False), choose(small, *HOW)
    remember(plan)
    for conv in (LAYER, LAYER.with_size(40, 91), LAYER.with_batch(7)):
        assert choose(conv, *HOW) == found(conv, *HOW) == plan != model == modelled(conv, *HOW)
    assert (choose(LAYER, HERE, False, False), choose(small, *HOW)) == elsewhere
    tiny, thin = (choose(LAYER.with_size(*size), *HOW) for size in ((2, 2), (1, 90)))
    assert set(choices(LAYER, *HOW)) == {plan, elsewhere[1], tiny, thin}
    assert found(small, *HOW) is None
    for other in (replace(LAYER, co=48), replace(LAYER, dtype="float64")):
        assert found(other, *HOW) is None


def test_plan_pins_still() -> None:
    remember(other_plan())
    assert pin("direct", LAYER, *HOW).algorithm == "direct"


def test_a_call_computes_by_it() -> None:
    """The right numbers, by the plan found."""
    plan = other_plan()
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s, np.float32) for s in (LAYER.in_shape, LAYER.weight_shape))
    before = konv.conv2d(x, w, padding=1)
    remember(plan)
    dispatch.forget()
    after = konv.conv2d(x, w, padding=1)
    (layer,) = dispatch._layers.values()
    assert layer.request.call.plan == plan
    assert np.allclose(after, before, rtol=0, atol=1e-3)


def test_exact_forbids_what_is_not() -> None:
    """Also where a file says otherwise."""
    rough = other_plan(exact=False)
    remember(rough)
    assert choose(LAYER, *HOW) == rough
    with precision("exact"):
        tuned.remember(layer_text(LAYER, True, True), HERE, repr(rough), "")
        assert found(LAYER, *HOW) is None
        assert by_name(choose(LAYER, *HOW).algorithm).exact
    assert choose(LAYER, *HOW) == rough


@pytest.mark.parametrize("value", ["0", "off", "OFF", ""])
def test_the_environment_leaves_it_aside(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(other_plan())
    monkeypatch.setenv("KONV_TUNED", value)
    assert tuned.ignored()
    assert choose(LAYER, *HOW) == modelled(LAYER, *HOW)
    monkeypatch.setenv("KONV_TUNED", "1")
    assert choose(LAYER, *HOW) == other_plan()


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "another key", "a link", "a folder"])
def test_a_broken_file_is_a_miss(how: str, tmp_path: Path) -> None:
    path = remember(other_plan())
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[:-1])
    elif how == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "another key":
        sealed.write(path.with_name("a" * 64 + ".tuned"), b"x", "")
        path.with_name("a" * 64 + ".tuned").replace(path)
    elif how == "a link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
        path.mkdir()
    assert choose(LAYER, *HOW) == modelled(LAYER, *HOW)
    if how != "a folder":
        assert remember(other_plan()) == path  # and it heals
        assert choose(LAYER, *HOW) == other_plan()


@pytest.mark.parametrize("whose", ["file", "folder"])
@pytest.mark.parametrize("fault", ["writable by others", "of another user"])
def test_what_others_could_have_written(
    whose: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = remember(other_plan())
    path = path if whose == "file" else path.parent
    if fault == "writable by others":
        path.chmod(path.stat().st_mode | 0o022)
    elif os.getuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    else:
        monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    assert choose(LAYER, *HOW) == modelled(LAYER, *HOW)


@pytest.mark.parametrize("text", [b"Plan('direct')", b"", b"\xff\xfe", b"import os", b"direct"])
def test_only_a_plan_on_offer_counts(text: bytes) -> None:
    """Whatever a sealed file says, nothing runs but what an algorithm offers for the layer."""
    path = remember(other_plan())
    sealed.write(path, text, "")
    assert choose(LAYER, *HOW) == modelled(LAYER, *HOW)


@pytest.mark.parametrize("change", ["cpu", "features", "sources", "versions"])
def test_it_holds_for_one_machine_and_version(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernels of the cache do."""
    target = HERE
    remember(other_plan())
    if change == "cpu":
        target = replace(HERE, cpu="another")
    elif change == "features":
        target = replace(HERE, features=HERE.features[1:])
    elif change == "sources":
        monkeypatch.setattr(fingerprint, "emitters", lambda: "edited")
    else:
        monkeypatch.setattr("konv.llvm.host.versions", lambda: "LLVM 99")
    assert found(LAYER, target, True, True) is None
    tuned.renew()
    monkeypatch.undo()


def test_a_process_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder once, a file once: what others find meanwhile changes no plan under way."""
    path = remember(other_plan())
    assert choose(LAYER, *HOW) == other_plan()
    with monkeypatch.context() as patch:
        patch.setattr(store, "names", None)
        patch.setattr(store, "fetch", None)
        path.unlink()
        assert choose(LAYER, *HOW) == other_plan()
        assert choose(LAYER.with_size(40, 40), *HOW) == other_plan()
    tuned.renew()
    assert choose(LAYER, *HOW) == modelled(LAYER, *HOW)


def test_without_findings_no_key_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "key", None)
    assert choose(LAYER, *HOW) == modelled(LAYER, *HOW)


def test_forgetting() -> None:
    plan, text = other_plan(), layer_text(LAYER, True, True)
    tuned.remember(text, HERE, repr(plan), "one")
    tuned.remember(layer_text(LAYER, False, False), HERE, "another", "two")
    store.keep("c" * 64, b"code", "a kernel")
    assert [entry.what for entry in tuned.entries()] in (["one", "two"], ["two", "one"])
    tuned.forget(text, HERE)
    assert choose(LAYER, *HOW) == modelled(LAYER, *HOW)
    assert [entry.what for entry in tuned.entries()] == ["two"]
    tuned.remember(text, HERE, repr(plan), "one")
    assert choose(LAYER, *HOW) == plan
    assert tuned.forget_all() == 2
    assert choose(LAYER, *HOW) == modelled(LAYER, *HOW)
    assert [entry.what for entry in store.entries()] == ["a kernel"]


def test_the_cache_counts_and_clears_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = remember(other_plan())
    assert store.size() == path.stat().st_size
    store.keep("c" * 64, bytes(2000), "a kernel")
    os.utime(path, (1, 1))
    monkeypatch.setenv("KONV_CACHE_BYTES", "2500")
    store.keep("d" * 64, bytes(100), "another")
    assert files(place) == {"c" * 64 + ".konv", "d" * 64 + ".konv"}, "the oldest makes room"
    monkeypatch.delenv("KONV_CACHE_BYTES")
    remember(other_plan())
    assert store.clear() == 3
    assert not files(place)


def test_without_a_cache_it_lasts_as_long_as_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONV_CACHE_DIR", "off")
    plan = other_plan()
    assert not tuned.remember(layer_text(LAYER, True, True), HERE, repr(plan), "")
    assert choose(LAYER, *HOW) == plan
    tuned.renew()
    assert choose(LAYER, *HOW) == modelled(LAYER, *HOW)


def test_the_log_says_why(said: Callable[[], str]) -> None:
    path = remember(other_plan())
    path.write_bytes(b"damaged")
    choose(LAYER, *HOW)
    assert str(path) in said()
    assert log.verbose


TUNER = """
import sys
from konv import llvm
from konv.runtime import tuned
here = llvm.detect()
print("ready", flush=True)
sys.stdin.readline()
for turn in range(30):
    for layer in {layers!r}:
        assert tuned.remember(layer, here, {plan!r} * 50, {plan!r})
"""


def test_two_processes_tune_at_once(place: Path) -> None:
    """Both survive: what only one has found is there, and of what both have found one's, whole."""
    codes = {"x": ["both", "only x"], "y": ["both", "only y"]}
    tuners = [child(TUNER.format(layers=layers, plan=plan)) for plan, layers in codes.items()]
    for tuner in tuners:
        assert tuner.stdout
        assert tuner.stdout.readline() == "ready\n"
    for tuner in tuners:
        assert tuner.stdin
        tuner.stdin.write("go\n")
        tuner.stdin.flush()
    seen = set()
    while any(tuner.poll() is None for tuner in tuners):
        tuned.renew()
        seen.add(tuned.find("both", HERE))
    assert [printed(tuner) for tuner in tuners] == ["", ""]
    tuned.renew()
    assert seen <= {"", "x" * 50, "y" * 50}
    assert tuned.find("both", HERE) in {"x" * 50, "y" * 50}
    assert tuned.find("only x", HERE) == "x" * 50
    assert tuned.find("only y", HERE) == "y" * 50
    assert len(files(place)) == 3


def test_importing_chooses_nothing() -> None:
    """A process looks into the folder when it first chooses, not before."""
    code = "import konv.runtime.choose; from konv.runtime import tuned; print(tuned._listed)"
    assert printed(child(code)) == "{}\n"


def test_all_offers_are_candidates() -> None:
    """Of each algorithm that takes the layer, every plan."""
    layer = typical(LAYER)
    for name in ("winograd", "direct", "planar"):
        plans = by_name(name).plans(layer, *HOW)
        assert len(plans) > 1
        assert set(plans) <= set(offered(LAYER, *HOW))
