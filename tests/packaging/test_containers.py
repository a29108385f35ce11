"""The containers and the systemd unit, as texts: what they name exists and fits together."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from launch import MPIRUN, ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sde_harl.config.arguments import parse

DOCKERFILE = (ROOT / "Dockerfile").read_text()
APPTAINER = (ROOT / "apptainer.def").read_text()
UNIT = (ROOT / "jobs" / "boards.service").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {"pyproject.toml", "setup.py", "README.md", "LICENSE", "configs", "sde_harl"}
"""What setuptools reads to build the package, and the files that it puts into it."""


def copied_by_docker() -> set[str]:
    lines = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY")]
    return {name for line in lines for name in line}


def copied_by_apptainer() -> set[str]:
    files = APPTAINER.partition("%files\n")[2].partition("\n\n")[0]
    return {line.split()[0] for line in files.splitlines()}


def test_images_get_what_the_package_is_built_of() -> None:
    assert copied_by_docker() == copied_by_apptainer() == NEEDED
    assert all((ROOT / name).exists() for name in NEEDED)
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert allowed == NEEDED


@pytest.mark.parametrize("text", [DOCKERFILE, APPTAINER], ids=["docker", "apptainer"])
def test_images_have_a_python_and_extras_that_there_are(text: str) -> None:
    versions = re.findall(r"python:(\d+\.\d+)-", text)
    assert versions
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(each) for each in versions)
    [extras] = re.findall(r"(?:'\.|/opt/sde_harl)\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_open_mpi_of_the_apptainer_image_is_one_that_we_can_use() -> None:
    ours = Requirement(PROJECT["optional-dependencies"]["mpi"][0])
    version = re.search(r"^    openmpi=(\S+)$", APPTAINER, re.M)
    assert version
    assert ours.specifier.contains(version[1])
    assert "'openmpi=={{ openmpi }}'" in APPTAINER
    assert f"--build-arg openmpi={version[1]}" in APPTAINER, "the comment shows the default"


def test_images_are_ended_by_a_signal_that_saves() -> None:
    assert "\nSTOPSIGNAL SIGUSR1\n" in DOCKERFILE
    assert "\nKillSignal=SIGUSR1\n" in UNIT
    assert "\nKillMode=mixed\n" in UNIT, "mpirun alone is signalled"


@pytest.mark.parametrize("text", [DOCKERFILE, APPTAINER, UNIT], ids=["docker", "apptainer", "unit"])
def test_the_runs_that_are_shown_are_understood(text: str) -> None:
    [words] = re.findall(r"(?:sde-harl run|sde_harl\.run) (.*)", text)
    config = parse(words.split()).config
    assert config is not None
    assert config.placement.mode == "agents"
    assert config.train.resume == "auto"


def test_the_unit_names_files_that_there_are(tmp_path: Path) -> None:
    assert re.findall(r"(?:configs|hostfiles)/\S+", UNIT)
    for name in re.findall(r"(?:configs|hostfiles)/\S+", UNIT):
        assert (ROOT / name).is_file()
    if shutil.which("systemd-analyze") is None or MPIRUN is None:
        pytest.skip("systemd-analyze or mpirun is not installed")
    unit = tmp_path / "sde_harl.service"
    there = UNIT.replace("/opt/sde_harl/.venv/bin/mpirun", MPIRUN)
    there = there.replace("/opt/sde_harl/.venv/bin/python", sys.executable)
    unit.write_text(there.replace("/opt/sde_harl", str(ROOT)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
