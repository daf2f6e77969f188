"""Kernels compiled for machines that the tests do not run on, and what their inner loops became."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import pytest
from llvm.assembly import (
    ARITHMETIC,
    ARM,
    LINUX,
    MACHINES,
    MULTIPLY_ADD,
    Machine,
    called,
    count,
    functions,
    has_frame,
    inner_loop,
    stack_accesses,
)

from konv.geometry import Conv
from konv.kernels import (
    direct,
    interleave,
    panels,
    planar,
    subpixel,
    winograd,
)
from konv.kernels.direct.flat_tile import emit_flat_sweep
from konv.kernels.direct.row_tile import emit_row
from konv.kernels.direct.tiles import TILES
from konv.kernels.microtile import UNROLL, emit_tile
from konv.kernels.panels.tile import FEWER, emit_first
from konv.kernels.panels.tile import emit_rows as emit_panel_rows
from konv.kernels.planar.pair import Pair
from konv.kernels.planar.tile import emit_tiles
from konv.kernels.winograd import parts as winograd_parts
from konv.kernels.winograd.count import RESTS
from konv.kernels.winograd.parts import emit_product
from konv.llvm import Module, assembly, compilers, describe
from konv.llvm.pieces import pieces
from konv.plan import Plan
from konv.target import Target

LAYOUTS = {"contiguous": True, "channels-last": False}
DTYPES = ("float32", "float64")
POINTWISE = Conv.parse("conv2d 1x64x32x32 o64 k1")

each_machine = pytest.mark.parametrize("machine", MACHINES, ids=str)


@cache
def target_of(machine: Machine) -> Target:
    return describe(machine.triple, machine.cpu, "")


def tiles() -> Iterator[object]:
    """Every tile in the table with every width its last block can have, and every depth."""
    for machine in MACHINES:
        target = target_of(machine)
        shapes = TILES[target.vector_bytes, target.registers]
        for mr, nr in sorted({(mr, nr) for mr, most in shapes for nr in range(1, most + 1)}):
            for depth in range(UNROLL):
                name = f"{machine}-{mr}x{nr}-{depth or 'many'}"
                yield pytest.param(machine, mr, nr, depth, id=name)


@pytest.mark.parametrize(("machine", "mr", "nr", "depth"), list(tiles()))
def test_a_tile_stays_in_registers(machine: Machine, mr: int, nr: int, depth: int) -> None:
    """As many multiply-adds of whole registers as the tile says, and no sum leaves its register."""
    target = target_of(machine)
    module = Module(target, "tile")
    emit_tile(module, Plan("direct", "float32", False, False, mr, nr, depth=depth), nr, 0)
    ((_, lines),) = functions(assembly(module)).items()
    # SSE lets one product of a shallow 3 x 3 go through the stack, which is still faster than the
    # tiles that keep it (30.1 GFLOP/s, 4 x 2: 27.4).
    allowed = 2 if machine.family == "sse" and depth else 0
    check_loop(machine, "float32", lines, mr * nr * (depth or UNROLL), allowed)


def rows() -> Iterator[object]:
    """Every tile in the table along rows, with every width its last block can have; the runs of
    some first layers, and as many channels as go along rows.
    """
    for machine in MACHINES:
        target = target_of(machine)
        if target.vector_bytes < 32:
            continue
        shapes = TILES[target.vector_bytes, target.registers]
        for mr, nr in sorted({(mr, nr) for mr, most in shapes for nr in range(1, most + 1)}):
            for depth, ahead in ((9, 6), (21, 6), (12, 4), (16, 16)):
                yield pytest.param(machine, mr, nr, depth, ahead, id=f"{machine}-{mr}x{nr}-{depth}")


@pytest.mark.parametrize(("machine", "mr", "nr", "depth", "ahead"), list(rows()))
def test_a_tile_along_a_row_stays_in_registers(
    machine: Machine, mr: int, nr: int, depth: int, ahead: int
) -> None:
    """All of a run is unrolled, though neighbours read the same numbers."""
    target = target_of(machine)
    module = Module(target, "tile")
    plan = Plan("direct", "float32", True, False, mr, nr, depth=depth, form=(ahead,))
    row = emit_row(module, plan, nr, 0)
    lines = functions(assembly(module))[row.name]
    check_loop(machine, "float32", lines, mr * nr * depth)


@pytest.mark.parametrize(
    ("machine", "mr", "nr", "depth"),
    [tile for tile in tiles() if not tile.values[-1] and tile.values[0].family != "sse"],
)
def test_a_tile_along_pixels_stays_in_registers(
    machine: Machine, mr: int, nr: int, depth: int
) -> None:
    """So does the one of a last block, which has as many pixels as its vectors leave room for.
    There are none with SSE.
    """
    target = target_of(machine)
    plan = Plan("direct", "float32", False, False, mr, nr, depth=depth, form=(0, mr))
    module = Module(target, "tile")
    sweep = emit_flat_sweep(module, plan, nr, 0)
    lines = functions(assembly(module))[sweep.name.removeprefix("sweep_")]
    check_loop(machine, "float32", lines, mr * nr * UNROLL)


@pytest.mark.parametrize(
    "machine", [m for m in MACHINES if panels.why_not(POINTWISE, target_of(m)) is None], ids=str
)
def test_a_tile_of_a_panel_stays_in_registers(machine: Machine) -> None:
    """And so do those of what is left of a row of pixels."""
    target = target_of(machine)
    for plan in panels.plans(POINTWISE, target, True, True):
        widths = (plan.vectors, 1, *range(plan.vectors + 1, plan.vectors + len(plan.form) - 1))
        for mr, nv in zip(plan.form, widths, strict=True):
            module = Module(target, "tile")
            rows = emit_panel_rows(module, plan, mr, nv)
            lines = functions(assembly(module))[rows.name]
            check_loop(machine, "float32", lines, mr * nv * UNROLL)
        module = Module(target, "tile")
        tall = plan.form[0]
        first = emit_first(module, plan, tall, plan.vectors)
        lines = functions(assembly(module))[first.name]
        # Eight rows take as many registers; how far channels lie apart is read once a trip.
        check_loop(machine, "float32", lines, tall * plan.vectors * FEWER, int(tall > 6))


def planes() -> Iterator[object]:
    """Every tile that planar considers, as wide as the registers allow."""
    for machine in MACHINES:
        for nc, nv in planar.tiles(planar.MOST, target_of(machine)):
            yield pytest.param(machine, nc, nv, id=f"{machine}-{nc}x{nv}")


@pytest.mark.parametrize(("machine", "nc", "nv"), list(planes()))
def test_a_planar_tile_stays_in_registers(machine: Machine, nc: int, nv: int) -> None:
    """So it does with fewer vectors, as the last tiles of a row have."""
    target = target_of(machine)
    plan = Plan("planar", "float32", True, True, nv * target.lanes("float32"), nv, form=(nc, 0))
    module = Module(target, "tile")
    emit_tiles(module, plan, nc)
    found = functions(assembly(module))
    for fewer in range(1, nv + 1):
        check_loop(machine, "float32", found[f"tile_{nc}x{fewer}"], nc * fewer)


@each_machine
def test_a_tile_of_both_phases_stays_in_registers(machine: Machine) -> None:
    """Whatever tile the layer is given, of all taps of a row."""
    target = target_of(machine)
    for kernel, co in product((2, 3, 4), (1, 3, 4, 8)):
        conv = Conv.of((1, 4, 9, 40), co, kernel=kernel, stride=2, transposed=True)
        plan = planar.plans(conv, target, True, True)[0]
        pair, nc = Pair.from_form(plan), plan.form[0]
        assert pair is not None
        module = Module(target, "tile")
        emit_tiles(module, plan, nc, pair)
        found = functions(assembly(module))[f"tile_{nc}x{plan.vectors}"]
        check_loop(machine, "float32", found, sum(pair.taps) * nc * plan.vectors)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@each_machine
def test_a_planar_kernel_has_the_tiles_of_its_plan(
    machine: Machine, dtype: str, layout: str
) -> None:
    """A whole kernel, with a last block of fewer channels; strided, so rows are dealt out."""
    target = target_of(machine)
    conv = Conv.of((1, 4, 19, 19), 13, kernel=3, stride=2, dtype=dtype)
    plan = planar.plans(conv, target, LAYOUTS[layout], LAYOUTS[layout])[0]
    nc, tail, *_ = plan.form
    found = functions(assembly(planar.emit(plan, target)))
    names = {name for name in found if re.fullmatch(r"tile_\d+x\d+", name)}
    blocks = {nc, tail} - {0}
    assert names == {f"tile_{n}x{nv}" for n in blocks for nv in range(1, plan.vectors + 1)}
    for n in blocks:
        check_loop(machine, dtype, found[f"tile_{n}x{plan.vectors}"], n * plan.vectors)
    calls = set().union(*map(called, found.values())) - found.keys()
    assert calls <= {"memcpy", "memset", "bzero"}, "what else it needs comes through the context"


def check_loop(machine: Machine, dtype: str, lines: list[str], sums: int, allowed: int = 0) -> None:
    instruction = MULTIPLY_ADD[machine.family, dtype]
    loop = inner_loop(lines, instruction)
    assert count(loop, instruction) == sums
    steps = 2 if machine.family == "sse" else 1  # it multiplies, then adds
    assert count(loop, ARITHMETIC) == steps * sums, "and none that is narrower"
    assert not has_frame(lines)
    assert len(stack_accesses(loop)) <= allowed


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@each_machine
def test_a_kernel_has_the_tiles_of_its_plan(machine: Machine, dtype: str, layout: str) -> None:
    """A whole kernel, with a last block that is narrower than the others."""
    target = target_of(machine)
    conv = Conv.of((1, 64, 9, 9), 7 * target.lanes(dtype), kernel=3, dtype=dtype)
    plan = direct.plans(conv, target, LAYOUTS[layout], LAYOUTS[layout])[0]
    found = functions(assembly(direct.emit(plan, target)))
    names = {name for name in found if re.fullmatch(r"tile_\d+x\d+\w*", name)}
    widths = {plan.vectors} | ({plan.tail} if plan.tail else set())
    assert names == {f"tile_{plan.pixels}x{nr}" for nr in widths}
    for nr in widths:
        lines = found[f"tile_{plan.pixels}x{nr}"]
        check_loop(machine, dtype, lines, plan.pixels * nr * UNROLL)
    calls = set().union(*map(called, found.values())) - found.keys()
    assert calls <= {"memcpy", "memset", "bzero"}, "what else it needs comes through the context"


@each_machine
def test_products_of_winograd_stay_in_registers(machine: Machine) -> None:
    """Every register tile, every width its last block can have, and every rest of a box."""
    target = target_of(machine)
    for mr, most in winograd.TILES[target.vector_bytes, target.registers]:
        for tiles, nr in product((mr, *RESTS.get(mr, ())), range(1, most + 1)):
            module = Module(target, "product")
            unroll = winograd_parts.UNROLL if tiles == mr else winograd_parts.FEW
            emit_product(module, tiles, nr, unroll)
            ((_, lines),) = functions(assembly(module)).items()
            allowed = 2 if machine.family == "sse" else 0  # one product, as in direct
            check_loop(machine, "float32", lines, tiles * nr * unroll, allowed)


@pytest.mark.parametrize("algorithm", [subpixel, interleave], ids=lambda a: str(a.name))
@pytest.mark.parametrize("dtype", DTYPES)
@each_machine
def test_transposed_kernels_have_such_tiles(machine: Machine, dtype: str, algorithm: Any) -> None:
    """With every register tile; also where sums leave lanes out, which adds nothing to the loop."""
    target = target_of(machine)
    for kernel in (4, 3):
        conv = Conv.of((1, 64, 9, 9), 5, kernel, 2, 1, dtype=dtype, transposed=True)
        if algorithm is subpixel and target.vector_bytes < subpixel.MASKED and kernel == 3:
            continue
        for plan in algorithm.plans(conv, target, True, True):
            lines = lines_of(algorithm.emit(plan, target), f"tile_{plan.pixels}x{plan.vectors}")
            check_loop(machine, dtype, lines, plan.pixels * plan.vectors * UNROLL)


def lines_of(module: Module, name: str) -> list[str]:
    """One function of a module, compiled in its piece as kernels are, without all the others."""
    piece = next(
        p.text for p in pieces(module) if re.search(rf"^define .*@{name}\(", p.text, re.MULTILINE)
    )
    machine = compilers.target_machine(module.target)
    return functions(str(machine.emit_assembly(compilers.optimise(piece, machine))))[name]


@pytest.mark.parametrize(
    ("triple", "cpu", "features", "vector_bytes", "registers"),
    [
        (LINUX, "", "", 16, 16),
        (LINUX, "x86-64", "", 16, 16),
        (LINUX, "x86-64-v2", "", 16, 16),
        (LINUX, "x86-64-v3", "", 32, 16),
        (LINUX, "x86-64-v4", "", 64, 32),
        (LINUX, "sandybridge", "", 16, 16),  # it has AVX, but no multiply-add
        (LINUX, "haswell", "", 32, 16),
        (LINUX, "haswell", "+avx512f", 64, 32),
        (LINUX, "alderlake", "", 32, 16),
        (LINUX, "znver3", "", 32, 16),
        (LINUX, "znver4", "", 64, 32),
        (LINUX, "znver4", "+bmi2", 64, 32),
        (LINUX, "znver4", "-avx512f", 32, 16),
        (LINUX, "sapphirerapids", "", 64, 32),
        ("x86_64-pc-windows-msvc", "skylake", "", 32, 16),
        ("x86_64-apple-macosx", "haswell", "", 32, 16),
        (ARM, "", "", 16, 32),
        (ARM, "cortex-a72", "", 16, 32),
        (ARM, "neoverse-n1", "", 16, 32),
        (ARM, "neoverse-v1", "", 16, 32),  # SVE has 32 bytes there, and other widths elsewhere
        (ARM, "neoverse-v2", "+sve2", 16, 32),
        ("arm64-apple-macosx", "apple-m1", "", 16, 32),
        ("riscv64-unknown-linux-gnu", "", "", 16, 16),  # one that konv knows nothing about
    ],
)
def test_describe(triple: str, cpu: str, features: str, vector_bytes: int, registers: int) -> None:
    """A processor has the vectors its name implies, but for the features added and taken away."""
    target = describe(triple, cpu, features)
    assert (target.vector_bytes, target.registers) == (vector_bytes, registers)
    assert target.lanes("float64") * 8 == vector_bytes


def test_every_machine_has_tiles() -> None:
    """A target that describe() makes finds its row in the table of tiles."""
    for machine in MACHINES:
        target = target_of(machine)
        assert (target.vector_bytes, target.registers) in TILES
        assert (target.vector_bytes, target.registers) in winograd.TILES


def test_a_loop_is_found_and_counted() -> None:
    """The tests above can fail: a loop with a spill, as LLVM prints it."""
    body = ("addps\t%xmm1, %xmm2", "movaps\t%xmm2, -8(%rsp)", "jl\t.LBB0_1")
    lines = ["f:", body[0], ".p2align 4", "\n.LBB0_1:", *body, "\n.LBB0_2:", body[0], "retq"]
    text = "\n\t".join(lines)
    loop = inner_loop(functions(text)["f"], "addps")
    assert loop == list(body)
    assert count(loop, "addps") == 1
    assert stack_accesses(loop) == [body[1]]
