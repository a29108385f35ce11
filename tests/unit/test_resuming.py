"""Which run `train.resume=auto` goes on with, and how a process learns that it lost its run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from launch import kill_all
from running import Running

from sde_harl.config.arguments import parse
from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config
from sde_harl.record.checkpoint import save
from sde_harl.training.resuming import find_resumed

SPEC = SimpleNamespace(name="smax/3m")
STEPS = 512


def config(results: Path, *words: str) -> Config:
    common = [f"train.steps={STEPS}", "train.resume=auto", f"record.dir={results}"]
    found = parse(["smac", "env.map=3m", *common, *words]).config
    assert found is not None
    return found


def found(asked: Config) -> Path | None:
    resumed = find_resumed(asked, SPEC)  # type: ignore[arg-type]
    return resumed.folder if resumed else None


@pytest.fixture
def make(tmp_path: Path) -> Path:
    """Gives the folder of a run that has played all steps and evaluated at the last."""
    folder = tmp_path / "smax" / "3m" / "happo" / "main" / "seed-1-20260101"
    (folder / "models").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config(tmp_path, "train.resume=none")))
    reach(folder, STEPS, STEPS)
    return folder


def reach(folder: Path, steps: int, evaluated: int) -> None:
    state = {"counters": {"steps": steps, "evaluated": evaluated}}
    save(folder / "models" / "last.pt", state)


def test_a_run_is_unfinished_until_its_last_evaluation(make: Path, tmp_path: Path) -> None:
    assert found(config(tmp_path)) is None
    reach(make, STEPS, 256)
    assert found(config(tmp_path)) == make
    reach(make, 256, 256)
    assert found(config(tmp_path)) == make


def test_a_run_of_another_configuration_is_not_gone_on_with(make: Path, tmp_path: Path) -> None:
    reach(make, 256, 256)
    assert found(config(tmp_path, "algo.lr=1e-3")) is None
    assert found(config(tmp_path, "train.steps=1024")) == make, "steps may be more than before"


def test_a_job_that_slurm_starts_again_knows_that_its_run_is_finished(
    make: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert found(config(tmp_path)) == make
    assert found(config(tmp_path, "algo.lr=1e-3")) is None


def test_a_run_that_another_process_goes_on_with_ends_and_saves_nothing(tmp_path: Path) -> None:
    words = ["configs/mpe_spread.yaml", "env.backend=mpe2", "placement.mode=local"]
    words += ["train.envs=4", "train.rollout=25", "train.steps=1000000000", "eval.episodes=0"]
    words += ["record.checkpoint_interval=100", "record.tensorboard=false"]
    run = Running(tmp_path, "-m", "sde_harl.run", *words)
    try:
        run.wait_for(lambda: [*tmp_path.rglob("1*.pt")], "a checkpoint")
        [file] = tmp_path.rglob("run.h5")
        file.with_name("run-2.h5").touch()
        run.end()
    finally:
        kill_all(run.process)
    assert run.process.returncode == 2
    assert "run-2.h5: another process goes on with this run; this ends" in run.output()
    assert not [*tmp_path.rglob("last.pt")]
