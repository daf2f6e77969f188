"""Batch normalisation in training mode, and an activation behind it: a kernel for each step.

Of contiguous images a channel is done at once, there and back (konv.kernels.norm.planes); of
channels-last ones a line of memory has many channels, so that each way is three steps
(konv.kernels.norm.rows). In all of them x, the gradient of y and what is written lie alike.

A step is bound by memory, so what counts is how often it is read: x twice forward, x and the
gradient twice backward, where an activation of its own would read and write all of it once more,
and backward twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from konv.kernels.norm import planes as norm_planes
from konv.kernels.norm import rows as norm_rows
from konv.kernels.norm.parts import LINE, NORM_JOB, TABLE
from konv.kernels.region import emit_entry
from konv.kernels.words import Words
from konv.llvm import Function, Module, Value
from konv.plan import Plan
from konv.target import BYTES, Target

name = "norm"
Step = Callable[[Plan, Function, Words, Value], None]
STEPS: tuple[Step, ...] = (
    norm_planes.forward, norm_planes.backward,
    norm_rows.sums, norm_rows.settle, norm_rows.apply,
    norm_rows.back_sums, norm_rows.back_settle, norm_rows.back_apply,
)  # fmt: skip
FORWARD = {True: (0,), False: (2, 3, 4)}  # by whether the image is contiguous
BACKWARD = {True: (1,), False: (5, 6, 7)}
PLAIN = (norm_rows.sums, norm_rows.settle, norm_rows.back_settle)
UNIT = 1 << 16  # numbers in a unit of rows: some 10 us of a thread
ROWS = 64  # at least, lest the sums of all units be a fair part of what is read
ALONE_BELOW = 1 << 15  # numbers that another thread is not worth waking for


def plans(dtype: str, contiguous: bool, activation: str, steps: tuple[int, ...]) -> list[Plan]:
    """The plans of some steps, in order."""
    return [
        Plan(
            name, dtype, contiguous, contiguous, 1, 1, form=(step,),
            activation="" if STEPS[step] in PLAIN else activation,
        )
        for step in steps
    ]  # fmt: skip


def padded(channels: int, dtype: str) -> int:
    """Channels up to whole lines: a row of the table."""
    line = LINE // BYTES[dtype]
    return -(-channels // line) * line


def job(dtype: str, contiguous: bool, images: int, channels: int, pixels: int) -> list[int]:
    """The words of NORM_JOB that sizes say: those before `eps`."""
    count = images * pixels
    share = max(ROWS, UNIT // channels // norm_rows.TILE * norm_rows.TILE)
    units = channels if contiguous else -(-count // share)
    return [units, channels, padded(channels, dtype), count, share, images, pixels]


def scratch(dtype: str, contiguous: bool, words: list[int]) -> int:
    """Bytes for the sums of all units and the factors of the last step."""
    units, _, wide, *_ = words
    return LINE if contiguous else wide * (2 * 8 * units + 3 * BYTES[dtype])


def threads(images: int, channels: int, pixels: int, at_hand: int) -> int:
    """How many are worth waking."""
    return 1 if images * channels * pixels < ALONE_BELOW else at_hand


def emit(plan: Plan, target: Target) -> Module:
    """Exports `run`; in the place of the weights it takes the gradient of y, or 0."""
    step = STEPS[plan.form[0]]
    module = Module(target, f"{name}_{step.__name__}")
    emit_entry(module, partial(step, plan), cold=False)
    return module


__all__ = [
    "BACKWARD", "FORWARD", "NORM_JOB", "TABLE", "emit", "job", "padded", "plans", "scratch",
    "threads",
]  # fmt: skip
