"""Fixtures of all tests, their limits, and their markers by folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import clock as clocks
import pytest
import torch
from limits import TEST_S, hang_limit_s

from sde_harl.policy.products import use_fastest_products

TESTS = Path(__file__).parent
MARKED_FOLDERS = {"mpi", "learning", "faults", "packaging"}

# pytest-timeout reads it when pytest is configured, which is after this import. Workers of xdist
# inherit it. A limit that the caller has set stays.
os.environ.setdefault("PYTEST_TIMEOUT", f"{hang_limit_s(TEST_S):.0f}")

torch.set_num_threads(1)  # or OpenMP's barriers wait for cores that others hold
use_fastest_products()  # as every run does: what is compared must be rounded alike


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test with the name of its folder; tests of unit/ have no such mark."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Undoes what a learner sets: it flushes denormals to zero, which hypothesis refuses."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Has JAX keep what it compiles in a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def kept_signals() -> Iterator[None]:
    """Undoes what a program does to the signals of this process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> clocks.Clock:
    """Gives a clock that stands still for the whole package until the test moves it."""
    return clocks.install(monkeypatch)


@pytest.fixture
def fresh_robots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the robots that earlier tests have made."""
    import robots

    monkeypatch.setattr(robots.Arm, "made", [])


ON_DEVICE = ["policy.local_blocks=3", "codec.name=none"]


@pytest.fixture(scope="session", params=[[], ON_DEVICE], ids=["split", "whole"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives the folder of a small run that has learnt, with split policies or with whole ones."""
    from small_runs import TRAINED, run

    return run(*TRAINED, *request.param, f"record.dir={tmp_path_factory.mktemp('trained')}")
