"""The work of one convolution at one image size, in memory that kernels read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from konv import kernels
from konv.geometry import Conv
from konv.plan import Plan, Strides
from konv.target import Target


@dataclass(frozen=True, slots=True)
class Job:
    """The words of a job and what must be at hand to run it; `words` stays alive with this
    object. `scratch`: bytes for all threads.
    """

    words: np.ndarray[Any, Any]
    address: int
    threads: int
    scratch: int


def schedule(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Job:
    """The job of `conv` under `plan`; strides in elements, (batch, channel, *spatial)."""
    work = kernels.by_name(plan.algorithm).work(conv, plan, target, x, y, threads)
    words = np.array(work.words, dtype=np.int64)
    return Job(words, words.ctypes.data, work.threads, work.scratch * work.threads)
