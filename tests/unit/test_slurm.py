"""Jobs for Slurm: their texts, what is submitted, what is shown of them, and how they are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import slurm_texts
from fake_slurm import FakeSlurm
from filled import add, add_evaluation
from launch import ROOT
from limits import hang_limit_s

from sde_harl.analysis.efficiency import efficiency
from sde_harl.cli import slurm_check
from sde_harl.cli.job_folder import JobFolder
from sde_harl.cli.main import main
from sde_harl.cli.trials import listed, plan
from sde_harl.config.layers import to_yaml
from sde_harl.errors import UserError
from sde_harl.record.reader import open_run
from sde_harl.record.writer import RunFile
from sde_harl.run import tell_the_end
from sde_harl.slurm.allocation import Allocation, allocation
from sde_harl.slurm.batch import batch_text

QUICK = "configs/quick.yaml"
TIME = "--time=1:00:00"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin", monkeypatch)


@pytest.mark.parametrize("path", slurm_texts.TEXTS, ids=lambda path: path.name)
def test_texts_are_those_of_the_template(path: Path) -> None:
    text = batch_text(slurm_texts.TEXTS[path])
    assert path.read_text() == text, "python tests/helpers/slurm_texts.py writes them anew"
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""


def dry(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["submit", QUICK, TIME, "--ranks=4", "--dry-run", *words]) == 0
    return capfd.readouterr().out


def test_a_dry_run_shows_the_script_and_makes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = dry(capfd, f"record.dir={tmp_path}/a b", "--nodes=2", "--", "--account=mine")
    assert f"#SBATCH --output='{tmp_path}/a b/jobs/quick/%j.log'\n" in text
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks=4\n" in text
    assert "#SBATCH --account=mine\n" in text
    assert f"    '{tmp_path}/a b/jobs/quick/run.yaml'\n    --trust\n" in text
    assert not (tmp_path / "a b").exists()


def test_one_process_needs_no_launcher(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", QUICK, TIME, "placement.mode=local", "--dry-run"]) == 0
    text = capfd.readouterr().out
    assert "#SBATCH --ntasks=1\n" in text
    assert "mpirun\n" not in text


def test_the_ranks_are_those_that_the_agents_need(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["submit", "configs/mpe_spread.yaml", "env.backend=mpe2", "placement.mode=agents"]
    words += [TIME, "--dry-run"]
    assert main(words) == 0
    assert "#SBATCH --ntasks=4\n" in capfd.readouterr().out
    assert main([*words, "placement.mode=envs"]) == 2
    assert "error: --ranks: expected how many" in capfd.readouterr().err
    # Learners beside rank 0 come behind the executors.
    assert main([*words, "learner.ranks=3"]) == 0
    assert "#SBATCH --ntasks=6\n" in capfd.readouterr().out
    assert main([*words, "learner.ranks=3", "placement.mode=local"]) == 0
    assert "#SBATCH --ntasks=3\n" in capfd.readouterr().out
    assert main([*words, "--array=learner.ranks=1,2"]) == 2
    assert "error: --array: expected runs of the same learner.ranks" in capfd.readouterr().err
    # More executors than agents would be refused.
    assert main([*words, "--array=env.map=simple_spread,simple_reference"]) == 0
    assert "#SBATCH --ntasks=3\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("time", "signal", "complaint"),
    [
        ("1:00:00", "USR2@60", "--signal: expected NAME@SECONDS with"),
        ("1:00:00", "USR1", "--signal: expected NAME@SECONDS with"),
        ("an hour", "USR1@60", "--time: expected hours:minutes:seconds or days-hours, got an hour"),
        ("1:59", "USR1@60", "--time: expected twice the 60 s of --signal or more, got 1:59"),
    ],
)
def test_times_are_checked(
    time: str, signal: str, complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", QUICK, "--time", time, "--signal", signal, "--dry-run"]) == 2
    assert capfd.readouterr().err.startswith(f"error: {complaint}")


def test_an_array_is_over_a_key(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", QUICK, TIME, "--dry-run", "--array=seed"]) == 2
    assert capfd.readouterr().err == "error: --array: expected key=a,b,c or key=1..5, got seed\n"


@pytest.mark.parametrize("time", ["2", "2:00", "0:02:00", "1-0", "0-0:02", "0-0:00:120"])
def test_every_spelling_of_slurm_is_a_time(time: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert f"#SBATCH --time={time}\n" in dry(capfd, "--time", time, "--signal", "TERM@60")


def test_srun_starts_the_ranks_where_the_cluster_says_so(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    slurm.says("srun", "MPI plugin types are...\n\tpmi2\n\tnone\n")
    slurm.says("scontrol", "Configuration data\nMpiDefault              = pmi2\n")
    text = dry(capfd, "--launcher=pmi2")
    assert "    srun\n    --mpi=pmi2\n" in text
    assert 'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"\n' in text
    assert main(["submit", QUICK, TIME, "--ranks=4", "--dry-run", "--launcher=pmix"]) == 2
    assert "expected what srun --mpi=list shows (pmi2), got pmix" in capfd.readouterr().err
    # An mpirun beside this Python belongs to its mpi4py; any other gives way to the cluster's.
    monkeypatch.setattr(sys, "executable", "/opt/python")
    assert "    srun\n    --mpi=pmi2\n" in dry(capfd)


def test_an_array_has_a_run_for_each_value_and_submits_what_is_missing(
    slurm: FakeSlurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["submit", QUICK, TIME, "--ranks=4", "--array=seed=1..4", f"record.dir={tmp_path}"]
    slurm.queue()
    assert main([*words, "--max-parallel=3"]) == 0
    folder = JobFolder(tmp_path / "jobs" / "quick")
    assert slurm.calls("sbatch") == [f"--parsable {folder.script}"]
    assert "#SBATCH --array=0,1,2,3%3\n" in folder.script.read_text()
    assert [run.name for run in folder.submitted()] == [f"seed={seed}" for seed in range(1, 5)]
    config = folder.config("seed=3")
    assert (config.seed, config.train.resume) == (3, "auto")
    assert f"job 41: 4 of 4 runs; logs in {folder.path}" in capfd.readouterr().out
    # The first is done, the second runs, the third has failed, the fourth waits.
    finish(folder, "seed=1", tmp_path)
    (folder.path / "41_2.log").write_text("a line\nerror: an unlucky seed\n")
    slurm.queue((41, 1, "RUNNING", "None"), (41, 3, "PENDING", "Resources"))
    assert main(["status", str(folder.path)]) == 0
    states = capfd.readouterr().out
    for words_of_it in ("done", "running", "failed: error: an unlucky seed", "queued (Resources)"):
        assert words_of_it in states
    slurm.says("sbatch", "42\n")
    assert main(words) == 0
    assert "#SBATCH --array=2\n" in folder.script.read_text()
    assert {run.name: run.job for run in folder.submitted()} == {
        "seed=1": 41,
        "seed=2": 41,
        "seed=3": 42,
        "seed=4": 41,
    }
    for name in ("seed=2", "seed=3", "seed=4"):
        finish(folder, name, tmp_path)
    slurm.queue()
    capfd.readouterr()
    assert main(words) == 0
    assert "nothing to submit" in capfd.readouterr().out
    assert len(slurm.calls("sbatch")) == 2


def finish(folder: JobFolder, name: str, results: Path) -> Path:
    """Writes the record of a run that has come to its end."""
    config = folder.config(name)
    run = results / "smax" / "3m" / "happo" / config.record.exp / f"seed-{config.seed}-20260101"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(config))
    file = RunFile(run / "run.h5", {}, "stop")
    add_evaluation(file, config.train.steps)
    file.close()
    return run


@pytest.fixture
def running(slurm: FakeSlurm, tmp_path: Path) -> JobFolder:
    """Gives the folder of a submitted run whose job is 41, and that Slurm says is running."""
    slurm.queue()
    assert main(["submit", QUICK, TIME, "--ranks=4", f"record.dir={tmp_path}"]) == 0
    slurm.queue((41, 0, "RUNNING", "None"))
    return JobFolder(tmp_path / "jobs" / "quick")


def begun(results: Path, *, quiet_s: float) -> Path:
    """Writes the metrics of a run that takes 10 s an update and wrote last `quiet_s` ago."""
    run = results / "smax" / "3m" / "happo" / "quick" / "seed-1-20260101"
    run.mkdir(parents=True)
    metrics = run / "metrics.csv"
    metrics.write_text("step,time_s,return\n256,10.0,1.0\n512,20.0,1.0\n")
    then = time.time() - quiet_s
    os.utime(metrics, (then, then))
    return run


@pytest.mark.parametrize(
    ("quiet_s", "elapsed", "state"),
    [
        (60.0, "1-00:00:00", "running"),
        (1000.0, "1-00:00:00", "hung"),
        (1000.0, "0:30", "running"),  # it waited in the queue
    ],
)
def test_status_tells_step_and_time_left_and_a_run_that_hangs(
    running: JobFolder,
    slurm: FakeSlurm,
    quiet_s: float,
    elapsed: str,
    state: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    slurm.queue((41, 0, "RUNNING", "None"), elapsed=elapsed)
    begun(tmp_path, quiet_s=quiet_s)
    capfd.readouterr()
    assert main(["status", str(running.path)]) == 0
    [line] = [each for each in capfd.readouterr().out.splitlines() if " 41 " in each]
    assert state in line
    assert "512 of 2,048" in line
    assert ("0:01:00" in line) == (state == "running")


def test_a_run_that_never_begins_hangs(
    running: JobFolder, slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]
) -> None:
    for elapsed, state in (("20:00", "running"), ("40:00", "hung")):
        slurm.queue((41, 0, "RUNNING", "None"), elapsed=elapsed)
        capfd.readouterr()
        assert main(["status", str(running.path)]) == 0
        assert state in capfd.readouterr().out


def test_status_reads_files_alone_where_there_is_no_slurm(
    running: JobFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    capfd.readouterr()
    assert main(["status", str(running.path)]) == 0
    out = capfd.readouterr().out
    assert "not done" in out
    assert "Slurm is not installed here" in out


def test_cancel_lets_a_run_save_and_keeps_it_out_of_the_queue(
    slurm: FakeSlurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slurm.queue()
    words = [QUICK, TIME, "--ranks=4", "--array=seed=1..3", f"record.dir={tmp_path}"]
    assert main(["submit", *words]) == 0
    slurm.queue((41, 1, "RUNNING", "None"), (41, 2, "PENDING", "Resources"))
    folder = str(tmp_path / "jobs" / "quick")
    slurm.says("scontrol", "")
    assert main(["cancel", folder, "seed=9"]) == 2
    assert "seed=9: no such run; there are: seed=1, seed=2, seed=3" in capfd.readouterr().err
    assert main(["cancel", folder]) == 0
    assert slurm.calls("scontrol") == ["update JobId=42 Requeue=0"]
    assert slurm.calls("scancel") == ["--batch --signal=USR1 42", "43"]
    assert "2 of 3 runs ended" in capfd.readouterr().out


def test_what_slurm_refuses_is_one_line(
    slurm: FakeSlurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slurm.queue()
    slurm.says("sbatch", "sbatch: error: Batch job submission failed: Invalid account\n", code=1)
    assert main(["submit", QUICK, TIME, "--ranks=4", f"record.dir={tmp_path}"]) == 2
    assert capfd.readouterr().err == (
        "error: sbatch: sbatch: error: Batch job submission failed: Invalid account\n"
    )
    assert JobFolder(tmp_path / "jobs" / "quick").submitted() == []


def test_a_folder_that_is_not_ours_is_refused(
    slurm: FakeSlurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "not a folder of sde-harl submit" in capfd.readouterr().err
    (tmp_path / "jobs.json").write_text('[{"job": "rm", "runs": {}}]')
    slurm.queue()
    assert main(["status", str(tmp_path)]) == 2
    assert "not as sde-harl submit writes it" in capfd.readouterr().err


def test_ranges_are_lists_of_numbers() -> None:
    assert listed("seed=1..3") == ["1", "2", "3"]
    for bad in ("seed=3..1", "seed=1..1", "seed=0..10000"):
        with pytest.raises(UserError, match="seed: expected a range up to 10,000 numbers"):
            listed(bad)


def test_a_sweeps_runs_go_on_unless_they_are_told_otherwise(tmp_path: Path) -> None:
    for typed, expected in (([], "auto"), (["train.resume=none"], "none")):
        asked = plan([QUICK, "seed=1,2", f"record.dir={tmp_path}", *typed])
        assert {trial.config.train.resume for trial in asked.trials} == {expected}


def test_a_job_knows_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_CPUS_PER_NODE", raising=False)
    assert allocation() is None
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "4(x2),1")
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    monkeypatch.delenv("SLURM_MEM_PER_CPU", raising=False)
    assert allocation() == Allocation(cores=9, memory_bytes=0)
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    assert allocation() == Allocation(cores=9, memory_bytes=900 << 20)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1000")
    assert allocation() == Allocation(cores=9, memory_bytes=3000 << 20)


def test_a_heterogeneous_job_is_given_what_its_parts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, told in (("", "8"), ("_HET_GROUP_0", "8"), ("_HET_GROUP_1", "1(x4)")):
        monkeypatch.setenv(f"SLURM_JOB_CPUS_PER_NODE{name}", told)
    given = allocation()
    assert given
    assert given.cores == 12


def test_a_heterogeneous_job_keeps_cores_and_gpus_for_the_learner(
    slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]
) -> None:
    slurm.says("srun", "MPI plugin types are...\n\tpmi2\n")
    words = ["--hetjob", "--nodes=2", "--cpus-per-task=8", "--gpus=1", "--launcher=pmi2"]
    text = dry(capfd, *words)
    first, second = text.split("#SBATCH hetjob\n")
    assert "--nodes=1\n#SBATCH --ntasks=1\n#SBATCH --cpus-per-task=8\n" in first
    assert "#SBATCH --gpus-per-node=1\n" in first
    assert "--nodes=2\n#SBATCH --ntasks=3\n#SBATCH --cpus-per-task=1\n\n" in second
    assert "    --het-group=0,1\n" in second
    assert "SRUN_CPUS_PER_TASK" not in text, "srun would ask for as many cores in both parts"
    for more, complaint in (
        (["--launcher=mpirun"], "mpirun sees the first part of such a job alone"),
        (["--array=seed=1,2"], "Slurm takes no arrays of such jobs"),
        (["placement.mode=local", "--ranks=1"], "expected a run of two ranks or more"),
        (["learner.ranks=2"], "--hetjob: expected learner.ranks = 1"),
    ):
        assert main(["submit", QUICK, TIME, "--ranks=4", *words, "--dry-run", *more]) == 2
        assert complaint in capfd.readouterr().err


def test_efficiency_is_what_was_used_of_what_was_given(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "run.h5", {}, "stop")
    for rank, step, cpu_s in ((0, 0, 1.0), (1, 0, 2.0), (0, 8, 60.0), (1, 8, 30.0)):
        add(
            file,
            "resources",
            rank=rank,
            step=step,
            time_s=60.0,
            cpu_s=cpu_s,
            peak_rss_bytes=10**9,
        )
    file.close()
    assert efficiency(open_run(tmp_path / "run.h5"), cores=3, memory_bytes=4 * 10**9) == [
        "processors: 0:01:30 used of 0:03:00 (3 cores for 0:01:00): 50%",
        "memory: 2.0 GB at most, of 4.0 GB: 50%",
    ]


@pytest.mark.parametrize(
    ("library", "kinds", "said"),
    [
        ("Open MPI v5.0.11", "pmi2", "start its ranks with mpirun in the job"),
        ("Open MPI v5.0.11", "pmix_v4", "srun --mpi=pmix may start its ranks"),
        ("MPICH Version: 4.3", "pmi2", "srun --mpi=pmi2 may start its ranks"),
    ],
)
def test_doctor_compares_what_srun_can_with_the_mpi_in_use(
    library: str, kinds: str, said: str, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.says("srun", f"MPI plugin types are...\n\tnone\n\t{kinds}\n")
    monkeypatch.setattr(slurm_check, "library_version", lambda: library)
    assert said in slurm_check.slurm_line()


@pytest.mark.parametrize(
    ("incomplete", "absent", "code", "said"),
    [
        (None, [], 0, "done\n"),
        (None, [2], 3, "done, but without executors 2: no answer\n"),
        ("no space", [], 4, "done, but not all of it is recorded: no space\n"),
    ],
)
def test_a_run_says_at_its_end_where_everything_is(
    incomplete: str | None,
    absent: list[int],
    code: int,
    said: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    trainer = SimpleNamespace(
        incomplete=incomplete,
        pool=SimpleNamespace(absent=absent),
        logger=SimpleNamespace(folder=tmp_path),
    )
    assert tell_the_end(trainer) == code  # type: ignore[arg-type]
    lines = capfd.readouterr().err
    assert lines.startswith(said)
    assert f"everything is in {tmp_path}: run.h5" in lines
    assert f"next: sde-harl report {tmp_path}, or " in lines


UNTIL_USR1 = "bash -c 'trap \"exit {code}\" USR1; echo ready; while :; do sleep 0.02; done'"
"""Stands for mpirun and the run: it goes on until USR1, and then ends with a code."""


def script_of(command: str, folder: Path) -> Path:
    path = folder / "script"
    path.write_text(
        batch_text(slurm_texts.JOB._replace(shell_folder=".", shell_command=(command,)))
    )
    return path


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
def test_a_job_ends_with_the_code_of_its_run(code: int, slurm: FakeSlurm, tmp_path: Path) -> None:
    script = script_of(f"bash -c 'exit {code}'", tmp_path)
    assert subprocess.run(["bash", script]).returncode == code
    assert slurm.calls("scontrol") == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("code", [130, 2])
def test_a_signalled_job_goes_back_into_the_queue_once_its_run_has_saved(
    number: signal.Signals,
    code: int,
    slurm: FakeSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    script = script_of(UNTIL_USR1.format(code=code), tmp_path)
    with subprocess.Popen(["bash", script], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(hang_limit_s()) == code
    assert slurm.calls("scontrol") == ["requeue 41"] * (code == 130)
