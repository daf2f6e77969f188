"""Threads: every unit once, whoever the threads belong to, and whatever happens to the process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
from runtime import scenarios
from runtime.counting import Counting

from konv.errors import ProblemError
from konv.runtime import pool, threads
from konv.runtime.cores import allowed
from konv.runtime.pool import Pool

OWN, BOTH = ("own",), ("own", "openmp")


def play(name: str, kind: str, **environment: str) -> float:
    """Play a scenario in a process of its own; the seconds that it took to end when done.

    Who hangs would do so for ever: the time allowed tells that from a machine that is busy.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    program = f"from runtime.scenarios import play; play({name!r}, {kind!r})"
    root = Path(scenarios.__file__).parents[2]
    path = os.pathsep.join((str(root / "src"), str(root / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    end = time.monotonic()
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}{done.stderr}"
    assert not done.stderr, done.stderr
    return end - float(done.stdout.split()[-1])


def both(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "kind"), [(n, k) for n in names for k in BOTH])


@both("every_unit_once", "all_take_part", "many_callers", "nested", "pauses")
def test_every_unit_is_done_once(name: str, kind: str) -> None:
    play(name, kind)


@both("fork", "interrupt", "flush_to_zero")
def test_what_happens_to_a_process_breaks_nothing(name: str, kind: str) -> None:
    play(name, kind)


@both("parked", "end_in_a_call")
def test_a_process_ends_at_once(name: str, kind: str) -> None:
    assert play(name, kind) < 2.5  # a second, and what a busy machine adds


@pytest.mark.parametrize("name", ["grow", "leave_in_a_call", "half_imported"])
def test_our_own_pool_comes_and_goes(name: str) -> None:
    play(name, "own")


@pytest.mark.parametrize("kind", BOTH)
def test_openmp_variables(kind: str) -> None:
    play("every_unit_once", kind, OMP_NUM_THREADS="3", OMP_DYNAMIC="true", OMP_THREAD_LIMIT="2")


def test_openmp_gives_fewer_threads_than_asked_for() -> None:
    play("openmp_gives_one", "openmp", OMP_THREAD_LIMIT="1")
    play("openmp_gives_fewer", "openmp", OMP_DYNAMIC="true")


def test_torch_never_imported() -> None:
    play("torch_never", "own")


def test_torch_imported_after_our_own_pool_was_at_work() -> None:
    play("torch_after", "own")


def test_torch_imported_after_another_openmp_runtime(tmp_path: Path) -> None:
    name = b"libgomp.so.1\0"  # under its own name PyTorch would take this copy for its own
    content = scenarios.torch_openmp().read_bytes().replace(name, b"libgomp.so.9\0")
    (tmp_path / "libgomp.so.9").write_bytes(content)
    play("torch_before", "openmp", OTHER_OPENMP=str(tmp_path / "libgomp.so.9"))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0, ProblemError, "num_threads=0 is not between 1 and 1024. Use 1 for the calling thread"),
        (-2, ProblemError, "num_threads=-2 is not between 1 and 1024. Use 1 for the calling"),
        (1025, ProblemError, f"the calling thread alone, {allowed()} for all cores that this"),
        (True, TypeError, "num_threads must be an integer, got True (bool)."),
        (2.0, TypeError, "num_threads must be an integer, got 2.0 (float)."),
        ("2", TypeError, "num_threads must be an integer, got '2' (str)."),
    ],
)
def test_set_num_threads_refuses(value: int, error: type[Exception], text: str) -> None:
    before = threads.get_num_threads()
    with pytest.raises(error) as caught:
        threads.set_num_threads(value)
    assert text in str(caught.value)
    assert threads.get_num_threads() == before


@pytest.mark.parametrize(
    ("number", "limit", "expected"),
    [
        ("3", "", 3), ("4,2", "", 4), (" 5 ", "2", 2), ("0", "", None), ("-1", "", None),
        ("many", "", None), ("", "0", None), ("", "1", 1), ("7", "x", 7),
    ],
)  # fmt: skip
def test_default_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, number: str, limit: str, expected: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", number)
    monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
    assert threads._default() == (expected or allowed())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "nonsense"}, 8),
        ({"proc/self/cgroup": "0::/../c\n", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        (
            {
                "proc/self/cgroup": "7:memory:/x\n4:cpu,cpuacct:/docker/1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/x/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/memory/x/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_cores_allowed_by_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert allowed(tmp_path) == expected


def test_without_pthread_there_is_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pool.PTHREAD, "wait", "no_such_function")
    assert Pool.start(2) is None


def test_threads_refused_by_the_system_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)
    alone = Pool.start(4)
    assert alone
    rows = Counting().run(threads.Team.of(alone.words, 4), 100)
    assert (rows[:, :2] == (1, 0)).all()
