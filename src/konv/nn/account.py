"""What konv made of a model, layer by layer: a table to print, and its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One convolution: its name in the model, what it is, what was done and why.

    before, after   seconds of PyTorch's call and of konv's on the example, where there was one
    packed          bytes of packed weights
    """

    name: str
    kind: str
    by: str
    what: str = ""
    before: float | None = None
    after: float | None = None
    packed: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """All convolutions of a model. `notes` say what is not about one of them."""

    title: str
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def taken(self) -> int:
        """How many layers konv computes."""
        return sum(row.by == "konv" for row in self.rows)

    @property
    def left_share(self) -> float | None:
        """The share of the layers' time, by the measurement, that is left to PyTorch."""
        times = [(row.by, row.before, row.after) for row in self.rows]
        left = sum(before for by, before, _ in times if by != "konv" and before is not None)
        ours = sum(after for by, _, after in times if by == "konv" and after is not None)
        return left / (left + ours) if left + ours else None

    @property
    def packed(self) -> int:
        """Bytes of packed weights."""
        return sum(row.packed for row in self.rows)

    def __str__(self) -> str:
        head = f"{self.title}: {self.taken} of {len(self.rows)} convolutions by konv"
        if self.packed:
            head += f", {self.packed / 2**20:.1f} MiB of packed weights"
        if self.left_share is not None:
            head += f"; {self.left_share:.0%} of their time left to PyTorch"
        wide = [max((len(getattr(row, key)) for row in self.rows), default=0) for key in KEYS]
        lines = [_line(row, wide) for row in self.rows]
        return "\n".join([head, *lines, *self.notes])


KEYS = ("name", "kind", "by")


def _line(row: Row, wide: list[int]) -> str:
    words = "  ".join(getattr(row, key).ljust(w) for key, w in zip(KEYS, wide, strict=True))
    if row.before is not None:
        words += f"  {row.before * 1e3:9.3f} ms"
    if row.after is not None:
        words += f" -> {row.after * 1e3:9.3f} ms"
    return f"  {words}  {row.what}".rstrip()
