"""The transport over real MPI: the same checks as over the loopback."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import launch, needs_mpirun

PROGRAM = str(Path(__file__).parents[1] / "helpers" / "mpi_transport.py")


@needs_mpirun
@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_mpi(ranks: int) -> None:
    ended = launch(ranks, PROGRAM, "serve")
    assert ended.code == 0, ended.err
    assert f"serve passed with {ranks} ranks" in ended.out


@needs_mpirun
def test_abort_ends_every_rank_with_the_code() -> None:
    ended = launch(3, PROGRAM, "abort")
    assert ended.code == 3
    assert "messages came" not in ended.err, "rank 0 waited until its limit"


@needs_mpirun
def test_a_waiting_executor_leaves_the_core_alone() -> None:
    ended = launch(2, PROGRAM, "idle")
    assert ended.code == 0, ended.err
    shares = [float(line.split()[1]) for line in ended.out.splitlines() if line[:5] == "share"]
    assert len(shares) == 2
    assert max(shares) < 0.15


@needs_mpirun
@pytest.mark.parametrize(
    # MPI's count of bytes ends at 2 GiB; a sender may have types of more.
    "megabytes",
    [200, pytest.param(2500, marks=pytest.mark.slow)],
)
def test_a_message_that_nobody_expects_takes_no_room(megabytes: int) -> None:
    ended = launch(2, PROGRAM, "huge", str(megabytes))
    assert ended.code == 0, ended.err
    assert "huge passed with 2 ranks" in ended.out


@needs_mpirun
def test_a_rank_that_takes_no_messages_is_left_behind() -> None:
    ended = launch(3, PROGRAM, "deaf")
    assert ended.code == 4, ended.err
    assert "Traceback" not in ended.err


@needs_mpirun
def test_what_nobody_waits_for_any_more_keeps_no_rank_from_ending() -> None:
    ended = launch(2, PROGRAM, "unheard")
    assert ended.code == 0, ended.err
    assert "unheard passed with 2 ranks" in ended.out
