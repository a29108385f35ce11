"""The settings of mpirun outside of `make venv`, and the version."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sde_harl import __version__
from sde_harl.cli import launcher, main


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes an installation without any setting; returns the file that `make venv` writes."""
    for name in (*launcher.AS_ROOT, *launcher.MAPPING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc" / "prte-mca-params.conf"


def test_what_mpirun_needs_is_set_and_told(bare: Path) -> None:
    needed = {**launcher.AS_ROOT, **launcher.MAPPING}
    assert needed.items() <= launcher.environment().items()
    assert all(f"{name}={value}" in launcher.advice() for name, value in needed.items())


def test_what_is_set_already_stays(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.write_text("rmaps_default_mapping_policy = slot\nhwloc_default_binding_policy = core\n")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "0")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    assert not launcher.MAPPING.keys() & launcher.environment().keys()
    assert launcher.environment()["OMPI_ALLOW_RUN_AS_ROOT"] == "0"
    assert launcher.advice() == ""


def test_users_other_than_root_need_less(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "ROOT" not in launcher.advice()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sde_harl {__version__}\n"
