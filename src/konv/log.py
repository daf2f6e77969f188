"""What konv does behind a call, one line each on standard error, if `KONV_VERBOSE=1` asks for it.

    konv: compile direct 6x4 float32 channels-last in, channels-last out 143 ms

Not `logging`: importing it costs more than importing konv, and these lines are for a person who
wonders where the time went, not for a program.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

verbose = os.environ.get("KONV_VERBOSE", "").lower() not in ("", "0", "off")


def set_verbose(on: bool) -> None:
    """Write events from here on, or stop."""
    global verbose
    verbose = on


def event(name: str, **facts: object) -> None:
    """Write one line if anyone asked; where making the facts costs time, ask `log.verbose` first.

    `ms` is shown as a time, other numbers with their names, everything else as it is.
    """
    if not verbose:
        return
    line = " ".join(["konv:", name, *(_shown(key, value) for key, value in facts.items())])
    with suppress(OSError, ValueError, AttributeError):  # no standard error, or a closed one
        sys.stderr.write(line.replace("\n", " ") + "\n")  # in one piece: other threads write too


def _shown(key: str, value: object) -> str:
    if key == "ms" and isinstance(value, int | float):
        return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"
    return f"{key}={value}" if isinstance(value, int | float) else str(value)
