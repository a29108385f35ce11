"""Tests share a busy machine and a process: nothing that one sets there may reach the next."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from limits import TEST_S, hang_limit_s

# pytest-timeout reads it when pytest is configured, which is after this import. Workers of xdist
# inherit it. A limit that the caller has set stays.
os.environ.setdefault("PYTEST_TIMEOUT", f"{hang_limit_s(TEST_S):.0f}")

torch.set_num_threads(1)  # or OpenMP's barriers wait for cores that others hold


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A learner flushes denormals to zero, which hypothesis's floating-point numbers don't survive."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """JAX keeps what it compiles in a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
