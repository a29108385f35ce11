"""The loopback, the waiter and the meters of a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from mpi_transport import Echo, serve

from sde_harl import run
from sde_harl.link import waiting
from sde_harl.link.faults import KEPT, LOGGED_PER_RANK, Fault, Faults
from sde_harl.link.loopback import Loopback
from sde_harl.link.mpi import free_single_core_binding, launched_ranks
from sde_harl.link.waiting import Waiter
from sde_harl.link.wire import Header, Kind
from sde_harl.meters import timing
from sde_harl.meters.process import Process
from sde_harl.meters.timing import Stages

LAUNCH_VARIABLES = ("OMPI_COMM_WORLD_", "PMI_", "PMIX_", "SLURM_")


def test_loopback() -> None:
    server, executor = Loopback.pair()
    echo = Echo(executor)
    server.attach(echo.step)
    serve(server)
    echo.step()
    assert not echo.open


def test_sending_to_a_stranger_is_an_error() -> None:
    with pytest.raises(KeyError):
        Loopback.pair()[1].send(2, Header(kind=Kind.BYE))


def test_loopback_abort_ends_the_process() -> None:
    with pytest.raises(SystemExit) as caught:
        Loopback.pair()[0].abort(2)
    assert caught.value.code == 2


def test_faults_count_all_and_log_a_few(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults(0)
    for step in range(KEPT + 5):
        faults.count(4, "crc", step=step, agent=1)
    assert faults.counts[4, "crc"] == faults.total == KEPT + 5
    assert len(caplog.records) == LOGGED_PER_RANK
    assert "rank 0 refused a message of rank 4: crc" in caplog.text
    rows = faults.drain()
    assert len(rows) == KEPT
    assert rows[-1] == Fault(4, "crc", KEPT - 1, 1)


def test_a_flood_of_one_rank_hides_no_other() -> None:
    faults = Faults(0)
    faults.count(2, "log_prob")
    for _ in range(2 * KEPT):
        faults.count(1, "magic")
    faults.count(3, "decode")
    faults.note(1, "absent", "executor 1: absent")
    assert {fault.rank for fault in faults.drain()} == {1, 2, 3}
    faults.count(1, "magic")
    assert [fault.reason for fault in faults.drain()] == ["magic"]


class FakeTime:
    """Stands for the module time: a look at the clock takes 1 us, and a sleep as long as asked."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        self.now_s += 1e-6
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(waiting, "time", fake)
    return fake


def test_waiter_spins_then_sleeps_longer_and_longer(clock: FakeTime) -> None:
    waiter = Waiter(spin_us=2000, sleep_max_us=1000, idle_max_us=1000)
    began = clock.perf_counter()
    assert waiter.pause(began + 1.0)
    assert waiter.sleeps == 0
    while waiter.pause(began + 0.05):
        pass
    elapsed_s = clock.perf_counter() - began
    assert 1 < waiter.sleeps < 500
    assert 0.02 < waiter.slept_s < elapsed_s
    waiter.reset()
    for _ in range(20):  # answers that come at once bring the spin back
        waiter.pause(clock.perf_counter() + 1.0)
        waiter.reset()
    sleeps = waiter.sleeps
    assert waiter.pause(clock.perf_counter() + 1.0)
    assert waiter.sleeps == sleeps


def test_a_waiter_does_not_spin_where_answers_take_long(clock: FakeTime) -> None:
    waiter = Waiter(spin_us=500)
    for _ in range(20):
        began = clock.perf_counter()
        while waiter.pause(began + 0.004):
            pass
        waiter.reset()
    sleeps = waiter.sleeps
    assert waiter.pause(clock.perf_counter() + 1.0)
    assert waiter.sleeps == sleeps + 1


def test_waiter_keeps_to_the_limit(clock: FakeTime) -> None:
    waiter = Waiter(spin_us=0, sleep_max_us=1e6, idle_max_us=1e6)
    assert waiter.pause(clock.perf_counter() + 1e-5)
    clock.sleep(0.2)
    began = clock.perf_counter()
    assert waiter.pause(began + 0.001)
    assert clock.perf_counter() - began < 0.01
    assert not waiter.pause(began)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "9", "PMIX_RANK": "3"}, (3, 9)),
        ({"PMI_RANK": "1", "PMI_SIZE": "4"}, (1, 4)),
        (
            {
                "PMIX_RANK": "2",
                "SLURM_STEP_NUM_TASKS": "5",
                "SLURM_NTASKS": "5",
                "SLURM_PROCID": "2",
            },
            (2, 5),
        ),
        ({"SLURM_NTASKS": "9", "SLURM_PROCID": "0", "SLURM_JOB_ID": "12"}, (0, 1)),
    ],
)
def test_launched_ranks(
    variables: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(LAUNCH_VARIABLES):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_ranks() == expected


def test_tasks_of_srun_without_mpi_are_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in list(os.environ):
        if name.startswith(LAUNCH_VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "9")
    for task, said in (("0", "error: MPI: expected a world of 9 ranks, got 1: "), ("5", "")):
        monkeypatch.setenv("SLURM_PROCID", task)
        assert run.main(["smac"]) == 2
        assert capfd.readouterr().err.startswith(said)
        assert bool(said) or not capfd.readouterr().err


@pytest.mark.parametrize(
    ("cores", "variables", "freed"),
    [({1}, {}, True), ({0, 1}, {}, False), ({1}, {"SLURM_JOB_ID": "3"}, False)],
)
def test_only_an_unasked_binding_is_undone(
    cores: set[int], variables: dict[str, str], freed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "PRTE_MCA_hwloc_default_binding_policy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, mask: calls.append(set(mask)))
    free_single_core_binding()
    assert calls == ([set(range(os.cpu_count() or 1))] if freed else [])


def test_importing_the_link_does_not_start_mpi() -> None:
    code = "import sys, sde_harl.link.mpi; sys.exit('mpi4py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_stages_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0, 2, 10, 12, 20, 22, 30, 30])  # ms at which stages are entered and left
    monkeypatch.setattr(timing, "now_ns", lambda: next(times) * 10**6)
    stages = Stages()
    for _ in range(3):
        with stages("work"):
            pass
    with stages("nothing"):
        pass
    seconds = stages.take()
    assert list(seconds) == ["work", "nothing"]
    assert seconds == {"work": pytest.approx(0.006), "nothing": 0.0}
    assert stages.take() == {"work": 0.0, "nothing": 0.0}


def test_a_sample_sees_work_and_memory() -> None:
    process = Process()
    before = process.sample()
    block = bytearray(b"x" * (64 << 20))
    after = process.sample()
    assert after.rss_bytes - before.rss_bytes > 50 << 20
    assert after.peak_rss_bytes >= after.rss_bytes > 0
    assert after.cpu_s >= before.cpu_s > 0
    del block


def test_the_peak_is_this_process_own() -> None:
    block = bytearray(b"x" * (300 << 20))
    code = "from sde_harl.meters.process import Process; print(Process().sample().peak_rss_bytes)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(child.stdout) < 200 << 20
    del block
