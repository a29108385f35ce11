"""An executor of the program is ready at once, small, and quiet while it has nothing to do."""

from __future__ import annotations

import json

import pytest
from launch import launch, needs_mpirun


@pytest.fixture(scope="module")
def measured() -> dict[str, float]:
    ended = launch(2, "tests/helpers/executor_program.py")
    assert ended.code == 0, ended.err
    result: dict[str, float] = json.loads(ended.out.splitlines()[-1])
    return result


@needs_mpirun
def test_an_executor_is_ready_within_two_seconds(measured: dict[str, float]) -> None:
    # Two seconds are about sixteen starts of a Python with numpy on an idle machine, and half
    # of them are spent outside of the executor. On a busy machine both figures grow.
    assert measured["ready_cpu_s"] < 8 * measured["numpy_cpu_s"], measured


@needs_mpirun
def test_an_executor_leaves_the_core_alone_while_the_server_learns(
    measured: dict[str, float],
) -> None:
    assert measured["waiting_share"] < 0.15, measured


@needs_mpirun
def test_an_executor_is_small(measured: dict[str, float]) -> None:
    assert measured["rss_bytes"] < 100e6, measured
