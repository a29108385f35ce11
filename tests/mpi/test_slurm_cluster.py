"""Runs on a real Slurm of three hosts: they go on after everything that ends a job early."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch import ROOT, Ended, environment, launch, launch_command, needs_mpirun
from limits import wait_until
from own_slurm import OwnSlurm, why_not
from same_runs import assert_same

from sde_harl.cli.job_folder import JobFolder
from sde_harl.link.mpi import library_version
from sde_harl.record.finding import run_files
from sde_harl.record.reader import open_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=f"no Slurm: {why_not()}"),
]
MPE = ["configs/mpe_spread.yaml", "env.backend=mpe2", "env.workers=0", "train.threads=1"]
MPE += ["train.envs=8", "train.slots=2", "train.rollout=33", "algo.epochs=2", "eval.episodes=4"]
MPE += ["record.tensorboard=false"]
SPLIT = [*MPE, "policy.local_blocks=1", "codec.name=entropy", "placement.mode=agents"]
SPLIT += ["train.steps=180576", "eval.interval=18000", "record.checkpoint_interval=1056"]
SPLIT += ["record.keep=3"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnSlurm]:
    cluster = OwnSlurm(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.stop()


def command(slurm: OwnSlurm, *words: str) -> Ended:
    """Runs a command of sde-harl where Slurm's programs talk to the cluster."""
    env = {**environment(), **slurm.environment}
    return launch_command([sys.executable, "-m", "sde_harl", *words], env=env)


def rows(results: Path) -> int:
    return sum(path.read_text().count("\n") for path in results.rglob("metrics.csv"))


@needs_mpirun
def test_a_run_survives_a_requeue_the_time_limit_and_a_killed_slurmd(
    slurm: OwnSlurm, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    # Slurm rounds to minutes, and may send the signal a minute early.
    limits = ["--nodes=3", "--time=2", "--signal=USR1@55"]
    submitted = command(slurm, "submit", *SPLIT, *limits, f"record.dir={results}")
    assert submitted.code == 0, submitted.err
    folder = JobFolder(results / "jobs" / "mpe_spread")
    [run] = folder.submitted()

    def restarts() -> int:
        return int(slurm.job(run.job)["Restarts"])

    def wait_for_rows() -> None:
        before = rows(results)
        wait_until(lambda: rows(results) > before + 5, "some updates")

    wait_for_rows()
    slurm.call("scontrol", "requeue", str(run.job))
    wait_until(lambda: restarts() == 1, "the requeue")
    wait_until(lambda: restarts() == 2, "the time limit")
    wait_for_rows()
    killed = slurm.job(run.job)["BatchHost"]
    before = restarts()
    slurm.kill_host(killed)
    wait_until(lambda: restarts() > before, "Slurm to notice that a host is gone")
    slurm.start_host(killed)
    wait_until(lambda: slurm.job(run.job)["JobState"] == "COMPLETED", "the end of the job")
    assert slurm.job(run.job)["ExitCode"] == "0:0"
    log = folder.log_of(run).read_text()
    assert log.count("resumed at ") == restarts() >= 3
    whole = tmp_path / "whole"
    words = [*SPLIT, "placement.mode=local", f"record.dir={whole}"]
    assert launch(1, "-m", "sde_harl.run", *words).code == 0
    assert_same(whole, results)
    assert " done " in command(slurm, "status", str(folder.path)).out
    assert "processors: " in log, "what was used of what the job was given"


def test_of_an_array_only_what_has_failed_is_submitted_again(
    slurm: OwnSlurm, tmp_path: Path
) -> None:
    maps = "simple_spread,simple_reference,simple_speaker_listener,simple_adversary"
    words = ["submit", *MPE, "placement.mode=local", "train.steps=264", "--time=10"]
    words += [f"--array=env.map={maps}", "--max-parallel=2", f"record.dir={tmp_path}"]
    blocked = tmp_path / "mpe" / "simple_reference"
    blocked.parent.mkdir()
    blocked.touch()
    assert command(slurm, *words).code == 0
    folder = JobFolder(tmp_path / "jobs" / "mpe_spread")
    wait_until(lambda: not slurm.call("squeue", "-h").strip(), "the end of the array")
    [first] = {run.job for run in folder.submitted()}
    assert slurm.job(f"{first}_1")["ExitCode"] == "2:0"
    assert "failed: error: " in command(slurm, "status", str(folder.path)).out
    assert len(run_files(folder.path)) == 3
    blocked.unlink()
    assert "1 of 4 runs" in command(slurm, *words).out
    jobs = {run.name: run.job for run in folder.submitted()}
    assert [name for name, job in jobs.items() if job != first] == ["env.map=simple_reference"]
    wait_until(lambda: not slurm.call("squeue", "-h").strip(), "the end of the one")
    command(slurm, "status", str(folder.path))
    files = run_files(folder.path)
    assert [int(open_run(file).table("training")["step"][-1]) for file in files] == [264] * 4
    assert "nothing to submit" in command(slurm, *words).out


@needs_mpirun
def test_a_cancelled_run_has_saved_and_goes_on_when_it_is_submitted_again(
    slurm: OwnSlurm, tmp_path: Path
) -> None:
    words = ["submit", *SPLIT, "--time=10", "train.steps=3960", f"record.dir={tmp_path}"]
    assert command(slurm, *words).code == 0
    folder = JobFolder(tmp_path / "jobs" / "mpe_spread")
    [run] = folder.submitted()
    wait_until(lambda: rows(tmp_path) > 3, "some updates")
    assert "1 of 1 runs ended" in command(slurm, "cancel", str(folder.path)).out
    wait_until(lambda: slurm.job(run.job)["JobState"] == "FAILED", "the end of the job")
    assert slurm.job(run.job)["ExitCode"] == "130:0"
    assert "last.pt" in folder.log_of(run).read_text()
    assert command(slurm, *words).code == 0
    [again] = folder.submitted()
    wait_until(lambda: slurm.job(again.job)["JobState"] == "COMPLETED", "the end of the job")
    assert "resumed at " in folder.log_of(again).read_text()


@needs_mpirun
def test_the_job_script_of_the_repository_runs(slurm: OwnSlurm, tmp_path: Path) -> None:
    # A checkout after `make venv`, as far as the script needs one.
    for name, target in (("configs", ROOT / "configs"), (".venv", Path(sys.prefix))):
        (tmp_path / name).symlink_to(target)
    words = [*SPLIT[1:], "env.name=mpe", "env.map=simple_spread", "train.steps=528"]
    script = str(ROOT / "jobs" / "smac.slurm")
    env = {**environment(), **slurm.environment}
    # Its own nine tasks are for eight agents.
    sbatch = ["sbatch", "--parsable", "--ntasks=4", script, *words]
    ended = launch_command(sbatch, cwd=tmp_path, env=env)
    assert ended.code == 0, ended.err
    job = ended.out.strip()
    wait_until(lambda: slurm.job(job)["JobState"] in ("COMPLETED", "FAILED"), "the end of the job")
    assert slurm.job(job)["ExitCode"] == "0:0", (tmp_path / f"sde_harl-{job}.log").read_text()
    [file] = tmp_path.glob("results/**/run.h5")
    assert open_run(file).table("training")["step"][-1] == 528


@pytest.mark.parametrize("kind", ["none", "pmi2"])
def test_ranks_that_srun_gives_no_world_are_refused(slurm: OwnSlurm, kind: str) -> None:
    if kind == "pmi2" and not library_version().startswith("Open MPI"):
        pytest.skip(f"{library_version()} may know pmi2")
    words = ["srun", "-n", "2", f"--mpi={kind}", sys.executable, "-m", "sde_harl.run", "smac"]
    ended = launch_command(words, env={**environment(), **slurm.environment})
    assert ended.code == 2
    assert ended.err.count("error: MPI: expected a world of 2 ranks, got 1: ") == 1
