"""konv against the libraries installed here: checked first, then timed, all in one run.

`konv bench` and `bench/run.py` are two doors to `session.bench`. A line is one convolution; a
*competitor* is one library with its arrays in one memory layout. For each line every competitor's
answer is compared with the reference (answers.py) - who is wrong is not timed - and then the
competitors take turns (timing.py), so that a slow moment of the machine meets all of them.

What is timed is the call that a user writes, everything included: finding the plan again, proving
that the weights have not changed, allocating the result. Inputs are normal random numbers: zeros
and denormals take other times than real images do.

    session.py   the run: lines in, a report out        results.py   the report and its JSON
    working.py   arrays, warm and cold                   ratios.py    who is faster, by how much
    answers.py   what is right                           text.py      the table
    timing.py    turns, medians                          closing.py   what stands below it
    noise.py     what disturbs a measurement             plot.py      the figure
    machine.py   where it was measured                   peers/       a file a library
"""

from __future__ import annotations

from konv.bench.results import Report, Row
from konv.bench.session import Settings, bench, read

__all__ = ["Report", "Row", "Settings", "bench", "read"]
