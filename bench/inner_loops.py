"""What llvm-mca predicts for the main inner loops of konv's kernels, on machines that need not be
here: kernels are cross-compiled, their loops found in the assembly, and simulated.

python bench/inner_loops.py                      prints the tables of docs/inner-loops.md
python bench/inner_loops.py --write              puts them there
python bench/inner_loops.py --show znver4 planar prints one loop, as it is simulated

llvm-mca belongs to LLVM (on Debian and Ubuntu: apt-get install llvm-19); the newest one on PATH is
used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from konv.geometry import Conv  # noqa: E402 - from this clone, installed or not
from konv.kernels import by_name  # noqa: E402
from konv.llvm import assembly, describe  # noqa: E402
from konv.plan import Plan  # noqa: E402

DOCUMENT = ROOT / "docs" / "inner-loops.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
LINUX, ARM, APPLE = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "arm64-apple-macosx"


@dataclass(frozen=True)
class Core:
    """LLVM's name, its triple, and multiply-adds of a whole register a cycle, by its maker."""

    cpu: str
    triple: str
    peak: float
    remark: str


CORES = (
    Core("znver4", LINUX, 1, "two pipes of 256 bits"),
    Core("skylake-avx512", LINUX, 2, "as in servers"),
    Core("haswell", LINUX, 2, ""),
    Core("neoverse-v1", ARM, 4, "NEON, not SVE"),
    Core("apple-m1", APPLE, 4, "the model is that of Cyclone, of 2013"),
)

# What stands in the table, the algorithm, a layer for it, and whether its images are contiguous.
KERNELS = (
    ("direct, 3x3", "direct", "conv2d 1x64x56x56 o64 k3 p1", False),
    ("winograd, products", "winograd", "conv2d 1x64x56x56 o64 k3 p1", True),
    ("planar, 7x7 of 3 channels", "planar", "conv2d 1x3x224x224 o64 k7 s2 p3", True),
    ("panels, 1x1", "panels", "conv2d 1x256x56x56 o64 k1", True),
    ("abreast, 3x3 of 4 channels", "abreast", "conv2d 1x128x56x56 o128 k3 p1 g32", True),
    ("planes, depthwise 3x3", "planes", "conv2d 1x64x56x56 o64 k3 p1 g64", True),
    ("planes, 3x3 of broad images", "planes", "conv2d 1x64x256x256 o64 k3 p1 g64", True),
    ("pencils, depthwise 3x3", "pencils", "conv2d 1x64x56x56 o64 k3 p1 g64", False),
    ("upright, depthwise 7x7", "upright", "conv2d 1x96x56x56 o96 k7 p3 g96", False),
    ("fourier, depthwise 31x31", "fourier", "conv2d 1x64x56x56 o64 k31 p15 g64", True),
    ("spectra, 7x7", "spectra", "conv2d 1x64x56x56 o64 k7 p3", True),
    ("subpixel, transposed 4x4", "subpixel", "tconv2d 1x64x32x32 o3 k4 s2 p1", True),
    ("interleave, transposed 4x4", "interleave", "tconv2d 1x64x32x32 o3 k4 s2 p1", True),
)
# Functions that run once for a weight, not for an image.
OTHERS = {"pack", "pack_work", "filters", "weight_column", "taps_in"}

LABEL = re.compile(r"^([.$\w]+):")
JUMP = re.compile(r"^(?:j\w+|b|b\.\w+|b\w{2}|cbn?z|tbn?z)\s.*?([.$\w]+)$")
LOCAL = re.compile(r"(?<![\w.])\.?[Ll](?:BB|CPI)\w+")
ALWAYS = re.compile(r"^(?:jmp|b|ret\w*|br|ud2|brk)\b(?!\.)")
MULTIPLY_ADD = re.compile(r"v?fn?m(?:add|sub|la|ls)")

Block = list[str]


def functions(text: str) -> dict[str, list[Block]]:
    """Blocks of each function, each beginning with its label; without directives and comments."""
    found: dict[str, list[Block]] = {}
    blocks: list[Block] = []
    for raw in text.splitlines():
        label = LABEL.match(raw)
        line = re.split(r"\s(?:##?|//|;|@)\s", raw.strip())[0].strip()
        if label and not re.match(r"^\.?L", raw):
            blocks = found.setdefault(label[1].removeprefix("_"), [])
        if label:
            blocks.append([line])
        elif raw.startswith("\t") and line and not line.startswith((".", "#", ";")):
            if JUMP.match(blocks[-1][-1]):  # what follows a jump is a block of its own
                blocks.append([f"-{len(blocks)}:"])
            blocks[-1].append(line)
    return found


def successors(blocks: list[Block]) -> list[set[int]]:
    """For each block the numbers of those that may follow."""
    at = {block[0].rstrip(":"): i for i, block in enumerate(blocks)}
    found = []
    for i, block in enumerate(blocks):
        jump = JUMP.match(block[-1])
        after = {at[jump[1]]} if jump and jump[1] in at else set()
        if not ALWAYS.match(block[-1]) and i + 1 < len(blocks):
            after.add(i + 1)
        found.append(after)
    return found


def loops(blocks: list[Block]) -> dict[int, set[int]]:
    """Natural loops: the blocks of each, by the block that they begin with."""
    after = successors(blocks)
    before = [{i for i, next_ in enumerate(after) if j in next_} for j in range(len(blocks))]
    every = set(range(len(blocks)))
    dominators = [{0} if not i else every for i in range(len(blocks))]
    changed = True
    while changed:
        changed = False
        for i in range(1, len(blocks)):
            new = {i} | (
                set.intersection(*(dominators[j] for j in before[i])) if before[i] else set()
            )
            changed, dominators[i] = changed or new != dominators[i], new
    found: dict[int, set[int]] = {}
    for last, next_ in enumerate(after):
        for head in next_ & dominators[last]:
            body, waiting = found.setdefault(head, {head}), [last]
            while waiting:
                block = waiting.pop()
                if block not in body:
                    body.add(block)
                    waiting += before[block]
    return found


def multiply_adds(lines: list[str]) -> int:
    """How many instructions multiply and add."""
    return sum(MULTIPLY_ADD.match(line) is not None for line in lines)


def main_loop(blocks: list[Block]) -> list[str]:
    """Of the loops without another one inside that multiplies, the way round with most
    multiply-adds, as a straight run of instructions; of equal ways the shortest.
    """
    after, every = successors(blocks), loops(blocks)
    ways = []
    for head, body in every.items():
        inner = (other for other in every if other != head and other in body)
        if any(multiply_adds(blocks[i]) for other in inner for i in every[other] & body):
            continue
        ways.append(_heaviest(blocks, after, head, body))
    return max(ways, key=lambda way: (multiply_adds(way), -len(way)), default=[])


def _heaviest(blocks: list[Block], after: list[set[int]], head: int, body: set[int]) -> list[str]:
    """The heaviest way from the head of a loop back to it; inner loops are passed once."""
    known: dict[int, list[int] | None] = {}

    def weight(way: list[int]) -> tuple[int, int]:
        lines = [line for i in way for line in blocks[i][1:]]
        return multiply_adds(lines), -len(lines)

    def onwards(block: int, on_the_way: frozenset[int]) -> list[int] | None:
        if block not in known:
            ends = [[]] if head in after[block] else []
            inside = (after[block] & body) - on_the_way - {head, block}
            rest = (onwards(other, on_the_way | {block}) for other in sorted(inside))
            ways = [*ends, *(way for way in rest if way is not None)]
            known[block] = [block, *max(ways, key=weight)] if ways else None
        return known[block]

    return [line for i in onwards(head, frozenset()) or [] for line in blocks[i][1:]]


def kernel_loop(algorithm: str, line: str, contiguous: bool, core: Core) -> tuple[Plan, list[str]]:
    """The first plan of an algorithm for a layer on a core, and the main loop of its kernel."""
    target, how = describe(core.triple, core.cpu, ""), by_name(algorithm)
    plan = how.plans(Conv.parse(line), target, contiguous, contiguous)[0]
    found = functions(assembly(how.emit(plan, target)))
    ways = [main_loop(blocks) for name, blocks in found.items() if name not in OTHERS]
    return plan, max(ways, key=lambda way: (multiply_adds(way), -len(way)))


@dataclass(frozen=True)
class Predicted:
    """Of an iteration: cycles, operations dispatched, and cycles that each unit is busy."""

    cycles: float
    operations: float
    width: int
    busy: dict[str, float]

    @property
    def busiest(self) -> str:
        """The unit that is busy for longest."""
        return max(self.busy, key=lambda unit: self.busy[unit])


def simulate(core: Core, lines: list[str]) -> Predicted:
    """What llvm-mca says of a loop that goes on for long."""
    short, long = (json.loads(_mca(core, lines, n, "--json")) for n in (100, 300))
    summary = [each["CodeRegions"][0]["SummaryView"] for each in (short, long)]
    cycles = (summary[1]["TotalCycles"] - summary[0]["TotalCycles"]) / 200
    names = [  # where there are several of a kind, their number comes as a character
        re.sub(r"[\0-\x1f]", lambda number: str(ord(number[0])), name)
        for name in long["TargetInfo"]["Resources"]
    ]
    pressure = long["CodeRegions"][0]["ResourcePressureView"]["ResourcePressureInfo"]
    last = max((one["InstructionIndex"] for one in pressure), default=0)  # of all instructions
    of_all = [one for one in pressure if one["InstructionIndex"] == last]
    busy = {names[one["ResourceIndex"]]: one["ResourceUsage"] for one in of_all}
    operations = summary[1]["TotaluOps"] / summary[1]["Iterations"]
    return Predicted(cycles, operations, summary[1]["DispatchWidth"], busy)


def waits(core: Core, lines: list[str]) -> bool:
    """Whether a loop waits for numbers more than for units, as llvm-mca sees it."""
    text = _mca(core, lines, 300, "--bottleneck-analysis")
    found = [
        re.search(rf"{name}:?\s+\[ *([\d.]+)%", text)
        for name in ("Data Dependencies", "Resource Pressure")
    ]
    data, units = (float(match[1]) if match else 0.0 for match in found)
    return data > units


def _mca(core: Core, lines: list[str], iterations: int, how: str) -> str:
    labels = sorted({name for line in lines for name in LOCAL.findall(line)})
    text = "".join(f"{line}\n" for line in [*(f"{name}:" for name in labels), *lines])
    words = [tool(), f"-mtriple={core.triple}", f"-mcpu={core.cpu}", f"-iterations={iterations}"]
    done = subprocess.run([*words, how], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"llvm-mca cannot read a loop for {core.cpu}:\n{done.stderr}")
    return done.stdout


def tool() -> str:
    """The newest llvm-mca on PATH."""
    found = {}
    for folder in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        for path in Path(folder).glob("llvm-mca-[0-9]*"):
            found[int(path.name.rpartition("-")[2])] = str(path)
    newest = found[max(found)] if found else shutil.which("llvm-mca")
    if not newest:
        sys.exit("llvm-mca is not on PATH. It belongs to LLVM: apt-get install llvm-19, say.")
    return newest


def multiply_add_units(core: Core) -> tuple[set[str], float]:
    """The units that the model has for multiply-adds, and how many of these it does a cycle, on ARM
    with a lane as an operand, of which Cyclone's model allows more.
    """
    name = {16: "xmm", 32: "ymm", 64: "zmm"}[describe(core.triple, core.cpu, "").vector_bytes]
    if core.triple == LINUX:
        lines = [f"vfmadd231ps %{name}14, %{name}15, %{name}{i}" for i in range(12)]
    else:
        lines = [f"fmla v{i}.4s, v30.4s, v15.s[0]" for i in range(24) if i != 15]
    busy = simulate(core, lines).busy
    return set(busy), len(busy) * len(lines) / sum(busy.values())


def limit(core: Core, lines: list[str], found: Predicted, units: set[str], share: float) -> str:
    """What keeps a loop from being faster."""
    unit = found.busiest
    if share >= 0.97:
        return "multiply-adds"
    if found.busy[unit] >= 0.95 * found.cycles:
        return (
            "units of multiply-adds, with other work" if unit in units else f"{unit}, always busy"
        )
    if found.operations >= 0.95 * found.width * found.cycles:
        return f"dispatch, {found.width} operations a cycle"
    why = "waits for sums" if waits(core, lines) else "uneven use of units"
    return f"{why}; {unit} is busy for {found.busy[unit] / found.cycles:.0%}"


def table(core: Core) -> list[str]:
    """The section of a core."""
    units, peak = multiply_add_units(core)
    told = f" ({core.remark})" if core.remark else ""
    bits = 8 * describe(core.triple, core.cpu, "").vector_bytes
    made = [
        f"## {core.cpu}", "",
        f"{bits} bits a register. Multiply-adds of a register a cycle: {core.peak:g} by its maker"
        f"{told}, {peak:.3g} in LLVM's model.", "",
        "| kernel | tile | multiply-adds | instructions | cycles | share of peak | limited by |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]  # fmt: skip
    for label, algorithm, line, contiguous in KERNELS:
        plan, lines = kernel_loop(algorithm, line, contiguous, core)
        found, adds = simulate(core, lines), multiply_adds(lines)
        share = adds / found.cycles / peak
        made.append(
            f"| {label} | {plan.pixels}x{plan.vectors} | {adds} | {len(lines)} "
            f"| {found.cycles:.1f} | {share:.0%} | {limit(core, lines, found, units, share)} |"
        )
    return made


def main(words: list[str]) -> None:
    """Print or write the tables, or print a loop."""
    if words[:1] == ["--show"] and len(words) == 3:
        core = next(core for core in CORES if core.cpu == words[1])
        _, *rest = next(kernel for kernel in KERNELS if kernel[1] == words[2])
        print("\n".join(kernel_loop(*rest, core)[1]))
        return
    if words not in ([], ["--write"]):
        sys.exit(__doc__)
    text = "\n\n".join("\n".join(table(core)) for core in CORES)
    if not words:
        print(text)
        return
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
