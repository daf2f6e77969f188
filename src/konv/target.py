"""Where code will run: the processor, its vectors, its registers, its caches."""

from __future__ import annotations

from dataclasses import dataclass, field

BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}


COMPUTED = {dtype: max(4, size) for dtype, size in BYTES.items()}
"""Bytes of a number as it is computed with: half precision is stored only, summed in float32."""


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to emit code for.

    `vector_bytes` is the width of one vector register, `registers` how many there are; together
    they set the register tile of every kernel. `l2` is the second-level cache of one core in bytes:
    it sets how much work a thread takes at a time, which changes no result.

    >>> Target("x86_64-linux-gnu", "haswell", (), vector_bytes=32, registers=16).lanes("float32")
    8
    """

    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bytes: int
    registers: int
    l2: int = field(default=512 * 1024, compare=False)

    def lanes(self, dtype: str) -> int:
        """How many numbers of `dtype`, as they are computed with, one vector register holds."""
        return self.vector_bytes // COMPUTED[dtype]

    @property
    def arch(self) -> str:
        """`x86_64` or `aarch64`; anything else runs without flush-to-zero."""
        head = self.triple.split("-", 1)[0]
        return {"arm64": "aarch64", "amd64": "x86_64"}.get(head, head)
