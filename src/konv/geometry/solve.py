"""The output-size formulas backwards: which padding gives me 56?

Every formula is monotone in each of its numbers, so the values of one unknown that give a wanted
output are one interval, and bisection finds both its ends.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

from konv.errors import ProblemError
from konv.geometry.bounds import integer

GREATEST = 2**40
"""Values tried at most. Where any larger value works as well (the stride of a single output, the
dilation of a single tap) the answer ends here."""

_LEAST = {"size": 1, "kernel": 1, "stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
_MORE_GIVES_LESS = {False: ("kernel", "stride", "dilation"), True: ("padding",)}


def solve(
    *,
    out: int,
    size: int | None,
    kernel: int | None,
    stride: int | None = 1,
    padding: int | None = 0,
    dilation: int | None = 1,
    output_padding: int | None = 0,
    transposed: bool = False,
) -> range:
    """Return all values of the one argument that is None for which an axis has `out` outputs.

    Pixels and taps along one axis; the padding is the same on both sides. The smallest value comes
    first; none is greater than GREATEST. ProblemError where there is no such value, naming the
    outputs next to `out` that can be had; also unless exactly one argument is None.

    >>> solve(out=28, size=None, kernel=3, stride=2, padding=1)
    range(55, 57)
    >>> solve(out=56, size=56, kernel=3, padding=None, dilation=4)
    range(4, 5)
    >>> solve(out=64, size=32, kernel=4, stride=2, padding=None, transposed=True)
    range(1, 2)
    >>> solve(out=30, size=56, kernel=3, stride=None, padding=1)
    Traceback (most recent call last):
    ...
    konv.errors.ProblemError: no stride gives out=30 (size=56, kernel=3, padding=1, dilation=1). \
Nearest: stride=2 gives 28, stride=1 gives 56.
    """
    given = {
        "size": size,
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "output_padding": output_padding,
    }
    unknown, known = _split(given)
    return _search(integer(out, "out", least=1), unknown, known, transposed)


def _search(out: int, unknown: str, known: dict[str, int], transposed: bool) -> range:
    """Return the values of the unknown that give `out`, by bisection of those it may have."""
    values = _allowed(unknown, known, transposed)
    sign = -1 if unknown in _MORE_GIVES_LESS[transposed] else 1

    def outputs(value: int) -> int:
        return _out(**known | {unknown: value}, transposed=transposed)

    def rising(value: int) -> int:
        return sign * outputs(value)

    first = bisect_left(values, sign * out, key=rising)
    end = bisect_right(values, sign * out, key=rising)
    if first < end:
        return values[first:end]
    numbers = ", ".join(
        f"{name}={value}" for name, value in known.items() if transposed or name != "output_padding"
    )
    near = [*values[max(first - 1, 0) : first], *values[first : first + 1]]
    raise ProblemError(
        f"no {unknown} gives out={out} ({numbers}). {_nearest(unknown, near, outputs)}"
    )


def _out(
    size: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    output_padding: int,
    transposed: bool,
) -> int:
    """Return the output size by the textbook; zero or less where there is no output."""
    reach = dilation * (kernel - 1)
    if transposed:
        return (size - 1) * stride - 2 * padding + reach + output_padding + 1
    return (size + 2 * padding - reach - 1) // stride + 1


def _split(given: dict[str, int | None]) -> tuple[str, dict[str, int]]:
    """Return the name of the unknown, and the others, checked."""
    unknowns = [name for name, value in given.items() if value is None]
    if len(unknowns) != 1:
        raise ProblemError(
            f"{len(unknowns)} unknowns ({', '.join(unknowns) or 'none'}): solve() finds one. "
            f"Set exactly one of {', '.join(given)} to None."
        )
    known = {
        name: integer(value, name, _LEAST[name])
        for name, value in given.items()
        if value is not None
    }
    return unknowns[0], known


def _allowed(unknown: str, known: dict[str, int], transposed: bool) -> range:
    """Return the values the unknown may have; output_padding < max(stride, dilation) narrows them.

    ProblemError where the known numbers already break that rule, or an ordinary layer has any.
    """
    r = known.get("output_padding", 0)
    steps = [known[name] for name in ("stride", "dilation") if name in known]
    if not transposed:
        if r or unknown == "output_padding":
            raise ProblemError(
                "output_padding is for transposed convolutions only. Set transposed=True, or "
                "output_padding=0."
            )
    elif unknown == "output_padding":
        return range(max(steps))
    elif r >= max(steps):
        if unknown not in ("stride", "dilation"):
            raise ProblemError(
                f"output_padding={r} must be smaller than stride or dilation. "
                f"Use at most {max(steps) - 1}."
            )
        return range(r + 1, GREATEST + 1)
    return range(_LEAST[unknown], GREATEST + 1)


def _nearest(unknown: str, near: list[int], outputs: Callable[[int], int]) -> str:
    """Say which outputs the values next to the wanted one give, the smaller output first."""
    reachable = sorted((outputs(value), value) for value in near if outputs(value) > 0)
    if not reachable:
        return f"Nor does any give another output. Change more than the {unknown}."
    return f"Nearest: {', '.join(f'{unknown}={value} gives {out}' for out, value in reachable)}."
