"""Examples at the end of a command's help; tests run them as they stand there."""

from __future__ import annotations


def examples(*lines: str) -> str:
    r"""Return an epilogue; the \b asks the parser to leave its lines as they are.

    >>> print(examples("konv doctor").replace("\b", "|"))
    |
    Examples:
      konv doctor
    """
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
