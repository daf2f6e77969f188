"""A module in pieces is the same machine code, and what modules have in common is compiled once."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
from llvm.assembly import functions
from llvmlite import binding

from konv.geometry import Conv
from konv.kernels import by_name
from konv.llvm import Module, build, compilers, detect, load, object_bytes
from konv.llvm.pieces import pieces
from konv.plan import Plan
from konv.runtime.choose import choose

LINES = ("conv2d 1x16x9x9 o16 k1", "conv2d 1x64x30x30 o64 k3 p1", "conv2d 1x32x30x30 o32 k3 g32")


def plan(line: str) -> Plan:
    return choose(Conv.parse(line), detect(), True, True)


def emitted(plan: Plan) -> Module:
    return by_name(plan.algorithm).emit(plan, detect())


def assembled(text: str, cold: bool, plain: bool) -> str:
    machine = compilers.target_machine(detect(), cold)
    module = compilers.optimise(text, machine)
    if plain:
        compilers.make_plain(module, detect())
    return str(machine.emit_assembly(module))


def bare(lines: list[str]) -> list[str]:
    """Instructions without the numbers of labels: those count on through a module."""
    instructions = (line for line in lines if not line.endswith(":"))
    return [re.sub(r"\bL[A-Za-z_]+\d[\d_]*", "L", line) for line in instructions]


@pytest.mark.parametrize("line", LINES)
def test_functions_are_those_of_the_whole_module(line: str) -> None:
    """Each stands in one piece, instruction for instruction as if all were compiled together, the
    cold and the plain ones as quickly.
    """
    module = emitted(plan(line))
    declared = [routine.declared() for routine in module.routines.values() if not routine.blocks]
    defined = [r.defined(apart=not r.inline) for r in module.routines.values() if r.blocks]
    text = "\n".join([module.head, *declared, *defined])
    whole: dict[str, list[str]] = {}
    for kind in ((False, False), (True, False), (False, True)):
        for name, lines in functions(assembled(text, *kind)).items():
            routine = module.routines[name]
            if (routine.cold, routine.plain) == kind:
                whole[name] = lines
    found: dict[str, list[str]] = {}
    for piece in pieces(module):
        for name, lines in functions(assembled(piece.text, piece.cold, piece.plain)).items():
            assert name not in found
            found[name] = lines
    assert set(found) == set(whole)
    for name, lines in whole.items():
        assert bare(found[name]) == bare(lines), name


def test_each_piece_stands_on_its_own() -> None:
    """It declares what it calls: LLVM takes it by itself."""
    for piece in pieces(emitted(plan(LINES[0]))):
        binding.parse_assembly(piece.text).verify()


def test_pieces_are_all_cold_or_plain_or_not_at_all() -> None:
    """What is entered once a call or a unit takes LLVM a tenth of the time, what moves numbers half
    of it; tiles are of neither.
    """
    module = emitted(plan(LINES[1]))
    for piece in pieces(module):
        names = re.findall(r"^define .*@(\w+)\(", piece.text, re.MULTILINE)
        assert all(module.routines[name].cold == piece.cold for name in names)
        assert all(module.routines[name].plain == piece.plain for name in names)
    cold = {name for name, routine in module.routines.items() if routine.cold}
    plain = {name for name, routine in module.routines.items() if routine.plain}
    assert {"run", "work", "region", "pack_work"} <= cold
    assert {"gather", "leave", "slots"} <= plain
    assert not cold & plain
    assert not any(name.startswith(("product_", "tile_", "filters")) for name in cold | plain)


def test_what_takes_long_stands_alone() -> None:
    """Other threads compile the rest meanwhile: a depthwise kernel's lines are most of it."""
    found = list(pieces(emitted(plan("conv2d 1x96x56x56 o96 k3 p1 g96"))))
    longest = max(found, key=lambda piece: len(piece.text))
    defined = re.findall(r"^define (?!internal).*@(\w+)\(", longest.text, re.MULTILINE)
    assert defined == ["lines"]


@pytest.mark.parametrize("line", LINES[1:])
def test_kernels_share_pieces(line: str) -> None:
    """Another activation changes tiles, not how images are packed: most of the code is known. (Of a
    1x1 layer about half: it has a tile for each width of a panel, and packs nothing.)
    """
    one = plan(line)
    first, other = (set(pieces(emitted(p))) for p in (one, replace(one, activation="relu")))
    assert first != other
    assert len(first & other) > len(first) // 2


def test_what_is_known_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes, without LLVM; of another target nothing is known."""
    module = emitted(plan(LINES[1]))
    code = object_bytes(module)
    monkeypatch.setattr(compilers, "Compiler", None)
    monkeypatch.setattr(compilers, "_idle", {})
    assert object_bytes(module) == code
    other = replace(detect(), features=("+fma",))
    with pytest.raises(TypeError):
        object_bytes(by_name("direct").emit(plan(LINES[0]), other))


def test_what_another_process_has_compiled_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its code, if it was made of the same and by the same."""
    module = emitted(plan(LINES[1]))
    code = object_bytes(module, "here")
    monkeypatch.setattr(build, "_known", {})
    build.learn(code)
    monkeypatch.setattr(compilers, "Compiler", None)
    monkeypatch.setattr(compilers, "_idle", {})
    assert object_bytes(module, "here") == code
    with pytest.raises(TypeError):
        object_bytes(module, "elsewhere")


def test_what_is_learnt_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    code = object_bytes(emitted(plan(LINES[1])))
    monkeypatch.setattr(build, "_known", {})
    monkeypatch.setattr(build, "KNOWN", 3)
    build.learn(code)
    assert len(build._known) == 3


def test_what_is_known_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_known", {})
    monkeypatch.setattr(build, "KNOWN", 3)
    code = object_bytes(emitted(plan(LINES[0])))
    assert 0 < len(build._known) <= 3
    assert object_bytes(emitted(plan(LINES[0]))) == code


def test_code_that_ends_early_is_refused() -> None:
    """A bundle of objects cut anywhere is no code."""
    code = object_bytes(emitted(plan(LINES[0])))
    for cut in (4, 100, len(code) - 1):
        with pytest.raises(RuntimeError, match="not an object file"):
            load(code[:cut], detect())
        with pytest.raises(RuntimeError, match="not an object file"):
            build.learn(code[:cut])


@pytest.mark.skipif(
    (sys.platform, detect().arch) != ("linux", "x86_64"), reason="reads assembly of x86-64's ELF"
)
def test_what_stands_elsewhere_may_be_far() -> None:
    """Other pieces, and memcpy, are reached by addresses of 64 bits."""
    reached = set()
    for piece in pieces(emitted(plan(LINES[1]))):
        text = assembled(piece.text, piece.cold, piece.plain)
        own = set(re.findall(r"^(\w+):", text, re.MULTILINE))
        called = set(re.findall(r"callq\t([\w.]+)(?:@PLT)?$", text, re.MULTILINE))
        assert called <= own
        reached |= set(re.findall(r"callq\t\*([\w.]+)@GOTPCREL", text))
    assert "memset" in reached
    assert len(reached) > 5
