"""Every plan that may compute a layer, measured here; one that beats the model's choice is kept.

konv chooses by a model of cycles, which is right within some per cent on machines like those it was
made on. Where that is not enough, `konv tune` (here: `tune`) measures: all plans of all algorithms
that take the layer, their answers checked, in turns, the median of each; those far behind drop out
after a quarter of the time. What wins by more than noise is remembered (konv.runtime.tuned) and
used from then on, by every process of this user on this machine. Lines that `choose` cannot tell
apart, as they differ in batch or size only, are one layer: their times are added.

The choice for `precision("exact")`, which some plans are barred from, comes from the same times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from konv import dispatch, llvm
from konv.arrays import dense_strides
from konv.bench import timing
from konv.bench.answers import answers
from konv.bench.lines import Problem, read
from konv.bench.noise import Times
from konv.bench.peers import Run
from konv.bench.peers.peer import CONTIGUOUS, LAST, LAYOUTS, last
from konv.bench.session import TROUBLE
from konv.bench.working import draw
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.plan import Plan
from konv.runtime import memory, tuned, weights
from konv.runtime.choose import (
    Precision,
    layer_text,
    modelled,
    of_image,
    offered,
    precision,
)
from konv.runtime.execute import NOTHING, Call
from konv.runtime.flat import flattened, slim
from konv.runtime.threads import team
from konv.target import Target

GAIN = 1.05  # times faster, at least: less changes with the next measurement
NEAR = 1.3  # times the fastest: what takes longer at first sight is not looked at again
FIRST = 0.25  # of the seconds: for that first sight
MODES: tuple[Precision, ...] = ("fast", "exact")


@dataclass(frozen=True, slots=True)
class Decision:
    """The model's choice and the plan to be used, the same one unless another won; seconds."""

    model: Plan
    model_seconds: float
    plan: Plan
    seconds: float

    @property
    def changed(self) -> bool:
        """Whether another plan than the model's is used from now on."""
        return self.plan != self.model

    @property
    def gain(self) -> float:
        """How many times as fast as the model's choice."""
        return self.model_seconds / self.seconds if self.changed else 1.0


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found for one layer, of which `names` are the lines, in one layout.

    `decisions` by precision; `seconds` by plan, of each at its last measurement. `wrong`: what was
    not right about a plan's answers. `refused`: why there is no decision. `stored`: other processes
    will see it.
    """

    names: tuple[str, ...]
    layout: str
    decisions: dict[Precision, Decision] = field(default_factory=dict)
    seconds: dict[Plan, float] = field(default_factory=dict)
    wrong: dict[Plan, str] = field(default_factory=dict)
    noise: tuple[str, ...] = ()
    refused: str = ""
    stored: bool = False


def tune(
    layers: Conv | str | Iterable[Conv | str],
    *,
    layouts: Sequence[str] = LAYOUTS,
    seconds: float = 1.0,
    heard: Callable[[Tuned], None] = lambda _: None,
) -> list[Tuned]:
    """Measure every plan of these layers on this machine, and remember what beats konv's choice.

    layers   Convs, lines of text such as "conv2d 1x64x56x56 o64 k3 p1", files of lines; or one
    layouts  of input and output: "contiguous", "channels-last"
    seconds  for each layer and layout; noise may take it four times, and compiling adds to it
    heard    gets what was found as soon as it is there

    Calls from here on, in this process and in those to come, use what was found: their results may
    differ in the last bits from those before. A `plan=` that is given still decides, and a new
    processor, LLVM or konv starts afresh. ProblemError for lines that are none.

    >>> found = tune("conv2d 1x22x8x8 o26 k1", layouts=["contiguous"], seconds=0.01)
    >>> found[0].decisions["fast"].gain >= 1
    True
    """
    unknown = [layout for layout in layouts if layout not in LAYOUTS]
    if unknown or isinstance(layouts, str):
        raise ProblemError(f"layouts={layouts!r} must be some of {list(LAYOUTS)}. Use these names.")
    if not seconds > 0:
        raise ProblemError(f"seconds={seconds!r} must be more than 0. Use 1.0, say.")
    target, found = llvm.detect(), []
    for layout, problems in _groups(_problems(layers), layouts):
        found.append(_tune(problems, target, layout, seconds))
        dispatch.forget()
        heard(found[-1])
    return found


def _problems(layers: Conv | str | Iterable[Conv | str]) -> list[Problem]:
    problems: list[Problem] = []
    for layer in [layers] if isinstance(layers, Conv | str) else layers:
        some = [(str(layer), layer)] if isinstance(layer, Conv) else read([layer])
        problems += [(name, slim(conv)) for name, conv in some]
    if not problems:
        raise ProblemError("Nothing to tune: no layer is given. Use 'conv2d 1x64x56x56 o64 k3 p1'.")
    return problems


def _groups(problems: list[Problem], layouts: Sequence[str]) -> Iterable[tuple[str, list[Problem]]]:
    """The lines of each layer as `choose` sees it, once for each layout."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for name, conv in dict.fromkeys(problems):
        for layout in layouts:
            contiguous = layout == CONTIGUOUS
            text = layer_text(conv, contiguous, contiguous)
            groups.setdefault((layout, text), []).append((name, conv))
    return [(layout, group) for (layout, _), group in groups.items()]


def _tune(problems: list[Problem], target: Target, layout: str, seconds: float) -> Tuned:
    names = tuple(name for name, _ in problems)
    if all(_is_product(conv, layout == LAST) for _, conv in problems):
        return Tuned(names, layout, refused="it is a matrix product, computed in one way")
    conv, contiguous = problems[0][1], layout == CONTIGUOUS
    how = conv, target, contiguous, contiguous
    with precision("fast"):
        plans = offered(*how)
    try:
        bouts = [_Bout(conv, layout) for _, conv in problems]
        every = {plan: [_Call(bout, plan) for bout in bouts] for plan in plans}
    except TROUBLE as error:
        return Tuned(names, layout, refused=f"{type(error).__name__}: {error}")
    wrong = {plan: why for plan in plans for run in every[plan] if (why := run.why_wrong())}
    runs = {plan: _all(every[plan]) for plan in plans if plan not in wrong}
    models = {}
    for mode in MODES:
        with precision(mode):
            models[mode] = modelled(*how), [plan for plan in offered(*how) if plan in runs]
    if any(model not in runs for model, _ in models.values()):
        return Tuned(names, layout, wrong=wrong, refused="the model's own choice is wrong")
    times, noise = _measure(runs, [model for model, _ in models.values()], seconds)
    decisions = {mode: decide(model, able, times) for mode, (model, able) in models.items()}
    stored = [_remember(*how, mode, layout, found) for mode, found in decisions.items()]
    medians = {plan: each.median for plan, each in times.items()}
    return Tuned(names, layout, decisions, medians, wrong, noise, stored=all(stored))


def _is_product(conv: Conv, last: bool) -> bool:
    """Whether calls compute a layer of this size as one, whatever plan was found; of a contiguous
    weight, as what is measured has.
    """
    x, y = (dense_strides(shape, last) for shape in (conv.in_shape, conv.out_shape))
    weight = dense_strides(conv.weight_shape, False)
    return flattened(conv, x, y, weight, llvm.detect()) is not None


def decide(model: Plan, able: Sequence[Plan], times: Mapping[Plan, Times]) -> Decision:
    """The fastest of the plans that may be used, if it beats the model's choice by more than noise:
    by GAIN, and slower than it only in its slowest quarter of calls.
    """
    best, old = min(able, key=lambda plan: times[plan].median), times[model]
    new = times[best]
    if old.median < GAIN * new.median or new.high >= old.low:
        best, new = model, old
    return Decision(model, old.median, best, new.median)


def _remember(
    conv: Conv,
    target: Target,
    packed: bool,
    blocked: bool,
    mode: Precision,
    layout: str,
    found: Decision,
) -> bool:
    """Keep a decision, or forget an older one that was another; whether others will see it."""
    with precision(mode):
        text, plan = layer_text(conv, packed, blocked), found.plan
    if not found.changed:
        tuned.forget(text, target)
        return True
    short = text.partition(",")[0] + (", exact" if mode == "exact" else "")
    words = f"tuned {short}, {layout}: {plan.algorithm} {plan.pixels}x{plan.vectors}"
    return tuned.remember(text, target, repr(plan), words)


def _measure(
    runs: Mapping[Plan, Run], models: Sequence[Plan], seconds: float
) -> tuple[dict[Plan, Times], tuple[str, ...]]:
    """Times of all plans; those near the fastest, and the models', are measured for longer."""
    names = {plan: f"{i} {plan}" for i, plan in enumerate(runs)}  # the timer's: two plans may look
    first = timing.alternate({names[plan]: run for plan, run in runs.items()}, FIRST * seconds)
    times = {plan: first[names[plan]] for plan in runs}
    fastest = min(each.median for each in times.values())
    near = {p: runs[p] for p in runs if p in models or times[p].median <= NEAR * fastest}
    rest = {names[plan]: run for plan, run in near.items()}
    timed = timing.measure(rest, (1 - FIRST) * seconds, team().threads)
    return times | {plan: timed.times[names[plan]] for plan in near}, timed.noise


def _all(calls: Sequence[_Call]) -> Run:
    if len(calls) == 1:
        return calls[0].run

    def run() -> None:
        for call in calls:
            call.run()

    return run


class _Bout:
    """One line in one layout: its arrays, and what is right."""

    def __init__(self, conv: Conv, layout: str) -> None:
        memory.require(conv.bytes, f"input, weight and output of {conv}")
        self.conv, self.last = conv, layout == LAST
        arrays = draw(conv)
        self.right = answers(conv, arrays)
        self.x = last(arrays.x) if self.last else arrays.x
        self.weight, self.bias = arrays.weight, arrays.bias
        y = np.empty(conv.out_shape, conv.dtype)
        self.y = last(y) if self.last else y


class _Call:
    """A bout computed by one plan, its weights packed."""

    def __init__(self, bout: _Bout, plan: Plan) -> None:
        conv, last = bout.conv, bout.last
        plan = of_image(conv, plan, llvm.detect())
        x, y = (dense_strides(shape, last) for shape in (conv.in_shape, conv.out_shape))
        self.bout = bout
        strides = dense_strides(conv.weight_shape, False)
        self.call = Call(conv, x, y, strides, team(), last, last, NOTHING, plan)
        w, b = bout.weight, bout.bias
        self.packed = weights.pack(
            conv, plan, self.call.kernel, w.ctypes.data, strides, b.ctypes.data
        )
        self.at = bout.x.ctypes.data, bout.y.ctypes.data

    def run(self) -> None:
        self.call.run(self.at[0], self.packed, self.at[1])

    def why_wrong(self) -> str | None:
        self.bout.y.fill(np.nan)
        self.run()
        return self.bout.right.why_wrong(self.bout.y)
