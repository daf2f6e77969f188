"""The textbook formula of each axis' output size, with the numbers put in.

    ordinary    W2 = floor((W1 + 2P - K) / S) + 1
    dilated     W2 = floor((W1 + 2P - a(K-1) - 1) / S) + 1
    transposed  W2 = (W1 - 1) S - 2P + a(K-1) + r + 1

Padding that differs at the two ends is written lo + hi in place of 2P.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from konv.geometry.axis import Axis
from konv.geometry.terms import Terms

if TYPE_CHECKING:
    from konv.geometry.conv import Conv


def formula(conv: Conv) -> str:
    """Return one line for each axis.

    >>> from konv.geometry import Conv
    >>> print(formula(Conv.of((1, 3, 56, 56), 8, (3, 5), stride=2, padding=((1, 1), (0, 1)))))
    H2 = floor((56 + 2*1 - 3) / 2) + 1 = 28
    W2 = floor((56 + 0 + 1 - 5) / 2) + 1 = 27
    """
    lines = []
    for name, axis in zip("DHW"[-conv.dims :], conv.axes, strict=True):
        terms = Terms.of(axis, conv.transposed)
        side = _transposed(axis, terms) if conv.transposed else _ordinary(axis, terms)
        lines.append(f"{name}2 = {side} = {axis.out}")
    return "\n".join(lines)


def _ordinary(axis: Axis, terms: Terms) -> str:
    size = str(axis.size) if terms.up == 1 else f"({axis.size} - 1)*{terms.up} + 1"
    if terms.dilation == 1:
        taps = f"- {terms.kernel}"
    else:
        taps = f"- {terms.dilation}*({terms.kernel} - 1) - 1"
    return f"floor(({size}{_padding(terms, '+')} {taps}) / {terms.stride}) + 1"


def _transposed(axis: Axis, terms: Terms) -> str:
    reach = f"{terms.dilation}*" if terms.dilation > 1 else ""
    side = f"({axis.size} - 1)*{terms.stride}{_padding(terms, '-')} + {reach}({terms.kernel} - 1)"
    if terms.output_padding:
        side += f" + {terms.output_padding}"
    # up > 1: the adjoint of a layer with inserted zeros keeps only every up-th of these outputs.
    return f"{side} + 1" if terms.up == 1 else f"floor(({side}) / {terms.up}) + 1"


def _padding(terms: Terms, sign: str) -> str:
    """Return " + 2*P", or " + lo + hi" where they differ; nothing for no padding."""
    if terms.lo == terms.hi:
        return f" {sign} 2*{_bracket(terms.lo)}" if terms.lo else ""
    return f" {sign} {_bracket(terms.lo)} {sign} {_bracket(terms.hi)}"


def _bracket(number: int) -> str:
    """Return a negative number in brackets, so that no two signs meet."""
    return f"({number})" if number < 0 else str(number)
