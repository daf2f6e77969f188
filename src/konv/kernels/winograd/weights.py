"""U: weights transformed, once for each layer.

    [group][block of co][point][tap across planes][ci][vector of co][lane], then biases
    [group][vector of co][lane]

Transformed in double precision and rounded once, as each number is used many times. The last
vector of output channels begins earlier, as in konv.kernels.winograd.parts.

The points of a filter lie far apart and often fall in the same set of a cache: written straight to
their places each takes a line from memory and leaves half of it. So some input channels of a whole
block are gathered near by, and leave in runs (512->256 4x4 of 36 points: 2.9 ms instead of 4.8).
Much of it leaves past the caches, which else read each line from memory before it is written: 512
channels of 3x3 from 2.2 to 1.5 ms, 256 from 0.94 to 0.72. Of 128->64 4x4, 3 MB, packing gained
nothing, and the call lost a fifth: what stays in a cache is read from there (Zen 3, two threads).
"""

from __future__ import annotations

from konv.kernels.pack import HEADER, Arguments, emit_pack
from konv.kernels.packing import transpose
from konv.kernels.winograd.count import HALVED, WIDE
from konv.kernels.winograd.parts import offset
from konv.kernels.winograd.transforms import Pair
from konv.llvm import F32, F64, I64, SIZE, Function, Module, Pointer, Routine, Value, pointer_to

SIDE = 8  # of a square
TOGETHER = SIDE  # input channels that are gathered together, unless a stack has no room for more
STACK = 128 * 1024  # bytes of it for their points
PAST = 4 * 1024 * 1024  # bytes of U from which on it goes past the caches


def emit_weights(module: Module, transforms: Pair, nr: int, tail: int) -> None:
    """Add `pack`: a unit is a block of output channels, of nr vectors or, at the end, of `tail`."""
    lanes, head = module.target.lanes("float32"), HEADER // SIZE[F32]
    over, along = transforms
    taps, points = over.r * along.r, over.n * along.n
    filters, gather = emit_filters(module, transforms), _emit_gather(module, taps)
    ahead = _emit_ahead(module, taps)
    together = TOGETHER
    while together > 1 and together * points * nr * lanes * SIZE[F32] > STACK:
        together //= 2
    run = together * nr * lanes
    leave = emit_leave(module, points, run)

    def sizes(f: Function, a: Arguments) -> tuple[Value, Value, Value, Value]:
        return counted(f, (a["co"] + (lanes - 1)) // lanes, nr, tail)

    def units(f: Function, a: Arguments) -> Value:
        vectors, some, full, narrow = sizes(f, a)
        groups: Value = a["groups"]
        return groups * (vectors // some) * (full + narrow)

    def body(f: Function, a: Arguments, unit: Value) -> None:
        a["packed"].cast(I64)[0] = 0  # nothing here leaves out taps, whatever the weights
        vectors, some, full, narrow = sizes(f, a)
        co, ci, blocks = a["co"], a["ci"], full + narrow
        numbers = f.array(F32, together * taps * lanes)
        near = f.array(F32, points * run)
        halves = vectors // some
        g, block, deep = unit // (halves * blocks), unit % (halves * blocks), a["taps"] // taps
        at = block % blocks
        wide = f.select(at < full, f.integer(nr), tail)
        first = block // blocks * some + at * nr - f.most(at - full, 0) * (nr - tail)
        out = a["packed"] + (g * vectors + first) * ci * deep * (points * lanes) + head
        size = a["groups"] * vectors * ci * deep * (points * lanes * SIZE[F32])
        past = f.select(size > PAST, f.integer(1), 0)
        with f.loop(deep) as tap, f.loop(ci, step=together) as c:
            count = f.least(ci - c, together)
            with f.loop(wide) as n:
                channel = offset(f, first + n, co, lanes)
                source = a["weights"] + (g * a["by_group"] + channel * a["by_co"] + c * a["by_ci"])
                source = source + tap * taps * a["by_tap"]
                strides = a["by_co"], a["by_ci"], a["by_tap"]
                f.call(ahead, [source + a["by_ci"] * together, *strides])
                f.call(gather, [source, numbers, count, *strides])
                with f.loop(count) as i:
                    to = near + (i * wide + n) * lanes
                    f.call(filters, [numbers + i * (taps * lanes), to, f.integer(run)])
            to = out + (tap * ci + c) * wide * lanes
            f.call(leave, [near, to, deep * ci * wide * lanes, count * wide * lanes, past])
        f.fence()
        biases = a["packed"] + size // SIZE[F32] + head
        with f.loop(wide) as n:
            channel = offset(f, first + n, co, lanes)
            to = biases + (g * vectors + first + n) * lanes
            with f.loop(lanes) as lane:
                to[lane] = 0.0
                with f.when(a["bias"].address().differs(0)):
                    # + 0 turns -0 into 0, and no sum with what is not -0 is -0
                    to[lane] = a["bias"][g * co + channel + lane] + 0.0

    emit_pack(module, "float32", units, body, cold=True)


def emit_leave(module: Module, points: int, run: int) -> Routine:
    """leave(near, out, apart, count, past): the first `count` of the `run` numbers of each point go
    where they belong; `apart`: from one point to the next; `past` the caches if not 0.
    """
    lanes = module.target.lanes("float32")
    params = [("near", pointer_to(F32)), ("out", pointer_to(F32))]
    params += [(name, I64) for name in ("apart", "count", "past")]
    with module.function("leave", params, inline=False, plain=True) as (f, args):
        near, out, apart, count, past = args
        with f.loop(points) as point:
            source, to = near + point * run, out + point * apart
            with f.choose(past.differs(0)) as (streams, stays):
                with streams, f.loop(count, step=lanes) as at:
                    f.stream(to, at, (source + at).vector(0, lanes))
                with stays, f.loop(count, step=lanes) as at:
                    f.prefetch(to + (at + count), write=True)
                    to.put(at, (source + at).vector(0, lanes))
        return f.fn


def counted(f: Function, vectors: Value, nr: int, tail: int) -> tuple[Value, Value, Value, Value]:
    """Output channels of a group in vectors, those of a half, which may be all, and the blocks of
    that, full and narrow: as konv.kernels.winograd.count says.
    """
    some = vectors
    if nr == WIDE:
        halved = (vectors >= HALVED) & (vectors % (2 * WIDE)).equals(WIDE + 1)
        some = f.select(halved, vectors // 2, vectors)
    narrow = f.integer(0)
    if tail:
        one = (some % nr).equals(tail)
        narrow = f.select(one, f.integer(1), 2)
    return vectors, some, (some - narrow * tail) // nr, narrow


def _emit_gather(module: Module, taps: int) -> Routine:
    """gather(source, to, count, by_co, by_ci, by_tap): `count` input channels, [ci][tap][lane].

    Output channels that lie side by side are copied; squares of those and of what lies side by side
    instead, taps or input channels, are turned.
    """
    lanes = module.target.lanes("float32")
    params = [("source", pointer_to(F32)), ("to", pointer_to(F32))]
    params += [(name, I64) for name in ("count", "by_co", "by_ci", "by_tap")]
    turned = _emit_turned(module) if lanes >= SIDE else None
    with module.function("gather", params, inline=False, plain=True) as (f, args):
        source, to, count, by_co, by_ci, by_tap = args

        def square(corner: Pointer, out: Pointer, step: Value | int) -> None:
            if turned:
                f.call(turned, [corner, out, by_co, step * lanes])

        def one_by_one(corner: Pointer, out: Pointer) -> None:
            for lane in range(lanes):
                out[lane] = corner[by_co * lane]

        beside = by_co.equals(1)
        with f.when(beside), f.loop(count) as c, f.loop(taps) as t:
            line = source + (c * by_ci + t * by_tap)
            to.put((c * taps + t) * lanes, line.vector(0, lanes))
        across = by_ci.equals(1)
        # Taps of one input channel behind those of another are one run, with none left over.
        through = by_tap.equals(1) & by_ci.equals(taps)
        even = (across | through) & count.equals(SIDE) & (lanes >= SIDE)
        next_in, next_out = f.select(across, by_tap, SIDE), f.select(across, f.integer(1), SIDE)
        step = f.select(across, f.integer(taps), 1)
        with f.when(beside.equals(0)), f.choose(even) as (yes, no):
            with yes, f.loop(taps) as t:
                square(source + t * next_in, to + t * next_out * lanes, step)
            with no, f.loop(count) as c:
                own, out, done = source + c * by_ci, to + c * (taps * lanes), f.var(0)
                if taps >= SIDE and lanes >= SIDE:
                    with f.when(by_tap.equals(1)):
                        with f.loop(taps - (SIDE - 1), step=SIDE) as t:
                            square(own + t, out + t * lanes, 1)
                        done.set(taps & -SIDE)
                    with f.when(by_tap.equals(-1)):
                        with f.loop(taps - (SIDE - 1), step=SIDE) as t:
                            square(own + (0 - t - (SIDE - 1)), out + (t + (SIDE - 1)) * lanes, -1)
                        done.set(taps & -SIDE)
                with f.loop(taps, start=done.get()) as t:
                    one_by_one(own + t * by_tap, out + t * lanes)
        return f.fn


def _emit_ahead(module: Module, taps: int) -> Routine:
    """ahead(source, by_co, by_ci, by_tap): ask for what `gather` reads of some input channels, by
    the two of three ways through it on which numbers lie apart.
    """
    lanes = module.target.lanes("float32")
    params = [("source", pointer_to(F32)), ("by_co", I64), ("by_ci", I64), ("by_tap", I64)]
    with module.function("ahead", params, inline=False, plain=True) as (
        f,
        (source, by_co, by_ci, by_tap),
    ):
        beside, side = by_co.equals(1), f.integer(TOGETHER)
        near = by_tap.equals(1) | by_tap.equals(-1)
        first = f.select(beside, side, f.integer(lanes)), f.select(beside, by_ci, by_co)
        second = f.select(near, side, f.integer(taps)), f.select(near, by_ci, by_tap)
        with f.loop(first[0]) as i, f.loop(second[0]) as j:
            f.prefetch(source + (i * first[1] + j * second[1]))
        return f.fn


def _emit_turned(module: Module) -> Routine:
    """turned(corner, out, by_co, step): SIDE neighbours from the corner on of every lane, `step`
    numbers apart in `out`. There are three places for it, which took LLVM 20 ms more.
    """
    params = [("corner", pointer_to(F32)), ("out", pointer_to(F32)), ("by_co", I64), ("step", I64)]
    with module.function("turned", params, inline=False, plain=True) as (
        f,
        (corner, out, by_co, step),
    ):
        for half in range(0, module.target.lanes("float32"), SIDE):
            rows = [(corner + by_co * (half + i)).vector(0, SIDE) for i in range(SIDE)]
            place = out
            for column in transpose(f, rows):
                place.put(half, column)
                place = place + step
        return f.fn


def emit_filters(module: Module, transforms: Pair) -> Routine:
    """filters(g, to, apart): G g G' of a vector of filters; `apart`: from one point to the next."""
    lanes = module.target.lanes("float32")
    over, along = transforms
    params = [("g", pointer_to(F32)), ("to", pointer_to(F32)), ("apart", I64)]
    with module.function("filters", params, inline=False) as (f, (g, to, apart)):
        half = f.array(F64, over.n * along.r * lanes)
        with f.loop(along.r) as s:
            column = g + s * lanes
            values = [_wide(f, column, r * along.r * lanes, lanes) for r in range(over.r)]
            for i, value in enumerate(over.emit_filters(f, values)):
                half.put(s * lanes + i * along.r * lanes, value)
        with f.loop(over.n) as r:
            line = half + r * (along.r * lanes)
            values = [line.vector(s * lanes, lanes) for s in range(along.r)]
            place = to + r * along.n * apart
            for i, value in enumerate(along.emit_filters(f, values)):
                place.put(apart * i, _narrow(f, value))
        return f.fn


def _wide(f: Function, p: Pointer, at: int, lanes: int) -> Value:
    """A vector of floats as doubles."""
    return f.extend(p.vector(at, lanes), F64)


def _narrow(f: Function, value: Value) -> Value:
    return f.shorten(value, F32)
