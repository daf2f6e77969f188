"""A convolution as one line of text: test id, benchmark line, log line, argument, bug report.

    conv2d 1x64x56x56 o128 k3 s2 p1 d2 g4           batch x channels x height x width; 128 outputs
    tconv2d 1x512x8x8 o256 k4 s2 p1 r1              transposed
    conv1d 8x16x100 o32 k5 p4:0 f16 reflect         padding 4 before, 0 after; half precision

    token       means                               without it
    o           output channels                     (needed)
    k           kernel                              (needed)
    s  p  d     stride, padding, dilation           1, 0, 1
    r           output padding (tconv only)         0
    g           groups                              1
    u           zeros inserted: input spread by u   1
    f64 f16 bf16                                    float32
    reflect replicate circular                      zeros
    same valid causal                               (the padding by name; read, never written)

Values that differ by axis are joined by x: k3x5, p0:1x2:2. Tokens may stand in any order. For a
tconv the numbers are those of the convolution whose adjoint it is, so that s is what PyTorch calls
stride, and u, which no user writes, closes the notation under adjoint. Padding may be negative (a
crop): adjoints need that too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn, TypedDict

from konv.errors import ProblemError
from konv.geometry.axis import Axis
from konv.geometry.bounds import integer
from konv.geometry.padding import MODES, NAMED, Mode, amounts, check_mode
from konv.geometry.terms import Terms, axes_of

if TYPE_CHECKING:
    from konv.geometry.conv import Conv

EXAMPLE = "conv2d 1x64x56x56 o128 k3 s2 p1"
DTYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16"}
_DTYPE_TOKENS = {dtype: token for token, dtype in DTYPES.items()}
_WORD = "|".join((*DTYPES, *MODES, *NAMED))
_KINDS = {  # the kind of a token, and how it is written; one of each kind at most
    "name": r"(t?conv)([123])d",
    "shape": r"\d+(?:x\d+)+",
    "dtype": "|".join(DTYPES),
    "mode": "|".join(MODES),
    "p": rf"p-?\d+(?::-?\d+)?(?:x-?\d+(?::-?\d+)?)*|{'|'.join(NAMED)}",
    **{letter: rf"{letter}\d+" for letter in "og"},
    **{letter: rf"{letter}\d+(?:x\d+)*" for letter in "ksdru"},
}


class Fields(TypedDict):
    """The arguments of Conv."""

    n: int
    ci: int
    co: int
    axes: tuple[Axis, ...]
    groups: int
    dtype: str
    mode: Mode
    transposed: bool


def write(conv: Conv) -> str:
    """Return the line of a convolution, defaults left out; `read` is its inverse."""
    terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
    tokens = [
        f"{'t' * conv.transposed}conv{conv.dims}d",
        _joined(conv.in_shape),
        f"o{conv.co}",
        "k" + _short([t.kernel for t in terms]),
        _unless(1, "s", [t.stride for t in terms]),
        _padding(terms),
        _unless(0, "r", [t.output_padding for t in terms]),
        _unless(1, "d", [t.dilation for t in terms]),
        _unless(1, "u", [t.up for t in terms]),
        _unless(1, "g", [conv.groups]),
        _DTYPE_TOKENS[conv.dtype] if conv.dtype != "float32" else "",
        conv.mode if conv.mode != "zeros" else "",
    ]
    return " ".join(filter(None, tokens))


def _joined(values: list[int] | list[str] | tuple[int, ...]) -> str:
    return "x".join(map(str, values))


def _short(values: list[int] | list[str]) -> str:
    """Return one value if all axes share it, else one an axis."""
    return str(values[0]) if len(set(values)) == 1 else _joined(values)


def _unless(default: int, letter: str, values: list[int]) -> str:
    return "" if set(values) == {default} else letter + _short(values)


def _padding(terms: list[Terms]) -> str:
    if all(t.lo == t.hi for t in terms):
        return _unless(0, "p", [t.lo for t in terms])
    return "p" + _short([f"{t.lo}:{t.hi}" for t in terms])


def read(line: str) -> Fields:
    """Return the fields of the convolution that `line` describes.

    ProblemError for a token that is unknown, doubled, missing or has a wrong number of values, and
    for numbers that describe no convolution.
    """
    found = _tokens(line)
    for kind, needed in (("name", "conv2d"), ("shape", "1x64x56x56"), ("o", "o128"), ("k", "k3")):
        if kind not in found:
            _refuse(line, f"has no token such as {needed!r}")
    transposed, dims = found["name"].startswith("t"), int(found["name"][-2])
    n, ci, *sizes = (integer(int(v), "shape") for v in found["shape"].split("x"))
    if len(sizes) != dims:
        _refuse(found["shape"], f"must have {dims + 2} values for {found['name']}")
    return Fields(
        n=n,
        ci=ci,
        co=int(found["o"][1:]),
        axes=axes_of(tuple(sizes), _terms(found, tuple(sizes), transposed), transposed),
        groups=int(found.get("g", "g1")[1:]),
        dtype=DTYPES[found.get("dtype", "f32")],
        mode=check_mode(found.get("mode", "zeros")),
        transposed=transposed,
    )


def _tokens(line: str) -> dict[str, str]:
    """Return the tokens of a line by their kind."""
    if not isinstance(line, str):
        raise TypeError(f"a convolution must be a line of text, got {type(line).__name__}.")
    found: dict[str, str] = {}
    for token in line.split():
        kind = next((kind for kind, form in _KINDS.items() if re.fullmatch(form, token)), None)
        if kind is None:
            _refuse(token, f"is not a token: write a letter of {' '.join('okspdrgu')} and numbers")
        if kind in found:
            _refuse(token, f"says again what {found[kind]!r} says: write one of them")
        found[kind] = token
    return found


def _terms(found: dict[str, str], sizes: tuple[int, ...], transposed: bool) -> list[Terms]:
    """Return the numbers of each axis."""
    dims = len(sizes)
    number = {
        letter: [int(v) for v in _values(found.get(letter, letter + default), dims)]
        for letter, default in zip("ksdru", "11101", strict=True)
    }
    if found.get("p") in NAMED:
        extents = [(k - 1) * d + 1 for k, d in zip(number["k"], number["d"], strict=True)]
        pads = amounts(found["p"], sizes, extents, number["s"], transposed)
    else:
        ends = [v.split(":") for v in _values(found.get("p", "p0"), dims)]
        pads = tuple((int(end[0]), int(end[-1])) for end in ends)
    columns = zip(*(number[c] for c in "ksd"), pads, number["r"], number["u"], strict=True)
    return [Terms(k, s, d, lo, hi, r, u) for k, s, d, (lo, hi), r, u in columns]


def _values(token: str, dims: int) -> list[str]:
    """Return the values of a token, one an axis."""
    values = token[1:].split("x")
    if len(values) not in (1, dims):
        _refuse(token, f"must have 1 or {dims} values")
    return values * (dims // len(values))


def _refuse(token: str, rule: str) -> NoReturn:
    raise ProblemError(f"{token!r} {rule}. Example: {EXAMPLE!r}.")
