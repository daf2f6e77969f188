"""Keys of the object cache: equal where the machine code would be, different everywhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from architecture.source import FILES, imports, part_of, target_part

from konv.geometry import Conv
from konv.kernels import direct
from konv.llvm import describe, host
from konv.runtime import fingerprint, store
from konv.target import Target

TARGET = describe("x86_64-unknown-linux-gnu", "haswell", "+fma,+avx2")
PLANS = direct.plans(Conv.parse("conv2d 1x64x9x9 o64 k3"), TARGET, False, False)
PLAN = repr(PLANS[0])
SOURCE = Path(fingerprint.__file__).parents[2]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the emitters' sources, which the key is now taken of."""
    for name in fingerprint.EMITTERS:
        source = fingerprint.PACKAGE / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / name)
    for path in tmp_path.rglob("*.py"):
        age(path)
    monkeypatch.setattr(fingerprint, "PACKAGE", tmp_path)
    fingerprint.emitters.cache_clear()
    yield tmp_path
    fingerprint.emitters.cache_clear()


def age(path: Path) -> None:
    os.utime(path, (1e9, 1e9))


def key_now() -> str:
    """The key as another process would take it."""
    fingerprint.emitters.cache_clear()
    return store.key(PLAN, TARGET)


def test_a_key_names_a_file(package: Path) -> None:
    """64 hexadecimal digits, the same whenever it is asked for."""
    key = store.key(PLAN, TARGET)
    assert len(key) == store.DIGITS
    assert set(key) <= set("0123456789abcdef")
    assert key == key_now()


@pytest.mark.parametrize(
    "other",
    [
        replace(TARGET, triple="x86_64-unknown-freebsd"),
        replace(TARGET, cpu="skylake"),
        replace(TARGET, features=("+avx2",)),
        replace(TARGET, features=(*TARGET.features, "-avx512f")),
        replace(TARGET, vector_bytes=16),
        replace(TARGET, registers=32),
    ],
)
def test_another_machine_has_another_key(package: Path, other: Target) -> None:
    """A cache on a shared disk never gives one machine the code of another."""
    assert store.key(PLAN, other) != store.key(PLAN, TARGET)


def test_the_size_of_the_machine_s_caches_decides_nothing(package: Path) -> None:
    """They change how work is cut up, not the code."""
    assert store.key(PLAN, replace(TARGET, l2=1)) == store.key(PLAN, TARGET)


def test_another_plan_has_another_key(package: Path) -> None:
    """Every plan of a layer, and whatever else is compiled, has its own."""
    names = {store.key(what, TARGET) for what in (*map(repr, PLANS), "digest")}
    assert len(names) == len(PLANS) + 1


def test_another_llvm_has_another_key(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update of llvmlite compiles anew."""
    before = store.key(PLAN, TARGET)
    monkeypatch.setattr(host, "versions", lambda: "LLVM 99")
    assert store.key(PLAN, TARGET) != before


@pytest.mark.parametrize(
    "name", ["plan.py", "target.py", "llvm/lang.py", "kernels/direct/__init__.py"]
)
def test_another_source_has_another_key(package: Path, name: str) -> None:
    """A change of any emitter, however small, and nothing else about its file."""
    before, path = store.key(PLAN, TARGET), package / name
    source = path.read_bytes()
    path.write_bytes(source + b"\n")
    age(path)
    assert key_now() not in ("", before)
    path.write_bytes(source)
    os.utime(path, (1e9 + 1, 1e9 + 1))
    assert key_now() == before


def test_a_new_file_has_another_key(package: Path) -> None:
    """A file added, renamed or taken away is a change too."""
    keys = [store.key(PLAN, TARGET)]
    new = package / "kernels" / "new.py"
    shutil.copy2(package / "kernels" / "planes.py", new)
    keys.append(key_now())
    new.rename(package / "kernels" / "newer.py")
    keys.append(key_now())
    (package / "kernels" / "newer.py").unlink()
    assert key_now() == keys[0]
    assert len({*keys, ""}) == 4


def test_a_source_changed_since_is_not_what_runs(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code of the source that was imported is not kept under the name of the one that is there."""
    monkeypatch.setenv("KONV_CACHE_DIR", str(tmp_path / "cache"))
    os.utime(package / "plan.py")
    assert key_now() == ""
    store.keep(key_now(), b"old code")
    assert store.entries() == []


def test_konv_without_its_sources_keeps_nothing(package: Path) -> None:
    """Then nothing tells two releases apart."""
    (package / "plan.py").unlink()
    assert key_now() == ""


def test_whatever_emits_is_in_the_key() -> None:
    """The emitters import no part of konv that is not; geometry only serves to choose plans."""
    emitters = {name.removesuffix(".py") for name in fingerprint.EMITTERS}
    for path in FILES:
        if part_of(path) in emitters:
            parts = {target_part(i.module) for i in imports(path) if i.module.startswith("konv.")}
            assert parts <= emitters | {"geometry", "errors"}, path


ANOTHER_PROCESS = """
import sys
from hashlib import sha256
from konv.geometry import Conv
from konv.kernels import direct
from konv.llvm import detect, object_bytes
from konv.runtime import store
plan = direct.plans(Conv.parse("conv2d 1x64x9x9 o64 k3"), detect(), True, True)[0]
code = object_bytes(direct.emit(plan, detect()))
print(store.key(repr(plan), detect()), sha256(code).hexdigest())
"""


def test_every_process_makes_the_same_code() -> None:
    """Under the same key the same bytes: nothing of one process, no address, gets into them."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ANOTHER_PROCESS],
            env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert printed[0] == printed[1] != ""
