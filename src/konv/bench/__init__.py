"""konv against the libraries installed here: checked first, then timed, all in one run.

`konv bench` and `bench/run.py` are two doors to `session.bench`. A line is one convolution; a
*competitor* is one library with its arrays in one memory layout. For each line every competitor's
answer is compared with the reference (answers.py) - who is wrong is not timed - and then the
competitors take turns (timing.py), so that a slow moment of the machine meets all of them.

What is timed is the call that a user writes, everything included: finding the plan again, proving
that the weights have not changed, allocating the result. Inputs are normal random numbers: zeros
and denormals take other times than real images do.

    session.py   the run: lines in, a report out        results.py   the report and its JSON
    lines.py     what to measure                        ratios.py    who is faster, by how much
    working.py   arrays, warm and cold                  text.py      the table
    answers.py   what is right                          closing.py   what stands below it
    timing.py    turns, medians                         plot.py      the figure
    noise.py     what disturbs a measurement            machine.py   where it was measured
    tuning.py    konv tune: konv's plans alone          peers/       the libraries, a file each
"""

from __future__ import annotations

from konv.bench.lines import read
from konv.bench.results import Report, Row
from konv.bench.session import Settings, bench

__all__ = ["Report", "Row", "Settings", "bench", "read"]
