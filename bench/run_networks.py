"""Whole networks: konv beside PyTorch and what else is installed, in one run.

python bench/run_networks.py                     frozen inference of one image, six networks
python bench/run_networks.py --training          a training step of 8 images
python bench/run_networks.py resnet50 --layers   what each convolution took, by konv and PyTorch
python bench/run_networks.py --json FILE         keeps the figures there; given the file, shows it

Every output is compared with PyTorch's before anything is timed; who is wrong is not timed. Times
are medians of calls that take turns (konv.bench.timing). PyTorch runs in both memory formats; the
ratio is to the faster of the two. "left to PyTorch": the share of the convolutions' time, layer by
layer as konv.accelerate has measured it, of those that PyTorch goes on computing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import exp, log
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from networks import NETWORKS, inference, training

import konv.nn
from konv.bench import timing
from konv.bench.machine import describe
from konv.runtime.threads import get_num_threads

OURS, THEIRS = "konv", ("torch contiguous", "torch channels-last")
BATCH = 8  # images of a training step


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, or show a file of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"{', '.join(NETWORKS)}, or a file to show")
    parser.add_argument("--training", action="store_true", help="a training step of 8 images")
    parser.add_argument("--peers", default="", help="besides PyTorch: all, or names with commas")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for a network")
    parser.add_argument("--layers", action="store_true", help="show the report of konv too")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args(arguments)
    if given.names and given.names[0].endswith(".json"):
        show(json.loads(Path(given.names[0]).read_text("utf-8")))
        return
    unknown = [name for name in given.names if name not in NETWORKS]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(NETWORKS)}")
    found: dict[str, Any] = {
        "what": f"training step, batch {BATCH}" if given.training else "inference, batch 1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(inference.PEERS),
        "threads": get_num_threads(),
        "rows": [],
    }
    before = json.loads(given.json.read_text("utf-8")) if given.json and given.json.exists() else {}
    if before.get("what") == found["what"]:  # other networks' rows stay
        wanted = given.names or NETWORKS
        found["rows"] = [row for row in before["rows"] if row["name"] not in wanted]
    for row in measured(given):
        found["rows"].append(row)
        print(line(row), flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(closing(found["rows"]))


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each network."""
    wanted = tuple(inference.PEERS) if given.peers == "all" else tuple(given.peers.split(","))
    for name in given.names or NETWORKS:
        network = NETWORKS[name]
        if given.training:
            runs, wrong, model = training.runs(network, BATCH, "compiled" in wanted)
        else:
            runs, wrong, model = inference.runs(network, wanted)
        report = konv.nn.report(model)
        if given.layers:
            print(report)
        timed = timing.measure(runs, given.budget, get_num_threads(), pause=timing.settle)
        yield {
            "name": name,
            "left": report.left_share,
            "wrong": wrong,
            "noise": timed.noise,
            "times": {who: asdict(times) for who, times in timed.times.items()},
        }


def ratio(row: dict[str, Any]) -> float:
    """How many times as fast as PyTorch in its faster format konv is."""
    times = {who: each["median"] for who, each in row["times"].items()}
    return min(times[each] for each in THEIRS) / times[OURS] if OURS in times else float("nan")


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    times = [f"{who} {each['median'] * 1e3:.2f}" for who, each in row["times"].items()]
    wrong = [f"{who}: {why}" for who, why in row["wrong"].items()]
    left = (
        [f"{row['left']:.0%} of the convolutions' time left to PyTorch"]
        if row.get("left") is not None
        else []
    )
    noise = [f"noisy: {'; '.join(row['noise'])}"] if row["noise"] else []
    return "  ".join([f"{row['name']:20} {ratio(row):5.2f}x  ms:", *times, *left, *wrong, *noise])


def closing(rows: list[dict[str, Any]]) -> str:
    """The mean of the ratios."""
    ratios = [ratio(row) for row in rows if ratio(row) > 0]
    mean = exp(sum(map(log, ratios)) / len(ratios)) if ratios else float("nan")
    return f"geometric mean of {len(ratios)} networks: {mean:.2f} times PyTorch's better format"


def show(found: dict[str, Any]) -> None:
    """A file that was kept, as it was printed."""
    print(f"{found['what']}, {found['threads']} threads, {found['date']}")
    print("\n".join(f"{key}: {value}" for key, value in found["machine"].items()))
    print("\n".join(map(line, found["rows"])))
    print(closing(found["rows"]))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
