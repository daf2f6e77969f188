"""The name of a piece of machine code: a digest of all it is made from, known without making it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from time import time

from konv import log
from konv.target import Target

PACKAGE = Path(__file__).parents[1]
EMITTERS = ("llvm", "kernels", "plan.py", "target.py")  # what of konv decides about code

_IMPORTED = time()  # the emitters are imported no later than a few milliseconds before


def key(what: str, target: Target) -> str:
    """The name of the code for `what` (a plan's repr) on a target; empty if none may be kept.

    All that decides about the code goes in: what it is, the whole processor, the emitters'
    sources, the versions of LLVM and llvmlite. Sizes of caches do not: no code depends on them.
    """
    from hashlib import sha256  # here: 4 ms

    from konv.llvm.host import versions  # here: 70 ms, and `konv cache` needs no LLVM

    sources = emitters()
    machine = (target.triple, target.cpu, target.features, target.vector_bytes, target.registers)
    ingredients = repr((what, machine, sources, versions()))
    return sha256(ingredients.encode()).hexdigest() if sources else ""


@cache
def emitters() -> str:
    """Digest of the sources that emit code; empty if they may not be those that this process runs.

    A source edited after it was imported would file old code under the new source's name, for good:
    a process that sees one does without the cache. So does konv without sources, as nothing would
    tell two releases apart.
    """
    from hashlib import sha256

    digest = sha256()
    try:
        for path in _sources():
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mtime > _IMPORTED:
                    raise OSError(f"{path.name} has changed since it was imported")
                code = file.read()
            digest.update(f"{path.relative_to(PACKAGE).as_posix()} {len(code)}\n".encode() + code)
    except OSError as error:
        log.event("cache", why=f"not used: {error}")
        return ""
    return digest.hexdigest()


def _sources() -> list[Path]:
    paths = [PACKAGE / name for name in EMITTERS if name.endswith(".py")]
    for name in EMITTERS:
        paths += sorted((PACKAGE / name).rglob("*.py"))
    return paths
