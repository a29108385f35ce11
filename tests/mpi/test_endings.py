"""However a run ends, its checkpoint is whole and what it says is true."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import psutil
import pytest
import torch
from launch import ROOT, command, environment, kill_all, needs_mpirun
from limits import hang_limit_s, wait_until
from running import Running

from sde_harl.record.checkpoint import load

BUSY = [
    "-m",
    "sde_harl.run",
    "configs/quick.yaml",
    "env.name=mpe",
    "env.map=simple_spread",
    "env.backend=mpe2",
    "env.workers=1",
    "placement.mode=local",
    "train.threads=1",
    "train.envs=4",
    "train.slots=2",
    "train.rollout=25",
    "train.steps=1000000000",
    "algo.epochs=3",
    "eval.interval=300",
    "eval.episodes=4",
    "record.checkpoint_interval=100",
    "record.trajectories=eval",
]
"""A run that is always in the middle of something: updates, evaluations and checkpoints follow each
other within fractions of a second."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Interrupted(NamedTuple):
    """The plan of one interruption."""

    updates: int
    """How many rows of metrics.csv are waited for."""
    delay_s: float
    """Time after that, before the first signal."""
    signals: tuple[signal.Signals, ...]
    gaps_s: tuple[float, ...]
    """Time after each signal."""

    @classmethod
    def at_random(cls, draw: random.Random) -> Interrupted:
        count = draw.randint(1, 3)
        return cls(
            updates=draw.choice([0, 0, 1, 2, 5, 10]),
            delay_s=draw.uniform(0.0, draw.choice([0.05, 0.5, 3.0])),
            signals=tuple(draw.choice(SIGNALS) for _ in range(count)),
            gaps_s=tuple(draw.choice([0.0, draw.uniform(0, 0.03)]) for _ in range(count)),
        )


def interrupt(plan: Interrupted, folder: Path) -> float:
    """Carries out a plan and checks how the run ended; returns the seconds that it took to end."""
    run = Running(folder, *BUSY)
    try:
        if plan.updates:
            run.wait_for(lambda: run.updates() >= plan.updates, f"{plan.updates} updates")
        time.sleep(plan.delay_s)
        children = psutil.Process(run.process.pid).children(recursive=True)
        for number, gap_s in zip(plan.signals, plan.gaps_s):
            run.process.send_signal(number)
            time.sleep(gap_s)
        began = time.monotonic()
        run.end()
        took_s = time.monotonic() - began
    finally:
        kill_all(run.process)
    check_the_end(run, plan)
    for child in children:
        wait_until(lambda child=child: not is_running(child), f"the end of {child}")
    return took_s


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def check_the_end(run: Running, plan: Interrupted) -> None:
    """Checks that what the run says is true, and that nothing is half done."""
    output = run.output()
    if "Traceback" in output and "/sde_harl/" not in output and "run folder" not in output:
        return  # Python itself was starting: not a line of ours had been executed
    about = f"{plan}\n{output}"
    assert "Traceback" not in output, about
    assert "Exception ignored" not in output, about
    assert not list(run.folder.rglob("*.part")), about
    folders = [line.partition("run folder ")[2] for line in output.splitlines()]
    begun = [ROOT / folder for folder in folders if folder]
    if not begun:
        # Before the program has taken the signals, the first one ends it without a word.
        silent = run.process.returncode in [-number for number in SIGNALS] and not output
        assert silent or "nothing to save" in output, about
        assert not list(run.folder.rglob("run.h5")), about
        return
    assert run.process.returncode == 130, about
    last = begun[0] / "models" / "last.pt"
    assert f"saved {last}" in output, about
    assert f"next: sde-harl run --resume {begun[0]}" in output, about
    assert_finite(last)
    with h5py.File(begun[0] / "run.h5") as file:
        assert len(file["training/step"]) > 0 or plan.updates == 0


def assert_finite(path: Path) -> None:
    for name, value in load(path).values.items():
        if isinstance(value, torch.Tensor):
            assert torch.isfinite(value).all(), name


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_interrupted_at_random_saves_and_says_so(seed: int, tmp_path: Path) -> None:
    interrupt(Interrupted.at_random(random.Random(seed)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1200, 10))
def test_two_hundred_runs_that_are_interrupted_at_random_save_and_say_so(
    first: int, tmp_path: Path
) -> None:
    took_s = []
    for seed in range(first, first + 10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        took_s.append(interrupt(Interrupted.at_random(random.Random(seed)), folder))
        shutil.rmtree(folder)
    print(f"ended within {max(took_s):.1f} s")


def test_signals_in_a_burst_do_not_cut_the_save_short(tmp_path: Path) -> None:
    plan = Interrupted(
        updates=1,
        delay_s=0.0,
        signals=(signal.SIGINT, *[signal.SIGTERM] * 40),
        gaps_s=(0.005,) * 41,
    )
    interrupt(plan, tmp_path)


def test_a_run_goes_on_when_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    words = command(1, *BUSY, f"record.dir={tmp_path}", "train.steps=1000")
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(), cwd=ROOT
    )
    assert process.stdout
    try:
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        assert process.wait(hang_limit_s()) == 0
    finally:
        kill_all(process)
    (last,) = tmp_path.rglob("last.pt")
    assert_finite(last)
    (log,) = tmp_path.rglob("log.txt")
    assert "saved" in log.read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "sde_harl.run", "--help"],
        ["-m", "sde_harl", "--help"],
        ["analysis/resource_consumption.py", "--help"],
    ],
)
def test_help_into_a_closed_pipe_is_silent(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        command(1, *words), stdout=writer, stderr=subprocess.PIPE, env=environment(), cwd=ROOT
    )
    os.close(writer)
    _, err = process.communicate(timeout=hang_limit_s())
    assert process.returncode == 0
    assert not err


def test_nohup_keeps_a_run_alive(tmp_path: Path) -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a child inherits
    try:
        run = Running(tmp_path, *BUSY)
    finally:
        signal.signal(signal.SIGHUP, previous)
    try:
        run.wait_for(run.updates, "an update")
        run.process.send_signal(signal.SIGHUP)
        before = run.updates()
        run.wait_for(lambda: run.updates() > before + 1, "two more updates")
        run.process.send_signal(signal.SIGTERM)
        run.end()
    finally:
        kill_all(run.process)
    assert run.process.returncode == 130


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_removed_folder_is_noticed_at_once(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setenv("TMPDIR", str(spare))
    words = ["record.checkpoint_interval=0", f"record.on_disk_full={policy}"]
    run = Running(tmp_path, *BUSY, *words)
    try:
        run.wait_for(run.updates, "an update")
        shutil.rmtree(tmp_path / "mpe")
        run.wait_for(lambda: "was removed while the run went on" in run.output(), "the warning")
        if policy == "continue":
            run.process.send_signal(signal.SIGTERM)
        run.end()
    finally:
        kill_all(run.process)
    assert "Traceback" not in run.output()
    assert run.process.returncode == (2 if policy == "stop" else 130), run.output()
    (saved,) = spare.rglob("*last.pt")
    assert f"saved {saved} instead" in run.output()
    assert_finite(saved)


@needs_mpirun
def test_mpirun_ends_all_ranks_and_the_checkpoint_is_whole(tmp_path: Path) -> None:
    words = [word for word in BUSY if word != "placement.mode=local"]
    output = tmp_path / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            command(3, *words, f"record.dir={tmp_path}"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment(),
            cwd=ROOT,
        )
    try:
        wait_until(
            lambda: list(tmp_path.rglob("1*.pt")), "a save", is_alive=lambda: process.poll() is None
        )
        for _ in range(3):
            process.send_signal(signal.SIGUSR1)  # mpirun passes it on and doesn't kill its ranks
        process.wait(hang_limit_s())
    finally:
        kill_all(process)
    assert process.returncode == 130
    (last,) = tmp_path.rglob("last.pt")
    assert f"saved {last}" in output.read_text()
    assert_finite(last)
