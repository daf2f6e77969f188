"""What all tests share: the size of problems, random problems that repeat, a cache of their own."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings
from shared import PIECES, Shared

# Before NumPy and PyTorch are loaded, which read them then. Two processes of several threads share
# the cores: who waits by spinning takes time from who computes (a third of it in
# test_problems.py), and products of matrices gain nothing from threads. Child processes inherit
# both.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A first call compiles, so the time of an example says nothing; a red run must be red again.
settings.register_profile("test", deadline=None, derandomize=True, database=None)
settings.register_profile("whole", settings.get_profile("test"), max_examples=1000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole",
        action="store_true",
        help="run problems at their full size instead of shrunk, and more random ones",
    )


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all tests are collected, see below
    settings.load_profile("whole" if config.getoption("--whole") else "test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: of several processes none is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What 13,000 tests and the modules of PyTorch consist of stays for good: 580,000 objects, to
    look through which took 3 of the 18 s of collecting, and 0.4 s at each later full collection.
    """
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def whole(pytestconfig: pytest.Config) -> bool:
    """Whether problems run at their full size."""
    return bool(pytestconfig.getoption("--whole"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache; child processes inherit this one, and the workers
    of pytest-xdist have it together.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "KONV_VERIFY", "1")  # in child processes, too
        patch.setitem(os.environ, "KONV_CACHE_DIR", str(folder / "kernels"))
        if find_spec("llvmlite"):  # the geometry is tested without
            patch.setitem(os.environ, PIECES, str(folder / "pieces"))
            patch.setattr("konv.llvm.compilers.VERIFY", True)
            patch.setattr("konv.llvm.build._known", Shared(folder / "pieces"))
        yield
