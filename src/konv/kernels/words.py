"""The two records a kernel works from, as named 64-bit words.

`JOB` says everything about one convolution at one image size; the runtime fills it once per size
and every thread reads it. `UNIT` is one thread's note of the piece it is working on. Per-axis words
carry the axis as a suffix (`box0`, `box1`, `box2`); layers of fewer dimensions have leading axes of
size 1, or the images of a batch as one of the three (konv.kernels.schedule.together).

An axis is described as geometry.Axis.phases gives it: outputs of phase f are `first + step * j`,
and its tap reads the *raw* source `j * jump + c` - before padding is told from image. A *slot* is a
place for one raw source of the unit at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from konv.llvm import I8, I64, VOID, Function, Module, Number, Pointer, Type, Value, pointer_to

Key = str | tuple[str, int]

AXES = range(3)


def per_axis(*names: str) -> tuple[str, ...]:
    """Each name once for each axis."""
    return tuple(f"{name}{axis}" for name in names for axis in AXES)


JOB = (
    "units",  # pieces of work, handed out to the threads one by one
    "chunks",  # of the output channels: pieces that share a box of pixels
    "far",  # 1 if results go to memory and their places are asked for in advance
    "even",  # 1 if no axis is sparse and a packed image has little padding (konv.kernels.schedule)
    "mode",  # padding: 0 zeros, 1 reflect, 2 replicate, 3 circular
    "lies",  # 1 if the image is read where it lies (konv.kernels.in_place)
    "groups", "ci", "co",  # channels of one group
    "channels",  # output channels of a group; where `co` counts the columns that are made of them
    "reduction",  # numbers of packed weights for each of `co`
    "run",  # taps of the last axis that are taken as one tap of so many more channels
    "passes", "share",  # over the channels of a group, and how many each takes
    "held",  # channels of all groups, of a pass or of a vector, that a packed image has of a pixel
    "sliced",  # 1 if those are not all, but begin with the unit's `from`
    "asks",  # 1 if weights come from memory and a block's are asked for in advance
    "blocks", "tail",  # full blocks of output channels a group; vectors in one more, other block
    "chunk_blocks",  # blocks (the last one included) in a chunk
    "x_batch", "y_batch",  # strides, in elements; 0 if images are an axis
    "x_channel", "y_channel",
    "thread_bytes",  # scratch of one thread; then where its parts begin, in bytes:
    "at_zeros", "at_taps", "at_rows", "at_counts", "at_places", "at_image", "at_block",
    "at_sums", "at_lines",
    *per_axis(
        "size",  # of the input
        "x_stride", "y_stride",  # in elements
        "count",  # j runs below this, over all phases
        "outputs",  # of all phases
        "box", "boxes",  # js in a unit, and units along the axis
        "jump", "least", "span",  # raw source = j * jump + c, with least <= c <= least + span
        "step",  # outputs of one phase lie this far apart
        "phases", "at_phases",  # how many; word of the job where their records begin
        "ahead", "first_slots",  # slots from one j to the next, and of the first j
        "at_raws",  # word where the sources of a box's slots begin, counted from its first
        "apart",  # bytes from one slot to the next in a packed image
        "at_slots",  # bytes into the thread's scratch
    ),
)  # fmt: skip

# A phase's record in the job: first output, number of outputs, number of taps, word where their
# triples begin: number of the tap in the kernel, its slot, its raw source, both counted from a j's.
PHASE = ("first", "outputs", "reach", "at_triples")
TRIPLE = ("tap", "slot", "raw")

UNIT = (
    "x", "y", "weights", "scratch",  # addresses: image, result, packed weights, thread's scratch
    "residual",  # bytes from a result to what is added to it
    "skip",  # 1 if taps that lie wholly in the padding may be left out
    "block0", "block1",  # output channel blocks to compute
    "taps", "tiles", "pixels",  # of the phase at hand
    "lie", "end",  # pixels of a row from which on, and up to which, an image is read where it lies
    "left", "right",  # slots of a row up to which, and from which on, it is packed
    "from", "some",  # first channel of a group in the pass at hand, and how many
    "begun", "ends",  # 0 in the first pass, 1 in the last; else 1 and 0
    *per_axis(
        "j", "length",  # first j of the unit, and how many in the phase at hand
        "raw", "slots",  # first raw source of the unit, and how many
        "phase",  # word of the job where the record of the phase at hand begins
        "first",  # its first output
    ),
)  # fmt: skip


class Words:
    """Named words behind a pointer: `job["units"]`, `job["box", axis]`, `unit["x"] = value`.

    `frozen` words do not change while the function runs: each is read once, where the function is
    entered.
    """

    def __init__(self, pointer: Pointer, names: Sequence[str], frozen: bool = False) -> None:
        self.base = pointer.cast(I64)
        self.index = {name: i for i, name in enumerate(names)}
        self.read: dict[int, Value] | None = {} if frozen else None

    def _at(self, key: Key) -> int:
        return self.index[key if isinstance(key, str) else f"{key[0]}{key[1]}"]

    def __getitem__(self, key: Key) -> Value:
        at = self._at(key)
        if self.read is None:
            return self.base[at]
        if at not in self.read:
            with self.base.f.b.at_entry():
                self.read[at] = self.base[at]
        return self.read[at]

    def __setitem__(self, key: Key, value: Value | Number) -> None:
        self.base[self._at(key)] = value

    def pointer(self, key: Key, element: Type) -> Pointer:
        """The word seen as an address of elements."""
        return self[key].to_pointer(element)


class Piece:
    """What a part of a kernel is given: the job and the unit, and where the unit's scratch parts
    are.
    """

    def __init__(self, job: Words, unit: Words) -> None:
        self.job, self.unit = job, unit

    def part(self, key: Key, element: Type) -> Pointer:
        """A part of this thread's scratch, by the job's word for where it begins."""
        return (self.unit.pointer("scratch", I8) + self.job[key]).cast(element)

    def phase(self, axis: int) -> Words:
        """The record of the phase at hand."""
        return Words(self.job.base + self.unit["phase", axis], PHASE)


@contextmanager
def part_function(
    module: Module,
    name: str,
    extra: Sequence[str] = (),
    *,
    writes: bool = False,
    returns: Type = VOID,
    cold: bool = False,
    plain: bool = False,
    records: tuple[Sequence[str], Sequence[str]] = (JOB, UNIT),
) -> Iterator[tuple[Function, Piece, list[Value]]]:
    """A function `name(job, unit, *extra)`, compiled apart: LLVM takes ten small functions in a
    third of the time of one large one. `writes`: it changes words of the unit, so it reads them
    anew each time. `cold`, `plain`: as of Routine.
    `records`: the names of the words of a job and of a unit.
    """
    params = [
        ("job", pointer_to(I64)),
        ("unit", pointer_to(I64)),
        *((label, I64) for label in extra),
    ]
    with module.function(name, params, returns, inline=False, cold=cold, plain=plain) as (f, args):
        job = Words(args[0], records[0], frozen=True)
        piece = Piece(job, Words(args[1], records[1], frozen=not writes))
        yield f, piece, args[2:]
