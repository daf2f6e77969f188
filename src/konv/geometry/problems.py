"""Problem files: lists of convolutions, a line of text each, that tests and benchmarks share."""

from __future__ import annotations

from konv.errors import ProblemError
from konv.geometry.conv import Conv


def read_problems(text: str) -> list[tuple[str, Conv]]:
    r"""Return the (name, convolution) pairs of a problem file, in order.

    One convolution a line; its name is the comment after it, or the line itself where there is
    none. Blank lines and lines of comment are skipped. ProblemError names the line.

    >>> read_problems("# stems\n\nconv2d 1x3x224x224 o64 k7 s2 p3  # resnet\n")[0][0]
    'resnet'
    """
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        body, _, name = (part.strip() for part in line.partition("#"))
        if not body:
            continue
        try:
            conv = Conv.parse(body)
        except ProblemError as error:
            raise ProblemError(f"line {number}: {error}") from None
        problems.append((name or str(conv), conv))
    return problems
