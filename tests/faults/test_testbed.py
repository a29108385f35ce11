"""jobs/testbed: profiles; and, where the machine can have them, real namespaces with real links between real ranks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from emulated import TESTBED, cluster_of, testbed
from launch import ROOT

sys.path.insert(0, str(TESTBED))
import profiles  # noqa: E402
from profiles import Device, ProfileError, Way  # noqa: E402

TEXT = """
[link.radio]
medium = 3
delay_us = 100
rate_mbit = 10
[link.radio.down]
rate_mbit = 20.5
[link.wire]
[link.bad]
delay_us = "soon"
[link.typo]
dealy_us = 1
[link.wide]
medium = 64
[device.board]
cores = 0.25
[device.none]
[device.brick]
cores = 0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "profiles.toml"
    path.write_text(TEXT)
    return path


def test_a_link_and_its_directions(file: Path) -> None:
    link = profiles.link("radio", file=file)
    assert link == ("radio", 3, Way(100, rate_mbit=10), Way(100, rate_mbit=20.5))
    assert link.down.line() == "100 0 0 20500000 0"
    assert profiles.link("wire", file=file) == ("wire", -1, Way(), Way())


def test_figures_in_the_place_of_a_profiles(file: Path) -> None:
    link = profiles.link("radio", ["delay_us=5", "up.loss_percent=2.5"], file)
    assert link.name == "radio with delay_us=5 up.loss_percent=2.5"
    assert link.up == Way(5, 0, 2.5, 10) and link.down == Way(5, 0, 0, 20.5)


def test_devices(file: Path) -> None:
    assert profiles.device("board", file) == Device("board", 0.25)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lan"], "lan: no such link; there are radio, wire"),
        (["bad"], "bad: up.delay_us: expected a number, got 'soon'"),
        (["typo"], "typo: dealy_us: no such figure; there are delay_us"),
        (["wide"], "medium: expected -1 to 63, got 64"),
        (["radio", "loss_percent=101"], "up.loss_percent: expected 0 to 100, got 101"),
        (["radio", "delay_us=-1"], "expected 0 to 6e"),
        (["radio", "delay_us=nan"], "expected a number, got 'nan'"),
        (["radio", "delay_us"], "expected a number, got ''"),
        (["radio", "across.delay_us=1"], "expected up or down before the dot"),
        (["radio", "medium=1"], "medium: no such figure"),
    ],
)
def test_a_wrong_link_is_named(file: Path, words: list[str], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profiles.link(words[0], words[1:], file)


@pytest.mark.parametrize(
    ("name", "message"), [("none", "expected a number"), ("brick", "0.01 to"), ("x", "no such")]
)
def test_a_wrong_device_is_named(file: Path, name: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profiles.device(name, file)


def test_every_shipped_profile_can_be_emulated() -> None:
    for name in ("ethernet", "wifi5-20mhz", "wifi6", "lte"):
        assert profiles.link(name).name == name
    for name in ("raspberry-pi-5", "jetson-nano"):
        assert 0 < profiles.device(name).cores < 1


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_emulator_compiles_without_a_warning(tmp_path: Path) -> None:
    flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run(
        ["cc", *flags, "-o", tmp_path / "netemu", TESTBED / "netemu.c"], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_wrong_words_are_one_line() -> None:
    for words in (
        ["up", "2", "--link", "lan"],
        ["exec", "edge99", "true"],
        ["shape", "edge99", "lte"],
    ):
        done = testbed(*words)
        assert done.code == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Two boards that are slow to reach, in place of whatever a crash left; its hostfile."""
    with cluster_of(
        "2", "--link", "ethernet", "delay_us=5000", "--device", "raspberry-pi-5"
    ) as hostfile:
        yield hostfile


@pytest.mark.slow
def test_a_run_on_emulated_hosts_counts_every_byte(cluster: Path, tmp_path: Path) -> None:
    keys = [
        "env.map=3m",
        "placement.assign={}",
        "train.steps=0",
        "train.envs=1",
        "train.slots=1",
        "eval.episodes=2",
    ]
    words = ["mpirun", "--hostfile", str(cluster), "-x", "PYTHONPATH", "-np", "3", sys.executable]
    words += ["-m", "sde_harl.run", "configs/quick.yaml", *keys, f"record.dir={tmp_path}"]
    done = testbed("exec", "server", *words)
    assert done.code == 0, done.out + done.err
    [path] = tmp_path.rglob("run.h5")
    with h5py.File(path) as file:
        assert (
            file["meta"].attrs["emulated"]
            == "links ethernet with delay_us=5000; devices raspberry-pi-5"
        )
        assert [host["host"] for host in json.loads(file["meta"].attrs["hosts"])] == [
            "server",
            "edge1",
            "edge2",
        ]
        assert file["decisions/t_round_trip"][:].min() > 10e6, "5 ms there and 5 back"
    told = subprocess.run(
        [sys.executable, "analysis/resource_consumption.py", path, "--json", "-"],
        cwd=ROOT,
        capture_output=True,
    )
    spans = json.loads(told.stdout)[0]["traffic"]
    assert len(spans) == 6 and b"emulated: links ethernet" in told.stderr
    for span in spans:
        claimed = span["frame_bytes"] + 22 * span["messages"] + 66 * span["packets"]
        assert span["counted_bytes"] == pytest.approx(claimed, rel=0.05)
        assert span["messages"] > 50 or span["rank"]


@pytest.mark.slow
def test_doctor_sees_the_hosts_and_names_one_that_is_gone(cluster: Path, tmp_path: Path) -> None:
    ask = ["exec", "server", sys.executable, "-m", "sde_harl", "doctor"]
    done = testbed(*ask, str(cluster), "--", "-x", "PYTHONPATH")
    assert done.code == 0 and "3 of 3 hosts" in done.out, done.out + done.err
    [board] = [line for line in done.out.splitlines() if line.split()[:1] == ["edge1"]]
    assert "eth0" in board
    more = tmp_path / "hosts"
    more.write_text(cluster.read_text() + "edge3 slots=1\n")
    done = testbed(*ask, str(more), "--timeout", "15", "--", "-x", "PYTHONPATH")
    assert done.code == 2 and "error: edge3: " in done.out and "3 of 4 hosts" in done.out, done.out


@pytest.mark.slow
def test_links_change_while_hosts_run_and_a_crash_is_cleared_away(cluster: Path) -> None:
    assert testbed("shape", "edge1", "lte").code == 0
    assert "lte" in testbed("status").out
    os.kill(int((cluster.parent / "netemu.pid").read_text()), signal.SIGKILL)
    assert "emulator is not running" in testbed("shape", "edge1", "lte").err
    assert (
        testbed("up", "2", "--link", "ethernet", "delay_us=5000", "--device", "raspberry-pi-5").code
        == 0
    )
