"""The parts of the benchmark: turns and noise, cold arrays, right answers, ratios."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench.fakes import Fake, FakeClock, one_off, report, times

from konv.bench import ratios, read, timing
from konv.bench.answers import answers
from konv.bench.noise import Times, noise_of, seconds_of_others
from konv.bench.peers import LAYOUTS
from konv.bench.peers.torch import Torch
from konv.bench.results import Competitor, Measured
from konv.bench.working import COLD, Rotation, draw, rotating, sweeper
from konv.geometry import Conv, read_problems
from konv.reference import im2col
from konv.rounding import tolerance

ROOT = Path(__file__).resolve().parents[2]
SHAPES = read_problems((ROOT / "problems/shapes.txt").read_text())
ARTICLE = read_problems((ROOT / "problems/article.txt").read_text())


def quiet() -> float:
    return 0.0


def test_turns_alternate_and_the_first_calls_of_each_do_not_count() -> None:
    clock, order = FakeClock(), []

    def competitor(name: str) -> object:
        run = clock.run([1e-3])
        return lambda: (order.append(name), run())

    runs = {name: competitor(name) for name in "ab"}
    found = timing.alternate(runs, 0.1, clock=clock)
    assert all(each.median == pytest.approx(1e-3) for each in found.values())
    turns = "".join(order)[2 * 3 :]  # behind the three calls of each that find the pace
    assert turns.startswith("aaaaaabbbbbb" + "bbbbbbaaaaaa" + "aaaaaabbbbbb")
    assert found["a"].calls * 6 == turns.count("a") * 4
    assert clock.now >= 0.1


def test_long_calls_get_five_rounds_and_no_more() -> None:
    clock = FakeClock()
    found = timing.alternate({"a": clock.run([0.5])}, 0.1, clock=clock)
    assert found["a"].calls == timing.ROUNDS
    assert clock.now == pytest.approx(0.5 * (3 + timing.ROUNDS))


def test_a_turn_ends_early_when_calls_have_become_long() -> None:
    clock = FakeClock()
    found = timing.alternate({"a": clock.run([1e-5] * 3 + [16e-3] * 10_000)}, 0.01, clock=clock)
    assert found["a"].calls <= 3 * timing.ROUNDS


def test_a_quiet_line_is_measured_once() -> None:
    clock = FakeClock()
    runs = {"a": clock.run([1e-3]), "b": clock.run([1.01e-3, 1.02e-3, 1.03e-3])}
    found = timing.measure(runs, 0.05, 2, clock=clock, others=quiet)
    assert (found.attempts, found.noise) == (1, ())


def test_a_noisy_line_is_measured_four_times_and_told() -> None:
    clock = FakeClock()
    runs = {"a": clock.run([1e-3]), "b": clock.run([1e-3, 1.5e-3])}
    found = timing.measure(runs, 0.05, 2, clock=clock, others=quiet)
    assert found.attempts == 1 + timing.AGAIN == 4
    assert set(found.times) == {"a", "b"}  # never dropped
    (said,) = found.noise
    assert said.startswith("b: quartiles")


def test_noise_that_passes_is_forgotten() -> None:
    clock = FakeClock()
    run = clock.run([1e-3, 2e-3] * 50 + [1e-3] * 1_000_000)
    found = timing.measure({"a": run}, 0.05, 2, clock=clock, others=quiet)
    assert found.noise == ()
    assert 1 < found.attempts <= 4
    assert found.times["a"].median == pytest.approx(1e-3)


def test_two_programs_at_once_are_noise_though_every_call_takes_as_long() -> None:
    """OpenMP threads that spin on one core: 16.0 ms flat. Only the other program gives it away."""
    clock = FakeClock()
    runs = {"a": clock.run([16e-3])}
    found = timing.measure(runs, 0.3, 10_000, clock=clock, others=lambda: 0.9 * clock.now)
    assert found.times["a"].spread == 0
    assert found.noise == ("other programs took 90% of a core",)


def test_a_median_far_above_the_fastest_call_is_noise() -> None:
    stalled = {"a": Times(16e-3, 15.9e-3, 16.1e-3, 0.5e-3, 50)}
    assert noise_of(stalled, 1.0, 0.0, 2) == ("a: median 32.0 times the fastest call",)
    assert noise_of({"a": times(1e-3)}, 1.0, 0.0, 2) == ()


def test_what_other_programs_take_is_read_from_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("konv.bench.noise._cores", lambda: {0, 2})
    monkeypatch.setattr("konv.bench.noise.process_time", lambda: 0.5)
    monkeypatch.setattr("konv.bench.noise.os.sysconf", lambda _: 100)
    stat = tmp_path / "stat"
    row = "100 1 20 9999 9999 3 4 5 0 0"  # user nice system idle iowait irq softirq steal guests
    stat.write_text(f"cpu  0 0\ncpu0 {row}\ncpu1 {row}\ncpu2 {row}\nintr 5\n")
    assert seconds_of_others(stat) == pytest.approx(2 * 1.33 - 0.5)
    assert seconds_of_others(tmp_path / "missing") == 0


@pytest.mark.parametrize(("name", "conv"), [*ARTICLE, *SHAPES], ids=lambda v: str(v))
def test_cold_lines_go_round_over_64_megabytes(name: str, conv: Conv) -> None:
    """Computed, not allocated."""
    rotation = Rotation.of(conv)
    if rotation.swept:
        walked = sweeper(rotation)
        assert walked
        assert walked.__self__.base.nbytes >= COLD  # type: ignore[attr-defined]
        assert conv.bytes * 512 < COLD
    else:
        assert rotation.sets >= 2
        assert rotation.bytes == rotation.sets * conv.bytes >= COLD == 64 * 2**20


def test_each_set_is_used_in_turn_and_is_memory_of_its_own() -> None:
    conv, fake = Conv.parse("conv2d 1x2x5x5 o2 k3"), Fake()
    run = rotating(fake, conv, Rotation(3, 3 * conv.bytes, swept=False))
    for _ in range(7):
        run()
    addresses = [x.ctypes.data for x in fake.inputs]
    assert len(set(addresses)) == 3
    assert addresses == (addresses[:3] * 3)[:7]


def test_numbers_are_normal_and_none_is_denormal() -> None:
    x = draw(Conv.parse("conv2d 1x16x32x32 o8 k3")).x
    assert x.dtype == np.float32
    assert abs(float(x.mean())) < 0.05
    assert 0.95 < float(x.std()) < 1.05
    assert float(np.abs(x).min()) > 1e-30


@pytest.mark.parametrize("line", [line for line, conv in SHAPES if conv.n], ids=str)
def test_places_are_what_the_whole_reference_says_there(line: str) -> None:
    conv = Conv.parse(line)
    arrays = draw(conv)
    right = answers(conv, arrays, entries=1)
    if right.places is None:
        pytest.fail("the line was to be checked at places")
    image, *position = right.places
    whole = np.moveaxis(im2col(conv, *arrays), 1, -1)[(image, *position)]
    allowed = np.moveaxis(tolerance(conv, *arrays), 1, -1)[(image, *position)]
    assert (np.abs(right.right - whole) <= allowed).all()
    assert right.why_wrong(im2col(conv, *arrays)) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("line", [line for line, _ in SHAPES], ids=str)
def test_pytorch_is_asked_for_the_same_convolution(line: str, layout: str) -> None:
    conv = Conv.parse(line)
    peer, arrays = Torch(layout), draw(conv)
    if peer.why_not(conv):
        assert conv.dims == 1 or (conv.transposed and ("k3 s2" in line or conv.mode != "zeros"))
        return
    assert answers(conv, arrays).why_wrong(peer.prepare(conv, *arrays)()) is None


def test_one_wrong_output_among_all_is_found() -> None:
    """Though it is at none of the places: PyTorch in float64 knows all of them."""
    conv = Conv.parse("conv2d 1x4x40x40 o4 k3 p1")
    arrays = draw(conv)
    right = answers(conv, arrays, entries=1)
    y = Torch("contiguous").prepare(conv, *arrays)().numpy()
    assert right.why_wrong(y) is None
    assert "off by 0.001" in (right.why_wrong(one_off(y)) or "")
    assert "all, PyTorch in float64" in right.said


def test_ratios() -> None:
    medians = {
        "konv contiguous": 2.0,
        "konv channels-last": 1.0,
        "torch contiguous": 3.0,
        "ort n": 1.5,
    }
    measured = Measured("warm", {name: times(t) for name, t in medians.items()}, 1, (), 0)
    assert ratios.against(Competitor("torch", "contiguous"))(measured) == 1.5
    assert ratios.against(Competitor("ort", "n"))(measured) == 1.5  # konv's best
    assert ratios.against(Competitor("torch", "channels-last"))(measured) is None
    assert ratios.over("torch")(measured) == 3.0
    assert ratios.best(measured) == 1.5
    assert ratios.toughest(measured) == 0.75
    assert ratios.best(replace(measured, times={})) is None


def test_shares_of_what_the_machine_can_do() -> None:
    made = report(read(["conv2d 1x64x56x56 o64 k3 p1"]), ["konv"])
    (row,) = made.rows
    assert ratios.of_peak(made, row, row.measured[0]) == pytest.approx(2 * 115605504 / 1e-3 / 1e11)
    assert ratios.of_bandwidth(made, row, row.measured[0]) == pytest.approx(1753088 / 1e-3 / 1e10)


def test_every_family_of_the_article_is_there() -> None:
    made = report(ARTICLE, ["konv"])
    counts = {family: len(ratios.pairs(made, "warm", family)) for family in ratios.families(made)}
    assert counts == {"ordinary": 11, "dilated": 3, "grouped": 6, "depthwise": 7, "transposed": 9}
