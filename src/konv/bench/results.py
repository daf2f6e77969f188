"""A report: what was measured, where and how.

As JSON it holds facts only; what follows from them (ratios, shares of the peak, means) is computed
when it is read, so that no file can contradict itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from konv.bench.noise import Times
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.runtime.roofline import Roofline

FORMAT = 1
FAMILIES = ("ordinary", "dilated", "grouped", "depthwise", "transposed")
WARM, COLD = "warm", "cold"


@dataclass(frozen=True, slots=True)
class Competitor:
    """One library with its arrays in one layout."""

    library: str
    layout: str

    @property
    def name(self) -> str:
        """What it is called in a row."""
        return f"{self.library} {self.layout}"


@dataclass(frozen=True, slots=True)
class Measured:
    """One line, warm or cold: times by competitor's name, how often it was run, what disturbed it.

    `bytes` are those of all the inputs, weights and outputs that calls went round over.
    """

    working_set: str
    times: dict[str, Times]
    attempts: int
    noise: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `wrong` and `refused` say why a competitor was not timed, by its name."""

    name: str
    line: str
    checked: str
    wrong: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    measured: tuple[Measured, ...] = ()

    @property
    def conv(self) -> Conv:
        """The convolution."""
        return Conv.parse(self.line)

    @property
    def family(self) -> str:
        """What it counts as; of several words the rarer wins: dilated depthwise is depthwise."""
        words = {*self.conv.kind, "ordinary"}
        return next(word for word in reversed(FAMILIES) if word in words)


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run. `machine` and `settings` are in words; `rooflines` are by dtype."""

    machine: dict[str, str]
    settings: dict[str, Any]
    competitors: tuple[Competitor, ...]
    rooflines: dict[str, Roofline]
    rows: tuple[Row, ...] = ()

    def write(self, path: Path) -> None:
        """Write it as JSON, its folder too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        """Return the report in a file; ProblemError if it is none, or of another format."""
        try:
            found = json.loads(path.read_text("utf-8"))
            if found["format"] != FORMAT:
                raise ProblemError(
                    f"{path} has format {found['format']}, this konv reads {FORMAT}. Measure again."
                )
            return cls(
                found["machine"],
                found["settings"],
                tuple(Competitor(**each) for each in found["competitors"]),
                {dtype: Roofline(**each) for dtype, each in found["rooflines"].items()},
                tuple(map(_row, found["rows"])),
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ProblemError(f"{path} is no report of konv bench ({error!r}).") from None


def _row(found: dict[str, Any]) -> Row:
    measured = tuple(
        Measured(
            **{
                **each,
                "noise": tuple(each["noise"]),
                "times": {name: Times(**times) for name, times in each["times"].items()},
            }
        )
        for each in found["measured"]
    )
    return Row(**{**found, "measured": measured})
