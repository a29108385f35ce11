"""The fault matrix: faults befall executors at random moments of a run under mpirun.

Executors are killed, stopped, cut off, restarted or send garbage. The run goes on or ends, as it is
told to, and nothing hangs.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import psutil
import pytest
from emulated import TESTBED, cluster_of, testbed
from launch import MPIRUN, environment, kill_all, needs_mpirun
from limits import hang_limit_s, slowness, wait_until

DEADLINE_MS = 20
GRACE_MS = 100
"""A decision may be later than its deadline by so much, on an idle machine."""
END_S = 10.0
"""All ranks have ended so long after a fault that ends the run, on an idle machine."""
ENVS, ROLLOUT, UPDATES, EPISODE = 8, 50, 120, 25  # an episode of simple_spread has as many steps
STEPS = ENVS * ROLLOUT * UPDATES
RUN = [
    "configs/mpe_spread.yaml",
    "placement.mode=agents",
    "record.tensorboard=false",
    "eval.episodes=0",
]
RUN += [
    "policy.local_blocks=1",
    "codec.name=entropy",
    "algo.epochs=1",
    "algo.minibatches=1",
    "train.threads=1",
]
RUN += [f"train.envs={ENVS}", f"train.rollout={ROLLOUT}"]
ON_DEVICE = ["policy.local_blocks=2", "policy.blocks=2", "codec.name=none"]
ACTS_AGAIN_S = 2.0
"""All agents act again so long after an executor was killed."""
LATE = [f"link.deadline_ms={DEADLINE_MS}", "link.failure_timeout_s=3"]

# An executor that on a signal floods the server with noise and with frames that look right, or on
# another one fails.
GARBAGE = """
import random, signal, sys
from sde_harl.executor import executor
from sde_harl.link.mpi import launched_ranks
from sde_harl.link.wire import Header, Kind
from sde_harl.run import main

# A BYE would end the flood, because it is a way to leave.
KINDS = [kind for kind in Kind if kind is not Kind.BYE]
flood, sent = False, 0
def begin(*_):
    global flood
    flood = True

def fail(*_):
    executor.Executor.handle = fails

def fails(self, message):
    raise RuntimeError("a part of this program\\nis wrong")

def handle(self, message, known=executor.Executor.handle):
    global sent
    if flood and message.header.kind is not Kind.BYE:
        link, choose, header = self._transport, random.Random(message.header.step), message.header
        for _ in range(1000):
            sent += 1
            if sent % 1000 == 0:
                print("garbage", sent, flush=True)
            noise = choose.randbytes(choose.choice([0, 3, 31, 32, 200, 3000]))
            if choose.random() < 0.5:
                link._post(0, noise)
            else:
                kind = choose.choice(KINDS)
                right = (*header[3:], header.agent)
                wrong = [choose.choice([value, choose.randrange(4)]) for value in right]
                fields = dict(zip(("step", "slot", "environments", "version", "agent"), wrong))
                link.send(0, Header(kind=kind, **fields), noise)
        if choose.random() < 0.5:
            return
    known(self, message)

if launched_ranks()[0] == 2:
    executor.Executor.handle = handle
    signal.signal(signal.SIGUSR2, begin)
    signal.signal(signal.SIGWINCH, fail)
sys.exit(main(sys.argv[1:]))
"""


class Job:
    """Four ranks at work; `fault` befalls rank 2."""

    def __init__(
        self, folder: Path, on_fault: str, ulfm: bool, *more: str, hostfile: Path | None = None
    ) -> None:
        """Starts the run with the keys `more`, on the hosts of the `hostfile` if there is one."""
        self.folder = folder
        launcher = [str(MPIRUN), *(["--with-ft", "ulfm"] if ulfm else []), "-np", "4"]
        if hostfile:
            on_server = [sys.executable, str(TESTBED / "testbed.py"), "exec", "server"]
            launcher = [*on_server, *launcher, "--hostfile", str(hostfile), "-x", "PYTHONPATH"]
        words = [
            *RUN,
            *LATE,
            f"link.on_fault={on_fault}",
            f"record.dir={folder}",
            f"train.steps={STEPS}",
            *more,
        ]
        self.log = folder / "log.txt"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [*launcher, sys.executable, "-c", GARBAGE, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment(),
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def await_start(self) -> None:
        """Waits until the run shows progress."""
        wait_until(
            lambda: "of" in self.text().partition("run folder")[2],
            "progress of the run",
            is_alive=lambda: self.process.poll() is None,
        )

    def ranks(self) -> dict[int, psutil.Process]:
        found = {}
        for each in psutil.Process(self.process.pid).children(recursive=True):
            rank = each.environ().get("OMPI_COMM_WORLD_RANK")
            if rank is not None:
                found[int(rank)] = each
        return found

    def end(self) -> int:
        """Waits for the job's end; returns its exit code."""
        try:
            return self.process.wait(hang_limit_s())
        except subprocess.TimeoutExpired:
            pytest.fail(f"the job hung\n{self.text()[-3000:]}")
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills what is left of it."""
        kill_all(self.process)


class Recorded(NamedTuple):
    decisions: dict[str, np.ndarray]
    episodes: dict[str, np.ndarray]
    faults: list[tuple[int, str]]


def recorded(folder: Path) -> Recorded:
    with h5py.File(next(folder.rglob("run.h5"))) as run:
        decisions, episodes = (
            {key: column[:] for key, column in run[name].items()}
            for name in ("decisions", "episodes")
        )
        faults = zip(run["faults"]["rank"][:].tolist(), run["faults"]["kind"][:].tolist())
        return Recorded(decisions, episodes, [(rank, kind.decode()) for rank, kind in faults])


def befall(job: Job, kind: str) -> None:
    """Causes a fault; returns when nothing more of it is to come."""
    if kind == "cut":
        assert testbed("shape", "edge2", "ethernet", "loss_percent=100").code == 0
        time.sleep(5.0)
        assert testbed("shape", "edge2", "ethernet").code == 0
        return
    rank = job.ranks()[2]
    if kind == "kill":
        rank.kill()
    elif kind == "stop":
        rank.suspend()
    elif kind == "pause":
        rank.suspend()
        time.sleep(5.0)
        rank.resume()
    elif kind == "fail":
        rank.send_signal(signal.SIGWINCH)
    else:
        rank.send_signal(signal.SIGUSR2)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Path]:
    """Gives the hostfile of a server and three boards."""
    with cluster_of("3", "--link", "ethernet") as hostfile:
        yield hostfile


def check_decisions(record: Recorded, quantile: float, steps: int) -> None:
    """Checks that decisions without latents were in time, and that all episodes are there."""
    decided_ms = record.decisions["t_decision"][record.decisions["deadline_missed"] > 0] * 1e-6
    assert np.quantile(decided_ms, quantile) < DEADLINE_MS + GRACE_MS * slowness(), np.sort(
        decided_ms
    )[-20:]
    assert (record.episodes["length"] == EPISODE).all()
    assert len(record.episodes["length"]) == steps // EPISODE


CASES = {
    # kind: exit codes, faults recorded of rank 2
    "kill": ({3}, {"lost"}),
    "stop": ({3}, {"absent"}),
    "pause": ({0}, {"absent", "back"}),
    "cut": ({0}, {"absent", "back"}),
    "garbage": ({0, 3}, {"kind", "short", "magic"}),
    "fail": ({3}, {"lost"}),
}


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("seed", range(10))
def test_with_fallback_a_run_goes_on(
    kind: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    choose = random.Random(f"{kind} {seed}")
    hostfile = request.getfixturevalue("hosts") if kind == "cut" else None
    steps = STEPS * 3 // 2 if kind in ("cut", "pause") else STEPS  # it shall be back before the end
    job = Job(tmp_path, "fallback", kind == "kill", f"train.steps={steps}", hostfile=hostfile)
    try:
        job.await_start()
        time.sleep(choose.uniform(0.0, 4.0))
        assert job.process.poll() is None, job.text()
        befall(job, kind)
        code = job.end()
    finally:
        job.kill()
    codes, kinds = CASES[kind]
    assert code in codes, f"{code}: {job.text()}"
    assert "Traceback" not in job.text(), job.text()[-3000:]
    # It sends a thousand for each message that it gets, but how many of those there are depends on
    # how fast the server is: it may be absent after the first.
    if kind == "garbage":
        assert "garbage 1000" in job.text(), job.text()
    record = recorded(tmp_path)
    mine = {name for rank, name in record.faults if rank == 2}
    assert kinds <= mine, mine
    # A flood of thousands of messages goes into MPI's own memory in one call, which nobody can cut
    # short.
    check_decisions(record, 0.99 if kind == "garbage" else 1.0, steps)


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "fail", "stop"])
@pytest.mark.parametrize("seed", range(10))
def test_with_redeal_all_agents_go_on(kind: str, seed: int, tmp_path: Path) -> None:
    check_redeal(kind, tmp_path, steps=STEPS // 2, after_s=random.Random(seed).uniform(0.0, 2.0))


@needs_mpirun
@pytest.mark.parametrize("more", [[], ON_DEVICE], ids=["split", "on device"])
def test_others_act_for_an_executor_that_fails(more: list[str], tmp_path: Path) -> None:
    check_redeal("fail", tmp_path, *more, steps=STEPS // 8, after_s=0.0)


def check_redeal(kind: str, folder: Path, *more: str, steps: int, after_s: float) -> None:
    """Checks that a run goes on with all agents after a fault has befallen rank 2."""
    job = Job(folder, "redeal", kind == "kill", f"train.steps={steps}", *more)
    try:
        job.await_start()
        time.sleep(after_s)
        assert job.process.poll() is None, job.text()
        befall(job, kind)
        code = job.end()
    finally:
        job.kill()
    assert code == 3, job.text()
    assert "Traceback" not in job.text(), job.text()[-3000:]
    record = recorded(folder)
    assert [rank for rank, name in record.faults if name == "redealt"] in ([1], [3]), record.faults
    # No agent is without latents for longer, and all episodes are there.
    idle_s = record.decisions["t_decision"][record.decisions["idle"] > 0].sum() * 1e-9
    given_up_s = 3.0 * (kind == "stop")  # link.failure_timeout_s
    assert idle_s < (given_up_s + ACTS_AGAIN_S) * slowness()
    assert (record.episodes["length"] == EPISODE).all()
    assert len(record.episodes["length"]) == steps // EPISODE
    # In the end the agent's decisions come from its new executor.
    last = record.decisions["step"] == record.decisions["step"].max()
    assert set(record.decisions["rank"][last].tolist()) == {1, 3}


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["kill", "kill, ulfm", "stop", "stop, ulfm", "cut", "garbage", "fail"]
)
@pytest.mark.parametrize("seed", range(10))
def test_with_abort_every_rank_ends(
    kind: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    choose = random.Random(f"abort {kind} {seed}")
    hostfile = request.getfixturevalue("hosts") if kind == "cut" else None
    fault, _, ulfm = kind.partition(", ")
    job = Job(tmp_path, "abort", bool(ulfm), hostfile=hostfile)
    try:
        job.await_start()
        time.sleep(choose.uniform(0.0, 4.0))
        ranks, at = job.ranks(), time.monotonic()
        befall(job, fault)
        code = job.end()
        took_s = time.monotonic() - at
    finally:
        job.kill()
    assert code not in (0, -signal.SIGKILL), job.text()
    assert took_s < END_S * slowness(), took_s
    assert not psutil.wait_procs(ranks.values(), hang_limit_s())[1]
    lines = (
        job.text().replace("\0", "").splitlines()
    )  # mpirun puts one, and a space, before what it passes on
    lines = [line for line in lines if line.lstrip().startswith("error: ")]
    if kind != "kill":  # of which mpirun itself tells, and ends all
        assert len(lines) == 1, job.text()[-3000:]
        assert "executor 2" in lines[0], job.text()[-3000:]
    assert "Traceback" not in job.text(), job.text()[-3000:]


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_device_is_restarted_with_the_run(seed: int, tmp_path: Path) -> None:
    """The run starts again from its last checkpoint: no process can join a job again."""
    choose, folders = random.Random(f"restart {seed}"), (tmp_path / "first", tmp_path / "second")
    for folder in folders:
        folder.mkdir()
    first = Job(folders[0], "fallback", True, "record.checkpoint_interval=400")
    try:
        first.await_start()
        time.sleep(choose.uniform(0.0, 4.0))
        befall(first, "kill")
        assert first.end() == 3, first.text()
    finally:
        first.kill()
    second = Job(folders[1], "fallback", True, f"train.load={next(folders[0].rglob('last.pt'))}")
    try:
        assert second.end() == 0, second.text()
    finally:
        second.kill()
    check_decisions(recorded(folders[0]), 1.0, STEPS)
    again = recorded(folders[1])
    assert not again.faults
    assert len(again.episodes["length"]) == STEPS // EPISODE


@needs_mpirun
@pytest.mark.slow
def test_executors_tell_of_a_server_that_was_killed(tmp_path: Path) -> None:
    """Nobody else can: the server is gone."""
    job = Job(tmp_path, "abort", True)
    try:
        job.await_start()
        job.ranks()[0].kill()
        assert job.end() != 0
    finally:
        job.kill()
    for rank in (1, 2, 3):
        assert re.search(
            rf"error: executor {rank} \(.+\): the server's process has ended", job.text()
        ), job.text()
    assert "Traceback" not in job.text(), job.text()[-3000:]
