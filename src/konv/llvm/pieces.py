"""A module in pieces that are compiled apart, so that kernels share what they have in common.

Kernels of one algorithm differ in few of their functions: of 198 kernels, those of article.txt and
shapes.txt, three quarters of the code stands in an earlier one. Who has compiled a piece need not
do so again. LLVM takes 1.1 ms for a piece that holds nothing, so small functions go together with
what follows them: their order is that of the emitters, and they seldom change alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from konv.llvm.builder import Routine
from konv.llvm.function import Module

# Instructions. Over those 198 kernels, and 16 of ResNet-50, of the pieces' total time: with 0 a
# fresh kernel takes 25 ms longer than in one piece and all of them 9.0 s, with 100 14 ms and
# 10.3 s, with 200 8 ms and 15.7 s; in one piece each it is 28 s.
ENOUGH = 100

# Instructions, with those inlined, of a function that takes LLVM so long that nothing goes with it:
# other threads do that meanwhile. Depthwise 3x3 waits for `lines`, 120 ms, and not for `fill`, 8.
LONG = 600


@dataclass(frozen=True, slots=True)
class Piece:
    """A module of LLVM's language; `cold`, or `plain`, if all of its functions are."""

    text: str
    cold: bool
    plain: bool


def pieces(module: Module) -> Iterator[Piece]:
    """Pieces that together are this module, what is called before its callers."""
    groups: dict[tuple[bool, bool], list[Routine]] = {}
    for routine in module.routines.values():
        if routine.blocks and not routine.inline:
            kind = routine.cold, routine.plain
            group = groups.setdefault(kind, [])
            if group and _whole(routine) >= LONG:
                yield Piece(_text(module, group), *kind)
                group.clear()
            group.append(routine)
            if routine.size >= ENOUGH:
                yield Piece(_text(module, group), *kind)
                group.clear()
    for kind, group in groups.items():
        if group:
            yield Piece(_text(module, group), *kind)


def _whole(routine: Routine) -> int:
    """How many instructions it has with those of what is to be inlined."""
    return routine.size + sum(used.size for used in _used([routine]) if used.inline)


def _text(module: Module, group: list[Routine]) -> str:
    """Routines with what they need: declarations, and the code of what is to be inlined."""
    used = _used(group)
    own = {routine.name for routine in group}
    inside = [routine.defined() for routine in used if routine.inline]
    outside = [r.declared() for r in used if not r.inline and r.name not in own]
    defined = [routine.defined(apart=True) for routine in group]
    return "\n\n".join([module.head, *outside, *inside, *defined]) + "\n"


def _used(group: Iterable[Routine]) -> list[Routine]:
    """What routines use, and what is used by those of them that are to be inlined."""
    found: dict[str, Routine] = {}
    for routine in group:
        found |= routine.uses
    inlined = [routine for routine in found.values() if routine.inline]
    if inlined:
        found |= {routine.name: routine for routine in _used(inlined)}
    return list(found.values())
