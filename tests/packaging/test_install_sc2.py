"""jobs/install_sc2.sh, with a stand-in for everything that would be downloaded."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from launch import ROOT, environment

SCRIPT = ROOT / "jobs" / "install_sc2.sh"
GOLDEN = ROOT / "tests" / "helpers" / "install_sc2.txt"
BINARY = "Versions/Base69232/SC2_x64"

CURL = """
while [ "$1" != --output ]; do shift; done
echo "curl $2" >>"$CALLS"
echo "$ARCHIVE" >"$2"
"""
UNZIP = f"""
while [ "$1" != -d ]; do shift; done
mkdir -p "$2/StarCraftII/$(dirname {BINARY})"
touch "$2/StarCraftII/{BINARY}"
chmod +x "$2/StarCraftII/{BINARY}"
"""
GIT = """
if [ "$1" = init ]; then
    maps="$3/$(basename "$3")/env/starcraft2/maps/SMAC_Maps"
    mkdir -p "$maps"
    echo "$(basename "$3")" >"$maps/3m.SC2Map"
fi
"""


class Installer:
    """The script, with its programs replaced."""

    def __init__(self, folder: Path) -> None:
        self.game = folder / "game"
        self.calls = folder / "calls"
        self._programs = folder / "programs"
        self._programs.mkdir()
        for name, body in {"curl": CURL, "unzip": UNZIP, "git": GIT, "python": ""}.items():
            program = self._programs / name
            program.write_text(f"#!/bin/sh\n{body}")
            program.chmod(0o755)

    def run(self, *words: str, archive: str = "game") -> subprocess.CompletedProcess[str]:
        own = {
            "PATH": f"{self._programs}:{environment()['PATH']}",
            "SC2PATH": str(self.game),
            "PYTHON": "python",
            "CALLS": str(self.calls),
            "ARCHIVE": archive,
        }
        command = [SCRIPT, "--accept-license", *words]
        return subprocess.run(command, env=own, capture_output=True, text=True)

    def downloads(self) -> int:
        return len(self.calls.read_text().splitlines())


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    return Installer(tmp_path)


def test_a_dry_run_says_what_it_would_do_and_under_which_licenses() -> None:
    own = {**environment(), "SC2PATH": "/opt/StarCraftII", "PYTHON": "python"}
    command = [SCRIPT, "--accept-license", "--dry-run"]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True)
    assert done.stdout == GOLDEN.read_text()


def test_nothing_is_done_before_the_license_is_accepted(tmp_path: Path) -> None:
    own = {**environment(), "SC2PATH": str(tmp_path / "game")}
    done = subprocess.run([SCRIPT], env=own, capture_output=True, text=True)
    assert done.returncode == 2
    assert "AI_AND_MACHINE_LEARNING_LICENSE" in done.stdout
    assert "--accept-license" in done.stderr
    assert not (tmp_path / "game").exists()


def test_it_installs_and_a_second_run_downloads_no_game_again(installer: Installer) -> None:
    for _ in range(2):
        done = installer.run("--version", "4.6.2")
        assert done.returncode == 0, done.stderr
        assert (installer.game / BINARY).exists()
        assert (installer.game / "Maps/SMAC_Maps/3m.SC2Map").read_text() == "smac\n"
    assert installer.downloads() == 1
    assert not list((installer.game / "downloads").glob("*.zip"))


def test_an_archive_of_another_sum_is_removed(installer: Installer) -> None:
    done = installer.run(archive="something else")
    assert done.returncode == 1
    assert "expected the SHA-256 1052f249" in done.stderr
    assert not list((installer.game / "downloads").glob("*.zip"))
    assert not (installer.game / "Versions").exists()


def test_the_first_download_is_the_measure_where_no_sum_is_known(installer: Installer) -> None:
    installer.run("--version", "4.6.2")
    (installer.game / BINARY).unlink()
    done = installer.run("--version", "4.6.2", archive="something else")
    assert (done.returncode, installer.downloads()) == (1, 2)
    assert "it was removed" in done.stderr


@pytest.mark.parametrize("words", [["--version", "5.0"], ["--frce"]])
def test_a_wrong_word_is_refused(words: list[str], installer: Installer) -> None:
    assert installer.run(*words).returncode == 2
    assert not installer.game.exists()
