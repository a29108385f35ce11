"""Wheel and sdist hold all that they need, and an installed package runs in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from launch import environment, launch_command, needs_mpirun
from limits import WAIT_S, hang_limit_s

ROOT = Path(__file__).parents[2]
WRITE_SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"


def run(*words: str | Path, cwd: Path, env: dict[str, str], base_s: float = WAIT_S) -> str:
    """Runs a command that must succeed, and returns what it printed."""
    done = launch_command(words, cwd=cwd, env=env, base_s=base_s)
    assert done.code == 0, done.out + done.err
    return done.out


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, so that nothing of an earlier build can slip into this one."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    copy = tmp_path_factory.mktemp("tree")
    for name in filter(None, listed.stdout.split("\0")):
        if os.path.lexists(ROOT / name):  # not a file that was deleted, but is not committed yet
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index"]
    words = [sys.executable, "-m", "pip", "wheel", *options, "-w", "dist", "."]
    run(*words, cwd=tree, env={**os.environ})
    [built] = (tree / "dist").glob("*.whl")
    return built


def package_files(tree: Path) -> set[str]:
    """Returns the names of what every install needs: modules, stubs, C sources and presets."""
    package = tree / "sde_harl"
    sources = (path for path in package.rglob("*") if path.suffix in (".py", ".pyi", ".c", ".h"))
    presets = (package / "config/presets").glob("*/*.yaml")
    names = {str(path.relative_to(tree)) for path in (*sources, *presets)}
    experiments = {f"sde_harl/config/presets/experiments/{path.name}" for path in configs(tree)}
    assert experiments
    assert experiments < names
    return names | {"sde_harl/py.typed"}


def configs(tree: Path) -> list[Path]:
    return list((tree / "configs").glob("*.yaml"))


def test_a_wheel_holds_the_whole_package(tree: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        links = [item for item in archive.infolist() if item.external_attr >> 28 == 0xA]
        told = archive.read("sde_harl/config/presets/experiments/smac.yaml")
    assert not links
    assert told == (tree / "configs" / "smac.yaml").read_bytes()
    compiled = {name for name in names if name.endswith(".so")}
    assert {name.partition(".")[0] for name in compiled} == {
        "sde_harl/buffers/_returns",
        "sde_harl/codec/_rans",
        "sde_harl/draws/_philox",
        "sde_harl/link/_frames",
        "sde_harl/policy/inference/_blocks",
    }
    about = {name for name in names if ".dist-info/" in name}
    assert names - compiled - about == package_files(tree)


def test_a_source_archive_holds_the_whole_package(tree: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", WRITE_SDIST, tmp_path]
    run(*words, cwd=tree, env={**os.environ})
    [built] = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        members = {item.name.partition("/")[2]: item for item in archive.getmembers()}
    files = {name for name, item in members.items() if not item.isdir()}
    wanted = package_files(tree) | {"pyproject.toml", "setup.py", "README.md", "LICENSE"}
    assert wanted <= files
    # tarfile counts a hard link as no regular file; setuptools makes those, and they hold content.
    assert not [name for name in files if members[name].issym()]


def test_a_wheel_finds_its_own_experiments(wheel: Path, tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    empty = tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    env = {**os.environ, "PYTHONPATH": str(unpacked)}
    where = [sys.executable, "-c", "import sde_harl; print(sde_harl.__file__)"]
    assert str(unpacked) in run(*where, cwd=empty, env=env)
    for module in (["sde_harl", "run"], ["sde_harl.run"]):
        words = [sys.executable, "-m", *module, "quick", "--print-config"]
        assert "exp: quick" in run(*words, cwd=empty, env=env)


@needs_mpirun
@pytest.mark.slow
@pytest.mark.timeout(hang_limit_s(2700.0))
def test_an_installed_package_runs_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    empty = tmp_path / "empty"
    empty.mkdir()
    outer = environment()
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        outer.pop(name, None)
    run(sys.executable, "-m", "venv", venv, cwd=empty, env=outer)
    env = {**outer, "PATH": f"{venv / 'bin'}:{outer['PATH']}"}
    install = ["python", "-m", "pip", "install", "-q", f"{wheel}[mpi,smax]"]
    run(*install, cwd=empty, env=env, base_s=1500.0)
    small = ["train.envs=8", "train.rollout=16", "train.steps=256", "eval.episodes=4"]
    run("mpirun", "-np", "9", "sde-harl", "run", "smac", *small, cwd=empty, env=env, base_s=500.0)
    assert len(list((empty / "results").rglob("run.h5"))) == 1
